"""Models by name: the zoo's own, or any Flax class as `package.module:ClassName`."""

import ast
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
from flax import nnx

from jdt import checks
from jdt.models import linen_modules
from jdt.models.base import Network
from jdt.models.nnx_modules import NnxModule
from jdt.models.resnet import ResNet9, ResNet18, ResNet50
from jdt.models.small_cnn import SmallCNN
from jdt.models.vit import VisionTransformer
from jdt.models.wide_resnet import WideResNet

ZOO: dict[str, type[nn.Module]] = {
    "small_cnn": SmallCNN,
    "resnet9": ResNet9,
    "resnet18": ResNet18,
    "resnet50": ResNet50,
    "wrn16": WideResNet,
    "vit_tiny": VisionTransformer,
}


def make(
    spec: str, num_classes: int, *, arguments: Mapping[str, Any] | None = None, features: str | None = None
) -> Network:
    """Build the model that `--model` asks for.

    Args:
      spec: A name of `ZOO`, or `package.module:Name` of a Linen or NNX class, or of a function that builds one.
      num_classes: Width of the logits.
      arguments: Further arguments of the class: see `build`.
      features: Where the features are: see `Network`.

    Raises:
      UserError: If there is no such model, or it cannot be built with these arguments.
    """
    return build(ZOO[spec] if spec in ZOO else _import(spec), num_classes, arguments=arguments, features=features)


def build(
    factory: Callable[..., Any],
    num_classes: int,
    *,
    arguments: Mapping[str, Any] | None = None,
    features: str | None = None,
) -> Network:
    """Build a network from a class.

    Linen classes are called with the arguments, NNX classes with `rngs=nnx.Rngs(...)` besides; `num_classes` is
    passed to those that take it.

    Args:
      factory: A Linen or NNX class, or a function or `functools.partial` that builds a module.
      num_classes: Width of the logits.
      arguments: Hashable values by name; lists become tuples.
      features: Where the features are: see `Network`.

    Raises:
      UserError: If it does not take these arguments, or builds no Flax module.
    """
    name = getattr(factory, "__name__", None) or repr(factory)
    given = {key: _hashable(value) for key, value in (arguments or {}).items()}
    is_class = isinstance(factory, type)
    try:  # NNX classes have a metaclass, whose own signature says nothing.
        takes = inspect.signature(factory.__init__ if is_class else factory).parameters
    except (TypeError, ValueError) as error:
        raise checks.UserError(f"model {name} breaks the contract: it is no class and no function.") from error
    if "num_classes" in takes:
        given.setdefault("num_classes", num_classes)
    open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in takes.values())
    unknown = [key for key in given if key not in takes and not open_ended]
    if unknown:
        known = ", ".join(key for key in takes if key not in ("self", "parent", "name", "rngs"))
        raise checks.UserError(f"model {name} takes no argument {unknown[0]!r}; it takes: {known or 'none'}.")
    is_nnx = "rngs" in takes or (is_class and issubclass(factory, nnx.Module))
    try:
        if is_nnx:
            module: Any = NnxModule(factory, tuple(sorted(given.items())))
            built = nnx.eval_shape(lambda: module.build(**given, rngs=nnx.Rngs(0)))
        else:
            built = module = factory(**given)
            if isinstance(module, nn.Module):
                module = linen_modules.hashable(module)
        hash(module)
    except TypeError as error:
        raise checks.UserError(
            f"model {name} breaks the contract: {_call(name, given)} raised {str(error).splitlines()[0]}: give what it "
            "needs with --model-args NAME=VALUE; every value must be hashable."
        ) from error
    if not isinstance(built, nn.Module | nnx.Module):
        raise checks.UserError(
            f"model {name} breaks the contract: it builds a {type(built).__name__}, not a flax.linen.Module or "
            "flax.nnx.Module."
        )
    return Network(module, num_classes, features)


def parse_arguments(words: Sequence[str]) -> dict[str, Any]:
    """Read `NAME=VALUE` words: Python literals, or else plain text.

    Raises:
      UserError: If a word has no name, or two have the same.

    >>> parse_arguments(["width=64", "stages=[2, 2]", "norm=layer"])
    {'width': 64, 'stages': [2, 2], 'norm': 'layer'}
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (equals and name.isidentifier()):
            raise checks.UserError(f"model-args has {word!r}, expected NAME=VALUE, such as width=64.")
        if name in found:
            raise checks.UserError(f"model-args has {name} twice: give each argument once.")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        # What a run cannot keep as JSON stays text.
        found[name] = value if value is None or isinstance(value, bool | int | float | str | list | tuple) else text
    return found


def _hashable(value: Any) -> Any:
    return tuple(_hashable(entry) for entry in value) if isinstance(value, list | tuple) else value


def _call(name: str, arguments: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def _import(spec: str) -> Callable[..., Any]:
    module_name, _, class_name = spec.partition(":")
    if not class_name:
        raise checks.UserError(
            f"unknown model {spec!r}; known: {', '.join(ZOO)}, or your own as package.module:ClassName."
        )
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise checks.UserError(
            f"unknown model {spec!r}: {error}; run from the folder that holds the module, or install its package."
        ) from error
    if not callable(found):
        raise checks.UserError(f"model {spec!r} breaks the contract: it is no class and no function.")
    return found
