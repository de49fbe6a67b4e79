import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jdt.train.conv import Window, _tile_for, convolve

EPS = float(np.finfo(np.float32).eps)


class Case(NamedTuple):
    """Sizes and settings of one convolution; spatial ones as tuples, one entry an axis."""

    space: tuple[int, ...]
    taps: tuple[int, ...]
    channels: tuple[int, int] = (3, 5)
    strides: tuple[int, ...] = (1, 1)
    padding: tuple[tuple[int, int], ...] = ((1, 1), (1, 1))
    input_dilation: tuple[int, ...] = (1, 1)
    kernel_dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    batch: int = 2

    @property
    def window(self):
        return Window(self.strides, self.padding, self.input_dilation, self.kernel_dilation)

    def draw(self, dtype=jnp.float32):
        inside, out = self.channels
        normal = np.random.default_rng(0).standard_normal
        x, kernel = normal((inside, *self.space, self.batch)), normal((*self.taps, inside // self.groups, out))
        return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)

    def convolve(self, x, kernel, way):
        return convolve(x, kernel, self.window, groups=self.groups, way=way)

    def reference(self, x, kernel):
        """XLA's convolution, of an explicitly cropped input: on CPUs it computes negative paddings wrongly."""
        n = len(self.space)
        crops = [(min(low, 0), min(high, 0)) for low, high in self.padding]
        edges = [(*crop, step - 1) for crop, step in zip(crops, self.input_dilation, strict=True)]
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
        images = (n + 1, 0, *range(1, n + 1))
        return lax.conv_general_dilated(
            x,
            kernel,
            self.strides,
            [(max(low, 0), max(high, 0)) for low, high in self.padding],
            rhs_dilation=self.kernel_dilation,
            dimension_numbers=lax.ConvDimensionNumbers(images, (n + 1, n, *range(n)), images),
            feature_group_count=self.groups,
        )


def with_gradients(function, *args):
    """Value and gradients for a fixed, uneven cotangent."""
    out, pull = jax.vjp(function, *args)
    return out, *pull(jnp.asarray(np.cos(np.arange(out.size)).reshape(out.shape), out.dtype))


def assert_equals_reference(case, ways=("matmul", "winograd")):
    x, kernel = case.draw()

    @jax.jit
    def everything(x, kernel):
        ours = {way: with_gradients(functools.partial(case.convolve, way=way), x, kernel) for way in ways}
        return ours, with_gradients(case.reference, x, kernel)

    ours, reference = everything(x, kernel)
    for way in ways:
        for name, got, wanted in zip(("value", "of_x", "of_kernel"), ours[way], reference, strict=True):
            assert got.shape == wanted.shape
            atol = (512 if way == "winograd" else 64) * EPS * np.sqrt(np.mean(np.square(wanted)))
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=atol, err_msg=f"{way}, {name}")


def both(value):
    return (value, value)


def pad(value):
    return (both(value), both(value))


