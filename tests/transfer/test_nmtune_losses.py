"""The terms of NMTune against their definitions, finite differences and plain singular value decompositions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdt.transfer.nmtune_losses import consistency, covariance_and_dominance, singular_values


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64():
        yield


def draw(rows, columns, seed=0, mean=0.5):
    return jnp.asarray(np.random.default_rng(seed).normal(mean, 1.0, (rows, columns)))


def directional(function, at, towards, size=1e-5):
    return (function(at + size * towards) - function(at - size * towards)) / (2 * size)


def whitened(rows, columns):
    centred = np.asarray(draw(rows, columns))
    centred = centred - centred.mean(axis=0)
    return jnp.asarray(np.linalg.svd(centred, full_matrices=False)[0] * np.sqrt(rows - 1) + 3.0)


@pytest.mark.parametrize("shape", [(8, 13), (14, 5)])
def test_both_terms_are_their_definitions(shape):
    z = draw(*shape)
    covariance, dominance = jax.jit(covariance_and_dominance, static_argnums=1)(z, 2)
    expected = np.cov(np.asarray(z), rowvar=False)
    sigma = np.linalg.svd(np.asarray(z), compute_uv=False)
    assert float(covariance) == pytest.approx(
        (np.square(expected).sum() - np.square(np.diag(expected)).sum()) / shape[1]
    )
    assert float(dominance) == pytest.approx(-(sigma[:2] / sigma.sum()).mean())


def test_whitened_features_have_no_covariance():
    assert abs(float(covariance_and_dominance(whitened(20, 6), 1)[0])) < 1e-12


def test_consistency_is_a_function_of_the_angles():
    f, z = draw(8, 5), draw(8, 5, seed=1)
    unit_f, unit_z = (np.asarray(x / jnp.linalg.norm(x, axis=1, keepdims=True)) for x in (f, z))
    own = (unit_f * unit_z).sum(axis=1)
    crossed = (unit_f[:4] * unit_z[4:]).sum(axis=1)  # Second view against the first one's features.
    assert float(consistency(f, z, "paper")) == pytest.approx((2 - 2 * own).mean())
    assert float(consistency(f, z, "code")) == pytest.approx((2 - 2 * crossed).mean() / 5)
    assert float(consistency(f, 3 * f, "paper")) == pytest.approx(0, abs=1e-12)
    assert not np.asarray(jax.grad(consistency)(f, z, "code")).any()


TERMS = {
    "covariance": lambda z: covariance_and_dominance(z, 1)[0],
    "dominance, paper": lambda z: covariance_and_dominance(z, 1)[1],
    "dominance, code": lambda z: covariance_and_dominance(z, 5)[1],
    "consistency, paper": lambda z: consistency(draw(*z.shape, seed=3), z, "paper"),
    "consistency, code": lambda z: consistency(draw(*z.shape, seed=3), z, "code"),
}


@pytest.mark.parametrize("shape", [(8, 13), (14, 5)])
def test_gradients_are_finite_differences(shape):
    z, towards = draw(*shape), draw(*shape, seed=2)

    @jax.jit
    def terms(z):
        return jnp.stack([term(z) for term in TERMS.values()])

    found = (jax.jit(jax.jacrev(terms))(z) * towards).sum(axis=(1, 2))
    np.testing.assert_allclose(found, directional(terms, z, towards), rtol=1e-4, atol=1e-9)


def test_singular_values_have_the_gradient_of_a_decomposition():
    orthogonal = np.linalg.qr(np.asarray(draw(7, 7)))[0]
    z = jnp.asarray((orthogonal[:, :4] * [5.0, 3.0, 2.0, 1.0]) @ np.linalg.qr(np.asarray(draw(4, 4)))[0])
    weights = jnp.asarray([1.0, -2.0, 0.5, 3.0])
    ours = jax.grad(lambda z: (singular_values(z) * weights).sum())(z)
    plain = jax.grad(lambda z: (jnp.linalg.svd(z, compute_uv=False) * weights).sum())(z)
    np.testing.assert_allclose(ours, plain, atol=1e-8)


def test_repeated_and_zero_values_have_a_finite_gradient():
    repeated = jnp.concatenate([jnp.eye(4), jnp.zeros((2, 4))])
    gradient = jax.grad(lambda z: singular_values(z).sum())(repeated)
    np.testing.assert_allclose(gradient, repeated, atol=1e-12)  # U V^T, where all values are equal.
    of_rank_one = jnp.outer(jnp.arange(1.0, 7.0), jnp.ones(4))
    gradient = jax.grad(lambda z: singular_values(z).sum())(of_rank_one)
    np.testing.assert_allclose(gradient, of_rank_one / jnp.linalg.norm(of_rank_one), atol=1e-6)
    zero = jax.grad(lambda z: sum(covariance_and_dominance(z, 5)))(jnp.zeros((4, 6)))
    assert np.isfinite(np.asarray(zero)).all()
