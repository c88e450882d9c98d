"""The two theorems as a chapter shows them, and a world whose densities are known, to check them on.

Shapes: ``G`` points of a grid, ``C`` classes.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import sympy as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from livt.longtail import exponential_counts

# Lines of a proof: name, LaTeX, reason. The chapter has SymPy verify what each one says.
THEOREM_1 = (
    (
        "One exponential",
        r"e^{z_y + \log \pi_y} = \pi_y \, p(x \mid y) \, e^{c}",
        r"put in \(z_y = \log p(x \mid y) + c\)",
    ),
    (
        "With the bias: the training posterior",
        r"\operatorname{softmax}(z + \log \pi)_y = \frac{\pi_y \, p(x \mid y)}{\sum_j \pi_j \, p(x \mid j)}",
        r"\(e^{c}\) cancels; what is left is Bayes' rule under the training prior",
    ),
    (
        "Without it: the test posterior",
        r"\operatorname{softmax}(z)_y = \frac{p(x \mid y)}{\sum_j p(x \mid j)}",
        "Bayes' rule once more, under equal priors",
    ),
    (
        "The gradient, at any scores s",
        r"\frac{\partial}{\partial s_y} \Bigl[ -\sum_j q_j \log \operatorname{softmax}(s + b)_j \Bigr]"
        r" = \operatorname{softmax}(s + b)_y - q_y",
        r"the \(q_j\) sum to one, as \(p_\text{train}(j \mid x)\) does",
    ),
    (
        "So z is the minimiser",
        r"\operatorname{softmax}(z + \log \pi)_y - p_\text{train}(y \mid x) = 0",
        "the gradient is zero there, and the loss is convex",
    ),
)
THEOREM_2 = (
    (
        "Bayes' rule for yes",
        r"P = \frac{\pi f}{\pi f + (1 - \pi) g}",
        r"the denominator is \(p_\text{train}(x)\): an image is in the class, or it is not",
    ),
    ("Bayes' rule for no", r"1 - P = \frac{(1 - \pi) g}{\pi f + (1 - \pi) g}", "subtract from one"),
    ("The odds", r"\frac{P}{1 - P} = \frac{f}{g} \cdot \frac{\pi}{1 - \pi}", "divide; the denominators cancel"),
    (
        "The score and the bias",
        r"\frac{P}{1 - P} = e^{z + b}",
        r"with \(z = \log f - \log g\) and \(b = \log \pi - \log(1 - \pi)\)",
    ),
    ("The sigmoid", r"P = \frac{1}{1 + e^{-(z + b)}} = \sigma(z + b)", r"solve for \(P\)"),
    (
        "The same from Theorem 1",
        r"P = \operatorname{softmax}\bigl(z + \log \pi,\; 0 + \log(1 - \pi)\bigr)_1",
        "two classes, whose logits are z and 0, with their log priors",
    ),
)


def circle_world(classes: int, stride: int, step: float = 0.2) -> tuple[Tensor, NDArray[np.int64]]:
    """Return log p(x | y), float64 [G, C], of a circle of unit Gaussians on a grid, and the class counts [C].

    Neighbours are two standard deviations apart, and classes in order of size ``stride`` places; the first has 100
    times the images of the last. Each p(x | y) sums to one over the points.
    """
    radius = 1 / math.sin(math.pi / classes)
    place = stride * torch.arange(classes, dtype=torch.float64) % classes
    angle = 0.3 + 2 * math.pi * place / classes  # 0.3: no grid point on a boundary
    means = radius * torch.stack((angle.cos(), angle.sin()), dim=1)
    axis = torch.arange(-radius - 4, radius + 4, step, dtype=torch.float64) + 0.0123
    x = torch.cartesian_prod(axis, axis)
    x = x[(x.norm(dim=1) - radius).abs() < 4]
    log_density = -0.5 * (x[:, None] - means).square().sum(dim=2)
    return log_density - log_density.logsumexp(dim=0), exponential_counts(5000, 100, classes)


def log_likelihood_ratio(log_lik: Tensor, prior: Tensor) -> Tensor:
    """Return log p(x | y) - log p(x | not y), [G, C], with "not y" the other classes mixed by ``prior`` [C]."""
    joint = log_lik + prior.log()
    own = torch.eye(len(prior), dtype=torch.bool)
    others = torch.stack([joint[:, ~yes].logsumexp(dim=1) for yes in own], dim=1)
    return log_lik - (others - (1 - prior).log())


def softmax(scores: Sequence[sp.Expr]) -> list[sp.Expr]:
    """Return the softmax of some scores, as expressions."""
    return [sp.exp(score) / sum(map(sp.exp, scores)) for score in scores]


def verified(
    lines: Iterable[tuple[str, str, str]], sides: Iterable[Sequence[tuple[sp.Expr, sp.Expr]]]
) -> list[tuple[str, str, str, bool]]:
    """Return the lines of a proof with SymPy's ruling on their sides, pairs of what must be equal.

    Raises AssertionError where a line is not proved.
    """
    ruled = [all(sp.simplify(left - right) == 0 for left, right in pairs) for pairs in sides]
    assert all(ruled), ruled
    return [(*line, proved) for line, proved in zip(lines, ruled, strict=True)]


def population_gradient(loss: Callable[[Tensor, Tensor], Tensor], z: Tensor, log_joint: Tensor) -> Tensor:
    """Return dL / dz, [G, C], of the mean of a loss over a world, at scores z [G, C].

    log_joint: log p(x, y) of its points and classes, [G, C].
    """
    z, log_p_x = z.clone().requires_grad_(), log_joint.logsumexp(dim=1, keepdim=True)
    # The loss is a mean over its rows; the population weighs them by p(x).
    (gradient,) = torch.autograd.grad(len(z) * loss(z, (log_joint - log_p_x).exp()), z)
    return log_p_x.exp() * gradient
