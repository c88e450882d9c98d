"""The figure of the chapter on equal compute: accuracy against all that was spent until then."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from livt.companion.plots import grid
from livt.companion.published import LOSS_NAMES

LINES: dict[str, tuple[str, Any, str]] = {
    "mgp": ("#009E73", "-", "MGP, then fine-tuning"),
    "scratch, equal epochs": ("#CC79A7", "--", "from scratch, equal epochs"),
    "scratch, equal compute": ("#000000", ":", "from scratch, equal compute"),
}


def against_compute(panels: Mapping[str, tuple[pd.DataFrame, float]]) -> Figure:
    """Draw test accuracy against the compute of all stages, a line per seed, a panel per suite and loss.

    panels: by title, columns start, loss, seed, spent [% of the budget], accuracy [%], a row per epoch, those of MGP
    after its pretraining; and the accuracy of guessing, percent.
    """
    drawn = [(title, loss) for title, (curves, _) in panels.items() for loss in curves.loss.unique()]
    figure, axes = grid(len(drawn), height=2.7, sharey=True)
    for axis, (title, loss) in zip(axes, drawn, strict=True):
        curves, chance = panels[title]
        rows = curves[curves.loss == loss]
        own = rows[rows.start == "mgp"]
        if len(own):
            axis.axvspan(0, own.spent.min(), color="0.93", zorder=0)
            axis.text(own.spent.min() / 2, 98, "pretraining", ha="center", va="top", color="0.3", fontsize=9)
        for start, (colour, dash, _) in LINES.items():
            for _, one in rows[rows.start == start].groupby("seed"):
                axis.plot(one.spent, one.accuracy, dash, color=colour, linewidth=1.5)
                axis.plot(one.spent.iloc[-1], one.accuracy.iloc[-1], "o", color=colour, markersize=4)
        axis.axhline(chance, color="0.4", linewidth=1)
        axis.set(title=f"{title}\n{LOSS_NAMES[loss]}", xlabel="compute of all stages [% of MGP's]", ylim=(0, 102))
        axis.set(xlim=(0, None), ylabel="test accuracy [%]")
    lines = [Line2D([], [], color=colour, linestyle=dash, linewidth=1.5) for colour, dash, _ in LINES.values()]
    figure.legend(lines, [name for *_, name in LINES.values()], loc="outside lower center", ncols=len(LINES))
    return figure
