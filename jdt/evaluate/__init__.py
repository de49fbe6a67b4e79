"""Evaluation: would these influences come out again, and do they stay at chance where there is nothing to find?

>>> import numpy as np
>>> round(pair_correlation(np.array([[1.0], [1.1], [2.0], [2.1], [3.0], [3.1]])), 6)
1.0
"""

from jdt.evaluate.reliability import auroc as auroc
from jdt.evaluate.reliability import column_correlation as column_correlation
from jdt.evaluate.reliability import pair_correlation as pair_correlation
from jdt.evaluate.reliability import permutation_control as permutation_control
from jdt.evaluate.reliability import permuted_masks as permuted_masks
from jdt.evaluate.reliability import split_half as split_half
