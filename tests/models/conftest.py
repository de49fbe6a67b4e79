import jax
import pytest


@pytest.fixture
def quick_to_compile():
    """Compile without optimisation: for programs that run once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
