"""The figure of the leaderboards."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from livt.companion.plots import GROUP_COLOURS, WIDTH
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
