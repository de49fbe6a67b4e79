import os
import subprocess
import sys
from pathlib import Path

import pytest

from jdt import devices
from jdt.checks import UserError

ROOT = Path(__file__).parents[1]
SET_BY_TESTS = ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")


def python(code, **environment):
    """Run code in a process of its own, where JAX has not started."""
    kept = {k: v for k, v in os.environ.items() if k not in SET_BY_TESTS}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300, cwd=ROOT,
        env={**kept, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


SHOW = (
    "from jdt import devices; devices.prepare(); import jax, os; print(len(jax.devices()), os.environ.get('XLA_FLAGS'))"
)


def test_every_core_becomes_a_device():
    count, *flags = python(SHOW)
    assert int(count) == devices.usable_cores()
    assert ("--xla_cpu_multi_thread_eigen=false" in flags) == (int(count) > 1)


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({"JAX_NUM_CPU_DEVICES": "3"}, "3"),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, "5"),
    ],
)
def test_what_the_user_has_set_stays(environment, count):
    shown = python(SHOW, **environment)
    assert shown[0] == count
    assert shown[1] == environment.get("XLA_FLAGS", "None")


def test_preparing_after_jax_has_started_changes_nothing():
    assert python("import jax; jax.devices()\n" + SHOW) == ["1", "None"]


def test_compiled_programs_are_kept_between_starts(tmp_path):
    code = (
        "from jdt import devices; devices.prepare(); import jax, jax.numpy as jnp\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)\n"  # However fast this machine compiles.
        "f = jax.jit(lambda x: jax.lax.fori_loop(0, 9, lambda i, y: jnp.linalg.qr(y @ x)[0] + jnp.sin(y), x))\n"
        "f(jnp.ones((50, 50))).block_until_ready()"
    )
    python(code, JDT_CACHE=str(tmp_path))
    kept = {path.name for path in (tmp_path / "compiled").iterdir() if not path.name.endswith("-atime")}
    assert kept
    python(code, JDT_CACHE=str(tmp_path))
    assert {path.name for path in (tmp_path / "compiled").iterdir() if not path.name.endswith("-atime")} == kept


def test_the_engine_runs_with_jax_flax_optax_and_numpy_alone():
    # What flax and jax themselves bring along may be there; what jdt needs elsewhere may not.
    code = """
import sys

class Absent:
    names = {"jaxtyping", "tensorflow_datasets", "array_record", "grain", "PIL", "sklearn", "tyro", "jinja2",
             "matplotlib", "zarr", "xarray", "torch", "scipy.optimize"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import numpy as np
import jdt.train, jdt.models, jdt.devices
draw = np.random.default_rng(0)
images, labels = draw.integers(0, 256, (32, 8, 8, 3), np.uint8), draw.integers(0, 2, 32).astype(np.int32)
recipe = jdt.train.Recipe(epochs=1, batch_size=8)
ensemble = jdt.train.Ensemble(jdt.models.make("small_cnn", 2), recipe, jdt.train.PLANS["native"], (8, 8, 3), 32.0, 32)
plan = jdt.train.choose("matmul", ensemble, num_models=1, num_examples=32).plan
import dataclasses
trained = jdt.train.train(dataclasses.replace(ensemble, plan=plan), jdt.train.SourceData(images, labels),
                          np.ones((1, 32), bool), np.arange(1), seed=0)
print(bool(trained.finite.all()))
"""
    assert python(code)[-1] == "True"


@pytest.mark.parametrize("asked", [0, 9])
def test_devices_that_are_not_there_are_refused(asked):
    with pytest.raises(UserError, match=f"devices is {asked}, but this process has 8: pass --devices 1 to 8"):
        devices.resolve_num_devices(asked)


def test_half_precision_needs_matrix_units():
    class Device:
        def __init__(self, platform, capability=None):
            self.platform, self.compute_capability = platform, capability

    fast = [Device("tpu"), Device("gpu", "8.0"), Device("gpu", "9.0")]
    slow = [Device("cpu"), Device("gpu", "7.5"), Device("gpu")]
    assert all(map(devices.has_bfloat16_units, fast))
    assert not any(map(devices.has_bfloat16_units, slow))
    assert devices.resolve_precision("auto") == "float32"
    assert devices.resolve_precision("bfloat16") == "bfloat16"
