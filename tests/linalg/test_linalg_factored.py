import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdt.linalg.factored import factor, largest_eigenvalue, times


@pytest.mark.parametrize(("models", "units"), [(1, 5), (30, 70), (300, 700)])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_products_are_those_of_the_formed_matrix(models, units, seed):
    rng = np.random.default_rng(seed)
    masks, mean, scale = rng.random((models, units)) < 0.5, rng.random(units), rng.uniform(0.3, 0.6, units)
    x = (masks - mean) / scale
    vectors = rng.normal(size=(units, 3))
    with jax.enable_x64(True):
        gram = factor(masks, mean, scale)
        found = times(jax.tree.map(jnp.asarray, gram), jnp.asarray(vectors))
        largest = largest_eigenvalue(gram)
    np.testing.assert_allclose(found, x.T @ (x @ vectors) / models, atol=1e-9)
    assert 0.9 <= largest / np.linalg.eigvalsh(x @ x.T / models)[-1] <= 1 + 1e-9
