"""Pre-trained variables from files: an Orbax checkpoint, a Flax `.msgpack`, or a `.safetensors` of the same module.

Nothing in them is unpickled or run. What a file says of itself is compared with its size and with the network before
any array is read. Safetensors are read here, by the published format (https://huggingface.co/docs/safetensors): eight
bytes with the length of a JSON header, the header, and the arrays without gaps.
"""

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdt import checks
from jdt.keys import key_for
from jdt.models.base import Network, Variables

_LONGEST_HEADER = 100_000_000  # The format's own limit.
_LARGEST_MSGPACK = 1 << 34
_NAMED = 20  # Leaves that a message names at most.
_TRAINING_STATE = ("opt_state", "step", "dynamic_scale")
"""What else the training states of Flax's examples hold."""
_TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16, "I64": np.int64, "I32": np.int32,
    "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
    "BOOL": np.bool_,
}  # fmt: skip


class _Shape(NamedTuple):
    """Type and shape of a leaf."""

    dtype: np.dtype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype.name}{list(self.shape)}"


class _File(NamedTuple):
    """A file that was opened: what it holds by name, and how to read some of it."""

    leaves: dict[str, _Shape]
    read: Callable[[Sequence[str]], Mapping[str, np.ndarray]]


def load_variables(
    path: str | os.PathLike[str],
    network: Network,
    image_shape: tuple[int, int, int],
    *,
    head: bool = True,
    seed: int = 0,
) -> Variables:
    """Read the variables of a network from a file that the same module, trained elsewhere, was saved to.

    Names such as `params/conv0/kernel` may be separated by "/" or ".". A tree without collections is taken for
    parameters, and of a training state `opt_state`, `step` and `dynamic_scale` are not looked at. Floating-point values
    may be of another precision and are converted.

    Args:
      path: A folder that Orbax wrote (`StandardCheckpointer`, `PyTreeCheckpointer`, or a step of a
        `CheckpointManager`), a `.msgpack` of `flax.serialization`, or a `.safetensors`.
      network: What the variables are for.
      image_shape: (height, width, channels).
      head: Whether to read the head; otherwise it starts anew, whatever the file has for it.
      seed: Root seed that such a head is drawn from.

    Returns:
      Variables in NumPy, in the network's own tree.

    Raises:
      UserError: If the file is missing, damaged or of another kind, or does not fit the network: every leaf that is
        missing, not wanted, or of another shape or type is named, with both shapes.
    """
    place = pathlib.Path(path).expanduser()
    try:
        file = _opened(place)
        like = network.shapes(image_shape)
        wanted = {_name(keys): _Shape(np.dtype(leaf.dtype), leaf.shape) for keys, leaf in _leaves(like)}
        names = _renamed(file.leaves, set(like.state))
        if not head:
            names = {name: old for name, old in names.items() if not _is_head(name)}
        due = {name: shape for name, shape in wanted.items() if head or not _is_head(name)}
        _require_same(place, {new: file.leaves[old] for new, old in names.items()}, due)
        arrays = file.read(list(names.values()))
        found = {new: np.asarray(arrays[old]).astype(wanted[new].dtype) for new, old in names.items()}
        if bad := [name for name, array in found.items() if array.shape != wanted[name].shape]:
            raise ValueError(f"{bad[0]} is not of the shape that is said of it")
    except checks.UserError:
        raise
    except Exception as error:  # A damaged file can fail in any way that Orbax, msgpack and NumPy have.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise checks.UserError(
            f"cannot read pre-trained variables from {place} ({reason}): save them again."
        ) from error
    if not head:
        # Compiled, so that all else that Flax needs for the head's shapes alone is left out.
        draw = jax.jit(lambda key: {"params": {"head": network.init(key, image_shape).params["head"]}})
        drawn = jax.device_get(draw(key_for(seed, "init", 0)))
        found |= {_name(keys): np.asarray(leaf) for keys, leaf in _leaves(drawn)}
    return jax.tree.unflatten(jax.tree.structure(like), [found[_name(keys)] for keys, _ in _leaves(like)])


def variables_digest(variables: Variables) -> str:
    """16 hex digits of the SHA-256 of all arrays but the head's, with their names, types and shapes."""
    hashed = hashlib.sha256()
    for keys, leaf in _leaves(variables):
        if not _is_head(_name(keys)):
            array = np.asarray(leaf)
            hashed.update(f"{_name(keys)} {_Shape(array.dtype, array.shape)}\n".encode())
            hashed.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data)
    return hashed.hexdigest()[:16]


def _is_head(name: str) -> bool:
    return name.startswith("params/head/")


def _name(keys: Any) -> str:
    """A leaf's place in Flax's tree of collections: `params/...`, or the collection's name in the state."""
    return jax.tree_util.keystr(keys, simple=True, separator="/").removeprefix("state/")


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_leaves_with_path(tree)


def _renamed(leaves: Mapping[str, _Shape], collections: set[str]) -> dict[str, str]:
    """Names as the network has them -> as the file has them.

    Raises:
      ValueError: If two become one.
    """
    names: dict[str, str] = {}
    for old in leaves:
        new = old.replace(".", "/")
        if new in names:
            raise ValueError(f"both {old!r} and {names[new]!r} are there")
        names[new] = old
    if not any(name.startswith("params/") for name in names):
        parameters = {name for name in names if name.split("/")[0] not in collections}
        names = {f"params/{name}" if name in parameters else name: old for name, old in names.items()}
    return {name: old for name, old in names.items() if name.split("/")[0] not in _TRAINING_STATE}


