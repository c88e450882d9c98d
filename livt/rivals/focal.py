"""Focal loss (Lin et al., ICCV 2017), on a softmax.

Shapes: ``B`` images, ``C`` classes.
"""

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from livt.losses import LOSSES, CrossEntropy, Loss
from livt.rivals.options import require
from livt.rivals.weights import weighted_targets


class Focal(CrossEntropy):
    """(1 - p_y)^gamma times cross-entropy, mean over images; gamma 0 is cross-entropy.

    Soft targets t weigh the losses of single labels: sum_c t_c L(z, c). The gradient passes through the factor, as in
    kaidic/LDAM-DRW. Raises ValueError for a negative gamma.
    """

    def __init__(self, class_counts: ArrayLike, tau: float, *, gamma: float) -> None:
        super().__init__()
        require(gamma >= 0, "gamma", "must not be negative", gamma)
        self.gamma = gamma

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        log_p = F.log_softmax(logits, 1)
        # 1 - p keeps its digits where p is near 1; where it would be 0, the slope of its power may be infinite.
        factor = (-torch.expm1(log_p.clamp(max=-torch.finfo(log_p.dtype).tiny))) ** self.gamma
        shares = weighted_targets(targets, torch.ones(logits.shape[1]), logits)
        return -(shares * factor * log_p).sum() / len(logits)


LOSSES["focal"] = Loss(
    name="focal",
    title="Focal",
    create=Focal,
    reads="softmax",
    source="Lin et al., ICCV 2017; kaidic/LDAM-DRW",
    options={"gamma": 2.0},
)
