"""MetaFormer on the ViT of MGP (claim D3): accuracy by how much synthetic metadata know of the class."""

from livt.config import Recipe, with_overrides
from livt.lab.leaderboard import UNMIXED
from livt.lab.suites import Suite

LOSSES = ("ce", "bal_bce")
LEVELS = (0, 2, 6, 20)


def metaformer(suite: Suite) -> dict[str, Recipe]:
    """Claim D3: fine-tuning from MGP by CE and Bal-BCE, with metadata of several concentrations.

    Keys: ``<loss>/<concentration>``. At 0 the metadata say nothing of the class; network, tokens and cost are the same.
    """
    return {
        f"{loss}/{level}": with_overrides(
            suite.sweep, UNMIXED | {"finetune.loss": loss, "meta.concentration": float(level)}
        )
        for loss in LOSSES
        for level in LEVELS
    }
