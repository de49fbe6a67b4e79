"""Models by name: the zoo's own, or any class as `package.module:ClassName`."""

import importlib

import flax.linen as nn

from jdt import checks
from jdt.models.base import Network
from jdt.models.resnet import ResNet9, ResNet18
from jdt.models.small_cnn import SmallCNN

ZOO: dict[str, type[nn.Module]] = {"small_cnn": SmallCNN, "resnet9": ResNet9, "resnet18": ResNet18}


def make(spec: str, num_classes: int) -> Network:
    """Build the model that `--model` asks for.

    Args:
      spec: A name of `ZOO`, or `package.module:ClassName` of a Linen module that takes `num_classes`.
      num_classes: Width of the logits.

    Raises:
      UserError: If there is no such model, or it cannot be built with `num_classes` alone.
    """
    module_class = ZOO[spec] if spec in ZOO else _import(spec)
    try:
        module = module_class(num_classes=num_classes)  # pyright: ignore[reportCallIssue]
        hash(module)
    except TypeError as error:
        raise checks.UserError(
            f"model {spec!r} breaks the contract: {spec}(num_classes={num_classes}) raised {error}; give every other "
            "field a hashable default."
        ) from error
    return Network(module)


def _import(spec: str) -> type[nn.Module]:
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
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise checks.UserError(f"model {spec!r} breaks the contract: it is not a flax.linen.Module class.")
    return found
