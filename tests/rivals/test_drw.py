"""Bal-BCE with deferred weights: Bal-BCE exactly until they are on, the weighted formula from then on."""

import numpy as np
import pytest
import torch
from references import COUNTS, C, assert_parity, effective_number_weights, problem, softplus

from livt.losses import BalancedBinaryCrossEntropy
from livt.rivals.drw import DeferredBalancedBCE

PI = COUNTS / COUNTS.sum()


def reference(weights, tau=1.0):
    def loss(z, t):
        x = z + tau * np.log(PI / (1 - PI))
        total, weight = 0, 0
        for i in range(len(z)):
            for c in range(C):
                others = sum(softplus(x[i, j]) for j in range(C) if j != c)
                total += t[i, c] * weights[c] * (softplus(-x[i, c]) + others)
                weight += t[i, c] * weights[c]
        return total / weight

    return loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_before_the_share_it_is_balanced_bce_bit_for_bit(dtype, tau):
    z, labels, soft = (torch.from_numpy(array) for array in problem(0))
    loss, plain = DeferredBalancedBCE(COUNTS, tau, share=0.8, beta=0.9999), BalancedBinaryCrossEntropy(COUNTS, tau)
    for epoch in range(8):
        loss.begin(epoch, 10)
        for targets in (labels, soft.to(dtype)):
            assert torch.equal(loss(z.to(dtype), targets), plain(z.to(dtype), targets))
    loss.begin(8, 10)
    assert not torch.equal(loss(z.to(dtype), labels), plain(z.to(dtype), labels))


@pytest.mark.parametrize("tau", [1.0, 0.5])
@pytest.mark.parametrize("beta", [0.9, 0.9999])
def test_the_formula(tau, beta):
    loss = DeferredBalancedBCE(COUNTS, tau, share=0.8, beta=beta)
    loss.begin(8, 10)
    assert_parity(loss, reference(effective_number_weights(COUNTS, beta), tau))
    loss.begin(7, 10)
    assert_parity(loss, reference(np.ones(C), tau))


def test_equal_weights_are_balanced_bce():
    z, labels, soft = (torch.from_numpy(array) for array in problem(1))
    loss = DeferredBalancedBCE(COUNTS, 1.0, share=0.0, beta=0.0)
    loss.begin(0, 1)
    for targets in (labels, soft):
        torch.testing.assert_close(loss(z, targets), BalancedBinaryCrossEntropy(COUNTS)(z, targets), rtol=1e-13, atol=0)


def test_many_rejected_classes_keep_their_digits():
    classes = 8142
    z = np.random.default_rng(0).normal(-15, 1, size=(4, classes))
    z[range(4), range(4)] = 6
    loss = DeferredBalancedBCE([1] * classes, 0.0, share=0.0, beta=0.9999)
    loss.begin(0, 1)
    own = np.eye(4, classes, dtype=bool)
    expected = np.where(own, softplus(-z), softplus(z)).sum(axis=1).mean()
    assert loss(torch.from_numpy(z).float(), torch.arange(4)).item() == pytest.approx(expected, rel=1e-4)
