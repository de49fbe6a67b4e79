"""Flax NNX modules as pure functions of their variables."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jdt.models.linen_modules import MODES, Path
from jdt.types import PRNGKey


@dataclasses.dataclass(frozen=True)
class NnxModule:
    """An NNX module before it holds any array: how to build it. Hashable, if its arguments are.

    Attributes:
      build: The class, or a function; called with the arguments and `rngs=nnx.Rngs(...)`.
      arguments: (name, value) of every argument but `rngs`, sorted by name.
    """

    build: Callable[..., nnx.Module]
    arguments: tuple[tuple[str, Any], ...] = ()

    def __call__(self, key: PRNGKey) -> nnx.Module:
        """Build the module; its parameters derive from the key."""
        params_key, dropout_key = jax.random.split(key)
        return self.build(**dict(self.arguments), rngs=nnx.Rngs(params_key, dropout=dropout_key))


class _Through(nnx.Module):
    """Stands where the last layer was."""

    def __call__(self, features: Any) -> Any:
        return features


def with_classes(module: NnxModule, num_classes: int) -> NnxModule:
    """The module for another number of classes, where it has an argument for it; else the same."""
    arguments = dict(module.arguments)
    if "num_classes" not in arguments:
        return module
    return NnxModule(module.build, tuple({**arguments, "num_classes": num_classes}.items()))


def init(module: NnxModule, key: PRNGKey, image_shape: tuple[int, int, int], without: Path | None) -> tuple[Any, Any]:
    """Draw parameters and the other variables; NNX knows its shapes without an image."""
    del image_shape
    _, params, _, state = _parts(_left_out(module(key), without))
    return nnx.to_pure_dict(params), nnx.to_pure_dict(state)


def apply(
    module: NnxModule, params: Any, state: Mapping[str, Any], images: Any, key: PRNGKey | None, without: Path | None
) -> tuple[Any, Mapping[str, Any]]:
    """Apply in training mode with a key, in inference mode without: whatever the module returns, and its state."""
    definition, shapes = _abstract(module, without, train=key is not None)
    filled = []
    given: Any = params, _random_state(shapes[1], key), state
    for part, values in zip(shapes, given, strict=True):
        part = jax.tree.map(lambda leaf: leaf, part)  # A copy of the tree, since filling changes it.
        nnx.replace_by_pure_dict(part, values)
        filled.append(part)
    model: Any = nnx.merge(definition, *filled)
    options = _options(model, train=key is not None)
    if "rngs" in inspect.signature(type(model).__call__).parameters:
        options["rngs"] = nnx.Rngs(jax.random.key(0) if key is None else key)
    output = model(images, **options)
    return output, state if key is None else nnx.to_pure_dict(_parts(model)[3])


def last_layer(module: NnxModule, image_shape: tuple[int, int, int]) -> Path | None:
    """Path of the linear layer whose output is the module's output, if there is one."""
    found: list[Path] = []

    def run(key: PRNGKey) -> None:
        model: Any = module(key)
        model.eval()
        heard: list[tuple[Path, Any]] = []
        for path, layer in list(nnx.iter_modules(model)):
            if isinstance(layer, nnx.Linear | nnx.LinearGeneral):
                object.__setattr__(layer, "__class__", _listening(type(layer), path, heard))
        output = model(jnp.zeros((2, *image_shape), jnp.float32), **_options(model, train=False))
        found.extend(path for path, value in heard if value is output)

    jax.eval_shape(run, jax.random.key(0))
    return found[-1] if found else None


def _listening(layer_class: Any, path: Path, heard: list[tuple[Path, Any]]) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = layer_class.__call__(self, *args, **kwargs)
        heard.append((path, output))
        return output

    return type(layer_class.__name__, (layer_class,), {"__call__": call})


@functools.lru_cache(maxsize=64)
def _abstract(module: NnxModule, without: Path | None, *, train: bool) -> tuple[Any, tuple[Any, Any, Any]]:
    """The module's structure in a mode, and the shapes of its parameters, random state and other variables."""
    model: Any = nnx.eval_shape(lambda: _left_out(module(jax.random.key(0)), without))
    if train:
        model.train()
    else:
        model.eval()
    definition, *shapes = _parts(model)
    return definition, (shapes[0], shapes[1], shapes[2])


def _parts(model: nnx.Module) -> tuple[Any, Any, Any, Any]:
    definition, *parts = nnx.split(model, nnx.Param, nnx.RngState, ...)
    return definition, parts[0], parts[1], parts[2]


def _random_state(shapes: Any, key: PRNGKey | None) -> Any:
    """Values of every random stream in the module: a key of its own, and a count of zero."""
    root = jax.random.key(0) if key is None else key  # In inference nothing draws from it.
    leaves, structure = jax.tree.flatten(nnx.to_pure_dict(shapes))
    values = [
        jax.random.fold_in(root, i) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else jnp.zeros((), leaf.dtype)
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, values)


def _options(model: nnx.Module, *, train: bool) -> dict[str, Any]:
    """Arguments that tell the module its mode, besides `train()` and `eval()`."""
    parameters = inspect.signature(type(model).__call__).parameters
    return {name: value == train for name, value in MODES.items() if name in parameters}


def _left_out(model: Any, path: Path | None) -> Any:
    if path is None:
        return model
    parent = functools.reduce(
        lambda at, step: at[step] if isinstance(step, int) else getattr(at, step), path[:-1], model
    )
    if isinstance(path[-1], int):
        parent[path[-1]] = _Through()
    else:
        setattr(parent, path[-1], _Through())
    return model
