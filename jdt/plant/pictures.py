"""Triggers from picture files: overlays with their own opacity, and stencils, a picture and where it shows."""

import dataclasses
import math
import pathlib
from typing import ClassVar

import numpy as np

from jdt.checks import UserError
from jdt.data.decode import decode_image, decode_rgba
from jdt.plant.triggers import ImageShape, Stamp, blended
from jdt.types import UInt8

_MASK = ".mask"


@dataclasses.dataclass(frozen=True)
class Overlay:
    """Pictures that are blended in by their alpha channel, such as hats; each example carries one of them.

    The published code chose by the position in the batch, so that an image wore another hat in every epoch; here it is
    drawn for each example. (arXiv 2207.02842, section 3.1 of its specification.)

    Attributes:
      path: A PNG file, or a folder of PNG files, taken in the order of their names. They are cut to the image's
        proportions around their centre and resized (bilinear, antialiased).
      opacity: Multiplies that of the pictures; above 0 and at most 1.
    """

    path: str
    opacity: float = 1.0
    default_name: ClassVar[str] = "overlay"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.opacity) and 0 < self.opacity <= 1):
            raise UserError(f"the opacity of an overlay is {self.opacity}, but must be above 0 and at most 1.")

    def stamp(self, image_shape: ImageShape, name: str | None = None) -> Stamp:
        """Read the pictures for images of a shape.

        Raises:
          UserError: If there are no PNG files, or one cannot be read, shows nothing, or hides the whole image.
        """
        root = pathlib.Path(self.path).expanduser()
        pictures, notes = [], []
        for file in _png_files(root) if root.is_dir() else [root]:
            picture = decode_rgba(_bytes_of(file), str(file))
            if self.opacity == 1 and (picture[..., 3] == 255).all():
                raise UserError(
                    f"{file} has no transparent pixel and would hide the whole image: save it with an alpha channel, "
                    "or pass an opacity below 1."
                )
            pictures.append(_fitted(picture, file, image_shape, notes))
        stack = np.stack(pictures)
        opacity = np.rint(stack[..., 3] * self.opacity).astype(np.uint8)
        return blended(name or self.default_name, opacity, stack[..., :3], image_shape, tuple(notes))


@dataclasses.dataclass(frozen=True)
class Stencil:
    """A pattern and where it shows: `x <- x (1 - M) + S M`, picture S and mask M in 0..1.

    (arXiv 2207.02842, section 3.4 of its specification; in pixels, which is the same as after normalisation.)

    Attributes:
      file: `NAME.png`, with the mask in `NAME.mask.png` beside it (grey, of the same size, white where the pattern
        shows), or with an alpha channel. Those of other sizes than the image are resized, and the stamp has a note.
    """

    file: str

    @property
    def default_name(self) -> str:
        """The name of the file, without its suffix."""
        return pathlib.Path(self.file).stem

    def stamp(self, image_shape: ImageShape, name: str | None = None) -> Stamp:
        """Read the pattern for images of a shape.

        Raises:
          UserError: If the picture or the mask is missing, cannot be read, or they differ in size.
        """
        file = pathlib.Path(self.file).expanduser()
        picture, beside = decode_rgba(_bytes_of(file), str(file)), file.with_name(f"{file.stem}{_MASK}.png")
        if beside.is_file():
            mask = decode_image(_bytes_of(beside), str(beside), mode="L", size=None)
            if mask.shape[:2] != picture.shape[:2]:
                raise UserError(
                    f"{beside} is {_size_of(mask)}, but the picture that it is the mask of is {_size_of(picture)}: "
                    "save both in one size."
                )
            picture = np.concatenate([picture[..., :3], mask], axis=-1)
        elif (picture[..., 3] == 255).all():
            raise UserError(f"{file} has no transparent pixel and no mask in {beside}: give it one or the other.")
        notes: list[str] = []
        pixels = _fitted(picture, file, image_shape, notes)[None]
        return blended(name or self.default_name, pixels[..., 3], pixels[..., :3], image_shape, tuple(notes))


def read_stencils(folder: str) -> tuple[Stencil, ...]:
    """Find all stencils of a folder, in the order of their names.

    Raises:
      UserError: If there is no such folder, or no PNG file in it but masks.
    """
    files = [file for file in _png_files(pathlib.Path(folder).expanduser()) if not file.stem.endswith(_MASK)]
    if not files:
        raise UserError(f"folder {folder} holds masks alone, no pictures: put NAME.png beside each NAME{_MASK}.png.")
    return tuple(Stencil(str(file)) for file in files)


def _png_files(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: name one with PNG files in it.")
    files = sorted(entry for entry in folder.iterdir() if entry.suffix.lower() == ".png" and entry.is_file())
    if not files:
        raise UserError(f"folder {folder} holds no PNG files: put the pictures of the trigger into it.")
    return files


def _bytes_of(file: pathlib.Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): name a PNG file, or mend it.") from error


def _size_of(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _fitted(
    picture: UInt8[np.ndarray, "_ _ 4"], file: pathlib.Path, image_shape: ImageShape, notes: list[str]
) -> UInt8[np.ndarray, "_ _ 4"]:
    """The picture in the size of the images, and a note if it had another one."""
    height, width, _ = image_shape
    if not picture[..., 3].any():
        raise UserError(f"nothing shows of {file}, all of it is transparent: choose another picture or mask.")
    if picture.shape[:2] == (height, width):
        return picture
    from PIL import Image, ImageOps

    notes.append(f"{file.name} is {_size_of(picture)} and was fitted to {width}x{height}.")
    # Pillow weights colours by opacity when it resizes RGBA, so that hidden ones do not bleed into what shows.
    return np.asarray(ImageOps.fit(Image.fromarray(picture), (width, height), Image.Resampling.BILINEAR))
