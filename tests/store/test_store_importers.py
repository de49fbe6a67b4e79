"""Log directories of other programs become runs: same influences, in blocks, resumed after a kill, never unpickled."""

import json
import os
import pickle
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from store_examples import store_bytes

from jdt import estimators, pipeline, report
from jdt.checks import UserError
from jdt.store import Schema, Target, create_or_open, import_datamodels, is_foreign, open_run

ROOT = Path(__file__).parents[2]


def world(models=40, units=9, examples=12, seed=0, paired=False):
    """Masks and float16 margins with planted effects."""
    rng = np.random.default_rng(seed)
    masks = rng.random((models, units)) < 0.5
    masks[~masks.any(axis=1), 0] = True
    if paired:
        masks[0::2, 0] = True
        masks[0::2, 1] = False
        masks[1::2] = ~masks[0::2]
    margins = masks @ rng.normal(size=(units, examples)) + 0.3 * rng.normal(size=(models, examples))
    return masks, margins.astype(np.float16)


def write_log(folder, completed=None, **arrays):
    folder.mkdir(parents=True, exist_ok=True)
    rows = len(next(iter(arrays.values())))
    completed = np.ones(rows, bool) if completed is None else completed
    for name, values in {"_completed": completed, **arrays}.items():
        np.save(folder / f"{name}.npy", values, allow_pickle=False)
    return folder


def written_by_jdt(path, masks, margins, labels, *, kind="bernoulli", block_size=8):
    """The same models in a run as jdt's own training leaves it, with every column."""
    names = tuple(str(c) for c in range(labels.max() + 1))
    units = tuple(str(u) for u in range(masks.shape[1]))
    schema = Schema(len(masks), block_size, units, {"target": Target(labels, names)})
    writer = create_or_open(path, config={"design": {"kind": kind}}, provenance={"output": "margin"}, schema=schema)
    for block in writer.missing_blocks():
        rows = schema.layout.models_of(block)
        part = slice(rows.start, rows.stop)
        arrays = {}
        for column in schema.columns().values():
            shape = (len(rows), *column.shape[1:])
            arrays[column.name] = np.zeros(shape, column.dtype)
        arrays["mask"], arrays["targets/target/fixed/margin"] = masks[part], margins[part].astype(np.float32)
        writer.write_block(block, arrays, {})
    return open_run(path)


def influences(run, estimator, tile=1000):
    models = pipeline.usable_models(run, "target", "fixed")
    pipeline.fit_target(run, "target", "fixed", "margin", estimator, models=models, tile=tile, held_out=0.2)
    return {level: estimators.load_influences(run.path, output="margin", estimator=estimator.name, level=level)
            for level in ("example", "class", "task")}  # fmt: skip


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("estimator", estimators.TABLE, ids=lambda e: e.name)
def test_influences_of_an_imported_store_equal_those_of_the_same_data_written_by_jdt(tmp_path, estimator, paired):
    masks, margins = world(paired=paired)
    labels = (np.arange(12) % 3).astype(np.int32)
    # As a worker leaves it: rows of models that did not finish are zeros, or half written.
    completed = np.ones(40, bool)
    completed[[4, 5, 31, 30]] = False
    log = write_log(tmp_path / "log", completed, masks=masks * completed[:, None], margins=margins)
    imported = import_datamodels(log, tmp_path / "imported", labels=labels, paired=paired, block_size=10)
    kind = "antithetic" if paired else "bernoulli"
    own = written_by_jdt(tmp_path / "own", masks[completed], margins[completed], labels, kind=kind)
    np.testing.assert_array_equal(imported.mask(), own.mask())
    np.testing.assert_array_equal(imported.outputs("target"), own.outputs("target"))
    found, expected = influences(imported, estimator), influences(own, estimator)
    for level, one in expected.items():
        assert found[level].unit_names == one.unit_names
        assert found[level].target_names == one.target_names
        assert found[level].num_models == one.num_models == 36
        for name, values in {**one.grids(), "intercept": one.intercept}.items():
            np.testing.assert_array_equal({**found[level].grids(), "intercept": found[level].intercept}[name], values)
        assert found[level].info.keys() == one.info.keys()
        for name, value in one.info.items():
            np.testing.assert_array_equal(found[level].info[name], value)


