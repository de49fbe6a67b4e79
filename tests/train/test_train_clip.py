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
OWN = jax.jit(SMALL.init, static_argnums=1)(jax.random.key(3), 12)
of_texts, of_images = jax.jit(SMALL.of_texts), jax.jit(SMALL.of_images)
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
    vectors = np.asarray(of_texts(OWN, tokens))
    longer = np.asarray(of_texts(OWN, data.tokenize(["cat", "a cat"], 14)))
    np.testing.assert_allclose(longer, vectors, atol=1e-6)
    behind = tokens.copy()
    behind[0, 5:] = texts.FIRST_BYTE + 99
    np.testing.assert_array_equal(np.asarray(of_texts(OWN, behind)), vectors)
    before = tokens.copy()
    before[:, 1] += 1
    assert (np.abs(np.asarray(of_texts(OWN, before)) - vectors).max(axis=1) > 1e-3).all()


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
    every = [np.asarray(of_texts(OWN, data.tokenize([t.replace("{}", n) for n in NAMES], 14))) for t in ("{}", "a {}")]
    mean = np.mean(every, axis=0)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(found, np.stack([expected, expected]), atol=1e-6)
    features = jax.random.normal(jax.random.key(0), (2, 5, 12))
    logits = np.asarray(train.vector_logits(SMALL, stacked, features, found))
    images = np.stack([np.asarray(of_images(OWN, mine)) for mine in features])
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
        x = nn.Dense(16, name="dense")(images.reshape(len(images), -1))
        features = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
        return nn.Dense(self.num_classes, name="head")(features), features


DIGITS = tuple("zero one two three four five six seven eight nine".split())  # noqa: SIM905
RECIPE = train.Recipe(epochs=16, batch_size=25, learning_rate=0.02, warmup_epochs=1, algorithm="adamw")


class InterruptedTrainingError(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture(scope="module")
def digits():
    splits = [data.load("jdt_digits", split) for split in ("train", "test")]
    training, test = [dataclasses.replace(split, class_names=DIGITS) for split in splits]
    return data.with_captions(training, templates=("{}",)), test


@pytest.fixture(scope="module")
def fit(digits):
    """Train models by their ids; two of them go together, in calls of 16 steps."""
    plan = dataclasses.replace(train.PLANS["vmapped"], steps_per_call=16, width=2)
    objective = dataclasses.replace(SMALL, templates=("{}",))
    count = len(digits[0])
    ensemble = train.Ensemble(
        models.Network(Net(10)), RECIPE, plan, digits[0].image_shape, float(count), count, objective=objective
    )

    def fit(*ids, **options):
        source = train.source_data(digits[0])
        return ensemble, train.train(
            ensemble, source, np.ones((len(ids), count), bool), np.array(ids), seed=3, **options
        )

    return fit


@pytest.fixture(scope="module")
def trained(fit):
    return fit(0, 1)


def test_classes_are_told_apart_by_their_names_and_the_networks_head_is_as_it_was(trained, digits):
    ensemble, found = trained
    assert found.finite.all()
    output = train.apply_in_batches(ensemble, found.variables, digits[1].images)
    logits = np.asarray(ensemble.objective.class_logits(output, found.variables.params["objective"], DIGITS))
    right = (logits.argmax(axis=-1) == digits[1].labels).mean(axis=1)
    chance = 0.1
    assert (right > chance + 5 * np.sqrt(chance * (1 - chance) / len(digits[1]))).all()
    fresh = train.initial_variables(ensemble, 3, np.arange(2))
    np.testing.assert_array_equal(found.variables.params["head"]["kernel"], fresh.params["head"]["kernel"])


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_is_the_same_beside_any_other_and_after_an_interruption(trained, fit, tmp_path):
    _, found = trained
    _, other = fit(1, 7)
    assert_same(
        jax.tree.map(lambda leaf: leaf[1], found.variables), jax.tree.map(lambda leaf: leaf[0], other.variables)
    )
    checkpoints = train.Checkpoints(tmp_path / "unfinished", "study", 0.0)

    def stop(done, total):
        checkpoints.wait()
        if done >= 32:
            raise InterruptedTrainingError

    with pytest.raises(InterruptedTrainingError):
        fit(0, 1, checkpoints=checkpoints, progress=stop)
    seen = []
    _, again = fit(
        0, 1,
        checkpoints=train.Checkpoints(tmp_path / "unfinished", "study", 0.0),
        progress=lambda done, _: seen.append(done),
    )  # fmt: skip
    assert seen[0] > 0
    assert_same(found.variables, again.variables)


@pytest.mark.parametrize(
    ("change", "recipe", "message"),
    [
        ({"tokens": None}, RECIPE, "CLIP learns from captions, but jdt_digits.* has none"),
        ({"tokens": np.ones((100, 30), np.int32)}, RECIPE, "have up to 28 bytes, but CLIP reads 12"),
        ({}, dataclasses.replace(RECIPE, label_smoothing=0.1), "smooths labels"),
    ],
)
def test_sources_and_recipes_that_do_not_fit_are_refused(digits, change, recipe, message):
    with pytest.raises(UserError, match=message):
        SMALL.check(recipe, dataclasses.replace(digits[0], **change))
