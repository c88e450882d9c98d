"""Figures of the chapter on masked pretraining."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from torch import Tensor

from livt.companion.plots import GROUP_COLOURS, METRIC_NAMES, WIDTH, grid

GROUP_DASHES: dict[str, Any] = {
    "accuracy": "-",
    "many": (0, (5, 1.5)),
    "medium": (0, (6, 1.5, 1.5, 1.5)),
    "few": (0, (1.5, 1)),
}


def losses(panels: Mapping[str, tuple[pd.DataFrame, float | None]]) -> Figure:
    """Draw the pretraining loss against the share of pretraining, a line per seed; one panel per title.

    panels: columns seed, share [%] and train_loss; and the loss of giving each patch its mean, where it is known.
    """
    figure, axes = grid(len(panels), height=2.1, sharex=True, sharey=True)
    for axis, (title, (curves, guess)) in zip(axes, panels.items(), strict=True):
        for _, one in curves.groupby("seed"):
            axis.plot(one.share, one.train_loss, color="0.1", linewidth=1.5)
        if guess is not None:
            axis.axhline(guess, color="0.35", linestyle="--", linewidth=1.2)
            place: dict[str, Any] = {"xytext": (0, 3), "textcoords": "offset points", "ha": "right", "fontsize": 9}
            axis.annotate("each patch's mean", (100, guess), **place)
        axis.set(title=title, ylim=(0, None))
    figure.supxlabel("share of pretraining [%]", fontsize=9)
    figure.supylabel("loss on hidden patches [variance of a patch]", fontsize=9)
    return figure


def pictures(columns: Mapping[str, Tensor], rows: Sequence[str]) -> Figure:
    """Draw images in a grid: columns by title, each [N, 3, H, W] from 0 to 255; rows by the name of the image."""
    height, width = next(iter(columns.values())).shape[2:]
    row = 0.6 * height / width + 0.06
    close = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure, axes = plt.subplots(
        len(rows), len(columns), figsize=(WIDTH, 0.6 + row * len(rows)), layout=close, squeeze=False
    )
    for line, (title, images) in zip(axes.T, columns.items(), strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image.clamp(0, 255).permute(1, 2, 0).numpy() / 255, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_color("0.6")
        line[0].set_title(title)
    for axis, name in zip(axes[:, 0], rows, strict=True):
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


def probes(panels: Mapping[str, tuple[pd.DataFrame, float]], names: Mapping[str, str]) -> Figure:
    """Draw accuracy of each probe against epochs of pretraining: a line per shot group, a dot per seed.

    panels: by title, columns probe, seed, epoch and the metrics, and the accuracy of guessing; a row of panels each.
    names: title by probe.
    """
    figure, axes = grid(2 * len(panels), height=2.2, sharey=True)
    cells = [(title, probe) for title in panels for probe in names]
    for axis, (title, probe) in zip(axes, cells, strict=True):
        probed, chance = panels[title]
        inside = probed[probed.probe == probe]
        for part, colour in GROUP_COLOURS.items():
            mean = inside.groupby("epoch")[part].mean()
            axis.plot(mean.index, mean, color=colour, linestyle=GROUP_DASHES[part], linewidth=1.8)
            axis.plot(inside.epoch, inside[part], "D", color=colour, markersize=3)
        axis.axhline(chance, color="0.45", linestyle=":", linewidth=1.2)
        axis.set(title=f"{title}:\n{names[probe]}", ylim=(0, 103))
    for axis in axes[-len(names) :]:  # a label of the figure would lie under its legend
        axis.set_xlabel("epochs of pretraining")
    figure.supylabel("accuracy [%]", fontsize=9)
    drawn = [(GROUP_COLOURS[part], GROUP_DASHES[part]) for part in METRIC_NAMES]
    marks = [Line2D([], [], color=colour, linestyle=dash, marker="D", markersize=3) for colour, dash in drawn]
    marks.append(Line2D([], [], color="0.45", linestyle=":"))
    figure.legend(marks, [*METRIC_NAMES.values(), "chance"], loc="outside lower center", ncols=5)
    return figure
