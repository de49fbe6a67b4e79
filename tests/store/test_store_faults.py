"""Faults of disks, clocks and people: each is named, nothing sound is lost, and repairing restores every byte."""

import contextlib
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from store_examples import block_arrays, schema, store_bytes, write_missing, writer

import jdt.store.records
from jdt.checks import UserError
from jdt.store import check_run, open_run
from jdt.store.records import sealed

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MARGIN = "store.zarr/targets/cifar10/fixed/margin"
RECORD = "blocks/000001.json"


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def truncate(root):
    (root / f"{MARGIN}/c/1/0").write_bytes((root / f"{MARGIN}/c/1/0").read_bytes()[:-5])
    return f"chunk file {MARGIN}/c/1/0"


def flip(root, file=f"{MARGIN}/c/1/0"):
    content = bytearray((root / file).read_bytes())
    content[len(content) // 2] ^= 1
    (root / file).write_bytes(content)
    return file


def flip_names(root):
    return flip(root, "store.zarr/unit_name/c/0").removesuffix("/c/0")


def other_codec(root):
    edit_json(root / MARGIN / "zarr.json", codecs=[{"name": "bytes", "configuration": {"endian": "big"}}])
    return f"{MARGIN}/zarr.json"


def edit_record(root):
    edit_json(root / RECORD, seconds=0.0)
    return f"{RECORD} was changed"


def forge_record(root):
    record = json.loads((root / RECORD).read_text())
    record["checksums"]["mask"] = "0" * 16
    (root / RECORD).write_text(json.dumps(sealed({key: value for key, value in record.items() if key != "digest"})))
    return "the values in store.zarr/mask/c/1/0 are not those that were recorded"


def forge_number(root):
    record = json.loads((root / RECORD).read_text()) | {"block": 1.0}
    (root / RECORD).write_text(json.dumps(sealed({key: value for key, value in record.items() if key != "digest"})))
    return f"{RECORD} describes another block"


def foreign_chunk(root):
    last = root / f"{MARGIN}/c/2/0"  # Two models, and room for two more that no model of the run overwrites.
    last.write_bytes((root / f"{MARGIN}/c/0/0").read_bytes())
    return f"the values in {MARGIN}/c/2/0 are not those that were recorded"


def pipe(root):
    (root / f"{MARGIN}/c/1/0").unlink()
    os.mkfifo(root / f"{MARGIN}/c/1/0")
    return f"chunk file {MARGIN}/c/1/0 does not decode (it is not a plain file)"


def endless(root):
    with (root / f"{MARGIN}/c/1/0").open("wb") as file:
        file.truncate(10**12)
    return f"chunk file {MARGIN}/c/1/0 does not decode (it has 1,000,000,000,000 bytes"


@pytest.mark.parametrize(
    "harm",
    [truncate, flip, flip_names, other_codec, edit_record, forge_record, forge_number, foreign_chunk, pipe, endless],
)
def test_a_fault_is_named_and_repairing_restores_every_byte(tmp_path, harm):
    made, root = schema(), tmp_path / "r"
    write_missing(root, made)
    sound, records = store_bytes(root), sorted((root / "blocks").iterdir())
    named = harm(root)
    found = check_run(root)
    (fault,) = found.faults
    assert named in f"{fault.file} {fault.reason}"
    assert "\n" not in fault.reason
    assert sorted((root / "blocks").iterdir()) == records, "changed without being asked to"
    if harm not in (pipe, endless):  # Resuming alone does as much; those two cannot be copied.
        shutil.copytree(root, tmp_path / "s")
        write_missing(tmp_path / "s", made)
        assert store_bytes(tmp_path / "s") == sound
    assert check_run(root, repair=True).faults == found.faults
    write_missing(root, made)
    assert store_bytes(root) == sound
    assert check_run(root).is_sound


@pytest.mark.parametrize(("version", "remedy"), [(99, "update jdt"), ("2", "use the jdt that wrote it")])
def test_a_run_of_another_version_is_left_as_it_is(tmp_path, version, remedy):
    root = tmp_path / "r"
    write_missing(root, schema())
    edit_json(root / "run.json", schema_version=version)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    for attempt in (lambda: check_run(root, repair=True), lambda: writer(root, schema())):
        with pytest.raises(UserError, match=rf"run\.json has schema version {version}, .*{remedy}"):
            attempt()
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("year", [1, 1970, 9999])
def test_nothing_depends_on_the_clock(tmp_path, monkeypatch, year):
    made, root = schema(), tmp_path / "r"
    write_missing(tmp_path / "calm", made)
    clock = iter([1e9, 5.0, -1e9, 0.0, 1e12] * 100)
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: next(clock))
        patch.setattr(time, "monotonic", lambda: next(clock))
        patch.setattr(jdt.store.records, "now", lambda: f"{year:04d}-01-01T00:00:00+00:00")
        run = writer(root, made)
        for block in (2, 0):
            run.write_block(block, block_arrays(made, block), {})
    for i, path in enumerate(sorted(root.rglob("*"))):
        seconds = datetime.datetime(1970 + 60 * (i % 3), 1, 1, tzinfo=datetime.UTC).timestamp()
        os.utime(path, (seconds, seconds))
    assert open_run(root).complete.tolist() == [0, 1, 2, 3, 8, 9]
    assert check_run(root).is_sound
    assert writer(root, made).missing_blocks() == [1]
    write_missing(root, made)
    assert store_bytes(root) == store_bytes(tmp_path / "calm")


