import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.extend import core as jex_core

from jdt.models import SmallCNN
from jdt.train.layout import batch_last, uncovered

IMAGES = np.random.default_rng(1).standard_normal((2, 8, 8, 3)).astype(np.float32)
KEY = jax.random.key(3)


class Net(nn.Module):
    """A Linen module from a function of (images, train)."""

    body: Callable[..., Any]

    @nn.compact
    def __call__(self, x, train=True):
        return self.body(x, train)


def filled(shapes):
    """Random variables of these shapes, without compiling an initialiser; statistics (`var`) are positive."""
    random = np.random.default_rng(0)

    def fill(path, leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return KEY
        values = 0.4 * random.standard_normal(leaf.shape)
        return jnp.asarray(np.abs(values) + 0.5 if "var" in jax.tree_util.keystr(path) else values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def linen(module, images=IMAGES, train=True):
    """The module as a pure function of (params, state, images), with parameters and state to call it with."""
    variables = dict(filled(jax.eval_shape(functools.partial(module.init, train=train), KEY, images)))
    params = variables.pop("params", {})

    def apply(params, state, images):
        rngs = {"dropout": KEY}
        return module.apply({"params": params, **state}, images, train=train, mutable=["batch_stats"], rngs=rngs)

    return apply, params, variables


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for item in value if isinstance(value, tuple | list) else (value,):
                inner = item.jaxpr if isinstance(item, jex_core.ClosedJaxpr) else item
                if isinstance(inner, jex_core.Jaxpr):
                    yield from equations(inner)


def primitives(function, *args):
    return [equation.primitive.name for equation in equations(jax.make_jaxpr(function)(*args).jaxpr)]


def with_gradient(function, params, *args):
    """Outputs, and the gradient of the parameters for a fixed, uneven cotangent of the floating outputs."""

    def loss(params):
        out = function(params, *args)
        floats = [leaf for leaf in jax.tree.leaves(out) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return sum((leaf * np.cos(np.arange(leaf.size)).reshape(leaf.shape)).sum() for leaf in floats), out

    (_, out), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    return out, gradient


def assert_trees_close(ours, reference, tolerance=1e-5):
    assert jax.tree.structure(ours) == jax.tree.structure(reference)
    pairs = zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(reference), strict=True)
    for (path, got), wanted in pairs:
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype), path
        wanted = np.asarray(wanted)
        atol = tolerance * (1 + np.abs(wanted[np.isfinite(wanted)]).max(initial=0))
        np.testing.assert_allclose(got, wanted, rtol=10 * tolerance, atol=atol, err_msg=jax.tree_util.keystr(path))


def assert_unchanged(function, params, *args, ways=("matmul",), tolerance=1e-5):
    """The rewritten function gives what the plain one gives, gradients included, and no window is left in it."""
    rewritten = {way: batch_last(function, way) for way in ways}

    @jax.jit
    def everything(params, *args):
        ours = {way: with_gradient(one, params, *args) for way, one in rewritten.items()}
        return ours, with_gradient(function, params, *args)

    ours, reference = everything(params, *args)
    for way in ways:
        assert_trees_close(ours[way], reference, tolerance)
    left = [name for name in primitives(rewritten[ways[0]], params, *args) if name in WINDOWED]
    assert not left
    assert uncovered(function, params, *args) == []


WINDOWED = ("conv_general_dilated", "reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum")


def convolutions(x, train):
    conv = functools.partial(nn.Conv, 6, (3, 3))
    return {
        "same": conv(strides=2)(x),
        "valid": conv(padding="VALID", use_bias=False)(x),
        "circular": conv(padding="CIRCULAR")(x),
        "reflect": conv(padding="REFLECT")(x),
        "asymmetric": conv(padding=((2, 0), (0, 3)), strides=(1, 2))(x),
        "kernel dilation": conv(kernel_dilation=2)(x),
        "input dilation": conv(input_dilation=(2, 1), padding=1)(x),
        "groups": conv(feature_group_count=3)(x),
        "depthwise": nn.Conv(6, (2, 3), feature_group_count=3)(x),
        "1x1": nn.Conv(4, (1, 1))(x),
        "patches": nn.Conv(5, (4, 4), strides=(4, 4), padding="VALID")(x),
        "even kernel": nn.Conv(4, (2, 4))(x),
        "one image without batch axis": conv()(x[0]),
        "two batch axes": conv()(x[None]),
        "transposed": nn.ConvTranspose(4, (3, 3), strides=(2, 2))(x),
        "transposed valid": nn.ConvTranspose(4, (2, 2), strides=(2, 2), padding="VALID", transpose_kernel=False)(x),
    }


def norms(x, train):
    y = nn.Conv(8, (3, 3))(x)
    return {
        "batch": nn.BatchNorm(use_running_average=not train, momentum=0.9)(y),
        "batch, no fast variance": nn.BatchNorm(use_running_average=not train, use_fast_variance=False)(y),
        "layer": nn.LayerNorm()(y),
        "layer over space": nn.LayerNorm(reduction_axes=(1, 2, 3), feature_axes=(-1,))(y),
        "group": nn.GroupNorm(num_groups=4)(y),
        "instance": nn.InstanceNorm()(y),
        "rms": nn.RMSNorm()(y),
        "standardised kernel": nn.WeightNorm(nn.Conv(4, (3, 3)))(y),
    }


def pools(x, train):
    y = nn.Conv(4, (3, 3))(x)
    return {
        "max": nn.max_pool(y, (2, 2), (2, 2)),
        "max, overlapping": nn.max_pool(y, (3, 3), (2, 2), "SAME"),
        "max, explicit": nn.max_pool(y, (3, 2), (1, 2), ((1, 1), (0, 1))),
        "max, gaps": nn.max_pool(y, (2, 1), (3, 2)),
        "average": nn.avg_pool(y, (3, 3), (2, 2), "SAME"),
        "average, no padding counted": nn.avg_pool(y, (3, 3), (2, 2), "SAME", count_include_pad=False),
        "average, whole": nn.avg_pool(y, (8, 8)),
        "min": -nn.max_pool(-y, (2, 2), (2, 2), "SAME"),
        "true min": lax.reduce_window(y, np.inf, lax.min, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"),
        "over channels": lax.reduce_window(y * y, 0.0, lax.add, (1, 1, 1, 3), (1, 1, 1, 1), "SAME"),
        "of the input": nn.max_pool(x, (2, 2), (2, 2)),
        "mean": y.mean((1, 2)),
        "max of all": y.max((1, 2)),
        "kept axes": y.mean((1, 2), keepdims=True),
    }


def joined(x, train):
    norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
    y = nn.relu(norm()(nn.Conv(8, (3, 3))(x)))
    y = nn.relu(y + norm()(nn.Conv(8, (3, 3))(y)))
    y = jnp.concatenate([x, y, nn.relu(nn.Conv(4, (3, 3))(y))], axis=-1)
    y = jnp.concatenate([y, nn.Conv(2, (1, 1))(y)], axis=-1)
    y = nn.avg_pool(nn.Conv(6, (1, 1))(y), (2, 2), (2, 2))
    return nn.Dense(3)(y.reshape(len(y), -1)), y.mean((1, 2))


def squeezed(x, train):
    y = nn.relu6(nn.Conv(8, (1, 1))(x))
    y = nn.hard_swish(nn.Conv(8, (3, 3), strides=2, feature_group_count=8)(y))
    gate = nn.sigmoid(nn.Dense(8)(nn.relu(nn.Dense(2)(y.mean((1, 2), keepdims=True)))))
    y = nn.Dropout(0.3, deterministic=not train)(nn.Conv(4, (1, 1))(y * gate))
    return nn.Dense(3)(y.max((1, 2)))


def activations(x, train):
    y = nn.Conv(4, (3, 3))(x)
    names = "relu relu6 gelu silu leaky_relu softplus elu selu celu tanh sigmoid log_sigmoid hard_swish softmax glu"
    extra = {"exact gelu": nn.gelu(y, approximate=False), "prelu": nn.PReLU()(y), "mish": y * jnp.tanh(nn.softplus(y))}
    return {name: getattr(nn, name)(y) for name in names.split()} | extra


def rematerialised(x, train):
    block = nn.remat(Block, static_argnums=(2,))
    y = block(8, name="first")(x, train)
    return block(8, name="second")(y, train).mean((1, 2))


class Block(nn.Module):
    channels: int

    @nn.compact
    def __call__(self, x, train):
        y = nn.Conv(self.channels, (3, 3), name="conv")(x)
        return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(y))


def vision_transformer(x, train):
    tokens = nn.Conv(8, (4, 4), strides=(4, 4), padding="VALID", name="patches")(x)
    tokens = tokens.reshape(len(x), -1, 8)
    tokens = tokens + nn.Embed(4, 8)(jnp.arange(4))
    y = nn.LayerNorm()(tokens)
    tokens = tokens + nn.MultiHeadDotProductAttention(num_heads=2, deterministic=True)(y)
    tokens = tokens + nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(tokens))))
    return nn.Dense(3)(tokens.mean(1))


