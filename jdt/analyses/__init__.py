"""Analyses: what influences are good for, as pure functions of arrays (arXiv 2207.05739).

Counterfactual curves; which images a source unit drives although they are labelled otherwise, which unit is to blame
for a failure, which source images leak into a target image or mislead it; perceptual similarity of images; what a
pattern on test images does to predictions, and whether groups are treated alike (arXiv 2207.02842); spectra of features
(arXiv 2309.17002); how much the choice of pre-training data matters, and how much of one equals another
(arXiv 2302.13602).

>>> import numpy as np
>>> images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
>>> nearest_copies(images, images[2:, :, ::-1]).index.tolist()
[[2]]
"""

from jdt.analyses.accuracy_log import AccuracyLog as AccuracyLog
from jdt.analyses.accuracy_log import BestOfGrid as BestOfGrid
from jdt.analyses.accuracy_log import ImagesTested as ImagesTested
from jdt.analyses.accuracy_log import LogColumns as LogColumns
from jdt.analyses.accuracy_log import best_of_grid as best_of_grid
from jdt.analyses.accuracy_log import cell_table as cell_table
from jdt.analyses.accuracy_log import drawn_tests as drawn_tests
from jdt.analyses.accuracy_log import images_tested as images_tested
from jdt.analyses.accuracy_log import read_accuracy_log as read_accuracy_log
from jdt.analyses.bias import accuracy_drop as accuracy_drop
from jdt.analyses.bias import accuracy_parts as accuracy_parts
from jdt.analyses.bias import attack_parts as attack_parts
from jdt.analyses.bias import attack_success as attack_success
from jdt.analyses.bias import attacked_class as attacked_class
from jdt.analyses.bias import attacked_classes as attacked_classes
from jdt.analyses.bias import flip_outputs as flip_outputs
from jdt.analyses.bias import flip_rate as flip_rate
from jdt.analyses.bias import output_change as output_change
from jdt.analyses.bias import prediction_histogram as prediction_histogram
from jdt.analyses.bias import prediction_shift as prediction_shift
from jdt.analyses.bias import shift_outputs as shift_outputs
from jdt.analyses.bias import total_shift as total_shift
from jdt.analyses.bias_intervals import Difference as Difference
from jdt.analyses.bias_intervals import bootstrap_examples as bootstrap_examples
from jdt.analyses.bias_intervals import paired as paired
from jdt.analyses.bias_intervals import sweep_correlation as sweep_correlation
from jdt.analyses.counterfactual import FIRST_RETRAINED_ID as FIRST_RETRAINED_ID
from jdt.analyses.counterfactual import Halves as Halves
from jdt.analyses.counterfactual import Removals as Removals
from jdt.analyses.counterfactual import accuracy_curves as accuracy_curves
from jdt.analyses.counterfactual import best_points as best_points
from jdt.analyses.counterfactual import counts_of as counts_of
from jdt.analyses.counterfactual import halves as halves
from jdt.analyses.counterfactual import mean_interval as mean_interval
from jdt.analyses.counterfactual import removal_orders as removal_orders
from jdt.analyses.counterfactual import removals as removals
from jdt.analyses.effects import Effects as Effects
from jdt.analyses.effects import moved as moved
from jdt.analyses.effects import movers as movers
from jdt.analyses.effects import pick as pick
from jdt.analyses.effects import q_values_of as q_values_of
from jdt.analyses.failures import Failures as Failures
from jdt.analyses.failures import Mending as Mending
from jdt.analyses.failures import Mistakes as Mistakes
from jdt.analyses.failures import Outcomes as Outcomes
from jdt.analyses.failures import Retrain as Retrain
from jdt.analyses.failures import failures as failures
from jdt.analyses.failures import mended as mended
from jdt.analyses.failures import mistakes as mistakes
from jdt.analyses.failures import verify_failures as verify_failures
from jdt.analyses.group_skew import WorstGroup as WorstGroup
from jdt.analyses.group_skew import group_skew as group_skew
from jdt.analyses.group_skew import opportunity_gaps as opportunity_gaps
from jdt.analyses.group_skew import skew_parts as skew_parts
from jdt.analyses.group_skew import worst_group as worst_group
from jdt.analyses.label_noise import ConfidentLearning as ConfidentLearning
from jdt.analyses.label_noise import Detection as Detection
from jdt.analyses.label_noise import Predicted as Predicted
from jdt.analyses.label_noise import confident_learning as confident_learning
from jdt.analyses.label_noise import detection_auc as detection_auc
from jdt.analyses.label_noise import detection_curve as detection_curve
from jdt.analyses.label_noise import in_sample as in_sample
from jdt.analyses.label_noise import influence_scores as influence_scores
from jdt.analyses.label_noise import loss_ranking as loss_ranking
from jdt.analyses.label_noise import neighbour_disagreement as neighbour_disagreement
from jdt.analyses.label_noise import neighbour_weights as neighbour_weights
from jdt.analyses.label_noise import out_of_sample as out_of_sample
from jdt.analyses.label_noise import precision_at as precision_at
from jdt.analyses.linear_theory import kept_after as kept_after
from jdt.analyses.linear_theory import kept_part as kept_part
from jdt.analyses.linear_theory import least_change as least_change
from jdt.analyses.pretraining import NullBand as NullBand
from jdt.analyses.pretraining import Selection as Selection
from jdt.analyses.pretraining import error_reduction as error_reduction
from jdt.analyses.pretraining import fade as fade
from jdt.analyses.pretraining import fade_gap as fade_gap
from jdt.analyses.pretraining import gain_over_scratch as gain_over_scratch
from jdt.analyses.pretraining import null_band as null_band
from jdt.analyses.pretraining import pairwise_difference as pairwise_difference
from jdt.analyses.pretraining import rank_stability as rank_stability
from jdt.analyses.pretraining import relative_spread as relative_spread
from jdt.analyses.pretraining import select as select
from jdt.analyses.pretraining import spread as spread
from jdt.analyses.pretraining_choice import Components as Components
from jdt.analyses.pretraining_choice import Ranking as Ranking
from jdt.analyses.pretraining_choice import Surer as Surer
from jdt.analyses.pretraining_choice import method_gap as method_gap
from jdt.analyses.pretraining_choice import rank_sources as rank_sources
from jdt.analyses.pretraining_choice import seeds_beyond_noise as seeds_beyond_noise
from jdt.analyses.pretraining_choice import surer as surer
from jdt.analyses.pretraining_choice import variance_components as variance_components
from jdt.analyses.pretraining_equivalence import AT_ONCE_REACHED as AT_ONCE_REACHED
from jdt.analyses.pretraining_equivalence import NOT_REACHED as NOT_REACHED
from jdt.analyses.pretraining_equivalence import Equivalence as Equivalence
from jdt.analyses.pretraining_equivalence import Size as Size
from jdt.analyses.pretraining_equivalence import data_equivalence as data_equivalence
from jdt.analyses.pretraining_equivalence import equivalent_size as equivalent_size
from jdt.analyses.pretraining_equivalence import label_worth as label_worth
from jdt.analyses.pretraining_equivalence import monotone as monotone
from jdt.analyses.pretraining_intervals import Estimate as Estimate
from jdt.analyses.pretraining_intervals import Resampled as Resampled
from jdt.analyses.pretraining_intervals import draws_of as draws_of
from jdt.analyses.pretraining_intervals import estimate as estimate
from jdt.analyses.pretraining_intervals import exactly as exactly
from jdt.analyses.pretraining_intervals import resample as resample
from jdt.analyses.published_probe import ProbeAccuracies as ProbeAccuracies
from jdt.analyses.published_probe import published_probe as published_probe
from jdt.analyses.rates import Counted as Counted
from jdt.analyses.rates import Gap as Gap
from jdt.analyses.rates import Rate as Rate
from jdt.analyses.related import Relatedness as Relatedness
from jdt.analyses.related import related_masks as related_masks
from jdt.analyses.related import relatedness as relatedness
from jdt.analyses.similarity import SURELY_A_COPY as SURELY_A_COPY
from jdt.analyses.similarity import Copies as Copies
from jdt.analyses.similarity import nearest_copies as nearest_copies
from jdt.analyses.similarity import similarity_of as similarity_of
from jdt.analyses.spectra import effective_rank as effective_rank
from jdt.analyses.spectra import lsvr as lsvr
from jdt.analyses.spectra import singular_values as singular_values
from jdt.analyses.spectra import sve as sve
from jdt.analyses.subpopulations import Subpopulation as Subpopulation
from jdt.analyses.subpopulations import natural_matches as natural_matches
from jdt.analyses.subpopulations import subpopulations as subpopulations
from jdt.analyses.suspects import VERDICTS as VERDICTS
from jdt.analyses.suspects import Paired as Paired
from jdt.analyses.suspects import Suspicions as Suspicions
from jdt.analyses.suspects import join as join
from jdt.analyses.suspects import leakage as leakage
from jdt.analyses.suspects import misleading as misleading
from jdt.analyses.suspects import paired_with as paired_with
from jdt.analyses.suspects import strongest as strongest