def _require_same(place: pathlib.Path, there: Mapping[str, _Shape], due: Mapping[str, _Shape]) -> None:
    """Refuse a file that does not hold exactly these leaves."""
    faults = [
        f"{name} is {there.get(name, 'absent')} in the file and {due.get(name, 'absent')} in the model"
        for name in sorted(there.keys() | due.keys())
        if name not in there or name not in due or not _converts(there[name], due[name])
    ]
    if faults:
        more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        named = "; ".join(faults[:_NAMED])
        raise checks.UserError(
            f"{place} does not fit the model in {len(faults)} of {len(due)} arrays: {named}{more}. It must be of "
            "the same module; a head of another width can be left out with head=False."
        )


def _converts(there: _Shape, due: _Shape) -> bool:
    floating = all(jnp.issubdtype(one.dtype, jnp.floating) for one in (there, due))
    return there.shape == due.shape and (floating or there.dtype == due.dtype)


def _opened(place: pathlib.Path) -> _File:
    if place.is_dir():
        return _open_orbax(place)
    if not place.is_file():
        raise checks.UserError(f"{place} is no file and no folder: pass an Orbax checkpoint, .msgpack or .safetensors.")
    if place.suffix == ".safetensors":
        return _open_safetensors(place)
    if place.suffix == ".msgpack":
        return _open_msgpack(place)
    raise checks.UserError(
        f"{place} is neither .msgpack nor .safetensors, nor the folder of an Orbax checkpoint. Files that hold pickles "
        "are never read: convert them where you trust them."
    )


def _open_safetensors(place: pathlib.Path) -> _File:
    size = place.stat().st_size
    with place.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, _LONGEST_HEADER):
            raise ValueError(f"a header of {length:,} bytes is announced, and the file has {size:,}")
        header = json.loads(file.read(length), object_pairs_hook=_without_repeats)
    leaves, spans = {}, {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        (begin, end), shape = entry["data_offsets"], entry["shape"]
        if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)):
            raise ValueError(f"{name} has an impossible shape or place")
        leaves[name] = _Shape(np.dtype(_TYPES[entry["dtype"]]), tuple(shape))
        if end - begin != math.prod(shape) * leaves[name].dtype.itemsize:
            raise ValueError(f"{name} is {leaves[name]}, but has {end - begin:,} bytes")
        spans[name] = begin, end
    last = 0
    for begin, end in sorted(spans.values()):
        if begin != last:
            raise ValueError("arrays overlap, or there are gaps between them")
        last = end
    if 8 + length + last != size:
        raise ValueError(f"the header speaks of {8 + length + last:,} bytes, and the file has {size:,}")

    def read(names: Sequence[str]) -> dict[str, np.ndarray]:
        found = {}
        with place.open("rb") as file:
            for name in names:
                begin, end = spans[name]
                file.seek(8 + length + begin)
                found[name] = np.frombuffer(file.read(end - begin), leaves[name].dtype).reshape(leaves[name].shape)
        return found

    return _File(leaves, read)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _open_msgpack(place: pathlib.Path) -> _File:
    from flax import serialization  # Only here: reading a run needs no Flax.

    if (size := place.stat().st_size) > _LARGEST_MSGPACK:
        raise ValueError(f"it has {size:,} bytes, more than {_LARGEST_MSGPACK:,}")
    arrays = {name: np.asarray(leaf) for name, leaf in _flat(serialization.msgpack_restore(place.read_bytes()))}
    leaves = {name: _Shape(array.dtype, array.shape) for name, array in arrays.items()}
    return _File(leaves, lambda names: {name: arrays[name] for name in names})


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested dictionaries by name; what is no number and no array is left out."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _flat(value, f"{prefix}/{key}" if prefix else str(key))
    elif isinstance(tree, (np.ndarray, np.generic, int, float, bool)):
        yield prefix, tree


def _open_orbax(place: pathlib.Path) -> _File:
    import orbax.checkpoint as ocp  # Takes a third of a second, which `import jdt` should not wait for.

    folder = next((one for one in (place, place / "default", place / "state") if (one / "_METADATA").is_file()), None)
    if folder is None:
        raise checks.UserError(
            f"{place} holds no _METADATA, as the folders of Orbax's PyTree checkpoints do: pass the folder of one step."
        )
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})

    def checkpointer() -> Any:
        return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(), multiprocessing_options=alone)

    with checkpointer() as opened:
        described = opened.metadata(folder.absolute()).item_metadata
    tree = getattr(described, "tree", described)
    if not isinstance(tree, Mapping):
        raise ValueError("what it holds cannot be read")
    leaves = {}
    for name, one in _described(tree):
        shape, dtype = getattr(one, "shape", None), getattr(one, "dtype", None)
        if shape is not None and dtype is not None:
            leaves[name] = _Shape(np.dtype(dtype), tuple(shape))

    def read(names: Sequence[str]) -> dict[str, np.ndarray]:
        item = _part_of(tree, set(names))
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        with checkpointer() as opened:
            args = ocp.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True)
            return dict(_flat(opened.restore(folder.absolute(), args=args)))

    return _File(leaves, read)


def _described(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Descriptions of the leaves of a checkpoint by name."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _described(value, f"{prefix}/{key}" if prefix else str(key))
    elif isinstance(tree, (list, tuple)):
        for i, value in enumerate(tree):
            yield from _described(value, f"{prefix}/{i}")
    else:
        yield prefix, tree


def _part_of(tree: Any, names: set[str], prefix: str = "") -> Any:
    """The dictionaries of a tree with these leaves and no others."""
    found = {}
    for key, value in tree.items():
        name = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            below = _part_of(value, names, name)
            if below:
                found[key] = below
        elif name in names:
            found[key] = value
    return found
