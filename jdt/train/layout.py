"""A model's images in batch-last layout, without rewriting the model.

`batch_last` traces a function to a jaxpr and evaluates it with every convolution replaced by `jdt.train.conv`, whose
images are `[channels, *space, batch]`. The layout is carried through the elementwise, reduction and pooling equations
between them, so that images are transposed once on the way in and not at every layer. It works for any function that
ends in `lax.conv_general_dilated`: Linen's and NNX's layers as users write them, and everything else.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core
from jax.extend.core import primitives

from jdt.train.conv import Way, Window, convolve
from jdt.types import Array

Function = TypeVar("Function", bound=Callable[..., Any])

# Names differ between JAX versions: "jit" was "pjit", and "checkpoint" is bound as "remat2".
_JIT, _CHECKPOINT = primitives.jit_p.name, primitives.remat_p.name
_ELEMENTWISE = frozenset(
    """
    abs acos acosh add and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy cos cosh digamma div
    eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p logistic lt max min mul
    ne neg nextafter not or pow reduce_precision rem round rsqrt select_n sign sin sinh sqrt square sub tan tanh xor
    """.split()  # noqa: SIM905
)
_REDUCTIONS = frozenset(
    "argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum".split()  # noqa: SIM905
)
_WINDOWS: dict[str, tuple[Callable[[Array, Array], Array], float]] = {
    "reduce_window_max": (jnp.maximum, -np.inf),
    "reduce_window_min": (jnp.minimum, np.inf),
    "reduce_window_sum": (jnp.add, 0.0),
}


@dataclasses.dataclass(frozen=True)
class _Laid:
    """An array whose axes are stored in another order: stored axis i is logical axis `order[i]`."""

    stored: Any  # A JAX or NumPy array, or a scalar of a jaxpr.
    order: tuple[int, ...]

    def as_order(self, order: tuple[int, ...]) -> Any:
        if order == self.order:
            return self.stored
        return jnp.transpose(self.stored, [self.order.index(axis) for axis in order])

    @property
    def logical(self) -> Any:
        return self.as_order(tuple(range(len(self.order))))

    def stored_axes(self, axes: Sequence[int]) -> tuple[int, ...]:
        return tuple(self.order.index(axis) for axis in axes)

    def permuted(self, per_axis: Sequence[Any]) -> tuple[Any, ...]:
        """Per-axis settings of the logical array, in stored order."""
        return tuple(per_axis[axis] for axis in self.order)


def _plain(array: Any) -> _Laid:
    return _Laid(array, tuple(range(np.ndim(array))))


def batch_last(function: Function, way: Way) -> Function:
    """Return `function` with its convolutions and poolings computed in batch-last layout.

    The result can be jitted, differentiated (in reverse) and vmapped, and takes and returns arrays in the usual layout.
    Convolutions inside nested jits and rematerialised parts are found too; see `uncovered` for those that are not.

    Args:
      function: Any traceable function of arrays.
      way: How convolutions are computed.
    """

    def rewritten(*args: Any) -> Any:
        closed, out_shape = jax.make_jaxpr(function, return_shape=True)(*args)
        outs = _evaluate(closed.jaxpr, closed.consts, [_plain(leaf) for leaf in jax.tree.leaves(args)], way)
        return jax.tree.unflatten(jax.tree.structure(out_shape), [out.logical for out in outs])

    return rewritten  # pyright: ignore[reportReturnType]


def uncovered(function: Callable[..., Any], *args: Any) -> list[str]:
    """Name the layers of a function whose convolutions `batch_last` leaves as they are.

    Args:
      function: Any traceable function.
      *args: Its arguments, or their shapes.

    Returns:
      The name stack of each such convolution (Flax puts module and layer names there), in order, without repetition.
    """
    closed = jax.make_jaxpr(function)(*args)
    return list(dict.fromkeys(_uncovered_in(closed.jaxpr, inside=True)))


def _uncovered_in(jaxpr: Any, *, inside: bool, prefix: str = "") -> Iterator[str]:
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        where = "/".join(part for part in (prefix, str(equation.source_info.name_stack)) if part)
        if name == "conv_general_dilated" and not (inside and _is_covered(equation)):
            yield where or "unnamed"
        for inner in _inner_jaxprs(equation):
            yield from _uncovered_in(inner, inside=inside and name in (_JIT, _CHECKPOINT), prefix=where)


def _inner_jaxprs(equation: Any) -> Iterator[Any]:
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, jex_core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, jex_core.Jaxpr):
                yield item


def _is_covered(equation: Any) -> bool:
    image, kernel = (atom.aval.dtype for atom in equation.invars)
    wanted = equation.params["preferred_element_type"]
    return (
        equation.params["batch_group_count"] == 1
        and jnp.issubdtype(image, jnp.floating)
        and image == kernel
        and wanted in (None, image)
        and equation.outvars[0].aval.size > 0
    )


def _is_covered_pool(equation: Any) -> bool:
    params, out = equation.params, equation.outvars[0].aval
    dilations = {*params["window_dilation"], *params["base_dilation"]}
    return dilations == {1} and jnp.issubdtype(out.dtype, jnp.floating) and out.size > 0


def _evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[_Laid], way: Way) -> list[_Laid]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*map(_plain, consts), *args], strict=True))

    def read(atom: Any) -> _Laid:
        return _plain(atom.val) if isinstance(atom, jex_core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        outs = _equation(equation, inputs, jaxpr.debug_info, way)
        values.update(zip(equation.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _equation(equation: Any, inputs: list[_Laid], debug_info: Any, way: Way) -> list[_Laid]:
    name, params = equation.primitive.name, equation.params
    if name == "conv_general_dilated" and _is_covered(equation):
        return [_convolution(inputs[0], inputs[1], params, way)]
    if name == _JIT:
        inner = params["jaxpr"]
        return _evaluate(inner.jaxpr, inner.consts, inputs, way)
    if name == _CHECKPOINT:
        return _checkpoint(inputs, params, way)
    if name in _WINDOWS and _is_covered_pool(equation):
        return [_reduce_window(inputs[0], params, *_WINDOWS[name])]
    if all(map(_is_usual, inputs)):
        return _as_it_is(equation, inputs, debug_info)
    if name in _ELEMENTWISE:
        # Flax broadcasts [1, 1, 1, C] against images: equal ranks, so one order serves all but the scalars.
        order = _leading_order(inputs)
        arrays = [x.as_order(order) if x.order else x.stored for x in inputs]
        return [_Laid(equation.primitive.bind(*arrays, **params), order)]
    if name == "custom_jvp_call" and _source(equation) == _relu_source():
        return [_Laid(jax.nn.relu(inputs[0].stored), inputs[0].order)]
    if name in _REDUCTIONS:
        return [_reduction(equation, inputs[0])]
    if name in _MOVERS and (moved := _MOVERS[name](params, inputs)) is not None:
        return [moved]
    return _as_it_is(equation, inputs, debug_info)


def _is_usual(x: _Laid) -> bool:
    return x.order == tuple(range(len(x.order)))


def _leading_order(inputs: Sequence[_Laid]) -> tuple[int, ...]:
    """Order of the largest array, an unusual one among equals."""
    return max((x for x in inputs if len(x.order) > 1), key=lambda x: (x.stored.size, not _is_usual(x))).order


def _as_it_is(equation: Any, inputs: Sequence[_Laid], debug_info: Any) -> list[_Laid]:
    # One equation as a jaxpr of its own: rebinding custom-derivative primitives by hand differs between JAX versions.
    atoms = dict.fromkeys(atom for atom in equation.invars if not isinstance(atom, jex_core.Literal))
    single = jex_core.Jaxpr((), list(atoms), equation.outvars, [equation], equation.effects, debug_info)
    by_atom = {
        atom: x.logical
        for atom, x in zip(equation.invars, inputs, strict=True)
        if not isinstance(atom, jex_core.Literal)
    }
    return [_plain(out) for out in jex_core.jaxpr_as_fun(jex_core.ClosedJaxpr(single, ()))(*map(by_atom.get, atoms))]


def _source(equation: Any) -> str | None:
    """Name, file and line of the function that an equation with a custom derivative stands for."""
    return equation.params["call_jaxpr"].jaxpr.debug_info.func_src_info


@functools.cache
def _relu_source() -> str:
    # Relu is told by where it is defined, since another function of the same values may have another derivative.
    (equation,) = jax.make_jaxpr(jax.nn.relu)(0.0).eqns
    return _source(equation) or "unknown"


def _convolution(image: _Laid, kernel: _Laid, params: dict[str, Any], way: Way) -> _Laid:
    numbers = params["dimension_numbers"]
    batch, channels, *space = numbers.lhs_spec
    out, inside, *window = numbers.rhs_spec
    result = convolve(
        jnp.asarray(image.as_order((channels, *space, batch))),  # Constants of a jaxpr may be NumPy's.
        jnp.asarray(kernel.as_order((*window, inside, out))),
        Window(
            tuple(params["window_strides"]),
            tuple(tuple(edge) for edge in params["padding"]),
            tuple(params["lhs_dilation"]),
            tuple(params["rhs_dilation"]),
        ),
        groups=params["feature_group_count"],
        way=way,
        precision=params["precision"],
    )
    out_batch, out_channels, *out_space = numbers.out_spec
    return _Laid(result, (out_channels, *out_space, out_batch))


def _checkpoint(inputs: Sequence[_Laid], params: dict[str, Any], way: Way) -> list[_Laid]:
    orders: list[tuple[int, ...]] = []

    def inner(*arrays: Array) -> list[Array]:
        laid = [_Laid(array, x.order) for array, x in zip(arrays, inputs, strict=True)]
        outs = _evaluate(params["jaxpr"], (), laid, way)
        orders[:] = [out.order for out in outs]
        return [out.stored for out in outs]

    again = jax.checkpoint(inner, prevent_cse=params["prevent_cse"], policy=params["policy"])  # pyright: ignore
    outs = again(*[x.stored for x in inputs])
    return [_Laid(out, order) for out, order in zip(outs, orders, strict=True)]


def _reduction(equation: Any, x: _Laid) -> _Laid:
    axes = tuple(equation.params["axes"])
    reduced = equation.primitive.bind(x.stored, **{**equation.params, "axes": tuple(sorted(x.stored_axes(axes)))})
    return _Laid(reduced, _renumbered(x.order, axes))


def _renumbered(order: Sequence[int], removed: Sequence[int]) -> tuple[int, ...]:
    return tuple(axis - sum(gone < axis for gone in removed) for axis in order if axis not in removed)


def _reduce_window(x: _Laid, params: dict[str, Any], combine: Callable[[Array, Array], Array], neutral: float) -> _Laid:
    """Pool by shifted slices, one axis after the other: their gradient is many times faster on CPUs than a window's."""
    result = x.stored
    if any(low or high for low, high in params["padding"]):
        edges = [(low, high, 0) for low, high in x.permuted(params["padding"])]
        result = jax.lax.pad(result, jnp.asarray(neutral, result.dtype), edges)
    settings = zip(x.permuted(params["window_dimensions"]), x.permuted(params["window_strides"]), strict=True)
    for axis, (size, stride) in enumerate(settings):
        if size == stride == 1:
            continue
        count = (result.shape[axis] - size) // stride + 1
        parts = [jax.lax.slice_in_dim(result, at, at + (count - 1) * stride + 1, stride, axis) for at in range(size)]
        result = functools.reduce(combine, parts)
    return _Laid(result, x.order)


