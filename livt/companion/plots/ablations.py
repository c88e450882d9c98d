"""The figure of the chapter that changes one setting at a time."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from livt.companion.plots import forest


def effects(measured: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """Draw each arm minus "base", as ``forest`` does, on axes that are linear to 5 points and logarithmic beyond."""
    figure = forest(measured, labels, "base")
    for axis in figure.axes:
        low, high = min(axis.dataLim.x0, -5), max(axis.dataLim.x1, 5)
        ticks = [t for t in (-80, -20, -5, 0, 5, 20, 80) if 1.2 * low <= t <= 1.2 * high]
        axis.set_xscale("symlog", linthresh=5, linscale=0.8)
        axis.set_xticks(ticks, [str(t) for t in ticks])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlim(1.4 * low, 1.4 * high)
    return figure
