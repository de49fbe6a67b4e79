"""Planted truth is found, permuted masks find nothing beyond the false discovery rate, and laws hold."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_worlds import design_rows, outputs_of

from jdt import analyses
from jdt.checks import UserError
from jdt.estimators import DifferenceOfMeans, HoldOut, Influences, Lasso, Ridge
from jdt.evaluate import aggregate, by_class, permuted_masks, significance

SEEDS = st.integers(0, 2**32 - 1)
MODELS, UNITS, CLASSES, EACH = 200, 12, 4, 10
LABELS = np.repeat(np.arange(CLASSES), EACH)
NAMES = tuple("abcd")
SPARSE = Lasso(HoldOut(0.25), num_penalties=10)
ESTIMATORS = {"ridge": Ridge(), "difference": DifferenceOfMeans(), "lasso": SPARSE}


def planted_effects():
    """Unit u helps class u % 4; besides, unit 0 drives three images of class 2, and unit 5 harms image 7 of class 0."""
    effect = np.zeros((UNITS, len(LABELS)))
    for unit in range(UNITS):
        effect[unit, unit % CLASSES == LABELS] = 1.0
    effect[0, [20, 21, 22]] = 2.0
    effect[5, 7] = -4.0
    return effect


def world(kind="antithetic", seed=0, effect=None, noise=0.5):
    rng = np.random.default_rng(seed)
    masks = design_rows(kind, MODELS, UNITS, seed)
    return masks, outputs_of(masks, planted_effects() if effect is None else effect, rng, noise=noise)


def fitted(estimator, masks, outputs, kind="antithetic"):
    """Influences on examples and on classes."""
    groups = by_class(LABELS, NAMES)
    fit = [
        estimator.fit(masks, values, paired=kind == "antithetic") for values in (outputs, aggregate(outputs, groups))
    ]
    return fit[0], dataclasses.replace(fit[1], target_names=groups.names)


def predictions_of(outputs, wrong=(7,)):
    """What models name: the class after the right one for some images, the right one for all others."""
    named = np.tile(LABELS, (len(outputs), 1))
    named[: int(0.8 * len(named)), list(wrong)] = (LABELS[list(wrong)] + 1) % CLASSES
    named[-1] = -1  # One that diverged.
    return analyses.mistakes(named, LABELS, CLASSES)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_planted_truth_is_found_by_every_estimator(name):
    masks, outputs = world()
    found, classes = fitted(ESTIMATORS[name], masks, outputs)
    has_errors = name != "lasso"
    # What drives images under another label.
    matches = analyses.natural_matches(classes, np.arange(CLASSES))
    np.testing.assert_array_equal(matches, np.arange(UNITS) % CLASSES)
    first = analyses.subpopulations(found, LABELS, matches)[0]
    assert (first.unit, first.match, first.label, first.size) == (0, 0, 2, EACH)
    # The LASSO, which selects by prediction, adds a few that are noise.
    assert sorted(first.effects.targets[: 3 if name == "lasso" else None].tolist()) == [20, 21, 22]
    assert (np.diff(first.effects.influence) <= 0).all()
    # What is to blame for a failure.
    failed = analyses.failures(predictions_of(outputs), LABELS, found)
    assert failed.blamed.targets.tolist() == [7]
    assert failed.blamed.units.tolist() == [5]
    assert failed.taken_for.tolist() == [1]
    np.testing.assert_allclose(failed.wrong, 160 / 199)
    np.testing.assert_allclose(failed.without - failed.expected, -failed.blamed.influence, rtol=1e-5)
    np.testing.assert_allclose(failed.expected, found.predict(np.ones((1, UNITS), bool))[0, [7]], rtol=1e-4)
    # What moves an image, and what a unit moves.
    q = analyses.q_values_of(found)
    assert (q is not None) == has_errors
    helps, harms = analyses.movers(found, 7, 3, q=q)
    assert harms.units[0] == 5
    assert sorted(helps.units.tolist()) == [0, 4, 8]
    up, down = analyses.moved(found, 0, 3, q=q)
    assert sorted(up.targets.tolist()) == [20, 21, 22]
    assert (down.influence < 0).all()
    for effects in (first.effects, failed.blamed, helps, harms, up):
        for part in (effects.low, effects.high, effects.z, effects.q):
            assert (part is None) != has_errors
        if effects.low is not None:
            assert ((effects.low <= effects.influence) & (effects.influence <= effects.high)).all()


@pytest.mark.parametrize(("estimator", "kind"), [(Ridge(), "antithetic"), (DifferenceOfMeans(), "fixed-size")])
def test_permuted_masks_find_nothing_beyond_the_false_discovery_rate(estimator, kind):
    worlds, level = 40, 0.1
    found = dict.fromkeys(("subpopulations", "failures", "leakage", "misleading", "both"), 0)
    for seed in range(worlds):
        masks, outputs = world(kind, seed, noise=2.0)
        masks = permuted_masks(masks, np.random.default_rng([seed, 1]), paired=kind == "antithetic")
        examples, classes = fitted(estimator, masks, outputs, kind)
        matches = analyses.natural_matches(classes, np.arange(CLASSES))
        found["subpopulations"] += bool(analyses.subpopulations(examples, LABELS, matches, level=level))
        blamed = analyses.failures(predictions_of(outputs, range(0, 40, 2)), LABELS, examples).blamed
        assert len(blamed) == 20
        found["failures"] += bool((blamed.q < level).any())
        for name, harmful, judge in (("leakage", False, analyses.leakage), ("misleading", True, analyses.misleading)):
            first = analyses.strongest(examples, harmful=harmful)
            nowhere = np.zeros(len(LABELS))
            found[name] += bool(len(judge(first, first, (nowhere, nowhere), level=level)))
        some = analyses.paired_with(examples, np.arange(len(LABELS)) % UNITS)
        found["both"] += bool(analyses.leakage(some, some, (nowhere + 1, nowhere + 1), level=level).count("both"))
    # Where nothing is, a false discovery rate is the chance of finding anything at all.
    bound = level + 3 * np.sqrt(level * (1 - level) / worlds)
    assert {name: count / worlds for name, count in found.items() if count / worlds > bound} == {}


class TestSuspects:
    """Units are 30 source images; target image j is a copy of source image j where it has one."""

    def case(self, *, harmful, has_errors):
        effect = np.zeros((30, 8))
        effect[[0, 1, 2], [0, 1, 2]] = -3.0 if harmful else 3.0
        rng = np.random.default_rng(1)
        masks = design_rows("bernoulli", 300, 30, 0)
        found = DifferenceOfMeans().fit(masks, outputs_of(masks, effect, rng, noise=0.5))
        if not has_errors:
            found = dataclasses.replace(found, standard_error=None, z=None, degrees_of_freedom=None)
        # Target 1 has no copy in the source, whatever the models say; target 5 has one that does nothing.
        similar, alike = np.array([0, 9, 2, 11, 12, 5, 13, 14]), np.array([1.0, 0.3, 0.95, 0.2, 0.2, 0.97, 0.1, 0.1])
        return found, similar, alike

    @pytest.mark.parametrize("has_errors", [True, False])
    @pytest.mark.parametrize("harmful", [False, True])
    def test_influence_and_similarity_agree_or_disagree(self, has_errors, harmful):
        found, similar, alike = self.case(harmful=harmful, has_errors=has_errors)
        influential = analyses.strongest(found, harmful=harmful)
        assert influential.effects.units[:3].tolist() == [0, 1, 2]
        assert (influential.rank == 1).all()
        looks = analyses.paired_with(found, similar, harmful=harmful)
        own = np.where(influential.effects.units == similar, alike, 0.1)
        judge = analyses.misleading if harmful else analyses.leakage
        told = judge(influential, looks, (own, alike))
        pairs = list(zip(told.effects.units.tolist(), told.effects.targets.tolist(), told.verdicts, strict=True))
        assert pairs[:3] == [(0, 0, "both"), (2, 2, "both"), (1, 1, "influence only")] or pairs[:3] == [
            (2, 2, "both"), (0, 0, "both"), (1, 1, "influence only"),
        ]  # fmt: skip
        # A copy without effect is no harm; as a leak it is shown, and its rank says how little it helps.
        harmless = (5, 5, "similarity only")
        if harmful:
            assert harmless not in pairs or told.effects.influence[pairs.index(harmless)] < 0
        else:
            assert told.rank[pairs.index(harmless)] >= 1
        assert told.count("both") == 2

    @settings(max_examples=25, deadline=None)
    @given(SEEDS, st.booleans())
    def test_ranks_and_leads_are_those_of_a_sorted_column(self, seed, harmful):
        rng = np.random.default_rng(seed)
        found = made(rng.normal(size=(7, 5)))
        units = rng.integers(0, 7, size=5)
        pairs = analyses.paired_with(found, units, harmful=harmful)
        for column, unit in enumerate(units):
            values = found.influence[:, column] * (-1 if harmful else 1)
            order = np.argsort(-values).tolist()
            place = order.index(unit)
            assert pairs.rank[column] == place + 1
            neighbour = order[1] if place == 0 else order[place - 1]
            np.testing.assert_allclose(pairs.lead[column], values[unit] - values[neighbour])
        best = analyses.strongest(found, harmful=harmful)
        assert (best.rank == 1).all()
        assert (best.lead >= 0).all()

    @settings(max_examples=25, deadline=None)
    @given(SEEDS, st.integers(1, 6))
    def test_parts_are_joined_to_the_whole(self, seed, size):
        found = made(np.random.default_rng(seed).normal(size=(5, 7)))
        whole = analyses.strongest(found)
        parts = analyses.join([analyses.strongest(columns(found, slice(i, i + size))) for i in range(0, 7, size)])
        for field in dataclasses.fields(analyses.Effects):
            if field.name != "q":
                np.testing.assert_array_equal(getattr(parts.effects, field.name), getattr(whole.effects, field.name))
        np.testing.assert_array_equal(parts.p, whole.p)
        np.testing.assert_array_equal(parts.lead, whole.lead)


def made(influence):
    """Influences with standard errors of 1."""
    units, targets = influence.shape
    return Influences(
        influence, np.ones_like(influence), influence, np.full((1, 1), 30.0), np.zeros(targets),
        tuple(map(str, range(units))), tuple(map(str, range(targets))), "ridge",
    )  # fmt: skip


def columns(found, part):
    """Influences on a part of the targets."""
    grids = {name: values[:, part] if values.shape[1] > 1 else values for name, values in found.grids().items()}
    return dataclasses.replace(found, **grids, intercept=found.intercept[part], target_names=found.target_names[part])


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_relabelling_units_relabels_what_is_found(seed):
    rng = np.random.default_rng(seed)
    found = made(3 * rng.normal(size=(UNITS, len(LABELS))))
    order = rng.permutation(UNITS)
    moved = dataclasses.replace(found, **{name: v[order] if len(v) > 1 else v for name, v in found.grids().items()})
    matches = rng.integers(0, CLASSES, size=UNITS)
    groups = [analyses.subpopulations(found, LABELS, matches), analyses.subpopulations(moved, LABELS, matches[order])]
    assert [(g.unit, g.label) for g in groups[0]] == [(order[g.unit], g.label) for g in groups[1]]
    # All are off the match, significant in the family of what is off the match, and none is missing.
    off = matches[:, None] != LABELS
    q = significance(dataclasses.replace(found, standard_error=np.where(off, 1.0, np.inf))).q
    due = {(u, t) for u, t in np.argwhere((q < 0.05) & (found.influence > 0)).tolist()}
    told = {(g.unit, t) for g in groups[0] for t in g.effects.targets.tolist()}
    assert told == due
    named = predictions_of(np.zeros((20, 40)), range(0, 40, 3))
    blamed = [analyses.failures(named, LABELS, one).blamed for one in (found, moved)]
    np.testing.assert_array_equal(blamed[0].units, order[blamed[1].units])
    np.testing.assert_array_equal(blamed[0].q, blamed[1].q)


def test_what_models_cannot_tell_is_never_strongest():
    masks, outputs = world("bernoulli")
    masks[:, 3] = True
    found, classes = fitted(DifferenceOfMeans(), masks, outputs, "bernoulli")
    unknown = dataclasses.replace(found, influence=np.where(np.arange(UNITS)[:, None] == 3, -99, found.influence))
    assert 3 not in analyses.movers(unknown, 0, 5)[1].units
    assert 3 not in analyses.failures(predictions_of(outputs), LABELS, unknown).blamed.units
    assert analyses.natural_matches(classes, np.arange(CLASSES))[3] == -1
    assert (analyses.strongest(unknown, harmful=True).effects.units != 3).all()


def linear_retraining(masks, seeds, effect, calls):
    """Models of a linear world: a seed shifts all of its models alike, as equal randomness does in part."""
    calls.append(len(masks))
    shift = np.random.default_rng(0).normal(size=(100, 1))[seeds]
    confidence = 0.5 + 0.05 * (masks @ effect) + 0.1 * shift
    own = np.random.default_rng(1).normal(size=confidence.shape)
    return analyses.Outcomes(confidence + 0.001 * own, np.where(confidence > 0.45, LABELS, (LABELS + 1) % CLASSES))


def test_retraining_without_the_unit_to_blame_mends_a_failure():
    masks, outputs = world()
    found, _ = fitted(Ridge(), masks, outputs)
    failed = analyses.failures(predictions_of(outputs, (7, 25)), LABELS, found)
    calls = []
    done = analyses.verify_failures(
        failed, LABELS, UNITS, lambda m, s: linear_retraining(m, s, planted_effects(), calls), seeds=6
    )
    assert [(one.example, one.unit) for one in done] == list(
        zip(failed.blamed.targets, failed.blamed.units, strict=True)
    )
    first = done[0]
    assert (first.example, first.unit, first.seeds) == (7, 5, 6)
    # Paired by seed: what seeds have in common, a hundred times the effect of chance, cancels.
    assert first.confidence.low < 0.2 < first.confidence.high
    assert first.confidence.high - first.confidence.low < 0.01
    assert first.right[0] < first.right[1]
    assert calls == [6 * (1 + len(set(failed.blamed.units.tolist())))]

    def with_one_diverged(masks, seeds):
        outcomes = linear_retraining(masks, seeds, planted_effects(), calls)
        lost = np.arange(len(seeds)) == 2  # A model of the whole source.
        prediction = np.where(lost[:, None], -1, outcomes.prediction)
        return analyses.Outcomes(np.where(lost[:, None], np.nan, outcomes.confidence), prediction)

    fewer = analyses.verify_failures(failed, LABELS, UNITS, with_one_diverged, seeds=6)[0]
    assert fewer.seeds == 5
    assert fewer.confidence.value == pytest.approx(first.confidence.value, abs=0.002)
    none = failed.take(np.array([], np.int64))
    assert analyses.verify_failures(none, LABELS, UNITS, lambda m, s: linear_retraining(m, s, 0, calls)) == ()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: analyses.movers(f, 40, 3), "target is 40, but there are 40, numbered from 0 to 39"),
        (lambda f: analyses.moved(f, 0, 0), "count is 0"),
        (lambda f: analyses.subpopulations(f, LABELS[:-1], np.zeros(UNITS, int)), "labels of 39 images"),
        (lambda _: analyses.mistakes(np.full((3, 40), 4), LABELS, 4), "names class 4, but there are 4"),
        (lambda f: analyses.failures(predictions_of(np.zeros((9, 40))), LABELS[:-1], f), "there are 39 labels"),
        (lambda f: analyses.pick(f, np.array([0]), np.array([0]), level=1.0), "level is 1.0"),
        (lambda _: analyses.mistakes(np.full((3, 40), -1), LABELS, 4), "no model has a prediction"),
        (lambda f: analyses.paired_with(f, np.array([1, 2])), "there are 40 target examples"),
        (lambda _: analyses.join([]), "no target examples to join"),
        (lambda _: analyses.strongest(made(np.ones((1, 3)))), "at least 2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call(made(np.zeros((UNITS, len(LABELS)))))
