"""LADE against its formula, its limits, and what its regulariser estimates."""

import numpy as np
import pytest
import torch
from references import COUNTS, C, assert_parity, cross_entropy, problem

from livt.losses import BalancedCrossEntropy
from livt.rivals.lade import LADE, lader

PI = COUNTS / COUNTS.sum()


def reference(alpha, remine_lambda, tau=1.0):
    def loss(z, t):
        total = cross_entropy(z + tau * np.log(PI), t)
        for c in range(C):
            own = [z[i, c] for i in range(len(z)) if t[i, c]]
            mean = sum(own) / len(own) if own else 0.0
            balanced = np.log(sum(np.exp(z[i, c]) / (PI[c] * C) for i in range(len(z))) / len(z))
            total = total - alpha * PI[c] * (mean - balanced - remine_lambda * balanced**2)
        return total

    return loss


@pytest.mark.parametrize(("alpha", "remine_lambda"), [(0.1, 0.01), (0.05, 0.5), (1.0, 0.0)])
@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_the_formula(alpha, remine_lambda, tau):
    loss = LADE(COUNTS, tau, alpha=alpha, remine_lambda=remine_lambda)
    assert_parity(loss, reference(alpha, remine_lambda, tau), soft=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_alpha_zero_is_balanced_cross_entropy_bit_for_bit(dtype):
    z, labels, _ = (torch.from_numpy(array) for array in problem(1))
    loss = LADE(COUNTS, 1.0, alpha=0.0, remine_lambda=0.01)
    assert torch.equal(loss(z.to(dtype), labels), BalancedCrossEntropy(COUNTS)(z.to(dtype), labels))


@pytest.mark.parametrize("remine_lambda", [0.0, 0.5])
def test_where_the_regulariser_is_least(remine_lambda):
    """On a batch that holds each image x so often with each label that it is the population itself."""
    rng = np.random.default_rng(0)
    times = rng.integers(1, 9, size=(12, C)) * np.array([9, 5, 3, 2, 1])  # [x, C]
    joint = times / times.sum()
    pi, px = joint.sum(0), joint.sum(1, keepdims=True)
    x, labels = np.repeat(np.indices(times.shape).reshape(2, -1), times.ravel(), axis=1)
    ratio = np.log(joint / pi / px)  # log p(x | c) / p(x)

    def regulariser(z):
        return lader(z[x], torch.from_numpy(labels), torch.from_numpy(np.log(pi)), remine_lambda)

    divergence = (joint / pi * ratio).sum(0)
    for shift in [np.log(pi * C)] + [rng.normal(size=C)] * (remine_lambda == 0):
        z = torch.from_numpy(ratio + shift).requires_grad_()
        least = regulariser(z)
        assert least.item() == pytest.approx(-(pi * (divergence + np.log(pi * C))).sum(), rel=1e-12)
        assert torch.autograd.grad(least, z)[0].abs().max() < 1e-14
    np.testing.assert_allclose(ratio + np.log(pi * C), np.log(C) + np.log(joint / px), rtol=1e-12)
    for _ in range(5):
        other = torch.from_numpy(ratio + np.log(pi * C) + rng.normal(scale=0.1, size=ratio.shape))
        assert regulariser(other) > least


def test_soft_targets_are_refused():
    z, _, soft = (torch.from_numpy(array) for array in problem(1))
    with pytest.raises(ValueError, match="the loss 'lade' takes class indices"):
        LADE(COUNTS, 1.0, alpha=0.1, remine_lambda=0.01)(z, soft)
