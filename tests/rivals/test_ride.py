"""RIDE against its formula, written out image by image."""

import numpy as np
import pytest
import torch

from livt.losses import LOSSES
from livt.rivals.ldam import LDAM
from livt.rivals.ride import RIDE, temperatures

COUNTS = np.array([500, 120, 30, 7, 1])
B, K, C = 6, 3, len(COUNTS)
OPTIONS = LOSSES["ride"].options


def problem(seed=0):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(scale=4, size=(B, K, C))).requires_grad_()
    return logits, torch.from_numpy(rng.integers(0, C, B)), torch.from_numpy(rng.dirichlet(np.ones(C), B))


def create(counts=COUNTS, **options):
    return RIDE(counts, 1.0, **OPTIONS | options)


def log_softmax(row):
    return row - row.exp().sum().log()


def reference(logits, labels, *, deferred, diversity=0.2, spread=0.05, scale=30.0, beta=0.9999):
    margins = COUNTS**-0.25 * (0.5 / (COUNTS**-0.25).max())
    effective = (1 - beta) / (1 - beta**COUNTS)
    weights = effective / effective.sum() * C if deferred else np.ones(C)
    shape = spread * C * COUNTS / COUNTS.sum() + 1 - spread
    warm = torch.from_numpy(shape / shape.max() if deferred else np.ones(C))
    total = 0
    for k in range(K):
        above, below, apart = 0, 0, 0
        for b in range(B):
            y = int(labels[b])
            moved = logits[b, k] - scale * margins[y] * torch.eye(C, dtype=torch.float64)[y]
            above = above - weights[y] * log_softmax(moved)[y]
            below += weights[y]
            own = log_softmax(logits[b, k] / warm)
            mean = log_softmax(logits[b].mean(0) / warm).detach()
            apart = apart + (mean.exp() * (mean - own)).sum() / B
        total = total + above / below - diversity * float(warm.mean()) ** 2 * apart
    return total


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("epoch", [0, 7, 8, 9])
def test_value_and_gradient_before_and_after_the_weights_are_deferred_to(seed, epoch):
    logits, labels, _ = problem(seed)
    criterion = create()
    criterion.begin(epoch, 10)
    value, expected = criterion(logits, labels), reference(logits, labels, deferred=epoch >= 8)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(expected.item(), rel=1e-11)
    found, wanted = (torch.autograd.grad(loss, logits)[0] for loss in (value, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_soft_targets_weigh_the_losses_of_single_labels():
    logits, labels, soft = problem(1)
    criterion = create(share=1.0)
    hot = torch.eye(C, dtype=torch.float64)[labels]
    torch.testing.assert_close(criterion(logits, hot), criterion(logits, labels), rtol=1e-12, atol=0)

    def of_one_label(c):
        return criterion(logits, torch.full((B,), c))

    shares = soft[:1].expand(B, C)  # the same for every image, so that means over the batch can be mixed
    mixed = sum(shares[0, c] * of_one_label(c) for c in range(C))
    torch.testing.assert_close(criterion(logits, shares.contiguous()), mixed, rtol=1e-12, atol=0)


def test_gradcheck_without_what_is_held_constant():
    logits, labels, _ = problem(2)
    criterion = create(diversity=0.0)
    assert torch.autograd.gradcheck(lambda z: criterion(z, labels), (logits,))


def test_one_expert_is_ldam_and_no_diversity_a_sum_of_them():
    logits, labels, _ = problem(3)
    single = LDAM(COUNTS, 1.0, **{name: OPTIONS[name] for name in ("scale", "max_margin", "share", "beta")})
    for epoch in (0, 9):
        single.begin(epoch, 10)
        alone, flat = create(experts=1.0), create(diversity=0.0)
        alone.begin(epoch, 10)
        flat.begin(epoch, 10)
        assert torch.equal(alone(logits[:, :1], labels), single(logits[:, 0], labels))
        total = torch.stack([single(logits[:, k], labels) for k in range(K)]).sum()
        assert torch.equal(flat(logits, labels), total)


def test_experts_that_agree_are_pushed_apart_by_nothing_and_others_are():
    logits, labels, _ = problem(4)
    same = logits[:, :1].expand(B, K, C)
    for epoch in (0, 9):
        criteria = [create(), create(diversity=0.0)]
        for criterion in criteria:
            criterion.begin(epoch, 10)
        with_it, without = (criterion(same, labels).item() for criterion in criteria)
        assert with_it == pytest.approx(without, rel=1e-14)
        with_it, without = (criterion(logits, labels).item() for criterion in criteria)
        assert with_it < without


def test_rare_classes_are_cooler_and_equal_ones_all_at_one():
    found = temperatures(COUNTS, 0.05)
    assert found[0] == 1
    assert (found.diff() < 0).all()
    assert torch.equal(temperatures([7] * 5, 0.05), torch.ones(5, dtype=torch.float64))
    assert torch.equal(temperatures(COUNTS, 0.0), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"diversity": -1.0}, "options.diversity must not be negative, not -1"),
        ({"spread": 1.0}, r"options.spread must lie in \[0, 1\), not 1"),
        ({"experts": 0.0}, "options.experts must be a whole number of at least 1, not 0"),
        ({"share": 2.0}, "options.share must lie in"),
        ({"scale": 0.0}, "options.scale must be positive, not 0"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        create(**options)
