import itertools
import re

import flax.linen as nn
import foreign
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jdt import estimators, masks, models, testing, train, transfer
from jdt.checks import UserError
from jdt.data import from_arrays
from jdt.models import base

CLASSES, SHAPE = 3, (6, 6, 1)
FORMS = {
    "Backbone": ({"width": 4}, None, base.Form(False), 4),
    "Normalised": ({}, None, base.Form(False), 5),
    "small_classifier": ({}, None, base.Form(False, without=("Dense_0",)), 8),
    "TenDigits": ({}, None, base.Form(False, without=("Dense_1",)), 7),
    "TenDigits whole": ({}, "output", base.Form(False), 10),
    "Dictionary pooled": ({}, "pooled", base.Form(False, key="pooled"), 3),
    "Dictionary deep": ({}, "deep", base.Form(False, key="deep"), 9),
    "NnxClassifier": ({"channels": 1}, None, base.Form(False, without=("layers", 1)), 6),
    "NnxAtCall": ({}, None, base.Form(False, without=("linear",)), 4),
    "NnxPair": ({}, None, base.Form(True), 4),
}


def network(name):
    arguments, features, _, _ = FORMS[name]
    return models.make(f"foreign:{name.split()[0]}", CLASSES, arguments=arguments, features=features)


@pytest.mark.parametrize("name", FORMS)
def test_a_foreign_model_is_a_source_model(name):
    found, (_, _, form, width) = network(name), FORMS[name]
    assert found.form(SHAPE) == form
    models.check_contract(found, SHAPE, CLASSES)
    variables = jax.eval_shape(lambda key: found.init(key, SHAPE), jax.random.key(0))
    assert {leaf.shape for leaf in jax.tree.leaves(variables.params["head"])} == {(width, CLASSES), (CLASSES,)}
    if form.without:  # Its own last layer is gone, and no array is left of it.
        assert not any(10 in leaf.shape for leaf in jax.tree.leaves(variables))
    assert f"{width} features" in found.describe(SHAPE)
    assert hash(found) == hash(network(name))


@pytest.mark.parametrize("name", ["Backbone", "Normalised", "NnxClassifier", "NnxAtCall"])
def test_dropout_and_statistics_know_training_from_inference(name):
    found = network(name)

    @jax.jit
    def run(images):
        variables = found.init(jax.random.key(0), SHAPE)
        trained = [found.train_apply(variables, images, jax.random.key(i)) for i in (1, 1, 2)]
        return variables.state, trained, found.apply(variables, images)

    before, ((first, after), (same, _), (other, _)), inferred = run(jax.random.normal(jax.random.key(3), (5, *SHAPE)))
    np.testing.assert_array_equal(first.features, same.features)
    assert (first.features != other.features).any()
    assert (first.features != inferred.features).any()
    assert jax.tree.structure(before) == jax.tree.structure(after)
    changed = [bool((a != b).any()) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)]
    assert all(changed)
    assert bool(changed) == (name in ("Backbone", "NnxClassifier"))


def test_an_nnx_class_trains_alone_and_under_vmap():
    testing.check_model(foreign.NnxClassifier, SHAPE, CLASSES, channels=1)


def dots(seed, count=48, classes=CLASSES):
    draw = np.random.default_rng(seed)
    labels = (np.arange(count) % classes).astype(np.int32)
    images = draw.integers(0, 100, (count, *SHAPE)).astype(np.uint8)
    images[np.arange(count), labels, labels] = 255
    return from_arrays("dots", images, labels, [str(c) for c in range(classes)])


def test_nnx_and_linen_versions_give_the_same_influences():
    design, source = masks.Design("antithetic", 0.5, 0), dots(0, classes=3)
    units = masks.parse("examples", source.labels, source.class_names)
    rows = masks.sample(design, np.arange(8), len(units))
    found, start = [], None
    for name in ("LinenTwin", "NnxTwin"):
        ensemble = train.Ensemble(
            models.make(f"foreign:{name}", CLASSES), train.Recipe(epochs=4, batch_size=8, learning_rate=0.1),
            train.PLANS["matmul"], SHAPE, 24.0, 24,
        )  # fmt: skip
        own = train.initial_variables(ensemble, 0, np.arange(8))
        start = own if start is None else jax.tree.map(lambda _, theirs: theirs, own, own._replace(
            params=start.params, state=start.state["batch_stats"]
        ))  # fmt: skip
        data = train.SourceData(np.asarray(source.images), source.labels)
        trained = train.train(ensemble, data, units.members(rows), np.arange(8), seed=0, start=start)
        moved = transfer.transfer_fixed(ensemble, trained.variables, dots(1), dots(2), transfer.FixedFeature())
        outputs = np.asarray(moved.logits)[..., 0]
        found.append((outputs, estimators.DifferenceOfMeans().fit(rows, outputs).influence))
    for linen, nnx_version in zip(*found, strict=True):
        assert np.ptp(linen) > 0.1
        np.testing.assert_allclose(nnx_version, linen, atol=2e-3 * np.ptp(linen))


