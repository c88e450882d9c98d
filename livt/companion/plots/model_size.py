"""The figures of the chapter on model size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from livt.companion.plots import COLOURS, DASHES, WIDTH, grid
from livt.companion.published import LOSS_NAMES

MARKERS = {"ce": "o", "bal_ce": "s", "bce": "v", "bal_bce": "D"}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is drawn for one suite, or the paper.

    frame: columns loss, size and the metrics, and, where measured, seed. parameters: of the classifier, by size.
    chance: accuracy of guessing [%], or None.
    """

    frame: pd.DataFrame
    parameters: Mapping[str, float]
    chance: float | None = None


def accuracy_by_size(panels: Mapping[str, Sizes]) -> Figure:
    """Draw accuracy against the number of parameters: a line through the means of each loss, each seed a mark."""
    figure, axes = grid(len(panels), height=2.9, sharey=True)
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        _draw(axis, panel, "accuracy")
        counts = {size: f"{n / 1e6:g} M" if n >= 1e6 else f"{n / 1e3:.0f} k" for size, n in panel.parameters.items()}
        axis.set_xticks(list(panel.parameters.values()), [f"{size}\n{count}" for size, count in counts.items()])
        axis.set(title=title, xlabel="parameters of the classifier", ylim=(0, 102), ylabel="accuracy [%]")
        if panel.chance is not None:
            axis.axhline(panel.chance, color="0.4", linewidth=1)
            note: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "fontsize": 9}
            axis.annotate("chance", (axis.get_xlim()[1], panel.chance), xytext=(-3, 3), **note)
    figure.legend(_marks(), list(LOSS_NAMES.values()), loc="outside lower center", ncols=4)
    return figure


def groups_by_size(panels: Mapping[str, Sizes], metrics: Sequence[str]) -> Figure:
    """Draw metrics against model size: a column for each metric, a row for each panel; ECE has an axis of its own."""
    shape: dict[str, Any] = {"figsize": (WIDTH, 1.9 * len(panels) + 0.5), "layout": "constrained", "squeeze": False}
    figure, axes = plt.subplots(len(panels), len(metrics), **shape)
    top = {m: 103 if m != "ece" else 1.1 * max(p.frame[m].max() for p in panels.values()) for m in metrics}
    for row, (title, panel) in zip(axes, panels.items(), strict=True):
        for axis, metric in zip(row, metrics, strict=True):
            _draw(axis, panel, metric)
            axis.set_xticks(list(panel.parameters.values()), [size[0] for size in panel.parameters])
            axis.set(title="ECE [%]" if metric == "ece" else f"{metric} [%]", ylim=(0, top[metric]))
            if panel.frame[metric].isna().all():
                axis.text(0.5, 0.5, "no such class", transform=axis.transAxes, ha="center", va="center")
        row[0].set_ylabel(title)
    figure.legend(_marks(), list(LOSS_NAMES.values()), loc="outside lower center", ncols=4)
    return figure


def _draw(axis: Axes, panel: Sizes, metric: str) -> None:
    frame = panel.frame.assign(parameters=panel.frame["size"].map(panel.parameters))
    for i, loss in enumerate(LOSS_NAMES):  # side by side at each size
        one, aside = frame[frame.loss == loss], 1.06 ** (i - 1.5)
        mean = one.groupby("parameters")[metric].mean()
        style: dict[str, Any] = {"color": COLOURS[loss], "marker": MARKERS[loss], "markersize": 4}
        if "seed" in frame:
            axis.plot(one.parameters * aside, one[metric], linestyle="", alpha=0.6, **style)
            style["marker"] = ""
        axis.plot(mean.index * aside, mean, linestyle=DASHES[loss], linewidth=1.8, **style)
    axis.set_xscale("log")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlim(min(panel.parameters.values()) / 1.7, max(panel.parameters.values()) * 1.7)


def _marks() -> list[Line2D]:
    styles = [{"color": COLOURS[k], "marker": MARKERS[k], "linestyle": DASHES[k], "markersize": 4} for k in LOSS_NAMES]
    return [Line2D([], [], linewidth=1.8, **style) for style in styles]
