"""LADE: label distribution disentangling (Hong et al., CVPR 2021).

Shapes: ``B`` images, ``C`` classes.
"""

import math

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from livt.losses import LOSSES, BalancedCrossEntropy, Loss, balanced_ce_bias
from livt.rivals.options import require
from livt.rivals.weights import beside


def lader(logits: Tensor, labels: Tensor, log_prior: Tensor, remine_lambda: float) -> Tensor:
    """Return the regulariser -sum_c pi_c (mean of z_c over images of c - B_c - remine_lambda B_c^2), a scalar.

    B_c = log of the mean over the batch of exp(z_c - log pi_c - log C), from logits [B, C] and labels [B]; as in
    hyperconnect/LADE, pi_c is that of the logit's class, whatever the image's label, and a class without images in the
    batch has a first mean of 0. log_prior: log pi, [C].

    It is least where z_c = log p(x | c) - log p(x) + b_c, with any b_c where ``remine_lambda`` is 0, else with those
    that make B_c 0: then z_c = log C + log p(c | x), the posterior under the training priors.
    """
    batch, classes = logits.shape
    own = F.one_hot(labels.long(), classes).to(logits.dtype)
    mean = (own * logits).sum(0) / own.sum(0).clamp(min=1)
    balanced = (logits - log_prior - math.log(classes)).logsumexp(0) - math.log(batch)
    return -(log_prior.exp() * (mean - balanced - remine_lambda * balanced**2)).sum()


class LADE(BalancedCrossEntropy):
    """Bal-CE + alpha times the regulariser :func:`lader` of the raw logits; alpha 0 is Bal-CE.

    In training, Bal-CE alone adds tau log pi to the logits, which tau scales; the regulariser subtracts log pi + log C
    of its own, whatever tau. For a balanced test set the raw logits are used: hyperconnect/LADE adds the test set's log
    prior, a constant there. Takes labels, no soft targets. Raises ValueError for impossible options.
    """

    def __init__(self, class_counts: ArrayLike, tau: float, *, alpha: float, remine_lambda: float) -> None:
        super().__init__(class_counts, tau)
        require(alpha >= 0, "alpha", "must not be negative", alpha)
        require(remine_lambda >= 0, "remine_lambda", "must not be negative", remine_lambda)
        self.alpha, self.remine_lambda = alpha, remine_lambda
        self.log_prior = balanced_ce_bias(class_counts)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar loss; raise ValueError where logits and targets do not fit, and for soft targets."""
        if targets.is_floating_point():
            raise ValueError("the loss 'lade' takes class indices [B], not soft targets")
        loss = super().forward(logits, targets)
        with torch.autocast(logits.device.type, enabled=False):
            raw = logits.to(loss.dtype)
            return loss + self.alpha * lader(raw, targets, beside(self.log_prior, raw), self.remine_lambda)


LOSSES["lade"] = Loss(
    name="lade",
    title="LADE",
    create=LADE,
    reads="softmax",
    bias=balanced_ce_bias,
    source="Hong et al., CVPR 2021; hyperconnect/LADE, its settings for CIFAR-100-LT",
    options={"alpha": 0.1, "remine_lambda": 0.01},
    soft=False,
)
