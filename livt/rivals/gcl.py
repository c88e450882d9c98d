"""GCL: Gaussian clouded logits (Li et al., CVPR 2022), the first of its two phases; the released code adds mixup.

Shapes: ``B`` images, ``C`` classes. The margins are between cosines, so the classifier is a cosine head.
"""

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from livt.longtail import check_class_counts
from livt.losses import LOSSES, CrossEntropy, Loss
from livt.rivals.heads import with_cosine_head
from livt.rivals.options import require
from livt.rivals.weights import beside


def cloud_sizes(class_counts: ArrayLike) -> Tensor:
    """Return log n_max - log n_c over the largest such difference, float64 [C]: 0 to 1, all 0 for equal counts.

    Raises ValueError for invalid counts, naming the class.
    """
    logs = torch.from_numpy(check_class_counts(class_counts)).log()
    behind = logs.max() - logs
    return behind / behind.max() if behind.max() > 0 else behind


class GCL(CrossEntropy):
    """Cross-entropy on s (cos - kappa |eps| size), in all classes, mean over images; kappa 0 leaves it as is.

    eps, of the standard deviation 1/3 and clamped to [-1, 1], is drawn anew for each logit; size is that of
    :func:`cloud_sizes`. Logits are s cos, [B, C]. Source: Keke921/GCLLoss. Raises ValueError for impossible options.
    """

    def __init__(self, class_counts: ArrayLike, tau: float, *, scale: float, kappa: float) -> None:
        super().__init__()
        require(scale > 0, "scale", "must be positive", scale)
        require(kappa >= 0, "kappa", "must not be negative", kappa)
        self.clouds = scale * kappa * cloud_sizes(class_counts)

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        eps = (torch.randn_like(logits) / 3).abs().clamp(max=1)
        return super()._loss(logits - eps * beside(self.clouds, logits), targets)


def _adapt(network: nn.Module, scale: float, kappa: float) -> nn.Module:
    return with_cosine_head(network, scale)


LOSSES["gcl"] = Loss(
    name="gcl",
    title="GCL",
    create=GCL,
    reads="softmax",
    source="Li et al., CVPR 2022; Keke921/GCLLoss",
    options={"scale": 30.0, "kappa": 0.5},
    adapt=_adapt,
)
