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


def test_the_regulariser_is_the_bound_of_a_divergence():
    """Without its square it is the Donsker-Varadhan bound: greatest where z_c is log p(x | c) / p_balanced(x)."""
    rng = np.random.default_rng(0)
    likelihood = rng.dirichlet(np.ones(40), size=C).T  # p(x | c), [x, C]
    counts = np.array([400, 300, 200, 60, 40])
    pi = torch.from_numpy(counts / counts.sum())

    def population(z):  # images x with weight p(x | c) for the first mean, and the second taken over balanced data
        p = torch.from_numpy(likelihood)
        balanced = ((z.exp() * p.mean(1)[:, None]).sum(0)).log()
        return -(pi * ((p * z).sum(0) - balanced)).sum()

    z = torch.from_numpy(np.log(likelihood / likelihood.mean(axis=1, keepdims=True))).requires_grad_()
    (slope,) = torch.autograd.grad(population(z), z)
    assert slope.abs().max() < 1e-12
    # A batch in which images have those shares comes to the same: each x once for each label, in proportion.
    xs = np.repeat(np.arange(40)[:, None], C, 1).ravel()
    labels = np.tile(np.arange(C), 40)
    one = torch.zeros(len(xs), C, dtype=torch.float64)
    flat = lader(one, torch.from_numpy(labels), torch.full((C,), -np.log(C), dtype=torch.float64), 0.0)
    assert flat.item() == pytest.approx(0, abs=1e-12), "logits that say nothing, equal priors"


def test_soft_targets_are_refused():
    z, _, soft = (torch.from_numpy(array) for array in problem(1))
    with pytest.raises(ValueError, match="the loss 'lade' takes class indices"):
        LADE(COUNTS, 1.0, alpha=0.1, remine_lambda=0.01)(z, soft)