THIN = {
    "1x1": Case((5, 4), (1, 1), padding=pad(0)),
    "1x1 stride 2": Case((5, 4), (1, 1), strides=(2, 2), padding=pad(0)),
    "1x1 padded": Case((3, 2), (1, 1), padding=pad(1)),
    "2x2": Case((5, 4), (2, 2), padding=pad(0)),
    "2x2 stride 2": Case((6, 4), (2, 2), strides=(2, 2), padding=pad(0)),
    "3x3 image 1x1": Case((1, 1), (3, 3)),
    "3x3 image 2x2": Case((2, 2), (3, 3), strides=(2, 2)),
    "3x3 image 3x5, mixed strides": Case((3, 5), (3, 3), strides=(1, 2), padding=((0, 2), (3, 1))),
    "3x2 asymmetric": Case((6, 5), (3, 2), strides=(2, 1), padding=((2, 0), (0, 3))),
    "5x5": Case((7, 6), (5, 5), padding=pad(2)),
    "7x7 stride 2": Case((9, 8), (7, 7), strides=(2, 2), padding=pad(3)),
    "cropped": Case((7, 8), (3, 3), padding=((-1, 1), (-2, -1))),
    "cropped, stride 2": Case((8, 7), (3, 3), strides=(2, 2), padding=((1, -1), (-1, 0))),
    "kernel dilation": Case((9, 8), (3, 2), padding=pad(2), kernel_dilation=(2, 3)),
    "transposed": Case((3, 4), (3, 3), padding=((1, 2), (1, 1)), input_dilation=(2, 2)),
    "transposed, cropped": Case((3, 4), (2, 2), padding=((0, -1), (-1, 1)), input_dilation=(2, 3)),
    "transposed, strided": Case((4, 3), (3, 3), strides=(1, 2), input_dilation=(3, 1)),
    "groups": Case((5, 4), (3, 3), channels=(6, 4), strides=(2, 1), groups=2),
    "depthwise": Case((5, 4), (3, 3), channels=(4, 4), groups=4),
    "depthwise with multiplier": Case((5, 4), (3, 2), channels=(3, 6), strides=(2, 2), groups=3),
    "groups, dilations": Case((4, 5), (2, 2), (4, 4), (1, 1), pad(1), (2, 2), (2, 2), groups=2),
    "1-d": Case((7,), (3,), strides=(2,), padding=((2, 0),), input_dilation=(1,), kernel_dilation=(2,)),
    "1-d depthwise": Case((5,), (3,), (4, 4), (1,), ((1, 1),), (1,), (1,), groups=4),
    "3-d": Case((3, 4, 2), (2, 3, 1), (2, 3), (1, 2, 1), ((0, 1), (1, 1), (0, 0)), (1, 1, 1), (1, 1, 1)),
    "0-d": Case((), (), (3, 5), (), (), (), ()),
    "one image": Case((4, 4), (3, 3), batch=1),
}
WIDE = {
    "4x4 tiles": Case((8, 8), (3, 3), channels=(16, 17)),
    "2x2 tiles": Case((2, 2), (3, 3), channels=(17, 16)),
    "incomplete tiles, asymmetric": Case((5, 7), (3, 3), channels=(16, 16), padding=((0, 2), (3, 1))),
    "one row": Case((1, 6), (3, 3), channels=(16, 16)),
    "cropped": Case((9, 8), (3, 3), channels=(16, 16), padding=((-1, 1), (2, -2))),
    "transposed": Case((4, 3), (3, 3), (16, 16), (1, 1), ((1, 2), (2, 1)), (2, 2)),
    "stride 2": Case((7, 8), (3, 3), channels=(16, 16), strides=(2, 2)),
    "stride 2, 2x2 image": Case((2, 2), (3, 3), channels=(16, 16), strides=(2, 2)),
    "5x5 stride 2": Case((9, 8), (5, 5), channels=(16, 16), strides=(2, 2), padding=((2, 1), (2, 2))),
    "mixed strides": Case((6, 5), (3, 3), channels=(16, 16), strides=(2, 1)),
}


@pytest.mark.parametrize("case", THIN.values(), ids=list(THIN))
def test_values_and_gradients_equal_xlas(case):
    assert_equals_reference(case, ways=("matmul",))


@pytest.mark.parametrize("case", WIDE.values(), ids=list(WIDE))
def test_wide_layers_equal_xlas_by_either_way(case):
    assert_equals_reference(case)


@st.composite
def cases(draw):
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    channels = (4, 4) if groups > 1 else draw(st.sampled_from([(3, 2), (16, 16)]))
    pairs = [(draw(st.integers(1, 3)), draw(st.integers(1, 2))) for _ in range(2)]  # Taps and their distance.
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 1)]))
    padding = tuple((draw(st.integers(-1, 3)), draw(st.integers(-1, 3))) for _ in range(2))
    least = [(t - 1) * step + 1 + 2 for t, step in pairs]  # An image at least as large as the kernel, after cropping.
    return Case(
        space=tuple(draw(st.integers(size, size + 3)) for size in least),
        taps=tuple(t for t, _ in pairs),
        channels=channels,
        strides=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        padding=padding,
        input_dilation=dilation,
        kernel_dilation=tuple(step for _, step in pairs),
        groups=groups,
    )


