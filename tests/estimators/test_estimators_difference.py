import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_worlds import brute_difference, brute_paired, design_rows, identified, outputs_of

from jdt.estimators import DifferenceOfMeans
from jdt.masks import Design, sample

KINDS = ("fixed-size", "bernoulli", "antithetic")
SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_means_and_welch_errors_are_those_of_a_plain_loop(kind, seed):
    rng = np.random.default_rng(seed)
    masks, outputs = design_rows(kind, 14, 6, seed), rng.normal(3.0, 2.0, (14, 3))
    influence, error = brute_difference(masks, outputs)
    with jax.enable_x64(True):
        found = DifferenceOfMeans().fit(masks, outputs)
    np.testing.assert_allclose(found.influence, influence, atol=1e-10)
    np.testing.assert_allclose(found.standard_error, error, rtol=1e-8)
    kept = masks.sum(axis=0)
    np.testing.assert_array_equal(found.degrees_of_freedom[:, 0], np.maximum(np.minimum(kept, 14 - kept) - 1, 1))
    narrow = DifferenceOfMeans().fit(masks, outputs)
    assert narrow.influence.dtype == np.float32
    np.testing.assert_allclose(narrow.influence, influence, atol=1e-4)
    np.testing.assert_allclose(narrow.standard_error, error, rtol=1e-4)


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_paired_errors_are_those_of_the_differences_within_pairs(seed):
    rng = np.random.default_rng(seed)
    masks, outputs = design_rows("antithetic", 14, 6, seed), rng.normal(3.0, 2.0, (14, 3))
    influence, error = brute_paired(masks, outputs)
    with jax.enable_x64(True):
        found = DifferenceOfMeans().fit(masks, outputs, paired=True)
    np.testing.assert_allclose(found.influence, influence, atol=1e-10)
    np.testing.assert_allclose(found.influence, brute_difference(masks, outputs)[0], atol=1e-10)
    np.testing.assert_allclose(found.standard_error, error, rtol=1e-8)
    assert (found.degrees_of_freedom == 6).all()
    np.testing.assert_allclose(DifferenceOfMeans().fit(masks, outputs, paired=True).standard_error, error, rtol=1e-4)


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize(("kind", "fraction"), [("fixed-size", 0.5), ("fixed-size", 0.25), ("bernoulli", 0.5)])
def test_fixed_size_subsets_identify_relative_effects_and_bernoulli_subsets_absolute_ones(kind, fraction, noise):
    # E = K / (K - 1) (beta - mean beta) against E = beta.
    rng, estimator = np.random.default_rng(1), DifferenceOfMeans()
    beta = rng.normal(1.0, 1.0, (20, 3))
    masks = sample(Design(kind, fraction, seed=1), np.arange(10_000), 20)
    found = estimator.fit(masks, outputs_of(masks, beta, rng, noise=noise))
    z = (found.influence - identified(kind, estimator, beta)) / found.standard_error
    assert abs(z).max() < 4.5
    assert 0.5 < z.std() < 1.5
    if kind == "fixed-size":
        assert found.info["relative"]
        assert abs((found.influence - beta) / found.standard_error).max() > 20  # Not the absolute effect.
    else:
        assert not found.info["relative"]


@pytest.mark.parametrize("units", [20, 21])
def test_antithetic_pairs_identify_relative_effects_of_even_and_odd_numbers_of_units(units):
    # With signs r = +-1 that sum to zero, E[r_k sum beta_j r_j] = K / (K - 1) (beta_k - mean beta); an odd number of
    # units leaves a sum of +-1, so that E[r_j r_k] = -1 / K and E = (K + 1) / K beta_k - mean beta.
    rng = np.random.default_rng(2)
    beta = rng.normal(1.0, 1.0, (units, 3))
    masks = sample(Design("antithetic", seed=2), np.arange(10_000), units)
    found = DifferenceOfMeans().fit(masks, outputs_of(masks, beta, rng, shared=2.0), paired=True)
    centre = beta.mean(axis=0)
    expected = units / (units - 1) * (beta - centre) if units % 2 == 0 else (units + 1) / units * beta - centre
    assert abs((found.influence - expected) / found.standard_error).max() < 4.5