def test_the_pipeline_estimates_an_imported_run_with_labels(tmp_path):
    masks, margins = world()
    log = write_log(tmp_path / "log", masks=masks, margins=margins)
    run = import_datamodels(log, tmp_path / "run", labels=np.arange(12) % 3, class_names=["cat", "dog", "ship"])
    found, left_out = pipeline.estimate_target(
        run,
        "target",
        "fixed",
        output="margin",
        class_images={},
        estimators=estimators.named(["ridge", "difference"]),
    )
    assert left_out == ()
    assert found.estimators["ridge"].classes.target_names == ("cat", "dog", "ship")
    assert "target/fixed/accuracy" not in pipeline.summary_of([found], {})
    content = report.Content("imported", False, (), (found,), {}, {}, {})
    assert (
        "nan" not in report.write_report(tmp_path / "report.html", content).read_text(encoding="utf-8").lower().split()
    )
    with pytest.raises(UserError, match=r"holds no output 'confidence', only margin: .* import"):
        pipeline.estimate_target(run, "target", "fixed", output="confidence", class_images={})


def test_without_labels_there_is_no_level_of_classes(tmp_path):
    masks, margins = world()
    run = import_datamodels(write_log(tmp_path / "log", masks=masks, margins=margins), tmp_path / "run")
    models = pipeline.usable_models(run, "target", "fixed")
    pipeline.fit_target(run, "target", "fixed", "margin", estimators.Ridge(), models=models, tile=5)
    assert estimators.load_influences(run.path).influence.shape == (9, 12)
    assert estimators.load_influences(run.path, level="task").target_names == ("target",)
    with pytest.raises(UserError, match="no influences at level 'class'; it has: example, task"):
        estimators.load_influences(run.path, level="class")
    with pytest.raises(UserError, match="no class of target 'target' is known"):
        pipeline.estimate_target(run, "target", "fixed", output="margin", class_images={})


def test_a_data_transfer_store_keeps_its_masks_elsewhere_and_has_more_outputs(tmp_path):
    masks, margins = world(examples=6)
    rng = np.random.default_rng(1)
    arrays = {
        "raw_margins": margins,
        "softmax_logits": rng.random((40, 6)).astype(np.float16),
        "predictions": rng.integers(0, 10, (40, 6)),
        "acc": (100 * rng.random(40)).astype(np.float16),
        "raw_logits": rng.normal(size=(40, 6)).astype(np.float16),
    }
    log = write_log(tmp_path / "cifar10" / "fixed", **arrays)
    np.save(tmp_path / "train_masks.npy", masks.astype(np.uint8))
    options = {"masks": tmp_path / "train_masks.npy", "target": "cifar10", "mode": "full"}
    run = import_datamodels(log, tmp_path / "run", **options)
    assert run.layout.outputs == ("margin", "confidence", "prediction", "accuracy")
    np.testing.assert_array_equal(run.outputs("cifar10", "full", "margin"), margins.astype(np.float32))
    np.testing.assert_array_equal(run.outputs("cifar10", "full", "prediction"), arrays["predictions"])
    np.testing.assert_allclose(
        run.column("targets/cifar10/full/accuracy"), arrays["acc"].astype(float) / 100, rtol=1e-6
    )
    np.testing.assert_array_equal(run.mask(), masks)
    other = import_datamodels(log, tmp_path / "other", outputs={"right_logit": "raw_logits"}, **options)
    np.testing.assert_array_equal(
        other.outputs("cifar10", "full", "right_logit"), arrays["raw_logits"].astype(np.float32)
    )
    assert other.provenance["output"] == "right_logit"
    with pytest.raises(UserError, match="unknown column 'source/loss'"):
        other.column("source/loss")


def test_zarr_and_xarray_read_an_imported_run(tmp_path):
    xarray, zarr = pytest.importorskip("xarray"), pytest.importorskip("zarr")
    masks, margins = world()
    run = import_datamodels(write_log(tmp_path / "log", masks=masks, margins=margins), tmp_path / "run")
    group = zarr.open_group(run.path / "store.zarr", mode="r")
    np.testing.assert_array_equal(group["mask"][:], masks)
    assert "source" not in group
    opened = xarray.open_zarr(run.path / "store.zarr", group="targets/target/fixed", consolidated=False)
    assert set(opened.data_vars) == {"margin"}
    assert (opened["label"] == -1).all()


