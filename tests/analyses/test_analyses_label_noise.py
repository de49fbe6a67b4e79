"""Scores of wrong labels against plain loops and scikit-learn, planted truth with a control, and bad input."""

import math

import numpy as np
import pytest
from sklearn import metrics

from jdt import analyses
from jdt.checks import UserError
from jdt.evaluate import permuted_masks

EXAMPLES, CLASSES = 60, 4


def said_of(seed, examples=EXAMPLES, classes=CLASSES, sure=1.5):
    """Probabilities that lean towards a true class, and given labels of which a fifth is wrong."""
    draw = np.random.default_rng(seed)
    true = draw.integers(0, classes, examples)
    wrong = draw.random(examples) < 0.2
    given = np.where(wrong, (true + draw.integers(1, classes, examples)) % classes, true)
    logits = draw.normal(size=(examples, classes)) + sure * np.eye(classes)[true]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities, given, true


def confident_joint_by_loop(probabilities, given):
    """Equations 1 and 2 of arXiv 1911.00068, an example at a time."""
    classes = probabilities.shape[1]
    members = [[i for i, label in enumerate(given) if label == c] for c in range(classes)]
    threshold = [sum(probabilities[i][c] for i in own) / len(own) if own else math.inf for c, own in enumerate(members)]
    joint = [[0] * classes for _ in range(classes)]
    for row, label in zip(probabilities.tolist(), given.tolist(), strict=True):
        above = [c for c in range(classes) if row[c] >= threshold[c] - 1e-9]
        if above:
            joint[label][max(above, key=lambda c, row=row: row[c])] += 1
    return threshold, joint


def joint_by_loop(counts, given):
    """Equation 3: rows are brought to the numbers of given labels, and all to a sum of 1."""
    found = []
    for label, row in enumerate(counts):
        whole = row if sum(row) else [int(c == label) for c in range(len(row))]
        share = sum(int(one == label) for one in given) / len(given)
        found.append([value / sum(whole) * share for value in whole])
    return np.array(found)


@pytest.mark.parametrize("seed", range(4))
def test_confident_learning_is_what_a_loop_makes_of_it(seed):
    probabilities, given, _ = said_of(seed, classes=CLASSES + 1)
    given = np.where(given == CLASSES, 0, given)  # A class that nobody is given.
    unknown = np.array([3, 17])
    blanked = probabilities.copy()
    blanked[unknown] = np.nan
    found = analyses.confident_learning(blanked, given)
    known = np.setdiff1d(np.arange(EXAMPLES), unknown)
    threshold, counts = confident_joint_by_loop(probabilities[known], given[known])
    np.testing.assert_allclose(found.thresholds, threshold)
    assert found.confident_joint.tolist() == counts
    joint = joint_by_loop(counts, given[known].tolist())
    np.testing.assert_allclose(found.joint, joint)
    assert found.noise_rate == pytest.approx(joint.sum() - np.trace(joint))
    assert np.isnan(found.margin[unknown]).all()
    assert found.likely[unknown].tolist() == [-1, -1]
    picked = set()
    for a in range(CLASSES + 1):
        for b in range(CLASSES + 1):
            mine = sorted((i for i in known if given[i] == a), key=lambda i: probabilities[i, a] - probabilities[i, b])
            picked |= set(mine[: round(joint[a, b] * len(known))]) if a != b else set()
    assert set(np.flatnonzero(found.picked).tolist()) == {int(i) for i in picked}
    for i in known:
        rival = max(probabilities[i, c] for c in range(CLASSES + 1) if c != given[i])
        assert found.margin[i] == pytest.approx((1 + rival - probabilities[i, given[i]]) / 2)


def test_confident_learning_finds_planted_noise_and_none_where_there_is_none():
    probabilities, given, true = said_of(5, examples=4000, sure=5.0)
    found = analyses.confident_learning(probabilities, given)
    assert found.noise_rate == pytest.approx((given != true).mean(), abs=0.03)
    assert analyses.detection_auc(found.margin, given != true).low > 0.95
    assert (given != true)[found.picked].mean() > 0.8
    clean = analyses.confident_learning(probabilities, true)
    assert clean.noise_rate < 0.03


