import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conv_examples import Case, assert_equals_reference, pad, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st

from jdt.train.conv import _tile_for

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
