"""What the long tail costs a recipe: the same recipe on balanced and on long-tailed images of the same classes.

Arms are named "<recipe>/balanced" and "<recipe>/lt".
"""

import numpy as np
import pandas as pd

from livt.companion import report
from livt.companion.chapter import Panel
from livt.companion.report import number
from livt.config import Recipe
from livt.longtail import GROUPS, shot_groups

# Settings of fine-tuning that say nothing beside others, or that no recipe of the comparison changes.
UNSHOWN = ("base_lr", "precision", "accumulation_steps", "smoothing_target", "tau", "sampling", "options")


def drop_of(recipe: str, sign: int = 1) -> dict[str, float]:
    """Return the weights of a recipe's drop.

    >>> drop_of("mae", -1)
    {'mae/balanced': -1, 'mae/lt': 1}
    """
    return {f"{recipe}/balanced": sign, f"{recipe}/lt": -sign}


def accuracies(measured: pd.DataFrame, recipe: str) -> list[str]:
    """Return a recipe's accuracy on balanced and on long-tailed images and the drop between them, as HTML."""
    both = [number(measured, arm, "accuracy") for arm in drop_of(recipe)]
    return [*both, number(measured, drop_of(recipe), "accuracy")]


def settings_of(recipe: Recipe) -> dict[str, object]:
    """Return what a recipe says of training with labels, and how long it pretrains, by setting as a page names it."""
    stage = {name: value for name, value in recipe.finetune.to_dict().items() if name not in UNSHOWN}
    stage |= {"peak rate": f"{recipe.finetune.lr:g}", "augment": f"shift {recipe.finetune.augment.shift}"}
    stage["pretraining"] = f"{recipe.pretrain.epochs} epochs" if recipe.pretrain else "none"
    names = {"epochs": "epochs with labels", "start": "start of the classifier"}
    return {names.get(name, name.replace("_", " ")): value for name, value in stage.items()}


def change_by_group(panel: Panel) -> pd.DataFrame:
    """Return how the accuracy of each group of classes changes from balanced to long-tailed images, per seed.

    Groups are those of the long-tailed counts. Columns: recipe, seed, group, classes (their number), change [points].
    """
    runs = dict(zip(zip(panel.measured.arm, panel.measured.seed, strict=True), panel.measured.run, strict=True))
    result = {run.id: run.result for run in panel.records}
    rows = []
    for (arm, seed), run in runs.items():
        name, images = arm.split("/")
        if images == "lt" and (other := runs.get((f"{name}/balanced", seed))):
            group_of = shot_groups(np.array(result[run]["class_counts"]))
            after, before = (np.array(result[each]["per_class"], dtype=float) for each in (run, other))
            about = {"recipe": name, "seed": seed}
            for group in (group for group in GROUPS if group in group_of):
                own = group_of == group
                rows.append({**about, "group": group, "classes": own.sum(), "change": (after - before)[own].mean()})
    return pd.DataFrame(rows)


def budget(panel: Panel) -> str:
    """Return the table of accuracies with CE at each length of training with labels, with and without MGP, as HTML.

    All rows are of the network of the suite's sweep.
    """
    own = {arm: recipe for arm, recipe in panel.arms.items() if recipe.model == panel.suite.sweep.model}
    ce = {arm: recipe for arm, recipe in own.items() if recipe.finetune.loss == "ce"}
    rows = {}
    for arm, recipe in sorted(ce.items(), key=lambda item: (item[1].pretrain is None, item[1].finetune.epochs)):
        start = f"{recipe.pretrain.epochs} epochs of MGP" if recipe.pretrain else "none"
        found = [number(panel.measured, arm, metric) for metric in ("accuracy", *GROUPS)]
        rows[start, f"{recipe.finetune.epochs}"] = found
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["all", *GROUPS])
    frame.index = pd.MultiIndex.from_tuples(list(frame.index), names=["pretraining", "epochs with labels"])
    return report.table(frame, "CE on long-tailed images [%]")
