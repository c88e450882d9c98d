"""De-confounded training: the causal classifier (Tang et al., NeurIPS 2020).

Its alpha is chosen for the test alone, so that alpha times the mean cosine of features with the shared direction is
near 1: 3 on ImageNet-LT, 1 and 1.5 on CIFAR in the released settings.

Shapes: ``B`` images, ``D`` features, ``C`` classes, ``K`` heads.
"""

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from livt.losses import LOSSES, CrossEntropy, Loss
from livt.resnets import ResNet
from livt.rivals.heads import replace_head
from livt.rivals.options import require

MOMENTUM = 0.9  # of the moving sum of feature means, in the reference repository


class CausalHead(nn.Module):
    """A multi-head cosine classifier, which at test leaves out a share of the direction that all features have.

    Features [B, D] and weights [C, D] are cut into K pieces of D / K: logits are (scale / K) sum_k x_k / |x_k| times
    w_k / (|w_k| + gamma). In training, ``direction`` gathers the features' means, d = 0.9 d + mean(x), over the parts
    of a batch (of several processes, the first one's). At test, with x_k and d_k of length 1, x_k becomes
    x_k - alpha cos(x_k, d_k) d_k. Source: KaihuaTang/Long-Tailed-Recognition.pytorch.
    """

    direction: Tensor

    def __init__(self, features: int, classes: int, *, heads: int, scale: float, gamma: float, alpha: float) -> None:
        super().__init__()
        require(features % heads == 0, "heads", f"must divide the {features} features", heads)
        self.heads, self.scale, self.gamma, self.alpha = heads, scale, gamma, alpha
        self.weight = nn.Parameter(nn.init.uniform_(torch.empty(classes, features), -(features**-0.5), features**-0.5))
        self.register_buffer("direction", torch.zeros(features))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [B, C] of features [B, D]."""
        if self.training:
            self.direction.mul_(MOMENTUM).add_(features.detach().mean(0))
        x = F.normalize(self._pieces(features), dim=-1)  # [B, K, D / K]
        w = self._pieces(self.weight)  # [C, K, D / K]
        w = w / (w.norm(dim=-1, keepdim=True) + self.gamma)
        if not self.training:
            d = F.normalize(self._pieces(self.direction[None]), dim=-1)  # [1, K, D / K]
            x = x - self.alpha * (x * d).sum(-1, keepdim=True) * d
        return self.scale / self.heads * F.linear(x.flatten(1), w.flatten(1))

    def _pieces(self, rows: Tensor) -> Tensor:
        return rows.unflatten(1, (self.heads, -1))


def _create(
    class_counts: ArrayLike, tau: float, *, heads: float, scale: float, gamma: float, alpha: float
) -> CrossEntropy:
    require(heads >= 1 and heads % 1 == 0, "heads", "must be a whole number of at least 1", heads)
    require(scale > 0, "scale", "must be positive", scale)
    require(gamma >= 0, "gamma", "must not be negative", gamma)
    require(alpha >= 0, "alpha", "must not be negative", alpha)
    return CrossEntropy()


def _adapt(network: VisionTransformer | ResNet, heads: float, scale: float, gamma: float, alpha: float) -> nn.Module:
    linear = network.get_classifier()
    head = CausalHead(linear.in_features, linear.out_features, heads=int(heads), scale=scale, gamma=gamma, alpha=alpha)
    return replace_head(network, head)


LOSSES["causal"] = Loss(
    name="causal",
    title="Causal",
    create=_create,
    reads="softmax",
    source="Tang et al., NeurIPS 2020; KaihuaTang/Long-Tailed-Recognition.pytorch, its settings for ImageNet-LT",
    options={"heads": 2.0, "scale": 16.0, "gamma": 1 / 32, "alpha": 3.0},
    adapt=_adapt,
)
