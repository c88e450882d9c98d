"""Clustering without labels: a problem in the plane that the chapter draws, and what the runs of the experiment say.

Shapes: ``N`` points, ``K`` clusters.
"""

from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from livt.clustering.methods import METHODS, neighbour_graph
from livt.clustering.transport import regularised, transport
from livt.companion import report
from livt.companion.chapter import Panel
from livt.companion.frames import made_by
from livt.companion.report import number
from livt.lab.runs import Record

STOPS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # masses
SIZES = (60, 30, 15, 6)
# What a table shows of a run besides its accuracy, by the name in its record.
SCORES = {
    "accuracy": "class-balanced",
    "image_accuracy": "images",
    "many": "many",
    "medium": "medium",
    "few": "few",
    "nmi": "NMI",
    "f1": "F1",
    "survivors": "small that survive",
    "evaluation_accuracy": "test images",
}
NOT_RUN = "<p>Not run: no clustering has a record yet.</p>"


@dataclass(frozen=True)
class FillingProblem:
    """Points [N, 2] of groups [N], which the solver does not know, and prototypes [K, 2] that are not yet in place."""

    points: NDArray[np.float64]
    groups: NDArray[np.int64]
    prototypes: NDArray[np.float64]


def filling_problem(seed: int = 1) -> FillingProblem:
    """Return the problem of the chapter: four Gaussian groups of ``SIZES``, the smallest prototype off its group."""
    draw = np.random.default_rng(seed)
    centres = np.array([[-1.6, 0.9], [1.7, 1.2], [-0.6, -1.7], [1.9, -1.3]])
    groups = np.repeat(np.arange(len(SIZES)), SIZES)
    points = centres[groups] + draw.normal(scale=0.6, size=(len(groups), 2))
    return FillingProblem(points, groups, centres + np.array([[0.3, -0.1], [-0.4, 0.1], [0.3, 0.4], [-0.3, 0.5]]))


def fill(problem: FillingProblem) -> dict[str, list[NDArray[np.float64]]]:
    """Return the plan [N, K] at each of ``STOPS``, by the way of labelling; each starts where the last one ended.

    Predictions are softmaxes of minus the squared distances to the prototypes. For so few points the graph has six
    neighbours, by their closeness, and its pull falls from 5 nats for an image whose neighbours agree to 0.
    """
    points = torch.from_numpy(problem.points)
    cost = -(-torch.cdist(points, torch.from_numpy(problem.prototypes)).square()).log_softmax(1)
    # Closeness as a cosine: points of the plane on a large sphere.
    sphere = normalize(torch.cat([points, torch.full((len(points), 1), 10.0)], 1), dim=1)
    graph = neighbour_graph(sphere, 6)
    found: dict[str, list[NDArray[np.float64]]] = {}
    for name, gamma in (("balanced OT", float("inf")), ("P2OT", 1.0), ("SP2OT", 1.0)):
        start = None
        for mass in STOPS:
            known = {"mass": mass, "gamma": gamma, "epsilon": 0.1, "start": start, "tolerance": 1e-4}
            if name == "SP2OT":
                weight = 5 * len(points) / 12 * (1 - mass)
                plan = regularised(cost, graph, weight, **known)  # type: ignore[arg-type]
            else:
                plan = transport(cost, **known)  # type: ignore[arg-type]
            start = plan.potential
            found.setdefault(name, []).append(plan.q.numpy())
    return found


# ---------------------------------------------------------------- what the runs say


def measured(panel: Panel) -> pd.DataFrame:
    """Return a row per run, as ``panel.measured``, with all of ``SCORES``."""
    rows = panel.measured
    results = {run.id: run.result for run in panel.records}
    return rows.assign(**{name: [results[run].get(name) for run in rows.run] for name in SCORES}).astype(
        dict.fromkeys(SCORES, float)
    )


def tables(panels: list[Panel]) -> str:
    """Return the scores of each method on each suite that has runs, as tabs of HTML; a sentence where none has."""
    return report.tabs({panel.title: _table(panel) for panel in panels}) if panels else NOT_RUN


def name_of(run: Record) -> str:
    """Return the title of the method of a clustering run."""
    return METHODS[run.config["cluster"]["method"]].title


def sources(panels: list[Panel]) -> str:
    """Return what made the runs of each suite, and the pretrainings that they start from, as HTML."""
    parts = [made_by(panel.title, [*panel.starts, *panel.records]) for panel in panels]
    return "".join(parts) or "<p>There are no records.</p>"


def _table(panel: Panel) -> str:
    runs = measured(panel)
    rows = {
        escape(METHODS[method].title): {title: number(runs, method, name) for name, title in SCORES.items()}
        for method in panel.arms
        if (runs.arm == method).any()
    }
    caption = f"{panel.suite.title}: percent, mean ± standard deviation over {report.in_seeds(runs.seed.nunique())}"
    return report.table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("method"), caption)
