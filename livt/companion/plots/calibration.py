"""The figures of the chapter on calibration."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from livt.companion.plots import COLOURS, DASHES, HATCHES, WIDTH, grid
from livt.companion.published import LOSS_NAMES
from livt.longtail import GROUPS


def reliability_diagrams(bins: pd.DataFrame) -> Figure:
    """Draw accuracy against confidence for each loss, a line per seed and dots for all seeds pooled, above a histogram.

    bins: a row per run and bin of confidence, with columns loss, run, size (images), accuracy and confidence
    (fractions, nan where the bin is empty).
    """
    figure, axes = plt.subplots(
        2, 4, figsize=(WIDTH, 3.6), sharex=True, sharey="row", height_ratios=(3, 1.2), layout="constrained"
    )
    for (upper, lower), (loss, name) in zip(axes.T, LOSS_NAMES.items(), strict=True):
        of_loss, colour = bins[bins.loss == loss], COLOURS[loss]
        upper.plot([0, 1], [0, 1], color="0.4", linewidth=1, linestyle="--")
        for _, one in of_loss[of_loss["size"] > 0].groupby("run"):
            upper.plot(one.confidence, one.accuracy, color=colour, linewidth=1)
        sums = of_loss.assign(right=of_loss["size"] * of_loss.accuracy, sure=of_loss["size"] * of_loss.confidence)
        pooled = sums.groupby("bin")[["size", "right", "sure"]].sum()
        size = pooled["size"].where(pooled["size"] > 0)
        share = size / size.sum()
        dots = {"s": 12 + 150 * share, "color": colour, "edgecolor": "0.15", "linewidth": 0.8, "zorder": 3}
        upper.scatter(pooled.sure / size, pooled.right / size, **dots)
        middle = (pooled.index + 0.5) / len(pooled)
        bar = {"color": colour, "edgecolor": "0.25", "linewidth": 0.5, "hatch": HATCHES[loss]}
        lower.bar(middle, 100 * share, width=0.9 / max(1, len(pooled)), **bar)
        upper.set(title=name, xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), xticks=(0, 0.5, 1))
        lower.set(yscale="log", ylim=(0.005, 150), yticks=(0.01, 1, 100))
        lower.set_yticklabels(["0.01", "1", "100"])
        lower.minorticks_off()
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("images [%]")
    figure.supxlabel("confidence", fontsize=9)
    return figure


def head_and_tail(gaps: pd.DataFrame) -> Figure:
    """Draw mean confidence minus accuracy by shot group: by true class and by the class decided for.

    gaps: a row per run with columns loss, and ``by true class, <group>`` and ``by class decided for, <group>``,
    in points.
    """
    figure, axes = grid(2, sharey=True)
    for axis, by in zip(axes, ("by true class", "by class decided for"), strict=True):
        columns = {f"{by}, {group}": group for group in GROUPS}
        tidy = gaps[["loss", *columns]].rename(columns=columns).melt("loss", list(GROUPS), "group", "gap")
        shared = {"x": "group", "y": "gap", "hue": "loss", "hue_order": list(COLOURS), "ax": axis, "legend": False}
        sns.barplot(tidy, **shared, palette=COLOURS, errorbar=None, edgecolor="0.25", linewidth=0.8)
        for bars, hatch in zip(axis.containers, HATCHES.values(), strict=False):
            for bar in bars:
                bar.set_hatch(hatch)
        sns.stripplot(tidy, **shared, palette=["0.1"] * 4, dodge=True, jitter=False, size=3, marker="D")
        axis.axhline(0, color="0.2", linewidth=1)
        axis.set(title=by, xlabel="classes by number of training images", ylabel="confidence minus accuracy [points]")
    marks = [Patch(facecolor=COLOURS[loss], edgecolor="0.2", hatch=HATCHES[loss]) for loss in COLOURS]
    figure.legend(marks, list(LOSS_NAMES.values()), loc="outside lower center", ncols=4)
    return figure


def ece_by_accuracy(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw ECE against accuracy through the epochs of each run, a dot at its last; one panel per title.

    panels: a row per run and epoch, as from ``livt.lab.results.curves``.
    """
    figure, axes = grid(len(panels), sharey=True)
    top = max(5.0, *(1.15 * curves.ece.max() for curves in panels.values()))
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for (loss, _), one in curves.groupby(["loss", "seed"]):
            axis.plot(one.accuracy, one.ece, color=COLOURS[loss], linestyle=DASHES[loss], linewidth=1.3)
            last = one.iloc[-1]
            dot: dict[str, Any] = {"color": COLOURS[loss], "markeredgecolor": "0.15", "markersize": 6, "zorder": 3}
            axis.plot(last.accuracy, last.ece, "o", **dot)
        axis.plot([0, 100], [100, 0], color="0.4", linewidth=1)
        axis.set(title=title, xlim=(0, 100), ylim=(0, top), xlabel="test accuracy [%]", ylabel="ECE [%]")
    lines = [Line2D([], [], color=COLOURS[loss], linestyle=DASHES[loss], linewidth=1.5) for loss in COLOURS]
    certain = Line2D([], [], color="0.4", linewidth=1)
    names = [*LOSS_NAMES.values(), "always certain"]
    figure.legend([*lines, certain], names, loc="outside lower center", ncols=5)
    return figure
