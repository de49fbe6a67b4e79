import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_examples import block_arrays, schema, store_bytes, write_missing, writer

from jdt.store import open_run

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def start(*arguments):
    command = [sys.executable, str(HERE / "store_examples.py"), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def stray_files(root):
    return [p for p in root.rglob("*") if p.name.endswith(".__lock")]


def test_workers_that_are_killed_join_and_grow_a_run_lose_nothing(tmp_path):
    root, rng, seen, models = tmp_path / "r", random.Random(1), {}, 400
    workers = []
    for _ in range(12):
        while len(workers) < rng.randint(2, 4):
            count = rng.randint(2, 4)
            workers.append(start(root, models, 4, 2000, f"{rng.randrange(count)}/{count}"))
        time.sleep(0.3 + rng.random())
        victim = workers.pop(rng.randrange(len(workers)))
        there = {path: path.read_bytes() for path in root.glob("blocks/*.json")}
        victim.kill()
        _, errors = victim.communicate()
        assert victim.returncode in (-9, 0), errors
        after = {path: path.read_bytes() for path in root.glob("blocks/*.json")}
        assert ({**seen, **there}).items() <= after.items()
        seen = after
        models += 200 * (len(seen) * 4 == models)
    for worker in workers:
        worker.kill()
        worker.communicate()
    assert len(seen) > 10
    made = schema(num_models=models, block_size=4, examples=2000)
    write_missing(root, made)
    write_missing(tmp_path / "calm", made)
    assert store_bytes(root) == store_bytes(tmp_path / "calm")
    assert stray_files(root) == []


def test_leftovers_of_the_dead_go_and_files_of_the_living_stay(tmp_path):
    made, root = schema(), tmp_path / "r"
    write_missing(root, made)
    for name in ("store.zarr/mask/c/0/0", "blocks/000000.json", "run.json"):
        (root / f"{name}.__lock").write_text("half a file")
    held = root / "store.zarr/mask/c/1/0.__lock"
    code = (
        "import fcntl,sys; f=open(sys.argv[1],'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(held)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        holder.stdout.readline()
        writer(root, made)
        assert stray_files(root) == [held]
    writer(root, made)
    assert stray_files(root) == []


def test_processes_share_a_run(tmp_path):
    made, root = schema(num_models=40, block_size=4, examples=50), tmp_path / "r"
    processes = [start(root, 40, 4, 50) for _ in range(2)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    write_missing(tmp_path / "alone", made)
    assert store_bytes(root) == store_bytes(tmp_path / "alone")
    assert writer(root, made).missing_blocks() == []


def test_two_writers_see_each_others_blocks(tmp_path):
    made, root = schema(), tmp_path / "r"
    one, other = writer(root, made), writer(root, made)
    one.write_block(0, block_arrays(made, 0), {})
    other.write_block(2, block_arrays(made, 2), {})
    assert one.missing_blocks() == other.missing_blocks() == [1]


def check_full(process, root, made):
    _, errors = process.communicate()
    assert process.returncode == 1
    message = next(line for line in errors.splitlines() if line.startswith("jdt.checks.UserError"))
    assert re.search(r"disk full while writing block \d+ to .*(blocks? 0.* safe|no block is complete)", message), (
        message
    )
    assert re.search(r"free about \d+ MB and run the same command again to resume", message)
    complete = open_run(root).complete
    run = writer(root, made)
    assert run.damaged == ()
    assert stray_files(root) == []
    return complete


FULL_BY_LIMIT = """
import resource, runpy, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
from store_examples import block_arrays, schema, writer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
made = schema(num_models=12, examples=3000)
run = writer(Path(sys.argv[2]), made)
run.write_block(0, block_arrays(made, 0), {})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
run.write_block(1, block_arrays(made, 1), {})
"""


def test_a_file_size_limit_reads_as_a_full_disk(tmp_path):
    made, root = schema(num_models=12, examples=3000), tmp_path / "r"
    process = subprocess.Popen(
        [sys.executable, "-c", FULL_BY_LIMIT, str(HERE), str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert check_full(process, root, made).tolist() == [0, 1, 2, 3]
    write_missing(root, made)
    write_missing(tmp_path / "calm", made)
    assert store_bytes(root) == store_bytes(tmp_path / "calm")


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"may not mount a small file system here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_loses_nothing_and_resumes(small_disk, tmp_path):
    made, root = schema(num_models=80, block_size=4, examples=3000), small_disk / "r"
    complete = check_full(start(root, 80, 4, 3000), root, made)
    assert 0 < len(complete) < 80
    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    write_missing(root, made)
    write_missing(tmp_path / "calm", made)
    assert store_bytes(root) == store_bytes(tmp_path / "calm")


def test_blocks_are_cheap_to_write_and_verify(tmp_path, capsys):
    made = schema(num_models=160, block_size=8, units=200, examples=5000)
    run, arrays = writer(tmp_path / "r", made), block_arrays(made, 0)
    begin = time.perf_counter()
    for block in range(20):
        run.write_block(block, arrays, {})
    written = time.perf_counter()
    assert writer(tmp_path / "r", made).missing_blocks() == []
    verified = time.perf_counter()
    with capsys.disabled():
        print(
            f"\n{(written - begin) / 20 * 1e3:.1f} ms to write a block, {(verified - written) / 20 * 1e3:.1f} to verify"
        )
    assert (written - begin) / 20 < 2.0  # Generous: a shared, slow disk; a block takes minutes to train.
