"""Focal loss against its formula, and cross-entropy where gamma is 0."""

import numpy as np
import pytest
import torch
from references import COUNTS, C, assert_parity, log_softmax, problem

from livt.losses import CrossEntropy
from livt.rivals.focal import Focal


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_the_formula(gamma):
    def reference(z, t):
        p = np.exp(log_softmax(z))
        return sum(t[i, c] * (1 - p[i, c]) ** gamma * -np.log(p[i, c]) for i in range(len(z)) for c in range(C)) / len(
            z
        )

    assert_parity(Focal(COUNTS, 1.0, gamma=gamma), reference)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gamma_zero_is_cross_entropy(dtype):
    z, labels, soft = problem(3)
    for targets in (torch.from_numpy(labels), torch.from_numpy(soft).to(dtype)):
        both = []
        for loss in (Focal(COUNTS, 1.0, gamma=0.0), CrossEntropy()):
            logits = torch.from_numpy(z).to(dtype).requires_grad_()
            loss(logits, targets).backward()
            both.append((loss(logits, targets).detach(), logits.grad))
        torch.testing.assert_close(both[0], both[1], rtol=4 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_certain_images_have_finite_gradients(gamma, dtype):
    """Where p rounds to 1, the slope of (1 - p)^gamma is infinite for gamma below 1."""
    logits = torch.tensor([[1e4, -1e4, 0.0], [200.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    for labels in ([0, 0], [1, 2]):
        loss = Focal((3, 2, 1), 1.0, gamma=gamma)(logits, torch.tensor(labels))
        assert loss.isfinite()
        (found,) = torch.autograd.grad(loss, logits)
        assert found.isfinite().all()


def test_few_digits_of_one_minus_p_are_kept():
    logits = torch.tensor([[20.0, 0.0]])  # 1 - p is 2e-9, which float32 cannot tell from 0 beside 1
    off = np.exp(-20) / (1 + np.exp(-20))
    value = Focal((1, 1), 1.0, gamma=2.0)(logits, torch.tensor([0])).item()
    assert value == pytest.approx(off**2 * np.log1p(np.exp(-20)), rel=1e-5)
