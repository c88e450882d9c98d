"""LDAM: label-distribution-aware margins, with and without deferred re-weighting (Cao et al., NeurIPS 2019).

Shapes: ``B`` images, ``C`` classes. The margins are between cosines, so the classifier is a cosine head.
"""

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from livt.longtail import check_class_counts
from livt.losses import LOSSES, CrossEntropy, Loss
from livt.rivals.heads import with_cosine_head
from livt.rivals.options import require
from livt.rivals.weights import beside, class_balanced_weights, deferred_epoch, weighted_targets


def ldam_margins(class_counts: ArrayLike, max_margin: float) -> Tensor:
    """Return margins float64 [C] in proportion to n_c^(-1/4), the largest of them ``max_margin`` (Eq. 13).

    Raises ValueError for invalid counts, naming the class, and for a negative margin.
    """
    require(max_margin >= 0, "max_margin", "must not be negative", max_margin)
    margins = torch.from_numpy(check_class_counts(class_counts)) ** -0.25
    return margins * (max_margin / margins.max())


def margin_losses(logits: Tensor, margins: Tensor) -> Tensor:
    """Return, for each class c, the cross-entropy [B, C] that logits [B, C] had with label c, less margin c there.

    That is log(1 + sum over j != c of exp(z_j - z_c + margin_c)), with margins [C].
    """
    return -F.logsigmoid(logits - margins - _log_sum_of_others(logits))


def _log_sum_of_others(logits: Tensor) -> Tensor:
    """Return log of the sum over j != c of exp(z_j), [B, C], for each class c."""
    highest, top = logits.detach().max(1, keepdim=True)
    relative = (logits - highest).exp()
    # Less any class but the highest, the sum is still 1 or more, with its digits; less the highest, it may have none.
    without = (relative.sum(1, keepdim=True) - relative).scatter(1, top, 1.0)
    behind_top = logits.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)
    return (highest + without.log()).scatter(1, top, behind_top)


class LDAM(CrossEntropy):
    """Cross-entropy on s (cos - Delta_y at the label y), Delta_c proportional to n_c^(-1/4), perhaps re-weighted.

    Logits are s cos, [B, C]. Soft targets t weigh the losses of single labels: sum_c t_c L(z, c). With ``beta``
    above 0, labels weigh by their class-balanced weights from ``share`` of training on, and the mean is that of the
    reference repository, kaidic/LDAM-DRW: sum of w_y L(z, y) over sum of w_y. Raises ValueError for impossible options.
    """

    def __init__(
        self,
        class_counts: ArrayLike,
        tau: float,
        *,
        scale: float,
        max_margin: float,
        share: float = 1.0,
        beta: float = 0.0,
    ) -> None:
        super().__init__()
        require(scale > 0, "scale", "must be positive", scale)
        self.margins = scale * ldam_margins(class_counts, max_margin)
        self.later = class_balanced_weights(class_counts, beta)
        self.weights, self.share = torch.ones_like(self.later), share
        deferred_epoch(share, 1)

    def begin(self, epoch: int, epochs: int) -> None:
        """Weigh the classes from the deferred epoch on."""
        deferred = epoch >= deferred_epoch(self.share, epochs)
        self.weights = self.later if deferred else torch.ones_like(self.later)

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        shares = weighted_targets(targets, self.weights, logits)
        return (shares * margin_losses(logits, beside(self.margins, logits))).sum() / shares.sum()


def _adapt(network: nn.Module, scale: float, **others: float) -> nn.Module:
    return with_cosine_head(network, scale)


_SOURCE = "Cao et al., NeurIPS 2019; kaidic/LDAM-DRW"
_OPTIONS = {"scale": 30.0, "max_margin": 0.5}
LOSSES["ldam"] = Loss(
    name="ldam", title="LDAM", create=LDAM, reads="softmax", source=_SOURCE, options=_OPTIONS, adapt=_adapt
)
LOSSES["ldam_drw"] = Loss(
    name="ldam_drw",
    title="LDAM-DRW",
    create=LDAM,
    reads="softmax",
    source=_SOURCE,
    options=_OPTIONS | {"share": 0.8, "beta": 0.9999},
    adapt=_adapt,
)
