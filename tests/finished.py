"""Finished runs that nobody trained, for tests of what is done with runs: sealed by the store, and quick."""

import torch

from livt.config import Recipe
from livt.lab.runs import Record, RunStore


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
    name = "accuracy" if stage == "finetune" else "train_loss"
    with store.open(recipe.stage(stage), data, code=code) as run:
        for epoch in run.epochs(settings.epochs, progress=False):
            run.save(model, torch.optim.SGD(model.parameters()), {"epoch": epoch + 1, "lr": settings.lr, name: score})
        run.finish(model.state_dict(), {name: score}, 1, torch.device("cpu"))
    return store.load(run.id)
