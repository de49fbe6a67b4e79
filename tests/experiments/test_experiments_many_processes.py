"""One run by several real processes, some of them killed: the same store as by one, and a report by the last."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

import jdt

ROOT = pathlib.Path(__file__).parents[2]
HERE = str(pathlib.Path(__file__).parent)  # Where the network is.
FLAGS = ("--preset", "smoke", "--recipe.epochs", "0.1", "--plan", "matmul", "--block-size", "2")
FLAGS += ("--estimators", "ridge", "--baseline-models", "2", "--model", "tiny_network:Linear")  # Less to compile.
# What `main` does up to the report, first for fewer models.
TRAIN_ALONE = """
import dataclasses
import sys
import jdt
from experiments import class_influence, influence_run, influence_setup

def main(config):
    for num_models in (8, config.num_models):
        grown = dataclasses.replace(config, num_models=num_models)
        influence_run.train_run(grown, *influence_setup.load_task(grown), jdt.hosts.ALONE, jdt.cli.console.print)

sys.exit(jdt.cli.main(main, class_influence.PRESETS, default="smoke", description=""))
"""


def start(out, num_models, *arguments, program=("-m", "experiments.class_influence"), **environment):
    return subprocess.Popen(
        [sys.executable, *program, *FLAGS, "--out", str(out), "--num-models", str(num_models), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1", "COLUMNS": "200", "PYTHONPATH": HERE, **environment},
    )  # fmt: skip


def job(out, num_models, count):
    """Processes of one `jax.distributed` job."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    return [
        start(
            out, num_models, JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES=str(count), JAX_PROCESS_ID=str(i)
        )
        for i in range(count)
    ]  # fmt: skip


def store_bytes(out):
    root = out / "store.zarr"
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def num_records(out):
    return len(list((out / "blocks").glob("*.json")))


def wait_for_records(out, count, process):
    while num_records(out) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The store of a run by one process, that grows from 8 models to 24."""
    out = tmp_path_factory.mktemp("alone") / "run"
    process = start(out, 24, program=("-c", TRAIN_ALONE))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert num_records(out) == 12
    return store_bytes(out)


def test_three_processes_of_a_job_make_the_run_of_one_although_one_is_killed(alone, tmp_path):
    out = tmp_path / "run"
    workers = job(out, 24, 3)
    victim = workers.pop(0)  # The one with the job's coordinator.
    wait_for_records(out, 1, victim)
    victim.kill()
    victim.communicate()
    ends = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], ends
    assert num_records(out) >= 11, "nobody took over what the dead one had not begun"
    killed_in_a_block = num_records(out) == 11

    workers = job(out, 24, 2)
    ends = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], ends
    reports = [printed for printed, _ in ends if "report: " in printed]
    assert len(reports) == 1 or not killed_in_a_block
    assert store_bytes(out) == alone
    assert (out / "summary.json").exists()
    assert jdt.load_influences(out, level="class").num_models == 24
    left = {path.name for path in out.iterdir()}
    shown = {"figures", "report.html", "sections", "tables"}
    assert left == {"blocks", "influences", "run.json", "store.zarr", "summary.json", *shown}
    assert jdt.store.check_run(out).is_sound


def test_a_worker_that_is_told_to_stop_says_what_is_saved_and_how_to_go_on(alone, tmp_path):
    out = tmp_path / "run"
    worker = start(out, 400, "--shard", "1/2")
    wait_for_records(out, 2, worker)
    begun = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    _, errors = worker.communicate(timeout=60)
    assert time.monotonic() - begun < 5
    assert worker.returncode == 143
    line = errors.strip().splitlines()[-1]
    saved = re.match(rf"interrupted \(SIGTERM\): (\d+) of 400 models are saved in {re.escape(str(out))}; ", line)
    # A record that was being written at that moment is there, and may not have been counted yet.
    assert 2 * num_records(out) - int(saved[1]) in (0, 2)
    assert line.endswith(
        f"go on with: python -m experiments.class_influence {' '.join(FLAGS)} --out {out} --num-models 400 --shard 1/2"
    )
    assert not list(out.rglob("*.__lock"))
    numbers = sorted(int(path.stem) for path in (out / "blocks").iterdir())
    assert numbers == list(range(1, 2 * len(numbers), 2))
