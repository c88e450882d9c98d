"""Where the spread of a result comes from: the draw of the training images, the pretraining or the fine-tuning.

Shapes: ``D`` draws, ``P`` pretrainings on each, ``F`` fine-tunings of each of those.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from livt.companion import plots, report
from livt.companion.chapter import Panel
from livt.companion.plots.variance import nested

NOT_RUN = "<p>The runs that tell draw, pretraining and fine-tuning apart have no records yet.</p>"
NESTED = ["draw", "pretraining", "seed"]  # a seed is a fine-tuning's
ROWS: dict[str, dict[str, int]] = {
    "CE": {"ce": 1},
    "Bal-BCE": {"bal_bce": 1},
    "Bal-BCE minus CE": {"bal_bce": 1, "ce": -1},
}


@dataclass(frozen=True, kw_only=True)
class Components:
    """Variances of a new draw, a new pretraining and a new fine-tuning, and p-values that the first two are zero."""

    draw: float
    pretraining: float
    fine_tuning: float
    p_draw: float
    p_pretraining: float

    @property
    def total(self) -> float:
        """The variance of a run in which all three are new."""
        return self.draw + self.pretraining + self.fine_tuning


def components(values: ArrayLike) -> Components:
    """Estimate the variance components of a balanced nested design, values [D, P, F], by analysis of variance.

    What a number of a seed has in common wherever it recurs is taken for zero. A negative estimate becomes zero.
    Source: Searle, Casella and McCulloch, Variance Components, 1992, chapter 3.
    Raises ValueError for fewer than two draws, pretrainings or fine-tunings.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 3 or min(x.shape) < 2:
        raise ValueError(f"values must be [D, P, F] with at least two of each, not {list(x.shape)}")
    d, p, f = x.shape
    cells, draws = x.mean(2), x.mean((1, 2))
    within = ((x - cells[:, :, None]) ** 2).sum() / (d * p * (f - 1))
    between = f * ((cells - draws[:, None]) ** 2).sum() / (d * (p - 1))
    across = p * f * ((draws - draws.mean()) ** 2).sum() / (d - 1)
    return Components(
        draw=max(0.0, (across - between) / (p * f)),
        pretraining=max(0.0, (between - within) / f),
        fine_tuning=float(within),
        p_draw=float(stats.f.sf(across / between, d - 1, d * (p - 1))),
        p_pretraining=float(stats.f.sf(between / within, d * (p - 1), d * p * (f - 1))),
    )


def nested_runs(measured: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of the experiment with their draw and pretraining, and the loss as the arm.

    Each draw counts its own pretrainings, from 1: no two have one seed.
    """
    told = measured.arm.str.extract(r"^draw (?P<draw>\d+), MGP (?P<seed>\d+)/(?P<loss>\w+)$").astype({"seed": int})
    pretraining = told.groupby("draw").seed.rank("dense").astype(int)
    return measured.assign(arm=told.loss, draw=told.draw.astype(int), pretraining=pretraining)


def design(frame: pd.DataFrame, weights: dict[str, int], metric: str = "accuracy") -> NDArray[np.float64]:
    """Return a weighted sum over losses of a metric as [D, P, F]. Raises ValueError where the design lacks a run."""
    wide = frame.pivot(index=NESTED, columns="arm", values=metric)
    total = sum(weight * wide[loss] for loss, weight in weights.items())
    shape = [total.index.get_level_values(key).nunique() for key in NESTED]
    if total.isna().any() or len(total) != np.prod(shape):
        raise ValueError("the design lacks a run: each draw needs the same pretrainings, each of them the same seeds")
    return total.sort_index().to_numpy().reshape(shape)


def complete(frame: pd.DataFrame) -> bool:
    """Return whether every combination of a design with at least two of each has both losses."""
    sizes = frame[NESTED].nunique()
    return bool(sizes.min() >= 2 and len(frame) == 2 * sizes.prod())


def section(panels: Sequence[Panel]) -> str:
    """Return the table and the figure of each suite whose runs make a balanced design, as tabs of HTML."""
    found = {panel.title: shown(panel) for panel in panels if complete(nested_runs(panel.measured))}
    return report.tabs(found) if found else NOT_RUN


def shown(panel: Panel) -> str:
    """Return what the runs of one suite say, as HTML: the components by loss, in points, and every run."""
    frame = nested_runs(panel.measured)
    values = {name: design(frame, weights) for name, weights in ROWS.items()}
    estimates = {name: components(x) for name, x in values.items()}
    rows = {
        name: {
            "mean": f"{values[name].mean():{'+' if len(ROWS[name]) > 1 else ''}.1f}",
            "draw": _deviation(c.draw, c.p_draw),
            "pretraining": _deviation(c.pretraining, c.p_pretraining),
            "fine-tuning": f"{c.fine_tuning**0.5:.1f}",
            "draw's share of the variance": f"{100 * c.draw / c.total:.0f} %" if c.total else "-",
        }
        for name, c in estimates.items()
    }
    d, p, f = values["CE"].shape
    caption = (
        f"{report.begun(panel.suite.title)}: standard deviations in points of accuracy, of {d} draws of the training "
        f"images, {p} pretrainings on each and {f} fine-tunings of each; p of the F-test that there is none."
    )
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("accuracy of")
    legend = "Each run, or pair of runs; a colour and shape is a pretraining, the line the mean of a draw."
    alt = f"{legend} {report.plain(verdict(estimates))}"
    return (
        report.table(table, caption, panel.measured, f"{panel.name}_variance")
        + f"<p>{verdict(estimates)}</p>"
        + plots.shown(nested(values), legend, alt)
        + report.folded("Every run, by draw and pretraining", report.table(cells(frame)))
    )


def cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy with each pretraining of each draw, over its fine-tunings, as HTML that names its runs."""
    rows = {
        keys: {n: report.number(own, weights, "accuracy", signed=len(weights) > 1) for n, weights in ROWS.items()}
        for keys, own in frame.groupby(["draw", "pretraining"])
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["draw", "pretraining"])


def verdict(estimates: dict[str, Components]) -> str:
    """Return in a sentence for each number what a spread over seeds, with one draw of the images, leaves out."""
    parts = []
    for name, c in estimates.items():
        seeds = (c.pretraining + c.fine_tuning) ** 0.5
        found = "a new draw adds to that" if c.p_draw <= 0.05 else "a new draw adds nothing that can be told"
        parts.append(f"{name}: {seeds:.1f} points over seeds, {c.total**0.5:.1f} with the draw; {found}")
    return f"Standard deviation of one run: {'. '.join(parts)}."


def _deviation(variance: float, p: float) -> str:
    return f"{variance**0.5:.1f} (p {'&lt; 0.001' if p < 0.001 else f'{p:.3f}'})"
