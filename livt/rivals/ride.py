"""RIDE: experts that are trained one by one and pushed apart (Wang et al., ICLR 2021).

Shapes: ``B`` images, ``K`` experts, ``C`` classes.
"""

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from livt.longtail import class_priors
from livt.losses import LOSSES, Criterion, Loss
from livt.rivals.experts import check_experts, checked, cosine_experts
from livt.rivals.ldam import LDAM
from livt.rivals.options import require
from livt.rivals.weights import beside, deferred_epoch


def temperatures(class_counts: ArrayLike, spread: float) -> Tensor:
    """Return temperatures float64 [C] of 1 for the commonest class, lower for rarer ones (Eq. 3).

    In proportion to spread C pi_c + 1 - spread. Raises ValueError for invalid counts, and for a spread outside [0, 1).
    """
    require(0 <= spread < 1, "spread", "must lie in [0, 1)", spread)
    priors = torch.from_numpy(class_priors(class_counts))
    raised = spread * len(priors) * priors + 1 - spread
    return raised / raised.max()


class RIDE(Criterion):
    """The sum over experts k of LDAM(z_k) - diversity T^2 KL(p, p_k), of logits [B, K, C].

    p is the softmax of the mean of the experts' logits over T, held constant, and p_k that of z_k over T. From
    ``share`` of training on, LDAM weighs its labels, and each class has its own temperature (:func:`temperatures`),
    the mean of which is T in the factor T^2; before, T is 1. Soft targets [B, C] weigh LDAM's losses of single labels.

    From the reference repository, frank-xwang/RIDE-LongTailRecognition (``RIDELoss``): ``diversity`` 0.2 (0.45 there
    for CIFAR-100), ``spread`` 0.05, 160 of 200 epochs. Its second stage, a router that leaves out experts to save
    time, and distillation from six experts are not part of this. Raises ValueError for impossible options.
    """

    def __init__(
        self,
        class_counts: ArrayLike,
        tau: float,
        *,
        experts: float,
        own_blocks: float,
        diversity: float,
        spread: float,
        share: float,
        **margins: float,
    ) -> None:
        super().__init__()
        check_experts(experts, own_blocks)
        require(diversity >= 0, "diversity", "must not be negative", diversity)
        self.single = LDAM(class_counts, tau, share=share, **margins)
        self.diversity, self.share = diversity, share
        self.later = temperatures(class_counts, spread)
        self.temperatures = torch.ones_like(self.later)

    def begin(self, epoch: int, epochs: int) -> None:
        """Weigh the classes, and give them their temperatures, from the deferred epoch on."""
        self.single.begin(epoch, epochs)
        self.temperatures = self.later if epoch >= deferred_epoch(self.share, epochs) else torch.ones_like(self.later)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar loss; raise ValueError where logits and targets do not fit."""
        logits = checked(logits)
        single = torch.stack([self.single(one, targets) for one in logits.unbind(1)]).sum()
        cooled = logits / beside(self.temperatures, logits)
        mean = cooled.mean(1, keepdim=True).detach().log_softmax(-1).expand_as(cooled)
        apart = F.kl_div(cooled.log_softmax(-1), mean, reduction="sum", log_target=True) / len(logits)
        return single - self.diversity * self.temperatures.mean().item() ** 2 * apart


def _adapt(network: nn.Module, experts: float, own_blocks: float, scale: float, **others: float) -> nn.Module:
    return cosine_experts(network, experts, own_blocks, scale)


LOSSES["ride"] = Loss(
    name="ride",
    title="RIDE",
    create=RIDE,
    reads="softmax",
    source="Wang et al., ICLR 2021; frank-xwang/RIDE-LongTailRecognition",
    options={
        "experts": 3.0,
        "own_blocks": 1.0,
        "diversity": 0.2,
        "spread": 0.05,
        "scale": 30.0,
        "max_margin": 0.5,
        "share": 0.8,
        "beta": 0.9999,
    },
    adapt=_adapt,
)
