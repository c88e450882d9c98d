"""One number per seed: its mean, its interval, and the verdict on a claim."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

VERDICTS = (
    "reproduced",
    "larger than published",
    "direction holds",
    "larger, by another mechanism",
    "not reproduced",
    "inconclusive",
    "not run",
)

# Points of accuracy or ECE, declared before the first run on photographs: an interval within so many of zero shows that
# there is no effect larger than that.
MARGIN = 2.0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Mean and standard deviation over ``n`` seeds, with the 95 % Student-t interval of the mean."""

    n: int
    mean: float
    std: float
    low: float
    high: float


def estimate(values: Sequence[float] | pd.Series) -> Estimate:
    """Summarize one number per seed. Fewer than two give no spread: ``std``, ``low`` and ``high`` are nan."""
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0:
        return Estimate(n=0, mean=np.nan, std=np.nan, low=np.nan, high=np.nan)
    mean = float(x.mean())
    if x.size == 1:
        return Estimate(n=1, mean=mean, std=np.nan, low=np.nan, high=np.nan)
    std = float(x.std(ddof=1))
    half = float(stats.t.ppf(0.975, x.size - 1)) * std / np.sqrt(x.size)
    return Estimate(n=x.size, mean=mean, std=std, low=mean - half, high=mean + half)


def sign(e: Estimate) -> int:
    """Return 1 or -1 where the 95 % interval lies above or below zero; 0 where it does not tell, or n is below three.

    >>> sign(estimate([1.0, 1.1, 1.2])), sign(estimate([-1.0, 2.0, 3.0]))
    (1, 0)
    """
    return 0 if e.n < 3 else int(e.low > 0) - int(e.high < 0)


def within_margin(e: Estimate) -> bool:
    """Return whether the 95 % interval shows that there is no effect larger than ``MARGIN``; of three seeds or more.

    >>> within_margin(estimate([-0.5, 0.0, 0.5])), within_margin(estimate([-5.0, 0.0, 5.0]))
    (True, False)
    """
    return e.n >= 3 and bool(max(-e.low, e.high) < MARGIN)


def learnt_above(chance: float) -> float:
    """Return the accuracy above which something was learnt, for that of guessing, both in percent.

    Five times chance; with fewer than 40 classes, where that asks for too much, chance and ten points.

    >>> learnt_above(1.0), learnt_above(10.0)
    (5.0, 20.0)
    """
    return min(5 * chance, chance + 10)


def verdict(
    values: Sequence[float] | pd.Series,
    *,
    floor: float,
    threshold: float | None,
    ceiling: float | None = None,
    explained: bool = False,
) -> str:
    """Judge one number per seed against a claim's limits: one of ``VERDICTS``.

    Above the floor is an interval that lies wholly above it. It is "larger" where it also lies wholly above
    ``ceiling``, and that is by another mechanism where a control has ``explained`` it. Without a ``threshold`` nothing
    is reproduced. Fewer than three seeds are inconclusive, none are "not run".

    >>> verdict([9.0, 10.0, 11.0], floor=0, threshold=8.5, ceiling=29.9)
    'reproduced'
    >>> verdict([69.0, 70.0, 71.0], floor=0, threshold=8.5, ceiling=29.9, explained=True)
    'larger, by another mechanism'
    """
    found = estimate(values)
    if found.n == 0:
        return "not run"
    if found.n < 3 or isnan(found.mean):
        return "inconclusive"
    if found.low <= floor:
        return "not reproduced" if found.high < floor else "inconclusive"
    if ceiling is not None and found.low > ceiling:
        return "larger, by another mechanism" if explained else "larger than published"
    return "reproduced" if threshold is not None and found.mean >= threshold else "direction holds"


def overall(verdicts: Sequence[str]) -> str:
    """Return the verdict on a claim from those on its contrasts: the weakest; inconclusive where only some were run.

    >>> overall(["reproduced", "direction holds"]), overall(["reproduced", "not run"]), overall([])
    ('direction holds', 'inconclusive', 'not run')
    """
    if all(found == "not run" for found in verdicts):
        return "not run"
    order = (*VERDICTS[:4], "not run", "inconclusive", "not reproduced")
    weakest = max(verdicts, key=order.index)
    return "inconclusive" if weakest == "not run" else weakest


def p_value(values: Sequence[float] | pd.Series, floor: float) -> float:
    """Return the one-sided p-value of Student's t-test for a mean above ``floor``; nan for fewer than two values."""
    e = estimate(values)
    if e.n < 2:
        return np.nan
    if e.std == 0:
        return float(e.mean <= floor)
    return float(stats.t.sf((e.mean - floor) / (e.std / np.sqrt(e.n)), e.n - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's method, in the order given.

    Of those at most alpha, one or more are there by chance alone with a probability of at most alpha.

    >>> holm([0.5, 0.25])
    [0.5, 0.5]
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def two_sided(values: Sequence[float] | pd.Series) -> float:
    """Return the two-sided p-value of Student's t-test for a mean other than zero; nan for fewer than two values."""
    one = p_value(values, 0.0)
    return one if isnan(one) else min(1.0, 2 * min(one, p_value([-value for value in values], 0.0)))


@dataclass(frozen=True, kw_only=True)
class RankCorrelation:
    """Kendall's tau-b of ``n`` pairs, a 95 % interval, and the two-sided p-value of no association."""

    n: int
    tau: float
    low: float
    high: float
    p: float


def rank_correlation(x: Sequence[float], y: Sequence[float], *, draws: int = 4000) -> RankCorrelation:
    """Return how far two orders of the same things agree, from -1 (reversed) to 1 (the same).

    The interval is the percentile bootstrap's over the things, with a generator of its own: the same numbers give the
    same interval. A draw without an order, in which all things are one, is left out. The p-value is exact where no two
    values are equal. Fewer than four pairs give no interval, fewer than two no tau: nan.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.size < 2:
        return RankCorrelation(n=a.size, tau=np.nan, low=np.nan, high=np.nan, p=np.nan)
    found = stats.kendalltau(a, b)
    low = high = np.nan
    if a.size >= 4:
        chosen = np.random.default_rng(0).integers(a.size, size=(draws, a.size))
        with np.errstate(invalid="ignore", divide="ignore"):
            taus = _kendall(a[chosen], b[chosen])
        low, high = map(float, np.nanquantile(taus, (0.025, 0.975)))
    return RankCorrelation(n=a.size, tau=float(found.statistic), low=low, high=high, p=float(found.pvalue))


def _kendall(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return tau-b of each row of x and y, [D, N]; nan where all values of a row are equal."""
    above, below = np.triu_indices(x.shape[1], 1)
    first, second = np.sign(x[:, above] - x[:, below]), np.sign(y[:, above] - y[:, below])
    return (first * second).sum(1) / np.sqrt(np.abs(first).sum(1) * np.abs(second).sum(1))
