import itertools
import logging
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from data_examples import build_images, encode, random_images, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st

import jdt.data
from jdt.checks import UserError
from jdt.data import StreamedImages, read_chunks


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A folder of 100 images, 7x9, in two classes."""
    images = random_images(100, height=9, width=7)
    members = {f"train/{'ab'[i // 50]}/{i:02}": images[i] for i in range(100)}
    return write_folder(tmp_path_factory.mktemp("streamed") / "pets", members)


@pytest.fixture(scope="module")
def kinds(pets, tmp_path_factory):
    """The same 100 images streamed, as a memory map and in memory."""
    cache_dir = tmp_path_factory.mktemp("kinds")
    streamed, decoded = _both(f"folder:{pets}", "train", cache_dir=cache_dir, image_size=5)
    memory = jdt.data.from_arrays("memory", np.array(decoded.images), decoded.labels, decoded.class_names)
    return {"streamed": streamed, "decoded": decoded, "memory": memory}


def _both(name, split, **options):
    return jdt.data.load(name, split, streamed=True, **options), jdt.data.load(name, split, **options)


def _grain_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("grain")]


class TestStreamedDataset:
    @pytest.mark.parametrize("image_size", [None, 4, 11])
    @pytest.mark.parametrize("split", ["train", "train[3:9]", "train+validation"])
    def test_tfds_is_decoded_to_the_same_bits(self, toy, tmp_path, split, image_size):
        streamed, decoded = _both("toy", split, data_dir=toy[0], cache_dir=tmp_path, image_size=image_size)
        assert isinstance(streamed.images, StreamedImages)
        _assert_same(streamed, decoded)

    @pytest.mark.parametrize("image_size", [None, 4])
    def test_a_folder_is_decoded_to_the_same_bits(self, pets, tmp_path, image_size):
        _assert_same(*_both(f"folder:{pets}", "train[:50%]", cache_dir=tmp_path, image_size=image_size))

    def test_grey_images_keep_one_channel(self, tmp_path):
        images = random_images(4, channels=1)
        build_images(tmp_path, "grey", {"train": (images, [0, 1, 0, 1])}, "ab", channels=1)
        write_folder(tmp_path / "grey_folder", {f"train/{'ab'[i % 2]}/{i}": images[i] for i in range(4)})
        _assert_same(*_both("grey", "train", data_dir=tmp_path, cache_dir=tmp_path))
        _assert_same(*_both(f"folder:{tmp_path}/grey_folder", "train", cache_dir=tmp_path))

    @pytest.mark.parametrize(
        "key",
        [
            0,
            -1,
            np.int32(7),
            slice(None),
            slice(2, 90, 7),
            slice(50, 20, -3),
            slice(5, 5),
            [3, 3, 1],
            np.array([-1, 0]),
        ],
    )
    def test_indices_mean_what_they_mean_to_numpy(self, kinds, key):
        got = kinds["streamed"].images[key]
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, kinds["memory"].images[key])

    def test_masks_and_indices_outside(self, kinds):
        images = kinds["streamed"].images
        is_chosen = np.arange(100) % 3 == 0
        np.testing.assert_array_equal(images[is_chosen], kinds["memory"].images[is_chosen])
        for outside in (100, -101, [4, 100]):
            with pytest.raises(IndexError):
                images[outside]
        assert len(list(images)) == 100

    def test_opening_decodes_one_image_and_labels_are_cached(self, toy, tmp_path, monkeypatch):
        calls = []
        options = {"data_dir": toy[0], "cache_dir": tmp_path, "streamed": True}
        first = jdt.data.load("toy", "train", **options, progress=lambda *call: calls.append(call))
        assert calls == [(12, 12)]
        monkeypatch.setattr("jdt.data.streamed.decode_image", None)
        second = jdt.data.load("toy", "train", **options, progress=lambda *call: calls.append(call))
        assert len(calls) == 1
        assert second.fingerprint == first.fingerprint
        assert [path.name for path in tmp_path.iterdir()] == ["streamed"]

    @pytest.mark.parametrize(
        "damage",
        [
            lambda entry: os.truncate(entry / "labels.npy", 20),
            lambda entry: np.save(entry / "labels.npy", np.full(12, 9, np.int32)),
            lambda entry: (entry / "meta.json").unlink(),
            lambda entry: (entry / "meta.json").write_text('{"shape": [12], "identity": {}}'),
        ],
    )
    def test_damaged_labels_are_read_again(self, toy, tmp_path, damage, caplog):
        options = {"data_dir": toy[0], "cache_dir": tmp_path, "streamed": True}
        first = jdt.data.load("toy", "train", **options)
        (entry,) = (tmp_path / "streamed").iterdir()
        damage(entry)
        with caplog.at_level(logging.WARNING):
            again = jdt.data.load("toy", "train", **options)
        assert "is damaged" in caplog.text
        assert again.fingerprint == first.fingerprint
        np.testing.assert_array_equal(again.labels, first.labels)

    def test_the_fingerprint_follows_the_data_not_the_place(self, toy, pets, tmp_path):
        streamed, decoded = _both("toy", "train", data_dir=toy[0], cache_dir=tmp_path)
        assert streamed.fingerprint != decoded.fingerprint
        shutil.copytree(toy[0], tmp_path / "copy")  # With other times.
        other = {"data_dir": tmp_path / "copy", "cache_dir": tmp_path / "other"}
        assert jdt.data.load("toy", "train", streamed=True, **other).fingerprint == streamed.fingerprint
        shutil.copytree(pets, tmp_path / "pets")
        before, after = (
            jdt.data.load(f"folder:{path}", "train", cache_dir=tmp_path, streamed=True)
            for path in (pets, tmp_path / "pets")
        )
        assert before.fingerprint == after.fingerprint
        prints = [before.fingerprint]
        for options in ({"image_size": 5}, {"split": "train[:50%]"}):
            options = {"split": "train"} | options
            prints.append(jdt.data.load(f"folder:{pets}", cache_dir=tmp_path, streamed=True, **options).fingerprint)
        (tmp_path / "pets/train/a/00.png").write_bytes(encode(random_images(1, height=9, width=7)[0] // 2))
        prints.append(jdt.data.load(f"folder:{tmp_path}/pets", "train", cache_dir=tmp_path, streamed=True).fingerprint)
        assert len(set(prints)) == 4

    def test_unusable_labels_are_refused_at_once(self, toy, tmp_path):
        with pytest.raises(UserError, match="only one class, 'cat'"):
            jdt.data.load("toy", "train[:6]", data_dir=toy[0], cache_dir=tmp_path, streamed=True)
        assert list((tmp_path / "streamed").iterdir()) == []

    def test_mixed_sizes_are_found_when_read(self, tmp_path):
        images = [random_images(1)[0], random_images(1, height=8, width=5)[0]]
        build_images(tmp_path, "mixed", {"train": (images, [0, 1])}, "ab")
        streamed = jdt.data.load("mixed", "train", data_dir=tmp_path, cache_dir=tmp_path, streamed=True)
        with pytest.raises(
            UserError, match=r"example 0 of mixed\[train\] is 6x6, example 1 of .* is 5x8: pass image_s"
        ):
            streamed.images[1]


def _assert_same(streamed, decoded):
    assert streamed.images.shape == decoded.images.shape
    assert (streamed.images.dtype, streamed.images.ndim) == (np.uint8, 4)
    assert (streamed.name, streamed.class_names) == (decoded.name, decoded.class_names)
    assert streamed.image_shape == decoded.image_shape
    assert streamed.labels.dtype == np.int32
    np.testing.assert_array_equal(streamed.labels, decoded.labels)
    np.testing.assert_array_equal(np.asarray(streamed.images), decoded.images)


class TestReadChunks:
    @pytest.mark.parametrize("kind", ["streamed", "decoded", "memory"])
    @given(
        chunks=st.lists(st.lists(st.integers(0, 99), max_size=40), max_size=5),
        num_threads=st.integers(1, 3),
        ahead=st.integers(0, 3),
    )
    @settings(max_examples=15, deadline=None)
    def test_chunks_come_in_order_and_examples_as_asked_for(self, kinds, kind, chunks, num_threads, ahead):
        indices = [np.array(chunk, np.int32) for chunk in chunks]
        got = list(read_chunks(kinds[kind], indices, num_threads=num_threads, ahead=ahead))
        assert len(got) == len(chunks)
        for (images, labels), chunk in zip(got, indices, strict=True):
            assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
            np.testing.assert_array_equal(images, kinds["memory"].images[chunk])
            np.testing.assert_array_equal(labels, kinds["memory"].labels[chunk])

    def test_large_images_take_many_pieces(self):
        images = random_images(30, height=300, width=300)
        data = jdt.data.from_arrays("large", images, np.arange(30) % 2, "ab")
        order = np.random.default_rng(0).permutation(30)
        ((got, labels),) = read_chunks(data, [order], num_threads=3)
        np.testing.assert_array_equal(got, images[order])
        np.testing.assert_array_equal(labels, order % 2)

    @pytest.mark.parametrize("ahead", [0, 1, 2])
    def test_an_endless_iterable_is_taken_only_as_far_as_needed(self, kinds, ahead):
        taken = itertools.count()
        last = [-1]

        def endless():
            assert threading.current_thread() is threading.main_thread()
            for last[0] in taken:
                yield np.array([last[0] % 100])

        chunks = read_chunks(kinds["streamed"], endless(), ahead=ahead)
        assert last[0] == -1
        for given_so_far in range(5):
            images, _ = next(chunks)
            np.testing.assert_array_equal(images[0], kinds["memory"].images[given_so_far])
            assert last[0] == given_so_far + ahead
        chunks.close()

    def test_the_next_chunk_is_read_meanwhile(self, kinds, monkeypatch):
        read = threading.Event()
        get = StreamedImages.__getitem__
        monkeypatch.setattr(StreamedImages, "__getitem__", lambda *args: (99 in args[1] and read.set(), get(*args))[1])
        chunks = read_chunks(kinds["streamed"], [np.arange(50), np.arange(50, 100)])
        next(chunks)
        assert read.wait(timeout=30)
        chunks.close()

    @pytest.mark.parametrize("kind", ["streamed", "memory"])
    def test_closing_or_losing_it_ends_the_threads(self, kinds, kind):
        for end in (lambda chunks: chunks.close(), lambda _: None):
            chunks = read_chunks(kinds[kind], itertools.repeat(np.arange(100)), num_threads=4)
            next(chunks)
            end(chunks)
            del chunks
            assert _grain_threads() == []

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
    def test_an_error_of_the_callers_ends_the_threads(self, kinds, error):
        def train():
            for _ in read_chunks(kinds["streamed"], itertools.repeat(np.arange(100)), num_threads=4):
                raise error

        with pytest.raises(error):
            train()
        assert _grain_threads() == []

    def test_closing_does_not_wait_for_the_whole_chunk(self, kinds, monkeypatch):
        get = StreamedImages.__getitem__
        monkeypatch.setattr(StreamedImages, "__getitem__", lambda *args: (time.sleep(0.2), get(*args))[1])
        chunks = read_chunks(kinds["streamed"], [np.arange(1), np.tile(np.arange(100), 50)], num_threads=2)
        next(chunks)
        start = time.monotonic()
        chunks.close()
        assert time.monotonic() - start < 10  # 313 pieces in two threads would take 31 seconds.
        assert _grain_threads() == []

    def test_a_broken_image_is_named_when_its_chunk_is_due(self, tmp_path):
        images = random_images(100)
        write_folder(tmp_path / "pets", {f"train/{'ab'[i // 50]}/{i:02}": images[i] for i in range(100)})
        (tmp_path / "pets/train/b/77.png").write_bytes(encode(images[0])[:60])
        data = jdt.data.load(f"folder:{tmp_path}/pets", "train", cache_dir=tmp_path, streamed=True)
        (tmp_path / "pets/train/b/99.png").unlink()
        chunks = read_chunks(data, [np.arange(50), np.arange(50, 99), np.arange(50)])
        np.testing.assert_array_equal(next(chunks)[0], images[:50])
        with pytest.raises(UserError, match=r"train/b/77.png is not a readable image"):
            next(chunks)
        assert _grain_threads() == []
        assert list(chunks) == []
        with pytest.raises(UserError, match=r"train/b/99.png cannot be read \(No such file"):
            list(read_chunks(data, [np.array([99])]))

    def test_a_damaged_record_file_is_named(self, tmp_path):
        images = random_images(40, height=64, width=64)
        builder = build_images(tmp_path, "many", {"train": (images, np.arange(40) % 2)}, "ab")
        data = jdt.data.load("many", "train", data_dir=tmp_path, cache_dir=tmp_path, streamed=True)
        (path,) = builder.data_path.glob("*.array_record*")
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 100] = bytes(100)
        path.write_bytes(content)
        chunks = read_chunks(data, [np.arange(5), np.arange(40)])
        np.testing.assert_array_equal(next(chunks)[0], images[:5])
        with pytest.raises(UserError, match=r"example \d+ of many\[train\] (cannot be read|is not a readable image)"):
            next(chunks)

    @pytest.mark.parametrize(
        ("indices", "message"),
        [
            (np.array([3, 100]), r"points to example 100 of .*, which has 100"),
            (np.array([-1]), "points to example -1"),
            (np.array([1.5]), r"is float64 \[1\], but must be a row of integers"),
            (np.array([[1]]), r"is int64 \[1, 1\], but must"),
            (np.ones(100, bool), r"is bool \[100\], but must"),
        ],
    )
    def test_what_is_no_row_of_positions_is_refused(self, kinds, indices, message):
        with pytest.raises(UserError, match=message):
            next(read_chunks(kinds["memory"], [indices]))

    def test_too_few_threads_are_refused_at_once(self, kinds):
        with pytest.raises(UserError, match="num_threads is 0, but it must be at least 1"):
            read_chunks(kinds["memory"], [], num_threads=0)
        with pytest.raises(UserError, match="ahead is -1, but it must be at least 0"):
            read_chunks(kinds["memory"], [], ahead=-1)

    def test_grain_waits_until_the_first_chunk_and_brings_no_tensorflow(self):
        program = """
import sys
import numpy as np
import jdt.data
assert "grain" not in sys.modules
data = jdt.data.from_arrays("two", np.zeros((2, 2, 2, 1), np.uint8), [0, 1], "ab")
chunks = jdt.data.read_chunks(data, [np.arange(2)] * 3)
assert "grain" not in sys.modules
next(chunks)
assert "grain" in sys.modules
assert not sys.modules.keys() & {"tensorflow", "torch"}
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
