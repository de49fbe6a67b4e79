"""Training: a recipe, one pure step, the ensemble engine that trains a block of models at once, and its plan.

>>> Recipe(epochs=2, batch_size=50).num_steps(mean_subset_size=500)
20
"""

from jdt.train.checkpoint import Checkpoints as Checkpoints
from jdt.train.clip import CLIP as CLIP
from jdt.train.clip import class_vectors as class_vectors
from jdt.train.clip import contrastive_loss as contrastive_loss
from jdt.train.clip import vector_logits as vector_logits
from jdt.train.engine import Ensemble as Ensemble
from jdt.train.engine import Precision as Precision
from jdt.train.engine import Progress as Progress
from jdt.train.engine import Statistics as Statistics
from jdt.train.engine import Trained as Trained
from jdt.train.engine import apply_in_batches as apply_in_batches
from jdt.train.engine import initial_variables as initial_variables
from jdt.train.engine import train as train
from jdt.train.layout import batch_last as batch_last
from jdt.train.objectives import OWN as OWN
from jdt.train.objectives import SUPERVISED as SUPERVISED
from jdt.train.objectives import Objective as Objective
from jdt.train.objectives import Supervised as Supervised
from jdt.train.objectives import described as described
from jdt.train.plan import PLANS as PLANS
from jdt.train.plan import Plan as Plan
from jdt.train.planning import Choice as Choice
from jdt.train.planning import Timing as Timing
from jdt.train.planning import choose as choose
from jdt.train.planning import inference_memory_needed as inference_memory_needed
from jdt.train.planning import memory_needed as memory_needed
from jdt.train.planning import time_plan as time_plan
from jdt.train.pool import Pool as Pool
from jdt.train.recipe import Recipe as Recipe
from jdt.train.simclr import SimCLR as SimCLR
from jdt.train.source import SourceData as SourceData
from jdt.train.source import batch_images as batch_images
from jdt.train.source import source_data as source_data
