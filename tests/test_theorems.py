"""The world of the derivation's checks, against Gaussians and mixtures written out."""

import math

import numpy as np
import pytest
import sympy as sp
import torch

from livt.companion.theorems import (
    THEOREM_1,
    THEOREM_2,
    circle_world,
    log_likelihood_ratio,
    population_gradient,
    softmax,
    verified,
)
from livt.losses import CrossEntropy


def test_the_world_is_a_circle_of_unit_gaussians_two_deviations_apart():
    """Log-densities of classes differ by linear functions whose slope is the distance of the means."""
    log_lik, counts = circle_world(classes=10, stride=3)
    assert log_lik.dtype == torch.float64
    assert log_lik.exp().sum(dim=0) == pytest.approx(np.ones(10))
    assert counts[0] == 100 * counts[-1] == 5000
    # Bhattacharyya's coefficient of unit Gaussians at distance d is exp(-d^2 / 8).
    overlap = (0.5 * (log_lik[:, :, None] + log_lik[:, None, :])).exp().sum(dim=0)
    distance = (-8 * overlap.log()).sqrt()
    radius = 1 / math.sin(math.pi / 10)
    for first in range(10):
        for second in range(first):
            turn = 2 * math.pi * 3 * (first - second) / 10
            assert distance[first, second].item() == pytest.approx(2 * radius * abs(math.sin(turn / 2)), abs=2e-3)


def test_the_score_of_theorem_2_is_the_ratio_to_the_mixture_of_the_others():
    log_lik, _ = circle_world(classes=4, stride=1)
    prior = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    found = log_likelihood_ratio(log_lik, prior)
    p = log_lik.exp().numpy()
    for y in range(4):
        others = sum(prior[j].item() * p[:, j] for j in range(4) if j != y) / (1 - prior[y].item())
        assert found[:, y].numpy() == pytest.approx(np.log(p[:, y] / others), abs=1e-9)


def test_every_line_of_a_proof_has_its_parts():
    for name, latex, reason in THEOREM_1 + THEOREM_2:
        assert name
        assert reason
        assert latex.count("{") == latex.count("}")


def test_a_line_that_is_false_is_no_proof():
    a, b, c = sp.symbols("a b c")
    p = softmax([a, b, c])
    lines = [("shift", "", "the same added to all")]
    assert verified(lines, [list(zip(softmax([a + 1, b + 1, c + 1]), p, strict=True))]) == [(*lines[0], True)]
    with pytest.raises(AssertionError):
        verified(lines, [list(zip(softmax([a + 1, b, c]), p, strict=True))])


def test_the_gradient_over_a_world_weighs_its_points_by_their_density():
    """Of softmax cross-entropy it is p(x) (softmax(z) - p(y | x)), here in NumPy."""
    log_lik, counts = circle_world(classes=4, stride=1)
    log_joint = log_lik + torch.from_numpy(np.log(counts / counts.sum()))
    z = torch.randn(log_lik.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = population_gradient(CrossEntropy(), z, log_joint).numpy()
    joint, scores = np.exp(log_joint.numpy()), np.exp(z.numpy())
    p_x = joint.sum(1, keepdims=True)
    assert found == pytest.approx(p_x * (scores / scores.sum(1, keepdims=True) - joint / p_x), abs=1e-15)
    assert not z.requires_grad