def next_generation(x, train):  # ConvNeXt's block.
    y = nn.LayerNorm()(nn.Conv(8, (2, 2), strides=2, padding="VALID")(x))
    z = nn.Dense(16)(nn.LayerNorm()(nn.Conv(8, (3, 3), feature_group_count=8)(y)))
    return (y + nn.Dense(8)(nn.gelu(z))).mean((1, 2))


LINEN = {
    "convolutions": convolutions,
    "norms": norms,
    "pools": pools,
    "joined": joined,
    "squeezed": squeezed,
    "activations": activations,
    "rematerialised": rematerialised,
    "vision transformer": vision_transformer,
    "next generation": next_generation,
}


@pytest.mark.parametrize("body", LINEN.values(), ids=list(LINEN))
def test_linen_models_give_the_same(body):
    assert_unchanged(*linen(Net(body)), IMAGES)


def test_inference_gives_the_same():
    assert_unchanged(*linen(Net(lambda x, train: Block(4)(x, train).mean((1, 2))), train=False), IMAGES)


def test_sequences_and_volumes_give_the_same():
    def body(x, train):
        steps = nn.Conv(4, (3,), padding="CAUSAL", kernel_dilation=2)(x.reshape(2, 16, 12))
        voxels = nn.Conv(4, (2, 3, 1), strides=(1, 2, 1))(x.reshape(2, 4, 4, 4, 3))
        return {
            "causal": nn.relu(nn.LayerNorm()(steps)),
            "sequence pool": nn.max_pool(steps, (2,), (2,)),
            "volume": nn.avg_pool(voxels, (2, 2, 2), (2, 2, 2), "SAME"),
        }

    assert_unchanged(*linen(Net(body)), IMAGES)


