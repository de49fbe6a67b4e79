import numpy as np
import pytest
from linear_worlds import design_rows

from jdt.checks import UserError
from jdt.estimators import TABLE
from jdt.evaluate import NOWHERE, Groups, aggregate, by_class, by_class_group, whole_task

LABELS = np.array([3, 0, 0, 3, 1, 3], np.int32)
NAMES = ("cat", "dog", "eel", "fox")


def test_means_are_of_the_groups_members():
    outputs = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    classes = by_class(LABELS, NAMES)
    assert classes.names == ("cat", "dog", "fox")
    found = aggregate(outputs, classes)
    assert found.dtype == np.float64
    for column, label in enumerate((0, 1, 3)):
        np.testing.assert_allclose(found[:, column], outputs[:, label == LABELS].astype(float).mean(axis=1))
    np.testing.assert_allclose(aggregate(outputs, whole_task(6))[:, 0], outputs.astype(float).mean(axis=1))
    groups = by_class_group(LABELS, NAMES, {"pets": ["dog", "cat"], "wild": ["fox"]})
    assert groups.of_target.tolist() == [1, 0, 0, 1, 0, 1]
    np.testing.assert_allclose(aggregate(outputs, groups)[:, 0], outputs[:, [1, 2, 4]].astype(float).mean(axis=1))
    apart = by_class_group(LABELS, NAMES, {"wild": ["fox"]})
    assert apart.of_target.tolist() == [0, NOWHERE, NOWHERE, 0, NOWHERE, 0]


@pytest.mark.parametrize("estimator", [e for e in TABLE if e.name in ("ridge", "difference")], ids=lambda e: e.name)
def test_a_groups_error_is_its_own_and_not_made_from_single_ones(estimator):
    # What a model gets wrong it gets wrong on all images alike: independent errors would be ten times too small.
    rng = np.random.default_rng(0)
    inside, naive = [], []
    for world in range(60):
        masks, targets = design_rows("bernoulli", 120, 10, world), 100
        beta = rng.normal(size=(10, targets))
        outputs = masks @ beta + rng.normal(size=(120, 1)) + 0.3 * rng.normal(size=(120, targets))
        found = estimator.fit(masks, aggregate(outputs, whole_task(targets)))
        low, high = found.interval()
        true = beta.mean(axis=1, keepdims=True)
        inside.append((low <= true) & (true <= high))
        single = np.sqrt((estimator.fit(masks, outputs).standard_error ** 2).sum(axis=1, keepdims=True)) / targets
        naive.append(abs(found.influence - true) < 1.96 * single)
    assert 0.92 < np.mean(inside) < 0.98
    assert np.mean(naive) < 0.6


@pytest.mark.parametrize("estimator", TABLE, ids=lambda e: e.name)
def test_the_influence_on_a_mean_is_the_mean_influence(estimator):
    rng = np.random.default_rng(1)
    masks = design_rows("antithetic", 200, 8, 0)
    outputs = masks @ np.repeat(rng.normal(size=(8, 1)), 6, axis=1) + 0.01 * rng.normal(size=(200, 6))
    single = estimator.fit(masks, outputs, paired=True).influence
    found = estimator.fit(masks, aggregate(outputs, by_class(LABELS, NAMES)), paired=True).influence
    np.testing.assert_allclose(found[:, 2], single[:, LABELS == 3].mean(axis=1), atol=0.01)


def test_groups_that_do_not_fit_are_refused():
    outputs = np.ones((2, 6))
    with pytest.raises(UserError, match=r"shape \(2, 6\), but there are groups for 5 targets"):
        aggregate(outputs, whole_task(5))
    with pytest.raises(UserError, match="group 'none' has no target"):
        aggregate(outputs, Groups(("all", "none"), np.zeros(6, np.int32)))
    with pytest.raises(UserError, match="unknown target class 'cow'; known: cat, dog"):
        by_class_group(LABELS, NAMES, {"farm": ["cow"]})
    with pytest.raises(UserError, match="'cat' is in group 'pets' and in 'felines'"):
        by_class_group(LABELS, NAMES, {"pets": ["cat"], "felines": ["cat"]})
