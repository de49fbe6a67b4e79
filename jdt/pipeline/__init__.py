"""The pipeline: what is run (`Task`), how blocks reach the store, and how stored outputs become findings."""

from jdt.pipeline.blocks import random_accuracy as random_accuracy
from jdt.pipeline.blocks import train_missing_blocks as train_missing_blocks
from jdt.pipeline.findings import Truth as Truth
from jdt.pipeline.findings import estimate_target as estimate_target
from jdt.pipeline.findings import feature_gap_warning as feature_gap_warning
from jdt.pipeline.findings import mean_figure as mean_figure
from jdt.pipeline.findings import summary_of as summary_of
from jdt.pipeline.fitting import Fitted as Fitted
from jdt.pipeline.fitting import HeldOut as HeldOut
from jdt.pipeline.fitting import fit_target as fit_target
from jdt.pipeline.rows import OUTPUTS as OUTPUTS
from jdt.pipeline.rows import share_of as share_of
from jdt.pipeline.rows import usable_models as usable_models
from jdt.pipeline.rows import usable_rows as usable_rows
from jdt.pipeline.stopping import UntilReliability as UntilReliability
from jdt.pipeline.stopping import verdict as verdict
from jdt.pipeline.task import Mode as Mode
from jdt.pipeline.task import TargetData as TargetData
from jdt.pipeline.task import Task as Task
from jdt.pipeline.task import pool_size as pool_size
