"""Three real processes on this machine do together what one does: exchanges, sums, LASSO paths and whole fits."""

import contextlib
import io
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
from lasso_reference import in_scale, null_gap, objective

import jdt
from experiments import fit_datamodels
from jdt import estimators, exchange
from jdt.estimators import from_arrays, lasso_path, to_arrays
from jdt.hosts import ALONE, Hosts
from jdt.linalg.lasso import CONVERGED
from jdt.linalg.moments import sum_moments
from jdt.pipeline import share_of
from jdt.store import import_datamodels, open_run, read_group

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[2]
COUNT, MODELS, UNITS, EXAMPLES, TILE = 3, 120, 8, 21, 3
ESTIMATORS = [estimator.name for estimator in estimators.TABLE]
CUTS = [50, 50]
"""Where the models of the LASSO path are cut: the second process has none."""
PATH = {"num_penalties": 6, "min_ratio": 1e-2, "gap": 1e-5}

JOB = """
import pathlib
import sys

import numpy as np

import jdt
from experiments import fit_datamodels
from jdt import exchange
from jdt.estimators import lasso_path, paths

folder, tile, options, cuts = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(), eval(sys.argv[4])
jdt.devices.prepare()
hosts = jdt.hosts.join(together=True)
found = {}


def refused(work):
    try:
        work()
    except jdt.UserError as error:
        return str(error)
    raise AssertionError("nothing was refused")


# Any dtypes and shapes, to the last bit, also in pieces, and where a process has nothing to give.
own = {"a/b": np.arange(10**hosts.index) + 2**50, "c": np.full((hosts.index, 2), 1 / 3), "d": np.array(hosts.index > 0)}
for exchange.PIECE in (2**24, 100):
    for index, part in enumerate(exchange.gather({} if hosts.index == 1 else own, hosts)):
        assert part.keys() == (set() if index == 1 else own.keys())
        for name, value in part.items():
            of_it = {"a/b": np.arange(10**index) + 2**50, "c": np.full((index, 2), 1 / 3), "d": np.array(index > 0)}
            assert value.dtype == of_it[name].dtype
            np.testing.assert_array_equal(value, of_it[name])
exchange.PIECE = 2**24

for dtype in (np.float32, np.float64, bool):
    table = (100 * np.random.default_rng(0).normal(size=(7, 8))).astype(dtype)
    rows, columns = np.split(table, [0, 4])[hosts.index], [slice(5), slice(5, 8), slice(0)]
    traded = exchange.trade([rows[:, part] for part in columns], hosts)
    assert traded.dtype == table.dtype
    np.testing.assert_array_equal(traded, table[:, columns[hosts.index]])

with exchange.in_step(hosts):
    pass


def fails_in_one():
    with exchange.in_step(hosts):
        if hosts.index == 2:
            raise jdt.UserError("the disk of this process is full")


found["in_step"] = refused(fails_in_one)

# Models spread over processes, with a Gram matrix that is formed, and for one that is not.
data = np.load(folder / "rows.npz")
masks, outputs = (np.split(data[name], cuts)[hosts.index] for name in ("masks", "outputs"))
path = lasso_path(masks, outputs, **eval(sys.argv[5]), hosts=hosts)
found |= {f"path/{field}": value for field, value in vars(path).items()}
for name, paths.MOST_UNITS in (("factored", 0), ("formed", 16384)):
    rows = paths.Rows.spread(masks, outputs, hosts)
    found |= {f"{name}/{field}": value for field, value in vars(rows.moments).items() if value is not None}
    found[f"{name}/masks"] = np.empty(0) if rows.masks is None else rows.masks
spoilt = outputs.copy()
spoilt[:1] = np.nan if hosts.index == 0 else spoilt[:1]
found["nan"] = refused(lambda: lasso_path(masks, spoilt, hosts=hosts))
found["units"] = refused(lambda: lasso_path(masks[:, : 8 - hosts.index], outputs, hosts=hosts))


def command(run, *arguments):
    fit_datamodels.TILE = tile
    sys.stdout.flush()
    presets, argv = fit_datamodels.PRESETS, ["--run", str(run), *arguments]
    return jdt.cli.main(fit_datamodels.main, presets, default="demo", description="", argv=argv)


codes = [command(folder / "together", *options)]
codes.append(command(folder / "together", "--target", "nowhere"))
codes.append(command(folder / "damaged", "--estimator", "difference"))
codes.append(command(folder / "log", "--estimator", "difference", "--held-out", "0"))
np.savez(folder / f"{hosts.index}.npz", codes=codes, **found)
"""


