import numpy as np
import pytest
from data_examples import build_images, encode, random_images, write_folder
from PIL import Image

import jdt.data
from jdt.checks import UserError
from jdt.data import folder_source


def test_split_folders(tmp_path):
    images = random_images(6)
    members = {f"train/{c}/{i}": images[i] for i, c in enumerate("abab")}
    write_folder(tmp_path / "pets", members | {"test/a/4": images[4], "test/b/5": images[5]})
    train = jdt.data.load(f"folder:{tmp_path}/pets", "train", cache_dir=tmp_path)
    assert train.class_names == ("a", "b")
    np.testing.assert_array_equal(train.labels, [0, 0, 1, 1])
    np.testing.assert_array_equal(train.images, images[[0, 2, 1, 3]])
    assert jdt.data.evaluation_split(f"folder:{tmp_path}/pets") == "test"
    assert len(jdt.data.load(f"folder:{tmp_path}/pets", "train+test", cache_dir=tmp_path)) == 6


def test_without_split_folders_a_fifth_is_held_out_for_good(tmp_path):
    images = random_images(200, height=2, width=2)
    root = write_folder(tmp_path / "pets", {f"{'ab'[i % 2]}/{i:03}": images[i] for i in range(200)})
    before = folder_source.find_splits(root)
    assert sorted(before["train"] + before["test"]) == sorted(f"{'ab'[i % 2]}/{i:03}.png" for i in range(200))
    # Binomial(200, 1/5): five standard deviations around 40.
    assert abs(len(before["test"]) - 40) < 5 * (200 * 0.16) ** 0.5
    write_folder(root, {"a/new": images[0]})
    after = folder_source.find_splits(root)
    assert set(before["train"]) <= set(after["train"])
    assert set(before["test"]) <= set(after["test"])


def test_a_slice_holds_a_bit_of_every_class_and_slices_share_out_the_split(tmp_path):
    images = random_images(40, height=2, width=2)
    root = write_folder(tmp_path / "pets", {f"train/{'ab'[i // 20]}/{i:03}": images[i] for i in range(40)})
    splits = folder_source.find_splits(root)
    halves = [folder_source.select(splits, part, "pets") for part in ("train[:50%]", "train[50%:]")]
    assert sorted(halves[0] + halves[1]) == splits["train"]
    assert {name.split("/")[1] for name in halves[0]} == {"a", "b"}


def test_the_same_data_from_tfds_and_from_a_folder_have_one_fingerprint(toy, tmp_path):
    data_dir, splits = toy
    images, labels = splits["train"]
    names = ["cat", "dog"]
    members = {
        f"train/{names[label]}/{i:02}": image for i, (image, label) in enumerate(zip(images, labels, strict=True))
    }
    write_folder(tmp_path / "toy", members)
    folder = jdt.data.load(f"folder:{tmp_path}/toy", "train", cache_dir=tmp_path)
    record = jdt.data.load("toy", "train", data_dir=data_dir, cache_dir=tmp_path)
    memory = jdt.data.from_arrays("toy", images, labels, names)
    assert folder.fingerprint == record.fingerprint == memory.fingerprint
    assert len(folder.fingerprint) == 16
    assert folder.fingerprint != jdt.data.from_arrays("toy", images, labels, ["cat", "cow"]).fingerprint
    assert folder.fingerprint != jdt.data.from_arrays("toy", images, 1 - labels, names).fingerprint
    assert folder.fingerprint != jdt.data.from_arrays("toy", 255 - images, labels, names).fingerprint


@pytest.mark.parametrize("kind", ["png", "bmp", "jpg", "webp", "gif"])
def test_every_file_type(tmp_path, kind):
    flat = np.full((2, 4, 4, 3), 0, np.uint8)
    flat[1] = 255
    write_folder(tmp_path / "pets", {"train/a/0": flat[0], "train/b/1": flat[1]}, kind)
    got = jdt.data.load(f"folder:{tmp_path}/pets", "train", cache_dir=tmp_path)
    np.testing.assert_allclose(got.images.astype(int), flat, atol=2)  # JPEG and WebP may be off by a little.


def test_one_colour_image_makes_all_rgb(tmp_path):
    grey, colour = random_images(1, channels=1)[0], random_images(1)[0]
    write_folder(tmp_path / "grey", {"train/a/0": grey, "train/b/1": grey})
    write_folder(tmp_path / "both", {"train/a/0": grey, "train/b/1": colour})
    assert jdt.data.load(f"folder:{tmp_path}/grey", "train", cache_dir=tmp_path).image_shape == (6, 6, 1)
    both = jdt.data.load(f"folder:{tmp_path}/both", "train", cache_dir=tmp_path)
    np.testing.assert_array_equal(both.images, [np.repeat(grey, 3, axis=2), colour])


