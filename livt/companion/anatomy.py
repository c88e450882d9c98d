"""The gain from a plain loss to its balanced one, step by step: arms that differ by start and removal alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import pandas as pd
from numpy.typing import ArrayLike
from torch import Tensor

from livt.companion.chapter import Panel
from livt.companion.frames import with_removal
from livt.config import Recipe, with_overrides
from livt.lab.stored import stored_logits
from livt.metrics import evaluate_logits

# By loss: what its classifier starts from, step by step, and last what is taken away at test.
STAGES = {
    "bce": ("bce, zero start", "bce, uniform start", "bce, prior start", "bce, prior start, removed"),
    "ce": ("ce, zero start", "ce, prior start", "ce, prior start, removed"),
}
STEPS = {
    "bce": ("leaving the plateau", "prior in the start", "removal at test"),
    "ce": ("prior in the start", "removal at test"),
}


@dataclass(frozen=True)
class Split:
    """The runs of one suite that differ from ``base`` in size, length, loss and start alone.

    panel: its arms are named "<size>/<epochs>/<loss>, <start> start". base: the recipe that they vary.
    """

    panel: Panel
    base: Recipe

    @cached_property
    def measured(self) -> pd.DataFrame:
        """A row per run and arm, and per run of a plain loss one more, "<arm>, removed"."""
        return with_removal(self.panel)

    @property
    def where(self) -> str:
        """Size and length of the base: what the names of its arms begin with."""
        return _where(self.base)

    @property
    def lengths(self) -> dict[str, str]:
        """What the arms of each length begin with, at the size of the base, by title, shortest first."""
        recipes = {r.finetune.epochs: r for r in self._plain if r.model.size == self.base.model.size}
        return {f"{epochs} epochs": _where(recipes[epochs]) for epochs in sorted(recipes)}

    @property
    def sizes(self) -> dict[str, str]:
        """What the arms of each size begin with, at the length of the base, by title, smallest first."""
        recipes = {r.model.size: r for r in self._plain if r.finetune.epochs == self.base.finetune.epochs}
        return {f"ViT {size}": _where(recipes[size]) for size in self.panel.suite.sizes if size in recipes}

    @property
    def _plain(self) -> list[Recipe]:
        """A recipe of each size and length where all stages of BCE have runs, so that the split can be told."""
        found = set(self.measured.arm)
        recipes = {_where(recipe): recipe for recipe in self.panel.arms.values()}
        return [r for where, r in recipes.items() if found >= {f"{where}/{stage}" for stage in STAGES["bce"]}]


def split_of(panel: Panel) -> Split:
    """Return the split of a suite's sweep or of its main recipe: of that with all stages, and then with more arms."""
    splits = []
    for base in (panel.suite.sweep, panel.suite.main):
        arms = {}
        for recipe in panel.arms.values():
            tuned = recipe.finetune
            changes = {"loss": tuned.loss, "start": tuned.start, "epochs": tuned.epochs}
            changed = {"model.size": recipe.model.size} | {f"finetune.{name}": value for name, value in changes.items()}
            if recipe == with_overrides(base, changed):
                arms[f"{_where(recipe)}/{tuned.loss}, {tuned.start} start"] = recipe
        splits.append(Split(replace(panel, arms=arms), base))
    return max(splits, key=lambda split: (split.where in split.lengths.values(), split.measured.arm.nunique()))


def steps(where: str, loss: str) -> dict[str, dict[str, float]]:
    """Return, for each step of a loss and their total, the weights of the arms whose difference it is.

    >>> steps("pico/15", "ce")["removal at test"]
    {'pico/15/ce, prior start, removed': 1, 'pico/15/ce, prior start': -1}
    """
    stages = [f"{where}/{stage}" for stage in STAGES[loss]]
    found: dict[str, dict[str, float]] = {
        step: {after: 1, before: -1} for step, before, after in zip(STEPS[loss], stages, stages[1:], strict=False)
    }
    return found | {"total gain": {stages[-1]: 1, stages[0]: -1}}


def logits_of(split: Split, arm: str, device: str = "cpu") -> dict[int, tuple[Tensor, Tensor]]:
    """Return, by seed, the test logits [N, C], float64, and labels [N] of an arm at the base, from the stored weights.

    arm: "<loss>, <start> start". Raises RunError where a run's weights are not in the panel's store.
    """
    ids = split.measured[split.measured.arm == f"{split.where}/{arm}"].set_index("run").seed
    found = {}
    for record in split.panel.records:
        if record.id in ids:
            z, labels = stored_logits(record, split.panel.store, device=device)
            found[int(ids[record.id])] = z.double(), labels
    return found


def removed(
    logits: Mapping[int, tuple[Tensor, Tensor]],
    bias: Tensor,
    strengths: Iterable[float],
    counts: ArrayLike,
    metrics: Sequence[str],
) -> pd.DataFrame:
    """Return a row per seed and strength tau: the metrics, percent, where tau times the bias is taken from the logits.

    logits: as from ``logits_of``. bias: [C]. counts: training images of each class, [C].
    """
    rows = []
    for (seed, (z, labels)), tau in product(logits.items(), list(strengths)):
        found = evaluate_logits(z - tau * bias, labels, counts)
        rows.append({"tau": round(tau, 3), "seed": seed} | {metric: getattr(found, metric) for metric in metrics})
    return pd.DataFrame(rows)


def parts_of(
    split: Split, metrics: Mapping[str, str], more: Mapping[str, pd.DataFrame] | None = None
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return mean metrics of BCE by start and by the strength of the bias removed at test; None for nan.

    metrics: column by name, as the names of the innermost values. Strengths "0" and "1" are of the records; ``more``
    has those of a start, as from ``removed``.
    """
    means = split.measured.groupby("arm")[list(metrics.values())].mean()
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for start in ("zero", "uniform", "prior"):
        arm = f"{split.where}/bce, {start} start"
        rows = {"0": means.loc[arm], "1": means.loc[f"{arm}, removed"]}
        if more:
            rows |= {f"{tau:g}": row for tau, row in more[start].groupby("tau").mean().iterrows()}
        found[start] = {
            tau: {name: None if pd.isna(row[column]) else float(row[column]) for name, column in metrics.items()}
            for tau, row in rows.items()
        }
    return found


def _where(recipe: Recipe) -> str:
    return f"{recipe.model.size}/{recipe.finetune.epochs}"
