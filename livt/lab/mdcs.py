"""The two parts of MDCS, each with and without the other: claim D2."""

from typing import Any

from livt.config import Recipe, with_overrides
from livt.lab.leaderboard import UNMIXED
from livt.lab.suites import Suite

ALIKE = {f"finetune.options.lambda_{name}": 1.0 for name in ("many", "medium", "few")}
ALONE = {"finetune.options.weight": 0.0}
EVERY = {"finetune.options.confident": 0.0}


def mdcs(suite: Suite) -> dict[str, Recipe]:
    """Diverse experts and self-distillation, each on and off; the latter also without confident instance sampling.

    From MGP, with the epochs of the loss ablation. Every arm has three experts, both views of each image, and so the
    same cost: what is switched are the adjustments of the experts (all those of Bal-CE without diversity) and the
    weight of the self-distillation (0 without). Keys: ``mdcs/neither``, ``mdcs/diversity``, ``mdcs/distillation``,
    ``mdcs/both``, and the last two with ``, every image``. MDCS takes no soft targets: where a suite mixes or smooths,
    it trains without.

    On validation digit pairs (seed 100) half of these epochs are too few for experts that classify by cosines:
    ``mdcs/neither`` has 58.1 there, where Bal-CE has 87.0.
    """
    base = with_overrides(suite.main, UNMIXED | {"finetune.loss": "mdcs"})
    changes: dict[str, dict[str, Any]] = {
        "neither": ALIKE | ALONE,
        "diversity": ALONE,
        "distillation": ALIKE,
        "both": {},
        "distillation, every image": ALIKE | EVERY,
        "both, every image": EVERY,
    }
    return {f"mdcs/{name}": with_overrides(base, change) for name, change in changes.items()}
