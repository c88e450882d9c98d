"""The figure of the chapter on settings: what choosing the epoch by the test would have added."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from livt.companion.plots import grid


def best_epochs(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the best epoch's accuracy minus the last one's, a dot per run; panels by title: columns of, added."""
    longest = max(frame["of"].nunique() for frame in panels.values())
    figure, axes = grid(len(panels), height=0.7 + 0.3 * longest)
    for axis, (title, frame) in zip(axes, panels.items(), strict=True):
        places = list(frame["of"].unique())
        axis.plot(frame.added, frame["of"].map(places.index), "o", color="#009E73", markeredgecolor="0.1", alpha=0.7)
        axis.axvline(0, color="0.25", linewidth=1)
        axis.set_yticks(range(len(places)), places)
        axis.set(title=title, ylim=(len(places) - 0.5, -0.5))
    figure.supxlabel("best epoch minus last epoch [points]", fontsize=9)
    return figure