def test_only_the_asked_examples_are_read_and_tiles_make_the_whole(tmp_path):
    masks, margins = world(examples=11)
    run = import_datamodels(write_log(tmp_path / "log", masks=masks, margins=margins), tmp_path / "run", block_size=7)
    part = run.outputs("target", examples=slice(3, 8))
    np.testing.assert_array_equal(part, margins[:, 3:8].astype(np.float32))
    for estimator in estimators.TABLE:
        models = pipeline.usable_models(run, "target", "fixed")
        whole, tiled = (
            pipeline.fit_target(run, "target", "fixed", "margin", estimator, models=models, tile=tile, held_out=0.25)
            for tile in (11, 4)
        )
        for name, values in whole.levels["example"].grids().items():
            found = getattr(tiled.levels["example"], name)
            # Ridge's errors rest on how large effects are, over all targets that are fitted together.
            accuracy = 0.2 if name == "standard_error" else 2e-4
            np.testing.assert_allclose(np.broadcast_to(found, values.shape), values, rtol=accuracy, atol=2e-5)
        assert tiled.levels["example"].target_names == tuple(map(str, range(11)))
        np.testing.assert_allclose(tiled.held_out.r_squared, whole.held_out.r_squared, rtol=1e-3, atol=1e-4)
        assert tiled.held_out.lds.value == pytest.approx(whole.held_out.lds.value, abs=1e-3)
        assert tiled.held_out.lds.over_models == pytest.approx(whole.held_out.lds.over_models, abs=2e-3)


def test_the_datamodel_predicts_models_that_were_held_out_and_the_control_does_not(tmp_path):
    masks, margins = world(models=200)
    shuffled = masks[np.random.default_rng(1).permutation(200)]
    scores = []
    for name, used in (("true", masks), ("shuffled", shuffled)):
        run = import_datamodels(write_log(tmp_path / name, masks=used, margins=margins), tmp_path / f"{name}-run")
        models = pipeline.usable_models(run, "target", "fixed")
        fitted = pipeline.fit_target(
            run, "target", "fixed", "margin", estimators.Ridge(), models=models, tile=12, held_out=0.25
        )
        scores.append((fitted.held_out.lds.value, fitted.held_out.r_squared.mean()))
        assert fitted.held_out.num_models == 50
    assert min(scores[0]) > 0.9
    assert abs(scores[1][0]) < 0.25
    assert scores[1][1] < 0.1


PROGRAM = """
import sys, time
from jdt.store import import_datamodels
def slow(done, total):
    print(done, flush=True)
    time.sleep(0.05)
import_datamodels(sys.argv[1], sys.argv[2], block_size=4, progress=slow)
"""


def test_a_kill_loses_the_block_in_flight_and_the_same_call_resumes(tmp_path):
    masks, margins = world(models=80, examples=50)
    log = write_log(tmp_path / "log", masks=masks, margins=margins)
    import_datamodels(log, tmp_path / "calm", block_size=4)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(log), str(tmp_path / "killed")],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    seen = [int(process.stdout.readline()) for _ in range(5)][-1]
    process.kill()
    process.communicate()
    assert process.returncode == -9
    done = len(open_run(tmp_path / "killed").complete)
    assert seen <= done < 80
    progress = []
    run = import_datamodels(log, tmp_path / "killed", progress=lambda done, total: progress.append((done, total)))
    assert progress[0] == (done + 4, 80)  # The block size is the saved run's.
    assert progress[-1] == (80, 80)
    np.testing.assert_array_equal(run.outputs("target"), margins.astype(np.float32))
    assert store_bytes(tmp_path / "killed") == store_bytes(tmp_path / "calm")
    import_datamodels(log, tmp_path / "killed", progress=lambda *_: pytest.fail("nothing was missing"))


def test_a_moved_log_resumes_and_another_one_is_refused(tmp_path):
    masks, margins = world()
    log = write_log(tmp_path / "log", masks=masks, margins=margins)
    import_datamodels(log, tmp_path / "run")
    import_datamodels(log.rename(tmp_path / "moved"), tmp_path / "run")
    other = write_log(tmp_path / "other", masks=masks[::-1], margins=margins)
    with pytest.raises(UserError, match=r"holds a run with another config: fingerprints\.masks: .*--overwrite"):
        import_datamodels(other, tmp_path / "run")
    import_datamodels(other, tmp_path / "run", overwrite=True)
    np.testing.assert_array_equal(open_run(tmp_path / "run").mask(), masks[::-1])


