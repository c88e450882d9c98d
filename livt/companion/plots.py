"""Figures from data frames: one style, safe for colour-blind readers, legible on a dark page and in print."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from livt.companion.published import LOSS_NAMES
from livt.companion.statistics import estimate

# Okabe and Ito's palette, told apart also in grey by their order of lightness.
COLOURS = {"ce": "#0072B2", "bal_ce": "#56B4E9", "bce": "#D55E00", "bal_bce": "#E69F00"}
METRIC_NAMES = {"accuracy": "all", "many": "many", "medium": "medium", "few": "few"}


def use_style() -> None:
    """Set the book's style for all figures that follow. The white ground keeps dark pages legible."""
    sns.set_theme(context="notebook", style="whitegrid", rc={"figure.dpi": 110, "savefig.facecolor": "white"})


def loss_ablation(measured: pd.DataFrame, published: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw accuracy by loss and shot group: each seed a dot, the mean a bar, one panel per source.

    measured: columns loss, seed, accuracy, many, medium, few. published: panel title to a frame of the same columns
    without seeds.
    """
    panels = {f"measured, {measured.seed.nunique()} seeds": measured, **published}
    figure, _ = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 4.2), sharey=True, layout="constrained")
    for axis, (title, frame) in zip(figure.axes, panels.items(), strict=True):
        tidy = frame.melt("loss", list(METRIC_NAMES), "group", "accuracy [%]").replace({"group": METRIC_NAMES})
        shared = {
            "x": "group",
            "y": "accuracy [%]",
            "hue": "loss",
            "hue_order": list(COLOURS),
            "data": tidy,
            "ax": axis,
        }
        sns.barplot(**shared, palette=COLOURS, errorbar=None, edgecolor="0.25", linewidth=0.8)
        if "seed" in frame:
            sns.stripplot(
                **shared, palette=["0.1"] * len(COLOURS), dodge=True, jitter=False, size=4, legend=False, marker="D"
            )
        axis.set(title=title, xlabel="classes by number of training images", ylim=(0, 103))
        handles, labels = axis.get_legend_handles_labels()
        if (legend := axis.get_legend()) is not None:
            legend.remove()
    figure.legend(handles, [LOSS_NAMES[name] for name in labels], loc="outside lower center", ncols=len(COLOURS))
    return figure


def convergence(curves: pd.DataFrame, chance: float) -> Figure:
    """Draw accuracy against epoch for each loss, a line per seed. ``chance``: accuracy of guessing, percent."""
    figure, axis = plt.subplots(figsize=(7, 3.8), layout="constrained")
    shared = {"x": "epoch", "y": "accuracy", "hue": "loss", "hue_order": list(COLOURS), "palette": COLOURS}
    styles = {"ce": "", "bal_ce": (4, 1.5), "bce": (1, 1), "bal_bce": (6, 1.5, 1.5, 1.5)}
    sns.lineplot(curves, **shared, units="seed", estimator=None, style="loss", dashes=styles, ax=axis)
    axis.axhline(chance, color="0.4", linewidth=1)
    last = curves.epoch.max()
    axis.annotate("chance", (last, chance), xytext=(0, 3), textcoords="offset points", ha="right", fontsize="small")
    axis.set(xlabel="epoch of fine-tuning", ylabel="accuracy on the test split [%]", ylim=(0, 102))
    handles, labels = axis.get_legend_handles_labels()
    names = [LOSS_NAMES[name] for name in labels]
    axis.legend(handles, names, title=None)
    return figure


def forest(measured: pd.DataFrame, rows: Mapping[str, str], base: str) -> Figure:
    """Draw each arm's accuracy minus that of ``base``, a panel per shot group: mean, 95 % interval, each seed a dot.

    measured: columns arm, seed and the metrics. ``rows``: arm to its label. What can be told from zero is filled.
    """
    figure, axes = plt.subplots(2, 2, figsize=(9, 2.2 + 0.62 * len(rows)), sharey=True, layout="constrained")
    for axis, (metric, title) in zip(axes.flat, METRIC_NAMES.items(), strict=True):
        wide = measured.pivot(index="seed", columns="arm", values=metric)
        axis.axvline(0, color="0.25", linewidth=1)
        for y, arm in enumerate(rows):
            values = (wide[arm] - wide[base]).dropna()
            e = estimate(values)
            if e.n == 0:
                continue
            clear = e.n > 1 and (e.low > 0 or e.high < 0)
            if e.n > 1:
                colour = COLOURS["ce"] if clear else "0.6"
                axis.plot([e.low, e.high], [y, y], color=colour, linewidth=3, solid_capstyle="butt")
            axis.plot(values, [y + 0.22] * e.n, "o", color="0.35", markersize=3, alpha=0.8)
            axis.plot(e.mean, y, "D", color=COLOURS["ce"] if clear else "white", markeredgecolor="0.1", markersize=6)
        axis.set(title=f"{title} classes", ylim=(len(rows) - 0.5, -0.5))
        axis.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(range(len(rows)), list(rows.values()))
    figure.supxlabel("difference in test accuracy [points]")
    return figure
