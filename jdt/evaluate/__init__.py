"""Evaluation: would these influences come out again, do they predict, and do they stay at chance where nothing is?

>>> import numpy as np
>>> round(pair_correlation(np.array([[1.0], [1.1], [2.0], [2.1], [3.0], [3.1]])), 6)
1.0
"""

from jdt.evaluate.aggregate import NOWHERE as NOWHERE
from jdt.evaluate.aggregate import Groups as Groups
from jdt.evaluate.aggregate import aggregate as aggregate
from jdt.evaluate.aggregate import by_class as by_class
from jdt.evaluate.aggregate import by_class_group as by_class_group
from jdt.evaluate.aggregate import whole_task as whole_task
from jdt.evaluate.baselines import DatamodelScore as DatamodelScore
from jdt.evaluate.baselines import mean_scores as mean_scores
from jdt.evaluate.baselines import score_datamodel as score_datamodel
from jdt.evaluate.baselines import similarity_scores as similarity_scores
from jdt.evaluate.controls import auroc as auroc
from jdt.evaluate.controls import permutation_control as permutation_control
from jdt.evaluate.controls import permuted_masks as permuted_masks
from jdt.evaluate.detection import PairDetection as PairDetection
from jdt.evaluate.detection import Share as Share
from jdt.evaluate.detection import UnitDetection as UnitDetection
from jdt.evaluate.detection import detect_harmful_unit as detect_harmful_unit
from jdt.evaluate.detection import detect_pairs as detect_pairs
from jdt.evaluate.detection import extreme_count as extreme_count
from jdt.evaluate.detection import share_of as share_of
from jdt.evaluate.lds import LDS as LDS
from jdt.evaluate.lds import lds as lds
from jdt.evaluate.lds import lds_intervals as lds_intervals
from jdt.evaluate.lds import model_draws as model_draws
from jdt.evaluate.reliability import ReliabilityCurve as ReliabilityCurve
from jdt.evaluate.reliability import column_correlation as column_correlation
from jdt.evaluate.reliability import models_needed as models_needed
from jdt.evaluate.reliability import pair_correlation as pair_correlation
from jdt.evaluate.reliability import reliability_curve as reliability_curve
from jdt.evaluate.reliability import spearman_brown as spearman_brown
from jdt.evaluate.reliability import split_half as split_half
from jdt.evaluate.significance import Significance as Significance
from jdt.evaluate.significance import p_values as p_values
from jdt.evaluate.significance import q_values as q_values
from jdt.evaluate.significance import significance as significance
