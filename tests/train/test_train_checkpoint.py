import contextlib
import dataclasses
import functools
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdt import data, hosts, models, train
from jdt.train import engine

CLASSES, EXAMPLES, SHAPE, IDS, SEED = 4, 96, (8, 8, 1), np.arange(5), 3
RECIPE = train.Recipe(epochs=3, batch_size=16, learning_rate=0.05)
PROGRAMS = {f"jit({name})" for name in ("_run_steps", "_draw_indices", "_initial_states", "_all_finite")}


class InterruptedTrainingError(Exception):
    """Stands for whatever ends a process."""


class Little(nn.Module):
    """Compiles fast, and has statistics and dropout besides parameters."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        hidden = nn.Dense(4)(images.reshape(len(images), -1))
        hidden = nn.relu(nn.BatchNorm(use_running_average=not train)(hidden))
        hidden = nn.Dropout(0.2, deterministic=not train)(hidden)
        return nn.Dense(self.num_classes, name="head")(hidden), hidden


def dots():
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES, dtype=np.int32), EXAMPLES // CLASSES)
    images = draw.integers(0, 100, (EXAMPLES, *SHAPE)).astype(np.uint8)
    images[np.arange(EXAMPLES), labels, labels] = 255
    return data.from_arrays("dots", images, labels, list("abcd"))


def source_of(kind):
    dataset = dots()
    if kind == "pool":
        return train.Pool(dataset, 40)  # Three chunks a pass.
    return train.SourceData(jnp.asarray(dataset.images), jnp.asarray(dataset.labels))


def members():
    half = np.arange(EXAMPLES) < EXAMPLES // 2
    return np.random.default_rng(1).permuted(np.tile(half, (len(IDS), 1)), axis=1)


def ensemble(plan="matmul", num_devices=2, width=1, recipe=RECIPE):
    """Nine steps in calls of two; five models in waves of a few."""
    few = dataclasses.replace(train.PLANS[plan], steps_per_call=2, width=width)
    network = models.Network(Little(CLASSES))
    return train.Ensemble(network, recipe, few, SHAPE, EXAMPLES / 2, EXAMPLES // 2, num_devices=num_devices)


def run(wanted, source, checkpoints=None, *, after=None, seen=None, seed=SEED, start=None, pause=None):
    """Train; raise when progress was told `after` times, with everything written that was to be written."""
    told = itertools.count(1)

    def progress(done, total):
        if seen is not None:
            seen.append(done)
        if pause is not None:
            pause()
        if after is not None and next(told) == after:
            checkpoints.wait()
            raise InterruptedTrainingError

    return train.train(
        wanted, source, members(), IDS, seed=seed, start=start, progress=progress, checkpoints=checkpoints
    )


def interrupted(wanted, source, folder, after, identity="study", **kwargs):
    checkpoints = train.Checkpoints(folder, identity, 0.0)
    with pytest.raises(InterruptedTrainingError):
        run(wanted, source, checkpoints, after=after, pause=checkpoints.wait, **kwargs)


def resumed(wanted, source, folder, identity="study", **kwargs):
    checkpoints = train.Checkpoints(folder, identity, 0.0)
    found = run(wanted, source, checkpoints, pause=checkpoints.wait, **kwargs)
    checkpoints.discard()
    assert not folder.exists()
    return found


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def resident():
    return source_of("resident")


@pytest.fixture(scope="module")
def undisturbed(resident):
    return run(ensemble(), resident)


@pytest.fixture(scope="module")
def compiled():
    """Names of the programs that are compiled from here on."""
    names = []

    def listen(event, _, **about):
        if event.endswith("backend_compile_duration"):
            names.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize(
    ("kind", "plan", "num_devices", "width"),
    [("resident", "matmul", 2, 1), ("pool", "matmul", 2, 1), ("resident", "vmapped", 1, 3)],
)
def test_interrupted_again_and_again_it_is_the_same_to_the_bit(
    tmp_path, monkeypatch, compiled, kind, plan, num_devices, width
):
    wanted, source = ensemble(plan, num_devices, width), source_of(kind)
    calls, original = [], engine._run_steps
    monkeypatch.setattr(engine, "_run_steps", lambda *rest: calls.append(int(rest[-1])) or original(*rest))
    expected = run(wanted, source)
    once, found, attempts = list(calls), None, 0
    calls.clear()
    compiled.clear()

    def end_soon(checkpoints, before):
        checkpoints.wait()
        if len(calls) - before == 3:  # Of five or more in a wave: early, late and at its end.
            raise InterruptedTrainingError

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Among them: arrays that could not be donated.
        while found is None:
            attempts += 1
            checkpoints = train.Checkpoints(tmp_path / "block", "study", 0.0)
            with contextlib.suppress(InterruptedTrainingError):
                found = run(wanted, source, checkpoints, pause=functools.partial(end_soon, checkpoints, len(calls)))
    assert_same(found, expected)
    assert attempts > len(once) // 3
    # Only a wave's last call is repeated, where the interruption came before the wave was told to be finished.
    assert [call for call in calls if call != once[-1]] == [call for call in once if call != once[-1]]
    jax.jit(lambda x: x)(0)
    assert "jit(<lambda>)" in compiled, "nothing would be seen of a program that is compiled"
    assert not PROGRAMS & set(compiled)
    checkpoints.discard()
    assert list(tmp_path.iterdir()) == []


def test_chunks_that_are_done_are_not_read_again(tmp_path, monkeypatch):
    wanted, source, reader = ensemble(), source_of("pool"), engine.read_chunks
    read = []
    monkeypatch.setattr(engine, "read_chunks", lambda d, rows: reader(d, (read.append(len(r)) or r for r in rows)))
    expected = run(wanted, source)
    a_wave = len(read) // 3
    assert a_wave == 9
    interrupted(wanted, source, tmp_path / "block", after=7)  # A call a chunk: all but two are done.
    read.clear()
    assert_same(resumed(wanted, source, tmp_path / "block"), expected)
    assert len(read) == 2 + 2 * a_wave


@pytest.mark.parametrize("change", [{"identity": "another study"}, {"seed": SEED + 1}], ids=["caller", "training"])
def test_a_checkpoint_of_something_else_is_ignored(tmp_path, caplog, resident, undisturbed, change):
    interrupted(ensemble(), resident, tmp_path / "block", 3, **change)
    assert_same(resumed(ensemble(), resident, tmp_path / "block"), undisturbed)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "ignored: 0000-000000006-" in caplog.text
    assert "other settings or data" in caplog.text


def test_everything_that_a_wave_depends_on_is_told_apart(resident):
    def settings(wanted=None, source=resident, rows=None, ids=IDS, seed=SEED, start=None):
        rows = members() if rows is None else rows
        return json.dumps(engine._settings(wanted or ensemble(), source, rows, ids, seed, start))

    given = train.initial_variables(ensemble(), 7, IDS)
    changed = jax.tree.map(lambda leaf: leaf + 1, given)
    different = [
        *(settings(ensemble(**kwargs)) for kwargs in ({}, {"plan": "vmapped"}, {"num_devices": 1}, {"width": 2})),
        settings(ensemble(recipe=dataclasses.replace(RECIPE, learning_rate=0.1))),
        settings(dataclasses.replace(ensemble(), precision="bfloat16")),
        settings(dataclasses.replace(ensemble(), network=models.Network(models.SmallCNN(CLASSES)))),
        *(settings(source=train.Pool(dots(), capacity)) for capacity in (40, 41)),
        settings(rows=~members()),
        settings(ids=IDS + 1),
        settings(seed=SEED + 1),
        *(settings(start=start) for start in (given, changed)),
    ]
    assert len(set(different)) == len(different)
    assert settings() == different[0]

    class Calling(Little):
        function: Any = None

    def of_function(function):
        return settings(dataclasses.replace(ensemble(), network=models.Network(Calling(CLASSES, function))))

    assert of_function(lambda x: x) == of_function(lambda x: x), "the address of a function is told"


def test_training_from_given_variables_goes_on_too(tmp_path, resident):
    start = train.initial_variables(ensemble(), 7, IDS)
    expected = run(ensemble(), resident, start=start)
    interrupted(ensemble(), resident, tmp_path / "block", 3, start=start)
    seen = []
    assert_same(resumed(ensemble(), resident, tmp_path / "block", start=start, seen=seen), expected)
    assert seen[0] == 6


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [flip, truncate, os.remove])
def test_a_damaged_checkpoint_is_ignored(tmp_path, caplog, resident, undisturbed, damage):
    folder, pristine = tmp_path / "block", tmp_path / "pristine"
    interrupted(ensemble(), resident, pristine, 3)
    files = [path.relative_to(pristine) for path in pristine.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"0", "zarr.json"}
    for file in files:
        shutil.copytree(pristine, folder)
        damage(folder / file)
        seen = []
        caplog.clear()
        assert_same(resumed(ensemble(), resident, folder, seen=seen), undisturbed)
        assert (seen[0], len(caplog.records)) in [(0, 1), (6, 0)], file
        if file.name == "0":
            assert "damaged: " in caplog.text


def test_an_older_complete_checkpoint_stands_in_for_a_damaged_one(tmp_path, caplog, resident, undisturbed):
    folder, seen = tmp_path / "block", []
    interrupted(ensemble(), resident, tmp_path / "early", 2)
    interrupted(ensemble(), resident, folder, 4)
    (newer,) = folder.iterdir()
    flip(next(newer.rglob("0")))
    (older,) = (tmp_path / "early").iterdir()
    older.rename(folder / older.name)
    shutil.copytree(newer, folder / f"{newer.name}.orbax-checkpoint-tmp")  # As a kill while it is written leaves it.
    assert_same(resumed(ensemble(), resident, folder, seen=seen), undisturbed)
    assert seen[0] == 4
    assert len(caplog.records) == 1
    for reason in ("orbax-checkpoint-tmp (half-written)", "(damaged: its bytes are not those that were saved)"):
        assert reason in caplog.text


def test_it_is_saved_when_it_is_time_and_finished_waves_are_not_lost(tmp_path, resident, undisturbed):
    now, folder, there = [0.0], tmp_path / "block", []
    checkpoints = train.Checkpoints(folder, "study", 1000.0, clock=lambda: now[0])

    def pause():  # A hundred seconds a call; a wave is five calls, and reports its end.
        checkpoints.wait()
        names = [path.name.rsplit("-", 1)[0] for path in sorted(folder.iterdir())] if folder.exists() else []
        if not there or there[-1] != names:
            there.append(names)
        now[0] += 100.0

    with pytest.raises(InterruptedTrainingError):
        run(ensemble(), resident, checkpoints, after=15, pause=pause)
    assert there == [[], ["0000-000000009", "0001-000000009"]] or there == [[], ["0000-000000009", "0001-000000008"]]
    seen = []
    assert_same(resumed(ensemble(), resident, folder, seen=seen), undisturbed)
    assert seen[0] == 9
    assert seen[1] >= 17


def test_a_folder_that_cannot_be_written_costs_no_training(tmp_path, caplog, resident, undisturbed):
    (tmp_path / "file").write_text("")
    checkpoints = train.Checkpoints(tmp_path / "file" / "block", "study", 0.0)
    assert_same(run(ensemble(), resident, checkpoints, pause=checkpoints.wait), undisturbed)
    assert "no checkpoint could be written" in caplog.text
    checkpoints.discard()


def test_a_plan_that_was_halved_goes_on_from_its_own_checkpoint(tmp_path, monkeypatch, resident, undisturbed):
    original = engine._run_steps

    def scarce(wanted, *rest):
        if wanted.plan.width > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")
        return original(wanted, *rest)

    monkeypatch.setattr(engine, "_run_steps", scarce)
    interrupted(ensemble(width=2), resident, tmp_path / "block", 9)
    seen = []
    assert_same(resumed(ensemble(width=2), resident, tmp_path / "block", seen=seen), undisturbed)
    assert seen[:2] == [9, 9 + 6]


def test_every_kind_of_array_comes_back_as_it_was(tmp_path):
    tree = {
        "half": jnp.array([[1.5, -0.0], [3e38, np.inf]], jnp.bfloat16),
        "lost": np.array([np.nan, -np.inf], np.float32),
        "empty": jnp.zeros((2, 0)),
        "flags": jnp.array([True, False]),
        "count": np.array([2**32 - 1, 0], np.uint32),
        "odd": np.arange(3, dtype=np.int8),  # What follows is not aligned.
        "rows": np.arange(6.0, dtype=np.float32).reshape(2, 3).T,
    }
    checkpoints = train.Checkpoints(tmp_path / "block", "study", 0.0)
    wave = checkpoints.of_wave(0, {}, last=True)
    wave.save(4, tree)
    checkpoints.wait()
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
    restored = wave.restore(lambda _: shapes)
    assert restored is not None
    assert restored[0] == 4
    assert_same(restored[1], tree)
    shapes["half"] = jax.ShapeDtypeStruct((2, 2), jnp.float16)  # As many bytes.
    assert wave.restore(lambda _: shapes) is None


def test_orbax_is_imported_with_the_first_checkpoint(tmp_path):
    code = """
