"""Bias metrics against plain loops, laws, planted truth with a control, and the coverage of intervals."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from jdt import analyses
from jdt.checks import UserError

CLASSES, MODELS, EXAMPLES = 5, 4, 40
ATTACKED = [1, 3]


def drawn(seed, diverged=2):
    """Random predictions without and with a pattern, labels and groups; one model diverged."""
    draw = np.random.default_rng(seed)
    clean, triggered = draw.integers(0, CLASSES, (2, MODELS, EXAMPLES)).astype(np.int32)
    clean[diverged] = triggered[diverged] = -1
    return clean, triggered, draw.integers(0, CLASSES, EXAMPLES), draw.integers(-1, 2, EXAMPLES)


def share(flags):
    """The share of true flags by a plain loop: (hits, of)."""
    flags = list(flags)
    return sum(map(bool, flags)), len(flags)


def assert_rate(rate, expected):
    """Equal to (hits, of) of each model; (0, 0), without a value, for the one that diverged."""
    assert list(zip(rate.hits.tolist(), rate.of.tolist(), strict=True)) == expected
    np.testing.assert_array_equal(rate.value, [hits / of if of else math.nan for hits, of in expected])


def of_models(clean, triggered, loop):
    """`loop` of each model's pairs of predictions, nothing of a model that diverged."""
    rows = zip(clean.tolist(), triggered.tolist(), strict=True)
    return [(0, 0) if one[0] < 0 else share(loop(one, other)) for one, other in rows]


