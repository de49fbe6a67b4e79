"""Linear algebra on arrays: the spectrum of a design matrix.

>>> import jax.numpy as jnp
>>> [round(float(v), 6) for v in thin_spectrum(jnp.array([[3.0, 0.0], [0.0, 2.0]])).values]
[4.0, 9.0]
"""

from jdt.linalg.spectrum import Spectrum as Spectrum
from jdt.linalg.spectrum import matmul as matmul
from jdt.linalg.spectrum import thin_spectrum as thin_spectrum
