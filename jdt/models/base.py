"""The model contract: what a Flax module must do to be a source model, and such a module as pure functions."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdt import checks
from jdt.models import linen_modules, nnx_modules
from jdt.models.nnx_modules import NnxModule
from jdt.types import Array, Float, PRNGKey

OUTPUT = "output"
"""What `features` is called where it is the module's output as it comes, its last layer included."""


_OF_HEAD = 4
"""Which of the keys that derive from a model's draws the head that jdt adds."""


class ModelOutput(NamedTuple):
    """What a model computes; a module may return it, or a plain `(logits, features)` tuple.

    Attributes:
      logits: float `[batch, classes]`.
      features: float `[batch, features]`, the input of `head`.
    """

    logits: Float[Array, "batch classes"]
    features: Float[Array, "batch features"]


class Variables(NamedTuple):
    """A model's arrays.

    Attributes:
      params: What the optimiser changes; `params["head"]` belongs to the last layer, all else to the backbone.
      state: The other collections, e.g. `{"batch_stats": ...}`; changed by training, read in inference.
    """

    params: Any
    state: Mapping[str, Any]


class Form(NamedTuple):
    """How a module's output becomes logits and features.

    Attributes:
      has_head: Whether it returns both itself and holds the layer named `head`; else jdt adds a head to the features.
      key: Which entry of the dictionary that it returns holds the features; None where it returns no dictionary.
      without: Path of its own last layer, which is left out where jdt adds a head; None where there is none.
    """

    has_head: bool
    key: str | None = None
    without: tuple[Any, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Network:
    """A Flax module seen as pure functions of its variables; hashable, so it can be a static argument of `jax.jit`.

    Attributes:
      module: A Linen module, or an NNX module to be built.
      num_classes: Width of the logits; None takes the module's own field `num_classes`.
      features: Where the features are: a key of the dictionary that the module returns, `output` for its output as it
        comes, or None for what the module's output says (see `form`).
    """

    module: nn.Module | NnxModule
    num_classes: int | None = None
    features: str | None = None

    @property
    def name(self) -> str:
        """The module's class."""
        return self.module.build.__name__ if isinstance(self.module, NnxModule) else type(self.module).__name__

    @property
    def _ways(self) -> Any:
        return nnx_modules if isinstance(self.module, NnxModule) else linen_modules

    @property
    def _num_classes(self) -> int:
        own = getattr(self.module, "num_classes", None) if self.num_classes is None else self.num_classes
        if not isinstance(own, int):
            raise checks.UserError(
                f"model {self.name} has no num_classes: say how many, with Network(module, num_classes=...)."
            )
        return own

    def with_classes(self, num_classes: int) -> "Network":
        """The same network with another number of classes."""
        return Network(self._ways.with_classes(self.module, num_classes), num_classes, self.features)

    def form(self, image_shape: tuple[int, int, int]) -> Form:
        """Say how the module's output becomes logits and features.

        Raises:
          UserError: If it cannot.
        """
        return _form(self.module, self.features, self.name, image_shape)

    def init(self, key: PRNGKey, image_shape: tuple[int, int, int]) -> Variables:
        """Draw fresh variables; a head that jdt adds starts as Flax's dense layers do."""
        form = self.form(image_shape)
        params, state = self._ways.init(self.module, key, image_shape, form.without)
        if form.has_head:
            return Variables(params, state)

        def features(params: Any, state: Any) -> Array:
            images = jnp.zeros((1, *image_shape), jnp.float32)
            return self._features(params, state, images, None, form)[0]

        blank = jnp.zeros(jax.eval_shape(features, params, state).shape)
        head = nn.Dense(self._num_classes).init(jax.random.fold_in(key, _OF_HEAD), blank)["params"]
        return Variables({"backbone": params, "head": head}, state)

    def shapes(self, image_shape: tuple[int, int, int]) -> Variables:
        """Shapes and dtypes of the variables, as `jax.ShapeDtypeStruct`."""
        return jax.eval_shape(lambda key: self.init(key, image_shape), jax.random.key(0))

    def train_apply(
        self, variables: Variables, images: Float[Array, "batch height width channels"], key: PRNGKey
    ) -> tuple[ModelOutput, Mapping[str, Any]]:
        """Forward pass in training mode: outputs and the changed state."""
        return self._apply(variables, images, key)

    def apply(self, variables: Variables, images: Float[Array, "batch height width channels"]) -> ModelOutput:
        """Forward pass in inference mode: each row depends on its own image alone."""
        return self._apply(variables, images, None)[0]

    def _apply(self, variables: Variables, images: Array, key: PRNGKey | None) -> tuple[ModelOutput, Mapping[str, Any]]:
        height, width, channels = images.shape[1:]
        form = self.form((height, width, channels))
        if form.has_head:
            output, state = self._ways.apply(self.module, variables.params, variables.state, images, key, None)
            return ModelOutput(*output), state
        params = variables.params
        features, state = self._features(params["backbone"], variables.state, images, key, form)
        logits = nn.Dense(self._num_classes).apply({"params": params["head"]}, features)
        return ModelOutput(jnp.asarray(logits), features), state

    def _features(
        self, params: Any, state: Any, images: Array, key: PRNGKey | None, form: Form
    ) -> tuple[Array, Mapping[str, Any]]:
        output, state = self._ways.apply(self.module, params, state, images, key, form.without)
        return output if form.key is None else output[form.key], state

    def describe(self, image_shape: tuple[int, int, int]) -> str:
        """One line for people: the features, and where the logits come from."""
        form, variables = self.form(image_shape), self.shapes(image_shape)
        count = sum(leaf.size for leaf in jax.tree.leaves(variables.params))
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        width = jax.eval_shape(self.apply, variables, images).features.shape[-1]
        source = {True: "its own head", False: "a new head"}[form.has_head]
        if form.without:
            source = f"a new head in place of its last layer {'.'.join(map(str, form.without))}"
        entry = "" if form.key is None else f" ({form.key})"
        return f"model {self.name}: {count:,} parameters, {width} features{entry}, {source}."


@functools.lru_cache(maxsize=256)
def _form(module: nn.Module | NnxModule, features: str | None, name: str, image_shape: tuple[int, int, int]) -> Form:
    ways: Any = nnx_modules if isinstance(module, NnxModule) else linen_modules

    def run(key: PRNGKey) -> tuple[Any, Any]:
        params, state = ways.init(module, key, image_shape, None)
        images = jnp.zeros((4, *image_shape), jnp.float32)
        return ways.apply(module, params, state, images, None, None)[0], params

    try:
        output, params = jax.eval_shape(run, jax.random.key(0))
    except checks.UserError:
        raise
    except Exception as error:
        # A user's module can fail in any way at all; the reader needs the clause and the first line of the cause.
        raise broken(
            name,
            f"applied to images {(4, *image_shape)} it raised {type(error).__name__}: "
            f"{(str(error).strip() or repr(error)).splitlines()[0]}",
        ) from error
    if isinstance(output, Mapping):
        shapes = ", ".join(f"{key!r} {getattr(value, 'shape', type(value).__name__)}" for key, value in output.items())
        if features not in output:
            asked = "none is chosen" if features is None else f"{features!r} is not among them"
            raise broken(name, f"it returns a dictionary ({shapes}) of which {asked}: pass --features KEY.")
        return _checked(name, Form(False, key=features), output[features])
    if features not in (None, OUTPUT):
        raise broken(
            name,
            f"--features {features} asks for an entry of a dictionary, but it returns {_shape_of(output)}: leave "
            f"it out, or pass --features {OUTPUT} for the output as it comes.",
        )
    if isinstance(output, tuple) and len(output) == 2 and features is None:
        if "head" not in params:
            raise broken(
                name,
                f"it returns (logits, features), but no layer is named 'head' (found: {', '.join(sorted(params))}"
                "): name the last layer 'head', or return the features alone, and jdt adds a head.",
            )
        return Form(True)
    without = None if features == OUTPUT else ways.last_layer(module, image_shape)
    if without is not None:
        output = jax.eval_shape(
            lambda key: ways.apply(
                module, *ways.init(module, key, image_shape, without), jnp.zeros((4, *image_shape)), None, without
            )[0],
            jax.random.key(0),
        )
    return _checked(name, Form(False, without=without), output)


def _checked(name: str, form: Form, features: Any) -> Form:
    if not isinstance(features, jax.ShapeDtypeStruct):
        raise broken(
            name,
            f"it returns {_shape_of(features)}, expected features [batch, features], a dictionary of them, or "
            "(logits, features).",
        )
    if features.ndim != 2 or features.shape[0] != 4:
        raise broken(
            name,
            f"features have shape {features.shape} for 4 images, expected (batch, features): pool or flatten the "
            "other axes.",
        )
    return form


def _shape_of(output: Any) -> str:
    if isinstance(output, tuple | list):
        return f"{type(output).__name__}({', '.join(map(_shape_of, output))})"
    return str(getattr(output, "shape", type(output).__name__))


def broken(name: str, what: str) -> checks.UserError:
    """The error for a clause of the contract that a model breaks."""
    return checks.UserError(f"model {name} breaks the contract: {what}")
