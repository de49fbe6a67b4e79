import dataclasses

import jax
import numpy as np
import pytest
import sklearn.linear_model
from lasso_reference import KINDS, compilations, objective, reference, sparse_world, standardised

from jdt.checks import UserError
from jdt.estimators import HoldOut, KFold, Lasso, lasso_path
from jdt.estimators.paths import Rows, Solver, penalty_grid, standardise
from jdt.evaluate import permuted_masks
from jdt.linalg.lasso import CONSTANT, CONVERGED

EXACT = Lasso(num_penalties=12, min_ratio=1e-2, gap=1e-9)
CHOICES = [HoldOut(0.2, seed=1), KFold(4, seed=1)]


def rows_of(masks, outputs, *, paired):
    """What is regressed: masks and outputs, or signs of the first masks of pairs and differences within pairs."""
    if not paired:
        return masks.astype(float), outputs
    return 2.0 * masks[0::2] - 1.0, outputs[0::2] - outputs[1::2]


def chosen_by_scikit_learn(estimator, masks, outputs, *, paired):
    """Penalties `[targets]`, held-out errors and R^2 by scikit-learn's paths on the parts that `select` makes."""
    rows, values = rows_of(masks, outputs, paired=paired)
    _, _, grid = problem_of(rows, values, estimator, paired=paired)
    parts, held = estimator.select.parts(len(rows))
    errors, null = np.zeros(grid.shape), np.zeros(grid.shape[1])
    total = sum(len(part) for part in parts[:held])
    for part in parts[:held]:
        others = np.setdiff1d(np.arange(len(rows)), part)
        if paired:
            mean, scale, level = 0.0, 1.0, 0.0
        else:
            mean, scale, level = rows[others].mean(axis=0), rows[others].std(axis=0), values[others].mean(axis=0)
        w = reference((rows[others] - mean) / scale, values[others] - level, grid)
        expected = (values[part] - level) - ((rows[part] - mean) / scale) @ w
        errors += (expected**2).sum(axis=1) / total
        null += ((values[part] - level) ** 2).sum(axis=0) / total
    best = errors.argmin(axis=0)
    least = np.take_along_axis(errors, best[None], axis=0)[0]
    return np.take_along_axis(grid, best[None], axis=0)[0], least, 1 - least / null


def problem_of(rows, values, estimator, *, paired):
    """Standardised rows, centred values (signs: as they are) and the grid of penalties."""
    if paired:
        x, y = rows, values
    else:
        x, y = (rows - rows.mean(axis=0)) / rows.std(axis=0), values - values.mean(axis=0)
    largest = np.abs(x.T @ y).max(axis=0) / len(x)
    return x, y, largest * estimator.min_ratio ** np.linspace(0, 1, estimator.num_penalties)[:, None]


