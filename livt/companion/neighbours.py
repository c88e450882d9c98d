"""The claims of the neighbours, as the ledger judges them: D1 of DeiT-LT, D2 of MDCS, D3 of MetaFormer, D4
of SP2OT.

They are not the paper's. Each was written before any run of its experiment on the test split of a suite but ``smoke``.
"""

from livt.clustering.methods import METHODS
from livt.companion.contrasts import Claim, Contrast

_METADATA = {loss: (f"{loss}/20", f"{loss}/0") for loss in ("ce", "bal_bce")}  # 20: most of what there is to know
TOKENS = ("deit_lt, class token", "deit_lt, distillation token")


def neighbours() -> tuple[Claim, ...]:
    """Return the neighbours' part of the ledger."""
    titles = {name: method.title for name, method in METHODS.items()}
    return (
        Claim(
            id="D1",
            statement="DeiT-LT: a flat CNN's labels of strongly augmented images make one ViT token a tail expert",
            evidence="52.0 (LDAM teacher) and 55.6 (PaCo) on CIFAR-100-LT, factor 100; a ViT from scratch 35.0",
            limit="one seed; 1,200 epochs; two independent reports have 52.0, with tokens at 39.8 and 40.1, and 45.3",
            chapter="deit_lt",
            experiment="deit_lt",
            many=True,
            contrasts=(
                _part("many-shot: class token minus distillation token", "many", *TOKENS),
                _part("few-shot: distillation token minus class token", "few", *TOKENS[::-1]),
                _part("flat minus plain teacher", "accuracy", "deit_lt", "plain teacher"),
                _part("strong minus weak augmentation", "accuracy", "deit_lt", "weak augmentation"),
                _part(
                    "attention distance of the first block, pixels: ViT minus DeiT-LT",
                    "early_distance",
                    "vit",
                    "deit_lt",
                ),
            ),
        ),
        Claim(
            id="D2",
            statement="Experts that disagree and self-distillation need each other (MDCS)",
            evidence="its abstract calls the two coupled; on CIFAR-100-LT 56.1 with self-distillation, 50.7 without",
            limit="no spread given; the released code has no self-distillation without diverse experts",
            chapter="mdcs",
            experiment="mdcs",
            many=True,
            contrasts=(
                _mdcs(
                    "gain of self-distillation with diverse experts minus without",
                    both=1,
                    diversity=-1,
                    distillation=-1,
                    neither=1,
                ),
                _mdcs("diverse experts, on average", both=0.5, diversity=0.5, distillation=-0.5, neither=-0.5),
                _mdcs("self-distillation, on average", both=0.5, diversity=-0.5, distillation=0.5, neither=-0.5),
            ),
        ),
        Claim(
            id="D3",
            statement="An image's place and date, as tokens, raise accuracy, most on rare classes (MetaFormer)",
            evidence="iNat18 by MetaFormer-0: 79.5 without, 85.4 with place and date; nothing by class frequency",
            limit="here synthetic: drawn around a place and day of each class, so that they tell nothing else",
            chapter="metaformer",
            experiment="metaformer",
            many=True,
            contrasts=(
                _part("with metadata minus with uninformative ones, by CE", "accuracy", *_METADATA["ce"]),
                _part("that gain, few-shot minus many-shot", "tail_lead", *_METADATA["ce"]),
                _part("with metadata minus with uninformative ones, by Bal-BCE", "accuracy", *_METADATA["bal_bce"]),
                _part(
                    "by CE: metadata missing at test minus shuffled",
                    "accuracy",
                    f"{_METADATA['ce'][0]}, missing",
                    f"{_METADATA['ce'][0]}, shuffled",
                ),
            ),
        ),
        # SP2OT's (Zhang et al., 2024). Written before any run of the experiment but those of suite smoke; the paper's
        # numbers are of a larger network's features and of other images, so there is no size to reproduce.
        Claim(
            id="D4",
            statement="Without labels, SP2OT leads, then P2OT, unbalanced and balanced OT; small clusters survive",
            evidence="ahead on long-tailed CIFAR-100, ImageNet-R and iNaturalist; most on medium and tail classes",
            limit="theirs: features of DINO, their last block trained, two views; here frozen features, one view",
            chapter="sp2ot",
            experiment="clustering",
            many=True,
            contrasts=(
                *(
                    Contrast(
                        label=f"{titles[one]} minus {titles[other]}, class-balanced accuracy",
                        metric="accuracy",
                        weights={one: 1, other: -1},
                        floor=0.0,
                        published=(),
                    )
                    for one, other in (("sp2ot", "p2ot"), ("p2ot", "uot"), ("uot", "balanced"))
                ),
                Contrast(
                    label=f"{titles['sp2ot']} minus {titles['balanced']}, small classes with a cluster of their own",
                    metric="survivors",
                    weights={"sp2ot": 1, "balanced": -1},
                    floor=0.0,
                    published=(),
                ),
            ),
        ),
    )


def _part(label: str, metric: str, more: str, less: str) -> Contrast:
    """Return one arm minus another, of which the paper prints no number: at best its direction holds."""
    return Contrast(label=label, metric=metric, weights={more: 1, less: -1}, floor=0.0, published=())


def _mdcs(label: str, **weights: float) -> Contrast:
    return Contrast(
        label=label,
        metric="accuracy",
        weights={f"mdcs/{arm}": weight for arm, weight in weights.items()},
        floor=0.0,
        published=(),  # two of the four cells are, of another network, without seeds
    )
