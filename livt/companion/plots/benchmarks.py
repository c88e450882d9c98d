"""The figures of the leaderboards, the published and the measured."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from livt.companion.plots import COLOURS, GROUP_COLOURS, WIDTH
from livt.longtail import GROUPS

MARKERS = {"many": "^", "medium": "o", "few": "v"}


def leaderboards(boards: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw every method's accuracies, best first; one panel per title, LiVT shaded.

    boards: as from ``livt.companion.leaderboards.leaderboard``. The dark bar is overall accuracy, the marks are the
    shot groups.
    """
    figure, axes = plt.subplots(1, len(boards), figsize=(WIDTH, 6), layout="constrained")
    for axis, (title, board) in zip(axes, boards.items(), strict=True):
        y = np.arange(len(board))[::-1]
        vit = np.where(board.backbone.str.startswith("ViT"), " (ViT)", "")
        labels = np.where(board.ours, "LiVT, " + board.resolution.astype(str), board.method + vit)
        lowest, highest = board[list(GROUPS)].min(axis=1), board[list(GROUPS)].max(axis=1)
        axis.hlines(y, lowest, highest, color="0.75", linewidth=1, zorder=1)
        for group, marker in MARKERS.items():
            axis.scatter(board[group], y, c=GROUP_COLOURS[group], marker=marker, s=18, label=group, zorder=2)
        axis.scatter(board.accuracy, y, c="0.1", marker="|", s=80, linewidth=2.5, label="all", zorder=3)
        for position in y[board.ours]:
            axis.axhspan(position - 0.5, position + 0.5, color="0.88", zorder=0)
        axis.set_yticks(y, labels)
        for tick, ours in zip(axis.get_yticklabels(), board.ours, strict=True):
            tick.set_fontweight("bold" if ours else "normal")
        axis.set(title=title, xlabel="accuracy [%]", ylim=(-0.7, len(board) - 0.3))
        axis.grid(axis="y", visible=False)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return figure


# Of a method beside another: ahead of it, behind it, not told apart; by colour, by shape and by what is filled.
TOLD: dict[int, tuple[str, dict[str, Any]]] = {
    1: ("ahead", {"color": COLOURS["ce"], "marker": ">"}),
    -1: ("behind", {"color": COLOURS["bce"], "marker": "<"}),
    0: ("not told apart", {"color": "0.35", "marker": "o", "markerfacecolor": "white"}),
}


def intervals(panels: Mapping[str, pd.DataFrame], names: Mapping[str, str]) -> Figure:
    """Draw differences with their 95 % intervals, a row per method in the order of ``names``; one panel per title.

    panels: as from ``livt.companion.rivals.gaps``. names: titles by arm. The axes are linear to 2 points and
    logarithmic beyond.
    """
    height = 0.19 * len(names) + 1.1
    figure, axes = plt.subplots(1, len(panels), figsize=(WIDTH, height), sharey=True, sharex=True, layout="constrained")
    rows = {arm: y for y, arm in enumerate(names)}
    edge = max((np.abs(table[["low", "high", "mean"]]).max().max() for table in panels.values()), default=2.0)
    for axis, (title, table) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        axis.axvline(0, color="0.25", linewidth=1)
        for row in table.itertuples():
            style = TOLD[row.told][1]
            axis.plot([row.low, row.high], [rows[row.arm]] * 2, color=style["color"], linewidth=2)
            axis.plot(row.mean, rows[row.arm], **style, markersize=5, markeredgecolor=style["color"], linestyle="")
        axis.set(title=title, xlabel="points of accuracy", ylim=(len(rows) - 0.4, -0.6))
        axis.set_xscale("symlog", linthresh=2, linscale=1.2)
        limit = 1.3 * max(2.0, np.nan_to_num(edge, nan=2.0))
        ticks = [t for t in (-50, -10, -2, 0, 2, 10, 50) if abs(t) <= limit]
        axis.set_xticks(ticks, [f"{t:+d}" if t else "0" for t in ticks])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlim(-limit, limit)
        axis.grid(axis="y", color="0.93")
    np.atleast_1d(axes)[0].set_yticks(range(len(names)), list(names.values()))
    marks = [Line2D([], [], linestyle="-", linewidth=2, **style) for _, style in TOLD.values()]
    figure.legend(marks, [name for name, _ in TOLD.values()], loc="outside lower center", ncols=len(marks))
    return figure
