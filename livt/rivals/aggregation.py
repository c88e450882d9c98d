"""SADE's test-time aggregation: how much to trust each expert, learned from unlabelled test images.

An expert that is good at the classes that the test images are of predicts alike for two augmented views of an image;
so the weights are sought that make the experts' weighted prediction as stable as can be (Zhang et al., NeurIPS 2022,
Section 4.2; Vanint/SADE-AgnosticLT). Shapes: ``K`` experts, ``N`` images, ``C`` classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

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
    epochs: int = 5,
    batch_size: int = 128,
    lr: float = 0.1,
) -> Tensor:
    """Return the weights [K] of experts whose predictions agree best between two views, their sum 1.

    first, second: logits [K, N, C] of the images in two augmented views, float32 or float64. Weights are the softmax of
    parameters that start equal and follow the gradient of :func:`stability`, batch by batch; an epoch that ends with a
    weight below ``STOP_BELOW`` is the last. Optimiser, batches and stop are those of the reference repository (SGD with
    Nesterov momentum 0.9 and weight decay 5e-4); ``generator`` orders the images. Raises ValueError where the
    views are not logits of the same experts, images and classes.
    """
    if first.ndim != 3 or first.shape != second.shape or not first.numel():
        raise ValueError(f"two views must be logits [K, N, C] of one shape, not {[*first.shape]} and {[*second.shape]}")
    parameters = torch.full((len(first),), 1 / len(first), dtype=first.dtype, device=first.device, requires_grad=True)
    optimizer = torch.optim.SGD([parameters], lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    for _ in range(epochs):
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
