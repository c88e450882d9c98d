"""Class-balanced cross-entropy (Cui et al., CVPR 2019).

Shapes: ``B`` images, ``C`` classes.
"""

import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from livt.losses import LOSSES, CrossEntropy, Loss
from livt.rivals.weights import class_balanced_weights, weighted_targets


class ClassBalancedCrossEntropy(CrossEntropy):
    """w_y times cross-entropy, w_c in proportion to (1 - beta) / (1 - beta^n_c) with a sum of C; all 1 for beta 0.

    The mean is over images, not over weights: so in the authors' repository, richardaecn/class-balanced-loss (PyTorch's
    weighted cross-entropy, and with it kaidic/LDAM-DRW, divides by the sum of w_y). Soft targets t weigh the losses of
    single labels: sum_c t_c w_c L(z, c). Raises ValueError for invalid counts, naming the class, or beta.
    """

    def __init__(self, class_counts: ArrayLike, tau: float, *, beta: float) -> None:
        super().__init__()
        self.weights = class_balanced_weights(class_counts, beta)

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        shares = weighted_targets(targets, self.weights, logits)
        return -(shares * F.log_softmax(logits, 1)).sum() / len(logits)


LOSSES["cb_ce"] = Loss(
    name="cb_ce",
    title="CB-CE",
    create=ClassBalancedCrossEntropy,
    reads="softmax",
    source="Cui et al., CVPR 2019; richardaecn/class-balanced-loss",
    options={"beta": 0.9999},
)