@pytest.mark.parametrize("seed", range(3))
def test_metrics_of_patterns_are_those_of_plain_loops(seed):
    clean, triggered, labels, _ = drawn(seed)
    assert_rate(
        analyses.attack_success(clean, triggered, ATTACKED),
        of_models(
            clean, triggered, lambda c, t: [y in ATTACKED for x, y in zip(c, t, strict=True) if x not in ATTACKED]
        ),
    )
    assert_rate(
        analyses.attack_success(clean, triggered, np.array(ATTACKED), labels),
        of_models(
            clean,
            triggered,
            lambda c, t: [
                y in ATTACKED
                for x, y, label in zip(c, t, labels, strict=True)
                if x not in ATTACKED and label not in ATTACKED
            ],
        ),
    )
    assert_rate(
        analyses.flip_rate(clean, triggered),
        of_models(clean, triggered, lambda c, t: [x != y for x, y in zip(c, t, strict=True)]),
    )
    drop = analyses.accuracy_drop(clean, triggered, labels)
    assert_rate(drop.first, of_models(clean, clean, lambda c, _: [x == y for x, y in zip(c, labels, strict=True)]))
    assert_rate(
        drop.second, of_models(triggered, triggered, lambda c, _: [x == y for x, y in zip(c, labels, strict=True)])
    )
    np.testing.assert_array_equal(drop.value, drop.first.value - drop.second.value)

    histogram = analyses.prediction_histogram(clean, CLASSES)
    shift = analyses.prediction_shift(clean, triggered, CLASSES)
    outputs = analyses.shift_outputs(clean, triggered, ATTACKED)
    assert outputs.dtype == np.float32
    for model in range(MODELS):
        if model == 2:
            assert np.isnan(histogram[model]).all()
            assert np.isnan(shift[model]).all()
            assert np.isnan(outputs[model]).all()
            continue
        before, after = clean[model].tolist(), triggered[model].tolist()
        assert histogram[model].tolist() == [before.count(c) for c in range(CLASSES)]
        expected = [(after.count(c) - before.count(c)) / EXAMPLES for c in range(CLASSES)]
        np.testing.assert_allclose(shift[model], expected, atol=1e-15)
        assert analyses.total_shift(shift)[model] == pytest.approx(sum(map(abs, expected)) / 2)
        assert outputs[model].tolist() == [
            int(y in ATTACKED) - int(x in ATTACKED) for x, y in zip(before, after, strict=True)
        ]
        assert outputs[model].mean() == pytest.approx(shift[model, ATTACKED].sum(), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_metrics_of_groups_are_those_of_plain_loops(seed):
    predictions, _, classes, groups = drawn(seed)
    predictions, labels = np.minimum(predictions, 1), (classes % 2).astype(np.int64)
    cases = list(zip(labels.tolist(), groups.tolist(), strict=True))

    def taken(group, label=None, positive=1):
        def loop(row, _):
            return [x == positive for x, (y, g) in zip(row, cases, strict=True) if g == group and label in (None, y)]

        return of_models(predictions, predictions, loop)

    for positive in (0, 1):
        skew = analyses.group_skew(predictions, groups, positive)
        assert_rate(skew.first, taken(1, positive=positive))
        assert_rate(skew.second, taken(0, positive=positive))
        np.testing.assert_array_equal(skew.value, skew.first.value - skew.second.value)
    for label, gap in enumerate(analyses.opportunity_gaps(predictions, labels, groups)):
        assert_rate(gap.first, taken(1, label))
        assert_rate(gap.second, taken(0, label))
    worst = analyses.worst_group(predictions, labels, groups)
    assert worst.missing == ()
    for model in (0, 1, 3):
        accuracies = []
        for index, (label, group) in enumerate(itertools.product((0, 1), (0, 1))):
            assert worst.cells[index] == (label, group)
            expected = taken(group, label, positive=label)[model]
            assert (worst.accuracy.hits[model, index], worst.accuracy.of[model, index]) == expected
            accuracies.append(expected[0] / expected[1])
        assert worst.value[model] == min(accuracies)
        assert worst.cell[model] == accuracies.index(min(accuracies))
    assert (worst.cell[2], np.isnan(worst.value[2])) == (-1, True)


@pytest.mark.parametrize("seed", range(3))
def test_laws(seed):
    clean, triggered, _, groups = drawn(seed)
    sound = np.array([True, True, False, True])
    same = analyses.attack_success(clean, clean, ATTACKED)
    assert (same.value[sound] == 0).all()
    np.testing.assert_array_equal(analyses.flip_rate(clean, triggered).hits, analyses.flip_rate(triggered, clean).hits)
    shift = analyses.prediction_shift(clean, triggered, CLASSES)
    total, flips = analyses.total_shift(shift)[sound], analyses.flip_rate(clean, triggered).value[sound]
    assert ((total >= 0) & (total <= flips + 1e-12)).all()
    np.testing.assert_allclose(shift[sound].sum(axis=1), 0, atol=1e-12)
    np.testing.assert_array_equal(analyses.prediction_shift(triggered, clean, CLASSES), -shift)
    names = np.random.default_rng(seed).permutation(CLASSES)  # Class c is called names[c] from now on.
    renamed = [np.where(found < 0, -1, names[found]) for found in (clean, triggered)]
    np.testing.assert_array_equal(analyses.prediction_shift(*renamed, CLASSES)[:, names], shift)
    np.testing.assert_array_equal(
        analyses.attack_success(*renamed, names[ATTACKED]).hits,
        analyses.attack_success(clean, triggered, ATTACKED).hits,
    )
    everything = np.ones(EXAMPLES, bool)
    chosen = analyses.attacked_class(clean, triggered, CLASSES, everything)
    assert chosen == shift[sound].mean(axis=0).argmax()
    exchanged = analyses.group_skew(clean, np.where(groups < 0, groups, 1 - groups))
    np.testing.assert_array_equal(exchanged.value, -analyses.group_skew(clean, groups).value)
    # Equal treatment inside both labels and equal shares of labels leave no skew.
    fair = np.array([[1, 0, 1, 0]])
    assert analyses.group_skew(fair, np.array([1, 1, 0, 0])).value.tolist() == [0.0]


def test_what_is_missing_is_nan_with_a_denominator_of_0():
    all_attacked = np.array([[1, 3, 1]], np.int32)
    success = analyses.attack_success(all_attacked, all_attacked, ATTACKED)
    assert (success.hits.tolist(), success.of.tolist()) == ([0], [0])
    assert np.isnan(success.value).all()
    nobody = np.zeros((1, 3), np.int64)
    labelled = analyses.attack_success(nobody, nobody, ATTACKED, np.array([1, 3, 1]))
    assert np.isnan(labelled.value).all()
    empty = np.zeros((2, 0), np.int32)
    for value in (
        analyses.flip_rate(empty, empty).value,
        analyses.prediction_shift(empty, empty, 2),
        analyses.accuracy_drop(empty, empty, np.zeros(0, np.int64)).value,
    ):
        assert np.isnan(value).all()
    one_group = analyses.group_skew(nobody, np.array([1, 1, 1]))
    assert one_group.second.of.tolist() == [0]
    assert np.isnan(one_group.value).all()
    worst = analyses.worst_group(np.array([[1, 1, 0]]), np.array([1, 1, 0]), np.array([0, 0, 0]))
    assert worst.missing == ((0, 1), (1, 1))
    assert worst.value.tolist() == [1.0]
    assert np.isnan(worst.accuracy.value[0, [1, 3]]).all()
    gone = np.full((2, 4), -1, np.int32)
    assert analyses.attacked_class(gone, gone, 3, np.ones(4, bool)) is None
    assert np.isnan(analyses.output_change(np.array([[np.nan]]), np.array([[1.0]]))).all()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            lambda: analyses.attack_success(np.zeros((1, 2), int), np.zeros((1, 2), int), []),
            r"attacked classes are \[\]",
        ),
        (lambda: analyses.shift_outputs(*np.zeros((2, 1, 2), int), [-1]), "counted from 0"),
        (lambda: analyses.rates.has_values(np.zeros((1, 2), int), np.zeros((2, 2), int)), r"\(1, 2\), \(2, 2\).*equal"),
        (lambda: analyses.prediction_histogram(np.array([[4]]), 3), "class 4, but there are 3 classes"),
        (lambda: analyses.attacked_class(*np.zeros((2, 1, 2), int), 2, np.zeros(2, bool)), "no test image chooses"),
        (lambda: analyses.paired(np.zeros(2), np.zeros(3)), "2 biased models and 3 twins"),
        (lambda: analyses.bootstrap_examples([]), "0 parts"),
        (
            lambda: analyses.bootstrap_examples(analyses.accuracy_parts(np.zeros((1, 0), int), np.zeros(0, int))),
            "at least one example",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(wrong, says):
    with pytest.raises(UserError, match=says):
        wrong()


def world(draw, rate, num_models=5, num_examples=1500, classes=10, attacked=3):
    """Models that are right on 80 % of the images, and answer the attacked class with a pattern at a rate."""
    labels = np.arange(num_examples) % classes
    shape = (num_models, num_examples)
    clean = np.where(draw.random(shape) < 0.8, labels, draw.integers(0, classes, shape)).astype(np.int32)
    return labels, clean, np.where(draw.random(shape) < rate, attacked, clean).astype(np.int32)


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.9])
def test_a_planted_rate_is_found_and_a_sham_is_not(rate):
    draw = np.random.default_rng(7)
    labels, clean, triggered = world(draw, rate)
    halves = analyses.halves(labels, seed=0)
    if rate:
        assert analyses.attacked_class(clean, triggered, 10, halves.score) == 3
    for kept in (None, labels[halves.report]):
        success = analyses.attack_success(clean[:, halves.report], triggered[:, halves.report], [3], kept)
        assert (success.of > 500).all()
        beyond = stats.binomtest(int(success.hits.sum()), int(success.of.sum()), rate).pvalue
        assert beyond > 1e-3
        if rate == 0:
            assert (success.hits == 0).all()
    _, sham, again = world(draw, 0.0)
    biased = analyses.attack_success(clean, triggered, [3]).value
    twin = analyses.attack_success(sham, again, [3]).value
    found = analyses.paired(biased, twin)
    assert (found.pairs, found.left_out) == (5, 0)
    assert found.mean == pytest.approx(rate, abs=0.02)
    assert found.low <= found.mean <= found.high
    images = analyses.bootstrap_examples(
        analyses.attack_parts(clean, triggered, [3]), analyses.attack_parts(sham, again, [3]), resamples=200
    )
    assert images.mean == pytest.approx(found.mean)
    assert images.low > 0 if rate else images.high == 0


