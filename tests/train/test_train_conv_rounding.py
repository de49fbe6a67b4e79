"""What optimised programs make of convolutions: errors are those of the mathematics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conv_examples import EPS, Case, assert_equals_reference, pad, with_gradients


@pytest.mark.parametrize(
    "case",
    [Case((5, 4), (3, 3), channels=(6, 4), strides=(2, 1), groups=2), Case((5, 7), (3, 3), channels=(16, 16))],
    ids=["groups", "incomplete tiles"],
)
def test_optimised_programs_equal_xlas(case):
    assert_equals_reference(case)


@pytest.mark.parametrize("size", [2, 8])
def test_winograds_error_is_that_of_its_transform(size):
    # Lavin and Gray 2016, section 5 and table 7: F(4x4, 3x3) adds up values multiplied by 4 and 5 whose sums nearly
    # cancel, which costs about one decimal digit against the direct product; F(2x2, 3x3) has only 1 and 1/2 in its
    # matrices, and costs next to nothing. Root-mean-square errors, relative to the outputs, in units of float32's eps.
    case = Case((size, size), (3, 3), channels=(32, 16), batch=8)
    x, kernel = case.draw()
    image = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    exact = np.sum(
        [
            np.einsum("io,ihwn->ohwn", np.asarray(kernel, np.float64)[i, j], image[:, i : i + size, j : j + size])
            for i in range(3)
            for j in range(3)
        ],
        axis=0,
    )

    def error(way):
        ours = jax.jit(lambda x, kernel: case.convolve(x, kernel, way))(x, kernel)
        difference = np.asarray(ours, np.float64) - exact
        return np.sqrt(np.mean(difference**2) / np.mean(exact**2)) / EPS

    assert error("matmul") < 4
    assert error("winograd") < (4 if size == 2 else 32)


def test_depthwise_sums_are_not_rounded_to_bfloat16():
    # The kernel's gradient adds up every pixel of the batch, here 2048: in bfloat16 it would be off by several percent.
    case = Case((16, 16), (5, 5), channels=(4, 4), padding=pad(2), groups=4, batch=8)
    lower = case.draw(jnp.bfloat16)

    @jax.jit
    def everything(x, kernel):
        wide = with_gradients(case.reference, x.astype(jnp.float32), kernel.astype(jnp.float32))
        return with_gradients(lambda x, k: case.convolve(x, k, "matmul"), x, kernel), wide

    ours, reference = everything(*lower)
    for got, wanted in zip(ours, reference, strict=True):
        assert got.dtype == jnp.bfloat16
        error = np.asarray(got, np.float32) - wanted
        assert np.sqrt(np.mean(error**2) / np.mean(wanted**2)) < 3 * 2**-8  # Three roundings of 8 significant bits.


def test_winograd_has_second_derivatives():
    case = Case((4, 4), (3, 3), channels=(16, 16), batch=1)
    x, kernel = case.draw()

    def penalty(way):
        def loss(kernel):
            return (case.convolve(x, kernel, way) ** 3).mean()

        return jax.grad(lambda k: (jax.grad(loss)(k) ** 2).sum())

    ours, reference = jax.jit(lambda k: (penalty("winograd")(k), penalty("matmul")(k)))(kernel)
    np.testing.assert_allclose(ours, reference, rtol=1e-3, atol=1e-4 * float(jnp.abs(reference).max()))
