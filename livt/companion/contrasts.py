"""What a claim is: numbers with limits that a run can test."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd

# Who starts elsewhere takes the place of plain BCE, by a name for the comparison: what is left of a claim then?
CONTROLS = {
    "BCE from 1/C": {"bce": "bce, uniform start"},
    "BCE from the prior": {"bce": "bce, prior start"},
    "BCE and CE from the prior": {"bce": "bce, prior start", "ce": "ce, prior start"},
}
EXPLAINING = "BCE from the prior"  # it shares the start of Bal-BCE, and so has all that the start does
UNITS = {
    "ece": "points of ECE",
    "share_to_95": "points of training share",
    "early_distance": "pixels",
    "tail_lead": "points of few-shot minus many-shot accuracy",
    "survivors": "points of the share of small classes",
}
DIGITS = {"early_distance": 2}  # decimals that tell two numbers apart; 1 of the others


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A number that a claim is about, judged by limits that come from the paper and not from the runs.

    The number is the sum of ``weights[arm] * metric`` within one seed, in ``unit``. The direction holds where the 95 %
    confidence interval over seeds lies above ``floor``; it is reproduced where the mean also reaches ``threshold``,
    and larger than published where the interval lies above ``ceiling``. ``published``: the paper's own numbers, none
    where it has none.
    """

    label: str
    metric: str
    weights: Mapping[str, float]
    floor: float
    published: tuple[float, ...]

    @property
    def threshold(self) -> float | None:
        """The smallest published number above the floor; None where there is none, and nothing can be reproduced."""
        return min((number for number in self.published if number > self.floor), default=None)

    @property
    def ceiling(self) -> float | None:
        """The largest published number and, above it, the width of the published range; None where one has no range."""
        if len(self.published) < 2:
            return None
        return max(self.published) + (max(self.published) - min(self.published))

    @property
    def unit(self) -> str:
        return UNITS.get(self.metric, "points of accuracy")

    @property
    def in_points(self) -> bool:
        """Whether its number is in points of accuracy or of ECE, which have one margin."""
        return self.unit.endswith(("accuracy", "ECE"))

    @property
    def digits(self) -> int:
        """Decimals with which its numbers are shown."""
        return DIGITS.get(self.metric, 1)

    def controls(self) -> dict[str, "Contrast"]:
        """Return the same contrast with each control in its place, by the control's name; none without plain BCE."""
        return {
            name: replace(self, weights={arms.get(arm, arm): weight for arm, weight in self.weights.items()})
            for name, arms in CONTROLS.items()
            if arms.keys() <= self.weights.keys()
        }

    def measured(self, runs: pd.DataFrame) -> pd.Series:
        """Return the number for each seed of a frame with columns arm, seed and the metrics.

        A seed that lacks one of the arms drops out. Raises ValueError where two rows are of one arm and seed.
        """
        if not self.weights.keys() <= set(runs.arm):
            return pd.Series(dtype=float)
        rows = runs[runs.arm.isin(list(self.weights))].reindex(columns=["arm", "seed", self.metric])
        table = rows.pivot(index="seed", columns="arm", values=self.metric).reindex(columns=list(self.weights))
        return (table * pd.Series(self.weights, dtype=float)).sum(axis=1, skipna=False).dropna()


@dataclass(frozen=True, kw_only=True)
class Claim:
    """An entry of the claims ledger: what the paper says, what limits it, and what would test it.

    ``experiment`` and ``contrasts`` measure it; without them it cannot be tested by any experiment here, for the reason
    given. ``chapter`` is the book's page about it. ``many``: its contrasts are so many that their p-values are adjusted
    among themselves, and change those of no other claim.
    """

    id: str
    statement: str
    evidence: str
    limit: str
    chapter: str
    experiment: str | None = None
    contrasts: tuple[Contrast, ...] = ()
    reason: str = ""
    many: bool = False
