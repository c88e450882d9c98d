"""What the paper published, as tidy tables, and the claims that a run can test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from math import isnan

import numpy as np
import pandas as pd
from scipy import stats

VERDICTS = ("reproduced", "direction holds", "not reproduced", "inconclusive", "not run")
LOSS_NAMES = {"ce": "CE", "bal_ce": "Bal-CE", "bce": "BCE", "bal_bce": "Bal-BCE"}
TABLES = (
    "augmentation",
    "class_counts/imagenet_lt",
    "class_counts/inat18",
    "class_counts/places_lt",
    "datasets",
    "hyperparameters",
    "official_logs/finetune_imagenet_lt_vitb224",
    "official_logs/finetune_imagenet_lt_vitb384",
    "official_logs/finetune_inat18_vitb224",
    "official_logs/finetune_inat18_vitb384",
    "official_logs/pretrain_imagenet_lt_vitb224",
    "official_logs/pretrain_inat18_vitb128",
    "table1_recipes",
    "table2_imagenet_lt",
    "table3_inat18",
    "table4_places_lt",
    "table5_loss_by_model_size",
    "vit_from_scratch_cifar_lt",
)


def published(table: str) -> pd.DataFrame:
    """Return one of the published ``TABLES``, percentages as printed. Raises ValueError for an unknown name.

    Class counts and official logs are those of the released code (XuZhengzhuo/LiVT at 68546ef); epochs count from 0.

    >>> published("table5_loss_by_model_size").query("model == 'ViT-Base' and loss == 'Bal-BCE'").accuracy.item()
    60.9
    """
    if table not in TABLES:
        raise ValueError(f"unknown table {table!r}; choose from {', '.join(TABLES)}")
    with resources.files("livt").joinpath("published", f"{table}.csv").open("rb") as file:
        return pd.read_csv(file)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim about the losses as a number, judged by limits that come from the paper and not from the runs.

    The number is the sum of ``weights[loss] * metric`` within one seed, in points. The claim's direction holds where
    the 95 % confidence interval over seeds lies above ``floor``; it is reproduced where the mean also reaches
    ``threshold``, the smallest of the paper's own numbers over its model sizes.
    """

    id: str
    statement: str
    metric: str
    weights: Mapping[str, float]
    floor: float
    threshold: float

    def published(self) -> pd.Series:
        """Return the paper's own number for each of its model sizes (Table 5)."""
        table = published("table5_loss_by_model_size").pivot(index="model", columns="loss", values=self.metric)
        value = sum(weight * table[LOSS_NAMES[loss]] for loss, weight in self.weights.items())
        return value.reindex(["ViT-Tiny", "ViT-Small", "ViT-Base", "ViT-Large"]).round(1)

    def measured(self, runs: pd.DataFrame) -> pd.Series:
        """Return the number for each seed of a frame with columns loss, seed and the metrics.

        A seed that lacks one of the losses drops out.
        """
        table = runs.pivot_table(index="seed", columns="loss", values=self.metric).reindex(columns=list(self.weights))
        return (table * pd.Series(self.weights)).sum(axis=1, skipna=False).dropna()


LOSS_CLAIMS = (
    Claim(
        id="C4",
        statement="Plain BCE falls behind CE on long-tailed data",
        metric="accuracy",
        weights={"ce": 1, "bce": -1},
        floor=0.0,
        threshold=2.1,
    ),
    Claim(
        id="C5",
        statement="Bal-BCE improves BCE by a wide margin",
        metric="accuracy",
        weights={"bal_bce": 1, "bce": -1},
        floor=0.0,
        threshold=8.5,
    ),
    Claim(
        id="C6",
        statement="Bal-BCE is at least as good as Bal-CE, within one point",
        metric="accuracy",
        weights={"bal_bce": 1, "bal_ce": -1},
        floor=-1.0,
        threshold=-0.6,
    ),
)


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
