import io

import numpy as np
import pytest
from data_examples import encode, random_images, write_folder
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import jdt.data
from jdt.checks import UserError
from jdt.data import Look, View, crop_key, read_chunks
from jdt.data.decode import decode_crop, decode_image
from jdt.data.views import crop_draws

RANDOM = View("random-resized")


def picture(width, height, seed=0):
    """Structure of several scales, as photographs have it."""
    draw, out = np.random.default_rng(seed), np.zeros((height, width, 3))
    for cells in (3, 9, 27, 81):
        coarse = Image.fromarray(draw.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        out += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) / 4
    return out.astype(np.uint8)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**64 - 1), st.integers(0, 2**31))
def test_a_random_crop_lies_in_the_image_with_its_area_and_ratio(width, height, key, example):
    left, top, right, bottom = RANDOM.box(width, height, crop_draws(key, example))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    across, down = right - left, bottom - top
    if width / height < 4 / 3 and height / width < 4 / 3:
        assert (across + 0.5) * (down + 0.5) >= 0.08 * width * height * 0.9
        assert (across + 0.5) / max(down - 0.5, 0.1) >= 3 / 4
        assert (across - 0.5) / (down + 0.5) <= 4 / 3


def test_random_crops_are_spread_as_torchvision_draws_them():
    key = crop_key(3, 0)
    boxes = np.array([RANDOM.box(500, 375, crop_draws(key, i)) for i in range(2000)], float)
    across, down = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    draw = np.random.default_rng(0)
    area, ratio = draw.uniform(0.08, 1, 40000), np.exp(draw.uniform(np.log(3 / 4), np.log(4 / 3), 40000))
    sides = np.sqrt(500 * 375 * area * [ratio, 1 / ratio]).round()
    sides = sides[:, (sides[0] <= 500) & (sides[1] <= 375)]  # What does not fit is drawn again.
    for ours, theirs in ((across, sides[0]), (down, sides[1])):
        np.testing.assert_allclose(np.quantile(ours, [0.1, 0.5, 0.9]), np.quantile(theirs, [0.1, 0.5, 0.9]), rtol=0.04)
    where = boxes[:, 0] / np.maximum(500 - across, 1)
    assert abs(where.mean() - 0.5) < 0.03
    assert RANDOM.box(1000, 10, np.full(22, 0.5)) == (493, 0, 506, 10)  # Nothing fits: the centre.


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("PNG", "RGB"), ("JPEG", "L")])
def test_a_crop_is_pillows_crop_and_resize(kind, mode):
    raw = encode(picture(90, 70), kind)
    draws = crop_draws(5, 1)
    box = RANDOM.box(90, 70, draws)
    expected = Image.open(io.BytesIO(raw)).convert(mode).crop(box).resize((16, 16), Image.Resampling.BILINEAR)
    for draft in (False, True):  # The crop is too small for scaled decoding, so it makes no difference.
        found = decode_crop(raw, "x", mode=mode, size=16, view=RANDOM, draws=draws, draft=draft)
        np.testing.assert_array_equal(found, np.asarray(expected).reshape(16, 16, -1))


def test_scaled_decoding_of_a_large_jpeg_hardly_shows():
    raw, view = encode(picture(900, 700), "JPEG"), View("random-resized", scale=(0.5, 1.0))
    for example in range(3):
        options = {"mode": "RGB", "size": 48, "view": view, "draws": crop_draws(1, example)}
        exact, fast = (decode_crop(raw, "x", **options, draft=draft).astype(int) for draft in (False, True))
        assert 0 < np.abs(fast - exact).mean() < 1.0
        assert np.abs(fast - exact).max() <= 16


