"""The gain from a plain loss to its balanced one, step by step: arms that differ by start and removal alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from livt.companion.chapter import Panel
from livt.companion.claims import Contrast
from livt.companion.frames import with_removal
from livt.companion.published import LOSS_NAMES
from livt.companion.report import number
from livt.companion.statistics import estimate, sign
from livt.config import Recipe, with_overrides

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


def parts_of(split: Split, metrics: Mapping[str, str]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return mean metrics of BCE by start and by the strength of the bias removed at test, "0" or "1"; None for nan.

    metrics: column by name, as the names of the innermost values.
    """
    means = split.measured.groupby("arm")[list(metrics.values())].mean()
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for start in ("zero", "uniform", "prior"):
        for tau, ending in (("0", ""), ("1", ", removed")):
            row = means.loc[f"{split.where}/bce, {start} start{ending}"]
            values = {name: None if pd.isna(row[column]) else float(row[column]) for name, column in metrics.items()}
            found.setdefault(start, {})[tau] = values
    return found


def split_column(split: Split, where: str, losses: Iterable[str]) -> dict[tuple[str, str], str]:
    """Return where each loss starts, its steps, their total, and the check, as HTML by loss and row."""
    column: dict[tuple[str, str], str] = {}
    for loss in losses:
        measured, last = split.measured, f"{where}/{STAGES[loss][-1]}"
        plain, balanced = LOSS_NAMES[loss], LOSS_NAMES[f"bal_{loss}"]
        check = {f"{where}/bal_{loss}, zero start": 1, last: -1}
        first = "1/2" if loss == "bce" else "1/C"  # a softmax of zeros
        rows = {f"{plain}, start at {first}": number(measured, f"{where}/{STAGES[loss][0]}", "accuracy")}
        for step, weights in steps(where, loss).items():
            mark = "=" if step == "total gain" else "+"
            rows[f"{mark} {step}"] = number(measured, weights, "accuracy", signed=True)
        rows[f"{balanced}, by start and removal"] = number(measured, last, "accuracy")
        rows[f"{balanced} as trained, minus that"] = number(measured, check, "accuracy", digits=2, signed=True)
        column |= {(plain, row): text for row, text in rows.items()}
    return column


def said(
    split: Split, weights: Mapping[str, float], names: Sequence[str] = ("a loss", "too close to tell", "a gain")
) -> str:
    """Return a difference of accuracies as HTML, with its interval and one of ``names`` by its sign: below, 0, above.

    It is inconclusive with fewer than three seeds, and where no arm exceeds five times chance.
    """
    contrast = Contrast(label="", metric="accuracy", weights=weights, floor=0, published=())
    e = estimate(contrast.measured(split.measured))
    best = split.measured[split.measured.arm.isin(list(weights))].groupby("arm").accuracy.mean().max()
    word = names[sign(e) + 1] if e.n >= 3 and best > 5 * split.panel.chance else "inconclusive"
    mean = number(split.measured, weights, "accuracy", show="mean", signed=True)
    interval = number(split.measured, weights, "accuracy", show="interval", signed=True)
    return f"{mean} points ({interval}), <strong>{word}</strong>"


def _where(recipe: Recipe) -> str:
    return f"{recipe.model.size}/{recipe.finetune.epochs}"