def test_wide_models_give_the_same_by_either_way():
    def body(x, train):
        y = Block(16, name="first")(x, train)
        y = y + Block(16, name="second")(y, train)
        return nn.Conv(16, (3, 3), strides=2, padding=1, name="third")(y).mean((1, 2))

    assert_unchanged(*linen(Net(body)), IMAGES, ways=("winograd", "matmul"), tolerance=1e-4)


class Residual(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.block = nnx.Conv(8, 8, (3, 3), padding="CIRCULAR", use_bias=False, rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        self.up = nnx.ConvTranspose(8, 4, (2, 2), strides=(2, 2), rngs=rngs)
        self.layer = nnx.LayerNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        y = nnx.relu(self.norm(self.stem(x)))
        y = y + nnx.remat(lambda block, y: nnx.gelu(block(y)))(self.block, y)
        y = nnx.silu(self.depthwise(y))
        y = self.layer(self.up(nnx.max_pool(y, (2, 2), (2, 2), "SAME")))
        y = nnx.avg_pool(self.dropout(y), (2, 2), (2, 2))
        return self.head(y.mean((1, 2)))


def test_nnx_models_give_the_same():
    model = nnx.eval_shape(lambda: Residual(nnx.Rngs(0)))
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def apply(params, rest, images):
        model = nnx.merge(graph, params, rest, copy=True)
        return model(images), nnx.state(model, nnx.BatchStat)

    assert_unchanged(apply, filled(params), filled(rest), IMAGES)


def native(x, kernel, **settings):
    settings = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")} | settings
    return lax.conv_general_dilated(x, kernel, **settings)


KERNEL = np.random.default_rng(2).standard_normal((3, 3, 3, 4)).astype(np.float32)


def moved(kernel, x):
    y = native(x, kernel)  # [2, 8, 8, 4]
    first, second = jnp.split(y, 2, axis=-1)
    return {
        "transpose": y.transpose(3, 0, 2, 1),
        "batch last": jnp.moveaxis(y, 0, -1) * np.arange(2.0),
        "flip": y[:, ::-1],
        "flip channels": jnp.flip(y, -1),
        "pad": jnp.pad(y, ((0, 0), (1, 2), (0, 0), (0, 3)), constant_values=2.0),
        "pad modes": jnp.pad(y, ((0, 0), (1, 2), (1, 1), (0, 0)), mode="edge"),
        "pad inside, crop": lax.pad(y, 0.5, ((0, 0, 0), (-1, 2, 1), (0, -3, 0), (0, 0, 2))),
        "slice": y[:1, 1:7:2, :, 2:],
        "entry": y[1, :, 3],
        "gather": y[:, np.array([3, 0, 0])],
        "dynamic": lax.dynamic_slice_in_dim(y, jnp.argmax(y[0, :3, 0, 0]), 2, axis=2),
        "flatten": y.reshape(2, -1),
        "tokens": y.reshape(2, 64, 4),
        "tiles": y.reshape(2, 4, 2, 4, 2, 4).max((2, 4)),
        "shuffle": y.reshape(2, 8, 8, 2, 2).transpose(0, 1, 3, 2, 4).reshape(2, 16, 16),
        "new axes": y[:, None, :, :, None] + 1,
        "squeeze": native(x[:1], kernel)[..., :1].squeeze((0, 3)),
        "reshape to ones": jnp.reshape(y[:, :1, :1], (1, 2, 1, 4, 1)),
        "stack": jnp.stack([y, x[..., :1] * y]),
        "concatenate": jnp.concatenate([x, y, x], -1),
        "concatenate batches": jnp.concatenate([y[..., :3], x], 0),
        "halves": first * second,
        "tile": jnp.tile(y, (1, 2, 1, 1)),
        "repeat": jnp.repeat(y, 2, axis=1),
        "roll": jnp.roll(y, 1, axis=(1, 2)),
        "channels first": native(
            y.transpose(0, 3, 1, 2), jnp.ones((2, 4, 1, 1)), dimension_numbers=("NCHW", "OIHW", "NCHW")
        ),
        "odd layout": native(
            y.transpose(2, 3, 0, 1), jnp.ones((4, 1, 2, 5)), dimension_numbers=("WCNH", "IWHO", "HNCW")
        ),
        "kernel of a convolution": native(x, y[:, :, :3]),
    }


def computed(kernel, x):
    y = native(x, kernel)
    row, scalar = np.arange(4.0, dtype=np.float32), jnp.float32(0.5)
    return {
        "channels": y * row + row.reshape(1, 1, 1, 4),
        "rows": y + np.arange(8.0, dtype=np.float32)[:, None, None],
        "batch": y * np.arange(2.0, dtype=np.float32).reshape(2, 1, 1, 1),
        "clip": jnp.clip(y, -0.5, 1.0),
        "clamp by arrays": lax.clamp(-jnp.abs(x[..., :1] * y), y, jnp.ones_like(y)),
        "select": jnp.where(y > 0, y, -0.1 * y),
        "select by a scalar": lax.select(scalar > 0, y, 2 * y),
        "select by the input": jnp.where(x[..., :1] > 0, y, 0.0),
        "two orders": y.transpose(2, 1, 0, 3)[:2, :, :2] + y[:, :, :2],
        "power": jnp.abs(y) ** 1.5 + y**3,
        "scalar power": lax.pow(scalar, y),
        "types": y.astype(jnp.bfloat16).astype(jnp.float32),
        "integers": (10 * y).astype(jnp.int32) // 3,
        "booleans": (y > 0) & ~(y > 1),
        "round": lax.reduce_precision(y, 8, 5) + jnp.round(y),
        "argmax": [jnp.argmax(y, axis) for axis in range(4)],
        "argmin": jnp.argmin(y, -1),
        "any": (y > 1).any((1, 3)),
        "prod": y[..., :2].prod(-1),
        "sum of everything": y.sum(),
        "variance": y.var((0, 1, 2)),
        "softmax": jax.nn.softmax(y, axis=1),
        "logsumexp": jax.nn.logsumexp(y, axis=(1, 3)),
        "norm": jnp.linalg.norm(y, axis=-1, keepdims=True),
        "cumulative": jnp.cumsum(y, axis=2) + lax.cummax(y, axis=1),
        "sorted": jnp.sort(y, axis=1),
        "top": lax.top_k(y, 2),
        "product": jnp.einsum("nhwc,nhwd->ncd", y, x),
        "stopped": lax.stop_gradient(y) * y,
        "max of integers": lax.reduce_window(
            (9 * y).astype(jnp.int32), -99, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME"
        ),
        "dilated pool": lax.reduce_window(
            y, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "VALID", window_dilation=(1, 2, 2, 1)
        ),
        "loop": lax.fori_loop(0, 2, lambda _, z: z * 0.5 + y, y),
        "branch": lax.cond(scalar > 0, lambda z: 2 * z, lambda z: z, y),
        "input": x,
        "static": 3,
        "nothing": None,
    }


def as_arrays(function):
    return lambda *args: jax.tree.map(jnp.asarray, function(*args))


@pytest.mark.parametrize("function", [moved, computed])
def test_whatever_follows_a_convolution_gives_the_same(function):
    @jax.jit
    def everything(kernel, x):
        ours, reference = as_arrays(batch_last(function, "matmul")), as_arrays(function)
        return with_gradient(ours, kernel, x), with_gradient(reference, kernel, x)

    assert_trees_close(*everything(KERNEL, IMAGES))


def test_a_user_derivative_of_relus_values_stands():
    @jax.custom_jvp
    def surrogate(x):
        return jnp.maximum(x, 0.0)

    @surrogate.defjvp
    def _(primals, tangents):
        return surrogate(*primals), 7 * tangents[0]

    def model(kernel, x):
        return jax.nn.relu(surrogate(native(x, kernel)) - 1)

    everything = jax.jit(lambda k, x: [with_gradient(f, k, x) for f in (batch_last(model, "matmul"), model)])
    assert_trees_close(*everything(KERNEL, IMAGES))


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (2, 8, 1, 3), (2, 2, 8, 3)], ids=str)
def test_empty_images_stay_empty(shape):
    def model(x):
        return lax.reduce_window(
            native(x, KERNEL, padding="VALID"), -np.inf, lax.max, (1, 2, 1, 1), (1, 1, 1, 1), "VALID"
        )

    x = jnp.ones(shape)
    assert batch_last(model, "matmul")(x).shape == model(x).shape


