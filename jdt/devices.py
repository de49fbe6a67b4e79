"""The process and its devices: what to set before JAX starts, where caches are kept, how much memory there is."""

import contextlib
import importlib
import importlib.util
import os
import pathlib
from collections.abc import Iterator
from typing import Any, Literal

import jax

from jdt import checks

BYTES_A_GIB = 2**30


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Find the cache folder: the argument, else `$JDT_CACHE`, else `$XDG_CACHE_HOME/jdt`, else `~/.cache/jdt`."""
    if cache_dir is not None:
        return pathlib.Path(cache_dir).expanduser()
    if os.environ.get("JDT_CACHE"):
        return pathlib.Path(os.environ["JDT_CACHE"]).expanduser()
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jdt"


def prepare() -> None:
    """Set JAX up for many models, before it starts; whatever the user has set already is left alone.

    - Compiled programs are kept in `cache_root()/compiled`, so that the next start compiles nothing.
    - On CPUs every core becomes a device with single-threaded kernels: a model a core needs no synchronisation inside
      its step, which is worth more than splitting each small product over all cores (benchmarks/NOTES.md).
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_root() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    flags = os.environ.get("XLA_FLAGS", "")
    chosen = jax.config.values["jax_num_cpu_devices"] > 0 or "xla_force_host_platform_device_count" in flags
    if chosen or (cores := usable_cores()) == 1:
        return
    try:
        jax.config.update("jax_num_cpu_devices", cores)
    except RuntimeError:
        return  # JAX has started: its devices are what they are.
    if "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_limit(device: Any) -> int | None:
    """Bytes that programs on a device may use, or None where nobody knows; CPU devices share the machine's memory."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    total = host_memory()
    if device.platform == "cpu" and total is not None:
        return total // len(jax.local_devices(backend="cpu"))
    return None


def host_memory() -> int | None:
    """Bytes of this machine's own memory, or None where nobody knows."""
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def program_memory(compiled: Any) -> int:
    """Bytes that a compiled program takes on each device: arguments, results and what lies between.

    Args:
      compiled: What `jax.jit(...).lower(...).compile()` returns.
    """
    stats = compiled.memory_analysis()
    arrays = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    return int(arrays + stats.temp_size_in_bytes)


def has_bfloat16_units(device: Any) -> bool:
    """Whether matrix products in bfloat16 run faster than in float32: TPUs, and NVIDIA GPUs from Ampere on."""
    if device.platform == "tpu":
        return True
    capability = getattr(device, "compute_capability", None)
    return device.platform == "gpu" and capability is not None and float(capability) >= 8.0


def resolve_num_devices(asked: int | None) -> int:
    """How many of this process's devices to use: as many as asked for, or all.

    Raises:
      UserError: If there are fewer.
    """
    there = len(jax.local_devices())
    if asked is not None and not 1 <= asked <= there:
        raise checks.UserError(
            f"devices is {asked}, but this process has {there}: pass --devices 1 to {there}, or on CPUs set "
            f"JAX_NUM_CPU_DEVICES={max(asked, 1)}."
        )
    return there if asked is None else asked


def resolve_precision(asked: Literal["auto", "float32", "bfloat16"]) -> Literal["float32", "bfloat16"]:
    """What to compute in: as asked, or bfloat16 where the device has matrix units for it and float32 elsewhere."""
    if asked != "auto":
        return asked
    return "bfloat16" if has_bfloat16_units(jax.local_devices()[0]) else "float32"


@contextlib.contextmanager
def one_thread_of_blas() -> Iterator[None]:
    """Let a device's decompositions run in its own thread: BLAS's would wait for cores that train other models.

    On a busy machine they made a decomposition 45 times slower (benchmarks/NOTES.md).
    """
    if importlib.util.find_spec("threadpoolctl") is None:  # An image with JAX, Flax, Optax and NumPy alone is enough.
        yield
        return
    import threadpoolctl

    importlib.import_module("scipy.linalg")  # JAX takes LAPACK from it, and only what is loaded can be limited.
    with threadpoolctl.threadpool_limits(limits=1, user_api="blas"):
        yield