import sys, jdt
from jdt import train
train.Checkpoints(sys.argv[1], "study").of_wave(0, {}, last=True).restore(lambda step: None)
assert not sys.modules.keys() & {"orbax", "orbax.checkpoint", "jdt.train.orbax_bytes"}
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "block")], check=True, cwd=Path(__file__).parents[2])


def child(folder):
    """One of two processes of a job: meet the other, then train alone; run by the test below."""
    me = hosts.join()
    assert me.count == jax.process_count() == 2
    print("joined", flush=True)
    if me.index == 0:
        sys.stdin.read()  # Idle until it is killed.
    sys.stdin.readline()
    wanted, source = ensemble(), source_of("resident")
    expected = run(wanted, source)
    interrupted(wanted, source, Path(folder) / "mine", 3)
    seen = []
    assert_same(resumed(wanted, source, Path(folder) / "mine", seen=seen), expected)
    assert seen[0] == 6
    checkpoints = train.Checkpoints(Path(folder) / "killed", "study", 0.0)

    def pause():
        checkpoints.wait()
        print("a call", flush=True)
        sys.stdin.readline()

    run(wanted, source, checkpoints, pause=pause)


def test_a_process_that_left_its_job_saves_and_goes_on_alone(tmp_path, resident, undisturbed):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_train_checkpoint as t; "
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", f"{code}t.child({str(tmp_path)!r})"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
            env={
                **os.environ, "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(i),
                "JAX_NUM_CPU_DEVICES": "2",
            },
        )
        for i in range(2)
    ]  # fmt: skip
    coordinator, worker = processes
    try:
        assert [process.stdout.readline() for process in processes] == ["joined\n"] * 2
        coordinator.kill()
        coordinator.wait()
        for _ in range(14):
            worker.stdin.write("\n")
            worker.stdin.flush()
            assert worker.stdout.readline() == "a call\n"
        worker.send_signal(signal.SIGKILL)
        assert worker.wait() == -signal.SIGKILL
    finally:
        for process in processes:
            process.kill()
            process.wait()
    seen = []
    assert_same(resumed(ensemble(), resident, tmp_path / "killed", seen=seen), undisturbed)
    assert seen[0] == 9, "nothing that the killed process saved was found"