@pytest.mark.parametrize("select", CHOICES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_the_penalty_is_the_one_that_scikit_learn_chooses_on_the_same_models(kind, select):
    paired = kind == "antithetic"
    masks, outputs, _ = sparse_world(kind)
    estimator = dataclasses.replace(EXACT, select=select)
    with jax.enable_x64(True):
        found = estimator.fit(masks, outputs, paired=paired)
    penalty, error, explained = chosen_by_scikit_learn(estimator, masks, outputs, paired=paired)
    np.testing.assert_allclose(found.info["penalty"], penalty, rtol=1e-9)
    np.testing.assert_allclose(found.info["held_out_mse"], error, rtol=1e-4)
    np.testing.assert_allclose(found.info["r_squared"], explained, atol=1e-4)
    assert (explained[:-1] > 0.1).all()
    # What is fitted then, on all models.
    rows, values = rows_of(masks, outputs, paired=paired)
    x, y, _ = problem_of(rows, values, estimator, paired=paired)
    scale = np.ones(20) if paired else rows.std(axis=0)
    for t in range(6):
        lasso = sklearn.linear_model.Lasso(alpha=penalty[t], fit_intercept=False, tol=1e-12, max_iter=1_000_000)
        best = lasso.fit(x, y[:, t]).coef_
        mine = found.influence[:, t] * scale
        np.testing.assert_allclose(
            objective(x, y[:, [t]], mine[:, None], penalty[t]),
            objective(x, y[:, [t]], best[:, None], penalty[t]),
            rtol=1e-8,
        )
        np.testing.assert_allclose(mine - mine.mean(), best - best.mean(), atol=2e-4)
    np.testing.assert_array_equal(found.info["num_nonzero"], (found.influence != 0).sum(axis=0))
    assert (found.info["status"] == CONVERGED).all()
    assert found.standard_error is found.z is found.degrees_of_freedom is None
    level = outputs.mean(axis=0) - masks.mean(axis=0) @ found.influence
    np.testing.assert_allclose(found.intercept, level, atol=1e-10)
    np.testing.assert_allclose(found.predict(masks), level + masks @ found.influence, atol=1e-10)


def test_noise_that_pairs_share_leaves_a_paired_fit_alone():
    masks, outputs, _ = sparse_world("antithetic")
    shared = np.repeat(100.0 * np.random.default_rng(0).normal(size=(60, 6)), 2, axis=0)
    with jax.enable_x64(True):
        found, quiet = (EXACT.fit(masks, values, paired=True) for values in (outputs + shared, outputs))
    # Were a pair divided between what is fitted and what is held out, its penalty would be another one.
    np.testing.assert_allclose(found.info["penalty"], quiet.info["penalty"], rtol=1e-9)
    np.testing.assert_allclose(found.influence, quiet.influence, atol=1e-6)


@pytest.mark.parametrize("paired", [False, True])
def test_without_a_refit_weights_are_those_of_the_models_not_held_out(paired):
    masks, outputs, _ = sparse_world("antithetic")
    select = HoldOut(0.2, seed=3)
    estimator = dataclasses.replace(EXACT, select=select, refit=False)
    with jax.enable_x64(True):
        found, refitted = (
            e.fit(masks, outputs, paired=paired) for e in (estimator, dataclasses.replace(estimator, refit=True))
        )
    np.testing.assert_array_equal(found.info["penalty"], refitted.info["penalty"])
    rows, values = rows_of(masks, outputs, paired=paired)
    (held_out, kept), held = select.parts(len(rows))
    assert (held, len(held_out)) == (1, len(rows) // 5)
    x, y, _ = problem_of(rows[kept], values[kept], estimator, paired=paired)
    scale = np.ones(20) if paired else rows[kept].std(axis=0)
    for t in range(6):
        lasso = sklearn.linear_model.Lasso(
            alpha=found.info["penalty"][t], fit_intercept=False, tol=1e-12, max_iter=1_000_000
        )
        best = lasso.fit(x, y[:, t]).coef_ / scale
        np.testing.assert_allclose(found.influence[:, t], best, atol=2e-4)
    assert np.abs(found.influence - refitted.influence).max() > 1e-3


@pytest.mark.parametrize("count", [2, 3, 10, 11, 97])
@pytest.mark.parametrize("select", [HoldOut(0.1), HoldOut(0.99, seed=2), KFold(), KFold(2, seed=5)], ids=str)
def test_every_model_is_in_one_part(select, count):
    parts, held = select.parts(count)
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    assert all(len(part) for part in parts)
    if isinstance(select, KFold):
        assert held == len(parts) == min(select.folds, count)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    else:
        assert (held, len(parts)) == (1, 2)
        assert abs(len(parts[0]) - select.share * count) <= 1
    again, _ = select.parts(count)
    other, _ = dataclasses.replace(select, seed=99).parts(count)
    assert all((a == b).all() for a, b in zip(parts, again, strict=True))
    if count > 10:
        assert any(len(a) != len(b) or (a != b).any() for a, b in zip(parts, other, strict=True))


class TestPlantedTruth:
    # Weights above three standard errors of a difference of means, 2 noise / sqrt(models): cross-validation aims at
    # the best prediction, and lets in small weights of units that do not matter.
    MODELS, NOISE = 400, 0.5
    BAR = 3 * 2 * NOISE / np.sqrt(MODELS)

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_units_that_matter_are_found(self, kind):
        # Also where subsets have one size: of all levels the penalty likes the one where most weights are zero.
        masks, outputs, beta = sparse_world(kind, self.MODELS, 30, 20, self.NOISE)
        found = Lasso(num_penalties=20).fit(masks, outputs.astype(np.float32), paired=kind == "antithetic")
        assert found.influence.dtype == np.float32
        matters, said = beta != 0, np.abs(found.influence) > self.BAR
        assert 2 * (matters & said).sum() / (matters.sum() + said.sum()) >= 0.95
        assert (np.sign(found.influence) == beta)[matters].mean() > 0.99
        assert (found.info["r_squared"][:-1] > 0.7).all()

    @pytest.mark.parametrize("kind", KINDS)
    def test_shuffled_masks_find_none(self, kind):
        paired = kind == "antithetic"
        masks, outputs, _ = sparse_world(kind, self.MODELS, 30, 20, self.NOISE)
        shuffled = permuted_masks(masks, np.random.default_rng(0), paired=paired)
        found = Lasso(num_penalties=20).fit(shuffled, outputs.astype(np.float32), paired=paired)
        assert np.abs(found.info["r_squared"]).mean() < 0.02
        assert found.info["num_nonzero"].mean() < 0.25 * 30
        # The outputs scatter more than noise alone does: effects of other rows are noise too.
        bar = 3 * 2 * outputs.std(axis=0) / np.sqrt(self.MODELS)
        assert (np.abs(found.influence) > bar).mean() < 0.01


@pytest.mark.parametrize("x64", [False, True], ids=["float32", "float64"])
class TestOddData:
    @pytest.mark.parametrize("select", CHOICES, ids=lambda s: type(s).__name__)
    @pytest.mark.parametrize("kind", KINDS)
    def test_it_is_answered(self, x64, kind, select):
        masks, outputs, _ = sparse_world(kind)
        outputs = outputs.copy()
        outputs[:, 0], outputs[:, 1] = 0.0, 0.1
        odd = [masks[:, -1:]]
        if kind != "antithetic":  # No pair can keep a unit twice.
            odd += [np.ones((120, 1), bool), np.zeros((120, 1), bool)]
        masks = np.column_stack([masks[:, len(odd) :], *odd])
        with jax.enable_x64(x64):
            found = Lasso(select, num_penalties=12).fit(masks, outputs, paired=kind == "antithetic")
        for values in (found.influence, found.intercept, *found.info.values()):
            assert np.isfinite(values).all()
        assert not found.influence[:, :2].any()
        if kind != "antithetic":
            assert not found.influence[18:].any()
            assert found.info["constant_units"] == [18, 19]
        assert found.info["status"].tolist() == [CONSTANT] * 2 + [CONVERGED] * 4
        assert not found.info["r_squared"][:2].any()
        np.testing.assert_allclose(found.predict(masks)[:, :2], np.broadcast_to([0.0, 0.1], (120, 2)), rtol=1e-6)

    @pytest.mark.parametrize("select", CHOICES, ids=lambda s: type(s).__name__)
    @pytest.mark.parametrize("paired", [False, True])
    @pytest.mark.parametrize(("models", "units"), [(2, 20), (4, 1), (6, 20)])
    def test_few_models_are_enough_to_answer(self, x64, select, paired, models, units):
        masks = np.random.default_rng(2).random((models, units)) < 0.5
        masks[1::2] = ~masks[0::2]
        with jax.enable_x64(x64):
            found = Lasso(select, num_penalties=12).fit(
                masks, np.arange(models * 2.0).reshape(models, 2), paired=paired
            )
        for values in (found.influence, found.intercept, *found.info.values()):
            assert np.isfinite(values).all()

    @pytest.mark.parametrize("paired", [False, True])
    def test_more_units_than_models(self, x64, paired):
        masks, outputs, _ = sparse_world("antithetic", 14, 20, noise=0.1)
        with jax.enable_x64(x64):
            found = Lasso(num_penalties=12).fit(masks, outputs, paired=paired)
        assert np.isfinite(found.influence).all()
        assert (found.info["gap"][found.info["status"] == CONVERGED] <= 1e-5).all()


def test_the_elastic_net_keeps_duplicates_alike():
    masks, outputs, _ = sparse_world()
    twice = np.column_stack([masks[:, :19], masks[:, :1]])
    with jax.enable_x64(True):
        found = dataclasses.replace(EXACT, l1_ratio=0.5).fit(twice, outputs)
    np.testing.assert_allclose(found.influence[0], found.influence[19], atol=1e-4)
    assert found.influence[0].any()


@pytest.mark.parametrize("kind", ["bernoulli", "antithetic"])
def test_one_device_finds_what_eight_do(kind, monkeypatch):
    masks, outputs, _ = sparse_world(kind, 160)
    with jax.enable_x64(True):
        eight = EXACT.fit(masks, outputs, paired=kind == "antithetic")
        monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
        one = EXACT.fit(masks, outputs, paired=kind == "antithetic")
    np.testing.assert_allclose(one.influence, eight.influence, atol=1e-6)
    np.testing.assert_allclose(one.info["penalty"], eight.info["penalty"], rtol=1e-9)


def test_a_second_fit_of_one_shape_compiles_nothing():
    masks, outputs, _ = sparse_world()
    estimator = Lasso(num_penalties=12)
    jax.clear_caches()
    with compilations() as first:
        estimator.fit(masks, outputs)
    with compilations() as second:
        dataclasses.replace(estimator, gap=1e-6, max_sweeps=500).fit(masks, 1 - 2 * outputs)
    assert first
    assert not second


def test_penalties_are_judged_and_the_best_fitted_by_one_program():
    masks, outputs, _ = sparse_world()
    problem = standardise(Rows.of(masks, outputs))
    penalties = penalty_grid(problem, 12, 1e-2, 1.0)
    errors = Solver(1.0, 1e-4, 10_000).errors(problem, penalties, problem, np.float32)
    with compilations() as found:
        fitted = Solver(1.0, 1e-5, 500).at(problem, penalties, errors.argmin(axis=0), np.float32)
    assert not found
    assert (fitted.gap <= 1e-5).all()


def test_its_penalties_are_those_of_the_path():
    masks, outputs, _ = sparse_world()
    path = lasso_path(masks, outputs, num_penalties=12)
    found = Lasso(num_penalties=12).fit(masks, outputs)
    assert np.isclose(path.penalties, found.info["penalty"], rtol=1e-6).any(axis=0).all()
    chosen = np.isclose(path.penalties, found.info["penalty"], rtol=1e-6).argmax(axis=0)
    x, y, unit_scale, target_scale = standardised(masks, outputs)
    for t in range(6):
        penalty = path.penalties[chosen[t], t] / target_scale[t]
        here, there = (
            objective(x, y[:, [t]], (w * unit_scale / target_scale[t])[:, None], penalty)
            for w in (found.influence[:, t], path.weights[chosen[t], :, t])
        )
        np.testing.assert_allclose(here, there, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Lasso(num_penalties=0), "num_penalties is 0, but it must be at least 1"),
        (lambda: Lasso(max_sweeps=0), "max_sweeps is 0, but it must be at least 1"),
        (lambda: Lasso(min_ratio=0.0), "min_ratio is 0.0, but it must lie strictly between 0 and 1"),
        (lambda: Lasso(gap=1.0), "gap is 1.0, but it must lie strictly between 0 and 1"),
        (lambda: Lasso(l1_ratio=0.0), "l1_ratio is 0.0, but it must lie above 0 and at most at 1"),
        (lambda: Lasso(KFold(), refit=False), "KFold makes several: use select=HoldOut"),
        (lambda: HoldOut(1.0), "share is 1.0, but it must lie strictly between 0 and 1"),
        (lambda: KFold(1), "folds is 1, but it must be at least 2"),
    ],
)  # fmt: skip
def test_bad_options_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