def test_max_poolings_gradient_is_shared_among_ties():
    # A window gives the whole gradient to its first maximum, slices share it by halves: another subgradient, equal sum.
    def pooled(x):
        return nn.max_pool(x, (3, 3), (2, 2), "SAME").sum((1, 2))

    x = jnp.zeros((2, 8, 8, 3)).at[:, 3, 3].set(1.0)
    ours, window = (jax.jacrev(f)(x) for f in (batch_last(pooled, "matmul"), pooled))
    assert not np.allclose(ours, window)
    np.testing.assert_allclose(ours.sum((3, 4)), window.sum((3, 4)), rtol=1e-6)
    assert (ours >= 0).all()


@pytest.mark.parametrize("remat", [False, True])
def test_images_are_transposed_once(remat):
    batch = 7  # Divides no other axis, and so tells images from kernels.

    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            for i in range(4):
                block = nn.remat(Block, static_argnums=(2,)) if remat else Block
                x = block(4 * (i + 1), name=f"block{i}")(x, train)
                x = nn.max_pool(x, (2, 2), (2, 2), "SAME") if i < 3 else x + nn.relu(x)
            return x.mean((1, 2))

    images = np.ones((batch, 16, 16, 3), np.float32)
    apply, params, state = linen(Deep(), images)

    def transposed(function):
        traced = equations(jax.make_jaxpr(function)(params, state, images).jaxpr)
        shapes = [e.invars[0].aval.shape for e in traced if e.primitive.name == "transpose"]
        return [shape for shape in shapes if batch in shape and len(shape) > 2]

    ours = batch_last(apply, "winograd")
    assert transposed(ours) == [images.shape]
    assert set(transposed(lambda *args: with_gradient(ours, *args))) == {images.shape}  # Twice where rematerialised.


