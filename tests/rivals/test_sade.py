"""SADE against its formula, written out image by image."""

import numpy as np
import pytest
import torch

from livt.losses import LOSSES, CrossEntropy
from livt.rivals.sade import EXPERTS, SADE, reversed_log_priors

COUNTS = np.array([120, 500, 7, 30, 1])
B, C = 6, len(COUNTS)
OPTIONS = LOSSES["sade"].options


def problem(seed=0):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(scale=3, size=(B, EXPERTS, C))).requires_grad_()
    return logits, torch.from_numpy(rng.integers(0, C, B)), torch.from_numpy(rng.dirichlet(np.ones(C), B))


def create(counts=COUNTS, **options):
    return SADE(counts, 1.0, **OPTIONS | options)


def reference(logits, targets, lam=2.0):
    pi = COUNTS / COUNTS.sum()
    flipped = np.array([7, 1, 120, 30, 500]) / COUNTS.sum()  # the largest for the smallest, and so on
    biases = [np.zeros(C), np.log(pi), np.log(pi) - lam * np.log(flipped)]
    total = 0
    for b in range(B):
        for k, bias in enumerate(biases):
            moved = logits[b, k] + torch.from_numpy(bias)
            total = total - (targets[b] * (moved - moved.exp().sum().log())).sum() / B
    return total


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("lam", [2.0, 1.0, 0.0])
def test_value_and_gradient(seed, lam):
    logits, labels, soft = problem(seed)
    criterion = create(lam=lam)
    for targets, shares in ((labels, torch.eye(C, dtype=torch.float64)[labels]), (soft, soft)):
        value, expected = criterion(logits, targets), reference(logits, shares, lam)
        assert value.item() == pytest.approx(expected.item(), rel=1e-12)
        found, wanted = (torch.autograd.grad(loss, logits)[0] for loss in (value, expected))
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-14)


def test_gradcheck():
    logits, labels, soft = problem(1)
    for targets in (labels, soft):
        assert torch.autograd.gradcheck(lambda z, targets=targets: create()(z, targets), (logits,))


def test_equal_priors_give_three_times_cross_entropy():
    logits, labels, _ = problem(2)
    same = logits[:, :1].expand(B, EXPERTS, C)
    expected = EXPERTS * CrossEntropy()(logits[:, 0], labels).item()
    assert create([9] * C)(same, labels).item() == pytest.approx(expected, rel=1e-14)


def test_of_images_that_tell_nothing_the_experts_expect_the_priors_no_class_and_the_rare_classes():
    priors = torch.from_numpy(COUNTS / COUNTS.sum())
    z = torch.stack((priors.log(), torch.zeros_like(priors), 2 * reversed_log_priors(COUNTS)))[None].requires_grad_()
    create()(z, priors[None]).backward()
    torch.testing.assert_close(z.grad, torch.zeros_like(z), rtol=0, atol=1e-15)
    assert z[0, 2].argmax() == COUNTS.argmin()


def test_priors_are_reversed_by_rank():
    found = reversed_log_priors(COUNTS).exp() * COUNTS.sum()
    np.testing.assert_allclose(found, [7, 1, 120, 30, 500], rtol=1e-12)
    sorted_counts = np.sort(COUNTS)[::-1]
    np.testing.assert_allclose(reversed_log_priors(sorted_counts).exp() * COUNTS.sum(), sorted_counts[::-1], rtol=1e-12)


def test_half_precision_is_computed_in_float32():
    logits, labels, _ = problem(3)
    half = logits.detach().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = create()(half, labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, create()(half.float(), labels), rtol=1e-6, atol=0)


def test_what_does_not_fit_is_refused():
    logits, labels, _ = problem()
    with pytest.raises(ValueError, match=r"logits must be \[B, 3, 5\], not \(6, 2, 5\)"):
        create()(logits[:, :2], labels)
    with pytest.raises(ValueError, match="targets"):
        create()(logits, labels[:4])
    with pytest.raises(ValueError, match="options.lam must not be negative, not -1"):
        create(lam=-1.0)
    with pytest.raises(ValueError, match="options.scale must be positive, not 0"):
        create(scale=0.0)
    with pytest.raises(ValueError, match="options.own_blocks must be a whole number of at least 1, not 1.5"):
        create(own_blocks=1.5)
