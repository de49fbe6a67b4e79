"""Contrastive augmentation on images that are made so that the right answer is known."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jdt import data
from jdt.checks import UserError
from jdt.data import augmentation

OFF = data.Augmentation(
    crop_scale=(1.0, 1.0), flip=False, jitter_probability=0.0, grey_probability=0.0, blur_probability=0.0
)
KEY = jax.random.key(3)


def images(channels=3, count=64, height=8, width=8):
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (count, height, width, channels)), jnp.uint8)


def drawn(settings, pixels):
    return np.asarray(jax.jit(data.augmented, static_argnums=2)(KEY, pixels, settings))


def planes(pixels):
    return tuple(jnp.moveaxis(jnp.asarray(pixels, jnp.float32), -1, 0))


def run(function, pixels, *args):
    return np.stack(jax.jit(function)(planes(pixels), *map(jnp.asarray, args)), axis=-1)


def changed(**settings):
    return data.Augmentation(**{**vars(OFF), **settings})


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_but_whole_crops_is_the_identity_and_flips_are_mirrors(channels):
    shown = np.asarray(images(channels))
    np.testing.assert_array_equal(drawn(OFF, images(channels)), shown)
    flipped = drawn(changed(flip=True), images(channels))
    is_flipped = np.array([not np.array_equal(view, image) for view, image in zip(flipped, shown, strict=True)])
    np.testing.assert_array_equal(flipped[is_flipped], shown[is_flipped][:, :, ::-1])
    assert 16 < is_flipped.sum() < 48  # Of 64; each bound is four deviations away.


def test_crops_are_boxes_resized_bilinearly():
    pixels = np.asarray(images(height=9, width=12), np.float32)[:3] / 255
    top, left, down, across = ([1, 0, 4], [2, 5, 0], [4, 9, 5], [6, 7, 12])
    found = run(augmentation.cropped, pixels, top, left, down, across, [False, True, False])
    for i in range(3):
        box = pixels[i, top[i] : top[i] + down[i], left[i] : left[i] + across[i]]
        rows, columns = ((np.arange(n) + 0.5) * size / n - 0.5 for n, size in ((9, down[i]), (12, across[i])))
        grid = np.meshgrid(rows, columns, indexing="ij")
        want = np.stack([ndimage.map_coordinates(box[..., c], grid, order=1, mode="nearest") for c in range(3)], -1)
        np.testing.assert_allclose(found[i], want[:, ::-1] if i == 1 else want, atol=1e-5)


def test_crops_keep_to_their_scale():
    """Of an image whose pixels are its coordinates, a view's range tells the sides of its crop."""
    ramp = np.stack(np.meshgrid(np.arange(0, 256, 8), np.arange(0, 256, 8)), -1)[None].repeat(64, 0)
    views = drawn(changed(crop_scale=(0.25, 0.5)), jnp.asarray(ramp, jnp.uint8)).astype(int)
    sides = (views.max(axis=(1, 2)) - views.min(axis=(1, 2))) / 8 + 1  # Outermost centres of pixels, and half a one.
    area, ratio = np.prod(sides, axis=1) / 32**2, sides[:, 0] / sides[:, 1]
    assert area.min() > 0.2
    assert area.max() < 0.55
    assert (ratio.min() < 0.9) & (ratio.max() > 1.1)
    assert len(np.unique(views.min(axis=(1, 2)), axis=0)) > 20  # Places differ.


def test_jitter_is_what_a_loop_over_pixels_does():
    draw = np.random.default_rng(1)
    pixels = draw.random((6, 4, 5, 3)).astype(np.float32)
    brightness, contrast, saturation, hue = draw.uniform(-0.4, 0.4, (4, 6)).astype(np.float32)
    found = run(augmentation.jittered, pixels, brightness, contrast, saturation, hue)
    weights = np.array([0.299, 0.587, 0.114])
    want = np.clip(pixels * (1 + brightness[:, None, None, None]), 0, 1)
    level = (want @ weights).mean(axis=(1, 2))[:, None, None, None]
    want = np.clip(level + (1 + contrast[:, None, None, None]) * (want - level), 0, 1)
    level = (want @ weights)[..., None]
    want = np.clip(level + (1 + saturation[:, None, None, None]) * (want - level), 0, 1)
    for place in np.ndindex(want.shape[:3]):
        h, s, v = colorsys.rgb_to_hsv(*want[place])
        want[place] = colorsys.hsv_to_rgb((h + hue[place[0]]) % 1, s, v)
    np.testing.assert_allclose(found, want, atol=2e-5)
    one = run(augmentation.jittered, pixels[..., :1], 0 * brightness, contrast, saturation, hue)
    level = pixels[..., :1].mean(axis=(1, 2), keepdims=True)
    want = np.clip(level + (1 + contrast[:, None, None, None]) * (pixels[..., :1] - level), 0, 1)
    np.testing.assert_allclose(one, want, atol=1e-6)


def test_jitter_keeps_its_bounds_and_its_share():
    flat = jnp.full((400, 2, 2, 3), 100, jnp.uint8)
    views = drawn(changed(jitter=(0.3, 0.0, 0.0, 0.0), jitter_probability=0.5), flat)
    assert (views == views[:, :1, :1, :1]).all()  # All pixels of an image change alike.
    level = views[:, 0, 0, 0]
    assert (level.min() >= 70) & (level.min() < 74) & (level.max() <= 130) & (level.max() > 126)
    assert 150 < np.sum(level == 100) < 255  # Half, and a sixtieth of those that change.


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_grey_views_are_grey_and_so_many(share):
    shown, views = np.asarray(images(count=400)), drawn(changed(grey_probability=share), images(count=400))
    is_grey = np.any(views != shown, axis=(1, 2, 3))
    assert abs(is_grey.mean() - share) < 0.1
    level = np.floor(shown[is_grey] @ np.array([0.299, 0.587, 0.114]) + 0.5)
    assert np.abs(views[is_grey] - level[..., None]).max() <= 1
    assert (views[is_grey] == views[is_grey][..., :1]).all()
    np.testing.assert_array_equal(drawn(changed(grey_probability=1.0), images(1)), np.asarray(images(1)))


@pytest.mark.parametrize("side", [1, 48])
def test_blur_is_scipys(side):
    pixels = np.random.default_rng(2).random((3, side, side + 1, 2)).astype(np.float32)
    sigma = np.array([0.1, 0.9, 2.0], np.float32)
    found = run(augmentation.blurred, pixels, sigma)
    for i in range(3):
        want = pixels[i].astype(float)
        for axis in (0, 1):
            reach = augmentation.blur_reach(want.shape[axis])
            if reach:
                want = ndimage.gaussian_filter1d(want, sigma[i], axis, mode="mirror", radius=reach)
        np.testing.assert_allclose(found[i], want, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_scale": (0.0, 1.0)}, "crop-scale"),
        ({"jitter": (0.4, 0.4, 0.4, 0.7)}, r"jitter is \(0.4, 0.4, 0.4, 0.7\), .* 0.5 of a turn"),
        ({"grey_probability": 1.5}, "grey-probability is 1.5"),
        ({"blur_sigma": (0.0, 1.0)}, "blur-sigma is"),
    ],
)
def test_impossible_augmentation_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        data.Augmentation(**settings)


def test_colors_of_other_channels_are_refused():
    with pytest.raises(UserError, match="two has images of 2 channels, but jitter and greyscale know one or three"):
        data.Augmentation().check("two", 2)
    OFF.check("two", 2)
