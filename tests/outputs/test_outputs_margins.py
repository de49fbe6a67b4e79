import jax.numpy as jnp
import numpy as np

from jdt.outputs import example_outputs


def test_outputs_equal_their_definitions():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 50, 4)).astype(np.float32) * 5
    labels = rng.integers(0, 4, 50).astype(np.int32)
    outputs = example_outputs(jnp.asarray(logits), jnp.asarray(labels))
    for m in range(3):
        for i, label in enumerate(labels):
            z = logits[m, i].astype(np.float64)
            wrong = np.delete(z, label)
            np.testing.assert_allclose(outputs.margin[m, i], z[label] - wrong.max(), rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(outputs.confidence[m, i], np.exp(z[label]) / np.exp(z).sum(), rtol=1e-5)
            assert int(outputs.prediction[m, i]) == z.argmax()
        np.testing.assert_allclose(outputs.accuracy[m], (logits[m].argmax(axis=1) == labels).mean(), rtol=1e-6)
    assert ((np.asarray(outputs.margin) > 0) == (np.asarray(outputs.prediction) == labels)).all()


def test_extreme_logits_stay_finite():
    logits = jnp.array([[[1e4, -1e4], [-1e4, 1e4]]], jnp.float32)
    outputs = example_outputs(logits, jnp.array([0, 0]))
    np.testing.assert_array_equal(outputs.confidence[0], [1.0, 0.0])
    np.testing.assert_array_equal(outputs.margin[0], [2e4, -2e4])
