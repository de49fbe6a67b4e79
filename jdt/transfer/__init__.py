"""Transfer: what a source model is worth on a target, with its features fixed or fine-tuned as a whole.

>>> import jax.numpy as jnp
>>> head = fit_head(jnp.array([[0.0], [1.0], [2.0], [3.0]]), jnp.array([0, 0, 1, 1]), num_classes=2)
>>> head.logits(jnp.array([[0.0], [3.0]])).argmax(axis=1).tolist()
[0, 1]
"""

from jdt.transfer.fixed import FixedFeature as FixedFeature
from jdt.transfer.fixed import FrozenFeatures as FrozenFeatures
from jdt.transfer.fixed import Transferred as Transferred
from jdt.transfer.fixed import head_memory_needed as head_memory_needed
from jdt.transfer.fixed import transfer_fixed as transfer_fixed
from jdt.transfer.full import FineTuned as FineTuned
from jdt.transfer.full import FullNetwork as FullNetwork
from jdt.transfer.full import transfer_full as transfer_full
from jdt.transfer.full import tuned_ensemble as tuned_ensemble
from jdt.transfer.head import Head as Head
from jdt.transfer.head import fit_head as fit_head
from jdt.transfer.nmtune import Tuned as Tuned
from jdt.transfer.nmtune import checked_features as checked_features
from jdt.transfer.nmtune import checked_labels as checked_labels
from jdt.transfer.nmtune import checked_views as checked_views
from jdt.transfer.nmtune import nmtune as nmtune
from jdt.transfer.prototype import prototype_head as prototype_head
from jdt.transfer.subsets import Draw as Draw
from jdt.transfer.subsets import drawn_rows as drawn_rows
from jdt.transfer.subsets import few_shot as few_shot
from jdt.transfer.subsets import target_fraction as target_fraction
from jdt.transfer.tuning import Tuning as Tuning
from jdt.transfer.tuning_transfer import TunedTransfer as TunedTransfer
from jdt.transfer.tuning_transfer import ViewBanks as ViewBanks
from jdt.transfer.tuning_transfer import transfer_tuned as transfer_tuned
from jdt.transfer.tuning_transfer import view_bank as view_bank
from jdt.transfer.zero_shot import TextHead as TextHead
from jdt.transfer.zero_shot import ZeroShot as ZeroShot
from jdt.transfer.zero_shot import derangement as derangement
from jdt.transfer.zero_shot import require_aligned as require_aligned
from jdt.transfer.zero_shot import require_text_tower as require_text_tower
from jdt.transfer.zero_shot import text_head as text_head
from jdt.transfer.zero_shot import transfer_zero_shot as transfer_zero_shot
