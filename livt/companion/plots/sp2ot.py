"""Figures of the chapter on clustering: clusters that fill, and sizes of clusters beside those of classes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from livt.companion.plots import COLOURS, WIDTH
from livt.lab.runs import Record

if TYPE_CHECKING:
    from livt.companion.clustering import FillingProblem

CLUSTERS = [COLOURS[name] for name in ("ce", "bal_bce", "bce", "bal_ce")]
SHOWN = (0, 4, 9)  # stops: masses 0.1, 0.5 and 1


def clusters_filling(problem: "FillingProblem", found: Mapping[str, Sequence[NDArray[np.float64]]]) -> Figure:
    """Draw the points at three masses, a row per way of labelling: filled as far as labelled, in their cluster's hue.

    found: plans [N, K] by the way of labelling, as from ``livt.companion.clustering.fill``.
    """
    figure, axes = plt.subplots(
        len(found), len(SHOWN), figsize=(WIDTH, 2.1 * len(found) + 0.2), sharex=True, sharey=True, layout="constrained"
    )
    for row, (name, plans) in zip(axes, found.items(), strict=True):
        for axis, stop in zip(row, SHOWN, strict=True):
            plan = plans[stop]
            weights, hues = np.clip(plan.sum(1) * len(plan), 0, 1), np.array(CLUSTERS)[plan.argmax(1)]
            axis.scatter(*problem.points.T, s=16, facecolors="none", edgecolors="0.6", linewidths=0.6)
            axis.scatter(*problem.points.T, s=16, c=hues, alpha=weights, linewidths=0)
            axis.scatter(*problem.prototypes.T, s=60, c=CLUSTERS, marker="D", edgecolors="0.1")
            held = " ".join(f"{share:.0%}" for share in plan.sum(0))
            axis.set_title(f"{name}, ρ = {plan.sum():.1f}\nholding {held}", fontsize=8)
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
    return figure


def filling_curves(stops: Sequence[float], found: Mapping[str, Sequence[NDArray[np.float64]]]) -> Figure:
    """Draw how full each cluster is against the mass, a panel per way of labelling."""
    figure, axes = plt.subplots(1, len(found), figsize=(WIDTH, 2.6), sharey=True, layout="constrained")
    for axis, (name, plans) in zip(axes, found.items(), strict=True):
        held = np.array([plan.sum(0) for plan in plans])
        for k, (hue, style) in enumerate(zip(CLUSTERS, ("-", "--", "-.", ":"), strict=True)):
            axis.plot(stops, held[:, k], color=hue, linestyle=style, linewidth=2, label=f"cluster {k + 1}")
        axis.set(title=name, xlabel="mass ρ", ylim=(0, 0.6))
    axes[0].set_ylabel("share of all mass")
    axes[0].legend(fontsize=8)
    return figure


def sizes(records: Mapping[str, Record]) -> Figure:
    """Draw the sizes of the clusters that one run of each method ended with, largest first, beside those of classes."""
    figure, axis = plt.subplots(figsize=(WIDTH, 3.0), layout="constrained")
    counts = sorted(next(iter(records.values())).result["class_counts"], reverse=True)
    axis.plot(range(1, len(counts) + 1), counts, color="0.1", linewidth=2.5, label="classes")
    styles = ["-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1))]
    for (name, record), style, hue in zip(records.items(), styles, [*CLUSTERS, "#009E73"], strict=False):
        own = sorted(record.result["sizes"], reverse=True)
        axis.plot(range(1, len(own) + 1), own, color=hue, linestyle=style, linewidth=1.8, label=name)
    axis.set(xlabel="cluster or class, largest first", ylabel="images", yscale="symlog", ylim=(0, None))
    axis.legend(ncols=3)
    return figure
