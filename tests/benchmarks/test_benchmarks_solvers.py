import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso, lasso_path

import jdt
from jdt.estimators import SagaParity

ROOT = Path(__file__).parents[2]
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT / "benchmarks"))
    lasso_problem = importlib.import_module("lasso_problem")
    lasso_peers = importlib.import_module("lasso_peers")
DESIGNS = ["bernoulli", "fixed-size", "antithetic"]
PATHS = ["jdt", "scikit-learn", "scikit-learn-float32", "scikit-learn-threads", "celer", "skglm"]


def small(design="bernoulli", **choices):
    return lasso_problem.make_problem(80, 12, 4, design=design, num_penalties=6, min_ratio=1e-2, **choices)


def made(name, problem):
    if reason := lasso_peers.missing(name):
        pytest.skip(reason)
    if name in ("jdt", "jdt-select") and not hasattr(jdt, "lasso_path"):
        pytest.skip("this jdt has no lasso_path")
    return lasso_peers.SOLVERS[name](problem)


def run_script(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "solvers.py"), *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def direct_objective(problem, weights, bias, penalty, target):
    """The objective from its definition, model by model, for weights of masks as they are."""
    residual = [float(y) - bias - m @ weights for m, y in zip(problem.masks, problem.outputs[:, target], strict=True)]
    return np.mean(np.square(residual)) / 2 + penalty * np.abs(weights * problem.masks.std(axis=0)).sum()


@pytest.mark.parametrize("design", DESIGNS)
def test_the_problem_is_the_one_described(design):
    problem = small(design)
    np.testing.assert_allclose(problem.x.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(problem.x.std(axis=0), 1)
    np.testing.assert_allclose(problem.y.mean(axis=0), 0, atol=1e-12)
    assert problem.outputs.dtype == np.float32
    np.testing.assert_allclose(problem.penalties[-1], 1e-2 * problem.penalties[0])
    for target in range(4):  # w leaves 0 just below the first penalty.
        model = Lasso(alpha=problem.penalties[0, target] * (1 + 1e-6), tol=1e-12)
        assert not model.fit(problem.x, problem.y[:, target]).coef_.any()
        model = Lasso(alpha=problem.penalties[0, target] * 0.99, tol=1e-12)
        assert model.fit(problem.x, problem.y[:, target]).coef_.any()
    again = small(design)
    np.testing.assert_array_equal(again.outputs, problem.outputs)


def test_zero_weights_at_the_first_penalty_are_optimal():
    problem = small()
    zeros = lasso_problem.unstandardised(problem, np.zeros((6, 12, 4)), problem.penalties)
    found = lasso_problem.judge(problem, zeros)
    np.testing.assert_allclose(found.gap[0], 0, atol=1e-12)
    np.testing.assert_allclose(found.objective, (problem.y**2).mean(axis=0)[None].repeat(6, axis=0) / 2)
    assert (found.gap[1:] > 1e-3).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-1, 1), st.sampled_from(DESIGNS))
def test_the_gap_bounds_the_excess_of_any_weights(seed, shift, design):
    problem, rng = small(design), np.random.default_rng(seed)
    weights = rng.normal(size=(6, 12, 4)) * (rng.random((6, 12, 4)) < 0.5)
    solution = lasso_problem.unstandardised(problem, weights, problem.penalties)
    solution = solution._replace(bias=solution.bias + shift)
    found = lasso_problem.judge(problem, solution)
    best = lasso_problem.reference_objective(problem, problem.penalties)
    null = (problem.y**2).mean(axis=0) / 2
    assert (found.objective - best <= found.gap * null * (1 + 1e-9) + 1e-9).all()
    for p, t in [(0, 0), (5, 3)]:
        expected = direct_objective(problem, solution.weights[p, :, t], solution.bias[p, t], problem.penalties[p, t], t)
        assert found.objective[p, t] == pytest.approx(expected)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-12])
