"""The work that every variant of a benchmark does, described without JAX or PyTorch."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

EXAMPLES = 10_000
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4
MEAN, STD = 0.5, 0.25

Run = Callable[[], tuple[int, float]]
"""Does a workload once: (model steps done, seconds that they took)."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """Training of several models: each draws random batches from its own half of the images.

    The unit is the *model step*: one optimiser step of one model. A variant that trains k models at a time runs
    `models * steps / k` steps of those k, the same work in the same number of images.

    Attributes:
      network: `small_cnn`, `resnet9` or `resnet18`.
      models: How many models are to be trained.
      image_size: Height and width of the images; they have three channels.
      batch_size: Images a step.
      classes: Width of the logits.
      steps: Optimiser steps a model.
      precision: `float32`, `tf32`, `bfloat16` or `float16`: of convolutions and matrix products.
      device: `cpu` or `cuda`.
      devices: Local devices that jdt uses; 0 for all. PyTorch's sequential loops use one GPU, or all cores.
    """

    network: str
    models: int
    image_size: int
    batch_size: int
    classes: int
    steps: int
    precision: str
    device: str
    devices: int = 0

    def steps_of(self, together: int) -> int:
        """Steps to run with `together` models at a time so that the work is that of all `models`."""
        return max(1, math.ceil(self.models * self.steps / together))

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Random images uint8 `[10000, height, width, 3]` and labels int32 `[10000]`."""
        rng = np.random.default_rng(0)
        shape = (EXAMPLES, self.image_size, self.image_size, 3)
        return rng.integers(0, 256, shape, np.uint8), rng.integers(0, self.classes, EXAMPLES, np.int32)

    def members(self, count: int) -> np.ndarray:
        """Random halves of the images: bool `[count, 10000]`."""
        rng = np.random.default_rng(1)
        return rng.permuted(np.tile(np.arange(EXAMPLES) < EXAMPLES // 2, (count, 1)), axis=1)
