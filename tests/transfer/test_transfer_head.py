import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from jdt.transfer import fit_head


def problem(seed=0, examples=400, width=12, classes=4, noise=1.0):
    rng = np.random.default_rng(seed)
    features = np.maximum(rng.normal(size=(examples, width)) @ rng.normal(size=(width, width)) + 0.5, 0)
    logits = features @ rng.normal(size=(width, classes)) * 0.3 + noise * rng.gumbel(size=(examples, classes))
    return features.astype(np.float32), logits.argmax(axis=1).astype(np.int32)


@pytest.mark.parametrize("penalty", [0.01, 1.0, 10.0])
def test_the_head_is_scikit_learns_logistic_regression(penalty):
    features, labels = problem()
    head = fit_head(jnp.asarray(features), jnp.asarray(labels), num_classes=4, inverse_penalty=penalty)
    mean, std = features.mean(axis=0), features.std(axis=0)
    reference = LogisticRegression(C=penalty, tol=1e-8, max_iter=500, solver="newton-cholesky")
    standardised = ((features - mean) / std).astype(np.float64)
    expected = reference.fit(standardised, labels).predict_proba(standardised)
    np.testing.assert_allclose(jax.nn.softmax(head.logits(jnp.asarray(features))), expected, atol=2e-4)


def test_the_gradient_vanishes_at_the_solution():
    features, labels = problem()
    head = fit_head(jnp.asarray(features), jnp.asarray(labels), num_classes=4)
    assert float(head.gradient_norm) <= 1e-6
    # The gradient of the stated objective, recomputed in float64 from the returned raw weights.
    mean, std = features.astype(float).mean(axis=0), features.astype(float).std(axis=0)
    x = (features - mean) / std
    weights = np.asarray(head.weights, float) * std[:, None]
    bias = np.asarray(head.bias, float) + mean @ np.asarray(head.weights, float)
    logits = x @ weights + bias
    probability = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)
    residual = (probability - np.eye(4)[labels]) / len(x)
    np.testing.assert_allclose(x.T @ residual + weights / len(x), 0, atol=1e-5)
    np.testing.assert_allclose(residual.sum(axis=0), 0, atol=1e-5)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: np.concatenate([x, np.full((len(x), 2), 7.0, np.float32)], axis=1),  # Constant columns.
        lambda x: np.concatenate([x, x[:, :2]], axis=1),  # Duplicate columns.
        lambda x: np.concatenate([1e4 * x[:, :3], 1e-4 * x[:, 3:]], axis=1),  # Scales far apart.
        np.zeros_like,
    ],
    ids=["constant", "duplicate", "scales", "all zero"],
)
def test_awkward_features_still_converge(spoil):
    features, labels = problem()
    head = fit_head(jnp.asarray(spoil(features)), jnp.asarray(labels), num_classes=4)
    assert np.isfinite(np.asarray(head.weights)).all()
    assert float(head.gradient_norm) <= 1e-5


def test_a_class_without_training_examples_is_never_predicted():
    features, labels = problem(classes=3)
    head = fit_head(jnp.asarray(features), jnp.asarray(labels), num_classes=4)
    assert int(head.logits(jnp.asarray(features)).argmax(axis=1).max()) <= 2


def test_more_features_than_examples():
    features, labels = problem(examples=20, width=40)
    head = fit_head(jnp.asarray(features), jnp.asarray(labels), num_classes=4)
    assert float(head.gradient_norm) <= 1e-5
    assert (np.asarray(head.logits(jnp.asarray(features)).argmax(axis=1)) == labels).mean() > 0.9


def test_scaling_a_feature_changes_no_prediction():
    features, labels = problem()
    scaled = features * np.linspace(0.1, 10, features.shape[1], dtype=np.float32) + 3
    logits = [
        fit_head(jnp.asarray(x), jnp.asarray(labels), num_classes=4).logits(jnp.asarray(x)) for x in (features, scaled)
    ]
    np.testing.assert_allclose(jax.nn.softmax(logits[0]), jax.nn.softmax(logits[1]), atol=1e-3)


def test_models_solved_together_equal_models_solved_alone():
    problems = [problem(seed) for seed in range(3)]
    features = jnp.stack([x for x, _ in problems])
    labels = jnp.asarray(problems[0][1])
    together = jax.vmap(lambda x: fit_head(x, labels, num_classes=4).logits(x))(features)
    for one, x in zip(together, features, strict=True):
        alone = fit_head(x, labels, num_classes=4).logits(x)
        np.testing.assert_allclose(jax.nn.softmax(one), jax.nn.softmax(alone), atol=2e-4)
