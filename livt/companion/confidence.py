"""What models say of their own certainty: gaps by bin, the noise in them, and other forms of confidence.

Shapes: ``N`` images, ``C`` classes. A gap is mean confidence minus accuracy, in points: positive where a model is
over-confident.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from livt.lab.runs import Record
from livt.longtail import GROUPS, shot_groups
from livt.metrics import reliability


def bins_of(records: Iterable[Record]) -> pd.DataFrame:
    """Return a row per run and bin: images, their accuracy and mean confidence (fractions, nan in an empty bin)."""
    rows = [
        pd.DataFrame(run.result["reliability"], dtype=float)
        .rename_axis("bin")
        .assign(loss=run.recipe.finetune.loss, seed=run.recipe.seed, run=run.id)
        for run in records
    ]
    return pd.concat(rows).reset_index()


def mean_gaps(bins: pd.DataFrame) -> pd.Series:
    """Return the gap of each run from its bins, as from ``bins_of``, by loss and seed."""
    surplus = (100 * bins["size"] * (bins.confidence - bins.accuracy)).groupby([bins.loss, bins.seed]).sum()
    return surplus / bins.groupby(["loss", "seed"])["size"].sum()


def noise(bins: pd.DataFrame, draws: int = 2000) -> pd.Series:
    """Return ECE and MCE of one run from its bins, and both of a calibrated model: mean, 95 % quantile of ``draws``.

    A calibrated model has the same bins, and images are right with a probability that equals the mean confidence.
    ``images`` are those behind the MCE, ``total`` all. Percent.
    """
    used = bins[bins["size"] > 0]
    n, p = used["size"].to_numpy(int), used.confidence.to_numpy()
    gap = 100 * np.abs(used.accuracy.to_numpy() - p)
    drawn = 100 * np.abs(np.random.default_rng(0).binomial(n, p, (draws, len(n))) / n - p)
    row = {"images": n[gap.argmax()], "total": n.sum()}
    for name, own, of_ideal in (("ece", gap @ n / n.sum(), drawn @ n / n.sum()), ("mce", gap.max(), drawn.max(1))):
        row |= {name: own, f"{name} ideal": of_ideal.mean(), f"{name} high": np.quantile(of_ideal, 0.95)}
    return pd.Series(row)


def calibration_of(
    stated: NDArray[np.float64], decided: NDArray[np.int64], labels: NDArray[np.int64], class_counts: ArrayLike
) -> dict[str, float]:
    """Return how well stated confidences [N, C] are calibrated for the class that is decided for, [N].

    ECE [%] and the gap, of all images and by shot group of the true class and of that decided for, nan for none; and
    the mean of the confidences' sum over the classes.
    """
    groups = shot_groups(class_counts)
    p, right = stated[np.arange(len(stated)), decided], decided == labels
    size, accuracy, confidence = reliability(p, right)
    row = {"sum": stated.sum(1).mean(), "ECE": 100 * np.nansum(size * abs(accuracy - confidence)) / len(labels)}
    row["gap"] = 100 * (p - right).mean()
    for by, classes in (("by true class", labels), ("by class decided for", decided)):
        for group in GROUPS:
            chosen = groups[classes] == group
            row[f"{by}, {group}"] = 100 * (p - right)[chosen].mean() if chosen.any() else np.nan
    return row


def at_equal_accuracy(curves: pd.DataFrame, other: str = "bce") -> pd.DataFrame:
    """Return, by loss and seed, epoch, accuracy and ECE where a run first has the final accuracy of another loss.

    curves: a row per run and epoch, as from ``livt.lab.results.curves``. Runs that never get there are left out; those
    of ``other`` itself are read at their end.
    """
    final = curves.groupby(["loss", "seed"]).last()
    target = curves.seed.map(final.accuracy[other])
    first = curves[curves.accuracy >= target].groupby(["loss", "seed"])[["epoch", "accuracy", "ece"]].first()
    return pd.concat([first.drop(other, level="loss", errors="ignore"), final.loc[[other], first.columns]])
