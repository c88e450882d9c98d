"""The chapter on MetaFormer: what the metadata know, and what each arm reaches with and without them."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from html import escape
from math import log2

import pandas as pd

from livt.companion import plots, report
from livt.companion.chapter import Panel
from livt.companion.plots.metaformer import by_information
from livt.companion.published import LOSS_NAMES
from livt.companion.report import change, number
from livt.data.sets import classes_of
from livt.lab.cost import flops_of
from livt.lab.experiments import arms
from livt.lab.metaformer import GROUPS, LEVELS, LOSSES
from livt.rivals import ancestors
from livt.rivals.metadata import mutual_information

COLUMNS = {"many": "many", "medium": "medium", "few": "few", "accuracy": "all"}
NOT_RUN = "<p>MetaFormer has not been run yet.</p>"


def each(panels: Sequence[Panel], show: Callable[[Panel], str]) -> str:
    """Return what ``show`` makes of each suite, as tabs of HTML; one sentence where there is none."""
    return report.tabs({panel.title: show(panel) for panel in panels}) if panels else NOT_RUN


@cache
def bits(classes: int) -> dict[int, float]:
    """Return the mutual information of metadata and class at each level, in bits, where all classes are as likely."""
    return {level: max(0.0, mutual_information(classes, level)) for level in LEVELS}  # a sum of zeros may be -0.0


def information(suite: str) -> pd.DataFrame:
    """Return what the metadata of each level know of the class on a suite's test images, and the most there is."""
    classes = classes_of(arms("metaformer", suite)[f"ce/{LEVELS[0]}"].data)
    most = mutual_information(classes, 1e6)
    rows = {level: {"bits": f"{known:.2f}", "of": f"{most:.2f}"} for level, known in bits(classes).items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("concentration")


def cost(suite: str) -> str:
    """Return what an image costs in fine-tuning with and without the tokens of metadata, in words."""
    recipe = arms("metaformer", suite)["ce/0"]
    classes = classes_of(recipe.data)
    with_tokens, without = (flops_of(stage, recipe, classes) for stage in ("meta", "finetune"))
    return f"{with_tokens / 1e6:,.2f} MFLOP an image with two more tokens, {without / 1e6:,.2f} without"


def groups() -> pd.DataFrame:
    """Return what WordNet's groups know of Tiny-ImageNet's classes, by the least number of classes in a group."""
    rows = {
        least: {
            "groups": ancestors.codes(least).shape[1],
            "bits": f"{ancestors.information(least):.2f}",
            "of": f"{log2(ancestors.CLASSES):.2f}",
        }
        for least in GROUPS
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("least classes in a group")


def levels_of(panel: Panel) -> dict[int, str]:
    """Return what to call the metadata at each level of a panel: how they were made, and the bits that they know.

    Metadata of the first level know nothing. Bits alone name no level: close metadata of few classes all know all.
    """
    if all(recipe.meta is not None and recipe.meta.ancestors for recipe in panel.arms.values()):
        return {least: f"groups of {least} or more: {ancestors.information(least):.1f} bits" for least in GROUPS}
    return {level: f"κ = {level}: {known:.1f} bits" for level, known in bits(len(panel.class_counts)).items()}


def scores(panel: Panel) -> str:
    """Return the accuracy of each arm with its metadata, and with them shuffled and missing at test, as HTML."""
    measured, rows, levels = panel.measured, {}, levels_of(panel)
    for arm, name in _arms(panel).items():
        row = {title: number(measured, arm, metric) for metric, title in COLUMNS.items()}
        row |= {f"{head}: all": number(measured, f"{arm}, {head}", "accuracy") for head in ("shuffled", "missing")}
        rows[f"{name}, {levels[_level(arm)]}"] = row
    caption = f"{escape(panel.title)}: accuracy in percent, mean ± standard deviation over the seeds"
    return report.table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("loss, metadata"), caption)


def gains(panel: Panel) -> str:
    """Return what metadata of each level add to those that know nothing, by shot group, within a seed, as HTML."""
    levels, rows = levels_of(panel), {}
    nothing = next(iter(levels))
    for arm, name in _arms(panel).items():
        if _level(arm) != nothing:
            loss = arm.partition("/")[0]
            rows[f"{name}, {levels[_level(arm)]}"] = _changes(panel, {arm: 1, f"{loss}/{nothing}": -1})
    return report.table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("gain of metadata"))


def stacked(panel: Panel) -> str:
    """Return what Bal-BCE adds to CE with the same metadata of each level, by shot group, within a seed, as HTML.

    Nothing is returned where one of the losses has no run.
    """
    losses = {level: (f"bal_bce/{level}", f"ce/{level}") for level in levels_of(panel)}
    there = set(panel.measured.arm)
    rows = {
        title: _changes(panel, dict(zip(losses[level], (1, -1), strict=True)))
        for level, title in levels_of(panel).items()
        if there.issuperset(losses[level])
    }
    return report.table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("Bal-BCE minus CE")) if rows else ""


def _changes(panel: Panel, weights: Mapping[str, float]) -> dict[str, str]:
    return {title: change(panel.measured, weights, metric) for metric, title in COLUMNS.items()}


def _level(arm: str) -> int:
    return int(arm.partition("/")[2])


def figure(panel: Panel) -> str:
    """Return the figure of accuracy by information, as HTML."""
    losses = {loss: LOSS_NAMES[loss] for loss in LOSSES}
    caption = "Test accuracy by what metadata tell about the class: the image's own, another image's, and none."
    means = panel.measured.groupby("arm").accuracy.mean()
    seen = "; ".join(f"{arm} {value:.1f} %" for arm, value in means.items() if arm.partition(",")[0] in panel.arms)
    drawing = by_information(panel.measured, losses, bits(len(panel.class_counts)))
    return plots.shown(drawing, caption, f"{caption} Loss and concentration: {seen}.")


def _arms(panel: Panel) -> dict[str, str]:
    """Return the title of the loss of each arm that has a run."""
    there = set(panel.measured.arm)
    return {arm: LOSS_NAMES[arm.partition("/")[0]] for arm in panel.arms if arm in there}
