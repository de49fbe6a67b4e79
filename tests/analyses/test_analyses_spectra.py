"""Spectra of features: the laws of both measures, an independent computation, exact zeros, and what is refused."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdt import analyses
from jdt.checks import UserError

FIXED = np.array([[4, 1, 0], [3, 0, 1], [5, 2, 2], [1, 6, 1], [0, 2, 7]], np.float32)


def plain_spectrum(features, center):
    """Singular values with every step before them written out."""
    rows = [[x / sum(y * y for y in row) ** 0.5 for x in row] for row in features.astype(float).tolist()]
    if center == "column":
        means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        rows = [[x - mean for x, mean in zip(row, means, strict=True)] for row in rows]
    elif center == "row":
        rows = [[x - sum(row) / len(row) for x in row] for row in rows]
    return np.linalg.svd(np.array(rows), compute_uv=False)


@pytest.mark.parametrize(
    ("center", "sve", "lsvr"),
    [
        ("column", 0.8999097083892327, 0.6184759478238447),
        ("row", 0.67310040990967, 0.5111908797858722),
        ("none", 1.0415018587372091, 0.7140410774833671),
    ],
)
def test_centring_by_column_and_by_row_give_their_own_values(center, sve, lsvr):
    sigma = analyses.singular_values(FIXED, center)
    expected = plain_spectrum(FIXED, center)
    np.testing.assert_allclose(sigma, expected, atol=1e-12, rtol=0)
    share = expected[expected > 1e-12] / expected.sum()
    np.testing.assert_allclose([-(share * np.log(share)).sum(), -np.log(share[0])], [sve, lsvr], atol=1e-12, rtol=0)
    np.testing.assert_allclose([analyses.sve(sigma), analyses.lsvr(sigma)], [sve, lsvr], atol=1e-12, rtol=0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), shape=st.sampled_from([(9, 4), (4, 9), (6, 6)]), log_scale=st.integers(-30, 30))
def test_no_scale_changes_either_measure_and_both_stay_in_their_range(seed, shape, log_scale):
    draw = np.random.default_rng(seed)
    features = draw.normal(size=shape) + draw.normal(size=shape[1])
    for center in ("column", "row", "none"):
        sigma = analyses.singular_values(features, center, normalise=False)
        scaled = analyses.singular_values(features * 10.0**log_scale, center, normalise=False)
        rank = int((sigma > 0).sum())
        for measure in (analyses.sve, analyses.lsvr):
            assert abs(float(measure(sigma)) - float(measure(scaled))) < 1e-8
            assert 0 <= float(measure(sigma)) <= np.log(rank) + 1e-12
        assert float(analyses.lsvr(sigma)) <= float(analyses.sve(sigma)) + 1e-12  # The smallest surprise, and the mean.
        assert rank == min(shape[0] - (center == "column"), shape[1] - (center == "row"))


def test_orthogonal_columns_have_ln_d_and_rank_one_has_nothing():
    orthogonal = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 8)))[0]
    flat = analyses.singular_values(orthogonal, "none", normalise=False)
    one = analyses.singular_values(np.outer(np.arange(1.0, 41), np.arange(1.0, 9)), "none")
    # One direction around the mean: centred by column, rank one.
    line = analyses.singular_values(3.0 + np.outer(np.arange(40.0), np.arange(1.0, 9)), "column", normalise=False)
    for measure in (analyses.sve, analyses.lsvr):
        assert abs(float(measure(flat)) - np.log(8)) < 1e-8
        assert float(measure(one)) == float(measure(line)) == 0.0
    assert (one[1:] == 0).all()
    assert abs(float(analyses.effective_rank(flat)) - 8) < 1e-8


def test_models_stand_side_by_side_and_missing_directions_are_zero():
    features = np.random.default_rng(0).normal(size=(2, 3, 6, 10)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sigma = analyses.singular_values(features)
        entropy = analyses.sve(sigma)
    assert (sigma.shape, sigma.dtype, entropy.shape) == ((2, 3, 10), np.float64, (2, 3))
    assert ((sigma[..., :5] > 0.01) & (sigma[..., 5:] == 0).all(axis=-1, keepdims=True)).all()  # 6 rows, centred.
    np.testing.assert_array_equal(sigma[1, 2], analyses.singular_values(features[1, 2]))


def test_equal_features_have_no_spectrum():
    sigma = analyses.singular_values(np.full((50, 7), 0.1, np.float32))
    assert (sigma == 0).all()
    with pytest.raises(UserError, match="all singular values of model 1 are 0"):
        analyses.sve(np.stack([sigma + 1.0, sigma]))


def test_rows_that_cannot_be_used_are_named():
    features = np.ones((2, 12, 3), np.float32)
    features[1, 4:11] = 0.0
    with pytest.raises(UserError, match="of model 1 are all 0 in rows 4, 5, 6, 7, 8 and 2 more"):
        analyses.singular_values(features)
    kept = analyses.singular_values(features, "none", zero_rows="keep")
    np.testing.assert_allclose(kept[:, 0] ** 2, [12, 5])
    features[0, 3, 1] = np.nan
    with pytest.raises(UserError, match="of model 0 are not finite in row 3: leave out"):
        analyses.singular_values(features, normalise=False)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: analyses.singular_values(np.ones((0, 3))), "at least one example"),
        (lambda: analyses.singular_values(np.ones(3)), "one row an example"),
        (lambda: analyses.sve(np.array([1.0, -0.5])), "1 of 2 are not, e.g. -0.5"),
        (lambda: analyses.lsvr(np.array([1.0, np.nan])), "1 of 2 are not, e.g. nan"),
        (lambda: analyses.lsvr(np.zeros(3)), "all singular values are 0"),
    ],
)
def test_bad_input_is_one_line(call, complaint):
    with pytest.raises(UserError, match=complaint):
        call()
