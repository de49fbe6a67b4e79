"""Outputs: what every model says about every target example.

>>> import jax.numpy as jnp
>>> float(example_outputs(jnp.array([[[1.0, 3.0]]]), jnp.array([0])).margin[0, 0])
-2.0
"""

from jdt.outputs.margins import ExampleOutputs as ExampleOutputs
from jdt.outputs.margins import example_outputs as example_outputs
