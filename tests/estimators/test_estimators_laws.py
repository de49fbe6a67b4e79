"""Laws that every estimator of the table keeps."""

import jax
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_worlds import design_rows, outputs_of

from jdt.checks import UserError
from jdt.estimators import DATA_STATUS, TABLE, HoldOut, Lasso, complete_pairs, finite_models

SEEDS = st.integers(0, 2**32 - 1)
EYE = np.eye(4, dtype=bool)
CASES = [
    ("fixed-size", 40, 8),
    ("bernoulli", 40, 8),
    ("antithetic", 40, 8),
    ("bernoulli", 12, 21),
    ("antithetic", 12, 21),
]
"""Few shapes, here and below: programs compile once a shape."""
LASSO = Lasso(HoldOut(0.25), num_penalties=10, gap=1e-9)
"""As exact as comparing two fits needs; how targets get along: test_estimators_lasso_path.py."""
THEORY = [estimator for estimator in TABLE if estimator.name in ("ridge", "difference")]
"""Estimators with standard errors; their answers are also unique."""


def fit(estimator, masks, outputs, kind):
    with jax.enable_x64(True):
        return estimator.fit(masks, outputs, paired=kind == "antithetic")


def assert_no_nan(found):
    assert np.isfinite(found.influence).all()
    assert np.isfinite(found.intercept).all()
    if found.standard_error is None:
        assert found.z is found.degrees_of_freedom is None
        return
    assert not np.isnan(found.standard_error).any()
    assert not np.isnan(found.degrees_of_freedom).any()
    assert np.isfinite(found.z).all()
    low, high = found.interval()
    assert not np.isnan(low).any()
    assert not np.isnan(high).any()


def assert_predicts(found, masks, outputs):
    """The datamodel, spelled out, is right on average."""
    for row, predicted in zip(masks, found.predict(masks), strict=True):
        by_hand = found.intercept + sum(
            (found.influence[u] for u in range(len(row)) if row[u]), np.zeros(outputs.shape[1])
        )
        np.testing.assert_allclose(predicted, by_hand, atol=1e-10)
    np.testing.assert_allclose(found.predict(masks).mean(axis=0), outputs.mean(axis=0), atol=1e-9)