def test_confident_learning_does_not_care_about_the_order_of_classes_and_examples():
    probabilities, given, _ = said_of(6)
    rows, classes = np.random.default_rng(0).permutation(EXAMPLES), np.array([2, 0, 3, 1])
    found, moved = (
        analyses.confident_learning(probabilities, given),
        analyses.confident_learning(probabilities[rows][:, np.argsort(classes)], classes[given[rows]]),
    )
    np.testing.assert_allclose(moved.margin, found.margin[rows])
    assert moved.picked.tolist() == found.picked[rows].tolist()
    assert moved.noise_rate == pytest.approx(found.noise_rate)


def test_blocks_of_models_add_up_to_what_a_loop_says():
    draw = np.random.default_rng(1)
    probabilities = draw.dirichlet(np.ones(3), size=(6, 5))
    probabilities[4] = np.nan  # A model that diverged.
    members, labels = draw.random((6, 5)) < 0.5, draw.integers(0, 3, 5)
    members[:, 0] = True
    out = inside = None
    for block in (slice(0, 2), slice(2, 6)):
        out = analyses.out_of_sample(probabilities[block], members[block], labels, out)
        inside = analyses.in_sample(probabilities[block], members[block], labels, inside)
    for i in range(5):
        rows = [m for m in range(6) if m != 4 and not members[m, i]]
        expected = np.mean([probabilities[m, i] for m in rows], axis=0) if rows else np.full(3, np.nan)
        np.testing.assert_allclose(out.mean[i], expected)
        losses = [-math.log(probabilities[m, i, labels[i]]) for m in range(6) if m != 4 and members[m, i]]
        np.testing.assert_allclose(inside.mean_loss[i], np.mean(losses) if losses else np.nan)
    assert out.unknown.tolist() == [0]
    np.testing.assert_array_equal(analyses.loss_ranking(probabilities, labels, members), inside.mean_loss)


@pytest.mark.parametrize("decimals", [8, 1, 0])
def test_area_curve_and_precision_agree_with_scikit_learn_and_loops(decimals):
    draw = np.random.default_rng(2)
    noisy = draw.random(80) < 0.3
    scores = np.round(draw.normal(size=80) + noisy, decimals)
    found = analyses.detection_auc(scores, noisy)
    assert found.value == pytest.approx(metrics.roc_auc_score(noisy, scores))
    assert (found.positives, found.negatives) == (int(noisy.sum()), int((~noisy).sum()))
    wins = np.array([[(a > b) + (a == b) / 2 for b in scores[~noisy]] for a in scores[noisy]])  # DeLong's kernel.
    error = math.sqrt(
        wins.mean(axis=1).var(ddof=1) / len(wins) + wins.mean(axis=0).var(ddof=1) / wins.shape[1]
    )  # fmt: skip
    assert found.high - found.low == pytest.approx(2 * 1.959964 * error, rel=1e-5)
    right, wrong = analyses.detection_curve(scores, noisy)
    assert np.trapezoid(wrong, right) == pytest.approx(found.value)
    expected = metrics.roc_curve(noisy, scores, drop_intermediate=False)
    np.testing.assert_allclose((right, wrong), expected[:2])
    orders = [np.lexsort((draw.random(80), -scores))[:20] for _ in range(4000)]
    average = np.mean([noisy[order].mean() for order in orders])
    assert analyses.precision_at(scores, noisy, 20) == pytest.approx(average, abs=0.01)
    with_unknown = np.r_[scores, np.nan, np.nan], np.r_[noisy, True, False]
    blank = analyses.detection_auc(*with_unknown)
    assert (blank.value, blank.left_out) == (found.value, 2)


def test_a_perfect_score_still_has_an_interval_and_one_kind_has_none():
    found = analyses.detection_auc(np.arange(10.0), np.arange(10) >= 6)
    assert (found.value, found.high) == (1.0, 1.0)
    assert 0.3 < found.low < 0.9
    assert math.isnan(analyses.detection_auc(np.arange(3.0), np.zeros(3, bool)).value)


