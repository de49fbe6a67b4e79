"""Models over devices: one program a device, each with models of its own, and nothing sent between them.

`jax.shard_map` gives every device a part of the models axis. Left to `jit` with sharded inputs, the compiler gathers
whole arrays on every device (see docs/decisions/0006).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

MODELS = PartitionSpec("models")
"""Leading axis split over devices."""
SHARED = PartitionSpec()
"""The same array on every device."""


@functools.lru_cache
def models_mesh(num_devices: int) -> Mesh:
    """Mesh with one axis, `models`, over the first `num_devices` devices of this process."""
    return Mesh(np.array(jax.local_devices()[:num_devices]), ("models",))


def each_device(function: Callable[..., Any], num_devices: int, in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """Run a function on every device, on its own part of the arguments.

    Args:
      function: Takes and returns the part of one device. It must not communicate.
      num_devices: How many of this process's devices.
      in_specs: `MODELS` or `SHARED` (or a `PartitionSpec`) an argument.
      out_specs: The same for the results.
    """
    # Nothing is communicated, so there is nothing for the replication check to find.
    return jax.shard_map(
        function, mesh=models_mesh(num_devices), in_specs=in_specs, out_specs=out_specs, check_vma=False
    )


def place(tree: Any, num_devices: int, spec: PartitionSpec) -> Any:
    """Put arrays on the devices, as `spec` says."""
    return jax.device_put(tree, NamedSharding(models_mesh(num_devices), spec))


def in_waves(num_models: int, num_devices: int, width: int) -> list[np.ndarray]:
    """Divide models into waves that fill every device equally.

    Args:
      num_models: Models in all.
      num_devices: Devices that share each wave.
      width: Models that a device takes at once, at most.

    Returns:
      Row numbers of each wave, all waves of one length, a multiple of `num_devices`; the last rows are repeated where
      models run out.

    >>> [wave.tolist() for wave in in_waves(5, num_devices=2, width=2)]
    [[0, 1, 2, 3], [4, 4, 4, 4]]
    >>> [wave.tolist() for wave in in_waves(3, num_devices=1, width=8)]
    [[0, 1, 2]]
    """
    waves = math.ceil(num_models / (num_devices * width))
    size = num_devices * math.ceil(num_models / (num_devices * waves))
    rows = np.minimum(np.arange(waves * size), num_models - 1)
    return [rows[i * size : (i + 1) * size] for i in range(waves) if i * size < num_models]


def run_in_waves(waves: list[np.ndarray], num_models: int, run: Callable[[np.ndarray], Any]) -> Any:
    """Call `run` with the rows of each wave and join the results along their leading models axis.

    One wave without repeated rows stays on the devices; anything else is joined on the host.
    """
    if len(waves) == 1 and len(waves[0]) == num_models:
        return run(waves[0])
    parts = [jax.device_get(run(rows)) for rows in waves]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:num_models], *parts)
