"""Bal-BCE with deferred re-weighting: the paper's loss, and late in training class-balanced weights on top.

Shapes: ``B`` images, ``C`` classes.
"""

import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from livt.losses import LOSSES, BalancedBinaryCrossEntropy, Loss, balanced_bce_bias
from livt.rivals.weights import class_balanced_weights, deferred_epoch, weighted_targets


class DeferredBalancedBCE(BalancedBinaryCrossEntropy):
    """Bal-BCE, from ``share`` of training on with each image weighed by its label, w_y: sum of w_y L over sum of w_y.

    The weights are class-balanced (Cui et al., CVPR 2019); their deferral and the mean are those of kaidic/LDAM-DRW
    (Cao et al., NeurIPS 2019). Soft targets t weigh the losses of single labels: sum_c t_c w_c L(z, c). Raises
    ValueError for invalid counts, naming the class, and for impossible tau and options.
    """

    def __init__(self, class_counts: ArrayLike, tau: float, *, share: float, beta: float) -> None:
        super().__init__(class_counts, tau)
        deferred_epoch(share, 1)
        self.share, self.later = share, class_balanced_weights(class_counts, beta)
        self.weighs = False

    def begin(self, epoch: int, epochs: int) -> None:
        """Weigh the classes from the deferred epoch on."""
        self.weighs = epoch >= deferred_epoch(self.share, epochs)

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        if not self.weighs:
            return super()._loss(logits, targets)
        shares = weighted_targets(targets, self.later, logits)
        weight = shares.sum(1, keepdim=True)  # of an image; of a label it is the weight of all classes' terms
        terms = shares * F.logsigmoid(logits) + (weight - shares) * F.logsigmoid(-logits)
        return -terms.sum() / weight.sum()


LOSSES["drw_bal_bce"] = Loss(
    name="drw_bal_bce",
    title="Bal-BCE-DRW",
    create=DeferredBalancedBCE,
    reads="sigmoid",
    bias=balanced_bce_bias,
    source="Xu et al., CVPR 2023 (LiVT), deferred as in Cao et al., NeurIPS 2019",
    options={"share": 0.8, "beta": 0.9999},
)
