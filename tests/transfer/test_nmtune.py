"""`jdt.nmtune` on a user's arrays: what comes out, what is saved, what is refused."""

import dataclasses
import re

import jax
import numpy as np
import pytest

import jdt
from jdt.checks import UserError
from jdt.transfer import Tuned, Tuning

DRAW = np.random.default_rng(0)
LABELS = DRAW.integers(0, 3, 96)
FEATURES = DRAW.normal(size=(96, 6)) + 2.0 * DRAW.normal(size=(3, 6))[LABELS]
VIEWS = FEATURES + 0.2 * DRAW.normal(size=(4, 96, 6))
SHORT = Tuning("nmtune", "code", epochs=3, batch_size=32)


@pytest.fixture(scope="module")
def tuned():
    return jdt.nmtune(FEATURES, LABELS, VIEWS, settings=SHORT, seed=5)


def test_a_stack_has_a_head_for_each_set_of_features(tuned):
    stacked = jdt.nmtune(np.stack([FEATURES, FEATURES[::-1]]), LABELS, np.stack([VIEWS, VIEWS]), settings=SHORT, seed=5)
    both = stacked.logits(np.stack([FEATURES, FEATURES]))
    assert both.shape == (2, 96, 3)
    np.testing.assert_allclose(both[0], tuned.logits(FEATURES), rtol=1e-4, atol=1e-5)
    assert tuned.history.loss.shape == (1, 3)
    read = tuned.features(FEATURES)
    assert read.shape == (96, 6)
    np.testing.assert_allclose(
        read @ tuned.head.params.weights[0] + tuned.head.params.bias[0], tuned.logits(FEATURES), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_array_equal(tuned.predict(FEATURES), tuned.logits(FEATURES).argmax(axis=1))


def test_heads_are_read_back(tuned, tmp_path):
    tuned.to_npz(tmp_path / "head.npz")
    again = Tuned.load(tmp_path / "head.npz")
    assert again.settings == SHORT
    jax.tree.map(np.testing.assert_array_equal, (again.head, again.history), (tuned.head, tuned.history))
    np.testing.assert_array_equal(again.logits(FEATURES), tuned.logits(FEATURES))
    assert [path.name for path in tmp_path.iterdir()] == ["head.npz"]
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    (tmp_path / "torn.npz").write_bytes((tmp_path / "head.npz").read_bytes()[:200])
    for name in ("other.npz", "torn.npz", "absent.npz"):
        with pytest.raises(UserError, match="cannot read"):
            Tuned.load(tmp_path / name)


def broken(array, *where):
    array = np.array(array)
    array[where] = np.nan
    return array


@pytest.mark.parametrize(
    ("features", "labels", "views", "words"),
    [
        (broken(FEATURES, [3, 70]), LABELS, None, "of 2 of 96 examples are NaN or infinite, in rows 3, 70"),
        (FEATURES, LABELS, broken(VIEWS, 1, 5), "the views of 1 of 96 examples are NaN or infinite, in rows 5"),
        (FEATURES, LABELS[:90], None, "96 examples, but there are 90 labels"),
        (FEATURES, LABELS * 0, None, "all labels are 0"),
        (FEATURES, LABELS - 1, None, "lie outside 0..1 (first: -1"),
        (FEATURES, LABELS / 2, None, "must be integers"),
        (FEATURES[:1], LABELS[:1], None, "there is 1 example"),
        (FEATURES[:, 0], LABELS, None, "must be numbers [examples, features]"),
        (FEATURES[:, :0], LABELS, None, "there is nothing in them"),
        (FEATURES, LABELS, VIEWS[:, :9], "must fit the features: [views, 96, 6]"),
        (FEATURES, LABELS, VIEWS[0], "must be numbers [views, 96, 6]"),
    ],
)
def test_what_cannot_be_tuned_is_refused(features, labels, views, words):
    with pytest.raises(UserError, match=re.escape(words)):
        jdt.nmtune(features, labels, views, settings=SHORT)


def test_other_features_than_in_training_are_refused(tuned):
    with pytest.raises(UserError, match=re.escape("expect [examples, 6]")):
        tuned.logits(FEATURES[:, :5])
    with pytest.raises(UserError, match=re.escape("expect [examples, 6]")):
        tuned.logits(FEATURES[None])
    with pytest.raises(UserError, match="rows 0"):
        tuned.predict(broken(FEATURES, 0))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"form": "code", "settings": SHORT}, "code is asked for beside settings"),
        ({"method": "mlp", "settings": SHORT}, "mlp is asked for beside settings"),
        ({"seed": 1 << 32}, "the seed of tuning is 4294967296, but must be 0 to 4294967295"),
        ({"seed": -1}, "the seed of tuning is -1"),
    ],
)
def test_settings_that_would_be_ignored_and_seeds_that_no_key_holds_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        jdt.nmtune(FEATURES, LABELS, **changes)


def test_a_head_that_was_lost_predicts_no_class(tuned):
    weights = tuned.head.params.weights.copy()
    weights[0, 0, 0] = np.nan
    head = tuned.head._replace(params=tuned.head.params._replace(weights=weights))
    assert (dataclasses.replace(tuned, head=head).predict(FEATURES) == -1).all()


def test_outputs_for_classes_without_examples():
    found = jdt.nmtune(FEATURES, LABELS, num_classes=5, settings=dataclasses.replace(SHORT, method="linear"))
    assert found.logits(FEATURES).shape == (96, 5)
