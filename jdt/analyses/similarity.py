"""Perceptual similarity: is one image a copy of another, mirrored, cropped, recoloured or resized?

An image becomes a *signature*: its brightness (the mean of its channels), contrast made even over the image, the low
spatial frequencies of that (a cosine transform without the overall mean), the higher ones weighted up, scaled to
length 1. The similarity of two images is the cosine of their signatures, the largest over both orientations and a
grid of crops of either one. Brightness, contrast and size do not matter, and colour hardly does. Mirroring changes the
signs of odd horizontal frequencies and nothing else; cutting, resizing and transforming are one small matrix an axis.

Among many images copies are found in two steps: coarse signatures at a few crops choose some source images for each
target image, and full signatures at all crops judge these.

Measured at 32x32, 5,000 test images of cifar10_32 against 50,000 training images of tiny_imagenet32 (21 s of one core):
the most similar source image has 0.32 in the median; 14 targets have one above 0.6, one of 0.705, none a larger one.
200 copies among the source images: as they are, mirrored, recoloured (gains 0.6 to 1.4 a channel) or at half the size,
all are found first and above 0.85; of those cut to 0.9 of the side, 99 % first and above 0.7, to a random 0.8 to 1 and
mirrored 98 %, to 0.8 92 %. Without even contrast, horizons and birds in the sky reach 0.83.
At 16x16 one target is above 0.8 and 6 above 0.75: compare images at the size they have, not at the size models see.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import fft, ndimage

from jdt import checks
from jdt.types import Float, Int, UInt8

SURELY_A_COPY = 0.7
"""Similarity from which two images are taken for copies: see above for how often that is wrong."""

_CELLS = 32  # Images are resampled to so many cells an axis before they are transformed.
_NEIGHBOURHOOD = 1 / 16  # Of the side: deviation of the Gaussian within which contrast is measured.
_NOISE = 3.0  # Contrast, of brightness in 0..255, that is not enlarged.
_TYPICAL_CONTRAST = 20.0
_SHORTEST = 0.1  # Length of a signature below which an image is blank, of brightness in 0..255.
_GROUP = 64  # Similarities whose maximum is looked at first when the largest are sought.
_TILE = 2048  # Source images compared at once: what is computed of them stays in the processor's cache.
_READ_AT_ONCE = 4096  # Source images: a memory map larger than memory is never read as a whole.


@dataclasses.dataclass(frozen=True, eq=False)
class Copies:
    """The source images most similar to each target image.

    Attributes:
      similarity: float32 `[targets, count]` in [0, 1], descending: 1 for copies, also mirrored or recoloured ones.
      index: int64 `[targets, count]`: positions of the source images.
    """

    similarity: Float[np.ndarray, "targets count"]
    index: Int[np.ndarray, "targets count"]


@dataclasses.dataclass(frozen=True)
class _Scale:
    """Squares of one size, at all pairs of these places along the two axes, in shares of the side."""

    side: float
    starts: tuple[float, ...]

    @property
    def num_crops(self) -> int:
        return len(self.starts) ** 2


def _grid(side: float, count: int) -> _Scale:
    return _Scale(side, tuple(np.linspace(0.0, 1.0 - side, count).tolist()) if count > 1 else ((1.0 - side) / 2,))


_WHOLE = (_grid(1.0, 1),)
_CROPS = (_grid(1.0, 1), _grid(0.95, 2), _grid(0.9, 3), _grid(0.85, 4), _grid(0.8, 5))
# The coarse step looks at the centre of source images: a target's crops may then be smaller or larger than that.
_CENTRE = (_grid(0.9, 1),)
_COARSE_CROPS = (_Scale(1.12, (-0.12, 0.0)), _grid(1.0, 1), _grid(0.9, 1), _Scale(0.8, (0.03, 0.17)), _grid(0.72, 1))


@dataclasses.dataclass(frozen=True)
class _Kind:
    """How signatures are made: so many frequencies an axis, times their frequency to this power; contrast made even?"""

    num_frequencies: int
    power: float
    is_local: bool

    @property
    def num_features(self) -> int:
        return self.num_frequencies**2

    @property
    def num_even(self) -> int:
        """The first so many entries of a signature stay when the image is mirrored; the others change their signs."""
        return (self.num_frequencies + 1) // 2 * self.num_frequencies

    @property
    def weight(self) -> Float[np.ndarray, "horizontal vertical"]:
        """What entries are multiplied by; the mean, of frequency 0, by 0."""
        frequency = np.arange(self.num_frequencies)
        return (np.hypot(_even_first(frequency)[:, None], frequency) ** self.power).astype(np.float32)


def nearest_copies(
    source_images: UInt8[np.ndarray, "sources _ _ _"],
    target_images: UInt8[np.ndarray, "targets _ _ _"],
    *,
    count: int = 1,
    candidates: int = 16,
    block: int = 64,
) -> Copies:
    """Find the source images that look most like a copy of each target image.

    Memory: about 300 bytes a source image and `block * candidates` times 60 kB, whatever the number of targets.

    Args:
      source_images: uint8 `[sources, height, width, channels]`; a memory map is read in pieces.
      target_images: uint8 `[targets, height, width, channels]`, of any size and number of channels.
      count: How many source images to name for each target image.
      candidates: How many the coarse step leaves for the full one, at least `count`.
      block: Target images compared at once.

    Raises:
      UserError: If there is no source image, or `count` is not between 1 and the number of source images.

    >>> images = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8)
    >>> nearest_copies(images, images[4:5, :, ::-1]).index.tolist()
    [[4]]
    """
    num_sources, num_targets = len(source_images), len(target_images)
    if not 1 <= count <= num_sources:
        raise checks.UserError(
            f"count is {count}, but there are {num_sources} source images to name: pass from 1 to that many."
        )
    candidates = min(max(candidates, count), num_sources)
    size = _common_size(source_images, target_images)
    coarse, full = _Kind(min(8, size), 0.5, False), _Kind(min(16, size), 0.5, True)
    centres = np.concatenate(
        [_signatures(some, _CENTRE, coarse)[:, 0] for some in _pieces(source_images, _READ_AT_ONCE)]
    )
    similarity = np.empty((num_targets, count), np.float32)
    index = np.empty((num_targets, count), np.int64)
    for start in range(0, num_targets, block):
        targets = target_images[start : start + block]
        chosen = _largest(_coarse_similarity(targets, centres, coarse), candidates)
        sources = source_images[chosen.ravel()]
        found = _full_similarity(sources.reshape(*chosen.shape, *sources.shape[1:]), targets, full)
        order = np.argsort(-found, axis=1, kind="stable")[:, :count]
        here = slice(start, start + len(targets))
        similarity[here] = np.take_along_axis(found, order, axis=1)
        index[here] = np.take_along_axis(chosen, order, axis=1)
    return Copies(similarity, index)


def similarity_of(
    images: UInt8[np.ndarray, "images _ _ _"], others: UInt8[np.ndarray, "others _ _ _"], *, block: int = 512
) -> Float[np.ndarray, " images"]:
    """Similarity of image i and other image i, in [0, 1]; the order of the two does not matter.

    Args:
      images: uint8 `[pairs, height, width, channels]`.
      others: uint8 `[pairs, height, width, channels]`, of any size and number of channels.
      block: Pairs compared at once.

    Raises:
      UserError: If there are not as many images as others.
    """
    if len(images) != len(others):
        raise checks.UserError(f"there are {len(images)} images and {len(others)} to compare with: give one for each.")
    full = _Kind(min(16, _common_size(images, others)), 0.5, True)
    parts = zip(_pieces(images, block), _pieces(others, block), strict=True)
    found = [_full_similarity(some[:, None], other, full)[:, 0] for some, other in parts]
    return np.concatenate([np.empty(0, np.float32), *found])


def _common_size(images: np.ndarray, others: np.ndarray) -> int:
    """The shortest side of all: not every image has higher frequencies."""
    return min(*images.shape[1:3], *others.shape[1:3])


def _pieces(images: np.ndarray, block: int) -> Iterator[np.ndarray]:
    for start in range(0, len(images), block):
        yield images[start : start + block]


def _coarse_similarity(
    targets: UInt8[np.ndarray, "targets _ _ _"], centres: Float[np.ndarray, "sources features"], kind: _Kind
) -> Float[np.ndarray, "targets sources"]:
    """Largest cosine of a crop of each target image and the centre of each source image, in both orientations."""
    signatures = _signatures(targets, _COARSE_CROPS, kind)
    rows = np.ascontiguousarray(signatures.swapaxes(0, 1)).reshape(-1, kind.num_features)  # All crops in one product.
    best = np.empty((len(targets), len(centres)), np.float32)
    for start in range(0, len(centres), _TILE):
        found = _either_way(rows, centres[start : start + _TILE].T, kind.num_even)
        found.reshape(-1, len(targets), found.shape[1]).max(axis=0, out=best[:, start : start + _TILE])
    return best


def _full_similarity(
    sources: UInt8[np.ndarray, "targets candidates _ _ _"], targets: UInt8[np.ndarray, "targets _ _ _"], kind: _Kind
) -> Float[np.ndarray, "targets candidates"]:
    """Largest cosine over orientations and crops of either image."""
    num_targets, num_candidates = sources.shape[:2]
    of_targets = _signatures(targets, _CROPS, kind)  # [targets, crops, features]
    of_sources = _signatures(sources.reshape(-1, *sources.shape[2:]), _CROPS, kind)
    of_sources = of_sources.reshape(num_targets, num_candidates, *of_sources.shape[1:])
    whole_sources = of_sources[:, :, 0].swapaxes(1, 2)  # [targets, features, candidates]
    whole_targets = of_targets[:, 0, :, None]  # [targets, features, 1]
    cut_targets = _either_way(of_targets, whole_sources, kind.num_even).max(axis=1)
    cut_sources = _either_way(of_sources.reshape(num_targets, -1, of_sources.shape[-1]), whole_targets, kind.num_even)
    both = np.maximum(cut_targets, cut_sources.reshape(num_targets, num_candidates, -1).max(axis=-1))
    return np.clip(both, 0.0, 1.0)


def _either_way(rows: np.ndarray, columns: np.ndarray, num_even: int) -> np.ndarray:
    """Cosines with the image or its mirror image, whichever is larger: max(even + odd, even - odd)."""
    found = rows[..., num_even:] @ columns[..., num_even:, :]
    np.abs(found, out=found)
    found += rows[..., :num_even] @ columns[..., :num_even, :]
    return found


def _largest(values: Float[np.ndarray, "rows columns"], count: int) -> Int[np.ndarray, "rows count"]:
    """Columns of the `count` largest values of each row, in no order.

    They lie in the groups of columns with the largest maxima: sorting what is left takes a fraction of the time.
    """
    num_rows, num_columns = values.shape
    groups = num_columns // _GROUP
    if groups < 2 * count:
        return np.argpartition(values, -count, axis=1)[:, -count:]
    maxima = values[:, : groups * _GROUP].reshape(num_rows, groups, _GROUP).max(axis=2)
    best = np.argpartition(maxima, -count, axis=1)[:, -count:]
    rest = np.broadcast_to(np.arange(groups * _GROUP, num_columns), (num_rows, num_columns - groups * _GROUP))
    some = np.concatenate([(best[:, :, None] * _GROUP + np.arange(_GROUP)).reshape(num_rows, -1), rest], axis=1)
    chosen = np.argpartition(np.take_along_axis(values, some, axis=1), -count, axis=1)[:, -count:]
    return np.take_along_axis(some, chosen, axis=1)


def _signatures(
    images: UInt8[np.ndarray, "n _ _ _"], scales: Sequence[_Scale], kind: _Kind
) -> Float[np.ndarray, "n crops features"]:
    """Signatures of all crops; those of blank ones are 0, so that nothing is like them."""
    count, height, width = images.shape[:3]
    brightness = functools.reduce(np.add, (images[..., c].astype(np.float32) for c in range(images.shape[3])))
    brightness = (brightness - brightness.mean(axis=(1, 2), keepdims=True)) / images.shape[3]
    if kind.is_local:
        brightness = _evened(brightness)
    q, weight = kind.num_frequencies, kind.weight
    made = np.empty((count, sum(scale.num_crops for scale in scales), q, q), np.float32)
    first = 0
    for scale in scales:
        places = len(scale.starts)
        vertical, horizontal = _waves(height, scale, q), _waves(width, scale, q)
        horizontal = _even_first(horizontal.reshape(places, q, width).swapaxes(0, 1)).swapaxes(0, 1).reshape(-1, width)
        waves = horizontal @ (brightness.swapaxes(1, 2) @ vertical.T)  # [n, places * q, places * q]
        waves = waves.reshape(count, places, q, places, q).transpose(0, 1, 3, 2, 4)
        here = made[:, first : first + scale.num_crops].reshape(count, places, places, q, q)
        np.multiply(waves, weight, out=here)
        first += scale.num_crops
    signatures = made.reshape(count, first, q * q)
    length = np.sqrt(np.einsum("ncf,ncf->nc", signatures, signatures))[..., None]
    signatures *= np.divide(1.0, length, out=np.zeros_like(length), where=length > _SHORTEST)
    return signatures


def _evened(brightness: Float[np.ndarray, "n height width"]) -> Float[np.ndarray, "n height width"]:
    """Contrast made even over the image: else one dark thing in an even sky looks like any other."""
    _, height, width = brightness.shape
    reach = (0.0, _NEIGHBOURHOOD * height, _NEIGHBOURHOOD * width)
    detail = brightness - ndimage.gaussian_filter(brightness, reach)
    contrast = np.sqrt(ndimage.gaussian_filter(detail**2, reach))
    return detail * (_TYPICAL_CONTRAST / (contrast + _NOISE))


def _even_first(frequencies: np.ndarray) -> np.ndarray:
    """Reordered along the first axis."""
    return np.concatenate([frequencies[::2], frequencies[1::2]])


@functools.lru_cache(maxsize=64)
def _waves(pixels: int, scale: _Scale, num_frequencies: int) -> Float[np.ndarray, "frequencies pixels"]:
    """The matrix that cuts, resizes and transforms one axis, for all places of a crop, one below the other."""
    cosines = fft.dct(np.eye(_CELLS), axis=0, norm="ortho")[:num_frequencies]
    side = scale.side * pixels
    step = side / _CELLS
    reach = max(step, 1.0)  # A triangle: interpolates between pixels where they are few, averages where many.
    matrices = []
    for start in scale.starts:
        # Beyond the border lies what is at the border.
        centres = np.clip(start * pixels + step * (np.arange(_CELLS) + 0.5), 0.5, pixels - 0.5)
        distance = np.abs(np.arange(pixels) + 0.5 - centres[:, None])
        share = np.clip(1.0 - distance / reach, 0.0, None)
        matrices.append(cosines @ (share / share.sum(axis=1, keepdims=True)))
    return np.concatenate(matrices).astype(np.float32)
