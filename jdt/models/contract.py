"""The model contract, checked before any time is spent on training."""

import functools
import hashlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdt import checks
from jdt.models.base import ModelOutput, Network, broken
from jdt.types import Array, Float


@functools.lru_cache(maxsize=64)  # A task that is changed in one field is checked anew as a whole.
def check_contract(network: Network, image_shape: tuple[int, int, int], num_classes: int) -> None:
    """Check a model against the contract before any time is spent on training it.

    Args:
      network: The model.
      image_shape: (height, width, channels) of one image.
      num_classes: Width that the logits must have.

    Raises:
      UserError: Naming the clause that is broken and the shape or value that broke it.
    """
    name = network.name
    images = jax.ShapeDtypeStruct((4, *image_shape), jnp.float32)
    variables = network.shapes(image_shape)
    key = jax.random.key(0)
    try:
        with jax.checking_leaks():
            programs = [jax.make_jaxpr(network.train_apply, return_shape=True)(variables, images, key) for _ in "ab"]
        inferred = jax.eval_shape(network.apply, variables, images)
    except checks.UserError:
        raise
    except Exception as error:
        if "Leaked" in str(error):
            raise broken(
                name, "it keeps arrays of one call for later (a side effect): return them, or use a Flax variable."
            ) from error
        raise broken(
            name,
            f"in training on images {images.shape} it raised {type(error).__name__}: "
            f"{(str(error).strip() or repr(error)).splitlines()[0]}",
        ) from error
    (program, (trained, state)), (again, _) = programs
    for mode, output in (("training", trained), ("inference", inferred)):
        _check_shapes(name, mode, output, num_classes)
    if program.effects:
        raise broken(
            name,
            f"it has side effects ({', '.join(sorted(map(str, program.effects)))}): remove callbacks and debug prints.",
        )
    if _digest(program) != _digest(again):
        raise broken(
            name,
            "two traces of it differ: something in Python changes between calls (a counter, numpy.random, the "
            "time); draw from Flax's random streams and keep state in Flax variables.",
        )
    _check_state(name, dict(variables.state), dict(state))
    alone, together = _first_features(network, image_shape)
    if not np.allclose(alone, together, rtol=1e-3, atol=1e-4):
        raise broken(
            name,
            "in inference the features of an image change with the rest of its batch: use stored statistics "
            "(nn.BatchNorm(use_running_average=not train)).",
        )


@functools.lru_cache(maxsize=64)
def check_width(network: Network, image_shape: tuple[int, int, int], num_classes: int) -> None:
    """Check that a network that passed `check_contract` has logits of this width, as `with_classes` should give them.

    Raises:
      UserError: If it has not.
    """
    images = jax.ShapeDtypeStruct((4, *image_shape), jnp.float32)
    inferred = jax.eval_shape(network.apply, network.shapes(image_shape), images)
    _check_shapes(network.name, "inference", inferred, num_classes)


def _check_shapes(name: str, mode: str, output: ModelOutput, num_classes: int) -> None:
    if output.logits.shape != (4, num_classes):
        raise broken(
            name,
            f"logits have shape {output.logits.shape} in {mode}, expected (batch, classes) = (4, "
            f"{num_classes}); a module that returns logits takes their number as num_classes, or returns features "
            "alone.",
        )
    if output.features.ndim != 2 or output.features.shape[0] != 4:
        raise broken(
            name,
            f"features have shape {output.features.shape} in {mode}, expected (batch, features): pool or "
            "flatten the spatial axes.",
        )


def _digest(program: Any) -> str:
    """A program with the constants in it, by content."""
    hashed = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", str(program)).encode())  # Functions' addresses change.
    for constant in program.consts:
        hashed.update(np.ascontiguousarray(constant).tobytes())
    return hashed.hexdigest()


def _check_state(name: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Refuse state that is another kind of array after a step than before, which would be traced anew each time."""
    if not jax.tree.leaves(before):
        return
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise broken(name, "training changes the structure of its state (a collection that grows with each call?).")
    old, new = (jax.tree_util.tree_leaves_with_path(state) for state in (before, after))
    for (path, was), (_, now) in zip(old, new, strict=True):
        if (was.shape, was.dtype) != (now.shape, now.dtype):
            raise broken(
                name,
                f"training changes its state {jax.tree_util.keystr(path)} from {was.dtype}{list(was.shape)} to "
                f"{now.dtype}{list(now.shape)}, so that each step would be traced again: keep shape and dtype.",
            )


@functools.partial(jax.jit, static_argnames=("network", "image_shape"))
def _first_features(
    network: Network, image_shape: tuple[int, int, int]
) -> tuple[Float[Array, " features"], Float[Array, " features"]]:
    """Features of one image in inference, by itself and beside three others."""
    images = jax.random.normal(jax.random.key(1), (4, *image_shape))
    variables = network.init(jax.random.key(0), image_shape)
    return network.apply(variables, images[:1]).features[0], network.apply(variables, images).features[0]