def test_a_writer_that_has_not_heard_of_growth_costs_no_model(tmp_path):
    small, large, root = schema(10), schema(14), tmp_path / "r"
    late = writer(root, small)
    grown = writer(root, large)
    for block in grown.missing_blocks():
        grown.write_block(block, block_arrays(large, block), {})
    late.write_block(0, block_arrays(small, 0), {})  # Whole blocks are the same for both.
    for attempt in (lambda: late.write_block(2, block_arrays(small, 2), {}), late.missing_blocks):
        with pytest.raises(UserError, match=r"has grown to 14 models meanwhile.*--num-models 14"):
            attempt()
    assert grown.missing_blocks() == []
    assert open_run(root).complete.tolist() == list(range(14))


def test_a_reader_that_meets_growth_sees_the_larger_run(tmp_path, monkeypatch):
    root, listed = tmp_path / "r", jdt.store.records.recorded_blocks
    write_missing(root, schema(10))

    def grow_first(place):
        monkeypatch.setattr(jdt.store.records, "recorded_blocks", listed)
        write_missing(root, schema(14))
        return listed(place)

    monkeypatch.setattr(jdt.store.records, "recorded_blocks", grow_first)
    assert open_run(root).complete.tolist() == list(range(14))
    write_missing(tmp_path / "s", schema(10))
    root = tmp_path / "s"
    monkeypatch.setattr(jdt.store.records, "recorded_blocks", grow_first)
    with pytest.raises(UserError, match="grown while it was read: verify it again"):
        check_run(root, repair=True)
    assert open_run(root).complete.tolist() == list(range(14))


@pytest.fixture
def removable_disk(tmp_path):
    """A file system that can be made read-only, for root too, and the commands that do so."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"may not mount a small file system here: {mounted.stderr.strip()}")
    yield folder, lambda how: subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_turns_read_only_can_be_read_and_nothing_is_lost(removable_disk, tmp_path):
    (folder, remount), made = removable_disk, schema()
    root = folder / "r"
    write_missing(tmp_path / "calm", made)
    run = writer(root, made)
    run.write_block(0, block_arrays(made, 0), {})
    remount("ro")
    with pytest.raises(UserError, match=r"no permission while writing block 1 .*block 0 is safe; make the directory"):
        run.write_block(1, block_arrays(made, 1), {})
    assert open_run(root).complete.tolist() == [0, 1, 2, 3]
    assert check_run(root).is_sound
    for attempt in (lambda: writer(folder / "new", made), lambda: writer(root, made, overwrite=True)):
        with pytest.raises(UserError, match="no permission"):
            attempt()
    remount("rw")
    flip(root, f"{MARGIN}/c/0/0")
    remount("ro")
    for attempt in (lambda: check_run(root, repair=True), lambda: writer(root, made)):
        with pytest.raises(UserError, match="no permission while removing the record of block 0"):
            attempt()
    remount("rw")
    write_missing(root, made)
    assert store_bytes(root) == store_bytes(tmp_path / "calm")


WITHOUT_RIGHTS = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from store_examples import block_arrays, schema, store_bytes, write_missing, writer
from jdt.checks import UserError
from jdt.store import check_run, open_run
folder, made = Path(sys.argv[2]), schema()
root = folder / "r"
write_missing(folder / "calm", made)  # Also imports what is imported late.
if os.getuid() == 0:
    os.chown(folder, 65534, 65534)
    os.setgid(65534), os.setuid(65534)

def refused(attempt):
    try:
        attempt()
    except UserError as error:
        print(error)
    else:
        raise AssertionError("was not refused")

run = writer(root, made)
run.write_block(0, block_arrays(made, 0), {})
folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
for path in folders:
    path.chmod(0o555)
refused(lambda: run.write_block(1, block_arrays(made, 1), {}))
assert open_run(root).complete.tolist() == [0, 1, 2, 3] and check_run(root).is_sound
for path in folders:
    path.chmod(0o755)
(root / "run.json").chmod(0)
refused(lambda: open_run(root))
(root / "run.json").chmod(0o644)
(root / "blocks").chmod(0)
refused(lambda: open_run(root))
refused(lambda: check_run(root, repair=True))
(root / "blocks").chmod(0o755)
(root / "store.zarr/mask/c/0/0").chmod(0)
refused(lambda: open_run(root).mask())
refused(lambda: check_run(root, repair=True))
refused(lambda: writer(root, made))
(root / "store.zarr/mask/c/0/0").chmod(0o644)
assert (root / "blocks/000000.json").exists()
write_missing(root, made)
assert store_bytes(root) == store_bytes(folder / "calm")
"""


