import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdt.linalg import matmul, thin_spectrum

CASES = [(30, 7, 7), (7, 30, 7), (12, 12, 12), (30, 7, 3), (7, 30, 3), (12, 12, 1), (5, 5, 0), (1, 4, 1), (4, 1, 1)]


@pytest.mark.parametrize(("rows", "columns", "rank"), CASES)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_factors_rebuild_the_matrix_as_numpys_do(rows, columns, rank, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))
    singular = np.linalg.svd(x, compute_uv=False)
    with jax.enable_x64(True):
        values, left, right = (np.asarray(part) for part in thin_spectrum(x))
    assert values.shape == (min(rows, columns),)
    assert left.shape == (rows, min(rows, columns))
    assert right.shape == (columns, min(rows, columns))
    scale = max(singular[0], 1.0)
    np.testing.assert_allclose(values, singular[::-1] ** 2, atol=1e-12 * scale**2)
    np.testing.assert_allclose(left * np.sqrt(values) @ right.T, x, atol=1e-6 * scale)
    alive = (values > 0).astype(float)
    assert alive.sum() <= rank
    for vectors in (left, right):
        np.testing.assert_allclose(vectors.T @ vectors, np.diag(alive), atol=1e-4)


def test_null_directions_are_zero_not_noise():
    rng = np.random.default_rng(0)
    masks = np.stack([rng.permutation(10) < 5 for _ in range(200)])
    values, left, right = (np.asarray(part) for part in thin_spectrum((masks - masks.mean(axis=0)).astype(np.float32)))
    assert values[0] == 0.0
    assert (values[1:] > 1.0).all()
    assert not left[:, 0].any()
    assert not right[:, 0].any()


def test_a_zero_matrix_has_no_directions_and_no_nan():
    for part in thin_spectrum(np.zeros((4, 3), np.float32)):
        assert not np.asarray(part).any()


def test_products_are_in_full_precision():
    x = np.random.default_rng(0).normal(size=(50, 50)).astype(np.float32)
    np.testing.assert_allclose(matmul(x, x), x.astype(float) @ x.astype(float), atol=1e-4)
