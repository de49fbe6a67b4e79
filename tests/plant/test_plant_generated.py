"""Procedural images: the same from the same key, whatever comes beside them; textures that can be told apart."""

import numpy as np
import pytest

import jdt


@pytest.mark.parametrize("make", [jdt.plant.textures, jdt.plant.random_pixels])
def test_images_depend_on_seed_and_place_alone(make):
    few, many = make(6, (8, 8, 1), seed=3, num_classes=4), make(70, (8, 8, 1), seed=3, num_classes=4)
    np.testing.assert_array_equal(few.images, many.images[:6])
    np.testing.assert_array_equal(many.labels, np.arange(70) % 4)
    other = make(6, (8, 8, 1), seed=4, num_classes=4)
    assert (few.images != other.images).mean() > 0.5
    assert len({few.fingerprint, many.fingerprint, other.fingerprint}) == 3
    assert make(2, (5, 7, 3), seed=0).image_shape == (5, 7, 3)


def test_textures_can_be_told_apart_and_pixels_cannot():
    # Directions of waves are where the energy of gradients is: two numbers an image tell half of the classes.
    data = jdt.plant.textures(600, (16, 16, 3), seed=0, num_classes=2)
    pixels = data.images.mean(axis=-1)
    is_across = np.abs(np.diff(pixels, axis=2)).mean(axis=(1, 2)) < np.abs(np.diff(pixels, axis=1)).mean(axis=(1, 2))
    assert (is_across == data.labels).mean() > 0.95
    noise = jdt.plant.random_pixels(600, (8, 8, 1), seed=0).images
    assert abs(noise.mean() - 127.5) < 1
    assert abs(noise.std() - 73.9) < 1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: jdt.plant.textures(4, (8, 8, 1), seed=0, num_classes=13), "2 to 12"),
        (lambda: jdt.plant.textures(1, (8, 8, 1), seed=0), "at least 2"),
        (lambda: jdt.plant.random_pixels(4, (8, 8, 1), seed=0, num_classes=1), "at least 2"),
        (lambda: jdt.data.greyed(jdt.plant.textures(2, (8, 8, 1), seed=0)), "are grey already"),
    ],
)
def test_bad_input_is_refused(call, says):
    with pytest.raises(jdt.UserError, match=says):
        call()


def test_grey_images_are_those_of_pillow():
    from PIL import Image

    data = jdt.plant.random_pixels(3, (6, 5, 3), seed=0)
    grey = jdt.data.greyed(data).images
    for image, made in zip(data.images, grey, strict=True):
        expected = np.asarray(Image.fromarray(image).convert("L"))
        np.testing.assert_array_equal(made, np.repeat(expected[..., None], 3, axis=-1))