def test_still_views_cut_or_enlarge():
    pixels = picture(40, 30)
    raw = encode(pixels)
    found = decode_image(raw, "x", mode="RGB", size=None, view=View("center", keep=0.5))
    np.testing.assert_array_equal(found, pixels[7:22, 12:27])
    expected = Image.fromarray(pixels[2:28, 7:33]).resize((13, 13), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(
        decode_image(raw, "x", mode="RGB", size=13, view=View("center", keep=7 / 8)), np.asarray(expected)
    )
    square = random_images(1, 4, 4)[0]
    enlarged = decode_image(encode(square), "x", mode="RGB", size=12, view=View("native"))
    np.testing.assert_array_equal(enlarged, np.kron(square, np.ones((3, 3, 1), np.uint8)))
    with pytest.raises(UserError, match=r"x is 4x4, which cannot be enlarged to 6x6 by repeating pixels: pass a mult"):
        decode_image(encode(square), "x", mode="RGB", size=6, view=View("native"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Forty JPEG files of several sizes; some grey, one CMYK, one turned by its EXIF."""
    root = tmp_path_factory.mktemp("photos")
    write_folder(root, {f"train/{'ab'[i % 2]}/{i:02}": picture(20 + i, 50 - i, i) for i in range(38)}, "jpg")
    Image.fromarray(picture(30, 40)).convert("CMYK").save(root / "train/a/98.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(picture(30, 40)).convert("L").save(root / "train/b/99.jpg", exif=turned)
    return root


def test_crops_depend_on_seed_pass_and_example_alone(photos, tmp_path):
    data = jdt.data.load(f"folder:{photos}", "train", image_size=24, cache_dir=tmp_path, streamed=True)

    def shown(order, parts, threads, pass_number=3, seed=0):
        look = Look(8, RANDOM, crop_key(seed, pass_number))
        requests = [(rows, look) for rows in np.array_split(order, parts)]
        images = np.concatenate([images for images, _ in read_chunks(data, requests, num_threads=threads)])
        return images[np.argsort(order)]

    order = np.random.default_rng(0).permutation(40)
    once = shown(order, 1, 1)
    assert once.shape == (40, 8, 8, 3)
    np.testing.assert_array_equal(shown(np.arange(40), 7, 3), once)
    for other in (shown(order, 1, 1, pass_number=4), shown(order, 1, 1, seed=1)):
        assert (other != once).any(axis=(1, 2, 3)).mean() > 0.9
    some = data.images.chosen(order[:5])
    np.testing.assert_array_equal(some[1:3], data.images[order[1:3]])
    ((still, _),) = read_chunks(data, [(order, Look(8))])
    small = jdt.data.load(f"folder:{photos}", "train", image_size=8, cache_dir=tmp_path)
    np.testing.assert_array_equal(still, np.asarray(small.images)[order])
    with pytest.raises(UserError, match=r"are decoded already, so no crops can be cut .*--streamed"):
        next(read_chunks(small, [(order, Look(8, RANDOM, 1))]))


def test_a_view_has_a_cache_entry_and_fingerprint_of_its_own(photos, tmp_path):
    options = {"image_size": 8, "cache_dir": tmp_path}
    for streamed in (False, True):
        whole, part = (
            jdt.data.load(f"folder:{photos}", "train", streamed=streamed, view=view, **options)
            for view in (View(), View("center", keep=0.5))
        )
        assert whole.fingerprint != part.fingerprint
        again = jdt.data.load(f"folder:{photos}", "train", streamed=streamed, view=View("center", keep=0.5), **options)
        assert again.fingerprint == part.fingerprint
        np.testing.assert_array_equal(np.asarray(again.images), np.asarray(part.images))
    with pytest.raises(UserError, match="cannot be decoded once and for all"):
        jdt.data.load(f"folder:{photos}", "train", view=RANDOM, **options)


@pytest.mark.parametrize("streamed", [False, True])
def test_grey_and_alpha_images_become_what_is_asked_for(tmp_path, streamed):
    grey, clear = random_images(4, channels=1), random_images(4, channels=4)
    write_folder(tmp_path / "grey", {f"train/{'ab'[i % 2]}/{i}": grey[i] for i in range(4)})
    write_folder(tmp_path / "clear", {f"train/{'ab'[i % 2]}/{i}": clear[i] for i in range(4)})
    order = [0, 2, 1, 3]
    options = {"cache_dir": tmp_path, "streamed": streamed}
    load = jdt.data.load(f"folder:{tmp_path}/grey", "train", image_channels=3, **options)
    np.testing.assert_array_equal(np.asarray(load.images), grey[order].repeat(3, axis=-1))
    assert jdt.data.load(f"folder:{tmp_path}/grey", "train", **options).image_shape == (6, 6, 1)
    np.testing.assert_array_equal(
        np.asarray(jdt.data.load(f"folder:{tmp_path}/clear", "train", **options).images), clear[order, :, :, :3]
    )
    assert jdt.data.load(f"folder:{tmp_path}/clear", "train", image_channels=1, **options).image_shape == (6, 6, 1)
    with pytest.raises(UserError, match="image_channels is 4, but must be 1"):
        jdt.data.load(f"folder:{tmp_path}/grey", "train", image_channels=4, **options)
    with pytest.raises(UserError, match=r"have 4 channels, but must have 1 .*images\[..., :3\]"):
        jdt.data.from_arrays("clear", clear, [0, 1, 0, 1], "ab")


def test_streamed_images_of_several_sizes_ask_for_one(photos, tmp_path):
    data = jdt.data.load(f"folder:{photos}", "train", cache_dir=tmp_path, streamed=True)
    with pytest.raises(UserError, match=r"differ in size: \S+ is 20x50, \S+ is 22x48: pass image_size .--image-size"):
        list(read_chunks(data, [np.arange(3)]))
