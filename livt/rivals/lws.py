"""LWS, learnable weight scaling: one learned factor for the logits of each class.

f_c (w_c x + b_c), f_c = 1 at the start, on a frozen head and frozen features, from as many images of each class (Kang
et al., ICLR 2020, Section 4.2; facebookresearch/classifier-balancing, which scales the bias too).
"""

import torch
from torch import Tensor, nn

from livt.rivals.methods import METHODS, Method, cross_entropy, head_of, widths_of, with_head


class Scaled(nn.Module):
    """A head whose logits are each multiplied by a factor of their class, [C]."""

    def __init__(self, inner: nn.Module, classes: int) -> None:
        super().__init__()
        self.inner = inner
        self.factor = nn.Parameter(torch.ones(classes))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [B, C] of features [B, D]."""
        return self.factor * self.inner(features)


def scaled(model: nn.Module) -> nn.Module:
    """Return the model with a scaled head, of which the factors alone are learned."""
    return with_head(model, Scaled(head_of(model), widths_of(model)[1]))


METHODS["lws"] = Method(name="lws", title="LWS", source="Kang et al., ICLR 2020", adapt=scaled, create=cross_entropy)
