"""Source models on their way to a run: written by Orbax, in a thread, while their block is transferred."""

import importlib.util
import os
import threading
from typing import Any

import jax
import numpy as np
from etils import epath

from jdt import checks, store
from jdt.models import Network, Variables
from jdt.types import Int, UInt8


class SavedModels:
    """The source models of a block's models that were trained together; writing begins with the object."""

    def __init__(
        self, path: store.Place, block: int, model_ids: Int[np.ndarray, " models"], variables: Variables
    ) -> None:
        """Copy the variables to the host and begin to write them.

        Args:
          path: The run.
          block: Number of the block.
          model_ids: Consecutive ids.
          variables: Of these models, stacked on a leading models axis; not looked at any more after this.
        """
        self._models = range(int(model_ids[0]), int(model_ids[-1]) + 1)
        # A name of this process's own: two that write the same models must not write to one folder.
        self._name = store.part_folder(self._models, os.urandom(8).hex())
        self._folder = epath.Path(store.block_folder(path, block)) / self._name
        self._leaves, self._content = flattened(variables)
        self._part: store.SavedPart | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._write, name="jdt-source-models")
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is being written any more, whatever came of it."""
        self._thread.join()

    def part(self) -> store.SavedPart:
        """Wait, and say what the block's record is to hold.

        Raises:
          UserError: If the models could not be written.
        """
        self.wait()
        if self._part is None:
            reason = (str(self._error).strip().splitlines() or [type(self._error).__name__])[0]
            raise checks.UserError(
                f"source models could not be written to {self._folder} ({reason}): every recorded block is safe; free "
                "space or make the folder writable, and run the same command again."
            ) from self._error
        return self._part

    def _write(self) -> None:
        from jdt.train import orbax_bytes  # Takes a third of a second, which `import jdt` should not wait for.

        try:
            described = store.leaves_bytes(self._leaves)
            digests = tuple(map(store.model_digest, self._content))
            orbax_bytes.save(
                self._folder,
                self._content.reshape(-1),
                {"models": [self._models.start, self._models.stop]},
                {store.LEAVES_FILE: described},
            )
            leaves = store.model_digest(np.frombuffer(described, np.uint8))
            self._part = store.SavedPart(self._name, self._models, self._content.shape[1], leaves, digests)
        except Exception as error:  # Orbax, TensorStore and file systems fail in many ways; `part` tells of each.
            self._error = error


def require_savable(path: store.Place, network: Network, image_shape: tuple[int, int, int]) -> None:
    """Check, before anything is trained, that a run can keep its source models.

    Raises:
      UserError: If Orbax cannot write to the bucket, or the model holds what is no plain array.
    """
    if not store.is_local(path) and importlib.util.find_spec("gcsfs") is None:
        raise checks.UserError(
            f"--save-models writes to {path} through Orbax, which needs gcsfs: pip install gcsfs, or use a local --out."
        )
    for name, leaf in _named(network.shapes(image_shape)):
        if not isinstance(leaf.dtype, np.dtype):
            raise checks.UserError(f"--save-models cannot keep {name} of the model: it is of type {leaf.dtype}.")


def model_bytes(network: Network, image_shape: tuple[int, int, int]) -> int:
    """Bytes that a run keeps of each source model."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(network.shapes(image_shape)))


def flattened(variables: Variables) -> tuple[tuple[store.Leaf, ...], UInt8[np.ndarray, "models bytes"]]:
    """Arrays with a leading models axis as a row of bytes for each model, and what each row is made of."""
    named = [(name, np.asarray(leaf)) for name, leaf in _named(jax.device_get(variables))]
    leaves = tuple(store.Leaf(name, leaf.dtype.name, leaf.shape[1:]) for name, leaf in named)
    sizes = [leaf[0].nbytes for _, leaf in named]
    # Copied whatever the device: on CPUs the host sees the very memory of the device.
    content, start = np.empty((len(named[0][1]), sum(sizes)), np.uint8), 0
    for (_, leaf), size in zip(named, sizes, strict=True):
        little = np.ascontiguousarray(leaf, leaf.dtype.newbyteorder("<"))
        content[:, start : start + size] = little.reshape(len(leaf), -1).view(np.uint8)
        start += size
    return leaves, content


def require_same_leaves(leaves: tuple[store.Leaf, ...], bytes_per_model: int, like: Variables) -> None:
    """Check that saved models are of a network, before any of their bytes are read.

    Args:
      leaves: What each model is made of.
      bytes_per_model: Bytes of each.
      like: Shapes and types of the network's arrays.

    Raises:
      UserError: If they are of another network; an array that differs is named with both shapes.
    """
    wanted = _named(like)
    described = tuple(store.Leaf(name, leaf.dtype.name, leaf.shape) for name, leaf in wanted)
    size = sum(leaf.size * leaf.dtype.itemsize for _, leaf in wanted)
    if described == leaves and size == bytes_per_model:
        return
    there, due = ({leaf.path: leaf for leaf in some} for some in (leaves, described))
    odd = next((name for name in (*due, *there) if there.get(name) != due.get(name)), None)
    what = (
        f"{bytes_per_model:,} bytes of each are there, and it has {size:,} here"
        if odd is None
        else f"{odd} is {_words(there.get(odd))} there, and {_words(due.get(odd))} here"
    )
    raise checks.UserError(f"the saved models are of another network: {what}.")


def unflattened(content: UInt8[np.ndarray, "models bytes"], like: Variables) -> Variables:
    """Undo `flattened`.

    Args:
      content: Rows of bytes, of models that `require_same_leaves` has accepted.
      like: Shapes and types of one model, in the tree that is wanted.
    """
    arrays, start = [], 0
    for leaf in jax.tree.leaves(like):
        size = leaf.size * leaf.dtype.itemsize
        rows = np.ascontiguousarray(content[:, start : start + size])
        arrays.append(rows.view(leaf.dtype.newbyteorder("<")).astype(leaf.dtype).reshape(len(content), *leaf.shape))
        start += size
    return jax.tree.unflatten(jax.tree.structure(like), arrays)


def _words(leaf: store.Leaf | None) -> str:
    return "absent" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"


def _named(variables: Variables) -> list[tuple[str, Any]]:
    """Every leaf with its place in the tree, such as `params/head/kernel`."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    ]
