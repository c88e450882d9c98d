"""The figures of the chapter on MDCS: its idea, and its two parts with and without each other."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from livt.companion.plots import WIDTH, grid
from livt.companion.statistics import estimate
from livt.longtail import exponential_counts

# By the classes that an expert is for.
EXPERT_COLOURS = {"many": "#009E73", "medium": "0.15", "few": "#CC79A7"}
EXPERT_DASHES = {"many": "-", "medium": (0, (4, 1.5)), "few": (0, (1, 1))}
EXPERTS_COLOURS = {"diverse": ("#0072B2", "-", "o"), "alike": ("#D55E00", "--", "s")}
LAMBDAS = {"many": -0.5, "medium": 1.0, "few": 2.5}


def idea() -> Figure:
    """Draw the priors that each expert's logits carry at test, and how an expert distils itself."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.7), layout="constrained", width_ratios=(1, 1.25))
    counts = np.array(exponential_counts(200, 100, 100), dtype=float)
    for name, value in LAMBDAS.items():
        prior = counts ** (1 - value)
        dash, colour = EXPERT_DASHES[name], EXPERT_COLOURS[name]
        left.plot(prior / prior.sum(), color=colour, linestyle=dash, linewidth=2)
    places = {"many": (8, 0.075, "left"), "few": (92, 0.075, "right"), "medium": (50, 0.013, "center")}
    for name, (x, y, side) in places.items():
        text = f"λ = {LAMBDAS[name]:g}: {name}"
        left.text(x, y, text, color=EXPERT_COLOURS[name], ha=side, fontsize=9)
    left.set(yscale="log", ylim=(2e-5, 0.2), xlabel="class, most images first", title="What each expert expects")
    left.set_ylabel("its prior of the class at test")
    _distillation(right)
    return figure


def _distillation(axis: Axes) -> None:
    axis.set(xlim=(-0.3, 10.4), ylim=(0, 6), title="How expert k learns from itself")
    axis.axis("off")
    for text, x, y, colour in (
        ("image", 0, 2.5, "0.93"),
        ("weak view", 2.2, 4.2, "#cfe8fb"),
        ("strong view", 2.2, 0.8, "#fbdcc4"),
        ("expert k", 5.2, 2.5, "0.93"),
        ("$p_k$(weak)", 7.9, 4.2, "#cfe8fb"),
        ("$p_k$(strong)", 7.9, 0.8, "#fbdcc4"),
    ):
        width = 1.3 if text == "image" else 2.1
        shape = FancyBboxPatch((x, y), width, 1, boxstyle="round,pad=0.05", facecolor=colour, edgecolor="0.3")
        axis.add_patch(shape)
        axis.text(x + width / 2, y + 0.5, text, ha="center", va="center", fontsize=9)
    arrow = {"arrowstyle": "->", "color": "0.25", "linewidth": 1.2}
    for start, end in (
        ((1.4, 3.2), (2.1, 4.5)),
        ((1.4, 2.8), (2.1, 1.5)),
        ((4.4, 4.5), (5.2, 3.6)),
        ((4.4, 1.5), (5.2, 2.4)),
        ((7.2, 3.6), (7.8, 4.4)),
        ((7.2, 2.4), (7.8, 1.6)),
    ):
        axis.annotate("", end, start, arrowprops=arrow)
    axis.annotate("", (8.95, 1.95), (8.95, 4.05), arrowprops=arrow | {"linewidth": 2.2, "color": "#0072B2"})
    axis.text(8.8, 3.0, "KL", color="#0072B2", ha="right", va="center", fontsize=9)
    axis.text(9.1, 3.0, "where\nright", color="#0072B2", va="center", fontsize=9)
    axis.text(5, 0.05, "no gradient reaches the weak view from the KL", ha="center", color="0.25", fontsize=9)


def interplay(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw accuracy without and with self-distillation, a line for diverse experts and one for alike ones.

    panels: by title, columns arm, seed, accuracy. The mark is the mean over seeds, its bar the 95 % interval; each seed
    is a small dot. Parallel lines are parts that do not need each other.
    """
    figure, axes = grid(len(panels), height=2.7)
    for axis, (title, rows) in zip(axes, panels.items(), strict=True):
        for shift, (label, arms) in enumerate(
            {"diverse": ("mdcs/diversity", "mdcs/both"), "alike": ("mdcs/neither", "mdcs/distillation")}.items()
        ):
            colour, dash, marker = EXPERTS_COLOURS[label]
            x = np.arange(2) + 0.06 * (shift - 0.5)
            found = [estimate(rows[rows.arm == arm].accuracy) for arm in arms]
            for place, arm, e in zip(x, arms, found, strict=True):
                axis.plot([place, place], [e.low, e.high], color=colour, linewidth=2)
                own = rows[rows.arm == arm].accuracy
                axis.plot([place + 0.05] * len(own), own, "o", color=colour, markersize=2.5, alpha=0.7)
            means = [e.mean for e in found]
            axis.plot(x, means, dash, marker=marker, color=colour, markersize=6, label=f"{label} experts")
        axis.set_xticks([0, 1], ["without", "with"])
        axis.set(title=title, xlabel="self-distillation", ylabel="test accuracy [%]", xlim=(-0.3, 1.3))
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    return figure
