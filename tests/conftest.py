"""What every test shares: eight CPU devices and a cache of the tests' own; pyproject.toml switches type checks on."""

import os
from collections.abc import Iterator

import pytest

# Before JAX is imported. `JAX_PLATFORMS=cuda make test` overrides it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory):
    """Keep decoded data in a folder of this session: the user's cache stays as it is, the digits are prepared once."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("jdt_cache")
        patch.setenv("JDT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module", autouse=True)
def compiled_programs() -> Iterator[None]:
    """Drop a file's compiled programs after it: each holds memory maps, and a process may have 65,530 on Linux."""
    yield
    import jax

    jax.clear_caches()