def planted():
    """Unit 0 helps every third example, unit 1 harms the next; models 11 and 30 diverged."""
    rng = np.random.default_rng(0)
    masks = rng.random((MODELS, UNITS)) < 0.5
    masks[:, 7] |= ~masks.any(axis=1)
    effect = np.zeros((UNITS, EXAMPLES))
    effect[0, ::3], effect[1, 1::3] = 2.0, -2.0
    return masks, (masks @ effect + 0.2 * rng.normal(size=(MODELS, EXAMPLES))).astype(np.float32)


def options():
    """Memory for two tiles: each process reads its blocks twice, and has no tile in the last step."""
    budget = 2 * TILE * 32 * (MODELS - 2 + UNITS) / 2**30
    return ["--estimator", *ESTIMATORS, "--held-out", "0.25", "--memory-budget", repr(budget)]


def run_together(program, *arguments):
    """Run a program in three processes of one job: what each wrote to stdout and stderr."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    job = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(COUNT), "COLUMNS": "160"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=ROOT, env={**os.environ, **job, "JAX_PROCESS_ID": str(index)},
        )
        for index in range(COUNT)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * COUNT, said
    return said


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder in which one process worked and then three: what that one said; what each of those found, and said."""
    folder = tmp_path_factory.mktemp("together")
    masks, margins = planted()
    np.savez(folder / "rows.npz", masks=masks, outputs=margins)
    log = folder / "log"
    log.mkdir()
    for name, values in (("_completed", np.ones(MODELS, bool)), ("masks", masks), ("margins", margins)):
        np.save(log / f"{name}.npy", values)
    margins[[11, 30], 4] = np.nan
    np.save(log / "diverged.npy", margins)
    alone, said_alone = folder / "alone", io.StringIO()
    import_datamodels(
        log, alone, outputs={"margin": "diverged"}, labels=np.arange(EXAMPLES) % 3, block_size=16,
        allow_diverged=True,
    )  # fmt: skip
    for copy in ("together", "damaged"):
        shutil.copytree(alone, folder / copy)
    (folder / "damaged/store.zarr/targets/target/fixed/margin/c/7/0").write_bytes(b"not a chunk")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said_alone):
        patch.setattr(fit_datamodels, "TILE", TILE)
        # The processes' own, which are 160 wide: this one was made when COLUMNS may have been anything.
        patch.setattr(jdt.cli.console, "_width", 160)
        presets, argv = fit_datamodels.PRESETS, ["--run", str(alone), *options()]
        assert jdt.cli.main(fit_datamodels.main, presets, default="demo", description="", argv=argv) == 0
    said = run_together(JOB, *map(str, (folder, TILE, " ".join(options()), CUTS, PATH)))
    return folder, said_alone.getvalue(), [dict(np.load(folder / f"{index}.npz")) for index in range(COUNT)], said


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_three_processes_save_what_one_saves_bit_for_bit(done, estimator):
    one, three = (
        read_group(estimators.influence_path(done[0] / run, "target", "fixed", "margin", estimator))
        for run in ("alone", "together")
    )
    assert (three.attributes, three.strings) == (one.attributes, one.strings)
    assert three.arrays.keys() == one.arrays.keys()
    assert one.arrays.keys() >= {"influence", "class_influence", "task_influence", "held_out_r_squared", "held_out_lds"}
    for name, values in one.arrays.items():
        assert three.arrays[name].dtype == values.dtype
        np.testing.assert_array_equal(three.arrays[name], values, err_msg=name)
    assert (one.attributes["left_out"], one.attributes["held_out_models"]) == ([11, 30], 30)
    assert one.arrays["held_out_r_squared"][::3].mean() > 0.9


def test_the_first_process_says_what_one_process_says_and_the_others_nothing(done):
    folder, said_alone, _, said = done
    assert said_alone.count("models held out: R^2") == len(ESTIMATORS)
    expected = said_alone.replace(str(folder / "alone"), str(folder / "together")).splitlines()
    assert set(expected) <= set(said[0][0].splitlines())  # Among what JAX says of its connections.
    for out, _ in said[1:]:
        assert [line for line in out.splitlines() if not line.startswith("[Gloo]")] == []


def test_a_mistake_or_a_failure_ends_all_processes_each_with_one_line(done):
    folder, _, found, said = done
    for index, (_, errors) in enumerate(said):
        assert found[index]["codes"].tolist() == [0, 2, 2, 0]
        unknown, damaged = (line for line in errors.splitlines() if line.startswith("error: "))
        assert unknown == "error: unknown target 'nowhere'; known: target."
        # Only the last process reads the last block.
        reason = "is damaged: block 7" if index == 2 else f"process {index} of 3 stops because process 2 failed"
        assert reason in damaged
    assert str(found[2]["in_step"]) == "the disk of this process is full"
    assert str(found[0]["in_step"]) == "process 0 of 3 stops because process 2 failed: see what that one says."
    assert str(found[0]["nan"]).startswith("1 models have NaN or infinite outputs")
    assert "because process 0 failed" in str(found[1]["nan"])
    assert {str(one["units"]) for one in found} == {
        "processes have [8, 7, 6] units and [21, 21, 21] targets, but must differ in models only: give each the same "
        "columns."
    }
    # One process has imported the log for all.
    assert jdt.load_influences(folder / "log-jdt", estimator="difference").num_models == MODELS


