import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import recall_score, roc_auc_score

from jdt.metrics import binary_auroc, log_odds_of, per_class_accuracy

seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, classes=st.integers(2, 6), examples=st.integers(1, 30))
def test_per_class_accuracy_is_macro_recall_with_absent_classes_at_zero(seed, classes, examples):
    draw = np.random.default_rng(seed)
    labels, predictions = draw.integers(0, classes, examples), draw.integers(0, classes, (3, examples))
    expected = [
        recall_score(labels, row, labels=range(classes), average="macro", zero_division=0.0) for row in predictions
    ]
    np.testing.assert_allclose(per_class_accuracy(predictions, labels, classes), expected, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, values=st.integers(1, 9), examples=st.integers(2, 30))
def test_auroc_is_that_of_scikit_learn_ties_included(seed, values, examples):
    draw = np.random.default_rng(seed)
    labels = np.array([0, 1, *draw.integers(0, 2, examples - 2)])
    scores = draw.integers(0, values, (3, examples)) / 7
    expected = [roc_auc_score(labels, row) for row in scores]
    np.testing.assert_allclose(binary_auroc(scores, labels), expected, atol=1e-12)


def test_what_has_no_answer_is_nan():
    assert np.isnan(binary_auroc(np.array([[0.1, 0.2]]), np.array([1, 1]))).all()
    found = binary_auroc(np.array([[np.nan, 0.2], [0.1, 0.2]]), np.array([0, 1]))
    np.testing.assert_array_equal(found, [np.nan, 1.0])
    diverged = per_class_accuracy(np.array([[-1, -1], [0, 1]], np.int32), np.array([0, 1]), 2)
    np.testing.assert_array_equal(diverged, [np.nan, 1.0])


@pytest.mark.parametrize(("classes", "spread"), [(2, 1.0), (2, 60.0), (10, 1.0), (10, 3.0), (10, 60.0)])
def test_log_odds_come_out_of_what_is_stored(classes, spread):
    draw = np.random.default_rng(0)
    logits = draw.normal(0, spread, (4, 500, classes))
    right, others = logits[..., 0], logits[..., 1:]
    log_rest = np.log(np.exp(others - others.max(axis=-1, keepdims=True)).sum(axis=-1)) + others.max(axis=-1)
    exact = right - log_rest
    confidence, margin = (1 / (1 + np.exp(-exact))).astype(np.float32), (right - others.max(axis=-1)).astype(np.float32)
    found = log_odds_of(confidence, margin, classes)
    assert np.isfinite(found).all()
    rounded = (exact > 9) | (exact < -80)
    np.testing.assert_allclose(found[~rounded], exact[~rounded], atol=2e-3, rtol=1e-5)
    # Where the confidence is too near 1 or 0 to tell, the margin still bounds them.
    assert (np.abs(found - exact)[rounded] <= np.log(max(classes - 1, 1)) + 1e-3).all()
    assert (confidence == 1).any() == (spread == 60.0)