def test_palettes_and_alpha_become_rgb(tmp_path):
    pixels = random_images(1)[0]
    (tmp_path / "pets/train/a").mkdir(parents=True)
    (tmp_path / "pets/train/b").mkdir()
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "pets/train/a/0.png")
    paletted = Image.fromarray(pixels).quantize(4)
    paletted.save(tmp_path / "pets/train/b/1.png")
    got = jdt.data.load(f"folder:{tmp_path}/pets", "train", cache_dir=tmp_path)
    np.testing.assert_array_equal(got.images, [pixels, np.asarray(paletted.convert("RGB"))])


def test_resizing_keeps_the_centre_square(tmp_path):
    # 8 wide, 4 high; the outer columns are black and must not be seen.
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:6] = 200
    write_folder(tmp_path / "pets", {"train/a/0": image, "train/b/1": image.swapaxes(0, 1)})
    same_height = jdt.data.load(f"folder:{tmp_path}/pets", "train", cache_dir=tmp_path, image_size=4)
    np.testing.assert_array_equal(same_height.images, np.full((2, 4, 4, 3), 200))


def test_shrinking_is_antialiased_and_the_right_size_passes_unchanged(tmp_path):
    checks = np.indices((8, 8)).sum(axis=0)[:, :, None] % 2 * np.full(3, 255)
    checks = checks.astype(np.uint8)
    write_folder(tmp_path / "pets", {"train/a/0": checks, "train/b/1": checks})
    name = f"folder:{tmp_path}/pets"
    shrunk = jdt.data.load(name, "train", cache_dir=tmp_path, image_size=2).images
    assert np.abs(shrunk.astype(int) - 127).max() < 12  # Without antialiasing: 0 or 255.
    np.testing.assert_array_equal(jdt.data.load(name, "train", cache_dir=tmp_path, image_size=8).images[0], checks)


def _broken(root, content):
    write_folder(root, {"train/a/0": random_images(1)[0], "train/b/1": random_images(1)[0]})
    (root / "train/b/bad.png").write_bytes(content)


@pytest.mark.parametrize("content", [b"", b"not an image", encode(random_images(1)[0])[:60]])
def test_a_broken_file_is_named(tmp_path, content):
    _broken(tmp_path / "pets", content)
    with pytest.raises(UserError, match=r"train/b/bad.png is not a readable image"):
        jdt.data.load(f"folder:{tmp_path}/pets", "train", cache_dir=tmp_path)


def test_sixteen_bits_are_refused(tmp_path):
    write_folder(tmp_path / "pets", {"train/a/0": random_images(1)[0]})
    (tmp_path / "pets/train/b").mkdir()
    Image.fromarray(np.full((6, 6), 40000, np.uint16)).save(tmp_path / "pets/train/b/deep.png")
    with pytest.raises(UserError, match=r"deep.png has more than 8 bits a channel"):
        jdt.data.load(f"folder:{tmp_path}/pets", "train", cache_dir=tmp_path)


def test_mixed_sizes_name_two_files(tmp_path):
    members = {"train/a/0": random_images(1)[0], "train/b/1": random_images(1, height=7)[0]}
    write_folder(tmp_path / "pets", members)
    with pytest.raises(UserError, match=r"train/a/0.png is 6x6, \S*train/b/1.png is 6x7: pass image_size"):
        jdt.data.load(f"folder:{tmp_path}/pets", "train", cache_dir=tmp_path)


def test_missing_empty_and_lonely_folders(tmp_path):
    (tmp_path / "empty/train/a").mkdir(parents=True)
    (tmp_path / "empty/train/a/notes.txt").write_text("no image")
    write_folder(tmp_path / "one", {"train/a/0": random_images(1)[0]})
    for name, split, message in [
        ("absent", "train", "there is no folder"),
        ("empty", "train", "holds no images"),
        ("one", "test", r"has no split 'test'; known: train"),
        ("one", "train[", r"has no split 'train\['; known: train"),
        ("one", "train", "only one class, 'a'"),
        ("one", "train[:0]", "is empty"),
    ]:
        with pytest.raises(UserError, match=message):
            jdt.data.load(f"folder:{tmp_path}/{name}", split, cache_dir=tmp_path)


def test_tfds_and_folder_agree_after_resizing(tmp_path):
    images, labels = random_images(4, height=9, width=7), [0, 0, 1, 1]
    build_images(tmp_path, "tall", {"train": (images, labels)}, "ab")
    write_folder(tmp_path / "tall_folder", {f"train/{'ab'[labels[i]]}/{i}": images[i] for i in range(4)})
    record = jdt.data.load("tall", "train", data_dir=tmp_path, cache_dir=tmp_path, image_size=5)
    folder = jdt.data.load(f"folder:{tmp_path}/tall_folder", "train", cache_dir=tmp_path, image_size=5)
    assert record.fingerprint == folder.fingerprint