def test_the_gap_is_that_of_scikit_learn_over_the_null_objective(design, tolerance):
    problem = small(design)
    y, penalties = problem.y[:, 0], problem.penalties[:, :1]
    _, weights, gaps = lasso_path(problem.x, y, alphas=penalties[:, 0], tol=tolerance, max_iter=100_000)
    only = problem.first(1)
    found = lasso_problem.judge(only, lasso_problem.unstandardised(only, weights.T[:, :, None], penalties))
    np.testing.assert_allclose(found.gap[:, 0], gaps / ((y**2).mean() / 2), rtol=1e-6, atol=1e-12)
    assert found.gap.max() <= 2 * tolerance * (1 + 1e-6)  # tol times y'y, over half of it.


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("name", PATHS)
def test_every_path_solver_solves_the_same_problem(name, design):
    problem = small(design)
    solver = made(name, problem)
    solver.solve()
    solver.tune()
    solution = solver.read(solver.solve())
    assert solution.weights.shape == (6, 12, 4)
    np.testing.assert_allclose(solution.penalties, problem.penalties, rtol=1e-4)
    found = lasso_problem.judge(problem, solution)
    # Float32 rounds a gap from Gram matrices, and skglm stops by another criterion, tuned on the first targets.
    assert found.gap.max() <= problem.gap * {"scikit-learn-float32": 10, "skglm": 2}.get(name, 1.01)
    best = lasso_problem.reference_objective(problem, solution.penalties)
    assert lasso_problem.objective_difference(found.objective, best) < 2 * problem.gap


@pytest.mark.parametrize("name", ["scikit-learn-cv", "jdt-select"])
def test_a_solver_that_selects_is_optimal_at_its_penalty(name):
    problem = small()
    solver = made(name, problem)
    solution = solver.read(solver.solve())
    assert solution.weights.shape == (1, 12, 4)
    assert (solution.penalties > 0).all()
    assert lasso_problem.judge(problem, solution).gap.max() <= problem.gap * 1.01


def test_the_published_procedure_is_judged_at_its_own_penalty():
    problem = lasso_problem.make_problem(300, 6, 3, num_penalties=20)
    exact = SagaParity(num_penalties=20, min_ratio=1e-2, learning_rate=0.05, tolerance=1e-12)
    solver = lasso_peers.JdtEstimator(problem, exact)
    solution = solver.read(solver.solve())
    best = lasso_problem.reference_objective(problem, solution.penalties)
    found = lasso_problem.judge(problem, solution)
    assert lasso_problem.objective_difference(found.objective, best) < 1e-6


def test_a_worse_answer_has_a_gap_and_a_difference():
    problem = small()
    solver = lasso_peers.ScikitLearn(problem)
    solution = solver.read(solver.solve())
    worse = lasso_problem.judge(problem, solution._replace(weights=solution.weights * 1.1))
    assert worse.gap.max() > 1e-3
    best = lasso_problem.reference_objective(problem, problem.penalties)
    assert lasso_problem.objective_difference(worse.objective, best) > 1e-4


@pytest.mark.slow
def test_the_script_writes_one_record_a_solver(tmp_path):
    saved, names = tmp_path / "solvers.json", ["scikit-learn", "scikit-learn-threads", "scikit-learn-cv"]
    done = run_script(
        "--models=100", "--units=10", "--targets=6", "--penalties=5", "--repeats=2", "--peer-targets=2",
        "--design=antithetic", "--peers", *names, f"--json={saved}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    records = {record["solver"]: record for record in json.loads(saved.read_text())}
    assert list(records) == names
    assert all(name in done.stdout for name in names)
    assert [r["targets_timed"] for r in records.values()] == [6, 6, 2]
    assert [r["ratio_to"] for r in records.values()] == ["scikit-learn", "scikit-learn", "scikit-learn-cv"]
    assert records["scikit-learn"]["ratio"] == records["scikit-learn-cv"]["ratio"] == 1
    base = records["scikit-learn"]["seconds"]
    assert records["scikit-learn-threads"]["ratio"] == pytest.approx(base / records["scikit-learn-threads"]["seconds"])
    for r in records.values():
        low, high = r["seconds_range"]
        assert 0 < low <= r["seconds"] <= high
        assert r["seconds_cold"] >= r["seconds"]
        assert 0 <= r["gap"] <= 1.01e-5
        assert 0 <= r["objective_difference"] < 1e-5
        shape = ("models", "units", "targets", "penalties", "design", "repeats")
        assert [r[key] for key in shape] == [100, 10, 6, 5, "antithetic", 2]


def test_an_unknown_solver_is_named_with_the_known_ones():
    done = run_script("--peers", "lars")
    assert done.returncode == 1
    assert "unknown solver lars; known: jdt" in done.stderr
