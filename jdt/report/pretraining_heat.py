"""The heatmap of pre-training data: accuracy of sources on targets."""

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure as Drawing

from jdt.report.plots import INK
from jdt.report.words import ABSENT, decimal, shorten
from jdt.types import Float

_MIDDLE = 0.55  # Of a colour scale: letters on darker cells are white.


def draw_heat(
    panels: Mapping[str, Float[np.ndarray, "sources targets"]], sources: Sequence[str], targets: Sequence[str]
) -> Drawing:
    """Accuracy of sources on targets: numbers in cells, coloured by how far they are behind the best of the column.

    Args:
      panels: By title, accuracies in per cent; NaN where nothing was measured.
      sources: Names of rows.
      targets: Names of columns.
    """
    beside = len(panels) * len(targets) <= 8
    labels = [shorten(name, 24) for name in sources]
    heads = [shorten(name, 16) for name in targets]
    cell = min(1.1, max(0.52, 2.6 / max(len(targets), 1)))
    steep = 0.085 * max(map(len, heads), default=0) > cell
    left, above = 0.4 + 0.075 * max(map(len, labels), default=0), 1.0 if steep else 0.55
    across, down = (len(panels), 1) if beside else (1, len(panels))
    size = (left + across * (cell * len(targets) + 0.15), down * (above + 0.24 * len(sources)) + 0.75)
    figure = Drawing(figsize=(max(size[0], 4.6), size[1]), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharey=True).ravel().tolist()
    behind = {
        title: np.nanmax(np.where(np.isfinite(values), values, -np.inf), axis=0) - values
        for title, values in panels.items()
    }
    gaps = np.concatenate([part[np.isfinite(part)] for part in behind.values()])
    limit = float(np.quantile(gaps, 0.95)) if gaps.size and gaps.max() > 0 else 1.0
    limit = limit or float(gaps.max())
    colours = matplotlib.colormaps["Blues_r"].with_extremes(bad="#e3e3e3")
    image = None
    for axes, (title, values) in zip(grid, panels.items(), strict=True):
        axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
        image = axes.imshow(np.ma.masked_invalid(behind[title]), cmap=colours, vmin=0, vmax=1.25 * limit, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            gap = behind[title][row, column]
            known = math.isfinite(value)
            dark = known and gap < (1 - _MIDDLE) * 1.25 * limit
            weight = "bold" if known and gap == 0 else "normal"
            axes.text(column, row, decimal(value, 1) if known else ABSENT, ha="center", va="center", fontsize=8.5,
                      color="white" if dark else INK, fontweight=weight)  # fmt: skip
        axes.set_xticks(range(len(heads)), heads, rotation=40 if steep else 0, ha="left" if steep else "center",
                        rotation_mode="anchor", fontsize=8.5)  # fmt: skip
        axes.xaxis.tick_top()
        axes.set_yticks(range(len(labels)), labels)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    if image is not None:
        bar = figure.colorbar(image, ax=grid, location="bottom", shrink=0.7, aspect=40, pad=0.02, extend="max")
        bar.set_label("points behind the best source of the column (bold)")
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure
