"""One number per seed: its mean, its interval, and the verdict on a claim."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np
import pandas as pd
from scipy import stats

VERDICTS = ("reproduced", "direction holds", "not reproduced", "inconclusive", "not run")


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


def verdict(values: Sequence[float] | pd.Series, *, floor: float, threshold: float) -> str:
    """Judge one number per seed against a claim's floor and threshold: one of ``VERDICTS``.

    Fewer than three seeds are inconclusive, none are "not run".

    >>> verdict([9.0, 10.0, 11.0], floor=0, threshold=8.5)
    'reproduced'
    >>> verdict([], floor=0, threshold=8.5)
    'not run'
    """
    found = estimate(values)
    if found.n == 0:
        return "not run"
    if found.n < 3 or isnan(found.mean):
        return "inconclusive"
    if found.low > floor:
        return "reproduced" if found.mean >= threshold else "direction holds"
    return "not reproduced" if found.high < floor else "inconclusive"


def overall(verdicts: Sequence[str]) -> str:
    """Return the verdict on a claim from those on its contrasts: the weakest; inconclusive where only some were run.

    >>> overall(["reproduced", "direction holds"]), overall(["reproduced", "not run"]), overall([])
    ('direction holds', 'inconclusive', 'not run')
    """
    if all(found == "not run" for found in verdicts):
        return "not run"
    order = ("reproduced", "direction holds", "not run", "inconclusive", "not reproduced")
    weakest = max(verdicts, key=order.index)
    return "inconclusive" if weakest == "not run" else weakest
