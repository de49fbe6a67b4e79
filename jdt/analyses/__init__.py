"""Analyses: what influences are good for, as pure functions of arrays.

>>> import numpy as np
>>> images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
>>> nearest_copies(images, images[2:, :, ::-1]).index.tolist()
[[2]]
"""

from jdt.analyses.counterfactual import Halves as Halves
from jdt.analyses.counterfactual import Removals as Removals
from jdt.analyses.counterfactual import accuracy_curves as accuracy_curves
from jdt.analyses.counterfactual import counts_of as counts_of
from jdt.analyses.counterfactual import halves as halves
from jdt.analyses.counterfactual import mean_interval as mean_interval
from jdt.analyses.counterfactual import removal_orders as removal_orders
from jdt.analyses.counterfactual import removals as removals
from jdt.analyses.similarity import SURELY_A_COPY as SURELY_A_COPY
from jdt.analyses.similarity import Copies as Copies
from jdt.analyses.similarity import nearest_copies as nearest_copies
from jdt.analyses.similarity import similarity_of as similarity_of
