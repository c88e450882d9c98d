"""GCL against its formula with the same draws, its limits, and the spread of its clouds."""

import numpy as np
import pytest
import torch
from references import COUNTS, B, C, assert_parity, cross_entropy, problem

from livt.losses import CrossEntropy
from livt.rivals.gcl import GCL, cloud_sizes


def test_cloud_sizes_fall_from_the_rarest_class_to_none():
    expected = np.log(COUNTS.max() / COUNTS) / np.log(COUNTS.max() / COUNTS.min())
    np.testing.assert_allclose(cloud_sizes(COUNTS).numpy(), expected, rtol=1e-14)
    assert cloud_sizes([9, 9, 9]).tolist() == [0, 0, 0]


@pytest.mark.parametrize("kappa", [0.5, 2.0])
def test_the_formula(kappa):
    torch.manual_seed(7)
    eps = np.clip(torch.randn(B, C, dtype=torch.float64).numpy() / 3, -1, 1)
    delta = np.log(COUNTS.max() / COUNTS) / np.log(COUNTS.max() / COUNTS.min())

    def reference(z, t):
        cosines = z / 30
        return cross_entropy(30 * (cosines - kappa * np.abs(eps) * delta), t)

    assert_parity(GCL(COUNTS, 1.0, scale=30.0, kappa=kappa), reference, draws=7)


def test_without_clouds_it_is_cross_entropy_of_the_scaled_cosines():
    z, labels, soft = (torch.from_numpy(array) for array in problem(1))
    for targets in (labels, soft):
        for counts, kappa in ((COUNTS, 0.0), ([9] * C, 0.5)):
            assert torch.equal(GCL(counts, 1.0, scale=30.0, kappa=kappa)(z, targets), CrossEntropy()(z, targets))


def test_clouds_are_drawn_anew_within_their_size(monkeypatch):
    seen = []
    monkeypatch.setattr(CrossEntropy, "_loss", lambda self, logits, targets: seen.append(logits) or logits.sum())
    loss = GCL(COUNTS, 1.0, scale=30.0, kappa=0.5)
    for _ in range(2):
        loss(torch.zeros(20_000, C, dtype=torch.float64), torch.zeros(20_000, dtype=torch.int64))
    assert not torch.equal(seen[0][:, 1:], seen[1][:, 1:])
    relative = (-seen[0] / 15)[:, -1]  # the rarest class: |eps|
    assert 0 <= relative.min() < 1e-3
    assert relative.max() == 1
    assert relative.mean().item() == pytest.approx((2 / np.pi) ** 0.5 / 3, rel=0.02)  # of a half-normal; little is cut
    assert not seen[0][:, 0].any(), "the most frequent class has no cloud"
