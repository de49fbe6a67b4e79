"""Views: which part of a stored image is shown, and how large; still ones for measuring, random ones for training.

Random crops are drawn on the host from (seed, pass, example) alone, so an image looks the same in a pass whatever
chunk it is read in, by whichever thread, on whichever host.
"""

import dataclasses
import math
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import numpy as np

from jdt import checks
from jdt.keys import key_for
from jdt.types import Float

ViewKind = Literal["center", "native", "random-resized"]

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels; the last two are outside."""

_TRIES = 10  # As torchvision and FFCV: after so many crops that do not fit, the centre is taken.
_DRAWS = 2 * _TRIES + 2


@dataclasses.dataclass(frozen=True)
class View:
    """How images are cut and brought to a size.

    `center` takes a square from the middle; `native` takes whole square images and enlarges them by a whole number,
    every pixel repeated; `random-resized` takes a rectangle of random area, aspect ratio and place (Szegedy et al.
    2015, arXiv 1409.4842; drawn as torchvision and FFCV do). Resizing is bilinear with antialiasing, in one step.

    Attributes:
      kind: Which of them.
      keep: Side of the central square, as a part of the image's shorter side. 1 first resizes the whole image, then
        crops, and so rounds differently from smaller parts, which are cropped first.
      scale: Least and largest area of a random crop, as parts of the image's.
      ratio: Least and largest ratio of a random crop's width to its height.

    >>> View("center", keep=0.5).box(100, 80)
    (30, 20, 70, 60)
    """

    kind: ViewKind = "center"
    keep: float = 1.0
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        checks.require_known("view", self.kind, get_args(ViewKind))
        if not 0 < self.keep <= 1:
            raise checks.UserError(f"a view keeps {self.keep} of the shorter side, but it must be in (0, 1].")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise checks.UserError(f"crop-scale is {self.scale}, but must be two rising parts of the area in (0, 1].")
        if len(self.ratio) != 2 or not 0 < self.ratio[0] <= self.ratio[1]:
            raise checks.UserError(f"a crop's ratio is {self.ratio}, but must be two rising positive numbers.")

    def box(self, width: int, height: int, draws: Float[np.ndarray, " draws"] | None = None) -> Box:
        """Say which part of an image is taken.

        Args:
          width: Of the image, in pixels.
          height: Of the image, in pixels.
          draws: For `random-resized`: what `crop_draws` gave for the example.
        """
        if self.kind == "native":
            return 0, 0, width, height
        if self.kind == "center":
            side = max(1, int(self.keep * min(width, height)))
            return _placed(width, height, side, side, 0.5, 0.5)
        if draws is None:
            raise ValueError("a random crop needs draws.")
        for area_draw, ratio_draw in draws[: 2 * _TRIES].reshape(_TRIES, 2).tolist():
            area = width * height * (self.scale[0] + area_draw * (self.scale[1] - self.scale[0]))
            low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
            ratio = math.exp(low + ratio_draw * (high - low))
            across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < across <= width and 0 < down <= height:
                return _placed(width, height, across, down, *draws[2 * _TRIES :].tolist())
        across = min(width, max(1, round(height * self.ratio[1])))
        down = min(height, max(1, round(width / self.ratio[0])))
        return _placed(width, height, across, down, 0.5, 0.5)


WHOLE = View()
"""The largest central square: how images are shown where nothing else is asked for."""


class Look(NamedTuple):
    """How the images of one chunk are to be shown, instead of as the dataset shows them.

    Attributes:
      size: Side in pixels.
      view: Which random crops, or None for the dataset's own view at that size.
      key: Where the crops come from: see `crop_key`.
    """

    size: int
    view: View | None = None
    key: int = 0


def crop_key(seed: int, pass_number: int) -> int:
    """The 64 bits that all crops of one pass over a dataset derive from."""
    high, low = np.asarray(jax.random.key_data(key_for(seed, "crop", pass_number))).tolist()
    return (high << 32) | low


def crop_draws(key: int, example: int) -> Float[np.ndarray, " draws"]:
    """The uniform draws of one example's crop: Philox, a stretch of its counter for each example.

    >>> bool((crop_draws(7, 3) == crop_draws(7, 3)).all()), bool((crop_draws(7, 3) == crop_draws(7, 4)).any())
    (True, False)
    """
    return np.random.Generator(np.random.Philox(key=key, counter=int(example) << 64)).random(_DRAWS)


def _placed(width: int, height: int, across: int, down: int, x: float, y: float) -> Box:
    """A box of a size, from 0 (left, top) to 1 of the places it can have."""
    left = min(int(x * (width - across + 1)), width - across) if x != 0.5 else (width - across) // 2
    top = min(int(y * (height - down + 1)), height - down) if y != 0.5 else (height - down) // 2
    return left, top, left + across, top + down
