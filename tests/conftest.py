"""What every test shares: eight CPU devices and caches of the tests' own; pyproject.toml switches type checks on."""

import functools
import os
import tempfile
from collections.abc import Iterator

import pytest

OPTIMISED = {
    "test_train_engine", "test_train_conv_rounding", "test_estimators_lasso_path",
}  # fmt: skip
"""Files about optimised programs' numbers: they compile as users do; all others fast."""
# Before JAX is imported. `JAX_PLATFORMS=cuda make test` overrides it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
# All workers of a session, and the processes that tests start, compile each program once between them, however small.
if "PYTEST_XDIST_WORKER" not in os.environ and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="jdt-compiled-")  # Removed when this process ends.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory):
    """Keep decoded data in a folder of this session: the user's cache stays as it is, the digits are prepared once."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("jdt_cache")
        patch.setenv("JDT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def wide_lines() -> Iterator[None]:
    """Let no printed line break, which depends on the terminal and on the length of temporary paths."""
    from jdt import cli

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "1000")
        patch.setattr(cli.console, "width", 1000)
        yield


QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
"""Options of XLA that leave a third of what compiling takes without most optimisations."""


@functools.cache
def knows_quick_options() -> bool:
    """Whether this version of XLA has them; asked before they are in the environment, which XLA reads once."""
    import jax

    try:
        jax.jit(lambda: 0).lower().compile(compiler_options=QUICK)
    except jax.errors.JaxRuntimeError:
        return False
    return True


@pytest.fixture(scope="module", autouse=True)
def compiled_programs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compile with few optimisations, which takes a tenth of the time; drop a file's programs after it.

    Each program holds memory maps, and a process may have 65,530 on Linux.
    """
    import jax
    from jax._src import compiler

    fast = request.path.stem not in OPTIMISED
    with pytest.MonkeyPatch.context() as patch:
        if fast:
            patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # For the processes that tests start.
            jax.config.update("jax_disable_most_optimizations", True)
        if fast and knows_quick_options() and hasattr(compiler, "get_compile_options"):
            words = [f"--{name}={str(value).lower()}" for name, value in QUICK.items()]
            patch.setenv("XLA_FLAGS", " ".join([os.environ.get("XLA_FLAGS", ""), *words]).strip())
            # JAX has no setting for this.
            options = compiler.get_compile_options

            def quick(*args, env_options_overrides=None, **kwargs):
                return options(*args, env_options_overrides={**QUICK, **(env_options_overrides or {})}, **kwargs)

            patch.setattr(compiler, "get_compile_options", quick)
        yield
    if fast:
        jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
