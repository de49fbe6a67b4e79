"""Array aliases and the axis legend.

Axes, one word each, used in signatures, store columns and comments alike:
*models* (rows of a mask), *units* (what a mask column switches), *examples*, *classes*, *features*, *batch*,
*pairs* (an antithetic design's model and its complement), *penalties*, *steps*, *passes* (through a model's members).
"""

from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Key, UInt8

AnyArray: TypeAlias = jax.Array | np.ndarray

Masks: TypeAlias = Bool[AnyArray, "models units"]
Outputs: TypeAlias = Float[AnyArray, "models examples"]
Images: TypeAlias = UInt8[AnyArray, "examples height width channels"]
Labels: TypeAlias = Int[AnyArray, " examples"]
PRNGKey: TypeAlias = Key[jax.Array, ""]