@pytest.mark.parametrize("name", ["Backbone", "NnxClassifier"])
def test_the_whole_network_transfers_under_a_head_of_other_width(name):
    ensemble = train.Ensemble(network(name), train.Recipe(), train.PLANS["matmul"], SHAPE, 24.0, 24)
    settings = transfer.FullNetwork(train.Recipe(epochs=0.5, batch_size=8, learning_rate=0.05))
    tuned = transfer.transfer_full(
        ensemble, train.initial_variables(ensemble, 0, np.arange(2)), dots(1, 40, 5), dots(2, 10, 5), settings,
        target="dots", randomness_ids=np.arange(2), seed=0,
    )  # fmt: skip
    assert tuned.logits.shape == (2, 10, 5)
    assert tuned.finite.all()


COUNTER, KEPT = itertools.count(), []


class Bad(nn.Module):
    """Breaks one clause, by name."""

    clause: str = ""

    @nn.compact
    def __call__(self, x, train: bool):
        features = x.mean(axis=(1, 2))
        match self.clause:
            case "callback":
                jax.debug.print("{}", features.sum())
            case "counter":
                features = features + next(COUNTER)
            case "numpy":
                features = features + np.random.random(features.shape[1])  # noqa: NPY002
            case "keeps":
                KEPT.append(features)
            case "grows":
                self.sow("losses", "all", features.mean())
            case "dtype":
                seen = self.variable("seen", "count", lambda: jnp.zeros((), jnp.float32))
                if train:
                    seen.value = (seen.value + 1).astype(jnp.bfloat16)
            case "maps":
                return x
            case "three":
                return features, features, features
            case "dictionary":
                return {"a": features, "b": x}
            case "batch":
                features = features - features.mean(axis=0)
            case "raises":
                raise RuntimeError("first line\nsecond line")
        return features


@pytest.mark.parametrize(
    ("clause", "features", "message"),
    [
        ("callback", None, "it has side effects"),
        ("counter", None, "two traces of it differ"),
        ("numpy", None, "two traces of it differ"),
        ("keeps", None, "it keeps arrays of one call for later"),
        ("grows", None, "training changes the structure of its state"),
        ("dtype", None, "from float32[] to bfloat16[], so that each step would be traced again"),
        ("maps", None, "features have shape (4, 6, 6, 1) for 4 images"),
        ("three", None, "it returns tuple((4, 1), (4, 1), (4, 1)), expected features"),
        ("dictionary", None, "a dictionary ('a' (4, 1), 'b' (4, 6, 6, 1)) of which none is chosen: pass --features"),
        ("dictionary", "c", "of which 'c' is not among them"),
        ("dictionary", "b", "features have shape (4, 6, 6, 1)"),
        ("", "pooled", "asks for an entry of a dictionary, but it returns (4, 1)"),
        ("batch", None, "change with the rest of its batch"),
        ("raises", None, "it raised RuntimeError: first line"),
    ],
)
def test_a_broken_clause_is_named_with_what_broke_it(clause, features, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        models.check_contract(models.Network(Bad(clause), CLASSES, features), SHAPE, CLASSES)
    assert "\n" not in str(error.value)
    assert "Bad breaks the contract" in str(error.value)
    KEPT.clear()


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        (foreign.Classifier, {}, "missing 2 required positional arguments: 'stage_sizes' and 'block'"),
        (foreign.Backbone, {"depth": 3}, "model Backbone takes no argument 'depth'; it takes: width."),
        (foreign.Backbone, {"width": {1}}, "every value must be hashable"),
        (lambda: 3, {}, "it builds a int, not a flax.linen.Module or flax.nnx.Module"),
        (foreign.NnxClassifier, {"channels": 1, "depth": 2}, "takes no argument 'depth'; it takes: channels, num_"),
        (print, {}, "it builds a NoneType"),
    ],
)
def test_what_a_class_does_not_take_is_named(factory, arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        models.build(factory, CLASSES, arguments=arguments)


@pytest.mark.parametrize(
    ("words", "message"),
    [(["width"], "expected NAME=VALUE"), (["a b=1"], "expected NAME=VALUE"), (["a=1", "a=2"], "has a twice")],
)
def test_arguments_are_names_and_values(words, message):
    with pytest.raises(UserError, match=re.escape(message)):
        models.parse_arguments(words)


def test_a_zoo_model_takes_arguments():
    assert models.make("small_cnn", 4, arguments={"width": 8}).module == models.SmallCNN(4, width=8)
    assert isinstance(models.make("foreign:NnxPair", 4).module, models.NnxModule)
    assert issubclass(foreign.NnxPair, nnx.Module)
