"""Source images that nobody took: procedural textures that can be told apart, and random pixels that cannot.

Image i depends on (seed, i), its class and its shape alone, so that the first images of a larger set are the smaller
set. Classes take turns: image i is of class `i % num_classes`.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jdt import checks, config
from jdt.data import Dataset
from jdt.keys import key_for
from jdt.types import Array, Float, Int, PRNGKey, UInt8

_AT_ONCE = 4096
_NOISE = 0.04  # Standard deviation, of the whole range.
_LEAST_CONTRAST = 0.35  # Of the two colours of a texture, in the channel where they differ most.

TEXTURES = (
    "waves at 0 degrees", "waves at 90 degrees", "checks", "rings", "blobs", "waves at 45 degrees",
    "waves at 135 degrees", "dots", "lines at 0 degrees", "lines at 90 degrees", "lines at 45 degrees",
    "lines at 135 degrees",
)  # fmt: skip
"""Names of the classes of textures."""


def textures(count: int, image_shape: tuple[int, int, int], *, seed: int, num_classes: int = len(TEXTURES)) -> Dataset:
    """Draw textures: waves, lines, checks, rings, dots and blobs of random scale, phase and colours.

    Every image has two colours and a pattern between them, and a little noise. What the class fixes is the kind of
    pattern and its direction; the length of a wave is drawn from 2.5 pixels to two thirds of the shorter side.

    Args:
      count: Images, at least two.
      image_shape: Height, width, and 1 or 3 channels.
      seed: Root seed, or nonce, of the study.
      num_classes: The first so many of `TEXTURES`.

    Returns:
      The images, image i of class `i % num_classes`.

    Raises:
      UserError: If there are fewer than two images or classes, or more classes than kinds of texture.

    >>> made = textures(12, (8, 8, 1), seed=0, num_classes=4)
    >>> made.image_shape, made.labels[:5].tolist(), made.class_names[2]
    ((8, 8, 1), [0, 1, 2, 3, 0], 'checks')
    >>> bool((made.images[:5] == textures(5, (8, 8, 1), seed=0, num_classes=4).images).all())
    True
    """
    if not 2 <= num_classes <= len(TEXTURES):
        raise checks.UserError(f"there are {num_classes} classes of textures, but must be 2 to {len(TEXTURES)}.")
    checks.require_at_least("number of textures", count, 2)
    keys = np.asarray(_keys(key_for(seed, "texture"), jnp.arange(_filled(count))))[:count]
    images = np.empty((count, *image_shape), np.uint8)
    for index, key in enumerate(keys):
        images[index] = _texture(TEXTURES[index % num_classes], np.random.default_rng(key), image_shape)
    return _dataset("textures", images, TEXTURES[:num_classes], seed)


def random_pixels(count: int, image_shape: tuple[int, int, int], *, seed: int, num_classes: int = 10) -> Dataset:
    """Draw every pixel evenly from 0 to 255. Labels say nothing about the images: there is nothing in them.

    Args:
      count: Images, at least two.
      image_shape: Height, width, and 1 or 3 channels.
      seed: Root seed, or nonce, of the study.
      num_classes: At least two, called `pixels 0` and so on.

    Returns:
      The images, image i of class `i % num_classes`: since images are drawn alike, that is a random labelling.

    Raises:
      UserError: If there are fewer than two images or classes.

    >>> made = random_pixels(4, (2, 2, 3), seed=0, num_classes=2)
    >>> made.labels.tolist(), made.class_names
    ([0, 1, 0, 1], ('pixels 0', 'pixels 1'))
    """
    checks.require_at_least("number of classes of random pixels", num_classes, 2)
    checks.require_at_least("number of images of random pixels", count, 2)
    images, root = np.empty((count, *image_shape), np.uint8), key_for(seed, "pixels")
    for start in range(0, count, _AT_ONCE):
        size = min(count - start, _AT_ONCE)
        made = _random_bytes(root, start + jnp.arange(_filled(size)), image_shape)
        images[start : start + size] = np.asarray(made)[:size]
    return _dataset("pixels", images, [f"pixels {number}" for number in range(num_classes)], seed)


def _dataset(
    name: str, images: UInt8[np.ndarray, "images height width channels"], class_names: Sequence[str], seed: int
) -> Dataset:
    labels = (np.arange(len(images)) % len(class_names)).astype(np.int32)
    # Of what they are made of, not of pixels, whose last bit may depend on the machine.
    mark = config.fingerprint([name, seed, list(images.shape), list(class_names)])
    return Dataset(name, images, labels, tuple(class_names), mark)


def _filled(count: int) -> int:
    """The next power of two, so that few programs serve all counts."""
    return 1 << (count - 1).bit_length()


@jax.jit
def _keys(root: PRNGKey, index: Int[Array, " images"]) -> Array:
    """The words of the key of every image, which start its generator."""
    return jax.vmap(lambda i: jax.random.key_data(jax.random.fold_in(root, i)))(index)


@functools.partial(jax.jit, static_argnames="shape")
def _random_bytes(root: PRNGKey, index: Int[Array, " images"], shape: tuple[int, ...]) -> UInt8[Array, "images ..."]:
    return jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(root, i), shape, jnp.uint8))(index)


def _texture(kind: str, rng: np.random.Generator, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "h w c"]:
    """One image: a pattern from 0 to 1 that mixes two colours, with a little noise."""
    height, width, channels = shape
    pattern = _pattern(kind, rng, height, width)[..., None]
    while True:
        low, high = rng.uniform(0, 255, (2, channels))
        if np.abs(high - low).max() >= _LEAST_CONTRAST * 255:
            break
    noise = rng.normal(0, _NOISE * 255, shape)
    return np.clip(np.rint(low + pattern * (high - low) + noise), 0, 255).astype(np.uint8)


def _pattern(kind: str, rng: np.random.Generator, height: int, width: int) -> Float[np.ndarray, "height width"]:
    """The pattern of a texture, 0 to 1."""
    down, across = np.mgrid[:height, :width].astype(float)
    shortest, longest = 2.5, max(3.0, min(height, width) * 2 / 3)
    wavelength = shortest * (longest / shortest) ** rng.uniform()
    phases = rng.uniform(0, 2 * np.pi, 2)

    def wave(degrees: float, phase: float) -> Float[np.ndarray, "height width"]:
        angle = np.deg2rad(degrees)
        return np.sin(2 * np.pi * (across * np.cos(angle) + down * np.sin(angle)) / wavelength + phase)

    family, _, rest = kind.partition(" at ")
    degrees = float(rest.split()[0]) + rng.uniform(-8, 8) if rest else rng.uniform(-8, 8)
    match family:
        case "waves":
            return (1 + wave(degrees, phases[0])) / 2
        case "lines":  # Thin: bright in less than a third of a wave.
            return (wave(degrees, phases[0]) > 0.6).astype(float)
        case "checks":
            return (wave(degrees, phases[0]) * wave(degrees + 90, phases[1]) > 0).astype(float)
        case "dots":
            return np.maximum(wave(degrees, phases[0]) * wave(degrees + 90, phases[1]), 0) ** 2
        case "rings":
            centre = rng.uniform(0.2, 0.8, 2) * (height, width)
            distance = np.hypot(down - centre[0], across - centre[1])
            return (1 + np.sin(2 * np.pi * distance / wavelength + phases[0])) / 2
        case _:  # Blobs: a sum of waves of many directions.
            waves = [wave(angle, phase) for angle, phase in rng.uniform((0, 0), (180, 2 * np.pi), (8, 2))]
            total = np.sum(waves, axis=0)
            return (total - total.min()) / max(np.ptp(total), 1e-9)
