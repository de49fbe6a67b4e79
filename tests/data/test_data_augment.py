import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data_examples import random_images
from hypothesis import given, settings
from hypothesis import strategies as st

from jdt.checks import UserError
from jdt.data import draw_windows, normalise, random_crop_flip


def _reference(key, images, pad, flip):
    """Pad, cut and mirror, one image at a time."""
    batch, height, width, _ = images.shape
    top, left, is_flipped = (np.asarray(x) for x in draw_windows(key, batch, pad=pad, flip=flip))
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows = []
    for i in range(batch):
        cut = padded[i, top[i] : top[i] + height, left[i] : left[i] + width]
        rows.append(cut[:, ::-1] if is_flipped[i] else cut)
    return np.stack(rows)


@given(
    seed=st.integers(0, 2**31), pad=st.sampled_from([0, 1, 3, 9]), flip=st.booleans(), height=st.sampled_from([1, 5])
)
@settings(max_examples=40, deadline=None)
def test_every_image_is_a_shifted_window(seed, pad, flip, height):
    images = random_images(5, height=height, width=4, seed=seed)
    key = jax.random.key(seed)
    got = random_crop_flip(key, jnp.asarray(images), pad=pad, flip=flip)
    assert got.dtype == jnp.uint8
    np.testing.assert_array_equal(got, _reference(key, images, pad, flip))


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.float32, jnp.bfloat16])
def test_no_pad_and_no_flip_is_the_identity(dtype):
    images = jnp.asarray(random_images(3)).astype(dtype)
    got = random_crop_flip(jax.random.key(0), images, pad=0, flip=False)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, images)


def test_jit_and_vmap_change_nothing():
    images = jnp.asarray(random_images(12)).reshape(3, 4, 6, 6, 3)
    keys = jax.random.split(jax.random.key(1), 3)
    together = jax.jit(jax.vmap(lambda key, batch: random_crop_flip(key, batch, pad=2, flip=True)))(keys, images)
    for i in range(3):
        np.testing.assert_array_equal(together[i], random_crop_flip(keys[i], images[i], pad=2, flip=True))


def test_there_is_no_convolution_and_no_loop_in_it():
    images = jnp.zeros((4, 8, 8, 3), jnp.uint8)
    program = str(jax.make_jaxpr(lambda key: random_crop_flip(key, images, pad=2, flip=True))(jax.random.key(0)))
    assert not any(name in program for name in ("conv_general", "while[", "scan[", "dynamic_slice"))


def test_windows_cover_their_range_evenly():
    top, left, is_flipped = draw_windows(jax.random.key(0), 5000, pad=2, flip=True)
    for offsets in (top, left):
        counts = np.bincount(offsets, minlength=5)
        assert len(counts) == 5
        assert np.abs(counts - 1000).max() < 5 * (5000 * 0.2 * 0.8) ** 0.5  # Five standard deviations.
    assert abs(int(is_flipped.sum()) - 2500) < 5 * (5000 * 0.25) ** 0.5
    assert not draw_windows(jax.random.key(0), 9, pad=2, flip=False).is_flipped.any()


def test_negative_pad_is_refused():
    with pytest.raises(UserError, match="pad is -1, but it must be at least 0"):
        random_crop_flip(jax.random.key(0), jnp.zeros((1, 2, 2, 1)), pad=-1, flip=False)


def test_normalise():
    images = random_images(3)
    mean, std = np.array([0.4, 0.5, 0.6], np.float32), np.array([0.2, 0.25, 0.3], np.float32)
    got = normalise(jnp.asarray(images), mean, std)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, (images / 255 - mean) / std, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(normalise(jnp.asarray(images), 0.0, 1.0), images / 255, rtol=1e-6)
    assert normalise(jnp.asarray(images)[None], mean, std).shape == (1, *images.shape)