# Equations that move data without computing. Each takes the equation's parameters and its inputs, of which the first
# has an unusual order, and returns None where the result is better computed in the usual one.


def _transpose(params: dict[str, Any], inputs: Sequence[_Laid]) -> _Laid:
    (x,) = inputs
    permutation = tuple(params["permutation"])
    return _Laid(x.stored, tuple(permutation.index(axis) for axis in x.order))


def _squeeze(params: dict[str, Any], inputs: Sequence[_Laid]) -> _Laid:
    (x,) = inputs
    removed = tuple(params["dimensions"])
    return _Laid(jax.lax.squeeze(x.stored, x.stored_axes(removed)), _renumbered(x.order, removed))


def _pad(params: dict[str, Any], inputs: Sequence[_Laid]) -> _Laid:
    x, value = inputs
    return _Laid(jax.lax.pad(x.stored, value.logical, x.permuted(params["padding_config"])), x.order)


def _slice(params: dict[str, Any], inputs: Sequence[_Laid]) -> _Laid:
    (x,) = inputs
    strides = params["strides"] or (1,) * len(x.order)
    bounds = (x.permuted(params["start_indices"]), x.permuted(params["limit_indices"]), x.permuted(strides))
    return _Laid(jax.lax.slice(x.stored, *bounds), x.order)


