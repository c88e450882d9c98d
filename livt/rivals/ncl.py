"""NCL: experts that learn from the labels and from each other, with more weight on confusable classes.

Li et al., CVPR 2022. Shapes: ``B`` images, ``K`` experts, ``C`` classes; ``H`` hard classes of an image, ``M`` pairs of
an image and a class that its target has a share of.
"""

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from livt.losses import LOSSES, BalancedCrossEntropy, Criterion, Loss, balanced_ce_bias
from livt.rivals.experts import check_experts, checked, linear_experts
from livt.rivals.options import require
from livt.rivals.weights import beside


def disagreements(log_probabilities: Tensor) -> Tensor:
    """Return, for each row, the sum of KL(p_j, p_i) over all ordered pairs of experts: [M] of [M, K, classes]."""
    log_p = log_probabilities
    return (log_p.exp().unsqueeze(2) * (log_p.unsqueeze(2) - log_p.unsqueeze(1))).sum((1, 2, 3))


class NCL(Criterion):
    """Balanced softmax of each expert and agreement between them, over all classes and over an image's hard classes.

    With z_k + tau log pi for logits, z being [B, K, C]:
    sum_k CE_all + sum_k CE_hard + diversity / (K - 1) (sum_{i != j} KL_all(p_j, p_i) + sum_{i != j} KL_hard(p_j, p_i)).
    The hard classes of an image are its label and those that score highest without bias at the first expert,
    ``hard_share`` of all classes together; the softmax of a hard term runs over them alone. Soft targets t [B, C] weigh
    the losses of single labels, each with its own hard classes: sum_c t_c L(z, c).

    ``hard_share`` 0.3 and ``diversity`` 0.6 are those of the paper and of its repository, Bazinga699/NCL
    (``NIL_NBOD``). That code sets the logits of other classes to 0 in the hard terms, where the paper leaves them out,
    as is done here. There an expert is a whole network; here that takes as many own blocks as the network has. The
    further term of the paper's full method, contrast with a momentum encoder for each expert, is left out, as the
    repository's main configurations leave it (``CON_RATIO`` 0). Raises ValueError for impossible options.
    """

    def __init__(
        self,
        class_counts: ArrayLike,
        tau: float,
        *,
        experts: float,
        own_blocks: float,
        hard_share: float,
        diversity: float,
    ) -> None:
        super().__init__()
        check_experts(experts, own_blocks)
        require(0 < hard_share <= 1, "hard_share", "must lie in (0, 1]", hard_share)
        require(diversity >= 0, "diversity", "must not be negative", diversity)
        self.single = BalancedCrossEntropy(class_counts, tau)
        self.bias = tau * balanced_ce_bias(class_counts)
        self.hard = min(len(self.bias), max(2, round(hard_share * len(self.bias))))
        self.diversity = diversity

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar loss; raise ValueError where logits and targets do not fit."""
        logits = checked(logits)
        on_all = torch.stack([self.single(one, targets) for one in logits.unbind(1)]).sum()
        biased = logits + beside(self.bias, logits)

        if targets.is_floating_point():
            rows, classes = targets.nonzero(as_tuple=True)
            weights = targets[rows, classes].to(logits.dtype)
        else:
            rows, classes = torch.arange(len(targets), device=targets.device), targets.long()
            weights = torch.ones_like(rows, dtype=logits.dtype)
        scores = logits[rows, 0].detach().scatter(1, classes[:, None], torch.inf)  # the label comes first
        hard = scores.topk(self.hard).indices[:, None].expand(-1, logits.shape[1], -1)  # [M, K, H]
        among_hard = biased[rows].gather(2, hard).log_softmax(-1)
        on_hard = -(weights * among_hard[:, :, 0].sum(1)).sum() / len(logits)

        apart = disagreements(biased.log_softmax(-1)).mean() + (weights * disagreements(among_hard)).sum() / len(logits)
        return on_all + on_hard + self.diversity / max(1, logits.shape[1] - 1) * apart


def _adapt(network: nn.Module, experts: float, own_blocks: float, **others: float) -> nn.Module:
    return linear_experts(network, experts, own_blocks)


LOSSES["ncl"] = Loss(
    name="ncl",
    title="NCL",
    create=NCL,
    reads="softmax",
    bias=balanced_ce_bias,
    source="Li et al., CVPR 2022; Bazinga699/NCL",
    options={"experts": 3.0, "own_blocks": 1.0, "hard_share": 0.3, "diversity": 0.6},
    adapt=_adapt,
)
