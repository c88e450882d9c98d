"""Figures from data frames: one style, safe for colour-blind readers, legible on a dark page and in print.

What several chapters draw is here; what one chapter draws is in the module of its name.
"""

import io
import re
from collections.abc import Mapping
from html import escape
from math import ceil
from typing import Any
from urllib.parse import quote

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from livt.companion.published import LOSS_NAMES
from livt.companion.statistics import estimate, sign

# Okabe and Ito's palette, told apart also in grey by their order of lightness.
COLOURS = {"ce": "#0072B2", "bal_ce": "#56B4E9", "bce": "#D55E00", "bal_bce": "#E69F00"}
HATCHES = {"ce": "", "bal_ce": "///", "bce": "...", "bal_bce": "xxx"}
DASHES: dict[str, Any] = {
    "ce": "-",
    "bal_ce": (0, (4, 1.5)),
    "bce": (0, (1, 1)),
    "bal_bce": (0, (6, 1.5, 1.5, 1.5)),
}
METRIC_NAMES = {"accuracy": "all", "many": "many", "medium": "medium", "few": "few"}
# Of the shot groups: the palette's other colours, as those of the losses mean the losses.
GROUP_COLOURS = {"accuracy": "0.1", "many": "#009E73", "medium": "#CC79A7", "few": "0.5"}

# What an address in single quotes may hold as it is: a third shorter than base64.
PLAIN = ' !"$()*+,-./:;=?@[]^_`{|}~'
WIDTH = 7.1  # inches: the column of a page, in which a figure is shown as large as it is drawn


def use_style() -> None:
    """Set the book's style for all figures that follow. The white ground keeps dark pages legible."""
    sns.set_theme(context="paper", style="whitegrid", rc={"figure.dpi": 110, "savefig.facecolor": "white"})
    sizes = ("font.size", "axes.labelsize", "axes.titlesize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize")
    mpl.rcParams.update(dict.fromkeys(sizes, 9.0))  # type: ignore[arg-type]


def shown(figure: Figure, caption: str, alt: str) -> str:
    """Close a figure and return it as HTML with its caption, which the page numbers.

    caption: HTML that says what the figure shows and what is found in it, its numbers as from ``report.number``. alt:
    the same in words for who cannot see it. Raises ValueError for a figure wider than the page's column.
    """
    if figure.get_figwidth() > WIDTH:
        raise ValueError(f"the figure is {figure.get_figwidth():g} inches wide; the page shows {WIDTH} at most")
    return f'<figure class="livt-figure">{static_image(figure, alt)}<figcaption>{caption}</figcaption></figure>'


def static_image(figure: Figure, alt: str) -> str:
    """Close ``figure`` and return it as an ``<img>`` that needs no file. ``alt`` says what it shows."""
    if len(alt.strip()) < 20:
        raise ValueError(f"alt must describe the figure in a sentence, not {alt!r}")
    image = " ".join(svg(figure).decode().split())
    return f"""<img src='data:image/svg+xml,{quote(image, safe=PLAIN)}' alt="{escape(alt.strip())}">"""


def svg(figure: Figure, *, outlines: bool = False, description: str | None = None) -> bytes:
    """Close ``figure`` and return it as SVG: the same figure is the same text. outlines: of letters, for any font."""
    buffer = io.BytesIO()
    with plt.rc_context({"svg.hashsalt": "livt", "svg.fonttype": "path" if outlines else "none"}):
        about = {"Date": None, "Description": description}
        figure.savefig(buffer, format="svg", facecolor="white", metadata=about)
    plt.close(figure)
    return re.sub(rb"(\d+\.\d\d)\d+", rb"\1", buffer.getvalue())  # to a hundredth of a point


