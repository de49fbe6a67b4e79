"""How well influences predict, against the number of models that they rest on: curves, and their drawing."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

import jdt

WINDOWS = 4
"""At most so many disjoint parts of a run stand for the runs of that size that could have been made."""


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """Models that no fit has seen, the same for all designs.

    Attributes:
      masks: bool `[models, units]`.
      outputs: float `[models, targets]`.
    """

    masks: np.ndarray
    outputs: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """Linear datamodeling score against the number of models, for one design and estimator.

    Attributes:
      design: Kind of design.
      estimator: Name of the estimator.
      sizes: int `[sizes]`: models fitted on, ascending.
      value: float `[sizes]`: mean over targets and over disjoint parts of the run.
      draws: float `[sizes, resamples]`: the same in bootstrap resamples of parts and of held-out models.
      parts: int `[sizes]`: how many disjoint parts of the run there were.
    """

    design: str
    estimator: str
    sizes: np.ndarray
    value: np.ndarray
    draws: np.ndarray
    parts: np.ndarray

    @property
    def intervals(self) -> tuple[np.ndarray, np.ndarray]:
        """95 % intervals of `value`. They cover the choice of models only where `parts` is more than 1."""
        low, high = np.quantile(self.draws, [0.025, 0.975], axis=1)
        return low, high


def measure(
    estimator: jdt.estimators.Estimator,
    design: str,
    rows: tuple[np.ndarray, np.ndarray],
    held_out: HeldOut,
    sizes: Sequence[int],
    *,
    paired: bool,
    resamples: int,
) -> Curve:
    """Fit parts of a run and score what they predict for the held-out models.

    Parts are runs of consecutive models: balance and pairs stay whole in them.

    Args:
      estimator: Which one.
      design: Its name, for the curve.
      rows: Masks and outputs of the run.
      held_out: Models to predict.
      sizes: Numbers of models to fit on; those above the run's are left out.
      paired: Whether rows 2i and 2i+1 are a pair.
      resamples: Bootstrap resamples; the same held-out models are drawn for every curve.
    """
    masks, outputs = rows
    usable = np.array([size for size in sizes if size <= len(masks)])
    value, draws, parts = [], [], []
    for size in usable:
        starts = np.arange(min(WINDOWS, len(masks) // size)) * size
        scored = []
        for start in starts:
            part = slice(start, start + size)
            predicted = estimator.fit(masks[part], outputs[part], paired=paired).predict(held_out.masks)
            scored.append(_scores(np.asarray(predicted), held_out.outputs, resamples))
        table = np.array(scored)  # [parts, 1 + resamples], the first without resampling.
        drawn = np.random.default_rng(1).integers(len(table), size=(resamples, len(table)))
        value.append(table[:, 0].mean())
        draws.append(np.array([table[drawn[b], 1 + b].mean() for b in range(resamples)]))
        parts.append(len(table))
    return Curve(design, estimator.name, usable, np.array(value), np.array(draws), np.array(parts))


def _scores(predicted: np.ndarray, actual: np.ndarray, resamples: int) -> np.ndarray:
    draws = jdt.evaluate.model_draws(predicted, actual, resamples=resamples)
    return np.concatenate([jdt.evaluate.lds(predicted, actual).mean(keepdims=True), draws])


def gain_over(curve: Curve, bar: Curve) -> tuple[float, float, float]:
    """LDS with all models less another curve's, with a 95 % interval over the held-out models that both predict."""
    low, high = np.quantile(curve.draws[-1] - bar.draws[-1], [0.025, 0.975])
    return float(curve.value[-1] - bar.value[-1]), float(low), float(high)


def models_to_reach(curve: Curve, bar: Curve) -> tuple[float, float, float]:
    """Models with which a curve reaches what another one reaches with all of its own, with a 95 % interval.

    Linear between measured numbers of models on a logarithmic scale; the smallest number where it begins above the
    bar, infinity where it ends below.
    """
    low, high = np.quantile(
        [_crossing(curve.sizes, curve.draws[:, b], bar.draws[-1, b]) for b in range(curve.draws.shape[1])],
        [0.025, 0.975],
        method="closest_observation",  # Infinity has no mean with anything.
    )
    return _crossing(curve.sizes, curve.value, bar.value[-1]), float(low), float(high)


def _crossing(sizes: np.ndarray, value: np.ndarray, bar: float) -> float:
    above = np.flatnonzero(value >= bar)
    if not len(above):
        return float("inf")
    first = above[0]
    if first == 0:
        return float(sizes[0])
    share = (bar - value[first - 1]) / (value[first] - value[first - 1])
    return float(np.exp(np.interp(share, [0, 1], np.log(sizes[[first - 1, first]]))))


def draw(panels: dict[str, Sequence[Curve]]) -> bytes:
    """One panel a title, a line for each estimator (style) and design (colour), as PNG."""
    colours: dict[str, str] = dict(zip(jdt.masks.KINDS, jdt.report.KIND_COLOURS, strict=False))
    with jdt.report.drawing():
        figure = Figure(figsize=(0.6 + 5.0 * len(panels), 4.6), layout="constrained")
        grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, (title, curves) in zip(grid, panels.items(), strict=True):
            names = list(dict.fromkeys(curve.estimator for curve in curves))
            for i, curve in enumerate(curves):
                style = ("-", "--", ":", "-.")[names.index(curve.estimator) % 4]
                low, high = curve.intervals
                # Shifted a little: intervals of equal sizes would cover each other.
                where = curve.sizes * 2 ** (0.02 * (i - len(curves) / 2))
                axes.errorbar(
                    where, curve.value, yerr=[np.maximum(curve.value - low, 0), np.maximum(high - curve.value, 0)],
                    color=colours[curve.design], linestyle=style, linewidth=1.4, elinewidth=0.7, marker="o",
                    markersize=3, label=f"{curve.estimator}, {curve.design}",
                )  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks := sorted({int(s) for curve in curves for s in curve.sizes}), [str(t) for t in ticks])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.axhline(0, color="#8c8c8c", linewidth=0.8)
            axes.set(title=title, xlabel="models fitted on")
        grid[0].set_ylabel("LDS on held-out models")
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
        return jdt.report.png_bytes(figure)
