"""The figure of the claims ledger."""

from collections.abc import Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from livt.companion.contrasts import Contrast
from livt.companion.plots import WIDTH
from livt.companion.statistics import estimate

OWN, CONTROL = "#009E73", "#CC79A7"
MARKS = {"BCE from 1/C": "s", "BCE from the prior": "D"}  # controls that are drawn


def contrasts(rows: Sequence[tuple[str, Contrast]], measured: pd.DataFrame) -> Figure:
    """Draw each contrast that was run: seeds, interval, controls, floor, and the paper's numbers; a panel per unit.

    rows: contrasts with the claims that they are of. measured: rows as from ``results``, all arms among them.
    """
    units: dict[str, list[tuple[str, Contrast]]] = {}
    for claim, contrast in rows:
        if len(contrast.measured(measured)):
            units.setdefault(contrast.unit, []).append((claim, contrast))
    heights = [len(own) for own in units.values()]
    figure, axes = plt.subplots(
        len(units),
        1,
        figsize=(WIDTH, 0.55 * sum(heights) + 0.75 * len(units) + 0.7),
        height_ratios=[n + 0.4 for n in heights],
        layout="constrained",
        squeeze=False,
    )
    marks: dict[str, Artist] = {}
    for axis, (unit, own) in zip(axes.flat, units.items(), strict=True):
        for y, (_, contrast) in enumerate(own):
            marks |= _row(axis, y, contrast, measured)
        names = [fill(f"{claim}  {contrast.label}", 36, break_on_hyphens=False) for claim, contrast in own]
        axis.set_yticks(range(len(own)), names, multialignment="right")
        axis.set(xlabel=unit, ylim=(len(own) - 0.4, -0.6))
        axis.grid(axis="y", visible=False)
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=3)
    return figure


def _row(axis: Axes, y: int, contrast: Contrast, measured: pd.DataFrame) -> dict[str, Artist]:
    values = contrast.measured(measured)
    e = estimate(values)
    marks: dict[str, Artist] = {}
    if contrast.published:
        end = contrast.ceiling or max(contrast.published)
        marks["published, to the upper limit"] = axis.hlines(
            y + 0.27, min(contrast.published), end, color="0.75", linewidth=2, zorder=1
        )
        marks["published"] = axis.scatter(
            contrast.published, [y + 0.27] * len(contrast.published), marker="^", s=20, color="0.3", zorder=2
        )
    if e.n > 1:
        marks["95 % interval of the mean"] = axis.hlines(y, e.low, e.high, color=OWN, linewidth=6, alpha=0.4)
    marks["one seed"] = axis.scatter(values, [y] * len(values), color=OWN, s=18, zorder=3)
    for name, control in contrast.controls().items():
        others = control.measured(measured)
        if name in MARKS and len(others):
            marks[name] = axis.scatter(
                others, [y - 0.27] * len(others), s=18, marker=MARKS[name], facecolor="none", edgecolor=CONTROL
            )
    marks["floor"] = axis.vlines(contrast.floor, y - 0.42, y + 0.42, color="0.1", linewidth=1.8, zorder=2)
    return marks