def run_child(code, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code, str(HERE), *map(str, arguments)], text=True, env=environment,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def test_permissions_lost_midway_are_named_and_nothing_counts_as_damaged():
    with tempfile.TemporaryDirectory() as name:  # Unlike tmp_path, where another user may get to.
        child = run_child(WITHOUT_RIGHTS, name)
        told, complaints = child.communicate()
        assert child.returncode == 0, complaints
    said = [line for line in told.splitlines() if not line.startswith("done")]
    assert re.search(r"no permission while writing block 1 .*block 0 is safe", said[0])
    for line, file in zip(said[1:], ["run.json", "r", "r", "store.zarr/mask", "store.zarr/mask", "mask"], strict=True):
        assert re.search(rf"(cannot read|no permission|failed while) .*{file}.*Permission denied", line), line


RACER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from store_examples import CONFIG, block_arrays, schema
from jdt.checks import UserError
from jdt.store import create_or_open
for line in sys.stdin:
    folder, seed, models = line.split()
    made = schema(int(models))
    ready = Path(f"{folder}.go")
    while not ready.exists():
        pass
    try:
        run = create_or_open(folder, config=CONFIG | {"seed": int(seed)}, provenance={}, schema=made)
        while missing := run.unrecorded_blocks():
            run.write_block(missing[0], block_arrays(made, missing[0]), {})
    except UserError as error:
        print(error, flush=True)
    else:
        print("fine", flush=True)
"""


@pytest.fixture(scope="module")
def race():
    """Let two processes start on one folder at the same moment; returns what each of them says."""
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(run_child(RACER)) for _ in range(2)]

        def start(folder, *orders):
            for child, order in zip(children, orders, strict=True):
                child.stdin.write(f"{folder} {order}\n")
                child.stdin.flush()
            time.sleep(0.02)  # Until both wait.
            Path(f"{folder}.go").touch()
            return [child.stdout.readline().strip() or child.communicate()[1] for child in children]

        yield start
        for child in children:
            child.stdin.close()


ROUNDS = 10


def test_two_processes_that_start_at_once_share_the_run(tmp_path, race):
    write_missing(tmp_path / "calm", schema())
    for i in range(ROUNDS):
        assert race(tmp_path / f"r{i}", "0 10", "0 10") == ["fine", "fine"]
        assert check_run(tmp_path / f"r{i}").complete == 10
        assert store_bytes(tmp_path / f"r{i}") == store_bytes(tmp_path / "calm")


def test_of_two_configurations_that_start_at_once_one_is_refused(tmp_path, race):
    write_missing(tmp_path / "calm", schema())
    for i in range(ROUNDS):
        said = race(tmp_path / f"r{i}", "0 10", "1 10")
        assert said.count("fine") == 1
        winner = said.index("fine")
        assert f"another config: seed: saved {winner}, asked {1 - winner}" in said[1 - winner]
        assert open_run(tmp_path / f"r{i}").config["seed"] == winner
        assert check_run(tmp_path / f"r{i}").is_sound
        assert store_bytes(tmp_path / f"r{i}") == store_bytes(tmp_path / "calm")


def test_of_two_sizes_that_start_at_once_the_larger_one_stays(tmp_path, race):
    write_missing(tmp_path / "calm", schema(14))
    for i in range(ROUNDS):
        root = tmp_path / f"r{i}"
        small, large = race(root, "0 10", "0 14")
        assert large == "fine"
        assert small == "fine" or "a run only grows" in small or "has grown to 14 models" in small
        found = check_run(root)
        assert (found.num_models, found.faults) == (14, ())
        write_missing(root, schema(14))
        assert store_bytes(root) == store_bytes(tmp_path / "calm")


def test_a_link_that_leads_out_of_the_run_is_not_followed_when_writing(tmp_path):
    made, root, other = schema(), tmp_path / "r", tmp_path / "other"
    write_missing(other, made)
    before = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
    for name in ("blocks", "store.zarr/mask", "influences"):
        write_missing(root, made)
        (other / "influences/a/b/c/d.zarr").mkdir(parents=True, exist_ok=True)
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).symlink_to(other / name)
        flip(root)
        for attempt in (lambda: check_run(root, repair=True), lambda: writer(root, made)):
            with pytest.raises(UserError, match=rf"{name} is a symbolic link .* outside the run"):
                attempt()
        shutil.rmtree(root)
    root.mkdir()
    (tmp_path / "mine").write_text("mine")
    (root / "run.json.__lock").symlink_to(tmp_path / "mine")
    write_missing(root, made)
    assert (tmp_path / "mine").read_text() == "mine"
    assert {path: path.read_bytes() for path in other.rglob("*") if path.is_file()} == before
    (tmp_path / "door").symlink_to(root)
    assert writer(tmp_path / "door", made).missing_blocks() == []
