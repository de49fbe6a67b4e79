"""Objectives: what a model is trained for. The recipe says how (optimiser, schedule), the objective what counts.

An objective computes the loss of ONE model's batch, from one pass through the network (`forward`), so that BatchNorm's
statistics and in-batch negatives stay inside each model however many train side by side. Parameters of its own are a
part of the model's variables, `params["objective"]`, while it trains; the network never sees them, and transfer and
saved source models leave them out.
"""

import dataclasses
from typing import Any, ClassVar

from jdt import config
from jdt.data.augment import normalise
from jdt.data.base import Dataset
from jdt.models import ModelOutput, Variables
from jdt.train.clip import CLIP
from jdt.train.loss import Forward, cross_entropy
from jdt.train.recipe import Recipe
from jdt.train.simclr import SimCLR
from jdt.train.source import SourceData, batch_images
from jdt.types import Array, Float, Int, PRNGKey

OWN = "objective"
"""Where an objective keeps parameters of its own: `variables.params["objective"]`."""


@dataclasses.dataclass(frozen=True)
class Supervised:
    """Cross-entropy of the labels under the network's own head.

    What every objective has:

    Attributes:
      method: What it is called in settings and messages.
      top: Which parameters are its last layers: those that train where the `head` alone does.
      classifies: Whether `class_logits` says anything, so that an accuracy on the source exists.
      token_length: Tokens of text that it reads with each example; 0 for none.
    """

    method: ClassVar[str] = "supervised"
    top: ClassVar[str] = "head"
    classifies: ClassVar[bool] = True

    @property
    def token_length(self) -> int:
        """None."""
        return 0

    def check(self, recipe: Recipe, source: Dataset) -> None:
        """Raise a `UserError` where a recipe or a source does not go with it."""
        recipe.require_weights_for(source.name, len(source.class_names))

    def init(self, key: PRNGKey, num_features: int) -> dict[str, Any]:
        """Draw the parameters of its own; empty where it has none.

        Args:
          key: Of one model.
          num_features: Of the network.
        """
        del key, num_features
        return {}

    def inputs(
        self, recipe: Recipe, source: SourceData, key: PRNGKey, batch: Int[Array, " batch"]
    ) -> tuple[Float[Array, "batch height width channels"], Int[Array, " batch"]]:
        """What the loss reads of a batch: images as the network reads them, and labels.

        Args:
          recipe: Says how images are scaled.
          source: On the device.
          key: For augmentation, of one model and step.
          batch: Rows of `source`.
        """
        images = normalise(batch_images(recipe, source, key, batch), recipe.mean, recipe.std)
        return images, source.labels[batch]

    def loss(self, forward: Forward, own: Any, inputs: Any, recipe: Recipe) -> tuple[Float[Array, ""], Any]:
        """Loss of one model on a batch, and the state that the pass changed.

        Args:
          forward: The network with the parameters that the gradient is asked for.
          own: `params["objective"]`, or None.
          inputs: What `inputs` returned.
          recipe: For the settings of the loss.
        """
        del own
        images, labels = inputs
        output, changed = forward(images)
        return cross_entropy(output.logits, labels, recipe.label_smoothing, recipe.class_weights), changed

    def class_logits(self, output: ModelOutput, own: Any, class_names: tuple[str, ...]) -> Any:
        """Logits `[models, examples, classes]` on the source's classes, of stacked models' outputs."""
        del own, class_names
        return output.logits


Objective = Supervised | SimCLR | CLIP
"""Any of the objectives."""

SUPERVISED = Supervised()
"""What models are trained for where nothing else is asked for."""


def described(objective: Objective) -> dict[str, Any]:
    """An objective as plain JSON.

    >>> described(Supervised())
    {'method': 'supervised'}
    """
    return {"method": objective.method, **config.to_plain(objective)}


def of_network(variables: Variables) -> Variables:
    """Variables without what belongs to the objective; the arrays are the same."""
    if OWN not in variables.params:
        return variables
    return variables._replace(params={name: part for name, part in variables.params.items() if name != OWN})