def test_models_are_the_same_under_vmap():
    def body(x, train):
        return nn.Conv(4, (3, 3), strides=2)(nn.max_pool(Block(4)(x, train), (2, 2), (2, 2)))

    apply, params, state = linen(Net(body))
    many = jax.tree.map(lambda leaf: np.stack([leaf, 0.5 * leaf]), params)

    @jax.jit
    def everything(many, images):
        def ours(params):
            return with_gradient(batch_last(apply, "matmul"), params, state, images)

        alone = [jax.tree.map(functools.partial(lambda m, leaf: leaf[m], m), many) for m in range(2)]
        one_by_one = [with_gradient(apply, params, state, images) for params in alone]
        return jax.vmap(ours)(many), jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one)

    assert_trees_close(*everything(many, IMAGES), tolerance=1e-4)
    assert "conv_general_dilated" not in primitives(
        jax.vmap(batch_last(apply, "matmul"), (0, None, None)), many, state, IMAGES
    )


def test_bfloat16_models_stay_near_float32():
    def body(x, train):
        y = nn.relu(nn.Conv(16, (3, 3))(x))
        y = nn.avg_pool(nn.relu(nn.Conv(16, (3, 3))(y)), (2, 2), (2, 2))
        return nn.Conv(16, (3, 3), feature_group_count=16)(y).mean((1, 2))

    def lower(tree):
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), tree)

    apply, params, state = linen(Net(body))

    @jax.jit
    def everything(params, images):
        return batch_last(apply, "winograd")(lower(params), state, lower(images))[0], apply(params, state, images)[0]

    ours, reference = everything(params, IMAGES)
    assert ours.dtype == jnp.bfloat16
    assert np.abs(np.asarray(ours, np.float32) - reference).max() < 0.02 * np.abs(reference).max()


