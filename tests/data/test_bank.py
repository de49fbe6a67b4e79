import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdt import data
from jdt.checks import UserError
from jdt.data import bank


def dataset(count=40, side=9):
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.uint8)
    return data.from_arrays("some", images, np.arange(count) % 2, ["a", "b"])


def resampled(image, top, left, down, across):
    """A box at the image's own size by PyTorch's rule: half-pixel centres, edges held."""
    height, width, _ = image.shape
    box = image[top : top + down, left : left + across].astype(float)

    def between(lines, length, size):
        place = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = np.floor(place).astype(int)
        part = (place - low)[:, None, None]
        return lines[low] * (1 - part) + lines[np.minimum(low + 1, length - 1)] * part

    columns = between(between(box, down, height).transpose(1, 0, 2), across, width)
    return columns.transpose(1, 0, 2)


def test_a_view_depends_on_seed_view_and_position_alone():
    some = dataset()
    views = data.augmented_views(some, 3, seed=1)
    assert views.images.shape == (120, 9, 9, 3)
    assert views.labels.tolist() == some.labels.tolist() * 3
    fewer = data.augmented_views(some.part(np.arange(10)), 2, seed=1)
    np.testing.assert_array_equal(fewer.images.reshape(2, 10, 9, 9, 3), views.images.reshape(3, 40, 9, 9, 3)[:2, :10])
    other = data.augmented_views(some, 3, seed=2)
    assert (other.images != views.images).mean() > 0.5
    prints = {views.fingerprint, other.fingerprint, data.augmented_views(some, 3, seed=1, flip=False).fingerprint}
    assert len(prints) == 3


def test_crops_are_drawn_as_the_reference_draws_them():
    draws = np.random.default_rng(0).random((3000, bank.NUM_DRAWS - 1)).astype(np.float32)
    boxes = jax.jit(jax.vmap(lambda draw: jnp.stack(bank.crop_box(draw, 32, 24, (0.5, 1.0)))))(draws)
    top, left, down, across = np.asarray(boxes).T
    assert (down <= 32).all()
    assert (across <= 24).all()
    assert (top + down <= 32).all()
    assert (left + across <= 24).all()
    area, ratio = down * across / (32 * 24), across / down
    assert 0.47 < area.min() < 0.53
    assert area.max() > 0.95
    assert ratio.min() > 0.7
    assert ratio.max() < 1.42
    assert len(np.unique(top)) > 8


def test_images_are_resampled_bilinearly_and_mirrored():
    image = dataset().images[0]
    for box in [(1, 2, 7, 6), (0, 0, 9, 9)]:
        whole = [jnp.asarray(x) for x in box]
        plain = bank._resampled(jnp.asarray(image), *whole, jnp.asarray(False))
        assert np.abs(np.asarray(plain) - resampled(image, *box)).max() <= 0.501
        mirrored = bank._resampled(jnp.asarray(image), *whole, jnp.asarray(True))
        np.testing.assert_array_equal(mirrored, plain[:, ::-1])


def test_how_many_images_are_cut_together_changes_nothing(monkeypatch):
    whole = data.augmented_views(dataset(), 2, seed=1)
    monkeypatch.setattr(bank, "_PIXELS_AT_ONCE", 15 * 9 * 9 * 3)
    np.testing.assert_array_equal(data.augmented_views(dataset(), 2, seed=1).images, whole.images)


def test_a_bank_that_no_memory_holds_is_refused(monkeypatch):
    monkeypatch.setattr(bank, "host_memory", lambda: 2 * 40 * 9 * 9 * 3 - 1)
    with pytest.raises(UserError, match=r"2 views of the 40 images of some, 9x9x3 each, take 0.0 GiB, but this"):
        data.augmented_views(dataset(), 2, seed=1)


def test_views_that_cannot_be_made_are_refused():
    with pytest.raises(UserError, match="num_views is 0"):
        data.augmented_views(dataset(), 0, seed=0)
    with pytest.raises(UserError, match="two rising parts"):
        data.augmented_views(dataset(), 1, seed=0, scale=(0.0, 1.0))


def test_a_whole_crop_without_flip_is_the_image():
    some = dataset()
    ratio_one = bank._cut_views(jax.random.key(0), jnp.asarray(some.images), jnp.arange(40), False, (1.0, 1.0))
    same = (np.asarray(ratio_one) == some.images).all(axis=(1, 2, 3))
    assert same.any()  # Those whose aspect ratio came out as one, or where no draw fitted.
