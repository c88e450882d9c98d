"""Class weights, from the start or deferred, and how they enter a loss.

Shapes: ``B`` images, ``C`` classes.
"""

import math

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from livt.longtail import check_class_counts
from livt.rivals.options import require


def class_balanced_weights(class_counts: ArrayLike, beta: float, section: str = "finetune") -> Tensor:
    """Return weights float64 [C] in proportion to (1 - beta) / (1 - beta^n_c), with a sum of C.

    That is the inverse of the effective number of images (Cui et al., CVPR 2019, Eq. 2). Beta 0 gives all classes 1;
    towards 1, weights go to 1 / n_c. Raises ValueError for invalid counts, naming the class, or beta outside [0, 1).
    """
    require(0 <= beta < 1, "beta", "must lie in [0, 1)", beta, section)
    counts = torch.from_numpy(check_class_counts(class_counts))
    log_beta = math.log(beta) if beta else -math.inf
    weights = -1 / torch.expm1(counts * log_beta)  # 1 - beta^n would lose the digits that few images differ in
    return weights * (len(counts) / weights.sum())


def deferred_epoch(share: float, epochs: int) -> int:
    """Return the first of so many epochs, counted from 0, that begins when ``share`` of training is done or later.

    Source: 160 of 200 epochs in kaidic/LDAM-DRW, a share of 0.8. Raises ValueError for a share outside [0, 1].

    >>> deferred_epoch(0.8, 200), deferred_epoch(0.5, 3), deferred_epoch(1.0, 10)
    (160, 2, 10)
    """
    require(0 <= share <= 1, "share", "must lie in [0, 1]", share)
    return math.ceil(share * epochs - 1e-9)  # 0.55 * 100 is a little more than 55


def beside(constant: Tensor, logits: Tensor) -> Tensor:
    """Return a constant in the precision and on the device of logits; a GPU does not wait for it."""
    return constant.to(logits.device, logits.dtype, non_blocking=True)


def weighted_targets(targets: Tensor, weights: Tensor, logits: Tensor) -> Tensor:
    """Return t_c w_c, [B, C], of class indices [B] or soft targets [B, C], in the precision of logits [B, C]."""
    soft = targets if targets.is_floating_point() else F.one_hot(targets.long(), logits.shape[1])
    return soft.to(logits.dtype) * beside(weights, logits)
