import json
import re

import pytest
from store_examples import CONFIG, block_arrays, schema, store_bytes, write_missing, writer

from jdt.checks import UserError
from jdt.store import create_or_open, open_run

MARGIN = "store.zarr/targets/cifar10/fixed/margin/c/1/0"


def truncate(root):
    path = root / MARGIN
    path.write_bytes(path.read_bytes()[:-5])
    return "targets/cifar10/fixed/margin", MARGIN


def empty(root):
    (root / MARGIN).write_bytes(b"")
    return "targets/cifar10/fixed/margin", MARGIN


def flip(root):
    content = bytearray((root / MARGIN).read_bytes())
    content[len(content) // 2] ^= 1
    (root / MARGIN).write_bytes(content)
    return "targets/cifar10/fixed/margin", MARGIN


def delete(root):
    (root / MARGIN).unlink()
    return "targets/cifar10/fixed/margin", MARGIN


def swap(root):
    (root / MARGIN).write_bytes((root / MARGIN.replace("c/1/0", "c/0/0")).read_bytes())
    return "targets/cifar10/fixed/margin", MARGIN


def shorten_vector(root):
    path = root / "store.zarr/source/loss/c/1"
    path.write_bytes(path.read_bytes()[:3])
    return "source/loss", "source/loss/c/1"


def edit_record(root, **changes):
    path = root / "blocks/000001.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (changes or {"seconds": 0.0})))
    return "record", "000001.json"


def edit_fingerprint(root):
    return edit_record(root, config_fingerprint="0" * 16)


def break_record(root):
    (root / "blocks/000001.json").write_text('{"block": 1')
    return "record", "000001.json"


@pytest.mark.parametrize(
    "harm", [truncate, empty, flip, delete, swap, shorten_vector, edit_record, edit_fingerprint, break_record]
)
def test_damage_is_named_and_the_block_retrained(tmp_path, harm):
    made, root = schema(), tmp_path / "r"
    write_missing(root, made)
    sound = store_bytes(root)
    column, file = harm(root)

    with pytest.raises(UserError) as refused:
        open_run(root).column(column)
    assert f"block 1, {column}" in str(refused.value)
    assert file in str(refused.value)
    assert "run the same command again with the same --out: the block is retrained" in str(refused.value)
    assert "\n" not in str(refused.value)

    run = writer(root, made)
    (damage,) = run.damaged
    assert (damage.block, damage.column) == (1, column)
    assert file in str(damage)
    assert str(tmp_path) not in str(damage)
    assert run.missing_blocks() == [1]
    assert not (root / "blocks/000001.json").exists()
    run.write_block(1, block_arrays(made, 1), {})
    assert store_bytes(root) == sound
    again = writer(root, made)
    assert (again.missing_blocks(), again.damaged) == ([], ())


def test_a_deleted_record_is_a_missing_block(tmp_path):
    made = schema()
    write_missing(tmp_path / "r", made)
    (tmp_path / "r/blocks/000001.json").unlink()
    assert open_run(tmp_path / "r").complete.tolist() == [0, 1, 2, 3, 8, 9]
    assert writer(tmp_path / "r", made).missing_blocks() == [1]


@pytest.mark.parametrize(
    "file", ["unit_name/c/0", "unit_name/zarr.json", "targets/cifar10/label/c/0", "mask/zarr.json", "zarr.json"]
)
def test_damaged_static_files_are_named_and_mended(tmp_path, file):
    made, root = schema(), tmp_path / "r"
    write_missing(root, made)
    sound = store_bytes(root)
    (root / "store.zarr" / file).write_bytes(sound[file][: len(sound[file]) // 2])
    if file != "zarr.json":  # Only other programs read the group's own file.
        run = open_run(root)
        with pytest.raises(UserError, match=re.escape(file.rsplit("/c/")[0].removesuffix("/zarr.json"))):
            _ = run.unit_names, run.targets, run.mask()
    assert writer(root, made).missing_blocks() == []
    assert store_bytes(root) == sound


def test_another_config_is_refused_with_the_difference(tmp_path):
    write_missing(tmp_path / "r", schema())
    asked = CONFIG | {"seed": 1, "recipe": {"epochs": 8}}
    with pytest.raises(UserError) as refused:
        create_or_open(tmp_path / "r", config=asked, provenance={}, schema=schema())
    assert "recipe.epochs: saved 4, asked 8; seed: saved 0, asked 1" in str(refused.value)
    assert "--out" in str(refused.value)
    assert "--overwrite" in str(refused.value)


def test_other_data_under_the_same_config_are_refused(tmp_path):
    write_missing(tmp_path / "r", schema())
    with pytest.raises(UserError, match=r"another data: num_units: saved 6, asked 5"):
        writer(tmp_path / "r", schema(units=5))


def test_overwrite_removes_the_run_and_nothing_else(tmp_path):
    root = tmp_path / "r"
    write_missing(root, schema())
    (root / "notes.txt").write_text("mine")
    (root / "attic").mkdir()
    run = create_or_open(root, config={"seed": 5}, provenance={}, schema=schema(units=3), overwrite=True)
    assert run.missing_blocks() == [0, 1, 2]
    assert sorted(p.name for p in root.iterdir()) == ["attic", "notes.txt", "run.json", "store.zarr"]
    assert not (root / "blocks").exists()
    assert not (root / "store.zarr/mask/c").exists()


@pytest.mark.parametrize(
    ("version", "remedy"),
    [(0, "use the jdt that wrote it"), (3, "update jdt"), (None, "the jdt that wrote it"), (True, "")],
)
def test_another_schema_version_is_refused(tmp_path, version, remedy):
    write_missing(tmp_path / "r", schema())
    saved = json.loads((tmp_path / "r/run.json").read_text())
    (tmp_path / "r/run.json").write_text(json.dumps(saved | {"schema_version": version}))
    for attempt in (lambda: open_run(tmp_path / "r"), lambda: writer(tmp_path / "r", schema())):
        with pytest.raises(UserError, match=f"schema version {version}, but this jdt reads version 2: .*{remedy}"):
            attempt()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 1}', "\xff"])
def test_a_damaged_run_json_is_named(tmp_path, content):
    write_missing(tmp_path / "r", schema())
    (tmp_path / "r/run.json").write_bytes(content.encode("latin-1"))
    for attempt in (lambda: open_run(tmp_path / "r"), lambda: writer(tmp_path / "r", schema())):
        with pytest.raises(UserError, match=r"run\.json"):
            attempt()
    assert writer(tmp_path / "r", schema(), overwrite=True).missing_blocks() == [0, 1, 2]


def test_an_edited_run_json_is_noticed(tmp_path):
    write_missing(tmp_path / "r", schema())
    saved = json.loads((tmp_path / "r/run.json").read_text())
    saved["schema"]["num_models"] = 8
    (tmp_path / "r/run.json").write_text(json.dumps(saved))
    for attempt in (lambda: open_run(tmp_path / "r"), lambda: writer(tmp_path / "r", schema())):
        with pytest.raises(UserError, match=r"run\.json is damaged: it was changed after it was written"):
            attempt()


def test_an_edited_config_is_noticed(tmp_path):
    write_missing(tmp_path / "r", schema())
    text = (tmp_path / "r/run.json").read_text()
    (tmp_path / "r/run.json").write_text(text.replace('"epochs": 4', '"epochs": 5'))
    with pytest.raises(UserError, match="does not match its fingerprint"):
        open_run(tmp_path / "r")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_of_something_else_is_left_alone(tmp_path, overwrite):
    (tmp_path / "blocks").mkdir()
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="not a jdt run"):
        writer(tmp_path, schema(), overwrite=overwrite)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["blocks", "thesis.tex"]
    with pytest.raises(UserError, match="not a run directory"):
        open_run(tmp_path)
    with pytest.raises(UserError, match="not a run directory"):
        open_run(tmp_path / "absent")


@pytest.mark.parametrize("place", ["file/run", "/proc/jdt_run"])
def test_an_unwritable_path_is_named(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=re.escape(str(tmp_path / place))):
        writer(tmp_path / place, schema())


@pytest.mark.parametrize(
    "path", ["s3://bucket/run", "gs://bucket", "gs://bucket/", "gs://No_Bucket/run", "file:///tmp/run"]
)
def test_places_of_other_kinds_are_refused(path):
    for attempt in (lambda: writer(path, schema()), lambda: open_run(path)):
        with pytest.raises(UserError, match="gs://"):
            attempt()
