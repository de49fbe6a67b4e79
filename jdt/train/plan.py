"""Plans: how the models of a block share the device. Every plan computes the same numbers, at different speeds."""

import dataclasses
from typing import Literal

Layout = Literal["unrolled", "vmapped"]
Convolution = Literal["native", "matmul", "winograd"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """One way of laying out and driving the models of a block.

    Attributes:
      name: How `--plan` calls it.
      layout: `unrolled` repeats the step once a model inside one program; `vmapped` adds a models axis to every array.
      convolution: `native` leaves convolutions to the compiler; the others carry images batch-last through the model
        and compute convolutions as matrix products, in float32 and where it pays after Winograd's transform.
      steps_per_call: Optimiser steps that one call of the program drives by itself.
      width: Models that a device takes at once, at most.
    """

    name: str
    layout: Layout
    convolution: Convolution
    steps_per_call: int
    width: int


PLANS = {
    plan.name: plan
    for plan in (
        Plan("winograd", "unrolled", "winograd", steps_per_call=32, width=1),
        Plan("matmul", "unrolled", "matmul", steps_per_call=32, width=1),
        Plan("vmapped-winograd", "vmapped", "winograd", steps_per_call=32, width=32),
        Plan("vmapped", "vmapped", "matmul", steps_per_call=32, width=32),
        # A vmapped convolution is a grouped one.
        Plan("grouped", "vmapped", "native", steps_per_call=32, width=32),
        Plan("scan", "unrolled", "native", steps_per_call=32, width=1),
        # On a CPU a convolution inside a loop on the device is some 40 times slower: one call a step.
        Plan("native", "unrolled", "native", steps_per_call=1, width=1),
    )
}

CANDIDATES = {
    "cpu": ("winograd", "matmul", "native"),
    "gpu": ("vmapped", "scan", "grouped"),
    "tpu": ("vmapped", "scan", "grouped"),
}
"""Plans that `auto` times, by backend, the one that is expected to win first."""