def grid(panels: int, height: float = 2.6, **options: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure of the page's width with so many axes, two in a row, and a spare one removed."""
    rows = ceil(panels / 2)
    columns = min(panels, 2)
    figure, axes = plt.subplots(
        rows, columns, figsize=(WIDTH, height * rows + 0.4), layout="constrained", squeeze=False, **options
    )
    for spare in axes.flat[panels:]:
        spare.remove()
    return figure, list(axes.flat[:panels])


def percent(axis: Axes, largest: float) -> None:
    """Let an axis of accuracies begin at zero and end above the largest [%], at a ten: sets of images differ widely."""
    axis.set_ylim(0, 1.03 * min(100, 10 * ceil(largest / 10)))


def loss_ablation(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw accuracy by loss and shot group: the mean a bar, each seed a dot, one panel per title.

    panels: frames with columns loss, accuracy, many, medium, few, and, where measured, seed. A group without a class
    says so: no bar looks like an accuracy of zero. Each panel has its own scale.
    """
    figure, axes = grid(len(panels))
    for axis, (title, frame) in zip(axes, panels.items(), strict=True):
        tidy = frame.melt("loss", list(METRIC_NAMES), "group", "accuracy [%]").replace({"group": METRIC_NAMES})
        shared = {"x": "group", "y": "accuracy [%]", "hue": "loss", "hue_order": list(COLOURS), "ax": axis}
        sns.barplot(tidy, **shared, palette=COLOURS, errorbar=None, edgecolor="0.2", linewidth=0.8, legend=False)
        for bars, hatch in zip(axis.containers, HATCHES.values(), strict=False):
            for bar in bars:
                bar.set_hatch(hatch)
        if "seed" in frame:
            black = ["0.1"] * len(COLOURS)
            sns.stripplot(tidy, **shared, palette=black, dodge=True, jitter=False, size=3, legend=False, marker="D")
        for place, metric in enumerate(METRIC_NAMES):
            if frame[metric].isna().all():
                axis.text(place, 0.03, "no class", ha="center", transform=axis.get_xaxis_transform())
        axis.set(title=title, xlabel="")
        percent(axis, frame[list(METRIC_NAMES)].max(axis=None))
    for axis in axes:
        axis.set_xlabel("classes by training images")
    marks = [Patch(facecolor=COLOURS[loss], edgecolor="0.2", hatch=HATCHES[loss]) for loss in COLOURS]
    figure.legend(marks, [LOSS_NAMES[loss] for loss in COLOURS], loc="outside lower center", ncols=len(COLOURS))
    return figure


def convergence(panels: Mapping[str, tuple[pd.DataFrame, float]]) -> Figure:
    """Draw accuracy against epoch for each loss, a line per seed; one panel per title.

    panels: a row per run and epoch, and the accuracy of guessing, percent. Each panel has its own scale.
    """
    figure, axes = grid(len(panels))
    for axis, (title, (curves, chance)) in zip(axes, panels.items(), strict=True):
        for (loss, _), one in curves.groupby(["loss", "seed"]):
            axis.plot(one.epoch, one.accuracy, color=COLOURS[loss], linestyle=DASHES[loss], linewidth=1.5)
        axis.axhline(chance, color="0.4", linewidth=1)
        axis.annotate(
            "chance", (curves.epoch.max(), chance), xytext=(0, 3), textcoords="offset points", ha="right", fontsize=9
        )
        axis.set(title=title, xlabel="epoch of fine-tuning", ylabel="test accuracy [%]")
        percent(axis, curves.accuracy.max())
    lines = [Line2D([], [], color=COLOURS[loss], linestyle=DASHES[loss], linewidth=1.5) for loss in COLOURS]
    figure.legend(lines, [LOSS_NAMES[loss] for loss in COLOURS], loc="outside lower center", ncols=len(COLOURS))
    return figure


def forest(measured: pd.DataFrame, rows: Mapping[str, str], base: str) -> Figure:
    """Draw each arm's accuracy minus that of ``base``, a panel per shot group: mean, 95 % interval, each seed a dot.

    measured: columns arm, seed and the metrics. ``rows``: arm to its label. What can be told from zero is filled.
    """
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 1.4 + 0.5 * len(rows)), sharey=True, layout="constrained")
    for axis, (metric, title) in zip(axes.flat, METRIC_NAMES.items(), strict=True):
        wide = measured.pivot(index="seed", columns="arm", values=metric)
        axis.axvline(0, color="0.25", linewidth=1)
        for y, arm in enumerate(rows):
            values = (wide[arm] - wide[base]).dropna()
            e = estimate(values)
            if e.n == 0:
                continue
            clear = sign(e) != 0
            if e.n > 1:
                colour = COLOURS["ce"] if clear else "0.6"
                axis.plot([e.low, e.high], [y, y], color=colour, linewidth=3, solid_capstyle="butt")
            axis.plot(values, [y + 0.22] * e.n, "o", color="0.35", markersize=3, alpha=0.8)
            axis.plot(e.mean, y, "D", color=COLOURS["ce"] if clear else "white", markeredgecolor="0.1", markersize=6)
        axis.set(title=f"{title} classes", ylim=(len(rows) - 0.5, -0.5))
        axis.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(range(len(rows)), list(rows.values()))
    figure.supxlabel("difference in test accuracy [points]", fontsize=9)
    return figure
