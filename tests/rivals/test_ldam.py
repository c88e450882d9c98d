"""LDAM against its formula, with and without deferred weights, and cross-entropy where the margin is 0."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from references import COUNTS, B, C, assert_parity, effective_number_weights, problem

from livt.losses import CrossEntropy
from livt.rivals.ldam import LDAM, ldam_margins, margin_losses

MARGINS = 0.5 / COUNTS**0.25  # the smallest class has one image


def reference(scale, weights):
    """Cross-entropy with the margin taken from the label's cosine, written for one image and label at a time."""

    def loss(z, t):
        total, weight = 0, 0
        for i in range(len(z)):
            for c in range(C):
                moved = z[i] - scale * MARGINS * np.eye(C)[c]
                top = moved.real.max()
                total += t[i, c] * weights[c] * (top + np.log(np.exp(moved - top).sum()) - moved[c])
                weight += t[i, c] * weights[c]
        return total / weight

    return loss


def test_margins():
    assert ldam_margins(COUNTS, 0.5).dtype == torch.float64
    np.testing.assert_allclose(ldam_margins(COUNTS, 0.5).numpy(), MARGINS, rtol=1e-14)
    np.testing.assert_allclose(ldam_margins(COUNTS * 16, 0.5).numpy(), MARGINS, rtol=1e-14)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_formula(scale):
    assert_parity(LDAM(COUNTS, 1.0, scale=scale, max_margin=0.5), reference(scale, np.ones(C)))


def test_the_formula_with_deferred_weights():
    loss = LDAM(COUNTS, 1.0, scale=30.0, max_margin=0.5, share=0.8, beta=0.9999)
    for epoch, weights in [
        (159, np.ones(C)),
        (160, effective_number_weights(COUNTS, 0.9999)),
        (0, np.ones(C)),
    ]:
        loss.begin(epoch, 200)
        assert_parity(loss, reference(30.0, weights))


def test_labels_are_weighed_as_by_pytorch():
    z, labels, _ = (torch.from_numpy(array) for array in problem(5))
    loss = LDAM(COUNTS, 1.0, scale=30.0, max_margin=0.5, share=0.0, beta=0.9999)
    loss.begin(0, 1)
    weights = torch.from_numpy(effective_number_weights(COUNTS, 0.9999))
    moved = z - 30 * torch.from_numpy(MARGINS)[labels][:, None] * F.one_hot(labels, C)
    torch.testing.assert_close(loss(z, labels), F.cross_entropy(moved, labels, weight=weights), rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_without_a_margin_it_is_cross_entropy_of_the_scaled_cosines(scale):
    z, labels, soft = (torch.from_numpy(array) for array in problem(2))
    for targets in (labels, soft):
        for loss in (
            LDAM(COUNTS, 1.0, scale=scale, max_margin=0.0),
            LDAM(COUNTS, 1.0, scale=scale, max_margin=0.0, share=0.0, beta=0.0),
        ):
            loss.begin(0, 1)
            torch.testing.assert_close(loss(z, targets), CrossEntropy()(z, targets), rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_certain_images_keep_their_digits(dtype):
    """Cosines of 1 and -1 at scale 30: what the other classes add is 1e-26 of the sum."""
    z = torch.full((3, C), -30.0, dtype=dtype)
    z[0, 2] = z[1, 0] = z[1, 1] = 30.0  # one clear winner; two; none
    z.requires_grad_()
    found = margin_losses(z, torch.zeros(C, dtype=dtype))
    assert found[0, 2].item() == pytest.approx(np.log1p((C - 1) * np.exp(-60)), rel=1e-5)
    assert found[1, 0].item() == pytest.approx(np.log(2), rel=1e-5)
    assert found[2].tolist() == pytest.approx([np.log(C)] * C, rel=1e-5)
    assert found[0, 0].item() == pytest.approx(60, rel=1e-5)
    found.sum().backward()
    assert z.grad.isfinite().all()
    torch.testing.assert_close(z.grad.sum(1), torch.zeros(3, dtype=dtype), atol=1e-5, rtol=0)


def test_soft_targets_are_the_mean_of_both_labels_before_weights_are_on():
    z, first, _ = problem(3)
    second = np.random.default_rng(9).integers(0, C, B)
    loss, logits = LDAM(COUNTS, 1.0, scale=30.0, max_margin=0.5), torch.from_numpy(z)
    mixed = torch.from_numpy(0.3 * np.eye(C)[first] + 0.7 * np.eye(C)[second])
    parts = [loss(logits, torch.from_numpy(labels)) for labels in (first, second)]
    torch.testing.assert_close(loss(logits, mixed), 0.3 * parts[0] + 0.7 * parts[1], rtol=1e-13, atol=0)
