"""LP-FT starts where the linear probe ends, whatever the network's head; and class means as a head."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jdt import data, models, train, transfer
from jdt.checks import UserError
from jdt.transfer.fixed import FrozenFeatures, chosen_features, fitted_heads
from jdt.transfer.prototype import unit_rows

CLASSES, SHAPE, IDS = 3, (6, 6, 1), np.arange(2)
STILL = train.Recipe(epochs=0.1, batch_size=10, learning_rate=1e-30, warmup_epochs=0.0, weight_decay=0.0)


class Any(nn.Module):
    """A network with one of several heads; `none` leaves it to jdt."""

    num_classes: int
    head: str

    @nn.compact
    def __call__(self, images, *, train: bool):
        features = 3 + 5 * nn.tanh(nn.Dense(5, name="dense")(images.reshape(len(images), -1)))
        if self.head == "none":
            return features
        last = nn.Dense(self.num_classes, use_bias=self.head != "scaled", name="head")(features)
        return {"own": last, "scaled": 0.2 * last, "odd": jnp.sin(last)}[self.head], features


def dots(seed, count=45):
    draw = np.random.default_rng(seed)
    labels = (np.arange(count) % CLASSES).astype(np.int32)
    images = draw.integers(0, 100, (count, *SHAPE)).astype(np.uint8)
    images[np.arange(count), labels, 2 * labels] = 255
    return data.from_arrays("dots", images, labels, ["a", "b", "c"])


def tuned(head, training, test, rows, **changes):
    network = models.Network(Any(5, head), 5)
    ensemble = train.Ensemble(network, STILL, train.PLANS["matmul"], SHAPE, 30.0, 30)
    variables = train.initial_variables(ensemble, 0, IDS)
    how = transfer.FullNetwork(STILL, bn="frozen", start="probe", **changes)
    asked = {"target": "dots", "randomness_ids": IDS, "seed": 0, "rows": rows}
    return transfer.transfer_full(ensemble, variables, training, test, how, **asked), ensemble, variables


@pytest.mark.parametrize("head", ["own", "none", "scaled"])
def test_without_learning_lp_ft_is_the_linear_probe_of_the_same_drawn_images(head):
    training, test = dots(0), dots(1)
    rows = transfer.drawn_rows(training.labels, CLASSES, 4, seed=0, randomness_ids=IDS)
    found, ensemble, variables = tuned(head, training, test, rows)
    if head == "own":
        probe = transfer.transfer_fixed(ensemble, variables, training, test, transfer.FixedFeature(), None, rows)
        expected = probe.logits
        np.testing.assert_array_equal(found.train_accuracy, probe.train_accuracy)
    else:
        features = FrozenFeatures(ensemble, variables)
        own = chosen_features(features.of(training), training, rows)
        on_target = transfer.tuned_ensemble(ensemble, training, transfer.FullNetwork(STILL, bn="frozen"), 12)
        fitted = fitted_heads(on_target, *own, CLASSES, transfer.FixedFeature(), intercept=head != "scaled")
        assert (np.asarray(fitted.gradient_norm) < 1e-5).all()
        assert (np.asarray(fitted.bias) == 0).all() == (head == "scaled")  # Its network has no bias.
        expected = jnp.einsum("mnd,mdc->mnc", features.of(test), fitted.weights) + fitted.bias[:, None]
    np.testing.assert_allclose(found.logits, expected, rtol=1e-4, atol=1e-4)
    assert np.asarray(expected).std() > 0.1


def test_a_head_that_is_no_dense_layer_or_no_convex_probe_is_refused():
    with pytest.raises(UserError, match="model Any has a head that is no dense layer on its features"):
        tuned("odd", dots(0), dots(1), None)
    with pytest.raises(UserError, match="full probe solver is prototype"):
        transfer.FullNetwork(start="probe", probe=transfer.FixedFeature(solver="prototype"))


@functools.partial(jax.jit, static_argnums=2)
def said_of(features, labels, num_classes):
    unit = unit_rows(features)
    return unit, transfer.prototype_head(features, labels, num_classes=num_classes).logits(unit)


@settings(max_examples=20, deadline=None)
@given(hnp.arrays(np.float32, (CLASSES, 4), elements=st.floats(-9, 9, width=16)))
def test_class_means_of_one_example_each_say_the_class_by_cosine(features):
    unit, said = (np.asarray(found) for found in said_of(jnp.asarray(features), jnp.arange(CLASSES), CLASSES))
    cosines = unit @ unit.T
    apart = 1 - cosines[~np.eye(CLASSES, dtype=bool)].mean()
    np.testing.assert_allclose(said * max(apart, 1e-6), np.log(9 * (CLASSES - 1)) * cosines, atol=1e-3)


def test_an_image_at_its_class_mean_is_said_to_be_of_it_with_confidence_nine_tenths():
    features, labels = np.repeat(7 * np.eye(4, dtype=np.float32), 2, axis=0), np.repeat(np.arange(4), 2)
    for count in (4, 5):  # The fifth class is absent: no image is said to be of it.
        logits = np.asarray(said_of(jnp.asarray(features), jnp.asarray(labels), count)[1], np.float64)
        confidence = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        assert confidence.argmax(axis=1).tolist() == labels.tolist()
        if count == 4:
            np.testing.assert_allclose(confidence.max(axis=1), 0.9, rtol=1e-5)