@pytest.mark.parametrize("estimator", THEORY, ids=lambda e: e.name)
class TestEstimatorsWithErrors:
    @pytest.mark.parametrize(("kind", "models", "units"), CASES)
    @settings(max_examples=5, deadline=None)
    @given(seed=SEEDS, factor=st.sampled_from([-3.0, 0.01, 100.0]), shift=st.floats(-50, 50))
    def test_symmetries(self, estimator, kind, models, units, seed, factor, shift):
        rng = np.random.default_rng(seed)
        masks, outputs = design_rows(kind, models, units, seed), rng.normal(size=(models, 3))
        first = fit(estimator, masks, outputs, kind)
        assert_no_nan(first)
        # Relabelling units relabels influences.
        order = rng.permutation(units)
        moved = fit(estimator, masks[:, order], outputs, kind)
        np.testing.assert_allclose(moved.influence, first.influence[order], atol=1e-9)
        np.testing.assert_allclose(moved.standard_error, first.standard_error[order], rtol=1e-7)
        np.testing.assert_allclose(moved.intercept, first.intercept, atol=1e-8)
        # A level of the outputs belongs to the intercept.
        raised = fit(estimator, masks, outputs + shift, kind)
        np.testing.assert_allclose(raised.influence, first.influence, atol=1e-8)
        np.testing.assert_allclose(raised.standard_error, first.standard_error, rtol=1e-6)
        np.testing.assert_allclose(raised.intercept, first.intercept + shift, atol=1e-8)
        # Another unit of measurement.
        scaled = fit(estimator, masks, outputs * factor, kind)
        np.testing.assert_allclose(scaled.influence, first.influence * factor, atol=1e-9 * abs(factor))
        np.testing.assert_allclose(scaled.standard_error, first.standard_error * abs(factor), rtol=1e-7)
        np.testing.assert_allclose(scaled.z, first.z * np.sign(factor), atol=1e-6)
        # The order of the models (or pairs) says nothing.
        size = 2 if kind == "antithetic" else 1
        rows = np.concatenate([size * g + np.arange(size) for g in rng.permutation(models // size)])
        np.testing.assert_allclose(
            fit(estimator, masks[rows], outputs[rows], kind).influence, first.influence, atol=1e-9
        )
        assert_predicts(first, masks, outputs)

    def test_targets_do_not_see_each_other(self, estimator):
        masks, outputs = design_rows("bernoulli", 40, 8, 0), np.random.default_rng(0).normal(size=(40, 3))
        together, alone = (fit(estimator, masks, values, "bernoulli") for values in (outputs, outputs[:, 1:2]))
        np.testing.assert_allclose(together.influence[:, 1:2], alone.influence, atol=1e-10)
        np.testing.assert_allclose(together.z[:, 1:2], alone.z, rtol=1e-8)

    def test_pairing_sees_what_noise_shared_by_pairs_hides(self, estimator):
        rng = np.random.default_rng(3)
        masks = design_rows("antithetic", 240, 20, 3)
        beta = np.zeros((20, 50))
        beta[0] = 1.0
        outputs = outputs_of(masks, beta, rng, noise=0.3, shared=10.0)
        paired, unpaired = (estimator.fit(masks, outputs, paired=p) for p in (True, False))
        assert (paired.standard_error < 0.3 * unpaired.standard_error).all()
        assert (paired.z[0] > 8).all()
        assert (abs(unpaired.z[0]) < 5).all()


@pytest.mark.parametrize(("kind", "models", "units"), CASES)
@settings(max_examples=5, deadline=None)
@given(seed=SEEDS, factor=st.sampled_from([-3.0, 0.01, 100.0]), shift=st.floats(-50, 50))
def test_symmetries_of_the_lasso(kind, models, units, seed, factor, shift):
    # Compared by what they predict: more units than models, and subsets of one size, leave several optimal weights.
    # The order of the models is no symmetry: it says which of them are held out.
    rng = np.random.default_rng(seed)
    masks, outputs = design_rows(kind, models, units, seed), rng.normal(size=(models, 3))
    first = fit(LASSO, masks, outputs, kind)
    assert_no_nan(first)
    assert_predicts(first, masks, outputs)
    order = rng.permutation(units)
    for found, columns, scale, level in (
        (fit(LASSO, masks[:, order], outputs, kind), order, 1.0, 0.0),
        (fit(LASSO, masks, outputs + shift, kind), np.arange(units), 1.0, shift),
        (fit(LASSO, masks, outputs * factor, kind), np.arange(units), factor, 0.0),
    ):
        # Two penalties that predict almost equally well may be told apart by rounding.
        same = np.isclose(found.info["penalty"], first.info["penalty"] * abs(scale), rtol=1e-6)
        same &= (found.info["gap"] < 1e-8) & (first.info["gap"] < 1e-8)
        predicted = (found.predict(masks[:, columns]) - level) / scale
        np.testing.assert_allclose(predicted[:, same], first.predict(masks)[:, same], atol=1e-3)
        if kind == "bernoulli" and models > 2 * units:
            assert same.any()
            influence = found.influence[:, same] / scale
            np.testing.assert_allclose(influence, first.influence[columns][:, same], atol=1e-3)


@pytest.mark.parametrize("estimator", TABLE, ids=lambda e: e.name)
class TestEveryEstimator:
    @pytest.mark.parametrize("models", [40, 6])
    @settings(max_examples=5, deadline=None)
    @given(seed=SEEDS)
    def test_units_that_never_vary_are_unknown(self, estimator, models, seed):
        rng = np.random.default_rng(seed)
        masks = rng.random((models, 8)) < 0.5
        masks[:, 0], masks[:, 1] = True, False
        found = estimator.fit(masks, rng.normal(size=(models, 3)))
        assert_no_nan(found)
        assert not found.influence[:2].any()
        if found.z is not None:
            assert not found.z[:2].any()
            assert np.isposinf(found.standard_error[:2]).all()

    @pytest.mark.parametrize("kind", ["fixed-size", "bernoulli", "antithetic"])
    @pytest.mark.parametrize("value", [0.0, 0.1, 12345.678])
    def test_constant_outputs_have_no_influences(self, estimator, kind, value):
        masks = design_rows(kind, 40, 8, 1)
        found = estimator.fit(masks, np.full((40, 3), value), paired=kind == "antithetic")
        assert_no_nan(found)
        assert not found.influence.any()
        if found.z is not None:
            assert not found.standard_error.any()
            assert not found.z.any()
        np.testing.assert_array_equal(found.intercept, np.float32(value))
        assert not np.any(found.info.get("r_squared", 0.0))

    @pytest.mark.parametrize("kind", ["fixed-size", "bernoulli", "antithetic"])
    @pytest.mark.parametrize(("models", "units"), [(2, 8), (4, 2)])
    def test_two_models_or_one_pair_are_enough_to_answer(self, estimator, kind, models, units):
        masks = design_rows(kind, models, units, 4)
        assert_no_nan(estimator.fit(masks, np.arange(models * 2.0).reshape(models, 2), paired=kind == "antithetic"))

    def test_identical_masks_tell_nothing(self, estimator):
        masks = np.tile([True, False], (40, 4))
        found = estimator.fit(masks, np.random.default_rng(0).normal(size=(40, 3)))
        assert_no_nan(found)
        assert not found.influence.any()
        assert found.standard_error is None or np.isposinf(found.standard_error).all()

    def test_it_says_what_it_is(self, estimator):
        masks = design_rows("antithetic", 40, 8, 0)
        found = estimator.fit(masks, np.arange(120.0).reshape(40, 3), paired=True)
        assert (found.estimator, found.num_models) == (estimator.name, 40)
        assert (found.info["paired"], found.info["relative"]) == (True, True)
        assert (found.unit_names, found.target_names) == (tuple("01234567"), tuple("012"))

    def test_odd_data_have_a_named_status(self, estimator):
        masks = design_rows("bernoulli", 40, 8, 0)
        masks[:, 2] = True
        outputs = np.random.default_rng(0).normal(size=(40, 3))
        outputs[:, 1] = 0.5
        found = estimator.fit(masks, outputs)
        assert found.info["constant_units"] == [2]
        assert [DATA_STATUS[s] for s in found.info["data_status"]] == ["ordinary", "output is constant", "ordinary"]
        nothing = estimator.fit(np.tile(masks[:1], (40, 1)), outputs)
        assert {DATA_STATUS[s] for s in nothing.info["data_status"]} == {"no unit varies"}

    @pytest.mark.parametrize(
        ("masks", "outputs", "paired", "message"),
        [
            (EYE[:4, :4], np.zeros((3, 2)), False, r"masks have shape \(4, 4\) and outputs \(3, 2\), expected"),
            (EYE[:1, :1], np.zeros((1, 2)), False, r"there is 1 model, .* train more"),
            (EYE[:4, :4], np.array([[0.0]] * 3 + [[np.nan]]), False, r"1 models .*\(first row: 3\).*finite_models"),
            (EYE[:4, :4], np.array([[0.0], [np.inf]] * 2), False, r"2 models .*\(first row: 1\).*finite_models"),
            (EYE[:4, :4], np.zeros((4, 2)), True, r"paired=True, but rows 2i and 2i\+1 are not .*complement"),
            (EYE[:3, :3], np.zeros((3, 2)), True, r"paired=True, but rows 2i and 2i\+1 are not .*complement"),
        ],
        ids=["shapes", "one model", "nan", "inf", "broken pairs", "odd"],
    )  # fmt: skip
    def test_what_does_not_fit_is_refused(self, estimator, masks, outputs, paired, message, monkeypatch):
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # As in users' programs.
        with pytest.raises(UserError, match=message):
            estimator.fit(masks, outputs, paired=paired)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([0.0, np.nan, np.inf]), min_size=2, max_size=12).filter(lambda v: len(v) % 2 == 0))
def test_finite_models_drop_pairs_whole(values):
    outputs = np.array([[1.0, v] for v in values])
    alone = finite_models(outputs, paired=False)
    assert alone.tolist() == [v == 0.0 for v in values]
    assert finite_models(outputs, paired=True).tolist() == [
        values[i] == values[i ^ 1] == 0.0 for i in range(len(values))
    ]


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 20)))
def test_complete_pairs_keep_models_with_their_partner(ids):
    model_ids = np.array(sorted(ids), np.int32)
    assert complete_pairs(model_ids, paired=False).all()
    assert complete_pairs(model_ids, paired=True).tolist() == [bool({i, i ^ 1} <= ids) for i in sorted(ids)]
