"""Arms by model size, measured beside those of the paper's Table 5, as HTML."""

from collections.abc import Collection, Iterable, Mapping

import pandas as pd
import torch

from livt.companion.chapter import Panel
from livt.companion.published import LOSS_NAMES, published
from livt.companion.report import in_seeds, number, plain
from livt.companion.statistics import learnt_above
from livt.finetune import create_classifier

PAPER_SIZES = ("Tiny", "Small", "Base", "Large")


def paper_by_size() -> pd.DataFrame:
    """Return Table 5 with a column ``size`` that holds what stands behind "ViT-"."""
    table = published("table5_loss_by_model_size")
    return table.assign(size=table.model.str.removeprefix("ViT-"))


def parameters_of(panel: Panel) -> dict[str, int]:
    """Return the number of the classifier's parameters for each size that was trained; nothing is allocated."""
    trained = set(panel.measured["size"])
    recipes = {recipe.model.size: recipe for recipe in panel.arms.values() if recipe.model.size in trained}
    with torch.device("meta"):
        vits = {size: create_classifier(recipe, len(panel.class_counts)) for size, recipe in recipes.items()}
    return {size: sum(weight.numel() for weight in vit.parameters()) for size, vit in vits.items()}


def unlearned(panel: Panel) -> list[str]:
    """Return the arms whose mean accuracy does not show that anything was learned."""
    means = panel.measured.groupby("arm", sort=False).accuracy.mean()
    return [arm for arm, mean in means.items() if not mean > learnt_above(panel.chance)]


def beside_the_paper(panel: Panel, metric: str, sizes: Iterable[str]) -> pd.DataFrame:
    """Return a row per measured size, then per size of the paper, and a column per loss.

    A dagger marks the accuracy of an arm that is ``unlearned``.
    """
    rows, low, paper = {}, unlearned(panel), paper_by_size()
    for size in sizes:
        arms = {loss: f"{size}/{loss}" for loss in LOSS_NAMES}
        marks = {loss: " †" if metric == "accuracy" and arm in low else "" for loss, arm in arms.items()}
        row = {LOSS_NAMES[loss]: number(panel.measured, arm, metric) + marks[loss] for loss, arm in arms.items()}
        rows[f"measured, {in_seeds(panel.measured.seed.nunique())}", size] = row
    for size in PAPER_SIZES:
        of_size = paper[paper["size"] == size].set_index("loss")[metric]
        rows["paper, 1 seed", size] = {name: f"{of_size[name]:.1f}" for name in LOSS_NAMES.values()}
    return pd.DataFrame.from_dict(rows, orient="index")


def difference(measured: pd.DataFrame, weights: Mapping[str, float], metric: str, low: Collection[str] = ()) -> str:
    """Return a difference within one seed over its interval, as HTML, with a dagger where an arm is in ``low``."""
    dagger = " †" if any(arm in low for arm in weights) else ""
    mean = number(measured, weights, metric, show="mean", signed=True)
    interval = number(measured, weights, metric, show="interval", signed=True)
    return f"{mean}{dagger}" + ("" if plain(interval) == "-" else f"<br>({interval})")
