"""SADE's test-time aggregation: how much to trust each expert, learned from unlabelled test images.

An expert that is good at the classes that the test images are of predicts alike for two augmented views of an image;
so the weights are sought that make the experts' weighted prediction as stable as can be (Zhang et al., NeurIPS 2022,
Section 4.2; Vanint/SADE-AgnosticLT). Shapes: ``B`` images of a part, ``N`` of a split, ``K`` experts, ``C`` classes,
``D`` features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livt.data.augment import random_shift
from livt.data.sets import Dataset
from livt.rivals.experts import Heads, expert_logits
from livt.rivals.methods import METHODS, Look, Method, head_of, with_head
from livt.rivals.options import require

STOP_BELOW = 0.05  # an expert that has lost nearly all weight: going on would only silence it


def aggregated(logits: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean [N, C] of logits [K, N, C], by weights [K] with a sum of 1."""
    return torch.einsum("knc,k->nc", logits, weights.to(logits))


def stability(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Return the mean cosine of the aggregated probabilities of two views, a scalar.

    first, second: logits [K, N, C], or log-probabilities, which come to the same; weights: [K].
    """
    one, other = (aggregated(view, weights).softmax(1) for view in (first, second))
    return F.cosine_similarity(one, other, dim=1).mean()


def expert_weights(
    first: Tensor,
    second: Tensor,
    generator: torch.Generator,
    *,
    passes: int = 5,
    batch_size: int = 128,
    lr: float = 0.1,
) -> Tensor:
    """Return the weights [K] of experts whose predictions agree best between two views, their sum 1.

    first, second: logits [K, N, C] of the images in two augmented views, float32 or float64. Weights are the softmax of
    parameters that start equal and follow the gradient of :func:`stability`, batch by batch; a pass over the images
    that ends with a weight below ``STOP_BELOW`` is the last. Optimiser, batches and stop are those of the reference
    repository (SGD with Nesterov momentum 0.9 and weight decay 5e-4); ``generator`` orders the images. Raises
    ValueError where the views are not logits of the same experts, images and classes.
    """
    if first.ndim != 3 or first.shape != second.shape or not first.numel():
        raise ValueError(f"two views must be logits [K, N, C] of one shape, not {[*first.shape]} and {[*second.shape]}")
    parameters = torch.full((len(first),), 1 / len(first), dtype=first.dtype, device=first.device, requires_grad=True)
    optimizer = torch.optim.SGD([parameters], lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    for _ in range(passes):
        order = torch.randperm(first.shape[1], generator=generator, device=generator.device).to(first.device)
        for batch in order.split(batch_size):
            optimizer.zero_grad()
            with torch.enable_grad():
                loss = -stability(first[:, batch], second[:, batch], parameters.softmax(0))
            loss.backward()
            optimizer.step()
        if parameters.detach().softmax(0).min() < STOP_BELOW:
            break
    return parameters.detach().softmax(0)


# ---------------------------------------------------------------- as a second stage


class WeightedHeads(Heads):
    """The classifiers of the experts, whose logits are weighed in evaluation."""

    weights: Tensor

    def __init__(self, heads: Heads) -> None:
        super().__init__(heads)
        self.register_buffer("weights", torch.full((len(heads),), 1 / len(heads)))

    def forward(self, features: Tensor) -> Tensor:
        """Return the weighted mean [B, C] of the experts' logits, of features [K * B, D]."""
        return aggregated(self.each(features).transpose(0, 1), self.weights)


def weighing(model: nn.Module, passes: float) -> nn.Module:
    """Return the model with weights of its experts, equal ones.

    Raises ValueError for a model without experts, and for a number of passes that is not a whole number of at least 1.
    """
    require(passes >= 1 and passes == int(passes), "passes", "must be a whole number of at least 1", passes, "second")
    heads = head_of(model)
    if not isinstance(heads, Heads):
        raise ValueError("its model has no experts to weigh")
    return with_head(model, WeightedHeads(heads))


def weigh(model: nn.Module, data: Dataset, look: Look, passes: float) -> None:
    """Weigh the experts of a model by what they make of the images to evaluate on, whose labels it does not see.

    The two views of an image are shifted at random by up to an eighth of its shorter side, as the 4 of 32 pixels of the
    reference; its flips and changes of colour, which not every kind of image bears, are left out.
    """

    def shifted(images: Tensor) -> Tensor:
        return expert_logits(model, random_shift(images, min(images.shape[2:]) // 8))

    first, second = (look(shifted, data.evaluation).transpose(0, 1) for _ in range(2))
    found = expert_weights(first, second, torch.default_generator, passes=int(passes))
    heads = head_of(model)
    assert isinstance(heads, WeightedHeads)
    heads.weights.copy_(found)


METHODS["aggregation"] = Method(
    name="aggregation",
    title="Test-time aggregation",
    source="Zhang et al., NeurIPS 2022; Vanint/SADE-AgnosticLT",
    adapt=weighing,
    prepare=weigh,
    on_head=False,
    options={"passes": 5.0},
)
