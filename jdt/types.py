"""Array aliases and the axis legend.

Axes, one word each, used in signatures, store columns and comments alike:
*models* (rows of a mask), *units* (what a mask column switches), *examples*, *classes*, *features*, *batch*,
*pairs* (an antithetic design's model and its complement), *penalties*, *steps*, *passes* (through a model's members).

Shape annotations come from jaxtyping. Where it is not installed they say nothing, so that the engine runs on an image
with no more than jax, flax, optax and numpy.
"""

from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np

try:
    from jaxtyping import Array, Bool, Float, Int, Int32, Int64, Key, Shaped, UInt8
except ModuleNotFoundError:
    if not TYPE_CHECKING:

        class _Unchecked:
            def __class_getitem__(cls, item: Any) -> Any:
                return item[0]

        Array = jax.Array
        Bool = Float = Int = Int32 = Int64 = Key = Shaped = UInt8 = _Unchecked

AnyArray: TypeAlias = jax.Array | np.ndarray

Masks: TypeAlias = Bool[AnyArray, "models units"]
Outputs: TypeAlias = Float[AnyArray, "models examples"]
Images: TypeAlias = UInt8[AnyArray, "examples height width channels"]
Labels: TypeAlias = Int[AnyArray, " examples"]
PRNGKey: TypeAlias = Key[jax.Array, ""]
