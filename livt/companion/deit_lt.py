"""The chapter on DeiT-LT: what its arms cost, what they and the student's tokens reach, how far blocks look."""

from collections.abc import Callable, Sequence
from html import escape

import pandas as pd

from livt.companion import plots, report
from livt.companion.chapter import Panel
from livt.companion.plots.deit_lt import STYLES, distances
from livt.companion.report import change, number
from livt.config import Recipe
from livt.data.sets import classes_of
from livt.lab.cost import flops_of
from livt.lab.deit_lt import compute
from livt.lab.experiments import arms
from livt.lab.find import starts
from livt.lab.results import results
from livt.rivals.attention import uniform_distance
from livt.rivals.distill import HEADS

ARMS = {
    "deit_lt": "DeiT-LT",
    "plain teacher": "its teacher not flat (no SAM)",
    "weak augmentation": "its student on weakly augmented images",
    "vit": "no teacher: both tokens learn the labels",
    "vit, weak augmentation": "no teacher, weakly augmented",
    "livt": "LiVT: MGP, then Bal-BCE",
}
TEACHERS = {True: "the CNN teacher alone, flat", False: "the CNN teacher alone, not flat"}
COLUMNS = {"many": "many", "medium": "medium", "few": "few", "accuracy": "all", "ece": "ECE"}
NOT_RUN = "<p>DeiT-LT has not been run yet.</p>"


def each(panels: Sequence[Panel], show: Callable[[Panel], str]) -> str:
    """Return what ``show`` makes of each suite, as tabs of HTML; one sentence where there is none."""
    return report.tabs({panel.title: show(panel) for panel in panels}) if panels else NOT_RUN


def costs(suite: str) -> pd.DataFrame:
    """Return the epochs of each stage of each arm on a suite, and its compute relative to DeiT-LT's, percent."""
    found = arms("deit_lt", suite)
    rows = {}
    for arm, recipe in found.items():
        stages = {stage: f"{getattr(recipe, stage).epochs}" for stage in recipe.up_to(recipe.last_stage)}
        relative = 100 * compute(recipe) / compute(found["deit_lt"])
        rows[ARMS[arm]] = stages | {"compute": f"{relative:.0f} %"}
    columns = ["teacher", "distill", "pretrain", "finetune", "compute"]
    return pd.DataFrame.from_dict(rows, orient="index").reindex(columns=columns).fillna("-")


def stages(recipe: Recipe) -> str:
    """Return what an image costs in each stage of a recipe, in words."""
    classes = classes_of(recipe.data)
    each = [(stage, flops_of(stage, recipe, classes)) for stage in recipe.up_to(recipe.last_stage)]
    return ", ".join(f"{stage} {flops / 1e6:,.2f} MFLOP" for stage, flops in each)


def teachers(panel: Panel) -> pd.DataFrame:
    """Return a row per teacher, as from ``results``, whose arm tells a flat one from one that is not."""
    found = [run for run in starts(panel.records, panel.store) if run.stage == "teacher"]
    flat = {run.id: bool(run.recipe.teacher and run.recipe.teacher.rho) for run in found}
    frame = results(found)
    return frame.assign(arm=[TEACHERS[flat[run]] for run in frame.run])


def with_teachers(panel: Panel) -> pd.DataFrame:
    """Return what a panel measured, and the accuracy of its teachers."""
    return pd.concat([panel.measured, teachers(panel)], ignore_index=True)


def scores(panel: Panel) -> str:
    """Return the accuracy of each arm and, beside the mean of its heads, of each token, and of teachers, as HTML."""
    measured = with_teachers(panel)
    names: dict[str, str] = {}
    for arm, title in ARMS.items():
        names |= {arm: title} | {f"{arm}, {head}": f"{title}; {head} alone" for head in HEADS}
    names |= {title: title for title in TEACHERS.values()}
    rows = {}
    for name, shown in names.items():
        if (measured.arm == name).any():
            rows[escape(shown)] = {column: number(measured, name, metric) for metric, column in COLUMNS.items()}
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm")
    return report.table(frame, "Percent, mean ± standard deviation over seeds", measured, f"{panel.name}_deit_lt")


def gaps(panel: Panel) -> str:
    """Return DeiT-LT minus each arm of equal compute, and minus its teacher, within a seed as HTML.

    Mean and 95 % interval.
    """
    measured, equal = with_teachers(panel), ("vit", "vit, weak augmentation", "livt")
    rows = {
        escape(f"minus {title}"): {
            COLUMNS[metric]: change(measured, {"deit_lt": 1, arm: -1}, metric) for metric in ("few", "accuracy")
        }
        for arm, title in {**{arm: ARMS[arm] for arm in equal}, TEACHERS[True]: TEACHERS[True]}.items()
    }
    return report.table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("DeiT-LT"))


def where_it_looks(panel: Panel) -> str:
    """Return the figure of attention distances, with the first block's in its caption, as HTML."""
    whole = panel.measured[panel.measured.part == ""]
    arm_of = dict(zip(whole.run, whole.arm, strict=True))
    found: dict[str, list[list[float]]] = {arm: [] for arm in STYLES}
    for run in panel.records:
        if "attention_distance" in run.result:
            found[arm_of[run.id]].append(run.result["attention_distance"])
    if not any(found.values()):
        return "<p>No run of a student has a record yet.</p>"
    recipe = panel.suite.main
    patch = recipe.model.patch_size
    even = uniform_distance((recipe.data.size[0] // patch, recipe.data.size[1] // patch), patch)
    first = "; ".join(
        f"{ARMS[arm]} {number(panel.measured, arm, 'early_distance', digits=2)}" for arm in STYLES if found[arm]
    )
    caption = f"Mean attention distance of each block on the test images, a line per seed. In the first block: {first}."
    alt = f"{report.plain(caption)} A block that attended to all patches alike would have {even:.2f} pixels."
    return plots.shown(distances({panel.title: (found, even)}, ARMS), caption, alt)