def _rev(params: dict[str, Any], inputs: Sequence[_Laid]) -> _Laid:
    (x,) = inputs
    return _Laid(jax.lax.rev(x.stored, x.stored_axes(params["dimensions"])), x.order)


def _concatenate(params: dict[str, Any], inputs: Sequence[_Laid]) -> _Laid:
    order = _leading_order(inputs)
    arrays = [x.as_order(order) for x in inputs]
    return _Laid(jax.lax.concatenate(arrays, order.index(params["dimension"])), order)


def _reshape(params: dict[str, Any], inputs: Sequence[_Laid]) -> _Laid | None:
    """Split axes, or add and remove axes of size 1: the rest of the order stands. Merged axes are not followed."""
    (x,) = inputs
    shape = [x.stored.shape[x.order.index(axis)] for axis in range(len(x.order))]
    groups = _split_groups(shape, tuple(params["new_sizes"]))
    if groups is None or params["dimensions"] is not None:
        return None
    order = tuple(new for axis in x.order for new in groups[axis])
    return _Laid(x.stored.reshape([params["new_sizes"][new] for new in order]), order)


def _split_groups(shape: Sequence[int], new: Sequence[int]) -> list[list[int]] | None:
    """Which new axes each old axis becomes, or None when some old axes merge."""
    groups: list[list[int]] = []
    at = 0
    for size in shape:
        group, product = [], 1
        while product < size and at < len(new):
            product *= new[at]
            group.append(at)
            at += 1
        if product != size:
            return None
        groups.append(group)
    if at < len(new) and groups:
        groups[-1].extend(range(at, len(new)))  # All of size 1, since the sizes before multiply to the whole.
    return groups


_MOVERS: dict[str, Callable[[dict[str, Any], Sequence[_Laid]], _Laid | None]] = {
    "transpose": _transpose,
    "squeeze": _squeeze,
    "pad": _pad,
    "slice": _slice,
    "rev": _rev,
    "concatenate": _concatenate,
    "reshape": _reshape,
}
