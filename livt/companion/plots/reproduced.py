"""A figure of what ``reproduce`` prints: every arm of an experiment, by shot group."""

import io

import matplotlib.pyplot as plt
import pandas as pd

from livt.companion.plots import COLOURS, METRIC_NAMES, WIDTH
from livt.companion.statistics import estimate


def drawn(table: pd.DataFrame, form: str) -> bytes:
    """Return the figure of a table of ``livt.lab.results.table_of`` as a file: svg, png or pdf.

    A panel for all classes and each shot group, a row for each arm: its mean, and each seed a dot. The same table gives
    the same bytes.
    """
    several = "experiment" in table
    names = (table.experiment + ": " + table.arm if several else table.arm).rename("row")
    rows = list(dict.fromkeys(names))
    height = 1.2 + 0.28 * len(rows)
    with plt.rc_context({"svg.hashsalt": "livt", "font.size": 9.0, "savefig.facecolor": "white"}):
        figure, axes = plt.subplots(1, len(METRIC_NAMES), figsize=(WIDTH, height), sharey=True, layout="constrained")
        for axis, (metric, title) in zip(axes, METRIC_NAMES.items(), strict=True):
            for y, row in enumerate(rows):
                values = table.loc[names == row, metric].dropna()
                e = estimate(values)
                if e.n:
                    axis.barh(y, e.mean, height=0.7, color=COLOURS["bal_ce"], edgecolor="0.2", linewidth=0.8)
                    axis.plot(values, [y] * e.n, "D", color="0.1", markersize=3)
            axis.set(title=f"{title} classes", xlim=(0, 100), xticks=(0, 50, 100), ylim=(len(rows) - 0.4, -0.6))
        axes[0].set_yticks(range(len(rows)), rows)
        runs = f"{len(table)} runs, {table.seed.nunique()} seeds; bars are means, diamonds single runs"
        figure.supxlabel(f"test accuracy [%]; {runs}", fontsize=9)
        buffer = io.BytesIO()
        dated = {"svg": "Date", "pdf": "CreationDate"}.get(form)
        figure.savefig(buffer, format=form, dpi=200, metadata={dated: None} if dated else None)
    plt.close(figure)
    return buffer.getvalue()
