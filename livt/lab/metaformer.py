"""MetaFormer on the ViT of MGP (claim D3): accuracy by how much synthetic metadata know of the class."""

from livt.config import Recipe, with_overrides
from livt.lab.leaderboard import UNMIXED
from livt.lab.suites import Suite

LOSSES = ("ce", "bal_bce")
LEVELS = (0, 6, 20, 60)
GROUPS = (200, 20)  # of at least so many classes: all 200 alike, and coarse ones


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


def ancestors(suite: Suite) -> dict[str, Recipe]:
    """As :func:`metaformer`, with WordNet's coarse groups of Tiny-ImageNet's classes as metadata; none on other images.

    Keys: ``<loss>/<least number of classes in a group>``. Of 200, the groups are those of all classes and say nothing.
    """
    if suite.sweep.data.name != "tiny_imagenet":
        return {}
    given = UNMIXED | {"meta.concentration": 0.0}
    return {
        f"{loss}/{least}": with_overrides(suite.sweep, given | {"finetune.loss": loss, "meta.ancestors": least})
        for loss in LOSSES
        for least in GROUPS
    }
