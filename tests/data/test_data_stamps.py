"""Stamps of examples, on the host and on the device; parts of a dataset."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdt import config
from jdt.checks import UserError
from jdt.data import NO_STAMP, Stamps, as_shown, from_arrays, regrouped, stamp_batch, stamped_pixels, with_stamps

SHAPE, COUNT = (4, 5, 3), 12


def made(seed, stamps=2):
    """Random images, and random stamps on two thirds of them."""
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 256, (COUNT, *SHAPE)).astype(np.uint8)
    data = from_arrays("noise", images, np.arange(COUNT) % 2, ["a", "b"])
    gain = draw.integers(0, 256, (stamps, *SHAPE)).astype(np.uint8)
    shift = draw.integers(-255 * 255, 255 * 255 + 1, (stamps, *SHAPE)).astype(np.int32)
    return data, Stamps(gain, shift, draw.integers(-1, stamps, COUNT).astype(np.int32))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_pixels_are_the_rounded_map_on_the_host_and_on_the_device(seed):
    data, stamps = made(seed)
    for stamp in range(2):
        gain, shift = stamps.gain[stamp], stamps.shift[stamp]
        exact = np.floor((gain.astype(np.float64) * data.images + shift) / 255 + 0.5).clip(0, 255)
        host = stamped_pixels(data.images, gain, shift)
        np.testing.assert_array_equal(host, exact)
        on_device = stamped_pixels(*map(jnp.asarray, (data.images, gain, shift)))
        assert on_device.dtype == jnp.uint8
        np.testing.assert_array_equal(on_device, host)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31))
def test_a_batch_looks_as_the_dataset_shows_it(seed):
    data, stamps = made(seed)
    carrying = with_stamps(data, stamps)
    shown = as_shown(carrying)
    for image, which, before in zip(shown.images, stamps.of_example, data.images, strict=True):
        expected = before if which == NO_STAMP else stamped_pixels(before, stamps.gain[which], stamps.shift[which])
        np.testing.assert_array_equal(image, expected)
    assert shown.stamps is None
    assert as_shown(shown) is shown
    np.testing.assert_array_equal(carrying.images, data.images)  # What was loaded stays as it is.
    batch = np.random.default_rng(seed).integers(0, COUNT, 8)
    on_device = stamp_batch(jnp.asarray(data.images[batch]), stamps, jnp.asarray(batch))
    np.testing.assert_array_equal(on_device, shown.images[batch])


def test_stamps_follow_their_examples_into_a_part():
    data, stamps = made(0)
    carrying, rows = with_stamps(data, stamps), np.array([7, 0, 7, 3])
    part = carrying.part(rows, "some")
    assert (part.name, len(part), carrying.part(rows).name) == ("some", 4, "noise")
    np.testing.assert_array_equal(as_shown(part).images, as_shown(carrying).images[rows])
    np.testing.assert_array_equal(part.labels, data.labels[rows])
    np.testing.assert_array_equal(part.stamps.of_example, stamps.of_example[rows])
    assert data.part(rows).stamps is None
    assert part.fingerprint == config.fingerprint([carrying.fingerprint, rows.tolist()])
    other = regrouped(carrying, {"second": ["b"], "first": ["a"]})
    shown = as_shown(carrying).images
    np.testing.assert_array_equal(as_shown(other).images, np.concatenate([shown[1::2], shown[::2]]))
    versions = dataclasses.replace(carrying, version_of=np.zeros(COUNT, np.int32))
    assert versions.part(rows).version_of is None


def test_what_is_shown_decides_the_fingerprint():
    data, stamps = made(0)
    moved = stamps._replace(of_example=np.roll(stamps.of_example, 1))
    found = {with_stamps(data, one).fingerprint for one in (stamps, moved, stamps._replace(gain=stamps.gain + 1))}
    assert len({data.fingerprint, *found}) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gain": np.zeros((1, 8, 8, 3), np.uint8)}, r"of \(8, 8, 3\) do not fit"),
        ({"of_example": np.zeros(5, np.int32)}, r"12 examples and there are 2 stamps.*shape \(5,\)"),
        ({"of_example": np.full(COUNT, 2, np.int32)}, "from -1 to 2"),
        ({"of_example": np.full(COUNT, -2, np.int32)}, "from -2"),
    ],
)
def test_stamps_that_do_not_fit_are_refused(change, words):
    data, stamps = made(0)
    with pytest.raises(UserError, match=words):
        with_stamps(data, stamps._replace(**change))
