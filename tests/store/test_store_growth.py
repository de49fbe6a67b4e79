"""A run that grows: what is there stays, byte for byte, as the first models of the larger run."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from store_examples import CONFIG, block_arrays, schema, store_bytes, whole, write_missing, writer

from jdt import config
from jdt.checks import UserError
from jdt.store import open_run
from jdt.store.files import write_bytes as real_write_bytes

HERE = Path(__file__).parent
CHUNKED = {"block_size": 4, "examples": 5000}  # Two chunks along the examples.


def grown(root, *sizes, **shape):
    """Write a run of the first size, then let it grow to each of the others, new models alone being written."""
    for size in sizes:
        made = schema(num_models=size, **shape)
        run = writer(root, made)
        for block in run.missing_blocks():
            first, rest = run.first_rows(block), block_arrays(made, block)
            assert all(np.array_equal(rows, rest[name][: len(rows)]) for name, rows in first.arrays.items())
            new = {name: rows[len(first.models) :] for name, rows in rest.items()}
            run.write_block(block, *first.followed_by(new, {"seconds": 1.0, "diverged": []}))
    return made


@pytest.mark.parametrize("sizes", [(4, 12), (6, 12), (6, 7, 12), (5, 6, 7, 8), (1, 12)])
def test_a_grown_run_is_the_run_of_that_size(tmp_path, sizes):
    made = grown(tmp_path / "grown", *sizes, **CHUNKED)
    write_missing(tmp_path / "fresh", made)
    assert store_bytes(tmp_path / "grown") == store_bytes(tmp_path / "fresh")
    run = open_run(tmp_path / "grown")
    assert run.complete.tolist() == list(range(sizes[-1]))
    np.testing.assert_array_equal(run.mask(), whole(made, "mask"))
    saved = json.loads((tmp_path / "grown/run.json").read_text())
    assert [(step["from"], step["to"]) for step in saved["grown"]] == list(itertools.pairwise(sizes))


def test_what_was_complete_stays_readable_while_and_after_a_run_grows(tmp_path):
    small, large = schema(num_models=6), schema(num_models=20)
    before = write_missing(tmp_path / "r", small)
    reader = open_run(tmp_path / "r")
    after = writer(tmp_path / "r", large)
    assert after.missing_blocks() == [1, 2, 3, 4]
    for run in (reader, open_run(tmp_path / "r")):
        assert run.complete.tolist() == list(range(6))
        np.testing.assert_array_equal(run.mask(), whole(small, "mask"))
    before.write_block(1, block_arrays(small, 1), {})  # A worker from before, which does not know.
    assert open_run(tmp_path / "r").complete.tolist() == list(range(6))
    assert writer(tmp_path / "r", large).damaged == ()


def test_records_of_a_block_in_two_parts_add_up(tmp_path):
    grown(tmp_path / "r", 6, 8)
    record = open_run(tmp_path / "r").records()[1]
    assert (record["models"], record["seconds"], record["diverged"]) == ([4, 8], 2.0, [])


def test_a_smaller_run_is_refused_and_nothing_changes(tmp_path):
    write_missing(tmp_path / "r", schema(num_models=10))
    before = (tmp_path / "r/run.json").read_bytes(), store_bytes(tmp_path / "r")
    with pytest.raises(UserError, match="10 models, and 6 are asked for, but a run only grows: pass --num-models 10"):
        writer(tmp_path / "r", schema(num_models=6))
    assert ((tmp_path / "r/run.json").read_bytes(), store_bytes(tmp_path / "r")) == before


def test_growth_that_breaks_off_leaves_the_run_as_it_was(tmp_path, monkeypatch):
    root, small = tmp_path / "r", schema(num_models=6)
    write_missing(root, small)
    files = len(store_bytes(root))
    for stop in range(1, files):
        written = []

        def counting(path, content, stop=stop, written=written, **options):
            if len(written) == stop:
                raise KeyboardInterrupt
            written.append(path)
            return real_write_bytes(path, content, **options)

        monkeypatch.setattr("jdt.store.create.write_bytes", counting)
        try:
            writer(root, schema(num_models=6 + stop))
        except KeyboardInterrupt:
            monkeypatch.undo()
            assert open_run(root).complete.tolist() == list(range(6))
            np.testing.assert_array_equal(open_run(root).column("source/loss"), whole(small, "source/loss"))
            assert writer(root, small).missing_blocks() == []
        else:
            break
    monkeypatch.undo()
    assert written[-1].name == "run.json"  # Written last, hence the moment at which the run grows.
    assert open_run(root).num_models == 6 + stop


def test_processes_that_let_a_run_grow_at_once_agree(tmp_path):
    root = tmp_path / "r"
    write_missing(root, schema(num_models=6, examples=50))
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE / "store_examples.py"), str(root), "40", "4", "50"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(HERE.parents[1])},
        )
        for _ in range(3)
    ]  # fmt: skip
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    write_missing(tmp_path / "fresh", schema(num_models=40, examples=50))
    assert store_bytes(root) == store_bytes(tmp_path / "fresh")


@pytest.mark.parametrize("asked", [6, 10])
def test_a_run_of_version_1_is_read_resumed_and_grows(tmp_path, asked):
    root, small = tmp_path / "r", schema(num_models=6)
    write_missing(root, small)
    saved = json.loads((root / "run.json").read_text())
    old = {"num_models": 6, **CONFIG}
    del saved["digest"]
    saved |= {"schema_version": 1, "config": old, "config_fingerprint": config.fingerprint(old)}
    (root / "run.json").write_text(json.dumps(saved))
    for path in (root / "blocks").iterdir():
        path.unlink()
    write_missing(root, small)
    assert open_run(root).schema_version == 1
    write_missing(root, schema(num_models=asked))
    assert open_run(root).complete.tolist() == list(range(asked))


@pytest.mark.parametrize("content", [b"junk", b""])
def test_a_damaged_chunk_at_the_end_of_an_array_is_written_again(tmp_path, content):
    root, made = tmp_path / "r", schema(num_models=10)
    write_missing(root, made)
    sound = store_bytes(root)
    for file in ("store.zarr/source/loss/c/2", "store.zarr/targets/cifar10/fixed/margin/c/2/0"):
        (root / file).write_bytes(content)
    run = writer(root, made)
    assert run.missing_blocks() == [2]
    run.write_block(2, block_arrays(made, 2), {})
    assert store_bytes(root) == sound
