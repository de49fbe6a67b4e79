"""Convolutions as matrix products, for any function and without rewriting it.

A convolution under `vmap` over models becomes a grouped convolution, which is slow on nearly every backend, and on a
CPU a convolution inside `scan` is slower still; a matrix product suffers from neither. `with_matmul_convolutions`
traces a function to a jaxpr and evaluates it with every plain 2-d convolution replaced, so that models written with
`nn.Conv` (or anything else that ends in `lax.conv_general_dilated`) need no change.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core
from jaxtyping import Array

Function = TypeVar("Function", bound=Callable[..., Any])


def matmul_convolution(lhs: Array, rhs: Array, params: dict[str, Any]) -> Array:
    """Compute `lax.conv_general_dilated` as one matrix product over shifted slices (im2col).

    Args:
      lhs: Inputs, 4-d in any dimension order.
      rhs: Kernel, 4-d in any dimension order.
      params: The equation's parameters; `is_plain` must hold for them.

    Returns:
      The same values as the convolution, up to rounding, in the same dimension order.
    """
    numbers = params["dimension_numbers"]
    (n, c, *space), (o, i, *window), out_spec = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    x = jnp.transpose(lhs, (n, *space, c))
    x = jnp.pad(x, ((0, 0), *params["padding"], (0, 0)))
    kernel = jnp.transpose(rhs, (*window, i, o))
    rows, columns, _, out_channels = kernel.shape
    (row_stride, column_stride), (row_step, column_step) = params["window_strides"], params["rhs_dilation"]
    height = (x.shape[1] - (rows - 1) * row_step - 1) // row_stride + 1
    width = (x.shape[2] - (columns - 1) * column_step - 1) // column_stride + 1
    patches = jnp.concatenate(
        [
            x[
                :,
                r * row_step : r * row_step + (height - 1) * row_stride + 1 : row_stride,
                k * column_step : k * column_step + (width - 1) * column_stride + 1 : column_stride,
            ]
            for r in range(rows)
            for k in range(columns)
        ],
        axis=-1,
    )
    product = jnp.matmul(
        patches.reshape(-1, patches.shape[-1]), kernel.reshape(-1, out_channels), precision=params["precision"]
    )
    return jnp.transpose(
        product.reshape(x.shape[0], height, width, out_channels),
        tuple(np.argsort([out_spec[0], *out_spec[2:], out_spec[1]])),
    )


def is_plain(params: dict[str, Any]) -> bool:
    """Whether a convolution is 2-d, ungrouped and not transposed, so that `matmul_convolution` covers it."""
    return (
        len(params["window_strides"]) == 2
        and params["feature_group_count"] == 1
        and params["batch_group_count"] == 1
        and tuple(params["lhs_dilation"]) == (1, 1)
        and all(low >= 0 and high >= 0 for low, high in params["padding"])
        and params["preferred_element_type"] is None
    )


def with_matmul_convolutions(function: Function) -> Function:
    """Return `function` with every plain 2-d convolution computed as a matrix product.

    The result can be jitted, differentiated and vmapped. Convolutions inside nested jits are found too; those
    inside other control flow, and those that are not plain (see `is_plain`), stay as they are.
    """

    def rewritten(*args: Any) -> Any:
        closed, out_shape = jax.make_jaxpr(function, return_shape=True)(*args)
        outs = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(out_shape), outs)

    return rewritten  # pyright: ignore[reportReturnType]


def _evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex_core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        name = equation.primitive.name
        if name == "conv_general_dilated" and is_plain(equation.params):
            outs = [matmul_convolution(*inputs, params=equation.params)]
        elif name in ("jit", "pjit"):
            inner = equation.params["jaxpr"]
            outs = _evaluate(inner.jaxpr, inner.consts, inputs)
        else:
            outs = _apply(equation, inputs, jaxpr.debug_info)
        values.update(zip(equation.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation: Any, inputs: Sequence[Any], debug_info: Any) -> list[Any]:
    # One equation as a jaxpr of its own: rebinding custom-derivative primitives by hand differs between JAX versions.
    atoms = dict.fromkeys(atom for atom in equation.invars if not isinstance(atom, jex_core.Literal))
    single = jex_core.Jaxpr((), list(atoms), equation.outvars, [equation], equation.effects, debug_info)
    by_atom = {
        atom: value
        for atom, value in zip(equation.invars, inputs, strict=True)
        if not isinstance(atom, jex_core.Literal)
    }
    return jex_core.jaxpr_as_fun(jex_core.ClosedJaxpr(single, ()))(*[by_atom[atom] for atom in atoms])
