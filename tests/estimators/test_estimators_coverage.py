"""Intervals hold the true effects as often as they say, and pure noise looks like noise."""

import numpy as np
import pytest
from linear_worlds import identified, worlds

from jdt.estimators import TABLE, Ridge
from jdt.masks import KINDS

THEORY = [estimator for estimator in TABLE if estimator.name in ("ridge", "difference")]
every_estimator = pytest.mark.parametrize("estimator", THEORY, ids=lambda e: e.name)
every_design = pytest.mark.parametrize("kind", [k for k in KINDS if k in ("fixed-size", "bernoulli", "antithetic")])


def coverage(estimator, kind, strength, **sizes):
    """Share of 95 % intervals that hold the true effect, over sets of masks, targets and units."""
    held = []
    for masks, outputs, beta in worlds(kind, strength, **sizes):
        low, high = estimator.fit(masks, outputs, paired=kind == "antithetic").interval(0.95)
        true = identified(kind, estimator, beta)
        held.append(((low <= true) & (true <= high)).mean())
    return float(np.mean(held))


# Noise has deviation 1, an influence from 240 models one of about 0.13: from nothing to effects of eight times that.
@pytest.mark.parametrize("strength", [0.0, 0.05, 0.25, 1.0])
@every_design
@every_estimator
def test_intervals_hold_the_true_effects_at_the_nominal_rate(estimator, kind, strength):
    assert 0.92 <= coverage(estimator, kind, strength, count=8) <= 0.98


# From 30 pairs no effects at all look much like weak ones, hence nearly none instead of none.
@pytest.mark.parametrize("strength", [0.02, 0.05, 0.25, 1.0])
@every_design
@every_estimator
def test_they_do_with_fewer_models_than_units(estimator, kind, strength):
    assert 0.92 <= coverage(estimator, kind, strength, count=8, models=60, units=100) <= 0.98


@pytest.mark.parametrize("strength", [0.0, 0.05, 0.25, 1.0])
@every_design
def test_a_single_target_is_not_missed_more_often(kind, strength):
    # Its 20 units cannot tell weak effects from none: intervals may then be too wide, not too short.
    assert coverage(Ridge(), kind, strength, count=40, targets=1) >= 0.92


@every_design
@every_estimator
def test_z_has_variance_one_where_there_is_nothing_to_find(estimator, kind):
    z = [estimator.fit(m, y, paired=kind == "antithetic").z for m, y, _ in worlds(kind, 0.0, count=6, seed=1)]
    assert 0.85 <= np.var(z) <= 1.15
    assert abs(np.mean(z)) < 0.05


@every_design
@every_estimator
def test_nothing_is_found_with_fewer_models_than_units_either(estimator, kind):
    # Where leave-one-out takes the least penalty by chance, the weights pass through nearly every output.
    found = [
        estimator.fit(m, y, paired=kind == "antithetic").z
        for m, y, _ in worlds(kind, 0.0, count=6, models=60, units=100, seed=2)
    ]
    assert 0.85 <= np.var(found) <= 1.15
