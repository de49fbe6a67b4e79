"""Analyses: what influences and images together say about source and target data.

>>> import numpy as np
>>> images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
>>> nearest_copies(images, images[2:, :, ::-1]).index.tolist()
[[2]]
"""

from jdt.analyses.similarity import SURELY_A_COPY as SURELY_A_COPY
from jdt.analyses.similarity import Copies as Copies
from jdt.analyses.similarity import nearest_copies as nearest_copies
from jdt.analyses.similarity import similarity_of as similarity_of
