"""Whatever a run directory holds, jdt answers with one clear line, and stays in that directory."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from store_examples import schema, write_missing, writer

from jdt import config
from jdt.checks import UserError
from jdt.estimators.saved import influence_path, load_influences
from jdt.store import check_run, open_run, write_group
from jdt.store.records import sealed

ROOT = Path(__file__).parents[2]
MARGIN = "store.zarr/targets/cifar10/fixed/margin"


def test_damaged_runs_are_answered_with_clear_errors():
    fuzz = [sys.executable, str(ROOT / "benchmarks" / "fuzz_store.py"), "--cases", "80", "--seed", "11"]
    done = subprocess.run(fuzz, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "80 cases" in done.stdout
    refused = re.search(r"\((\d+) refused\)", done.stdout)
    assert int(refused.group(1)) > 100, "hardly anything was harmed"


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile") / "r"
    write_missing(root, schema())
    arrays = {
        "influence": (np.ones((6, 7), np.float32), ("unit", "example")),
        "intercept": (np.ones(7, np.float32), ("example",)),
    }
    strings = {"unit_name": ([f"u{i}" for i in range(6)], "unit"), "class_name": (["a"], "class")}
    attributes = {"estimator": "ridge", "output": "confidence", "num_models": 10}
    write_group(influence_path(root, "cifar10", "fixed", "confidence", "ridge"), arrays, strings=strings,
                attributes=attributes)  # fmt: skip
    return root


@pytest.fixture
def root(made_once, tmp_path):
    shutil.copytree(made_once, tmp_path / "r")
    return tmp_path / "r"


def seal(path, change):
    """Change a sealed JSON file as somebody would who knows how the seals are made."""
    value = json.loads(path.read_text())
    del value["digest"]
    change(value)
    if "config" in value:
        value["config_fingerprint"] = config.fingerprint(value["config"])
    path.write_text(json.dumps(sealed(value)))


def nested(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


def everything(root):
    run = open_run(root)
    for name in run.layout.columns():
        run.column(name)
    return run, run.unit_names, run.targets


HUGE = 10**400
SCHEMAS = {
    "sizes beyond all memory": ("num_units", 10**12, "GiB"),
    "a size that no float holds": ("num_units", HUGE, "GiB"),
    "blocks longer than any run": ("block_size", HUGE, "at most 10,000,000"),
    "a fraction of a unit": ("num_units", 6.0, "whole numbers"),
    "no digest of the names": ("unit_names", None, "must be strings"),
    "modes that are letters": ("modes", "fixed", "must be lists"),
    "more arrays than files": ("modes", [f"m{i}" for i in range(4000)], "at most 10,000"),
    "a target without size": ("targets", {"cifar10": {}}, "num_examples"),
    "a target that is a list": ("targets", ["cifar10"], "schema cannot be read"),
    "a mode elsewhere": ("modes", ["../../x"], "cannot name a folder"),
}


@pytest.mark.parametrize("case", SCHEMAS)
def test_a_sealed_schema_that_no_run_has_is_refused(root, case):
    key, value, message = SCHEMAS[case]
    seal(root / "run.json", lambda saved: saved["schema"].update({key: value}))
    for attempt in (everything, check_run):
        with pytest.raises(UserError, match=rf"run\.json is damaged.*{message}") as refused:
            attempt(root)
        assert len(str(refused.value)) < 2500
    with pytest.raises(UserError, match=r"another data|run\.json is damaged"):
        writer(root, schema())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": ' + "[" * 300 + "]" * 300 + "}", "nested too deeply"),
        ('{"a": ' + "[" * 300_000 + "]" * 300_000 + "}", "nested too deeply"),
        ('{"a": NaN}', "no number in JSON"),
        ('{"a": [1e999]}', "no number in JSON"),
        ('{"a\\ud800": 1}', "not valid JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
    ],
)
@pytest.mark.parametrize("file", ["run.json", "summary.json", MARGIN + "/zarr.json"])
def test_json_that_python_reads_and_nothing_else_does_is_refused(root, file, text, message):
    (root / file).write_text(text)
    if file.endswith("zarr.json"):  # TensorStore, which would crash on some of them, never sees them.
        with pytest.raises(UserError, match=rf"{MARGIN}: its zarr\.json does not describe"):
            everything(root)
        assert [fault.file for fault in check_run(root).faults] == [file]
    else:
        with pytest.raises(UserError, match=rf"{file} is damaged: .*{message}"):
            _ = open_run(root).summary


def test_names_from_a_file_cannot_write_to_the_terminal(root):
    evil = "a\x1b[2J\r\nnothing to see\u202e" + "x" * 10_000
    seal(root / "run.json", lambda saved: saved["config"].update({evil: evil}))
    with pytest.raises(UserError, match="another config") as refused:
        writer(root, schema())
    text = str(refused.value)
    assert text.isprintable()
    assert len(text) < 3000
    assert r"a\x1b[2J\r\nnothing to see\u202exxx" in text
    assert text.endswith("--overwrite to replace it.")


def test_names_and_labels_that_do_not_fit_are_named_though_their_digests_are_right(root):
    names = [f"unit {u}, ü" for u in range(6)]
    seal(root / "run.json", lambda saved: saved["schema"].update(num_units=5, unit_names=config.fingerprint(names)))
    with pytest.raises(UserError, match=r"store\.zarr/unit_name has 6 entries, but run\.json says 5"):
        _ = open_run(root).unit_names


@pytest.mark.parametrize("what", ["shape", "chunk", "codec", "missing"])
def test_influences_that_ask_for_all_memory_are_refused(root, what):
    folder = influence_path(root, "cifar10", "fixed", "confidence", "ridge")
    description = json.loads((folder / "influence/zarr.json").read_text())
    if what == "codec":
        description["codecs"] = [{"name": "bytes", "configuration": {"endian": "big"}}]
    elif what != "missing":
        description["shape"] = [10**9, 7] if what == "shape" else [6, 10**9]
        chunk = [10**9, 7] if what == "shape" else [6, 4096]
        description["chunk_grid"]["configuration"]["chunk_shape"] = chunk
    (folder / "influence/zarr.json").write_text(json.dumps(description))
    if what == "missing":
        (folder / "influence/zarr.json").unlink()
    for attempt in (lambda: load_influences(root), lambda: load_influences(folder)):
        with pytest.raises(UserError, match=r"ridge\.zarr/influence is damaged: .*: compute it again"):
            attempt()
    (fault,) = check_run(root, repair=True).faults
    assert fault.file == "influences/cifar10/fixed/confidence/ridge.zarr"
    assert not folder.exists()


def rewritten(root, *, drop=(), attributes=(), **shapes):
    shapes = {"influence": (6, 7), "intercept": (7,)} | shapes
    arrays = {k: (np.ones(s, np.float32), tuple(f"{k}{i}" for i in range(len(s)))) for k, s in shapes.items()}
    strings = {"unit_name": ([f"u{i}" for i in range(6)], "unit"), "class_name": (["a"], "class")}
    given = {"estimator": "ridge", "output": "confidence", "num_models": 10} | dict(attributes)
    keep = lambda items: {key: value for key, value in items.items() if key not in drop}  # noqa: E731
    folder = influence_path(root, "cifar10", "fixed", "confidence", "ridge")
    write_group(folder, keep(arrays), strings=keep(strings), attributes=keep(given))


@pytest.mark.parametrize(
    "odd",
    [
        {"drop": ["unit_name"]}, {"drop": ["class_name"]}, {"drop": ["estimator"]}, {"drop": ["output"]},
        {"drop": ["intercept"]}, {"attributes": {"num_models": "x"}}, {"influence": (7, 6)}, {"influence": (42,)},
        {"standard_error": (6, 6)}, {"degrees_of_freedom": (2, 7)}, {"intercept": (7, 1)},
    ],
    ids=str,
)  # fmt: skip
def test_influences_that_do_not_fit_each_other_are_refused(root, odd):
    rewritten(root)
    assert load_influences(root).influence.shape == (6, 7)
    rewritten(root, **odd)
    with pytest.raises(UserError, match=r"ridge\.zarr is damaged: .*: estimate it again"):
        load_influences(root)


def test_what_a_run_says_of_its_output_does_not_lead_elsewhere(root, tmp_path):
    shutil.copytree(root / "influences/cifar10/fixed/confidence", tmp_path / "elsewhere")
    seal(root / "run.json", lambda saved: saved["provenance"].update(output="../../../../elsewhere"))
    with pytest.raises(UserError, match="has no influences"):
        load_influences(root)


def test_other_files_among_the_influences_do_no_harm(root):
    (root / "influences/.DS_Store").write_text("")
    (root / "influences/cifar10/notes.txt").write_text("mine")
    (Path(os.fsdecode(os.fsencode(root) + b"/influences/\xff"))).mkdir()
    assert check_run(root).is_sound
    with pytest.raises(UserError, match=r"it has: cifar10/fixed/confidence/ridge\."):
        load_influences(root, estimator="lasso")


@pytest.mark.parametrize("file", ["run.json", "summary.json", "store.zarr/unit_name/c/0", MARGIN + "/zarr.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "endless"])
def test_files_that_never_end_are_not_read(root, file, kind):
    (root / file).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(root / file)
    elif kind == "device":
        (root / file).symlink_to("/dev/zero")
    else:
        with (root / file).open("wb") as held:
            held.truncate(10**12)
    named = file.removesuffix("/c/0")
    with pytest.raises(UserError, match=rf"{named}.*(not a plain file|has 1,000,000,000,000 bytes)"):
        _ = everything(root)[0].summary
    if file != "run.json":
        assert check_run(root, repair=True).faults[0].file == named
        assert writer(root, schema()).missing_blocks() == []
        assert check_run(root).is_sound
