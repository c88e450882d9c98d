"""MDCS: three experts for many, medium and few images, each of which distils itself from a weak to a strong view.

Zhao et al., ICCV 2023. Shapes: ``B`` images, ``K`` = 3 experts, ``C`` classes, ``H`` and ``W`` pixels.
"""

from functools import partial

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from livt.losses import LOSSES, Criterion, CrossEntropy, Loss, balanced_ce_bias
from livt.rivals.experts import check_experts, checked, cosine_experts
from livt.rivals.options import require
from livt.rivals.weights import beside

EXPERTS = 3


class MDCS(Criterion):
    """The sum over experts k of CE(z_k + lambda_k log pi), and of ``weight`` times their self-distillation.

    Takes logits [2 * B, 3, C], those of the weak views first, and class indices [B]. Cross-entropy is the mean over
    both views. Self-distillation is KL(p_k(weak), p_k(strong)) of the adjusted softmax, the weak view held constant, as
    a mean over the images whose weak view expert k, so adjusted, gets right (``confident`` 1; with 0, over all images).
    Its weight rises in equal steps, one each epoch, over a share ``warmup`` of training.

    From the reference repository, fistyee/MDCS (``MDCSLoss``): both views for cross-entropy, the mean over the images
    that are chosen, lambda -0.5, 1 and 2.5, and 0.6. There the weight rises over 20 epochs, of 200 or 400 on
    CIFAR-100-LT; here over a tenth of training, however long. Raises ValueError for impossible options.
    """

    def __init__(
        self,
        class_counts: ArrayLike,
        tau: float,
        *,
        lambda_many: float,
        lambda_medium: float,
        lambda_few: float,
        weight: float,
        warmup: float,
        confident: float,
        own_blocks: float,
        scale: float,
        distort: float,
        cutout: float,
    ) -> None:
        super().__init__()
        check_experts(EXPERTS, own_blocks)
        require(scale > 0, "scale", "must be positive", scale)
        require(weight >= 0, "weight", "must not be negative", weight)
        require(confident in (0, 1), "confident", "must be 0 or 1", confident)
        for name, value in (("warmup", warmup), ("distort", distort), ("cutout", cutout)):
            require(0 <= value <= 1, name, "must lie in [0, 1]", value)
        log_priors = balanced_ce_bias(class_counts)
        self.biases = torch.stack([value * log_priors for value in (lambda_many, lambda_medium, lambda_few)])
        self.weight, self.warmup, self.confident = weight, warmup, bool(confident)
        self.present = weight
        self.each = CrossEntropy()

    def begin(self, epoch: int, epochs: int) -> None:
        """Set the present weight of self-distillation: the first epoch has one step of it, as in the repository."""
        self.present = self.weight * min(1.0, (epoch + 1) / max(1.0, self.warmup * epochs))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar loss; raise ValueError where logits and targets do not fit."""
        logits = checked(logits)
        if targets.is_floating_point() or logits.shape != (2 * len(targets), *self.biases.shape):
            raise ValueError(
                f"logits must be [2 * B, {', '.join(map(str, self.biases.shape))}] and targets class indices [B], "
                f"not {tuple(logits.shape)} and {targets.dtype} of {tuple(targets.shape)}"
            )
        adjusted = logits + beside(self.biases, logits)
        both = targets.long().repeat(2)
        loss = torch.stack([self.each(one, both) for one in adjusted.unbind(1)]).sum()
        if self.present == 0:
            return loss
        weak, strong = (view.log_softmax(-1) for view in adjusted.chunk(2))
        teacher = weak.detach()
        apart = F.kl_div(strong, teacher, reduction="none", log_target=True).sum(-1)  # [B, K]
        chosen = teacher.argmax(-1) == targets[:, None] if self.confident else torch.ones_like(apart, dtype=torch.bool)
        distilled = (apart * chosen).sum(0) / chosen.sum(0).clamp(min=1)
        return loss + self.present * distilled.sum()


def strong_view(images: Tensor, distort: float, cutout: float) -> Tensor:
    """Return images [B, 3, H, W] distorted and with a hole, both drawn anew for each from PyTorch's generator.

    Each is resampled by an affine map: in coordinates from -1 to 1 along each axis, all six numbers of the map are off
    those of the identity by up to ``distort``, uniformly. A box of ``cutout`` times each side, around a pixel drawn
    uniformly and cut off at the edges, is then set to 0. That is the mean colour of normalized images, and also what
    the map brings in from outside. With both 0 the images stay as they are.
    """
    batch, _, height, width = images.shape
    rows, columns = (torch.arange(size, device=images.device) + 0.5 for size in (height, width))
    if distort:
        y, x = torch.meshgrid(2 * rows / height - 1, 2 * columns / width - 1, indexing="ij")
        off = distort * (2 * torch.rand(6, batch, 1, 1, device=images.device) - 1)
        # Written out: as a matrix product it would be rounded in bfloat16 where the network is.
        grid = torch.stack((x + off[0] * x + off[1] * y + off[2], y + off[3] * x + off[4] * y + off[5]), -1)
        images = F.grid_sample(images, grid.to(images.dtype), align_corners=False)
    if cutout:
        centre = torch.rand(2, batch, 1, device=images.device)
        in_rows = (rows - centre[0] * height).abs() < cutout * height / 2  # [B, H]
        in_columns = (columns - centre[1] * width).abs() < cutout * width / 2  # [B, W]
        images = images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0)
    return images


def _strengthen(distort: float, cutout: float, network: nn.Module, inputs: tuple[Tensor]) -> Tensor | None:
    """Make the second of two views [2 * B, 3, H, W] a strong one, in training; evaluation has one view of its own."""
    if not network.training:
        return None
    weak, second = inputs[0].chunk(2)
    return torch.cat((weak, strong_view(second, distort, cutout)))


def _adapt(
    network: nn.Module, own_blocks: float, scale: float, distort: float, cutout: float, **others: float
) -> nn.Module:
    experts = cosine_experts(network, EXPERTS, own_blocks, scale)
    experts.register_forward_pre_hook(partial(_strengthen, distort, cutout))
    return experts


# In the repository the strong view is AutoAugment's policy for CIFAR, colours among it, and a hole of half of each
# side. That is too much for digits of 8 pixels. Validation digit pairs, seed 100, 15 epochs, alike experts without
# self-distillation, for distort and cutout: 63.8 with 0 and 0, 58.1 with 0.1 and 0.25, 46.0 with 0.15 and 0.5.
LOSSES["mdcs"] = Loss(
    name="mdcs",
    title="MDCS",
    create=MDCS,
    reads="softmax",
    source="Zhao et al., ICCV 2023; fistyee/MDCS",
    options={
        "lambda_many": -0.5,
        "lambda_medium": 1.0,
        "lambda_few": 2.5,
        "weight": 0.6,
        "warmup": 0.1,
        "confident": 1.0,
        "own_blocks": 1.0,
        "scale": 30.0,
        "distort": 0.1,
        "cutout": 0.25,
    },
    adapt=_adapt,
    soft=False,
    views=2,
)
