"""DisAlign: logits calibrated by class, and by how much the image seems to need it.

s(x) (alpha z + beta) + (1 - s(x)) z with s(x) = sigmoid(v x + d), on a frozen head and frozen features, by a
cross-entropy whose class weights are proportional to pi^-rho and have a mean of 1 (Zhang et al., CVPR 2021, Eqs. 6 to
11; Megvii-BaseDetection/DisAlign, rho 1.2 on ImageNet-LT). At the start alpha is 1 and beta 0, so that the logits are
those of the first stage; v is 0.1 everywhere, as the authors have it, and d is 0. The authors' code for classification
has (1 + s alpha) z + s beta instead, with the same start; here it is the formula of the paper, which their code for
segmentation has.
"""

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from livt.longtail import class_priors
from livt.losses import Criterion
from livt.rivals.methods import METHODS, Method, WeightedCrossEntropy, head_of, widths_of, with_head
from livt.rivals.options import require


class Aligned(nn.Module):
    """A head with calibrated logits: a magnitude alpha and a margin beta of each class, [C], and a confidence."""

    def __init__(self, inner: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.inner = inner
        self.magnitude = nn.Parameter(torch.ones(classes))
        self.margin = nn.Parameter(torch.zeros(classes))
        self.confidence = nn.Linear(width, 1)
        nn.init.constant_(self.confidence.weight, 0.1)
        nn.init.zeros_(self.confidence.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [B, C] of features [B, D]."""
        logits, share = self.inner(features), self.confidence(features).sigmoid()  # [B, C], [B, 1]
        return logits + share * ((self.magnitude - 1) * logits + self.margin)


def aligned(model: nn.Module, **options: float) -> nn.Module:
    """Return the model with a calibrated head, of which the calibration alone is learned."""
    return with_head(model, Aligned(head_of(model), *widths_of(model)))


def reweighted(class_counts: ArrayLike, rho: float) -> Criterion:
    """Return cross-entropy weighted by pi^-rho. Raises ValueError for a negative rho."""
    require(rho >= 0, "rho", "must not be negative", rho, "second")
    return WeightedCrossEntropy(class_priors(class_counts) ** -rho)


METHODS["disalign"] = Method(
    name="disalign",
    title="DisAlign",
    source="Zhang et al., CVPR 2021",
    adapt=aligned,
    create=reweighted,
    options={"rho": 1.2},
)
