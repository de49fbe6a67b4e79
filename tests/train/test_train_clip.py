"""CLIP: its loss and towers by themselves, and models that it trains through the ensemble engine."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdt import data, models, train
from jdt.checks import UserError
from jdt.data import texts
from jdt.train import clip

SMALL = train.CLIP(embedding=8, text_width=16, text_layers=1, text_heads=2, max_bytes=12, templates=("{}", "a {}"))
OWN = SMALL.init(jax.random.key(3), 12)
NAMES = ("cat", "dog", "ox")


def cross_entropy(logits):
    """Mean of -log softmax at an example's own place, in float64."""
    largest = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - largest).sum(axis=1)) + largest[:, 0]
    return np.mean(log_sum - np.diag(logits))


@pytest.mark.parametrize("temperature", [0.07, 0.01])
@pytest.mark.parametrize("count", [2, 96])
def test_the_loss_is_that_of_an_independent_computation(count, temperature):
    draw = np.random.default_rng(count)
    images, captions = draw.normal(size=(2, count, 24))
    captions[: count // 2] += 0.3 * images[: count // 2]
    rows = [vectors / np.sqrt((vectors**2).sum(axis=1, keepdims=True)) for vectors in (images, captions)]
    logits = rows[0] @ rows[1].T / temperature
    expected = (cross_entropy(logits) + cross_entropy(logits.T)) / 2
    vectors = [clip.unit(jnp.asarray(x, jnp.float32)) for x in (images, captions)]
    found = train.contrastive_loss(*vectors, jnp.asarray(-np.log(temperature), jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_text_ends_where_it_ends():
    tokens = data.tokenize(["cat", "a cat"], 9)
    vectors = np.asarray(SMALL.of_texts(OWN, jnp.asarray(tokens)))
    longer = np.asarray(SMALL.of_texts(OWN, jnp.asarray(data.tokenize(["cat", "a cat"], 14))))
    np.testing.assert_allclose(longer, vectors, atol=1e-6)
    behind = tokens.copy()
    behind[0, 5:] = texts.FIRST_BYTE + 99
    np.testing.assert_array_equal(np.asarray(SMALL.of_texts(OWN, jnp.asarray(behind))), vectors)
    before = tokens.copy()
    before[:, 1] += 1
    assert (np.abs(np.asarray(SMALL.of_texts(OWN, jnp.asarray(before))) - vectors).max(axis=1) > 1e-3).all()


def test_the_temperature_is_clamped_and_comes_back():
    limit = clip.LARGEST_SCALE
    for scale, push, gradient in [(limit + 1, -2.0, 0.0), (limit + 1, 2.0, 2.0), (limit - 1, -2.0, -2.0)]:
        value, back = jax.vjp(clip.clamped, jnp.asarray(scale))
        assert value == pytest.approx(min(scale, limit))
        assert back(jnp.asarray(push))[0] == gradient
    assert OWN["scale"] == pytest.approx(np.log(1 / 0.07))


def test_a_class_stands_for_its_name_in_every_template():
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), OWN)
    found = np.asarray(train.class_vectors(SMALL, stacked, NAMES))
    every = [np.asarray(SMALL.of_texts(OWN, data.tokenize([t.replace("{}", n) for n in NAMES], 14))) for t in ("{}", "a {}")]
    mean = np.mean(every, axis=0)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(found, np.stack([expected, expected]), atol=1e-6)
    features = jax.random.normal(jax.random.key(0), (2, 5, 12))
    logits = np.asarray(train.vector_logits(SMALL, stacked, features, found))
    images = np.stack([np.asarray(SMALL.of_images(OWN, mine)) for mine in features])
    np.testing.assert_allclose(logits, images @ expected.T / 0.07, atol=1e-5)
    with pytest.raises(UserError, match="'a long name, one' and 'a long name, two' have the same text in the 12 bytes"):
        train.class_vectors(SMALL, stacked, ("a long name, one", "a long name, two"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_layers": 0}, "text-layers of CLIP is 0"),
        ({"text_width": 30}, "text-width of CLIP is 30, which 4 text-heads"),
        ({"start_temperature": 0.001}, "start-temperature of CLIP is 0.001"),
        ({"templates": ()}, "no template"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        train.CLIP(**settings)


class Net(nn.Module):
    """One BatchNorm behind a dense layer."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = nn.Dense(24, name="dense")(images.reshape(len(images), -1))
        features = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
        return nn.Dense(self.num_classes, name="head")(features), features


RECIPE = train.Recipe(epochs=8, batch_size=32, learning_rate=0.5, warmup_epochs=1)
DIGITS = "zero one two three four five six seven eight nine".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def digits():
    splits = [data.load("jdt_digits", split) for split in ("train", "test")]
    return [dataclasses.replace(split, class_names=tuple(DIGITS)) for split in splits]
