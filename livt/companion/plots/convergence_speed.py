"""The figures of the chapter on convergence."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from livt.companion.plots import COLOURS, DASHES, grid
from livt.companion.published import LOSS_NAMES

# Of the released logs: a colour for the data, a dash for the resolution.
LOG_STYLES: dict[str, Any] = {
    "ImageNet-LT, 224 px": ("#009E73", "-"),
    "ImageNet-LT, 384 px": ("#009E73", (0, (4, 2))),
    "iNat18, 224 px": ("#CC79A7", "-"),
    "iNat18, 384 px": ("#CC79A7", (0, (4, 2))),
}


def accuracy(panels: Mapping[str, tuple[pd.DataFrame, float]], logs: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw accuracy against the share of fine-tuning: measured, one panel per title, and the released logs.

    panels: a row per run and epoch with loss, seed, share and accuracy, and the accuracy of guessing, all in percent.
    logs: share and accuracy by title, the titles of ``LOG_STYLES``.
    """
    figure, axes = grid(len(panels) + 1, sharey=True)
    for axis, (title, (curves, chance)) in zip(axes, panels.items(), strict=False):
        _losses(axis, curves, "accuracy")
        axis.axhline(chance, color="0.4", linewidth=1)
        note: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "fontsize": 9}
        axis.annotate("chance", (100, chance), xytext=(0, 3), **note)
        axis.set(title=title, ylabel="test accuracy [%]")
    for title, log in logs.items():
        colour, dash = LOG_STYLES[title]
        axes[-1].plot(log["share"], log.accuracy, color=colour, linestyle=dash, linewidth=1.8)
    axes[-1].set(title="released logs of Bal-BCE, ViT-Base")
    for axis in axes:
        axis.set(xlabel="share of fine-tuning [%]", xlim=(0, 101), ylim=(0, 102))
    released = [Line2D([], [], color=colour, linestyle=dash, linewidth=1.8) for colour, dash in LOG_STYLES.values()]
    names = [*LOSS_NAMES.values(), *LOG_STYLES]
    figure.legend([*_marks(), *released], names, loc="outside lower center", ncols=4)
    return figure


def of_final(panels: Mapping[str, pd.DataFrame], logs: Mapping[str, pd.DataFrame], levels: tuple[int, ...]) -> Figure:
    """Draw accuracy as a share of the run's own final one, the mean of each loss, on a band of the released logs.

    panels and logs: as for ``accuracy``, with ``of final`` [%]; ``levels`` are marked by lines.
    """
    figure, axes = grid(len(panels), sharey=True)
    released = pd.concat([log.set_index("share")["of final"] for log in logs.values()], axis=1)
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        axis.fill_between(released.index, released.min(axis=1), released.max(axis=1), color="0.75")
        _losses(axis, curves, "of final", seeds=False)
        for level in levels:
            axis.axhline(level, color="0.3", linewidth=0.8, linestyle=(0, (2, 3)))
        axis.set(title=title, xlim=(0, 100), ylim=(0, 105), xlabel="share of fine-tuning [%]")
        axis.set(ylabel="share of the final accuracy [%]", yticks=[0, 25, 50, 75, 90, 100])
    names = [*LOSS_NAMES.values(), "released logs"]
    figure.legend([*_marks(), Patch(color="0.75")], names, loc="outside lower center", ncols=5)
    return figure


def _losses(axis: Axes, curves: pd.DataFrame, column: str, seeds: bool = True) -> None:
    for loss in LOSS_NAMES:
        wide = curves[curves.loss == loss].pivot(index="share", columns="seed", values=column)
        if seeds:
            axis.plot(wide, color=COLOURS[loss], linewidth=0.7, alpha=0.6)
        axis.plot(wide.mean(axis=1), color=COLOURS[loss], linestyle=DASHES[loss], linewidth=2)


def _marks() -> list[Line2D]:
    return [Line2D([], [], color=COLOURS[loss], linestyle=DASHES[loss], linewidth=2) for loss in LOSS_NAMES]
