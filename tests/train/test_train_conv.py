import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdt.train import with_matmul_convolutions

PLAIN = [
    {},
    {"strides": (2, 2)},
    {"padding": "VALID"},
    {"kernel_dilation": (2, 2)},
    {"strides": (2, 1), "padding": [(2, 1), (0, 3)]},
    {"kernel_size": (1, 1)},
]
NOT_PLAIN = [{"feature_group_count": 3, "features": 6}, {"input_dilation": (2, 2), "padding": [(1, 1), (1, 1)]}]


def build(options):
    module = nn.Conv(**{"features": 5, "kernel_size": (3, 2), **options})
    images = jax.random.normal(jax.random.key(0), (4, 9, 8, 3))
    variables = module.init(jax.random.key(1), images)

    def apply(variables, images):
        return jax.nn.relu(jax.jit(module.apply)(variables, images))  # A nested jit and a custom derivative.

    return apply, variables, images


def primitives(function, *args):
    return str(jax.make_jaxpr(function)(*args))


@pytest.mark.parametrize("options", PLAIN, ids=str)
def test_matrix_products_equal_convolutions(options):
    apply, variables, images = build(options)
    rewritten = with_matmul_convolutions(apply)
    assert "conv_general_dilated" in primitives(apply, variables, images)
    assert "conv_general_dilated" not in primitives(rewritten, variables, images)
    np.testing.assert_allclose(rewritten(variables, images), apply(variables, images), atol=2e-6)

    def loss(function):
        return jax.grad(lambda v, x: (function(v, x) ** 2).sum(), argnums=(0, 1))(variables, images)

    for ours, reference in zip(jax.tree.leaves(loss(jax.jit(rewritten))), jax.tree.leaves(loss(apply)), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", NOT_PLAIN, ids=str)
def test_other_convolutions_stay_as_they_are(options):
    apply, variables, images = build(options)
    rewritten = with_matmul_convolutions(apply)
    assert "conv_general_dilated" in primitives(rewritten, variables, images)
    np.testing.assert_allclose(rewritten(variables, images), apply(variables, images), atol=2e-6)


def test_vmapped_over_models_no_grouped_convolution_appears():
    apply, variables, images = build({})
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), variables)
    batched = jax.vmap(with_matmul_convolutions(apply), in_axes=(0, None))
    assert "conv_general_dilated" not in primitives(batched, many, images)
    np.testing.assert_allclose(batched(many, images)[0], apply(variables, images), atol=2e-6)
