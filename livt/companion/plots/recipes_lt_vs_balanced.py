"""The figures of the chapter on three recipes: what the long tail costs each, overall and by group of classes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from livt.companion.plots import grid
from livt.longtail import GROUPS

NAMES = {"vit": "ViT, CE", "deit3": "DeiT III style", "mae": "MGP, then CE"}
STYLES: dict[str, dict[str, Any]] = {
    "vit": {"color": "#000000", "marker": "o", "linestyle": (0, (1, 1))},
    "deit3": {"color": "#CC79A7", "marker": "s", "linestyle": (0, (4, 1.5))},
    "mae": {"color": "#009E73", "marker": "D", "linestyle": "-"},
}
HATCHES = {"vit": "", "deit3": "///", "mae": "..."}


def slopes(panels: Mapping[str, tuple[pd.DataFrame, float]]) -> Figure:
    """Draw accuracy on balanced and on long-tailed training images, a line per recipe between the means over seeds.

    panels: a row per seed and a column ``<recipe>/balanced`` or ``<recipe>/lt``, and the accuracy of guessing, percent,
    nan for none, by title.
    """
    figure, axes = grid(len(panels), height=3.0, sharey=True)
    for axis, (title, (accuracy, chance)) in zip(axes, panels.items(), strict=True):
        for i, name in enumerate(NAMES):
            style, x = STYLES[name], np.array([0.0, 1.0]) + 0.05 * (i - 1)
            both = accuracy.reindex(columns=[f"{name}/balanced", f"{name}/lt"])
            for seed in both.index if len(both) > 1 else []:
                axis.plot(x, both.loc[seed], **style | {"linestyle": "", "alpha": 0.5, "markersize": 4})
            axis.plot(x, both.mean(), **style | {"marker": style["marker"] if len(both) == 1 else ""}, linewidth=2)
        if not np.isnan(chance):
            axis.axhline(chance, color="0.4", linewidth=1)
            axis.annotate("chance", (0.5, chance), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=9)
        axis.set(title=title, ylabel="test accuracy [%]", xlim=(-0.3, 1.3), ylim=(0, 102))
        axis.set_xticks([0, 1], ["balanced images", "long-tailed images"])
        axis.grid(visible=False, axis="x")
    lines = [axes[0].plot([], [], **STYLES[name])[0] for name in NAMES]
    figure.legend(lines, NAMES.values(), loc="outside lower center", ncols=len(NAMES))
    return figure


def changes(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the change from balanced to long-tailed images of the same classes: the mean a bar, each seed a mark.

    panels: columns recipe, seed, group (of the long-tailed counts), classes (their number) and change [points].
    """
    figure, axes = grid(len(panels), height=3.0)
    for axis, (title, frame) in zip(axes, panels.items(), strict=True):
        present = [group for group in GROUPS if group in set(frame.group)]
        for i, name in enumerate(NAMES):
            wide = frame[frame.recipe == name].pivot(index="group", columns="seed", values="change").reindex(present)
            x, colour = np.arange(len(present)) + 0.26 * (i - 1), STYLES[name]["color"]
            fill: dict[str, Any] = {"facecolor": "white" if name == "vit" else colour, "hatch": HATCHES[name]}
            axis.bar(x, wide.mean(axis=1), width=0.24, edgecolor="0.1", label=NAMES[name], alpha=0.6, **fill)
            for seed in wide:
                axis.plot(x, wide[seed], linestyle="", marker=STYLES[name]["marker"], color="0.1", markersize=3)
        axis.axhline(0, color="0.3", linewidth=1)
        count = frame.drop_duplicates("group").set_index("group").classes
        axis.set_xticks(range(len(present)), [f"{group}\n{count[group]} classes" for group in present])
        axis.grid(visible=False, axis="x")
        axis.set(title=title, ylabel="change of accuracy [points]")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(NAMES))
    return figure
