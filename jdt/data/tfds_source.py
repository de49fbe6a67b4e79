"""Any prepared TFDS dataset, read without TensorFlow and decoded by jdt itself."""

import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jdt.checks import UserError, nearest
from jdt.data import attributes
from jdt.data.source import Record, Source
from jdt.types import Int32

EMBEDDED = ("jdt_digits", "jdt_digits_source")

_READ_AT_ONCE = 1024  # Records in the pass over one feature.


def default_data_dir() -> pathlib.Path:
    """Find TFDS's folder: `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""
    return pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def open_tfds(name: str, split: str, data_dir: pathlib.Path, label: str | None = None) -> Source:
    """Open one split of a prepared dataset.

    Args:
      name: `name`, `name/config` or `name:version` as TFDS writes it.
      split: A split string in TFDS's syntax.
      data_dir: Where it was prepared.
      label: Path of the feature that is the label, such as `attributes/Young`; found by itself when None.

    Raises:
      UserError: If the dataset is unknown, not prepared, not in array_record, or lacks an image, a label or the split.
    """
    import tensorflow_datasets as tfds

    builder = find_builder(name, data_dir)
    features = builder.info.features
    image_key, label_key = find_features(name, builder.info, label)
    info = split_info(name, split, builder)
    column = attributes.find_column(name, features, label_key)
    skipped = tfds.decode.SkipDecoding()
    if label is None:
        images = {key: skipped for key, feature in features.items() if isinstance(feature, tfds.features.Image)}
        records = builder.as_data_source(split, decoders=images, file_format="array_record")
    else:
        records = _parsed(builder, split, [(image_key,), column.path], {image_key: skipped})
    image, names = features[image_key], _names_of(name, builder, label_key, column)

    def read(positions: Sequence[int]) -> list[Record]:
        return [
            Record(f"example {position} of {name}[{split}]", example[image_key], column.of(example))
            for position, example in zip(positions, _get(records, positions, f"{name}[{split}]"), strict=True)
        ]

    return Source(
        name=f"{name}[{split}]",
        class_names=names,
        num_examples=len(records),
        identity={
            "dataset": builder.info.full_name,
            "split": split,
            "features": [image_key, label_key],
            "class_names": list(names),
            "files": [_identify(part) for part in info.file_instructions],
        },
        mode=lambda: "L" if image.shape[-1] == 1 else "RGB",
        read=read,
    )


def read_attribute(
    name: str, split: str, feature: str, data_dir: pathlib.Path
) -> tuple[Int32[np.ndarray, " examples"], tuple[str, ...]]:
    """Read one feature of a prepared dataset, and nothing else of its records.

    Args:
      name: As for `open_tfds`.
      split: As for `open_tfds`.
      feature: Its path.
      data_dir: Where the dataset was prepared.

    Returns:
      Values `[examples]`, and one name a value.

    Raises:
      UserError: If the dataset, the split or the feature is not there, or a value lies outside the names.
    """
    builder = find_builder(name, data_dir)
    column = attributes.find_column(name, builder.info.features, feature)
    split_info(name, split, builder)
    values, names = _column_values(name, builder, split, column), _names_of(name, builder, feature, column)
    wrong = (values < 0) | (values >= len(names))
    if wrong.any():
        raise UserError(
            f"{wrong.sum()} of {len(values)} values of {feature!r} in {name}[{split}] lie outside 0..{len(names) - 1} "
            f"(first: {values[wrong][0]}): choose a split that has it."
        )
    return values.astype(np.int32), names


def read_captions(name: str, split: str, feature: str, data_dir: pathlib.Path) -> tuple[str, ...]:
    """Read one text of every example, and nothing else of its record.

    Args:
      name: As for `open_tfds`.
      split: As for `open_tfds`.
      feature: Its path.
      data_dir: Where the dataset was prepared.

    Raises:
      UserError: If the dataset, the split or the feature is not there, the feature is no text, or a text is empty or
        no UTF-8.
    """
    builder = find_builder(name, data_dir)
    path = attributes.find_text(name, builder.info.features, feature)
    split_info(name, split, builder)
    records = _parsed(builder, split, [path], None)
    texts: list[str] = []
    for start in range(0, len(records), _READ_AT_ONCE):
        positions = list(range(start, min(start + _READ_AT_ONCE, len(records))))
        for position, example in zip(positions, _get(records, positions, f"{name}[{split}]"), strict=True):
            texts.append(attributes.text_of(example, path, f"example {position} of {name}[{split}]"))
    return tuple(texts)


def _parsed(builder: Any, split: str, paths: Sequence[tuple[str, ...]], decoders: Any) -> attributes.Parsed:
    import tensorflow_datasets as tfds

    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    records = builder.as_data_source(split, deserialize_method=raw, file_format="array_record")
    return attributes.Parsed(records, attributes.only(builder.info.features, paths), decoders)


def _column_values(name: str, builder: Any, split: str, column: attributes.Column) -> np.ndarray:
    records = _parsed(builder, split, [column.path], None)
    count = len(records)
    values = np.empty(count, np.int64)
    for start in range(0, count, _READ_AT_ONCE):
        positions = range(start, min(start + _READ_AT_ONCE, count))
        values[start : positions.stop] = [
            column.of(example) for example in _get(records, list(positions), f"{name}[{split}]")
        ]
    return values


def _names_of(name: str, builder: Any, feature: str, column: attributes.Column) -> tuple[str, ...]:
    """Names of the classes; of whole numbers those that occur in any split, so that splits agree."""
    if column.names is not None:
        return column.names
    splits = [split for split, info in builder.info.splits.items() if info.num_examples]
    largest = max(int(_column_values(name, builder, split, column).max()) for split in splits)
    return attributes.number_names(name, feature, largest)


def find_builder(name: str, data_dir: pathlib.Path) -> Any:
    """Find a prepared dataset on disk by its files alone, whether or not its builder class can be imported.

    Raises:
      UserError: If it is not there, or is stored in another format than array_record.
    """
    from tensorflow_datasets.core import naming, read_only_builder
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    _require_known_features(name, data_dir)
    try:
        # Not tfds.builder: that would build a known dataset from its code, at the code's version and in its format.
        parsed, options = naming.parse_builder_name_kwargs(name, data_dir=str(data_dir))
        builder = read_only_builder.builder_from_files(str(parsed), **options)
    except (DatasetNotFoundError, ValueError) as error:
        raise UserError(_not_found(name, data_dir)) from error
    formats = sorted(kind.value for kind in builder.info.available_file_formats())
    if "array_record" not in formats:
        raise UserError(
            f"{name} in {data_dir} is stored as {', '.join(formats) or 'nothing readable'}, but must be array_record: "
            f"prepare it again into another folder with `{prepare_command(name, data_dir / 'array_record')}`, or run "
            f"`tfds convert_format --dataset_dir={builder.data_path.parent} --out_file_format=array_record "
            "--out_dir=...` where TensorFlow is installed."
        )
    return builder


def _require_known_features(name: str, data_dir: pathlib.Path) -> None:
    """Refuse files that name a feature class outside TFDS: reading them would import it, which runs its code.

    Raises:
      UserError: Naming the class.
    """
    folder = data_dir / re.split(r"[/:]", name)[0]
    for file in [*folder.glob("*/features.json"), *folder.glob("*/*/features.json")]:
        try:
            waiting = [json.loads(file.read_text(encoding="utf-8"))]
        except ValueError as error:
            raise UserError(f"{file} is not JSON ({error}): prepare {name} again.") from error
        while waiting:
            entry = waiting.pop()
            if isinstance(entry, dict):
                found = str(entry.get("pythonClassName", "tensorflow_datasets."))
                if not found.startswith("tensorflow_datasets."):
                    raise UserError(
                        f"{file} has a feature of class {found!r}, and importing what is not of TFDS would run its "
                        "code: prepare the dataset with TFDS's own features."
                    )
                waiting += entry.values()
            elif isinstance(entry, list):
                waiting += entry


def prepare_command(name: str, data_dir: pathlib.Path) -> str:
    """Write the shell command that downloads and prepares a dataset TFDS knows."""
    where = "" if data_dir == default_data_dir() else f", data_dir='{data_dir}'"
    return (
        'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}'{where}, file_format='array_record').download_and_prepare()\""
    )


def prepared_names(data_dir: pathlib.Path) -> list[str]:
    """Name the datasets prepared in a folder, as `name` or `name/config`."""
    found = [*data_dir.glob("*/*/features.json"), *data_dir.glob("*/*/*/features.json")]
    names = {path.relative_to(data_dir).parent.parent.as_posix() for path in found if "incomplete." not in str(path)}
    return sorted(names)


def find_features(name: str, info: Any, label: str | None = None) -> tuple[str, str]:
    """Find the image and the label: the supervised pair if it is one, else the only candidates, else the usual names.

    Args:
      name: Of the dataset, for messages.
      info: Of the dataset.
      label: The label, where it is known beforehand: then only the image is looked for.

    Raises:
      UserError: If there is no uint8 image or no class label at the top level, or several without a usual name.
    """
    import tensorflow_datasets as tfds

    features = info.features
    images = [
        key
        for key, feature in features.items()
        if type(feature) is tfds.features.Image and feature.np_dtype == np.uint8
    ]
    labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    image, usual = [*(info.supervised_keys or ()), "", ""][:2]
    image_key = _pick(name, "8-bit image", images, (image, "image"), features)
    if label is None:
        label = _pick(name, "class label", labels, (usual, "label"), features)
    return image_key, label


def split_info(name: str, split: str, builder: Any) -> Any:
    """Resolve a split string.

    Raises:
      UserError: If the dataset has no such split, or it is empty.
    """
    known = list(builder.info.splits)
    try:
        info = builder.info.splits[split]
        is_empty = info.num_examples == 0
    except (KeyError, ValueError, AssertionError) as error:
        raise UserError(
            f"{name} has no split {split!r}; known: {', '.join(known)}, and slices like train[:50%]."
        ) from error
    if is_empty:
        raise UserError(f"split {split!r} of {name} is empty; known: {', '.join(known)}.")
    return info


def _pick(name: str, kind: str, candidates: list[str], usual: tuple[str, ...], features: Any) -> str:
    for key in usual:
        if key in candidates:
            return key
    if len(candidates) == 1:
        return candidates[0]
    found = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in sorted(features.items()))
    count = f"{len(candidates)} features that could be its {kind}" if candidates else f"no {kind} feature"
    way = "; another can be named as the label" if kind == "class label" else ""
    raise UserError(f"{name} has {count}, but exactly one is needed; its features: {found}{way}.")


def _not_found(name: str, data_dir: pathlib.Path) -> str:
    import tensorflow_datasets as tfds

    prepared = prepared_names(data_dir)
    base = re.split(r"[/:]", name)[0]
    known = tfds.list_builders(with_community_datasets=False)  # Community ones would be asked for over the network.
    variants = [entry for entry in prepared if entry.split("/")[0] == base]
    if variants:
        stored = sorted(
            f"{entry}:{path.parent.name}" for entry in variants for path in (data_dir / entry).glob("*/features.json")
        )
        return f"dataset {name!r} is not in {data_dir}, which holds {', '.join(stored)}: ask for one of these."
    if base in known:
        manual = " ".join((tfds.builder_cls(base).MANUAL_DOWNLOAD_INSTRUCTIONS or "").split())
        by_hand = f" TFDS cannot download it: {manual}" if manual else ""
        command = prepare_command(name, data_dir)
        return f"dataset {name!r} is not prepared in {data_dir}: run `{command}` first.{by_hand}"
    close = nearest(base, {*prepared, *EMBEDDED, *known})
    here = f"prepared in {data_dir}: {', '.join(prepared[:10]) or 'nothing'}"
    return f"unknown dataset {name!r}; nearest: {close}; {here}; or folder:PATH. Is data_dir right?"


def _get(records: Any, positions: Sequence[int], name: str) -> Sequence[Any]:
    try:
        return records.__getitems__(positions)
    except Exception as error:  # array_record and protobuf raise kinds of their own.
        if len(positions) > 1:  # One by one, to name the record.
            return [_get(records, [position], name)[0] for position in positions]
        raise UserError(
            f"example {positions[0]} of {name} cannot be read ({error}): check the disk, or prepare the dataset again."
        ) from error


def _identify(part: Any) -> list[Any]:
    stat = os.stat(part.filename)
    return [str(pathlib.Path(part.filename).resolve()), stat.st_size, stat.st_mtime_ns, part.skip, part.take]
