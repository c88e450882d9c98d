"""MetaFormer on the ViT of MGP (claim D3): accuracy by how much synthetic metadata know of the class."""

from livt.config import Recipe, with_overrides
from livt.lab.leaderboard import UNMIXED
from livt.lab.suites import Suite

LOSSES = ("ce", "bal_bce")
LEVELS = (0, 6, 20, 60)


def metaformer(suite: Suite) -> dict[str, Recipe]:
    """Claim D3: fine-tuning from MGP by CE and Bal-BCE, with metadata of several concentrations.

    Keys: ``<loss>/<concentration>``. At 0 the metadata say nothing of the class; network, tokens and cost are the same.

    On validation digit pairs (seed 100) CE has 52.3 at 0, 52.8 at 6 and 61.6 at 20; at 6, where no metadata are hidden
    in training, 41.8. So at test the claim looks at 20, and all arms hide them as the paper's code can.
    """
    return {
        f"{loss}/{level}": with_overrides(
            suite.sweep, UNMIXED | {"finetune.loss": loss, "meta.concentration": float(level)}
        )
        for loss in LOSSES
        for level in LEVELS
    }
