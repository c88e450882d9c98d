"""SADE: three experts, trained for a long-tailed, a flat and a reversed test set (Zhang et al., NeurIPS 2022).

Shapes: ``B`` images, ``K`` = 3 experts, ``C`` classes.
"""

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from livt.losses import LOSSES, Criterion, CrossEntropy, Loss, balanced_ce_bias
from livt.rivals.experts import check_experts, checked, cosine_experts
from livt.rivals.options import require
from livt.rivals.weights import beside

EXPERTS = 3


def reversed_log_priors(class_counts: ArrayLike) -> Tensor:
    """Return log pi, float64 [C], with the priors dealt out in reverse: the rarest class has that of the commonest.

    Of classes with equal counts, the later one counts as the commoner. Raises ValueError for invalid class counts.

    >>> reversed_log_priors([6, 3, 1]).exp()
    tensor([0.1000, 0.3000, 0.6000], dtype=torch.float64)
    """
    log_priors = balanced_ce_bias(class_counts)
    order = log_priors.argsort(stable=True)
    return torch.empty_like(log_priors).index_copy(0, order, log_priors[order.flip(0)])


class SADE(Criterion):
    """CE(z_1) + CE(z_2 + log pi) + CE(z_3 + log pi - lam log pi_reversed) of three experts' logits [B, 3, C].

    Targets are class indices [B] or soft targets [B, C]. The sign and ``lam`` 2 are those of the reference repository,
    Vanint/SADE-AgnosticLT (``DiverseExpertLoss``; 1 there for iNaturalist 2018 and Places-LT): logits that fit
    the third term favour rare classes more than a flat test set asks for. Raises ValueError for impossible options.
    """

    def __init__(self, class_counts: ArrayLike, tau: float, *, own_blocks: float, scale: float, lam: float) -> None:
        super().__init__()
        check_experts(EXPERTS, own_blocks)
        require(scale > 0, "scale", "must be positive", scale)
        require(lam >= 0, "lam", "must not be negative", lam)
        flat = balanced_ce_bias(class_counts)
        self.biases = torch.stack((torch.zeros_like(flat), flat, flat - lam * reversed_log_priors(class_counts)))
        self.each = CrossEntropy()

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar loss; raise ValueError where logits and targets do not fit."""
        logits = checked(logits)
        if logits.shape[1:] != self.biases.shape:
            raise ValueError(f"logits must be [B, {', '.join(map(str, self.biases.shape))}], not {tuple(logits.shape)}")
        biased = logits + beside(self.biases, logits)
        return torch.stack([self.each(one, targets) for one in biased.unbind(1)]).sum()


def _adapt(network: nn.Module, own_blocks: float, scale: float, lam: float) -> nn.Module:
    return cosine_experts(network, EXPERTS, own_blocks, scale)


LOSSES["sade"] = Loss(
    name="sade",
    title="SADE",
    create=SADE,
    reads="softmax",
    source="Zhang et al., NeurIPS 2022; Vanint/SADE-AgnosticLT",
    options={"own_blocks": 1.0, "scale": 30.0, "lam": 2.0},
    adapt=_adapt,
)
