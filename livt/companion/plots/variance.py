"""The figure of what a spread comes from: runs by draw, pretraining and fine-tuning."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from livt.companion.plots import GROUP_COLOURS, WIDTH

MARKERS = "osDv^P"


def nested(values: Mapping[str, NDArray[np.float64]]) -> Figure:
    """Draw each run, a panel for each number by its name, values [D, P, F]: draws side by side, pretrainings in each.

    The line is the mean of a draw.
    """
    hues = list(GROUP_COLOURS.values())
    figure, axes = plt.subplots(1, len(values), figsize=(WIDTH, 2.9), layout="constrained")
    for axis, (name, x) in zip(np.atleast_1d(axes), values.items(), strict=True):
        draws, pretrainings, seeds = x.shape
        for d in range(draws):
            axis.hlines(x[d].mean(), d - 0.4, d + 0.4, color="0.1", linewidth=1.4)
            for p in range(pretrainings):
                place = d + (p - (pretrainings - 1) / 2) * 0.24
                style = {"color": hues[1 + p % 3], "marker": MARKERS[p % len(MARKERS)], "markeredgecolor": "0.1"}
                axis.plot([place] * seeds, x[d, p], linestyle="", markersize=5, markeredgewidth=0.6, **style)
        axis.set(title=name, xticks=range(draws), xticklabels=range(1, draws + 1), xlim=(-0.6, draws - 0.4))
        axis.grid(visible=False, axis="x")
    np.atleast_1d(axes)[0].set_ylabel("accuracy [%], or difference [points]")
    figure.supxlabel("draw of the training images", fontsize=9)
    return figure
