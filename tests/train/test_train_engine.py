import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from jdt import masks, models, train
from jdt.checks import UserError
from jdt.train import engine

SHAPE, CLASSES, PER_CLASS = (8, 8, 1), 4, 24
RECIPE = train.Recipe(epochs=3, batch_size=16, learning_rate=0.05, crop_pad=1, flip=True)


@pytest.fixture(scope="module")
def source():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES, dtype=np.int32), PER_CLASS)
    images = rng.integers(0, 100, (len(labels), *SHAPE)).astype(np.uint8)
    images[np.arange(len(labels)), labels, labels] = 255
    return train.SourceData(jnp.asarray(images), jnp.asarray(labels))


def ensemble(plan="unrolled", recipe=RECIPE, module=None):
    network = models.Network(models.SmallCNN(CLASSES, width=4) if module is None else module)
    half = CLASSES * PER_CLASS / 2
    return train.Ensemble(network, recipe, train.PLANS[plan], SHAPE, half, int(half))


def members_of(design, ids):
    units = masks.by_class(np.repeat(np.arange(CLASSES), PER_CLASS), [str(c) for c in range(CLASSES)])
    return units.members(masks.sample(design, ids, CLASSES))


def run(source, plan="unrolled", ids=range(4), design=None, **kwargs):
    design, ids = design or masks.Design("fixed-size", seed=3), np.asarray(ids)
    members = members_of(design, ids)
    return train.train(ensemble(plan, **kwargs), source, members, design.randomness_id(ids), seed=design.seed)


def assert_same(one, other, **tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


@pytest.mark.parametrize("kind", masks.KINDS)
@pytest.mark.parametrize("plan", list(train.PLANS))
def test_a_model_is_the_same_alone_and_in_company(source, plan, kind):
    design = masks.Design(kind, seed=3)
    together = run(source, plan, design=design)
    alone = run(source, plan, ids=[2], design=design)
    # Sums inside a batched matrix product may be ordered otherwise for another number of models.
    tolerance = {"rtol": 0, "atol": 0} if plan == "unrolled" else {"rtol": 1e-4, "atol": 1e-5}
    assert_same(jax.tree.map(lambda leaf: leaf[2:3], together.variables), alone.variables, **tolerance)
    np.testing.assert_allclose(together.loss[2:3], alone.loss, rtol=tolerance["rtol"])


@pytest.mark.parametrize("plan", ["vmapped", "native"])
def test_every_plan_computes_the_same_numbers(source, plan):
    recipe = dataclasses.replace(RECIPE, epochs=1)  # Rounding grows with the number of steps.
    reference, other = run(source, "unrolled", recipe=recipe), run(source, plan, recipe=recipe)
    np.testing.assert_allclose(other.loss, reference.loss, rtol=1e-4)
    assert_same(other.variables, reference.variables, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("plan", list(train.PLANS))
def test_an_excluded_example_never_influences_a_model(source, plan):
    design, ids = masks.Design("fixed-size", seed=3), np.arange(2)
    excluded = ~members_of(design, ids)
    before = run(source, plan, ids=ids, design=design)
    for model in ids:
        noise = np.random.default_rng(1).integers(0, 256, source.images.shape).astype(np.uint8)
        images = jnp.where(excluded[model][:, None, None, None], noise, source.images)
        after = run(train.SourceData(images, source.labels), plan, ids=ids, design=design)
        for a, b in zip(jax.tree.leaves(before.variables), jax.tree.leaves(after.variables), strict=True):
            np.testing.assert_array_equal(a[model], b[model])
        others = np.setdiff1d(ids, [model])
        assert any(
            (np.asarray(a[others]) != np.asarray(b[others])).any()
            for a, b in zip(jax.tree.leaves(before.variables), jax.tree.leaves(after.variables), strict=True)
        ), "the noise reached no model at all: the test would pass with training switched off"


def test_antithetic_partners_share_initialisation_and_nothing_of_their_data(source):
    design, ids = masks.Design("antithetic", seed=3), np.arange(4)
    initial = train.initial_variables(ensemble(), jnp.asarray(3), jnp.asarray(design.randomness_id(ids)))
    kernel = np.asarray(initial.params["conv0"]["kernel"])
    np.testing.assert_array_equal(kernel[0], kernel[1])
    assert (kernel[0] != kernel[2]).any()
    trained = np.asarray(run(source, design=design).variables.params["conv0"]["kernel"])
    assert (trained[0] != trained[1]).any()


def test_training_learns(source):
    everything = np.ones((2, CLASSES * PER_CLASS), bool)
    recipe = dataclasses.replace(RECIPE, epochs=20, crop_pad=0, flip=False)
    trained = train.train(ensemble(recipe=recipe), source, everything, np.arange(2), seed=0)
    logits = train.apply_in_batches(ensemble(), trained.variables, np.asarray(source.images), batch_size=40).logits
    accuracy = (np.asarray(logits.argmax(axis=-1)) == np.asarray(source.labels)).mean(axis=1)
    assert (accuracy > 0.9).all()
    assert trained.finite.all()
    assert trained.loss.max() < np.log(CLASSES) / 2


def test_a_second_block_compiles_nothing(source):
    run(source, ids=range(4))
    run(source, ids=range(4, 8))
    sizes = engine._run_steps._cache_size(), engine.batch_indices._cache_size()
    run(source, ids=range(8, 12))
    assert (engine._run_steps._cache_size(), engine.batch_indices._cache_size()) == sizes


class Fragile(nn.Module):
    """Starts with an infinite parameter for about every second model."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        features = nn.Dense(4, name="dense")(images.reshape(len(images), -1))
        crack = self.param("crack", lambda key: jnp.where(jax.random.bernoulli(key), jnp.inf, 0.0))
        return nn.Dense(self.num_classes, name="head")(features) + crack, features


@pytest.mark.parametrize("plan", list(train.PLANS))
def test_a_model_that_diverges_is_marked_and_the_others_go_on(source, plan):
    trained = run(source, plan, ids=range(8), module=Fragile(CLASSES))
    initial = train.initial_variables(ensemble(module=Fragile(CLASSES)), jnp.asarray(3), jnp.arange(8))
    sound = np.isfinite(np.asarray(initial.params["crack"]))
    assert 0 < sound.sum() < 8
    np.testing.assert_array_equal(trained.finite, sound)
    assert np.isfinite(trained.loss[sound]).all()


def test_the_batch_shrinks_to_the_smallest_subset():
    small = dataclasses.replace(ensemble(), smallest_subset=5)
    assert small.batch_size == 5
    assert small.num_steps == round(RECIPE.epochs * small.mean_subset_size / 5)


def test_an_empty_subset_is_refused(source):
    with pytest.raises(ValueError, match="row 1 of `members` is empty"):
        train.train(ensemble(), source, np.array([[True] * 96, [False] * 96]), np.arange(2), seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 0}, "batch-size is 0"),
        ({"learning_rate": -1.0}, "learning-rate is -1.0"),
        ({"decay": "steep"}, "unknown decay 'steep'; known: linear, cosine, step"),
        ({"crop_pad": -1}, "crop-pad is -1"),
    ],
)
def test_bad_recipes_are_refused(change, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # As in users' programs.
    with pytest.raises(UserError, match=message):
        dataclasses.replace(RECIPE, **change)


def test_an_unknown_plan_lists_the_known_ones():
    with pytest.raises(UserError, match="unknown plan 'fast'; known: auto, unrolled, vmapped, native"):
        train.choose("fast")


def test_the_linear_schedule_is_the_published_triangle():
    # arXiv 2207.05739, section 3.2: interp(t; [0, p I, E I] -> [0, 1, 0]) with E epochs of I steps, peak epoch p.
    recipe = train.Recipe(epochs=16, batch_size=10, learning_rate=0.5, warmup_epochs=2)
    schedule, steps = recipe.schedule(mean_subset_size=100), np.arange(160)
    expected = 0.5 * np.interp(steps, [0, 20, 160], [0, 1, 0])
    np.testing.assert_allclose([float(schedule(t)) for t in steps], expected, atol=1e-6)


def test_weight_decay_and_momentum_are_those_of_the_papers():
    recipe = train.Recipe(epochs=1, batch_size=1, learning_rate=0.1, warmup_epochs=0, weight_decay=0.01)
    optimizer = recipe.optimizer(mean_subset_size=10)
    p, v = 2.0, 0.0
    state, params = optimizer.init(jnp.asarray(p)), jnp.asarray(p)
    for step, gradient in enumerate([1.0, -0.5, 0.25]):
        updates, state = optimizer.update(jnp.asarray(gradient), state, params)
        params = params + updates
        v = 0.9 * v + gradient + 0.01 * p
        p -= 0.1 * (1 - step / 10) * v
        np.testing.assert_allclose(params, p, rtol=1e-5)
