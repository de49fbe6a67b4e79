"""Rendering shifts against SciPy and NumPy in float64, and what they leave as it was."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from jdt.checks import UserError
from jdt.data import SHIFTS, from_arrays, load, parse_shift, shifted
from jdt.data import shifts as module

RNG = np.random.default_rng(0)


def images_of(channels, height=11, width=13, count=5):
    """Noise, smooth ramps, and the ends of the range."""
    images = RNG.integers(0, 256, (count, height, width, channels), np.uint8)
    images[1] = np.linspace(0, 255, width).astype(np.uint8)[None, :, None]
    images[2, : height // 2], images[2, height // 2 :] = 0, 255
    images[3] = 255
    return images


def edges(images, strength):
    grey = images[..., 0]
    if images.shape[-1] == 3:
        grey = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
    steps = [[ndimage.sobel(one.astype(float), axis, mode="nearest") for axis in (0, 1)] for one in grey]
    return np.broadcast_to((strength / 4 * np.array([np.hypot(*both) for both in steps]))[..., None], images.shape)


def pixelation(images, side):
    side, made = int(side), np.empty(images.shape)
    for top in range(0, images.shape[1], side):
        for left in range(0, images.shape[2], side):
            block = np.s_[:, top : top + side, left : left + side]
            made[block] = images[block].mean(axis=(1, 2), keepdims=True)
    return made


ORACLES = {
    "edges": edges,
    "inversion": lambda images, _: 255.0 - images,
    "colour-swap": lambda images, places: np.roll(images, int(places), axis=-1),
    "blur": lambda images, deviation: ndimage.gaussian_filter(
        images.astype(float), (0, deviation, deviation, 0), mode="nearest", truncate=4
    ),
    "pixelation": pixelation,
    "contrast": lambda images, factor: (1 - factor) * images.mean(axis=(1, 2), keepdims=True) + factor * images,
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "text", [*SHIFTS, "edges:2.5", "colour-swap:2", "blur:0.4", "blur:6", "pixelation:3", "pixelation:50", "contrast:2"]
)
def test_shifts_are_what_float64_gives(monkeypatch, text, channels):
    if channels == 1 and text.startswith("colour-swap"):
        return
    monkeypatch.setattr(module, "_PIXELS_AT_ONCE", 2 * 11 * 13 * channels)  # Two images at once: an odd one is left.
    images, shift = images_of(channels), parse_shift(text)
    data = from_arrays("toy[test]", images, [0, 1, 0, 1, 0], ["a", "b"])
    made = shifted(data, shift)
    exact = np.clip(np.asarray(ORACLES[shift.kind](images, shift.strength)), 0, 255)
    assert made.images.dtype == np.uint8
    assert np.abs(made.images - exact).max() <= 0.5 + 1e-4 * 255  # To the pixel, but for halves.
    assert (made.images != images).any()
    assert made.name == f"toy[test]+{text}"
    assert made.labels is data.labels
    assert len({data.fingerprint, made.fingerprint, shifted(data, parse_shift("contrast:0.7")).fingerprint}) == 3


def test_a_name_reads_back_and_says_no_default():
    for text in (*SHIFTS, "blur:1.5", "pixelation:4", "contrast:0.25"):
        assert parse_shift(text).name == text
    assert parse_shift("blur:1") == SHIFTS["blur"] == parse_shift("blur:1.0")
    assert parse_shift("blur:1").name == "blur"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blurr", "unknown shift 'blurr'; known: edges, inversion"),
        ("blur:", "'' is no number"),
        ("blur:0", "blur is 0, but must be a positive standard deviation"),
        ("blur:nan", "blur is nan"),
        ("inversion:2", "must be left out"),
        ("colour-swap:3", "must be 1 or 2 places"),
        ("pixelation:1.5", "must be a whole number of pixels"),
        ("contrast:1", "and not 1"),
        ("edges:-1", "must be a positive factor"),
    ],
)
def test_a_shift_that_cannot_be_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        parse_shift(text)


def test_data_that_cannot_be_shifted_is_refused(tmp_path):
    grey = from_arrays("grey", images_of(1), [0, 1, 0, 1, 0], ["a", "b"])
    with pytest.raises(UserError, match="grey are grey, which colour-swap does nothing to"):
        shifted(grey, SHIFTS["colour-swap"])
    with pytest.raises(UserError, match="is streamed"):
        shifted(load("jdt_digits", "test[:40]", cache_dir=tmp_path, streamed=True), SHIFTS["blur"])
