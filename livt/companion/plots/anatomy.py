"""The figures of the chapter on the anatomy of Bal-BCE."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from livt.companion.anatomy import STAGES
from livt.companion.plots import COLOURS, DASHES, grid
from livt.companion.published import LOSS_NAMES

GROUP_STYLES = {"accuracy": ("#000000", "all classes"), "many": ("#009E73", "many"), "few": ("#CC79A7", "few")}


def stages(measured: pd.DataFrame, columns: Mapping[str, str], losses: Iterable[str], chance: float) -> Figure:
    """Draw accuracy at each stage, a dot per seed and a line through the means; one panel per column.

    measured: as from ``livt.companion.anatomy.Split``. columns: what the names of a panel's arms begin with, by title.
    Beside the last stage: BCE from 1/C with the bias removed (hollow), and the balanced losses as trained (diamonds).
    """
    names = ["1/2", "1/C", "prior", "prior,\nremoved"]
    figure, axes = grid(len(columns), sharey=True)
    marks: dict[str, Line2D] = {}
    for axis, (title, where) in zip(axes, columns.items(), strict=True):
        of_arm = {arm: rows.accuracy for arm, rows in measured.groupby("arm")}
        for loss, shift in zip(losses, (-0.06, 0.06), strict=False):
            arms = STAGES[loss] if loss == "bce" else (STAGES[loss][0], *STAGES[loss])  # a softmax: 1/2 is 1/C
            values = [of_arm.get(f"{where}/{arm}", pd.Series(dtype=float)) for arm in arms]
            style: dict[str, Any] = {"color": COLOURS[loss], "linestyle": DASHES[loss], "linewidth": 1.8}
            axis.plot([i + shift for i in range(4)], [v.mean() for v in values], **style)
            marks[LOSS_NAMES[loss]] = Line2D([], [], marker="o", markeredgecolor="0.2", **style)
            for i, dots in enumerate(values):
                axis.plot([i + shift] * len(dots), dots, "o", color=COLOURS[loss], markersize=4, markeredgecolor="0.2")
            balanced = f"bal_{loss}"
            diamonds: dict[str, Any] = {"marker": "D", "markeredgecolor": "0.2", "linestyle": "", "markersize": 5}
            direct = of_arm.get(f"{where}/{balanced}, zero start", ())
            axis.plot([3.35 + shift] * len(direct), direct, color=COLOURS[balanced], **diamonds)
            marks[f"{LOSS_NAMES[balanced]}, trained"] = Line2D([], [], color=COLOURS[balanced], **diamonds)
        hollow: dict[str, Any] = {
            "marker": "s",
            "color": COLOURS["bce"],
            "markerfacecolor": "white",
            "linestyle": "",
            "markersize": 5,
        }
        other = of_arm.get(f"{where}/bce, uniform start, removed", ())
        axis.plot([2.75] * len(other), other, **hollow)
        marks["BCE from 1/C, removed"] = Line2D([], [], **hollow)
        axis.axhline(chance, color="0.4", linewidth=1)
        note: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "fontsize": 9}
        axis.annotate("chance", (3.5, chance), xytext=(0, 3), **note)
        axis.set(title=title, xlim=(-0.3, 3.6), ylim=(0, 102), xlabel="start of the classifier", ylabel="accuracy [%]")
        axis.set_xticks(range(4), names)
    figure.legend(list(marks.values()), list(marks), loc="outside lower center", ncols=3)
    return figure


def tau(curve: pd.DataFrame) -> Figure:
    """Draw accuracy against the strength of the bias: the compensated sweep a curve per seed, naive runs diamonds.

    curve: columns sweep ("compensated" or "naive"), tau, seed, accuracy, many and few.
    """
    figure, axes = grid(2, sharey=True)
    for axis, parts in zip(axes, (("accuracy",), ("many", "few")), strict=True):
        for part in parts:
            colour, _ = GROUP_STYLES[part]
            dash = "--" if part == "few" else "-"
            for (kind, _), rows in curve.groupby(["sweep", "seed"]):
                line = {"linestyle": dash, "linewidth": 1.2} if kind == "compensated" else {"marker": "D", "ls": ""}
                axis.plot(rows.tau, rows[part], color=colour, markersize=4, **line)
        axis.set(xlabel="strength τ of the bias", ylim=(0, 102), ylabel="accuracy [%]")
        axis.set(title=" and ".join(GROUP_STYLES[part][1] for part in parts))
    marks = {name: Line2D([], [], color=c, ls="--" if k == "few" else "-") for k, (c, name) in GROUP_STYLES.items()}
    marks["naive runs"] = Line2D([], [], color="0.3", marker="D", ls="", markersize=4)
    figure.legend(list(marks.values()), list(marks), loc="outside lower center", ncols=4)
    return figure
