"""LTR weight balancing: the head learns on by a class-balanced loss, its weights kept short and of like length.

The loss is cross-entropy with weights proportional to (1 - beta) / (1 - beta^n_y) of mean 1 (Cui et al., CVPR 2019).
After each epoch MaxNorm shortens the weights of every class to a length of at most delta, which lies a share
``max_norm`` of the way from the least to the largest length of the first stage's head (Alshammari et al., CVPR 2022,
Section 4; ShadeAlsha/LTR-weight-balancing). The default section of a recipe has the paper's weight decay of 0.1, and
the first stage of the paper is trained with ``finetune.weight_decay`` 5e-3; both are those of AdamW here, of SGD there.
"""

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from livt.losses import Criterion
from livt.rivals.methods import METHODS, Method, WeightedCrossEntropy, head_of, linear_head, with_head
from livt.rivals.options import require
from livt.rivals.weights import class_balanced_weights


class Bounded(nn.Linear):
    """A linear head that knows how long the weights [C, D] of a class may be; a buffer that is not saved."""

    limit: Tensor

    def shorten(self) -> None:
        """Shorten the weights of each class to the limit where they are longer (Eq. 7); biases are free."""
        with torch.no_grad():
            norm = self.weight.norm(dim=1, keepdim=True)  # [C, 1]
            self.weight.mul_(torch.where(norm > self.limit, self.limit / norm, 1.0))


def bounded(model: nn.Module, max_norm: float, **options: float) -> nn.Module:
    """Return the model with the same head, all of it to be learned, and the limit that its weights set.

    Raises ValueError for a negative ``max_norm``, and for a head that is not linear.
    """
    require(max_norm >= 0, "max_norm", "must not be negative", max_norm, "second")
    own = linear_head(model)
    head = Bounded(own.in_features, own.out_features)
    head.weight, head.bias = own.weight, own.bias
    norm = own.weight.detach().norm(dim=1)
    head.register_buffer("limit", norm.min() + max_norm * (norm.max() - norm.min()), persistent=False)
    return with_head(model, head.requires_grad_(True))


def class_balanced(class_counts: ArrayLike, beta: float, **options: float) -> Criterion:
    """Return cross-entropy weighted by the effective number of images. Raises ValueError for beta outside [0, 1)."""
    return WeightedCrossEntropy(class_balanced_weights(class_counts, beta, "second").numpy())


def shorten(model: nn.Module) -> None:
    """Shorten the weights of a model's head to its limit."""
    head = head_of(model)
    assert isinstance(head, Bounded)
    head.shorten()


METHODS["weight_balancing"] = Method(
    name="weight_balancing",
    title="LTR weight balancing",
    source="Alshammari et al., CVPR 2022",
    adapt=bounded,
    create=class_balanced,
    project=shorten,
    options={"beta": 0.9999, "max_norm": 0.1},
)
