"""The leaderboard: every method on the same ViT, pretraining, images and budget."""

from dataclasses import replace
from typing import Any

from livt.config import Recipe, with_overrides
from livt.lab.suites import Suite

# Who competes, by what trains it: a choice among livt.losses.LOSSES and livt.rivals.methods.METHODS, which a new loss
# may join. Here as names, so that what an experiment is called costs no import of PyTorch.
PAPER = ("ce", "bal_ce", "bce", "bal_bce")
ONE_STAGE = (
    "focal",
    "cb_ce",
    "ldam",
    "ldam_drw",
    "lade",
    "causal",
    "gcl",
    "drw_bal_bce",
    "ride",
    "sade",
    "ncl",
    "paco",
    "bcl",
)
# What a second stage follows on, where that is not plain CE.
FIRST: dict[str, dict[str, Any]] = {
    "crt": {},
    "lws": {},
    "tau_norm": {},
    "disalign": {},
    "mislas": {"finetune.mixup": 0.2},
    "weight_balancing": {"finetune.weight_decay": 0.5},  # ten times the usual, as its paper's 5e-3 is with SGD
    "class_means": {},
    "nearest_feature": {},
    "nearest_pixels": {},
}
# This one looks at no network: it is the same in each way, and stands in the first.
PIXELS = "nearest_pixels"
# Baselines that are settings of CE, and two methods that take a second stage on a rival's first.
SETTINGS: dict[str, dict[str, Any]] = {
    "ce, class sampling": {"finetune.sampling": "class"},
    "ce, square-root sampling": {"finetune.sampling": "square_root"},
    "ce, mixup": {"finetune.mixup": 0.2},
    "ce, weight decay x 10": {"finetune.weight_decay": 0.5},
    "gcl, balanced head": {"finetune.loss": "gcl", "second.method": "crt"},
    "sade, aggregated": {"finetune.loss": "sade", "second.method": "aggregation"},
}

# Of those, what takes no soft targets: where a suite mixes or smooths, they train without.
HARD = ("lade", "paco", "bcl")
UNMIXED: dict[str, Any] = {"finetune.mixup": 0.0, "finetune.cutmix": 0.0, "finetune.label_smoothing": 0.0}
NAMES = (*PAPER, *ONE_STAGE, *FIRST, *SETTINGS)


def methods(suite: Suite) -> dict[str, Recipe]:
    """Return the recipe of each method with the options of its paper, all else as the suite's leaderboard has it.

    A method that takes no soft targets trains without mixup, cutmix and label smoothing where the suite has them.
    """
    base = with_overrides(suite.leaderboard or suite.main, {"finetune.loss": "ce"})
    changes: dict[str, dict[str, Any]] = {loss: {"finetune.loss": loss} for loss in (*PAPER, *ONE_STAGE)}
    changes |= {loss: UNMIXED | {"finetune.loss": loss} for loss in HARD}
    changes |= {method: first | {"second.method": method} for method, first in FIRST.items()}
    return {name: with_overrides(base, change) for name, change in (changes | SETTINGS).items()}


def rivals(suite: Suite) -> dict[str, Recipe]:
    """Claim C11: every method from one MGP with equal epochs, the first of the leaderboard's three ways.

    Keys: ``mgp/<method>``. No cost is counted for these.
    """
    return {f"mgp/{name}": recipe for name, recipe in methods(suite).items()}


def leaderboard(suite: Suite) -> dict[str, Recipe]:
    """Return every method in three ways: with equal epochs, at equal compute, and from scratch.

    Keys: ``mgp/<method>``, the epochs of fine-tuning of the suite. ``equal compute/<method>``, of methods that cost
    more: as many epochs fewer as make up for their several views, experts or second stage. ``scratch/<method>``:
    without MGP, and the compute of both stages of MGP and CE, of which a second stage of the method takes its part.
    """
    # Costs need PyTorch.
    from livt.data.sets import classes_of
    from livt.lab.cost import flops_of

    found = methods(suite)
    ce, classes = found["ce"], classes_of(found["ce"].data)
    step = flops_of("finetune", ce, classes)
    arms = rivals(suite)
    assert ce.pretrain is not None
    whole = ce.finetune.epochs + round(ce.pretrain.epochs * flops_of("pretrain", ce, classes) / step)
    for name, recipe in found.items():
        own = flops_of("finetune", recipe, classes)
        then = 0 if recipe.second is None else recipe.second.epochs * flops_of("second", recipe, classes)
        epochs = _epochs(ce.finetune.epochs * step - then, own, ce)
        if epochs != ce.finetune.epochs:
            arms[f"equal compute/{name}"] = with_overrides(recipe, {"finetune.epochs": epochs})
        if name != PIXELS:
            longer = with_overrides(recipe, {"finetune.epochs": _epochs(whole * step - then, own, ce)})
            arms[f"scratch/{name}"] = replace(longer, pretrain=None)
    return arms


def _epochs(budget: float, step: int, recipe: Recipe) -> int:
    """Return how many epochs a budget of floating-point operations per image gives; more than the warm-up takes."""
    return max(int(recipe.finetune.warmup_epochs) + 1, round(budget / step))
