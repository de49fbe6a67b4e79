"""Convolutions, and what XLA makes of them."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jdt.train.conv import Window, convolve

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
