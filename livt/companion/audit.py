"""What the class counts alone say of reported accuracies: whether the groups add up, and whether two reports can agree.

Every class has equally many test images, so the accuracy over images is the mean over classes, and the accuracies of
groups, weighted by their numbers of classes, must give it. Accuracies are percent, rounded to ``half`` on either side.

Shapes: ``C`` classes, ``S`` splits of the classes into many, medium and few.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog

from livt.longtail import GROUPS, shot_groups


@dataclass(frozen=True)
class Report:
    """Accuracies as somebody gives them: of the groups many, medium, few, and overall, percent, rounded to ``half``."""

    groups: tuple[float, ...]
    accuracy: float
    half: float

    @classmethod
    def of(cls, row: pd.Series, half: float = 0.05) -> "Report":
        """Return the report of a published row, which has the columns many, medium, few and accuracy."""
        return cls(tuple(float(row[group]) for group in GROUPS), float(row["accuracy"]), half)

    def weighted(self, sizes: ArrayLike) -> float:
        """Return the overall accuracy that the groups give, for so many classes in each."""
        return float(np.average(self.groups, weights=np.asarray(sizes)))


def group_sizes(class_counts: ArrayLike) -> tuple[int, ...]:
    """Return the number of many-, medium- and few-shot classes.

    >>> group_sizes([500, 101, 100, 20, 19])
    (2, 2, 1)
    """
    groups = shot_groups(class_counts)
    return tuple(int((groups == group).sum()) for group in GROUPS)


def all_splits(class_counts: ArrayLike) -> dict[str, tuple[int, ...]]:
    """Return every split by two bounds on the count that leaves no group empty: its name, and its group sizes.

    Bounds that give the same groups count once.
    """
    counts = np.sort(np.asarray(class_counts))
    values = np.unique(counts)[1:]
    smaller = np.searchsorted(counts, values)  # classes smaller than each distinct count
    found = {}
    for few, low in enumerate(values):
        for many in range(few + 1, len(values)):
            sizes = (len(counts) - smaller[many], smaller[many] - smaller[few], smaller[few])
            found[f"many > {values[many] - 1}, few < {low}"] = tuple(map(int, sizes))
    return found


def fits(report: Report, splits: ArrayLike, per_class: int) -> NDArray[np.bool_]:
    """Return for each split [S, 3] whether whole numbers of correct images round to all of the report's accuracies.

    per_class: test images of each class.
    """
    sizes = np.asarray(splits)
    low, high = _correct(np.array(report.groups), report.half, per_class * sizes)
    total_low, total_high = _correct(report.accuracy, report.half, per_class * sizes.sum(axis=1))
    return (low <= high).all(axis=1) & (low.sum(axis=1) <= total_high) & (high.sum(axis=1) >= total_low)


def _correct(percent: ArrayLike, half: float, images: NDArray) -> tuple[NDArray, NDArray]:
    """Return the fewest and the most correct images that round to ``percent``."""
    percent = np.asarray(percent)
    return np.ceil((percent - half) * images / 100 - 1e-6), np.floor((percent + half) * images / 100 + 1e-6)


def least_fall(reports: Sequence[Report], splits: Sequence[Sequence[int]]) -> float | None:
    """Return how little the accuracy must fall from classes to larger ones, in points, if all reports are of one model.

    Each report has its own split. Their bounds cut the classes, sorted by size, into segments; a linear program asks
    for mean accuracies of the segments, 0 to 100 %, that give all reported ones within rounding. None: there are none.
    """
    classes = sum(splits[0])
    edges = [np.cumsum([0, *reversed(sizes)]) for sizes in splits]  # tail first
    cuts = np.unique(np.concatenate(edges))
    width = np.diff(cuts)
    rows, low, high = [], [], []
    for report, edge in zip(reports, edges, strict=True):
        spans = [*zip(edge[:-1], edge[1:], reversed(report.groups), strict=True), (0, classes, report.accuracy)]
        for start, stop, value in spans:
            inside = (cuts[:-1] >= start) & (cuts[:-1] < stop)
            rows.append(np.where(inside, width, 0) / (stop - start))
            low.append(value - report.half)
            high.append(value + report.half)
    means = np.pad(rows, ((0, 0), (0, 1)))  # unknowns: the mean of each segment, then the largest fall
    falls = np.eye(len(width))[:-1] - np.eye(len(width), k=1)[:-1]
    falls = np.hstack([falls, -np.ones((len(falls), 1))])
    solution = linprog(
        [0] * len(width) + [1],
        A_ub=np.vstack([means, -means, falls]),
        b_ub=np.concatenate([high, -np.array(low), np.zeros(len(falls))]),
        bounds=[(0, 100)] * (len(width) + 1),
    )
    return float(solution.x[-1]) if solution.success else None
