"""BCL: balanced softmax beside a supervised contrastive loss that gives all classes the same say.

Zhu et al., CVPR 2022. Each image comes in three views: one for the classifier, two for the contrast. Shapes: ``B``
images, ``C`` classes, ``D`` features of the network, ``d`` of the contrast.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from livt.losses import LOSSES, BalancedCrossEntropy, Criterion, Loss, balanced_ce_bias
from livt.resnets import ResNet
from livt.rivals.heads import CosineHead, replace_head
from livt.rivals.options import require


class Contrast(NamedTuple):
    """What the model returns in training: logits [B, C]; unit vectors of both views [2 * B, d] and classes [C, d]."""

    logits: Tensor
    projections: Tensor
    prototypes: Tensor


class ContrastiveHead(nn.Module):
    """A cosine classifier, a projection of features and one of the classifier's weights, the prototypes."""

    def __init__(self, features: int, classes: int, scale: float, dim: int) -> None:
        super().__init__()
        self.classifier = CosineHead(features, classes, scale)
        self.projection, self.prototypes = _projection(features, dim), _projection(features, dim)

    def forward(self, features: Tensor) -> Tensor | Contrast:
        """Return logits [B, C] of features [B, D] in evaluation; in training, of three views [3 * B, D], all it has."""
        if not self.training:
            return self.classifier(features)
        batch = len(features) // 3
        return Contrast(
            self.classifier(features[:batch]),
            F.normalize(self.projection(features[batch:])),
            F.normalize(self.prototypes(self.classifier.weight)),
        )


def _projection(features: int, dim: int) -> nn.Module:
    # The statistics of the batch at hand alone: at test, nothing is projected.
    norm = nn.BatchNorm1d(features, track_running_stats=False)
    return nn.Sequential(nn.Linear(features, features, bias=False), norm, nn.ReLU(), nn.Linear(features, dim))


def balanced_contrast(projections: Tensor, prototypes: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the balanced supervised contrastive loss, a scalar (Eq. 7).

    projections: unit vectors [2 * B, d] of both views; prototypes: [C, d], one more member of each class; labels: [B].
    For each projection, the mean over the others of its class of -log(e^s / S), s being the cosine over the
    temperature, and S the sum over classes of the mean e^s of their members, itself left out.
    """
    anchors, classes = len(projections), len(prototypes)
    members = torch.cat((labels, labels, torch.arange(classes, device=labels.device)))
    similarity = projections @ torch.cat((projections, prototypes)).T / temperature  # [2 * B, 2 * B + C]
    own = torch.eye(anchors, len(members), dtype=torch.bool, device=labels.device)
    together = (members[:anchors, None] == members) & ~own

    sizes = torch.zeros(classes, device=labels.device).index_add_(0, members, torch.ones_like(members).float())
    shared = sizes[members] - (members[:anchors, None] == members).float()  # the members that the mean is of
    log_sum = (similarity - shared.to(similarity).log()).masked_fill(own, -torch.inf).logsumexp(1, keepdim=True)
    return -((similarity - log_sum) * together).sum(1).div(together.sum(1)).mean()


class BCL(Criterion):
    """CE(z + tau log pi, y) + weight * balanced contrast, from what the model returns and class indices [B].

    ``weight`` 0.35, ``temperature`` 0.07 and the cosine classifier of ``scale`` 30 are those of the reference
    repository, FlamieZhu/Balanced-Contrastive-Learning; its ``dim`` 1024 is for features of 2048. The views of the
    repository are augmented in different ways, here in the same. Soft targets have no positives and are refused.
    Raises ValueError for impossible options.
    """

    def __init__(
        self, class_counts: ArrayLike, tau: float, *, weight: float, temperature: float, scale: float, dim: float
    ) -> None:
        super().__init__()
        require(weight >= 0, "weight", "must not be negative", weight)
        require(temperature > 0, "temperature", "must be positive", temperature)
        require(scale > 0, "scale", "must be positive", scale)
        require(dim >= 1 and dim == int(dim), "dim", "must be a whole number of at least 1", dim)
        self.single = BalancedCrossEntropy(class_counts, tau)
        self.weight, self.temperature = weight, temperature

    def forward(self, outputs: Contrast, targets: Tensor) -> Tensor:
        """Return the scalar loss; raise ValueError where outputs and targets do not fit."""
        if targets.is_floating_point():
            raise ValueError(f"targets must be class indices [B], not {targets.dtype} of {tuple(targets.shape)}")
        classified = self.single(outputs.logits, targets)
        with torch.autocast(targets.device.type, enabled=False):
            projections, prototypes = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in outputs[1:])
            contrast = balanced_contrast(projections, prototypes, targets.long(), self.temperature)
        return classified + self.weight * contrast


def _adapt(network: VisionTransformer | ResNet, scale: float, dim: float, **others: float) -> nn.Module:
    linear = network.get_classifier()
    return replace_head(network, ContrastiveHead(linear.in_features, linear.out_features, scale, int(dim)))


LOSSES["bcl"] = Loss(
    name="bcl",
    title="BCL",
    create=BCL,
    reads="softmax",
    bias=balanced_ce_bias,
    source="Zhu et al., CVPR 2022; FlamieZhu/Balanced-Contrastive-Learning",
    options={"weight": 0.35, "temperature": 0.07, "scale": 30.0, "dim": 128.0},
    adapt=_adapt,
    soft=False,
    views=3,
)