def test_effects_and_captured_arrays_are_kept():
    seen = []

    def loss(kernel):
        def model(x):
            y = native(x, kernel)  # Captured, and traced by the gradient outside.
            jax.debug.callback(lambda total: seen.append(float(total)), y.sum())
            return y + IMAGES[..., :1]

        return batch_last(model, "matmul")(jnp.asarray(IMAGES)).sum()

    gradient = jax.grad(loss)(jnp.asarray(KERNEL))
    jax.effects_barrier()
    np.testing.assert_allclose(seen, [native(IMAGES, KERNEL).sum()], rtol=1e-4)
    np.testing.assert_allclose(gradient, jax.grad(lambda k: native(IMAGES, k).sum())(KERNEL), rtol=1e-4, atol=1e-4)


def looped(module, x):
    return nn.scan(lambda m, x, _: (m(x), None), variable_broadcast="params", split_rngs={"params": False}, length=2)(
        module, x, None
    )[0]


def branched(module, x):
    module(x)  # Makes the parameters, by an ordinary convolution.
    return nn.cond(x.sum() > 0, lambda m, x: m(x), lambda _, x: x, module, x)


def own_derivative(module, x):
    variables = module.variables if not module.is_initializing() else None
    if variables is None:
        return module(x)

    @jax.custom_vjp
    def apply(variables, x):
        return module.clone(parent=None).apply(variables, x)

    apply.defvjp(lambda v, x: (apply(v, x), v), lambda v, g: (jax.tree.map(jnp.zeros_like, v), g))
    with jax.named_scope(module.name):
        return apply(variables, x)


class Holder(nn.Module):
    use: Callable[..., Any]

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(3, (3, 3), name="ordinary")(x)
        return self.use(nn.Conv(3, (3, 3), name="special"), x)


@pytest.mark.parametrize("use", [looped, branched, own_derivative])
def test_convolutions_out_of_reach_are_named(use):
    apply, params, state = linen(Holder(use))
    names = uncovered(apply, params, state, IMAGES)
    assert len(names) == 1
    assert "Holder" in names[0]
    assert "special" in names[0]
    everything = jax.jit(lambda p, x: [with_gradient(f, p, state, x)[0] for f in (batch_last(apply, "matmul"), apply)])
    assert_trees_close(*everything(params, IMAGES))


@pytest.mark.parametrize(
    ("settings", "cast"),
    [
        ({"batch_group_count": 2}, np.float32),
        ({}, np.int32),
        ({"preferred_element_type": jnp.float32}, jnp.bfloat16),
    ],
    ids=["grouped over the batch", "integers", "wider outputs"],
)
def test_other_kinds_of_convolution_are_named_and_kept(settings, cast):
    def model(kernel, x):
        with jax.named_scope("stage"), jax.named_scope("unusual"):
            y = native(x, kernel, **settings)
        return native(y.astype(jnp.float32), np.ones((1, 1, 4, 1), np.float32))

    args = KERNEL.astype(cast), IMAGES.astype(cast)
    assert uncovered(model, *args) == ["stage/unusual"]
    np.testing.assert_allclose(batch_last(model, "matmul")(*args), model(*args), rtol=1e-5, atol=1e-5)


def test_ordinary_models_have_nothing_out_of_reach():
    apply, params, state = linen(SmallCNN(num_classes=3, width=4))
    assert (
        uncovered(apply, jax.eval_shape(lambda: params), state, jax.ShapeDtypeStruct(IMAGES.shape, jnp.float32)) == []
    )


def test_every_argument_is_kept():
    def model(tree, x, nothing, scale):
        return {"y": native(x, tree["kernel"]) * scale, "scale": scale, "flag": x[0, 0, 0, 0] > 0}

    args = {"kernel": KERNEL, "other": np.arange(3)}, IMAGES, None, 2.0
    ours, reference = batch_last(model, "matmul")(*args), model(*args)
    assert jax.tree.structure(ours) == jax.tree.structure(reference)
    for got, wanted in zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
