"""Intervals hold the true effects as often as they say, and pure noise looks like noise."""

import numpy as np
import pytest
from linear_worlds import identified, worlds

from jdt.estimators import TABLE, Ridge
from jdt.masks import KINDS

every_estimator = pytest.mark.parametrize("estimator", TABLE, ids=lambda e: e.name)
every_design = pytest.mark.parametrize("kind", KINDS)


def coverage(estimator, kind, strength):
    """Share of 95 % intervals that hold the true effect, over 8 sets of masks: 8,000 intervals."""
    held = []
    for masks, outputs, beta in worlds(kind, strength, count=8):
        low, high = estimator.fit(masks, outputs, paired=kind == "antithetic").interval(0.95)
        true = identified(kind, estimator, beta)
        held.append(((low <= true) & (true <= high)).mean())
    return float(np.mean(held))


# Noise has deviation 1, an influence from 240 models one of about 0.13: effects of twice that, and of eight times.
@pytest.mark.parametrize("strength", [0.25, 1.0])
@every_design
@every_estimator
def test_intervals_hold_the_true_effects_at_the_nominal_rate(estimator, kind, strength):
    assert 0.92 <= coverage(estimator, kind, strength) <= 0.98


@pytest.mark.parametrize("strength", [0.0, 0.05])
@every_design
@every_estimator
def test_intervals_never_miss_more_often_where_effects_are_weak(estimator, kind, strength):
    # Ridge's prior variance stays above what such effects have, so its intervals are too wide here, not too short.
    assert coverage(estimator, kind, strength) >= 0.92


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


@every_design
def test_ridge_does_not_miss_more_often_with_fewer_models_than_units(kind):
    for strength in (0.1, 1.0):
        for masks, outputs, beta in worlds(kind, strength, count=2, models=60, units=100, seed=3):
            low, high = Ridge().fit(masks, outputs, paired=kind == "antithetic").interval()
            true = identified(kind, Ridge(), beta)
            assert ((low <= true) & (true <= high)).mean() >= 0.92
