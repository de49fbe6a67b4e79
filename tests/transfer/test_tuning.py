"""Tuning on frozen features: laws that hold for any model, planted truth, and references in NumPy and optax."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from jdt import data, models, train, transfer
from jdt.checks import UserError
from jdt.sharding import in_waves
from jdt.transfer import Tuning, tuning_loop
from jdt.transfer.tuning_heads import training_features

MODELS, EXAMPLES, WIDTH, CLASSES, VIEWS = 3, 96, 6, 3, 4
LINEAR, MLP, PAPER, CODE = Tuning("linear"), Tuning("mlp"), Tuning("nmtune"), Tuning("nmtune", "code")


def problem(seed=0, separation=1.5, examples=EXAMPLES):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, examples)
    centres = separation * draw.normal(size=(MODELS, CLASSES, WIDTH))
    features = (centres[:, labels] + draw.normal(size=(MODELS, examples, WIDTH))).astype(np.float32)
    views = features[:, None] + 0.2 * draw.normal(size=(MODELS, VIEWS, examples, WIDTH)).astype(np.float32)
    return features, labels.astype(np.int32), views


FEATURES, LABELS, BANK = problem()


def tune(settings, features=FEATURES, views=BANK, labels=LABELS, *, ids=(0, 1, 2), devices=1, vmapped=False, **changed):
    settings = dataclasses.replace(settings, **{"epochs": 3, "batch_size": 32, **changed})
    count = len(features)
    sharing = tuning_loop.Sharing(devices, in_waves(count, devices, count if vmapped else 1), vmapped)
    return tuning_loop.tune_heads(
        features, labels, views, settings,
        num_classes=CLASSES, seed=5, target=7, randomness_ids=np.asarray(ids), sharing=sharing,
    )  # fmt: skip


def assert_equal(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **({"rtol": 0} | tolerance)), one, other)


def row(tree, index):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)


def test_without_weights_nmtune_is_mlp_tuning_bit_for_bit():
    plain = tune(MLP, epochs=4)  # Twelve steps.
    for form in ("paper", "code"):
        assert_equal(tune(Tuning("nmtune", form, consistency=0.0, covariance=0.0, dominance=0.0), epochs=4), plain)
    # Terms that are computed, and weigh too little for float32 to see, change rounding only.
    some = tune(Tuning("nmtune", "code", consistency=1e-30, covariance=1e-30, dominance=1e-30), epochs=4)
    assert_equal(some.head, plain.head, rtol=2e-3, atol=2e-5)
    assert np.abs(np.asarray(some.history.dominance)).min() > 0


@pytest.mark.parametrize("settings", [LINEAR, CODE], ids=["linear", "nmtune"])
def test_a_head_does_not_depend_on_its_company_or_the_devices(settings):
    together = tune(settings)
    assert np.asarray(together.finite).all()
    alone = tune(settings, FEATURES[1:2], BANK[1:2], ids=(1,))
    assert_equal(row(alone, 0), row(together, 1))
    assert_equal(tune(settings, devices=2), together, rtol=1e-4, atol=1e-6)
    if settings is CODE:
        assert_equal(tune(settings, vmapped=True), together, rtol=2e-3, atol=2e-4)
    other = tune(settings, FEATURES[1:2], BANK[1:2], ids=(2,))
    assert np.abs(other.head.params.weights[0] - together.head.params.weights[1]).max() > 1e-3


def test_the_forms_and_methods_differ():
    heads = [np.asarray(tune(settings).head.params.weights) for settings in (LINEAR, MLP, PAPER, CODE)]
    assert all(np.abs(a - b).max() > 1e-5 for i, a in enumerate(heads) for b in heads[:i])


def test_a_second_call_and_other_rates_compile_nothing():
    tune(CODE)
    sizes = [f._cache_size() for f in (tuning_loop._start, tuning_loop._run_passes, tuning_loop._training_accuracy)]
    tune(Tuning("nmtune", "code", learning_rate=0.01, weight_decay=0.1, consistency=0.5, scale=0.5), ids=(7, 8, 9))
    assert sizes == [
        f._cache_size() for f in (tuning_loop._start, tuning_loop._run_passes, tuning_loop._training_accuracy)
    ]


def test_a_linear_probe_reaches_the_convex_optimum():
    draw = np.random.default_rng(1)
    labels = np.where(draw.random(EXAMPLES) < 0.3, draw.integers(0, CLASSES, EXAMPLES), LABELS).astype(np.int32)
    found = tune(LINEAR, FEATURES[:1], None, labels, ids=(0,), epochs=400, weight_decay=0.0)
    reference = LogisticRegression(C=1e6, tol=1e-8, max_iter=1000).fit(FEATURES[0], labels)
    logits = FEATURES[0] @ np.asarray(found.head.params.weights[0]) + np.asarray(found.head.params.bias[0])
    best = log_loss(labels, reference.predict_proba(FEATURES[0]))
    assert best <= log_loss(labels, np.asarray(jax.nn.softmax(logits), float)) < 1.01 * best


def test_features_that_are_not_finite_mark_their_own_model():
    broken = FEATURES.copy()
    broken[1, 3, 0] = np.nan
    tuned = tune(CODE, broken)
    assert np.asarray(tuned.finite).tolist() == [True, False, True]
    assert_equal(row(tuned.head, 0), row(tune(CODE).head, 0))


def test_a_small_target_makes_the_batch_as_small():
    tuned = tune(LINEAR, FEATURES[:, :9], None, LABELS[:9], batch_size=64)
    assert_equal(tuned, tune(LINEAR, FEATURES[:, :9], None, LABELS[:9], batch_size=9))


@pytest.mark.parametrize("settings", [LINEAR, MLP, CODE], ids=["linear", "mlp", "nmtune"])
def test_shuffled_labels_leave_chance_and_true_ones_do_not(settings):
    features, labels, views = problem(seed=2, separation=1.0, examples=2 * EXAMPLES)
    half, draw = EXAMPLES, np.random.default_rng(3)

    def accuracy(labels_seen, first_id):
        ids, rate = first_id + np.arange(MODELS), 0.02
        seen = features[:, :half], views[:, :, :half], labels_seen
        tuned = tune(settings, *seen, ids=ids, epochs=60, learning_rate=rate)
        sharing = tuning_loop.Sharing(1, in_waves(MODELS, 1, 1), False)
        logits, read = tuning_loop.apply_heads(tuned.head, jnp.asarray(features[:, half:]), sharing)
        assert read.shape == (MODELS, half, WIDTH)
        return (np.asarray(logits).argmax(axis=-1) == labels[half:]).mean()

    # Whole clusters get a label together, so that the error is that of shuffles, not of test examples.
    shuffled = [accuracy(draw.permutation(labels[:half]), 10 * i) for i in range(12)]
    chance = (np.bincount(labels[:half], minlength=CLASSES) @ np.bincount(labels[half:], minlength=CLASSES)) / half**2
    error = np.std(shuffled, ddof=1) / np.sqrt(len(shuffled))
    assert abs(np.mean(shuffled) - chance) < 3 * error
    assert accuracy(labels[:half], 0) > chance + 3 * np.std(shuffled)


def test_batch_norm_is_that_of_the_definition():
    head = tune(MLP, epochs=1).head
    network, running = row(head.params.network, 0), row(head.running, 0)
    z, moved = training_features(network, running, jnp.asarray(FEATURES[0, :8]))
    hidden = FEATURES[0, :8] @ network.in_weights + network.in_bias
    unit = (hidden - hidden.mean(axis=0)) / np.sqrt(hidden.var(axis=0) + 1e-5)
    active = np.maximum(unit * network.gain + network.shift, 0)
    expected = network.scale * (active @ network.out_weights + network.out_bias) + FEATURES[0, :8]
    np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moved.mean, 0.9 * running.mean + 0.1 * hidden.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        moved.variance, 0.9 * running.variance + 0.1 * hidden.var(axis=0, ddof=1), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 1}, "at least 2"),
        ({"covariance": -1.0}, "covariance is -1.0"),
        ({"learning_rate": float("inf")}, "finite"),
        ({"learning_rate": 0.0}, "nothing is learnt"),
        ({"scale": float("nan")}, "finite"),
        ({"num_dominant": 0}, "num_dominant is 0"),
        ({"crop": (0.9, 0.5)}, "two rising parts"),
    ],
)
def test_wrong_settings_are_refused(changed, words):
    with pytest.raises(UserError, match=words):
        Tuning(**changed)


class Net(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        del train
        features = nn.relu(nn.Dense(5, name="dense")(images.reshape(len(images), -1)))
        return nn.Dense(self.num_classes, name="head")(features), features


def test_transfer_shares_features_and_the_bank_among_methods():
    draw = np.random.default_rng(0)

    def dataset(name, count):
        images = draw.integers(0, 256, (count, 4, 4, 1)).astype(np.uint8)
        return data.from_arrays(name, images, np.arange(count) % 3, list("abc"))

    training, test = dataset("train", 24), dataset("test", 7)
    recipe = train.Recipe(epochs=1, batch_size=8, learning_rate=0.05)
    ensemble = train.Ensemble(models.Network(Net(7)), recipe, train.PLANS["matmul"], (4, 4, 1), 24.0, 24, num_devices=2)
    ids = np.asarray([4, 2])
    variables = train.initial_variables(ensemble, 0, ids)
    settings = [Tuning("linear", epochs=2), Tuning("mlp", epochs=2, num_views=2)]
    bank = transfer.view_bank(training, settings[1], 5)
    assert bank is not None
    assert len(bank) == 48
    assert transfer.view_bank(training, settings[0], 5) is transfer.view_bank(training, Tuning(num_views=0), 5) is None
    uses = {training.fingerprint: 2, test.fingerprint: 2, bank.fingerprint: 1}
    features_of = transfer.FrozenFeatures(ensemble, variables, uses)
    found = [
        transfer.transfer_tuned(
            ensemble, variables, training, test, one,
            target="t", randomness_ids=ids, seed=5, features_of=features_of, bank=bank,
        )
        for one in settings
    ]  # fmt: skip
    frozen = transfer.FrozenFeatures(ensemble, variables).of(test)
    np.testing.assert_array_equal(found[0].features, frozen)
    assert all(one.logits.shape == (2, 7, 3) and np.asarray(one.finite).all() for one in found)
    alone = transfer.transfer_tuned(
        ensemble, jax.tree.map(lambda leaf: leaf[1:], variables), training, test, settings[1],
        target="t", randomness_ids=ids[1:], seed=5,
    )  # fmt: skip
    assert_equal(row(alone, 0), row(found[1], 1), rtol=1e-5, atol=1e-5)
