"""Verifying a run finds every fault that is planted, and repairing it loses nothing else."""

import json

import numpy as np
import pytest
from store_examples import block_arrays, schema, store_bytes, write_missing, writer

from jdt.checks import UserError
from jdt.store import check_run, open_run, read_group, write_group

MARGIN = "store.zarr/targets/cifar10/fixed/margin"
RIDGE = "influences/cifar10/fixed/margin/ridge.zarr"


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


def edit(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": 0.0}))


def run_with_influences(root):
    made = schema()
    write_missing(root, made)
    arrays = {"influence": (np.ones((6, 7), np.float32), ("unit", "example"))}
    for name in ("ridge", "lasso"):
        write_group(
            root / f"influences/cifar10/fixed/margin/{name}.zarr", arrays, strings={}, attributes={"estimator": name}
        )
    (root / "summary.json").write_text("{}")
    return made


def test_a_sound_run_is_found_sound_and_left_alone(tmp_path):
    root = tmp_path / "r"
    run_with_influences(root)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    seen = []
    found = check_run(root, repair=True, progress=lambda *count: seen.append(count))
    assert (found.is_sound, found.complete, found.blocks, found.num_models) == (True, 10, 3, 10)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("file", "harm", "fault", "sound_blocks"),
    [
        (f"{MARGIN}/c/1/0", flip, "blocks/000001.json", 2),
        (f"{MARGIN}/c/2/0", truncate, "blocks/000002.json", 2),
        ("store.zarr/source/loss/c/0", lambda path: path.unlink(), "blocks/000000.json", 2),
        ("blocks/000001.json", edit, "blocks/000001.json", 2),
        ("blocks/000001.json", truncate, "blocks/000001.json", 2),
        (f"{MARGIN}/zarr.json", truncate, f"{MARGIN}/zarr.json", 3),
        ("store.zarr/mask/zarr.json", lambda path: path.unlink(), "store.zarr/mask/zarr.json", 3),
        ("store.zarr/unit_name/c/0", truncate, "store.zarr/unit_name", 3),
        ("store.zarr/targets/cifar10/label/c/0", flip, "store.zarr/targets/cifar10", 3),
        (f"{RIDGE}/influence/c/0/0", flip, RIDGE, 3),
        (f"{RIDGE}/zarr.json", edit, None, 3),
        ("summary.json", truncate, "summary.json", 3),
    ],
)  # fmt: skip
def test_a_fault_is_named_and_repaired(tmp_path, file, harm, fault, sound_blocks):
    root = tmp_path / "r"
    made = run_with_influences(root)
    sound = store_bytes(root)
    harm(root / file)
    found = check_run(root)
    assert [one.file for one in found.faults] == ([] if fault is None else [fault])
    assert found.blocks == sound_blocks
    again = check_run(root, repair=True)
    assert again.faults == found.faults
    run = writer(root, made)
    assert len(run.missing_blocks()) == 3 - sound_blocks
    for block in run.missing_blocks():
        run.write_block(block, block_arrays(made, block), {})
    assert check_run(root).is_sound
    assert store_bytes(root) == sound
    assert read_group(root / "influences/cifar10/fixed/margin/lasso.zarr").attributes == {"estimator": "lasso"}


def test_all_faults_are_found_at_once_and_only_an_order_repairs(tmp_path):
    root = tmp_path / "r"
    run_with_influences(root)
    flip(root / f"{MARGIN}/c/0/0")
    edit(root / "blocks/000001.json")
    truncate(root / "store.zarr/source/loss/zarr.json")
    (root / "store.zarr/mask/c/2/0.__lock").write_text("half")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    found = check_run(root)
    assert {one.file for one in found.faults} == {
        "blocks/000000.json", "blocks/000001.json", "store.zarr/source/loss/zarr.json",
    }  # fmt: skip
    assert (found.blocks, found.complete, found.abandoned) == (1, 2, ())
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    assert check_run(root, repair=True).abandoned == ("store.zarr/mask/c/2/0.__lock",)
    assert open_run(root).complete.tolist() == [8, 9]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "not a run directory"), (b"{", "not valid JSON"), (b'{"schema_version": 9}', "schema version 9")],
)
def test_what_is_no_run_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        check_run(tmp_path, repair=True)
