"""Plans: how the models of a block share the device. Every plan computes the same numbers, at different speeds."""

import dataclasses
from typing import Literal

import jax

from jdt import checks

Layout = Literal["unrolled", "vmapped"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """One way of laying out and driving the models of a block.

    Attributes:
      name: How `--plan` calls it.
      layout: `unrolled` repeats the step once a model inside one program; `vmapped` adds a models axis to every array.
      matmul_convolutions: Whether convolutions are computed as matrix products.
      steps_per_call: Optimiser steps that one call of the program drives by itself.
      block_size: Models a block, when the configuration does not say.
    """

    name: str
    layout: Layout
    matmul_convolutions: bool
    steps_per_call: int
    block_size: int


PLANS = {
    plan.name: plan
    for plan in (
        Plan("unrolled", "unrolled", matmul_convolutions=True, steps_per_call=32, block_size=2),
        Plan("vmapped", "vmapped", matmul_convolutions=True, steps_per_call=32, block_size=32),
        # On a CPU a convolution inside a loop on the device is some 40 times slower: one call a step.
        Plan("native", "unrolled", matmul_convolutions=False, steps_per_call=1, block_size=2),
    )
}


def choose(name: str) -> Plan:
    """Return the plan called `name`; `auto` means `unrolled` on CPUs and `vmapped` elsewhere.

    Raises:
      UserError: If there is no such plan.
    """
    checks.require_known("plan", name, ["auto", *PLANS])
    if name == "auto":
        name = "unrolled" if jax.default_backend() == "cpu" else "vmapped"
    return PLANS[name]
