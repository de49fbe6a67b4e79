"""Which single source images help, and which harm, each target image?

Question  As experiments.class_influence, with every source image as a unit: leaked copies of target images help them
          most, misleading images harm most (experiments.inspect_influence shows both, image beside image).
Source    arXiv 2207.05739 (source-data influence for transfer learning), sections 3.1 and 3.8.
Run       python -m experiments.example_influence --out runs/examples
Smoke     python -m experiments.example_influence --out runs/examples --preset smoke
Your data python -m experiments.example_influence --out runs/mine --source folder:PATH --target cifar10 \
              --image-size 32 --num-models 2000 --fraction 0.5 --target-test-split 'test[:1000]'
"""

import dataclasses
import pathlib
import sys
from typing import Annotated

import tyro

import jdt
from experiments import class_influence, influence_setup


@dataclasses.dataclass(frozen=True)
class Config(influence_setup.Config):
    """Every knob of the experiment."""

    units: Annotated[str, tyro.conf.Suppress] = "examples"
    """Every source image is a unit."""
    design: jdt.masks.DesignKind = "fixed-size"
    """How subsets are drawn: fixed-size (the published one), antithetic or balanced pairs, balanced or bernoulli."""
    num_models: int = 1000
    """Source models to train: an image's effect is small, so there must be many."""
    estimators: tuple[str, ...] = ("difference", "lasso")
    """How influences are estimated: difference, lasso, ridge. A LASSO takes long with fewer models than units."""


DEMO = Config(
    out=pathlib.Path("runs/examples"),
    num_models=192,
    estimators=("difference", "ridge"),
    recipe=jdt.train.Recipe(epochs=6, batch_size=64, learning_rate=0.1),
)
PRESETS = {
    "demo": DEMO,
    "smoke": dataclasses.replace(
        DEMO,
        num_models=8,
        block_size=2,
        estimators=("difference",),
        recipe=jdt.train.Recipe(epochs=0.5, batch_size=64, learning_rate=0.1, warmup_epochs=0.1),
    ),
    "paper": Config(**{
        **vars(class_influence.PRESETS["paper"]), "out": pathlib.Path("runs/paper_examples"), "units": "examples",
        "num_models": 71828, "estimators": ("difference", "lasso"), "target": ("cifar10",),
    }),
}  # fmt: skip


if __name__ == "__main__":
    description = (__doc__ or "").split("\n")[0]
    sys.exit(jdt.cli.main(class_influence.main, PRESETS, default="demo", description=description))
