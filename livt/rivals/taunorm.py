"""tau-normalization: each class's weights divided by a power of their norm; nothing is learned.

w_c / ||w_c||^tau, and no bias (Kang et al., ICLR 2020, Section 4.2; facebookresearch/classifier-balancing). The paper
chooses tau between 0 and 2 on validation images; the default is the value that makes all norms 1.
"""

import torch
from torch import nn

from livt.rivals.methods import METHODS, Method, linear_head
from livt.rivals.options import require


@torch.no_grad()
def normalized(model: nn.Module, tau: float) -> nn.Module:
    """Return the model with its head's weights [C, D] normalized in place, and a bias of zero.

    tau 0 leaves the weights: the logits are those of the first stage without its bias. Raises ValueError for a negative
    tau, and for a head that is not linear.
    """
    require(tau >= 0, "tau", "must not be negative", tau, "second")
    head = linear_head(model)
    norm = head.weight.norm(dim=1, keepdim=True).clamp(min=torch.finfo(head.weight.dtype).tiny)
    head.weight.div_(norm**tau)
    head.bias.zero_()
    return model


METHODS["tau_norm"] = Method(
    name="tau_norm",
    title="tau-norm",
    source="Kang et al., ICLR 2020",
    adapt=normalized,
    options={"tau": 1.0},
)