def linear_world(seed, models=400, examples=90, images=12):
    """Examples that raise the log-probability of their given label on the images that look like them."""
    draw = np.random.default_rng(seed)
    image_labels, true = np.arange(images) % 3, np.arange(examples) % 3
    noisy = draw.random(examples) < 0.25
    given = np.where(noisy, (true + draw.integers(1, 3, examples)) % 3, true)
    similarity = (true[:, None] == image_labels) + 0.1 * draw.random((examples, images))
    first = draw.random((models // 2, examples)) < 0.5
    masks = np.stack([first, ~first], axis=1).reshape(models, examples)
    pushed = np.einsum("me,ei,ec->mic", masks, similarity > 1, np.eye(3)[given]) / 30
    logits = 2 * np.eye(3)[image_labels] + pushed + 0.1 * draw.normal(size=(models, images, 3))
    return masks, logits - np.log(np.exp(logits).sum(axis=2, keepdims=True)), given, image_labels, noisy, similarity


@pytest.mark.parametrize("near", [True, False])
@pytest.mark.parametrize("paired", [True, False])
def test_influence_finds_planted_labels_and_nothing_under_permuted_masks(near, paired):
    masks, log_probabilities, given, image_labels, noisy, similarity = linear_world(3)
    weights = analyses.neighbour_weights(similarity, 4) if near else None
    scores = analyses.influence_scores(masks, log_probabilities, given, image_labels, weights, paired=paired)
    assert analyses.detection_auc(scores, noisy).low > (0.9 if near else 0.7)  # All images hold more noise.
    rng, control = np.random.default_rng(0), []
    for _ in range(20):
        turned = permuted_masks(masks, rng, paired=True)
        of_nobody = analyses.influence_scores(turned, log_probabilities, given, image_labels, weights, paired=paired)
        control.append(analyses.detection_auc(of_nobody, noisy).value)
    assert np.mean(control) == pytest.approx(0.5, abs=0.08)


def test_influence_is_a_difference_of_means_by_a_loop():
    masks, log_probabilities, given, image_labels, _, similarity = linear_world(4, models=12, examples=9)
    masks = np.random.default_rng(1).random(masks.shape) < 0.5
    masks[:, 2] = True
    weights = analyses.neighbour_weights(similarity, 3)
    assert (np.sort(weights, axis=1)[:, :-3] == 0).all()
    scores = analyses.influence_scores(masks, log_probabilities, given, image_labels, weights)
    for i in range(9):
        own = log_probabilities[:, :, given[i]]
        moved = own[masks[:, i]].mean(axis=0) - own[~masks[:, i]].mean(axis=0) if i != 2 else np.full(12, np.nan)
        harm = sum(w * (-m if c == given[i] else m) for w, m, c in zip(weights[i], moved, image_labels, strict=True))
        np.testing.assert_allclose(scores[i], harm, atol=1e-5)
    alone = analyses.neighbour_disagreement(weights, given, image_labels)
    np.testing.assert_allclose(alone, [weights[i, image_labels != given[i]].sum() for i in range(9)])


GOOD, LABELS = np.full((3, 2), 0.5), np.array([0, 1, 1])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: analyses.confident_learning(np.ones((3, 1)), LABELS * 0), "of one class"),
        (lambda: analyses.confident_learning(GOOD, LABELS + 1), "label 2 is no class of 0 to 1"),
        (lambda: analyses.confident_learning(GOOD * np.nan, LABELS), "no example has finite probabilities"),
        (lambda: analyses.confident_learning(GOOD + 1, LABELS), "row 0 of the probabilities is no distribution"),
        (lambda: analyses.confident_learning(GOOD, LABELS[:2]), "there are 3 examples, but labels of shape"),
        (lambda: analyses.detection_auc(np.ones(3), np.ones(2, bool)), "3 scores, but 2 labels"),
        (lambda: analyses.precision_at(np.ones(3), LABELS > 0, 4), "count is 4, but 3 examples have a score"),
        (lambda: analyses.out_of_sample(GOOD[None], np.ones((2, 3), bool), LABELS), r"members of \(2, 3\)"),
        (lambda: analyses.neighbour_weights(GOOD, 0), "count is 0"),
    ],
)
def test_bad_input_says_what_is_wrong(call, words):
    with pytest.raises((UserError, TypeError), match=words):
        call()
