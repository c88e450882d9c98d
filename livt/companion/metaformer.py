"""The chapter on MetaFormer: what the metadata know, what each arm reaches with and without them, and the verdict."""

from collections.abc import Callable, Sequence
from functools import cache
from html import escape
from math import log2

import pandas as pd

from livt.companion import plots, report
from livt.companion.chapter import Panel
from livt.companion.frames import judged_table, ledger
from livt.companion.ledger import signed
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
    return {level: mutual_information(classes, level) for level in LEVELS}


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


def known_of(panel: Panel) -> dict[int, float]:
    """Return the information of the metadata at each level of a panel, in bits; at the first they know nothing."""
    if all(recipe.meta is not None and recipe.meta.ancestors for recipe in panel.arms.values()):
        return {least: ancestors.information(least) for least in GROUPS}
    return bits(len(panel.class_counts))


def scores(panel: Panel) -> str:
    """Return the accuracy of each arm with its metadata, and with them shuffled and missing at test, as HTML."""
    measured, rows = panel.measured, {}
    known = known_of(panel)
    for arm, name in _arms(panel).items():
        level = int(arm.partition("/")[2])
        row = {title: number(measured, arm, metric) for metric, title in COLUMNS.items()}
        row |= {f"{head}: all": number(measured, f"{arm}, {head}", "accuracy") for head in ("shuffled", "missing")}
        rows[f"{name}, {known[level]:.1f} bits"] = row
    caption = f"{escape(panel.title)}: accuracy in percent, mean ± standard deviation over the seeds"
    return report.table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("loss, metadata"), caption)


def gains(panel: Panel) -> str:
    """Return what metadata of each level add to those that know nothing, by shot group, within a seed, as HTML."""
    known, rows = known_of(panel), {}
    nothing = next(iter(known))
    for arm, name in _arms(panel).items():
        loss, _, level = arm.partition("/")
        if int(level) != nothing:
            less = {arm: 1, f"{loss}/{nothing}": -1}
            row = {title: change(panel.measured, less, metric) for metric, title in COLUMNS.items()}
            rows[f"{name}, {known[int(level)]:.1f} bits"] = row
    return report.table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("gain of metadata"))


def figure(panel: Panel) -> str:
    """Return the figure of accuracy by information, as HTML."""
    losses = {loss: LOSS_NAMES[loss] for loss in LOSSES}
    caption = "Test accuracy by what metadata tell about the class: the image's own, another image's, and none."
    means = panel.measured.groupby("arm").accuracy.mean()
    seen = "; ".join(f"{arm} {value:.1f} %" for arm, value in means.items() if arm.partition(",")[0] in panel.arms)
    drawing = by_information(panel.measured, losses, bits(len(panel.class_counts)))
    return plots.shown(drawing, caption, f"{caption} Loss and concentration: {seen}.")


def verdict(panel: Panel) -> str:
    """Return the verdict on D3 and on each of its parts, as HTML."""
    ruling, _ = ledger({"metaformer": panel.measured}, panel.suite.sizes, chance=panel.chance)["D3"]
    table = judged_table(panel.measured, ("D3",), panel.suite.sizes, chance=panel.chance)
    return f"<p><strong>D3: {signed(ruling)}.</strong></p>{table}"


def _arms(panel: Panel) -> dict[str, str]:
    """Return the title of the loss of each arm that has a run."""
    there = set(panel.measured.arm)
    return {arm: LOSS_NAMES[arm.partition("/")[0]] for arm in panel.arms if arm in there}