@pytest.mark.parametrize("kind", ["formed", "factored"])
def test_sums_over_processes_are_those_over_all_models(done, kind):
    whole = vars(sum_moments(*planted()))
    for found in done[2]:
        np.testing.assert_array_equal(found[f"{kind}/masks"], planted()[0] if kind == "factored" else np.empty(0))
        assert (f"{kind}/pairs" in found) == (kind == "formed")
        for name in whole.keys() - ({"pairs"} if kind == "factored" else set()):
            summed, expected = found[f"{kind}/{name}"], np.asarray(whole[name])
            assert summed.dtype == expected.dtype
            exact = expected.dtype.kind == "i"
            np.testing.assert_allclose(summed, expected, rtol=0 if exact else 1e-6, atol=0 if exact else 1e-4)
            np.testing.assert_array_equal(summed, done[2][0][f"{kind}/{name}"])


def test_the_path_of_models_spread_over_processes_is_that_of_one_within_the_gap(done):
    masks, outputs = planted()
    one = lasso_path(masks, outputs, **PATH)
    for found in done[2]:
        for name in vars(one):
            np.testing.assert_array_equal(found[f"path/{name}"], done[2][0][f"path/{name}"])
    three = estimators.LassoPath(**{name: done[2][0][f"path/{name}"] for name in vars(one)})
    assert (three.status == CONVERGED).all()
    np.testing.assert_allclose(three.penalties, one.penalties, rtol=1e-5)
    np.testing.assert_allclose(three.weights, one.weights, atol=2e-3)
    # Of each path by itself: all in float64, row by row, on rows that no single process had.
    objectives = []
    for path in (one, three):
        x, y, w, penalties = in_scale(path, masks, outputs)
        objectives.append([objective(x, y, w[k], penalties[k]) for k in range(len(penalties))])
        assert all((null_gap(x, y, w[k], penalties[k]) <= 1.2 * PATH["gap"]).all() for k in range(len(penalties)))
    np.testing.assert_allclose(*objectives, atol=0.5 * 1.2 * PATH["gap"] + 1e-6)


def test_one_process_alone_sends_nothing_and_many_need_a_job():
    arrays = {"a": np.ones((2, 3))}
    assert exchange.gather(arrays, ALONE)[0]["a"] is arrays["a"]
    assert exchange.trade([arrays["a"]], ALONE) is arrays["a"]
    with pytest.raises(ZeroDivisionError), exchange.in_step(ALONE):
        raise ZeroDivisionError
    with pytest.raises(ValueError, match=r"2 processes are to exchange arrays, but 1 share a jax\.distributed job"):
        exchange.gather(arrays, Hosts(0, 2))


@pytest.mark.parametrize("count", [1, 3, 10])
def test_shares_of_a_run_join_to_the_whole(done, count):
    run = open_run(done[0] / "alone")
    shares = [share_of(run, Hosts(index, count)) for index in range(count)]
    np.testing.assert_array_equal(np.concatenate([share.complete for share in shares]), run.complete)
    np.testing.assert_array_equal(np.concatenate([share.outputs("target") for share in shares]), run.outputs("target"))
    sizes = [len(share.records()) for share in shares]
    assert sum(sizes) == 8
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("with_errors", [True, False])
def test_influences_become_arrays_and_come_back(with_errors):
    grid = np.arange(6, dtype=np.float32).reshape(3, 2) / 7
    info = {"gap": grid[0], "status": np.array([0, 1]), "relative": True, "constant_units": [2], "share": 1 / 3}
    one = estimators.Influences(
        grid, grid + 1 if with_errors else None, None, grid[:, :1] if with_errors else None, grid[0], ("a", "b", "c"),
        ("0", "1"), "own", "margin", 5, {**info, "count": np.int64(4)},
    )  # fmt: skip
    back = from_arrays(to_arrays(one))
    for name, value in vars(one).items():
        if name != "info":
            np.testing.assert_array_equal(getattr(back, name), value)
            assert type(getattr(back, name)) is type(value)
    assert back.info.keys() == one.info.keys()
    for name, value in one.info.items():
        np.testing.assert_array_equal(back.info[name], value)


def test_a_process_without_models_adds_nothing():
    masks, outputs = planted()
    none, whole = sum_moments(masks[:0], outputs[:0]), sum_moments(masks, outputs)
    for name, value in vars(none + whole).items():
        np.testing.assert_array_equal(value, getattr(whole, name))
