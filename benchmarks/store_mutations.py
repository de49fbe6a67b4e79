"""Damaged and hostile runs: a sound run as bytes, and seeded ways to harm it, many of which make its digests right.

A harm is a function from a generator and the files of the run to other files; nothing here touches a disk but
`sound_files`, which writes the run that everything starts from.
"""

import contextlib
import copy
import json
import os
import pathlib
import random
import struct
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from jdt.config import fingerprint
from jdt.estimators import Influences
from jdt.estimators.saved import influence_path, save_influences
from jdt.store import Schema, Target, create_or_open, write_group, write_json
from jdt.store.records import sealed
from jdt.store.schema import labels_digest
from jdt.store.strings import int32_files, string_files

CONFIG = {"seed": 0, "recipe": {"epochs": 4}, "fraction": 0.5}
PROVENANCE = {"device": "cpu", "output": "confidence"}
TARGETS = ("digits", "odd: [50%]")


QUICK_DISK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where runs are made, broken and thrown away: each file of them is synchronised when it is written."""


class Link(str):
    """A file that is a symbolic link to this path."""

    __slots__ = ()


FOLDER, PIPE, HUGE = Link(""), Link(""), Link("")
"""Where a file should be: an empty folder, a named pipe, 10^12 zeros that take no space."""
Content = bytes | Link
Files = dict[str, Content]


def schema(num_models: int = 10) -> Schema:
    """The schema of the run: three blocks, the last one partial, two targets."""
    classes = tuple(f"class é {i}" for i in range(5))
    targets = {name: Target((np.arange(7) % 5).astype(np.int32), classes) for name in TARGETS}
    return Schema(num_models, 4, tuple(f"unit {u}, ü" for u in range(6)), targets)


def block_arrays(schema: Schema, block: int) -> dict[str, np.ndarray]:
    """What is stored of a block, the same at every call, its first rows also where the block has grown."""
    rows, values = schema.layout.models_of(block), {}
    for i, column in enumerate(schema.columns().values()):
        rng, shape = np.random.default_rng([block, i]), (schema.block_size, *column.shape[1:])
        drawn = {"bool": lambda r, s: r.random(s) < 0.5, "int32": lambda r, s: r.integers(0, 5, s, dtype=np.int32)}
        value = drawn.get(column.dtype, lambda r, s: r.normal(size=s).astype(np.float32))(rng, shape)
        values[column.name] = value[: len(rows)]
    return values


def write_missing(root: pathlib.Path, schema: Schema) -> None:
    """Create or resume the run, and write the blocks that it lacks."""
    writer = create_or_open(root, config=CONFIG, provenance=PROVENANCE, schema=schema)
    for block in writer.missing_blocks():
        writer.write_block(block, block_arrays(schema, block), {"seconds": 1.0, "randomness_ids": [1, 2]})


def _influences(rng: np.random.Generator, units: tuple[str, ...], targets: tuple[str, ...]) -> Influences:
    value = rng.normal(size=(len(units), len(targets))).astype(np.float32)
    return Influences(
        influence=value, standard_error=np.abs(value) + 1, z=value, degrees_of_freedom=np.full((1, 1), 9.0, np.float32),
        intercept=value[0], unit_names=units, target_names=targets, estimator="ridge", output="confidence",
        num_models=10, info={"penalties": [0.1, 1.0]} | ({"penalty": value[0]} if len(targets) == 7 else {}),
    )  # fmt: skip


def sound_files(num_models: int = 10) -> Files:
    """Every file of a sound run with influences and a summary, by its path in the run."""
    made, rng = schema(num_models), np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=QUICK_DISK) as folder:
        root = pathlib.Path(folder) / "run"
        write_missing(root, made)
        name, target = next(iter(made.targets.items()))
        levels: dict[Any, Influences] = {
            "example": _influences(rng, made.unit_names, tuple(map(str, range(7)))),
            "class": _influences(rng, made.unit_names, target.class_names),
            "task": _influences(rng, made.unit_names, (name,)),
        }
        path = influence_path(root, name, "fixed", "confidence", "ridge")
        save_influences(path, levels, class_names=target.class_names, attributes={"target": name})
        write_json(root / "summary.json", {"figures": {"lds": 0.5}})
        return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def put(root: pathlib.Path, content: Content) -> None:
    """Make `root` a file of this content, a link or a folder; its folders are made."""
    root.parent.mkdir(parents=True, exist_ok=True)
    if content is FOLDER:
        root.mkdir()
    elif content is PIPE:
        os.mkfifo(root)
    elif content is HUGE:
        with root.open("wb") as file:
            file.truncate(10**12)
    elif isinstance(content, Link):
        root.symlink_to(content)
    else:
        root.write_bytes(content)


EVIL_NAMES = (
    "../../../beside/notes.txt", "../" * 12 + "etc/passwd", "/etc/passwd", "..", ".", "", "a\0b", "a\nb", "\x1b[31mred",
    "\ud800", "zarr.json", "label", "__proto__", "C:\\x", "gs://bucket/x", "é" * 300, "<script>alert(1)</script>",
    "%2e%2e/", "{0.__class__}", "[bold]", "$(touch x)", "\u202eabc", "x" * 100_000,
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2, 3, 5, 7, 10, 11, 12, 10**6, 10**7, 10**9, 10**12, 2**31, 2**63 - 1, 2**63, 2**64, 10**400, 10**4000,
    -(10**12), 0.5, 4.0, 10.0, -0.0, 1e308,
)  # fmt: skip
RAW_NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000, "1E400", "-0", "1.0000000000000000001")
OTHERS: tuple[Any, ...] = (
    None, True, False, [], {}, [[]], [None], {"a": {}}, [0, 4], [0, 10**12], [0.0, 4.0], [4, 0], "4",
)  # fmt: skip
_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
CODECS: tuple[Any, ...] = (
    [], [{"name": "bytes"}], [{"name": "bytes", "configuration": {"endian": "big"}}],
    [_BYTES, {"name": "gzip", "configuration": {"level": 5}}],
    [_BYTES, {"name": "zstd", "configuration": {"level": 10**9}}],
    [_BYTES, {"name": "blosc", "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "typesize": 4,
                                                 "blocksize": 2**31 - 1}}],
    [{"name": "transpose", "configuration": {"order": [1, 0]}}, _BYTES],
    [{"name": "transpose", "configuration": {"order": [0, 10**12]}}],
    [{"name": "sharding_indexed", "configuration": {"chunk_shape": [1, 1], "codecs": [_BYTES],
                                                    "index_codecs": [_BYTES, {"name": "crc32c"}]}}],
    [{"name": "vlen-utf8"}], [{"name": "numcodecs.pickle"}], [{"name": "crc32c"}] * 1000,
    [{"name": "file", "configuration": {"path": "/etc/passwd"}}],
)  # fmt: skip
_CHUNK_SHAPES: tuple[Any, ...] = (
    [1, 1], [10**12, 10**12], [2**63 - 1], [0], [0, 0], [-1, 7], [4.5, 7], [4, 7, 1], [], [10**12], [4, 10**9], "x",
)  # fmt: skip
ZARR: dict[str, tuple[Any, ...]] = {
    "codecs": CODECS,
    "data_type": ("float64", "float16", "bfloat16", "int4", "complex64", "string", "bool", "uint8", "int64",
                  "r800000000", {"name": "struct"}),
    "shape": ([10**12, 7], [10, 10**12], [7], [10**12], [], [0], [0, 0], [-1], [10, 7, 1], [2**63 - 1, 2**63 - 1],
              [10.0], ["7"], [True], [10**30], [[7]], [11, 7], [12]),
    "chunk_grid": (
        *({"name": "regular", "configuration": {"chunk_shape": shape}} for shape in _CHUNK_SHAPES),
        {"name": "rectangular"},
    ),
    "chunk_key_encoding": ({"name": "v2"}, {"name": "v2", "configuration": {"separator": "/"}},
                           {"name": "default", "configuration": {"separator": "/../../../beside/"}},
                           {"name": "default", "configuration": {"separator": "."}}),
    "fill_value": (0, 1, True, "NaN", "Infinity", "0x7fc00000", [1, 2], 10**400, "../x", None),
    "storage_transformers": ([], [{"name": "indirection"}], [{"name": "x", "configuration": {"path": "/etc"}}], {}),
    "dimension_names": (None, [], ["model"], ["unit", "model"], [1, 2], ["../x", "/"], ["a"] * 1000),
    "node_type": ("group", "x", None), "zarr_format": (2, "3", 4, None),
    "driver": ("n5", "zarr", "neuroglancer_precomputed"),
    "kvstore": ({"driver": "file", "path": "/etc/"}, "file:///etc/passwd",
                {"driver": "http", "base_url": "http://[::1]/"}),
    "consolidated_metadata": ({"metadata": {"../x": {}}},), "must_understand": (True, {"must_understand": True}),
    "attributes": ({}, [], "x", 7, None, {"a": 1}, {"jdt_checksums": {"../../x": "0"}}, {"coordinates": 7},
                   {"jdt_checksums": {"influence": "0" * 16}, "coordinates": "influence"}, {"jdt_checksums": []}),
}  # fmt: skip


def hostile(rng: random.Random) -> Any:
    """A value of any kind that a file should not hold there."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice(EVIL_NAMES)
    if kind <= 2:
        return rng.choice(NUMBERS)
    if kind == 3:
        return copy.deepcopy(rng.choice(OTHERS))
    if kind == 4:
        return {rng.choice(EVIL_NAMES): rng.choice(NUMBERS) for _ in range(rng.randrange(4))}
    return [rng.choice((*NUMBERS, *EVIL_NAMES)) for _ in range(rng.randrange(5))]


