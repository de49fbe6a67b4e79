import itertools

import jax
import jax.numpy as jnp
import pytest

from jdt import models
from jdt.checks import UserError
from jdt.models import resnet
from jdt.models.resnet import BasicBlock, Bottleneck


def count(module, shape):
    """Trainable parameters, and the length of running statistics."""
    variables = jax.eval_shape(lambda key: models.Network(module).init(key, shape), jax.random.key(0))
    return tuple(sum(leaf.size for leaf in jax.tree.leaves(part)) for part in variables)


def test_resnet9_has_the_published_parameters():
    # Kernel side and channels of the eight convolutions; scale and shift of their BatchNorms; the head has no bias.
    layers = [(3, 3, 64), (5, 64, 128), (3, 128, 128), (3, 128, 128), (3, 128, 256),
              (3, 256, 256), (3, 256, 256), (3, 256, 128)]  # fmt: skip
    assert all(a[2] == b[1] for a, b in itertools.pairwise(layers))
    statistics = 2 * sum(channels for _, _, channels in layers)
    expected = sum(side**2 * before * after for side, before, after in layers) + statistics + 128 * 10
    assert expected == 2_274_880  # What a PyTorch transcription of the published network counts, too.
    assert count(models.ResNet9(10), (32, 32, 3)) == (expected, statistics)


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (models.ResNet50(1000), (224, 224, 3), 25_557_032),  # torchvision's count.
        (models.ResNet50(10, small_stem=True), (32, 32, 3), 25_557_032 - (49 - 9) * 3 * 64 - 990 * 2049),
    ],
)
def test_resnet50_has_the_published_parameters(module, shape, expected):
    # Running mean and variance: the stem's, then by stage one shortcut and 3, 4, 6 or 3 blocks of widths c, c and 4 c.
    statistics = 2 * (64 + sum(c * (4 + 6 * blocks) for c, blocks in ((64, 3), (128, 4), (256, 6), (512, 3))))
    assert count(module, shape) == (expected, statistics)


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (models.ResNet18(1000), (224, 224, 3), 11_689_512),  # torchvision's count.
        (models.ResNet18(1000, small_stem=False), (64, 64, 3), 11_689_512),
        (models.ResNet18(10), (32, 32, 3), 11_689_512 - (49 - 9) * 3 * 64 - 990 * 513),
        (models.ResNet18(10, small_stem=True), (224, 224, 3), 11_689_512 - (49 - 9) * 3 * 64 - 990 * 513),
    ],
)
def test_resnet18_has_the_published_parameters(module, shape, expected):
    # Running mean and variance of 20 BatchNorms, 5 of each width: the stem's stands for the missing shortcut's.
    statistics = 2 * (5 * 64 + 5 * 128 + 5 * 256 + 5 * 512)
    assert count(module, shape) == (expected, statistics)


@pytest.mark.parametrize(
    ("module", "shape", "widths"),
    [
        (models.ResNet9(10), (32, 32, 3), {"stem": 32, "down1": 16, "down2": 16, "pair2a": 8, "last": 6}),
        (models.ResNet9(10), (11, 11, 1), {"stem": 11, "down1": 6, "down2": 6, "pair2a": 3, "last": 1}),
        (models.ResNet18(10), (64, 64, 3), {"stem": 64, "stage1b": 64, "stage2a": 32, "stage3a": 16, "stage4b": 8}),
        (models.ResNet18(10), (224, 224, 3), {"stem": 112, "stage1a": 56, "stage2a": 28, "stage3b": 14, "stage4b": 7}),
        (models.ResNet50(10), (224, 224, 3), {"stem": 112, "stage1c": 56, "stage2a": 28, "stage3f": 14, "stage4c": 7}),
    ],
    ids=["resnet9 32", "resnet9 11", "resnet18 64", "resnet18 224", "resnet50 224"],
)
def test_feature_maps_have_the_published_sizes(module, shape, widths):
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    (logits, features), state = jax.eval_shape(
        lambda x: module.init_with_output(jax.random.key(0), x, train=False, capture_intermediates=True), images
    )
    assert logits.shape == (2, 10)
    assert features.shape == (2, {models.ResNet9: 128, models.ResNet18: 512, models.ResNet50: 2048}[type(module)])
    for name, width in widths.items():
        assert state["intermediates"][name]["__call__"][0].shape[1:3] == (width, width), name


def test_resnet50_strides_on_its_3x3_convolutions():
    images = jax.ShapeDtypeStruct((2, 8, 8, 64), jnp.float32)
    _, state = jax.eval_shape(
        lambda x: Bottleneck(32, stride=2).init_with_output(
            jax.random.key(0), x, train=False, capture_intermediates=True
        ),
        images,
    )
    layers = ("conv1", "conv2", "conv3", "shortcut")
    sizes = {name: state["intermediates"][name]["__call__"][0].shape[1:] for name in layers}
    assert sizes["conv1"] == (8, 8, 32)
    assert sizes["conv2"] == (4, 4, 32)
    assert sizes["conv3"] == sizes["shortcut"] == (4, 4, 128)


@pytest.mark.parametrize(
    ("spec", "shape"), [("resnet9", (12, 11, 3)), ("resnet18", (9, 8, 1)), ("resnet50", (4, 5, 1))]
)
def test_they_keep_the_contract(spec, shape, monkeypatch):
    stages = resnet._stages
    # The first block of every stage: further ones are of shapes that have come by, and take long to compile.
    monkeypatch.setattr(resnet, "_stages", lambda x, block, _, train: stages(x, block, (1, 1, 1, 1), train))
    models.check_contract(models.make(spec, 10), shape, 10)


def test_resnet9_says_how_large_an_image_must_be():
    with pytest.raises(UserError, match="at least 11x11, got 10x16"):
        models.check_contract(models.make("resnet9", 10), (10, 16, 3), 10)


def test_resnet18_starts_from_normal_kernels_scaled_by_fan_out():
    block = BasicBlock(channels=128)
    params = block.init(jax.random.key(0), jnp.zeros((1, 2, 2, 64)), train=False)["params"]
    assert float(params["conv1"]["kernel"].std()) == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.01)
    assert float(params["shortcut"]["kernel"].std()) == pytest.approx((2 / 128) ** 0.5, rel=0.03)