@given(cases())
@settings(max_examples=8, deadline=None, derandomize=True)
def test_any_setting_equals_xlas(case):
    assert_equals_reference(case, ways=("winograd",))


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


def winograd_taken(case, dtype=jnp.float32):
    return "custom_vjp_call" in str(jax.make_jaxpr(lambda x, k: case.convolve(x, k, "winograd"))(*case.draw(dtype)))


def test_only_float32_and_wider_take_winograds_transform():
    case = Case((8, 8), (3, 3), channels=(16, 16))
    assert winograd_taken(case)
    assert not winograd_taken(case, jnp.bfloat16)
    assert not winograd_taken(case, jnp.float16)


def test_only_convolutions_that_gain_take_winograds_transform():
    assert winograd_taken(Case((8, 8), (5, 5), channels=(16, 16), strides=(2, 2), padding=pad(2)))
    assert not winograd_taken(Case((8, 8), (3, 3), channels=(16, 16), strides=(2, 2)))
    assert not winograd_taken(Case((8, 8), (3, 3), channels=(16, 16), strides=(2, 1)))
    assert not winograd_taken(Case((8, 8), (3, 3), channels=(16, 16), kernel_dilation=(2, 2)))
    assert not winograd_taken(Case((8, 8), (3, 3), channels=(32, 32), groups=2))
    assert not winograd_taken(Case((8, 8), (3, 3), channels=(3, 16)))


@pytest.mark.parametrize(
    ("space", "channels", "padding", "tile"),
    [
        ((8, 8), (16, 16), 1, 4),
        ((32, 32), (64, 64), 1, 4),
        ((2, 2), (16, 16), 1, 2),
        ((4, 4), (16, 16), 0, 2),
        ((1, 1), (16, 16), 1, None),
        ((8, 8), (15, 64), 1, None),
        ((8, 8), (64, 3), 1, None),
    ],
)
def test_the_tile_is_the_cheapest(space, channels, padding, tile):
    assert _tile_for((channels[0], *space, 8), (3, 3, *channels), (1, 1), pad(padding)) == tile


def test_no_tile_for_other_windows():
    assert _tile_for((16, 8, 8, 2), (3, 3, 16, 16), (2, 2), pad(1)) is None
    assert _tile_for((16, 8, 8, 2), (5, 5, 16, 16), (1, 1), pad(2)) is None


@pytest.mark.parametrize(
    ("case", "way"),
    [
        (Case((5, 4), (3, 3), strides=(2, 1)), "matmul"),
        (Case((5, 4), (3, 3), channels=(4, 8), groups=4), "matmul"),
        (Case((2, 2), (3, 3), channels=(16, 16)), "winograd"),
    ],
    ids=["matmul", "depthwise", "winograd"],
)
def test_a_model_is_the_same_under_vmap(case, way):
    x, kernel = map(np.asarray, case.draw())
    xs, kernels = np.stack([x, np.cos(x)]), np.stack([kernel, 2 * kernel])

    def model(x, kernel):
        return with_gradients(lambda x, k: case.convolve(x, k, way), x, kernel)

    @jax.jit
    def everything(xs, kernels):
        one_by_one = [model(x, kernel) for x, kernel in zip(xs, kernels, strict=True)]
        shared = [model(xs[0], kernel)[0] for kernel in kernels]
        together = jax.vmap(model)(xs, kernels), jax.vmap(model, in_axes=(None, 0))(xs[0], kernels)[0]
        return together, (jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one), jnp.stack(shared))

    for ours, reference in zip(*map(jax.tree.leaves, everything(xs, kernels)), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-4)


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