def _spots(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) below a value."""
    found, waiting = [], [value]
    while waiting:
        here = waiting.pop()
        keys = list(here) if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()
        for key in keys:
            found.append((here, key))
            waiting.append(here[key])
    return found


_CHANGES = ("replace", "replace", "replace", "near", "delete", "rename", "insert", "double", "swap", "graft")


def change_json(rng: random.Random, value: Any, others: list[Any]) -> Any:
    """Change one thing somewhere in a JSON value."""
    spots = _spots(value)
    if not spots or rng.random() < 0.02:
        return hostile(rng)
    where, key = rng.choice(spots)
    change = rng.choice(_CHANGES)
    if change == "replace":
        where[key] = hostile(rng)
    elif change == "near":
        where[key] = _near(rng, where[key])
    elif change == "delete":
        del where[key]
    elif change == "rename" and isinstance(where, dict):
        where[rng.choice((*EVIL_NAMES, *map(str, where)))] = where.pop(key)
    elif change == "double" and isinstance(where, list):
        most = 10**6 // (1 + len(json.dumps(where[key])))
        where[key:key] = [copy.deepcopy(where[key])] * max(1, min(most, rng.choice((1, 3, 1000))))
    elif change == "graft":
        source = rng.choice(others)
        where[key] = copy.deepcopy(rng.choice([owner[name] for owner, name in _spots(source)] or [source]))
    elif change == "swap":
        other, name = rng.choice(spots)
        where[key], other[name] = copy.deepcopy(other[name]), copy.deepcopy(where[key])
    elif isinstance(where, dict):
        where[rng.choice((*EVIL_NAMES, "grown", "outputs", "digest", "storage_transformers", "a"))] = hostile(rng)
    else:
        where.insert(key, hostile(rng))
    return value


def _near(rng: random.Random, value: Any) -> Any:
    """Something of the same kind that is slightly off, or the same of another kind."""
    if isinstance(value, bool) or value is None:
        return rng.choice((not value, 0, 1, "true"))
    if isinstance(value, (int, float)):
        near = float(max(-1e300, min(value, 1e300)))
        return rng.choice((value + 1, value - 1, -value, near, str(value), [value], value * 1000, bool(value)))
    if isinstance(value, str):
        others = (
            value[:-1],
            value + " ",
            value.upper(),
            value[::-1],
            value + "\n",
            [value],
            list(value),
            value[:9999] * 9,
        )
        return rng.choice(others)
    if isinstance(value, list):
        first = value[0] if value else 0
        return rng.choice((value[:-1], value[::-1], dict(enumerate(map(str, value))), value * 2, first))
    return rng.choice((list(value), list(value.values()), str(sorted(value)), [value], {}))


def _text(rng: random.Random, value: Any) -> bytes:
    """JSON text of a value, sometimes with what no dictionary holds: double keys, NaN, deep nesting, odd encodings."""
    text, kind = json.dumps(value, indent=rng.choice((None, 1))), rng.randrange(24)
    if kind == 0 and ":" in text:
        starts = [i for i, c in enumerate(text) if c == ":"]
        at = rng.choice(starts)
        text = f'{text[: at + 1]} {rng.choice(RAW_NUMBERS)}, "extra": {text[at + 1 :]}'
    elif kind == 1 and text.startswith("{"):
        text = text[:-1].rstrip() + f', "{rng.choice(list(value) or ["a"])}": {json.dumps(hostile(rng))}' + "}"
    elif kind == 2:
        depth = rng.choice((50, 500, 900, 990, 5_000, 200_000))
        opened, closed = rng.choice((("[", "]"), ('{"a":', "}")))
        nested = opened * depth + ("0" if closed == "}" else "") + closed * depth
        if rng.random() < 0.5 and text.startswith("{"):
            text = text[:-1].rstrip() + f', "{rng.choice(["deep", *value])}": {nested}' + "}"
        else:
            text = nested
    elif kind == 3:
        return text.encode(rng.choice(("utf-16", "utf-32", "utf-8-sig", "utf-7")))
    return text.encode()


def _json(content: Content | None) -> Any:
    try:
        return json.loads(content) if isinstance(content, bytes) else None
    except (ValueError, RecursionError):
        return None


def harm_json(rng: random.Random, files: Files) -> None:
    """Change a JSON file here and there; mostly make its digests right again, so that what they guard is tried."""
    names = [name for name in files if name.endswith(".json")]
    favourites = ["run.json", *(name for name in names if name.startswith("blocks/"))]
    name = rng.choice(favourites if rng.random() < 0.5 else names)
    value, others = _json(files[name]), [_json(files[other]) for other in rng.sample(names, 2)]
    if value is None:
        return
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if isinstance(value, dict) and name.endswith("zarr.json") and rng.random() < 0.6:
            member = rng.choice(list(ZARR))
            value[member] = copy.deepcopy(rng.choice(ZARR[member]))
        elif name == "run.json" and rng.random() < 0.4 and isinstance(value, dict) and "schema" in value:
            value["schema"] = change_json(rng, value["schema"], others)
        else:
            value = change_json(rng, value, others)
    files[name] = _text(rng, resealed(name, value) if rng.random() < 0.8 else value)


def resealed(name: str, value: Any) -> Any:
    """`run.json` or a record with fingerprint and digest as its content, true or not, would have them."""
    if not isinstance(value, dict) or not (name == "run.json" or name.startswith("blocks/")):
        return value
    try:
        plain = json.loads(json.dumps({key: item for key, item in value.items() if key != "digest"}))
        if name == "run.json" and "config" in plain:
            plain["config_fingerprint"] = fingerprint(plain["config"])
        return {**plain, "digest": fingerprint(plain)} if "digest" in value else sealed(plain)
    except RecursionError:
        return value


def harm_bytes(rng: random.Random, files: Files) -> None:
    """Flip, cut, lengthen, exchange or lose the bytes of any file."""
    name = rng.choice(list(files))
    content = files[name]
    if not isinstance(content, bytes):
        return
    kind = rng.randrange(9)
    changed = bytearray(content)
    if kind <= 2:
        for _ in range(rng.choice((1, 1, 2, 8))):
            if changed:
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif kind == 3:
        del changed[rng.randrange(len(changed) + 1) :]
    elif kind == 4:
        changed += rng.choice((b"\0", b"\n", b"}", rng.randbytes(50), bytes(changed)))
    elif kind == 5:
        changed = bytearray(rng.choice((b"", b"\0" * len(changed), rng.randbytes(len(changed)), b"null", b"{}", b"[]")))
    elif kind == 6:
        other = files[rng.choice(list(files))]
        changed = bytearray(other if isinstance(other, bytes) else b"")
    elif kind == 7:
        at = rng.randrange(len(changed) + 1)
        changed[at : at + rng.randrange(9)] = rng.randbytes(rng.randrange(9))
    else:
        files[name] = rng.choice((FOLDER, PIPE, HUGE, Link("/dev/zero")))
        if rng.random() < 0.5:
            del files[name]
        return
    files[name] = bytes(changed)


def harm_links(rng: random.Random, files: Files) -> None:
    """Make a file or a folder a symbolic link: to the same outside the run, to nothing, to itself."""
    name = rng.choice(list(files))
    if rng.random() < 0.2:  # The name that TensorStore gives to a file that it is writing.
        files[f"{name}.__lock"] = Link("../" * name.count("/") + f"../beside/{rng.choice(('notes', 'new'))}.txt")
        return
    parts = pathlib.PurePosixPath(name).parts
    upto = "/".join(parts[: rng.randrange(1, len(parts) + 1)])
    for file in [file for file in files if file == upto or file.startswith(f"{upto}/")]:
        del files[file]
    away = "../" * len(pathlib.PurePosixPath(upto).parts) + f"beside/{upto}"
    files[upto] = Link(rng.choice((away, away, away, "nowhere", os.path.basename(upto), "/dev/null", "/dev/zero")))


def harm_names(rng: random.Random, files: Files) -> None:
    """Hostile unit names, class names or labels whose digests are right."""
    saved = _json(files.get("run.json"))
    if not (isinstance(saved, dict) and isinstance(saved.get("schema"), dict)):
        return
    count = rng.choice((0, 1, 5, 6, 6, 6, 7, 100))
    names = [rng.choice(EVIL_NAMES).encode("utf-8", "replace").decode() for _ in range(count)]
    description, target = saved["schema"], rng.choice(TARGETS)
    folder = f"store.zarr/targets/{target}"
    kind = rng.choice(("unit_name", "class_name", "label"))
    try:
        if kind == "unit_name":
            made, where = string_files(names, "unit"), "store.zarr/unit_name"
            description["unit_names"] = fingerprint(names)
            if rng.random() < 0.7:
                description["num_units"] = count
        elif kind == "class_name":
            made, where = string_files(names, "class"), f"{folder}/class_name"
            description["targets"][target]["class_names"] = fingerprint(names)
        else:
            labels = np.array([rng.choice((-2, -1, 0, 4, 5, 2**31 - 1)) for _ in range(count)], np.int32)
            made, where = int32_files(labels, "example"), f"{folder}/label"
            description["targets"][target]["labels"] = labels_digest(labels)
            if rng.random() < 0.7:
                description["targets"][target]["num_examples"] = count
    except (KeyError, TypeError):
        return
    files |= {f"{where}/{name}": content for name, content in made.items()}
    files["run.json"] = json.dumps(resealed("run.json", saved)).encode()


def harm_strings(rng: random.Random, files: Files) -> None:
    """Lie about lengths inside a file of names."""
    name = rng.choice([name for name in files if "_name/c/" in name] or ["summary.json"])
    content = files.get(name)
    if isinstance(content, bytes) and len(content) >= 8:
        at = rng.randrange(len(content) - 4)
        lie = struct.pack("<I", rng.choice((0, 1, 2**31, 2**32 - 1, len(content), len(content) * 2)))
        files[name] = content[:at] + lie + content[at + 4 :]


def harm_sizes(rng: random.Random, files: Files) -> None:
    """Absurd sizes that `run.json`, the array's own description and the records agree on."""
    saved = _json(files.get("run.json"))
    size = rng.choice((0, 1, 3, 8, 10**5, 10**7, 10**8, 10**9, 10**12, 2**62))
    kind = rng.choice(("num_units", "num_examples", "block_size", "num_models"))
    try:
        if kind == "num_examples":
            target = rng.choice(TARGETS)
            saved["schema"]["targets"][target]["num_examples"] = size
            columns = [name for name in files if f"/{target}/fixed/" in name and name.endswith("zarr.json")]
        else:
            saved["schema"][kind] = size
            columns = [name for name in files if name.startswith("store.zarr/") and name.endswith("zarr.json")]
        for name in columns:
            value = _json(files[name])
            shape, chunks = value["shape"], value["chunk_grid"]["configuration"]["chunk_shape"]
            if kind == "num_models":
                shape[0] = size
            elif kind == "block_size":
                chunks[0] = size
            elif len(shape) == 2:
                parts = max(1, -(-size // 4096)) if kind == "num_examples" else 1
                shape[1], chunks[1] = size, max(1, -(-size // parts))
            files[name] = json.dumps(value).encode()
    except (KeyError, TypeError, AttributeError, IndexError):  # Another harm was here before.
        return
    files["run.json"] = json.dumps(resealed("run.json", saved)).encode()
    if rng.random() < 0.3:
        for name in [name for name in files if "/c/" in name and rng.random() < 0.5]:
            del files[name]


def harm_influences(rng: random.Random, files: Files) -> None:
    """Influences of other shapes and types than they should have, with right checksums; or an array told to be huge."""
    groups = [name for name in files if name.startswith("influences/") and name.endswith(".zarr/zarr.json")]
    if not groups:
        return
    folder = rng.choice(groups).removesuffix("/zarr.json")
    shapes = [(6, 7), (6, 7), (7, 6), (6,), (), (0, 7), (6, 0), (1, 1), (6, 5), (6, 7, 1)]
    arrays, strings = {}, {}
    for name in ("influence", "standard_error", "z", "degrees_of_freedom", "intercept", "penalty", "class_influence",
                 "class_intercept", "task_influence", "unit_name"):  # fmt: skip
        if rng.random() < 0.8:
            shape = rng.choice(shapes) if rng.random() < 0.6 else (7,) if name == "intercept" else (6, 7)
            dtype = rng.choice((np.float32, np.float32, np.float64, np.int32, np.bool_, np.float16))
            arrays[name] = (np.ones(shape, dtype), tuple(f"{name}{i}" for i in range(len(shape))))
    for name in ("unit_name", "class_name"):
        if rng.random() < 0.8 and name not in arrays:
            strings[name] = ([f"{i}" for i in range(rng.choice((0, 5, 6, 6, 7)))], f"{name}0s")
    attributes = {key: rng.choice((7, "x", hostile(rng))) for key in ("estimator", "output", "num_models", "target")
                  if rng.random() < 0.8}  # fmt: skip
    for name in [name for name in files if name.startswith(f"{folder}/")]:
        del files[name]
    with tempfile.TemporaryDirectory(dir=QUICK_DISK) as made:
        path = pathlib.Path(made) / "g.zarr"
        attributes = json.loads(json.dumps(attributes).encode("utf-8", "replace"))
        write_group(path, arrays, strings=strings, attributes=attributes)
        files |= {f"{folder}/{file.relative_to(path)}": file.read_bytes() for file in path.rglob("*") if file.is_file()}
    if rng.random() < 0.4:
        name = rng.choice([name for name in files if name.startswith(f"{folder}/") and name.endswith("zarr.json")])
        value = _json(files[name])
        if isinstance(value, dict) and isinstance(value.get("shape"), list):
            huge = rng.choice((10**5, 10**6, 10**8, 10**9, 10**12))
            value["shape"] = [huge] * len(value["shape"])
            if rng.random() < 0.5:
                value["chunk_grid"]["configuration"]["chunk_shape"] = [huge] * len(value["shape"])
            files[name] = json.dumps(value).encode()


HARMS: dict[str, tuple[Callable[[random.Random, Files], None], int]] = {
    "json": (harm_json, 10),
    "bytes": (harm_bytes, 4),
    "links": (harm_links, 1),
    "names": (harm_names, 2),
    "strings": (harm_strings, 1),
    "sizes": (harm_sizes, 2),
    "influences": (harm_influences, 2),
}
"""Name -> harm and how often it is drawn."""


def harmed(seed: int, case: int, sound: Files) -> tuple[str, Files]:
    """The files of one case, and the names of the harms that were done; the same for the same seed and case."""
    rng, files, names = random.Random(f"{seed}/{case}"), dict(sound), []
    kinds, weights = list(HARMS), [weight for _, weight in HARMS.values()]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        names.append(rng.choices(kinds, weights)[0])
        with contextlib.suppress(RecursionError):  # What an earlier harm nested too deeply stays as it is.
            HARMS[names[-1]][0](rng, files)
    return "+".join(names), files
