import itertools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdt import models, testing
from jdt.checks import UserError


class PatchMixer(nn.Module):
    """A model that jdt has never met; it returns a plain tuple."""

    num_classes: int
    width: int = 8

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = nn.Conv(self.width, (4, 4), strides=(4, 4), name="stem")(images)
        x = nn.gelu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        x = nn.Dropout(0.1, deterministic=not train)(x)
        features = x.mean(axis=(1, 2))
        return nn.Dense(self.num_classes, name="head")(features), features


class Headless(PatchMixer):
    @nn.compact
    def __call__(self, images, *, train: bool):
        features = images.mean(axis=(1, 2))
        return nn.Dense(self.num_classes, name="classifier")(features), features


class SpatialFeatures(PatchMixer):
    @nn.compact
    def __call__(self, images, *, train: bool):
        return nn.Dense(self.num_classes, name="head")(images.mean(axis=(1, 2))), images


class WrongWidth(PatchMixer):
    @nn.compact
    def __call__(self, images, *, train: bool):
        features = images.mean(axis=(1, 2))
        return nn.Dense(self.num_classes + 1, name="head")(features), features


class LeaksAcrossTheBatch(PatchMixer):
    @nn.compact
    def __call__(self, images, *, train: bool):
        features = images.mean(axis=(1, 2)) - images.mean()
        return nn.Dense(self.num_classes, name="head")(features), features


@pytest.mark.parametrize(
    ("module", "shape"),
    [(models.SmallCNN(5, width=4), (7, 5, 3)), (PatchMixer(5), (16, 16, 3)), (PatchMixer(5), (8, 8, 1))],
    ids=["small_cnn odd", "foreign", "foreign grey"],
)
def test_a_sound_model_passes(module, shape):
    models.check_contract(models.Network(module), shape, 5)


def test_check_model_also_trains_it():
    testing.check_model(PatchMixer(num_classes=5), image_shape=(8, 8, 3))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Headless(5), "no layer is named 'head' (found: classifier)"),
        (SpatialFeatures(5), "features have shape (4, 8, 8, 3)"),
        (WrongWidth(5), "logits have shape (4, 6) in training, expected (batch, classes) = (4, 5)"),
        (LeaksAcrossTheBatch(5), "change with the rest of its batch"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_broken_clause_is_named(module, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        models.check_contract(models.Network(module), (8, 8, 3), 5)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet1", "unknown model 'resnet1'; known: small_cnn"),
        ("no.such.module:Net", "unknown model 'no.such.module:Net'"),
        ("jdt.models:Missing", "unknown model 'jdt.models:Missing'"),
        ("jdt.models:make", "'spec': give what it needs with --model-args"),
        ("jdt.models:ZOO", "it is no class and no function"),
    ],
)
def test_unknown_models_are_refused(spec, message):
    with pytest.raises(UserError, match=re.escape(message)):
        models.make(spec, 10)


def test_a_users_own_class_is_found_by_import_path():
    network = models.make("jdt.models:SmallCNN", 3)
    assert network.module == models.SmallCNN(num_classes=3)


def test_small_cnn_is_the_network_it_claims_to_be():
    # 3x3 kernels without bias, BatchNorm scale and shift, linear head with bias.
    widths = [3, 32, 64, 128, 128]
    kernels = sum(9 * a * b for a, b in itertools.pairwise(widths))
    expected = kernels + 2 * sum(widths[1:]) + 128 * 10 + 10
    variables = jax.eval_shape(lambda key: models.make("small_cnn", 10).init(key, (16, 16, 3)), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables.params)) == expected


def test_initial_statistics_come_from_no_image():
    network = models.Network(models.SmallCNN(10, width=4))
    variables = jax.jit(lambda key: network.init(key, (8, 8, 1)))(jax.random.key(0))
    for name, stats in variables.state["batch_stats"].items():
        np.testing.assert_array_equal(stats["mean"], jnp.zeros_like(stats["mean"]), err_msg=name)
        np.testing.assert_array_equal(stats["var"], jnp.ones_like(stats["var"]), err_msg=name)
