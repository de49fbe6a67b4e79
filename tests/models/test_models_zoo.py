import jax
import jax.numpy as jnp
import pytest

from jdt import models
from jdt.checks import UserError
from jdt.train.layout import uncovered

KEY = jax.random.key(0)


def count(module, shape):
    """Trainable parameters, and the length of running statistics."""
    variables = jax.eval_shape(lambda: models.Network(module).init(KEY, shape))
    return tuple(sum(leaf.size for leaf in jax.tree.leaves(part)) for part in variables)


def wide_resnet_count(depth, widen, classes):
    """Arrays of `resnet(depth, width, num_classes)` in the authors' pytorch/resnet.py, group by group."""
    n, widths = (depth - 4) // 6, [16, 16 * widen, 32 * widen, 64 * widen]
    norms = [width for i in (1, 2, 3) for width in [widths[i - 1], *[widths[i]] * (2 * n - 1)]] + [widths[3]]
    kernels = 9 * 3 * 16  # conv0
    for i in (1, 2, 3):
        first = 9 * widths[i - 1] * widths[i] + 9 * widths[i] ** 2
        convdim = widths[i - 1] * widths[i] if widths[i - 1] != widths[i] else 0
        kernels += first + convdim + (n - 1) * 2 * 9 * widths[i] ** 2
    return kernels + 2 * sum(norms) + widths[3] * classes + classes, 2 * sum(norms)


@pytest.mark.parametrize(
    ("depth", "widen", "millions"),
    # Zagoruyko and Komodakis 2016, table 4: parameters in millions.
    [(16, 8, 11.0), (28, 10, 36.5), (40, 1, 0.6)],
)
def test_wide_resnet_has_the_published_parameters(depth, widen, millions):
    expected = wide_resnet_count(depth, widen, 10)
    assert count(models.WideResNet(10, widen=widen, depth=depth), (32, 32, 3)) == expected
    assert abs(expected[0] / 1e6 - millions) < 0.05


def test_the_zoos_wide_resnet_is_wrn_16_4():
    assert wide_resnet_count(28, 10, 10)[0] == 36_479_194  # imgclsmob's count of its wrn28_10_cifar10.
    assert count(models.make("wrn16", 10).module, (32, 32, 3)) == wide_resnet_count(16, 4, 10)


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        # timm's counts of deit_tiny_patch16_224 and deit_small_patch16_224; 5 and 22 million in DeiT's table 1.
        (models.VisionTransformer(1000, patch=16), (224, 224, 3), 5_717_416),
        (models.VisionTransformer(1000, patch=16, width=384, heads=6), (224, 224, 3), 22_050_664),
        # The zoo's: patches of 4x4 instead of 16x16 pixels, 64 positions instead of 196, 10 classes instead of 1000.
        (models.VisionTransformer(10), (32, 32, 3), 5_717_416 - (768 - 48) * 192 - (196 - 64) * 192 - 990 * 193),
    ],
)
def test_vision_transformer_has_the_published_parameters(module, shape, expected):
    assert count(module, shape) == (expected, 0)


@pytest.mark.parametrize(
    ("spec", "sizes", "features"),
    [
        ("wrn16", {"stem": (32, 32, 16), "stage1block2": (32, 32, 64), "stage2block1": (16, 16, 128),
                   "stage3block2": (8, 8, 256)}, 256),
        ("vit_tiny", {"patches": (8, 8, 192), "block1": (65, 192), "block12": (65, 192)}, 192),
    ],
)  # fmt: skip
def test_feature_maps_have_the_published_sizes(spec, sizes, features):
    module = models.make(spec, 10).module
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    output, state = jax.eval_shape(
        lambda x: module.init_with_output(KEY, x, train=False, capture_intermediates=True), images
    )
    assert (output.logits.shape, output.features.shape) == ((2, 10), (2, features))
    for name, size in sizes.items():
        assert state["intermediates"][name]["__call__"][0].shape[1:] == size, name


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (models.WideResNet(10, widen=1, depth=10), (9, 8, 1)),
        (models.VisionTransformer(10, width=12, depth=1), (4, 8, 1)),
    ],
    ids=["wide resnet", "vision transformer"],
)
def test_they_keep_the_contract(module, shape):
    models.check_contract(models.Network(module), shape, 10)


@pytest.mark.parametrize("spec", models.ZOO)
def test_every_convolution_of_the_zoo_can_be_computed_batch_last(spec):
    network, images = models.make(spec, 10), jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    variables = jax.eval_shape(lambda: network.init(KEY, images.shape[1:]))
    assert uncovered(network.train_apply, variables, images, KEY) == []


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (models.VisionTransformer(10), "patches of 4x4 and these have 30x32 pixels"),
        (models.VisionTransformer(10, patch=2, heads=5), "5 heads do not share a width of 192"),
        (models.WideResNet(10, depth=18), "depth must be 6 n + 4 (10, 16, 22, 28, ...), got 18"),
        (models.WideResNet(10, depth=4), "depth must be 6 n + 4 (10, 16, 22, 28, ...), got 4"),
    ],
)
def test_what_cannot_be_built_is_said(module, message):
    images = jax.ShapeDtypeStruct((2, 30, 32, 3), jnp.float32)
    with pytest.raises(UserError) as error:
        jax.eval_shape(lambda x: module.init(KEY, x, train=False), images)
    assert message in str(error.value)
