"""The methods of the leaderboard: which there are, and what each changes of plain CE."""

from typing import Any

from livt.config import Recipe, with_overrides
from livt.lab.suites import Suite

# Methods by what trains them; the tables of all are livt.losses.LOSSES and livt.rivals.methods.METHODS. Here as names,
# so that what an experiment is called costs no import of PyTorch.
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
# Those that take no soft targets train without mixing and smoothing.
HARD = ("lade", "paco", "bcl")
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
# Baselines that are settings of CE, and two methods that take a second stage on a rival's first.
SETTINGS: dict[str, dict[str, Any]] = {
    "ce, class sampling": {"finetune.sampling": "class"},
    "ce, square-root sampling": {"finetune.sampling": "square_root"},
    "ce, mixup": {"finetune.mixup": 0.2},
    "ce, weight decay x 10": {"finetune.weight_decay": 0.5},
    "gcl, balanced head": {"finetune.loss": "gcl", "second.method": "crt"},
    "sade, aggregated": {"finetune.loss": "sade", "second.method": "aggregation"},
}


def methods(suite: Suite) -> dict[str, Recipe]:
    """Return the recipe of each method with the options of its paper, from the suite's pretraining."""
    base = with_overrides(suite.main, {"finetune.loss": "ce"})
    hard = {"finetune.mixup": 0.0, "finetune.cutmix": 0.0, "finetune.label_smoothing": 0.0}
    changes: dict[str, dict[str, Any]] = {
        loss: {"finetune.loss": loss} | (hard if loss in HARD else {}) for loss in (*PAPER, *ONE_STAGE)
    }
    changes |= {method: first | {"second.method": method} for method, first in FIRST.items()}
    return {name: with_overrides(base, change) for name, change in (changes | SETTINGS).items()}