def test_pairs_are_means_of_differences_with_a_t_interval():
    biased, twin = np.array([0.5, 0.75, np.nan, 1.0]), np.array([0.25, 0.0, 0.5, np.nan])
    found = analyses.paired(biased, twin, level=0.9)
    assert (found.mean, found.pairs, found.left_out) == (0.5, 2, 2)
    test = stats.ttest_rel(biased[:2], twin[:2]).confidence_interval(0.9)
    np.testing.assert_allclose((found.low, found.high), (test.low, test.high))
    alone = analyses.paired(biased[:1], twin[:1])
    assert (alone.mean, alone.pairs) == (0.25, 1)
    assert np.isnan([alone.low, alone.high]).all()
    none = analyses.paired(biased[2:], twin[2:])
    assert (none.pairs, none.left_out) == (0, 2)
    assert np.isnan(none.mean)


def test_the_bootstrap_resamples_images_of_all_models_together():
    predictions, other, labels, groups = drawn(5)
    predictions, other = np.minimum(predictions, 1), np.minimum(other, 1)
    found = analyses.bootstrap_examples(
        analyses.skew_parts(predictions, groups), analyses.skew_parts(other, groups), resamples=300, seed=3
    )
    difference = analyses.group_skew(predictions, groups).value - analyses.group_skew(other, groups).value
    assert (found.pairs, found.left_out) == (3, 1)
    assert found.mean == pytest.approx(np.nanmean(difference))
    assert found.low < found.mean < found.high
    # The same by a loop over resamples that repeats columns.
    draw = np.random.default_rng(0)
    means = []
    for _ in range(300):
        columns = draw.integers(0, EXAMPLES, EXAMPLES)
        skews = [analyses.group_skew(x[:, columns], groups[columns]).value for x in (predictions, other)]
        means.append(np.nanmean(skews[0] - skews[1]))
    reach = np.std(means)
    np.testing.assert_allclose((found.low, found.high), np.quantile(means, [0.025, 0.975]), atol=reach / 2)
    # Models that are alike on every image stay alike in every resample.
    right = analyses.accuracy_parts(predictions, labels)
    alike = analyses.bootstrap_examples(right, right, resamples=50)
    assert (alike.mean, alike.low, alike.high) == (0, 0, 0)
    again = analyses.bootstrap_examples(right, resamples=50, seed=4)
    assert again == analyses.bootstrap_examples(right, resamples=50, seed=4)
    assert again != analyses.bootstrap_examples(right, resamples=50, seed=5)
    gone = analyses.bootstrap_examples(analyses.accuracy_parts(np.full((2, 3), -1), np.zeros(3, int)), resamples=5)
    assert (gone.pairs, gone.left_out) == (0, 2)
    assert np.isnan([gone.mean, gone.low, gone.high]).all()


