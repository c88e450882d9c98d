"""Class-balanced weights and cross-entropy against their formulas, and the limits of beta."""

from decimal import Decimal, getcontext

import numpy as np
import pytest
import torch
from references import COUNTS, C, assert_parity, cross_entropy, effective_number_weights, log_softmax, problem

from livt.losses import CrossEntropy
from livt.rivals.class_balanced import ClassBalancedCrossEntropy
from livt.rivals.weights import class_balanced_weights, deferred_epoch


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.99, 0.9999, 1 - 1e-9])
def test_weights_are_exact_to_rounding(beta):
    """Decimal arithmetic with 50 digits, where 1 - beta^n loses nothing."""
    getcontext().prec = 50
    counts = [10**6, 5000, 501, 500, 2, 1]
    weights = [(1 - Decimal(beta)) / (1 - Decimal(beta) ** n) for n in counts]
    expected = [float(w / sum(weights) * len(counts)) for w in weights]
    found = class_balanced_weights(counts, beta)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-13)


def test_the_limits_of_beta():
    assert class_balanced_weights(COUNTS, 0.0).tolist() == [1.0] * C
    inverse = 1 / COUNTS
    np.testing.assert_allclose(class_balanced_weights(COUNTS, 1 - 1e-12), inverse / inverse.sum() * C, rtol=1e-9)
    np.testing.assert_allclose(class_balanced_weights([7] * C, 0.9999), np.ones(C), rtol=1e-15)


def test_deferral_begins_at_the_epoch_of_the_reference_repository():
    assert [e >= deferred_epoch(0.8, 200) for e in range(200)] == [e // 160 == 1 for e in range(200)]
    assert deferred_epoch(0.0, 7) == 0
    assert deferred_epoch(0.55, 100) == 55
    assert deferred_epoch(0.8, 2) == 2, "the second epoch begins at half, before the share"


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999])
def test_the_formula(beta):
    w = effective_number_weights(COUNTS, beta)

    def reference(z, t):
        log_p = log_softmax(z)
        return -sum(t[i, c] * w[c] * log_p[i, c] for i in range(len(z)) for c in range(C)) / len(z)

    assert_parity(ClassBalancedCrossEntropy(COUNTS, 1.0, beta=beta), reference)


def test_beta_zero_and_equal_counts_are_cross_entropy():
    z, labels, soft = (torch.from_numpy(array) for array in problem(1))
    for counts, beta in ((COUNTS, 0.0), ([9] * C, 0.9999)):
        for targets in (labels, soft):
            found = ClassBalancedCrossEntropy(counts, 1.0, beta=beta)(z, targets)
            torch.testing.assert_close(found, CrossEntropy()(z, targets), rtol=1e-14, atol=0)
    assert_parity(ClassBalancedCrossEntropy(COUNTS, 1.0, beta=0.0), cross_entropy)


def test_the_mean_is_over_images():
    """So that a batch of rare images weighs more than one of frequent images, unlike PyTorch's weighted mean."""
    w = effective_number_weights(COUNTS, 0.9999)
    loss = ClassBalancedCrossEntropy(COUNTS, 1.0, beta=0.9999)
    z = torch.zeros(2, C, dtype=torch.float64)
    for label in (0, C - 1):
        assert loss(z, torch.tensor([label] * 2)).item() == pytest.approx(w[label] * np.log(C), rel=1e-12)
