"""Any folder of images: `PATH/<split>/<class>/*.png`, or `PATH/<class>/*.png` with a fifth held out for testing."""

import hashlib
import pathlib
from collections.abc import Mapping, Sequence

from jdt.checks import UserError
from jdt.data.decode import Mode, is_grey
from jdt.data.source import Record, Source

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif"})

_HELD_OUT = 5  # One image in so many is held out for testing when the folder has no splits.


def open_folder(path: str, split: str) -> Source:
    """Open one split of a folder of images.

    Class names are the sorted names of the class folders (over all splits, so that splits agree). Examples are sorted
    by path. Without split folders, an image belongs to "test" when the SHA-256 of its path relative to the folder is
    a multiple of five, else to "train": adding images never moves the old ones. A slice such as `train[:50%]` takes
    images in the order of that hash, so it holds a bit of every class. Hidden files and other file types are ignored.

    Args:
      path: The folder; `~` is expanded.
      split: A split's name, or slices of splits in TFDS's syntax.

    Raises:
      UserError: If the folder is missing or holds no images, or if it has no such split.
    """
    root = pathlib.Path(path).expanduser()
    splits = find_splits(root)
    names = select(splits, split, f"folder:{path}")
    if not names:
        raise UserError(f"split {split!r} of folder:{path} is empty: choose another split or add images.")
    class_names = tuple(sorted({_class_of(name) for members in splits.values() for name in members}))
    label_of = {name: i for i, name in enumerate(class_names)}
    stats = [(root / name).stat() for name in names]
    return Source(
        name=f"folder:{path}[{split}]",
        class_names=class_names,
        num_examples=len(names),
        identity={
            "folder": str(root.resolve()),
            "class_names": class_names,
            "files": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in zip(names, stats, strict=True)],
        },
        mode=lambda: _mode(root, names),
        read=lambda positions: [
            Record(str(root / names[i]), _read_file(root / names[i]), label_of[_class_of(names[i])]) for i in positions
        ],
    )


def find_splits(root: pathlib.Path) -> dict[str, list[str]]:
    """List the images of each split, as sorted paths relative to `root`.

    Raises:
      UserError: If the folder is missing or holds no images.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: pass folder:PATH with PATH/<class>/*.png in it.")
    flat = {folder: _images(root, folder) for folder in _subfolders(root)}
    if any(flat.values()):
        names = sorted(name for members in flat.values() for name in members)
        held_out = {name for name in names if _hash(name) % _HELD_OUT == 0}
        return {"train": [name for name in names if name not in held_out], "test": sorted(held_out)}
    splits = {
        split.name: sorted(name for folder in _subfolders(split) for name in _images(root, folder))
        for split in _subfolders(root)
    }
    splits = {split: names for split, names in splits.items() if names}
    if not splits:
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise UserError(
            f"folder {root} holds no images ({kinds}) at <class>/FILE or <split>/<class>/FILE: one folder per class."
        )
    return splits


def select(splits: Mapping[str, Sequence[str]], split: str, name: str) -> list[str]:
    """Resolve a split string, slices and sums included, to sorted file names.

    Raises:
      UserError: If the string cannot be read or names a split that does not exist.
    """
    if split in splits:  # The usual case needs no parser.
        return list(splits[split])
    import tensorflow_datasets as tfds

    infos = {
        key: tfds.core.SplitInfo(name=key, shard_lengths=[len(members)], num_bytes=0) for key, members in splits.items()
    }
    try:
        slices = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    except (ValueError, AssertionError, KeyError) as error:
        raise UserError(
            f"{name} has no split {split!r}; known: {', '.join(splits)}, and slices like train[:50%]."
        ) from error
    chosen = [member for part in slices for member in sorted(splits[part.splitname], key=_hash)[part.from_ : part.to]]
    return sorted(chosen)


def _subfolders(path: pathlib.Path) -> list[pathlib.Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(root: pathlib.Path, folder: pathlib.Path) -> list[str]:
    return [
        entry.relative_to(root).as_posix()
        for entry in folder.iterdir()
        if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".") and entry.is_file()
    ]


def _class_of(name: str) -> str:
    return pathlib.PurePosixPath(name).parent.name


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _read_file(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): restore it, or remove it and start again."
        ) from error


def _mode(root: pathlib.Path, names: Sequence[str]) -> Mode:
    return "L" if all(is_grey(_read_file(root / name), str(root / name)) for name in names) else "RGB"
