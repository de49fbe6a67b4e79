"""Flax Linen modules as pure functions of their variables."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict, meta

from jdt.types import PRNGKey

MODES = {"train": True, "training": True, "is_training": True, "deterministic": False, "use_running_average": False}
"""Names by which modules are told their mode, and their value in training."""

Path = tuple[Any, ...]


def hashable(module: nn.Module) -> nn.Module:
    """The same module, its lists and dictionaries frozen, so that it can be a static argument of `jax.jit`."""
    fields = {field.name: getattr(module, field.name) for field in _fields(module)}
    frozen: Any = {name: _frozen(value) for name, value in fields.items() if isinstance(value, list | dict)}
    return module.clone(**frozen) if frozen else module


def with_classes(module: nn.Module, num_classes: int) -> nn.Module:
    """The module for another number of classes, where it has a field for it; else the same."""
    if any(field.name == "num_classes" for field in _fields(module)):
        return module.clone(num_classes=num_classes)
    return module


def init(module: nn.Module, key: PRNGKey, image_shape: tuple[int, int, int], without: Path | None) -> tuple[Any, Any]:
    """Draw parameters and the other collections.

    The forward pass that Flax needs to learn the shapes runs in inference mode, so that statistics start at their
    initial values and not at those of a blank image.
    """
    params_key, dropout_key = jax.random.split(key)
    blank = jnp.zeros((1, *image_shape), jnp.float32)
    called, options = _in_mode(module, train=False)
    with nn.intercept_methods(_leaving_out(without)):
        variables = called.init({"params": params_key, "dropout": dropout_key}, blank, **options)
    variables = dict(meta.unbox(variables))
    return variables.pop("params", {}), variables


def apply(
    module: nn.Module, params: Any, state: Mapping[str, Any], images: Any, key: PRNGKey | None, without: Path | None
) -> tuple[Any, Mapping[str, Any]]:
    """Apply in training mode with a key, in inference mode without: whatever the module returns, and its state."""
    called, options = _in_mode(module, train=key is not None)
    variables = {"params": params, **state}
    with nn.intercept_methods(_leaving_out(without)):
        if key is None:
            return called.apply(variables, images, **options), state
        mutable = list(state) or ["batch_stats"]
        return called.apply(variables, images, mutable=mutable, rngs={"dropout": key, "params": key}, **options)


def last_layer(module: nn.Module, image_shape: tuple[int, int, int]) -> Path | None:
    """Path of the dense layer whose output is the module's output, if there is one."""
    heard: list[tuple[Path, Any]] = []

    def listen(proceed: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = proceed(*args, **kwargs)
        if isinstance(context.module, nn.Dense | nn.DenseGeneral) and context.method_name == "__call__":
            heard.append((context.module.path, output))
        return output

    found: list[Path] = []

    def run(key: PRNGKey) -> None:
        called, options = _in_mode(module, train=False)
        blank = jnp.zeros((2, *image_shape), jnp.float32)
        output, _ = called.init_with_output({"params": key, "dropout": key}, blank, **options)
        found.extend(path for path, value in heard if value is output)

    with nn.intercept_methods(listen):
        jax.eval_shape(run, jax.random.key(0))
    return found[-1] if found else None


def _leaving_out(path: Path | None) -> Any:
    """An interceptor under which the layer at `path` gives back its input, and has no parameters."""

    def intercept(proceed: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if path is not None and context.module.path == path and context.method_name == "__call__":
            return args[0]
        return proceed(*args, **kwargs)

    return intercept


def _in_mode(module: nn.Module, *, train: bool) -> tuple[nn.Module, dict[str, Any]]:
    """Tell a module its mode in the way that it wants to be told: as an argument, as a field, or not at all."""
    parameters = inspect.signature(type(module).__call__).parameters
    options: dict[str, Any] = {name: value == train for name, value in MODES.items() if name in parameters}
    if options:
        return module, options
    fields: dict[str, Any] = {
        field.name: MODES[field.name] == train for field in _fields(module) if field.name in MODES
    }
    return (module.clone(**fields) if fields else module), {}


def _fields(module: nn.Module) -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(module) if field.init and field.name not in ("name", "parent")]


def _frozen(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_frozen(entry) for entry in value)
    return FrozenDict(value) if isinstance(value, dict) else value