def test_neither_file_is_ever_in_memory_whole(tmp_path):
    rows, units, examples = 4000, 2000, 1500
    log = tmp_path / "log"
    log.mkdir()
    made = np.lib.format.open_memmap(log / "masks.npy", "w+", bool, (rows, units))
    made[:, ::2] = True
    np.lib.format.open_memmap(log / "margins.npy", "w+", np.float16, (rows, examples))
    np.save(log / "_completed.npy", np.ones(rows, bool))
    del made
    tracemalloc.start()
    import_datamodels(log, tmp_path / "run", block_size=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.25 * rows * (units + 4 * examples)


class Malicious:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("where", ["_completed", "masks", "margins"])
@pytest.mark.parametrize("bare", [False, True], ids=["object array", "bare pickle"])
def test_nothing_is_unpickled(tmp_path, monkeypatch, where, bare):
    masks, margins = world()
    log = write_log(tmp_path / "log", masks=masks, margins=margins)
    monkeypatch.chdir(tmp_path)
    if bare:
        (log / f"{where}.npy").write_bytes(pickle.dumps(Malicious()))
    else:
        np.save(log / f"{where}.npy", np.array([Malicious()] * 40, object), allow_pickle=True)
    with pytest.raises(
        UserError, match=rf"{where}\.npy is not a readable \.npy file of numbers .*need pickle are never"
    ):
        import_datamodels(log, tmp_path / "run")
    assert not (tmp_path / "pwned").exists()
    assert not (tmp_path / "run").exists()


def broken(change, message, **options):
    name = re.sub(r"[^a-z ]", "", message.lower())[:40]
    return pytest.param(change, message, options, id=name)


def replace(name, make):
    def change(log):
        values = np.load(log / f"{name}.npy", allow_pickle=False)
        np.save(log / f"{name}.npy", make(values))

    return change


def remove(*names):
    return lambda log: [(log / f"{name}.npy").unlink() for name in names]


def add(name, values):
    return lambda log: np.save(log / f"{name}.npy", values)


def at(row, value):
    def make(values):
        values[row] = value
        return values

    return make


def nothing(log):
    pass


BROKEN = [
    broken(remove("_completed"), r"_completed\.npy is not there; its directory holds margins\.npy, masks\.npy: .*ones"),
    broken(remove("masks"), r"masks\.npy is not there; .*--masks"),
    broken(remove("margins"), r"no output that is known by name .*only masks: name one"),
    broken(replace("_completed", np.zeros_like), r"no row is completed in .*run the workers first"),
    broken(replace("_completed", lambda x: x[:, None]), r"_completed\.npy is bool\[40, 1\], but must be bool \[rows\]"),
    broken(replace("masks", lambda x: x[:-1]), r"masks\.npy has 39 rows, but _completed\.npy has 40"),
    broken(replace("margins", lambda x: x[:-2]), r"margins\.npy has 38 rows, but _completed\.npy has 40"),
    broken(replace("masks", lambda x: x.astype(np.float32)), r"masks\.npy is float32\[40, 9\].*bool or uint8"),
    broken(replace("masks", lambda x: x[:, 0]), r"masks\.npy is bool\[40\], but masks must be"),
    broken(replace("masks", lambda x: x.astype(np.uint8) * 3), r"masks\.npy row 0 holds 3, but masks hold 0 and 1"),
    broken(replace("masks", at(7, False)), r"masks\.npy row 7 is completed but keeps no unit.*\[7\] to False"),
    broken(replace("margins", at(11, np.nan)), r"margins\.npy row 11 is completed but has NaN.*--allow-diverged"),
    broken(replace("margins", at((3, 4), np.inf)), r"margins\.npy row 3 is completed but has NaN or infinite"),
    broken(replace("margins", lambda x: x[:, :, None]), r"margins\.npy is float16\[40, 12, 1\], but the output"),
    broken(replace("margins", lambda x: x.astype("S4")), r"margins\.npy is \|S4\[40, 12\], but the output 'margin'"),
    broken(add("raw_margins", np.zeros((40, 12))), r"both margins\.npy and raw_margins\.npy: say which is the margin"),
    broken(add("softmax_logits", np.zeros((40, 5))), r"different numbers of examples \(margins\.npy: 12, softmax_l"),
    broken(add("acc", np.full(40, 300.0)), r"acc\.npy holds accuracies from 3 to 3"),
    broken(add("predictions", np.zeros((40, 12))), r"predictions\.npy is float64\[40, 12\].*must be integers"),
    broken(add("predictions", np.full((40, 12), 2**40)), r"predictions\.npy holds 1099511627776 to .*no classes"),
    broken(nothing, r"absent\.npy is not there; .*--outputs", outputs={"margin": "absent"}),
    broken(nothing, r"output 'loss' cannot name an array", outputs={"loss": "margins"}),
    broken(nothing, r"unit_names has 2 names, but there are 9 mask columns", unit_names=["a", "b"]),
    broken(nothing, r"labels are int64\[5\], but must be integers \[12\]", labels=np.zeros(5, int)),
    broken(nothing, r"labels are float64\[12\], but must be integers", labels=np.zeros(12)),
    broken(nothing, r"class_names has 1 names, but labels go up to 11", labels=np.arange(12), class_names=["a"]),
    broken(nothing, r"class_names are given without labels", class_names=["a"]),
    broken(nothing, r"rows 0 and 1 are not a mask and its complement: .*--paired", paired=True),
    broken(nothing, r"block_size is 3, but pairs stay in one block", paired=True, block_size=3),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message", "options"), BROKEN)
def test_what_does_not_fit_is_one_line_with_a_remedy(tmp_path, change, message, options):
    masks, margins = world()
    log = write_log(tmp_path / "log", masks=masks, margins=margins)
    change(log)
    with pytest.raises(UserError, match=message) as error:
        import_datamodels(log, tmp_path / "run", **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY\x01\x00v\x00{'descr': '<f2', oops", b"PK\x03\x04 zip", b"1 2 3\n"]
)
def test_a_corrupt_or_truncated_file_is_named(tmp_path, content):
    masks, margins = world()
    log = write_log(tmp_path / "log", masks=masks, margins=margins)
    whole = (log / "margins.npy").read_bytes()
    for broken_file in (content, whole[:-50]):
        (log / "margins.npy").write_bytes(broken_file)
        with pytest.raises(UserError, match=r"margins\.npy is not a readable \.npy file of numbers"):
            import_datamodels(log, tmp_path / "run")


def test_diverged_models_are_kept_as_such_when_allowed_and_the_import_goes_on(tmp_path):
    masks, margins = world()
    margins[[11, 30], 4] = np.nan
    log = write_log(tmp_path / "log", masks=masks, margins=margins)
    with pytest.raises(UserError, match="row 11"):
        import_datamodels(log, tmp_path / "run", block_size=8)
    run = import_datamodels(log, tmp_path / "run", allow_diverged=True)
    assert run.layout.block_size == 8
    assert np.isnan(run.outputs("target")[[11, 30]]).all()
    models = pipeline.usable_models(run, "target", "fixed")
    assert models.left_out == (11, 30)
    np.testing.assert_array_equal(models.masks, np.delete(masks, [11, 30], axis=0))


def test_one_half_of_a_pair_goes_with_the_other(tmp_path):
    masks, margins = world(paired=True)
    completed = np.ones(40, bool)
    completed[[5, 8]] = False
    log = write_log(tmp_path / "log", completed, masks=masks, margins=margins)
    run = import_datamodels(log, tmp_path / "run", paired=True, block_size=6)
    kept = np.delete(np.arange(40), [4, 5, 8, 9])
    np.testing.assert_array_equal(run.mask(), masks[kept])
    assert json.loads((run.path / "blocks/000000.json").read_text())["rows"] == kept[:6].tolist()


def test_a_run_of_jdt_is_not_taken_for_a_log_directory(tmp_path):
    masks, margins = world()
    log = write_log(tmp_path / "log", masks=masks, margins=margins)
    run = import_datamodels(log, tmp_path / "run")
    assert is_foreign(log)
    assert not is_foreign(run.path)
    assert not is_foreign(tmp_path / "absent")
    with pytest.raises(UserError, match=r"is not empty and holds no run\.json"):
        import_datamodels(log, log)
    with pytest.raises(UserError, match="is not a directory"):
        import_datamodels(tmp_path / "absent", tmp_path / "other")
