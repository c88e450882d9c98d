"""NCL against its formula, written out image by image."""

import numpy as np
import pytest
import torch

from livt.losses import LOSSES, BalancedCrossEntropy
from livt.rivals.ncl import NCL, disagreements

COUNTS = np.array([500, 120, 30, 7, 3, 1])
B, K, C = 5, 3, len(COUNTS)
OPTIONS = LOSSES["ncl"].options


def problem(seed=0):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(scale=3, size=(B, K, C))).requires_grad_()
    return logits, torch.from_numpy(rng.integers(0, C, B)), torch.from_numpy(rng.dirichlet(np.ones(C), B))


def create(counts=COUNTS, tau=1.0, **options):
    return NCL(counts, tau, **OPTIONS | options)


def of_one(logits, y, hard, diversity, tau=1.0):
    """Return the loss of one image: logits [K, C], label y, so many hard classes."""
    bias = tau * np.log(COUNTS / COUNTS.sum())
    scores = logits[0].detach().numpy()
    others = [c for c in np.argsort(-scores) if c != y]
    total = 0
    for chosen in ([*range(C)], [y, *others[: hard - 1]]):
        biased = [logits[k, chosen] + torch.from_numpy(bias[chosen]) for k in range(len(logits))]
        log_p = [z - z.exp().sum().log() for z in biased]
        for i, own in enumerate(log_p):
            total = total - own[chosen.index(y)]
            for j, other in enumerate(log_p):
                if i != j:
                    total = total + diversity / (len(logits) - 1) * (other.exp() * (other - own)).sum()
    return total


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("hard_share", "hard"), [(0.3, 2), (0.5, 3), (1.0, 6), (0.01, 2)])
def test_value_and_gradient(seed, hard_share, hard):
    logits, labels, soft = problem(seed)
    criterion = create(hard_share=hard_share)
    expected = sum(of_one(logits[b], int(labels[b]), hard, 0.6) for b in range(B)) / B
    mixed = sum(soft[b, c] * of_one(logits[b], c, hard, 0.6) for b in range(B) for c in range(C)) / B
    for targets, wanted in ((labels, expected), (soft, mixed)):
        value = criterion(logits, targets)
        assert value.item() == pytest.approx(wanted.item(), rel=1e-12)
        one, other = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (value, wanted))
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_mixup_of_two_labels_is_what_its_halves_are():
    logits, labels, _ = problem(4)
    other, criterion = labels.roll(1), create()
    hot = torch.eye(C, dtype=torch.float64)
    mixed = criterion(logits, 0.3 * hot[labels] + 0.7 * hot[other])
    parts = 0.3 * criterion(logits, labels) + 0.7 * criterion(logits, other)
    torch.testing.assert_close(mixed, parts, rtol=1e-13, atol=0)


def test_gradcheck():
    logits, labels, soft = problem(1)
    for targets in (labels, soft):
        assert torch.autograd.gradcheck(lambda z, targets=targets: create()(z, targets), (logits,))


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.3])
def test_one_expert_to_which_all_classes_are_hard_is_two_balanced_softmaxes(tau):
    logits, labels, soft = problem(2)
    single = BalancedCrossEntropy(COUNTS, tau)
    criterion = create(tau=tau, experts=1.0, hard_share=1.0)
    for targets in (labels, soft):
        expected = 2 * single(logits[:, 0], targets)
        torch.testing.assert_close(criterion(logits[:, :1], targets), expected, rtol=1e-13, atol=0)


def test_without_diversity_experts_do_not_know_each_other_but_for_the_choice_of_classes():
    logits, labels, _ = problem(3)
    criterion, alone = create(diversity=0.0, hard_share=1.0), create(experts=1.0, hard_share=1.0)
    expected = sum(alone(logits[:, k : k + 1], labels) for k in range(K))
    torch.testing.assert_close(criterion(logits, labels), expected, rtol=1e-13, atol=0)


def test_experts_that_agree_do_not_disagree():
    logits, _, _ = problem(5)
    same = logits[:, :1].expand(B, K, C).log_softmax(-1)
    assert torch.equal(disagreements(same), torch.zeros(B, dtype=torch.float64))
    assert (disagreements(logits.log_softmax(-1)) > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hard_share": 0.0}, r"options.hard_share must lie in \(0, 1\], not 0"),
        ({"diversity": -0.1}, "options.diversity must not be negative, not -0.1"),
        ({"experts": 1.5}, "options.experts must be a whole number of at least 1, not 1.5"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        create(**options)
