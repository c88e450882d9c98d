"""Finished runs that nobody trained, for tests of what is done with runs: sealed by the store, and quick."""

import torch

import livt.rivals  # noqa: F401  the methods of second stages
from livt.config import Recipe
from livt.lab.runs import Record, RunStore
from livt.rivals.methods import METHODS


def finished(
    recipe: Recipe,
    store: RunStore,
    *,
    stage: str = "finetune",
    code: str = "",
    data: str = "0" * 16,
    score: float = 50.0,
) -> Record:
    """Put a finished run of a recipe into a store, with ``score`` as its accuracy or loss; ``data``: their digest."""
    settings = getattr(recipe, stage)
    model = torch.nn.Linear(1, 1)
    row = {"lr": settings.lr, "train_loss": score}
    if stage == "second" and METHODS[settings.method].create is None:  # it learns nothing
        row = {"lr": 0.0, "train_loss": None}
    result = {"train_loss": score, "steps_per_epoch": 1}
    if stage in ("finetune", "second"):
        row |= dict.fromkeys(("accuracy", "many", "medium", "few", "ece", "mce"), score)
        classes = recipe.data.num_classes
        result = {key: row[key] for key in row if key not in ("lr", "train_loss")} | {"per_class": [score] * classes}
        bins = {"size": [1], "accuracy": [0.5], "confidence": [0.5]}
        result |= {"class_counts": [1] * classes, "reliability": bins}
    with store.open(recipe.stage(stage), data, code=code) as run:
        for epoch in run.epochs(settings.epochs, progress=False):
            run.save(model, torch.optim.SGD(model.parameters()), row | {"epoch": epoch + 1})
        run.finish(model.state_dict(), result, 1, torch.device("cpu"))
    return store.load(run.id)
