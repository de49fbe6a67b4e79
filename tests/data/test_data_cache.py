import concurrent.futures
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from data_examples import random_images, write_folder

import jdt.data
from jdt.checks import UserError


@pytest.fixture
def pets(tmp_path):
    images = random_images(8)
    return write_folder(tmp_path / "pets", {f"train/{'ab'[i // 4]}/{i}": images[i] for i in range(8)})


def _load(pets, cache_dir, **options):
    """Load, and say how many images were decoded for it."""
    seen = [0]
    options.setdefault("progress", lambda *call: seen.append(call[0]))
    return jdt.data.load(f"folder:{pets}", "train", cache_dir=cache_dir, **options), seen[-1]


def _entries(cache_dir):
    return sorted((cache_dir / "decoded").iterdir())


def test_the_second_load_decodes_nothing_and_is_a_memory_map(pets, tmp_path):
    first, decoded = _load(pets, tmp_path)
    assert decoded == 8
    second, decoded = _load(pets, tmp_path)
    assert decoded == 0
    assert isinstance(second.images, np.memmap)
    assert not second.images.flags.writeable
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(first.images, second.images)
    assert second.class_names == first.class_names


def test_what_tells_entries_apart(pets, tmp_path):
    _load(pets, tmp_path)
    assert _load(pets, tmp_path, image_size=3)[1] == 8
    os.utime(pets / "train/a/0.png", ns=(1, 1))
    assert _load(pets, tmp_path)[1] == 8
    (pets / "train/b/7.png").unlink()
    smaller, decoded = _load(pets, tmp_path)
    assert (len(smaller), decoded) == (7, 7)
    assert len(_entries(tmp_path)) == 4


def test_progress_ends_at_the_total(pets, tmp_path):
    calls = []
    jdt.data.load(f"folder:{pets}", "train", cache_dir=tmp_path, progress=lambda *call: calls.append(call))
    assert calls[-1] == (8, 8)


def _truncate(entry):
    size = (entry / "images.npy").stat().st_size
    os.truncate(entry / "images.npy", size - 1)


def _swap_labels(entry):
    np.save(entry / "labels.npy", np.full(8, 9, np.int32))


def _other_identity(entry):
    meta = json.loads((entry / "meta.json").read_text())
    (entry / "meta.json").write_text(json.dumps(meta | {"identity": {}}))


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _swap_labels,
        _other_identity,
        lambda entry: os.truncate(entry / "images.npy", 0),
        lambda entry: os.truncate(entry / "images.npy", 20),
        lambda entry: (entry / "labels.npy").unlink(),
        lambda entry: (entry / "meta.json").write_text("{"),
        lambda entry: (entry / "meta.json").write_text("[]"),
        lambda entry: (entry / "meta.json").write_text("{}"),
    ],
)
def test_a_damaged_entry_is_decoded_again(pets, tmp_path, damage, caplog):
    first, _ = _load(pets, tmp_path)
    (entry,) = _entries(tmp_path)
    damage(entry)
    again, decoded = _load(pets, tmp_path)
    assert decoded == 8
    assert "is damaged" in caplog.text
    assert again.fingerprint == first.fingerprint
    assert _load(pets, tmp_path)[1] == 0
    assert _entries(tmp_path) == [entry]


def test_a_failed_load_leaves_nothing_behind(pets, tmp_path):
    (pets / "train/b/bad.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"bad\.png"):
        _load(pets, tmp_path)
    assert _entries(tmp_path) == []


def test_what_a_killed_process_left_is_removed_in_time(pets, tmp_path):
    old, fresh = tmp_path / "decoded/.partial-old", tmp_path / "decoded/.partial-fresh"
    for folder in (old, fresh):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    _load(pets, tmp_path)
    assert not old.exists()
    assert fresh.exists()


def test_many_writers_at_once_agree(pets, tmp_path):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: _load(pets, tmp_path)[0], range(8)))
    assert len({result.fingerprint for result in results}) == 1
    assert len(_entries(tmp_path)) == 1
    for result in results:
        np.testing.assert_array_equal(result.images, results[0].images)


def test_two_processes_prepare_the_digits_at_once(tmp_path):
    program = f"""
import jdt.data
print(jdt.data.load("jdt_digits", "train", cache_dir={str(tmp_path)!r}).fingerprint)
"""
    command = [sys.executable, "-c", program]
    pair = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    results = [process.communicate(timeout=120) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], results
    assert len({out for out, _ in results}) == 1
    assert [path.name for path in (tmp_path / "tfds").iterdir()] == ["jdt_digits"]
    assert len(_entries(tmp_path)) == 1


def test_the_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("JDT_CACHE", raising=False)
    assert jdt.data.cache_root() == tmp_path / "xdg/jdt"
    monkeypatch.setenv("JDT_CACHE", str(tmp_path / "mine"))
    assert jdt.data.cache_root() == tmp_path / "mine"
    assert jdt.data.cache_root(tmp_path) == tmp_path
    monkeypatch.delenv("JDT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert jdt.data.cache_root() == tmp_path / ".cache/jdt"


def test_a_cache_that_cannot_be_written_says_so(pets, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write to .*pass cache_dir, or set JDT_CACHE"):
        _load(pets, tmp_path / "file")


def test_from_arrays_checks_its_arrays():
    images = random_images(3)
    for bad_images, labels, message in [
        (images.astype(np.float32), [0, 1, 0], "are float32 with 4 axes, but must be uint8"),
        (images[0], [0, 1, 0], "with 3 axes"),
        (images, [0, 1], "3 images and labels of shape"),
        (images, [0, 1, 2], r"1 of 3 labels of x lie outside 0..1 \(first: 2\)"),
        (images, [1, 1, 1], "only one class, 'b'"),
    ]:
        with pytest.raises(UserError, match=message):
            jdt.data.from_arrays("x", bad_images, labels, ["a", "b"])
