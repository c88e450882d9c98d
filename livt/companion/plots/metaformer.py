"""The figures of the chapter on MetaFormer: its idea as a drawing, and accuracy by what the metadata know."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from livt.companion.plots import WIDTH, grid
from livt.companion.statistics import estimate

META, IMAGE = "#D55E00", "#0072B2"  # what comes from the metadata, and from the image
STYLES: dict[str, dict[str, Any]] = {
    "with metadata": {"color": META, "marker": "o", "linestyle": "-"},
    "shuffled": {"color": "0.35", "marker": "s", "linestyle": (0, (4, 1.5))},
    "missing": {"color": "#009E73", "marker": "^", "linestyle": (0, (1, 1))},
}


def idea() -> Figure:
    """Draw how place and day become tokens beside the patches, which alone are averaged and classified."""
    figure, axis = plt.subplots(figsize=(WIDTH, 3.0), layout="constrained")
    axis.set(xlim=(0, 10), ylim=(0, 4.2))
    axis.axis("off")
    for text, y, height, colour in (
        ("place\n$(x, y, z)$", 3.2, 0.9, META),
        ("day of the year\n(sin, cos)", 2.0, 0.9, META),
        ("image,\nin patches", 0.2, 1.3, IMAGE),
    ):
        _box(axis, (0.1, y, 1.7, height), text, colour)
    _box(
        axis,
        (2.5, 2.0, 2.1, 2.1),
        "linear, ReLU, norm\n+ residual;\nin training, hidden\nfor a share that\nfalls to 0",
        META,
    )
    _box(axis, (2.5, 0.2, 2.1, 1.3), "patch embedding\n(pretrained by MGP)", IMAGE)
    _box(
        axis,
        (5.4, 0.2, 1.9, 3.9),
        "attention:\npatches look at\neach other and\nat the tokens of\nplace and day",
        "0.1",
    )
    _box(axis, (8.1, 0.2, 1.8, 1.3), "mean of the\npatches, head", IMAGE)
    for start, end, colour in (
        ((1.8, 3.65), (2.5, 3.65), META),
        ((1.8, 2.45), (2.5, 2.45), META),
        ((1.8, 0.85), (2.5, 0.85), IMAGE),
        ((4.6, 3.05), (5.4, 3.05), META),
        ((4.6, 0.85), (5.4, 0.85), IMAGE),
        ((7.3, 0.85), (8.1, 0.85), IMAGE),
    ):
        axis.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 1.5})
    axis.text(7.5, 3.05, "not averaged: metadata\nact through attention\nalone", color=META, va="center")
    return figure


def _box(axis: Axes, place: tuple[float, float, float, float], text: str, colour: str) -> None:
    x, y, width, height = place
    style: dict[str, Any] = {"facecolor": "white", "edgecolor": colour, "linewidth": 1.5}
    axis.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.12", **style))
    axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", color="0.1")


def by_information(measured: pd.DataFrame, losses: Mapping[str, str], bits: Mapping[int, float]) -> Figure:
    """Draw accuracy by the bits that metadata know of the class: with them, shuffled, and missing.

    measured: rows as from ``results``, of arms ``<loss>/<level>``. losses: titles by name. bits: of each level. Bars
    are 95 % intervals over seeds.
    """
    figure, axes = grid(len(losses), height=2.7)
    for axis, (loss, title) in zip(axes, losses.items(), strict=True):
        for name, style in STYLES.items():
            part = "" if name == "with metadata" else f", {name}"
            found = {level: measured[measured.arm == f"{loss}/{level}{part}"].accuracy.dropna() for level in bits}
            found = {level: values for level, values in found.items() if len(values)}
            means = [float(values.mean()) for values in found.values()]
            spans = [estimate(values.to_numpy()) for values in found.values()]
            low = [mean - span.low if np.isfinite(span.low) else 0 for mean, span in zip(means, spans, strict=True)]
            axis.errorbar(
                [bits[level] for level in found], means, yerr=low, capsize=2, markersize=4, linewidth=1.5, **style
            )
        axis.set(title=title, xlabel="information about the class [bits]", ylabel="accuracy [%]")
    lines = [axes[0].plot([], [], **style)[0] for style in STYLES.values()]
    figure.legend(lines, list(STYLES), loc="outside lower center", ncols=3)
    return figure