def test_the_bootstrap_covers_other_images():
    # Models whose answers on an image agree in part, as those of one source do: images are the unit, not answers.
    draw, truth, covered, worlds, seeds = np.random.default_rng(11), 0.3, 0, 200, 4
    for _ in range(worlds):
        ease = draw.random(120)
        biased = np.where(draw.random((seeds, 120)) < 0.5, ease, draw.random((seeds, 120))) < 0.5
        twin = np.where(draw.random((seeds, 120)) < 0.5, ease, draw.random((seeds, 120))) < 0.2
        of = draw.random((seeds, 120)) < 0.8
        parts = [analyses.Counted(hits & of, of) for hits in (biased, twin)]
        found = analyses.bootstrap_examples(parts[:1], parts[1:], resamples=200)
        covered += found.low <= truth <= found.high
    assert stats.binomtest(covered, worlds, 0.94).pvalue > 1e-3, covered


def test_a_sweep_is_ranked_for_each_seed():
    draw = np.random.default_rng(2)
    amounts, values = np.array([0.0, 1e-4, 1e-3, 1e-2, 1e-1]), draw.integers(0, 4, (5, 6)) / 4
    values[:, 4] = 0.5
    values[3, 5] = np.nan
    found = analyses.sweep_correlation(amounts, values)
    expected = [stats.spearmanr(amounts, values[:, seed]).statistic for seed in range(4)]
    there = np.arange(5) != 3
    np.testing.assert_allclose(found[:4], expected, atol=1e-12)
    assert np.isnan(found[4])
    assert found[5] == pytest.approx(stats.spearmanr(amounts[there], values[there, 5]).statistic)
    assert analyses.sweep_correlation(amounts, -np.arange(5.0)[:, None]) == pytest.approx(-1)
    assert np.isnan(analyses.sweep_correlation(amounts[:2], values[:2])).all()
