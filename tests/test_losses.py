"""The four losses of the paper against float64 formulas, and its two theorems checked numerically."""

import warnings
from decimal import Decimal, getcontext

import numpy as np
import pytest
import torch
from torch import nn

from livt import rivals  # noqa: F401  its losses are part of the table
from livt.losses import (
    LOSSES,
    PAPER_LOSSES,
    BalancedBinaryCrossEntropy,
    BalancedCrossEntropy,
    BinaryCrossEntropy,
    CrossEntropy,
    balanced_bce_bias,
    balanced_ce_bias,
    find,
    prior_bias,
)

COUNTS = np.array([500, 120, 30, 7, 1])
B, C = 6, len(COUNTS)
ALL = [
    CrossEntropy,
    BinaryCrossEntropy,
    lambda: BalancedCrossEntropy(COUNTS),
    lambda: BalancedBinaryCrossEntropy(COUNTS),
]
ALL_IDS = ["ce", "bce", "bal-ce", "bal-bce"]
BALANCED = [BalancedCrossEntropy, BalancedBinaryCrossEntropy]
PLAIN = {BalancedCrossEntropy: CrossEntropy, BalancedBinaryCrossEntropy: BinaryCrossEntropy}
BIASES = [balanced_ce_bias, balanced_bce_bias]

every_loss = pytest.mark.parametrize("make", ALL, ids=ALL_IDS)
balanced_loss = pytest.mark.parametrize("balanced", BALANCED, ids=["ce", "bce"])


# ------------------------------------------------------------------------------- reference (numpy float64)


def one_hot(labels, classes):
    return np.eye(classes)[np.asarray(labels)]


def reference_ce(z, t):
    top = z.max(axis=1, keepdims=True)
    log_p = z - top - np.log(np.exp(z - top).sum(axis=1, keepdims=True))
    return float(-(t * log_p).sum(axis=1).mean())


def reference_bce(z, t):
    # -t log s(z) - (1 - t) log(1 - s(z)), with log s(z) = -log(1 + e^-z)
    return float((t * np.logaddexp(0, -z) + (1 - t) * np.logaddexp(0, z)).sum(axis=1).mean())


def reference(loss, z, t, counts, tau=1.0):
    pi = counts / counts.sum()
    if isinstance(loss, BalancedCrossEntropy):
        return reference_ce(z + tau * np.log(pi), t)
    if isinstance(loss, BalancedBinaryCrossEntropy):
        return reference_bce(z + tau * (np.log(pi) - np.log1p(-pi)), t)
    return reference_ce(z, t) if isinstance(loss, CrossEntropy) else reference_bce(z, t)


def problem(seed, batch=B, classes=C, scale=3.0):
    rng = np.random.default_rng(seed)
    z = rng.normal(scale=scale, size=(batch, classes))
    labels = rng.integers(0, classes, batch)
    soft = rng.dirichlet(np.ones(classes), size=batch)
    return z, labels, soft


# -------------------------------------------------------------------------------------------------- biases


BIAS_COUNTS = [
    [500, 120, 30, 7, 1],
    [1, 1],
    [500, 501],
    [10**12, 1],
    [10**9, 3, 1],
    [10**17, 3],
    [1] + [10**6] * 3,
    [999_999, 1],
    list(range(1, 400)),
]


@pytest.mark.parametrize("counts", BIAS_COUNTS, ids=lambda c: f"{len(c)}-{c[0]}")
def test_biases_are_exact_to_float64_rounding(counts):
    """Decimal arithmetic with 50 digits, where 1 - pi loses nothing."""
    getcontext().prec = 50
    total = Decimal(sum(counts))
    log_pi = [float((n / total).ln()) for n in map(Decimal, counts)]
    log_odds = [float((n / (total - n)).ln()) for n in map(Decimal, counts)]
    for bias, expected in [(balanced_ce_bias(counts), log_pi), (balanced_bce_bias(counts), log_odds)]:
        assert bias.dtype == torch.float64
        assert bias.shape == (len(counts),)
        np.testing.assert_allclose(bias.numpy(), expected, rtol=1e-14, atol=2e-14)


@pytest.mark.parametrize("bias", BIASES)
def test_biases_depend_on_the_shares_only(bias):
    np.testing.assert_allclose(bias(COUNTS).numpy(), bias(COUNTS * 13).numpy(), rtol=1e-13)
    np.testing.assert_array_equal(bias(COUNTS).numpy(), bias(COUNTS.tolist()).numpy())
    order = [3, 1, 4, 0, 2]
    np.testing.assert_allclose(bias(COUNTS[order]).numpy(), bias(COUNTS).numpy()[order], rtol=1e-14)


def test_second_term_of_the_bce_bias_is_as_large_as_published():
    def exponential(top, factor, classes):
        return [int(top * (1 / factor) ** (c / (classes - 1))) for c in range(classes)]

    def extra(counts):
        return (balanced_bce_bias(counts) - balanced_ce_bias(counts)).max().item()

    assert extra(exponential(500, 100, 100)) == pytest.approx(0.047, abs=5e-4)
    assert extra(exponential(5000, 100, 10)) == pytest.approx(0.516, abs=5e-4)


# -------------------------------------------------------------------------------------------------- values


@every_loss
@pytest.mark.parametrize("seed", range(4))
def test_hard_and_soft_targets_against_the_formula(make, seed):
    z, labels, soft = problem(seed)
    loss = make()
    hard = loss(torch.from_numpy(z), torch.from_numpy(labels))
    assert hard.dtype == torch.float64
    assert hard.shape == ()
    assert hard.item() == pytest.approx(reference(loss, z, one_hot(labels, C), COUNTS), rel=1e-12)
    mixed = loss(torch.from_numpy(z), torch.from_numpy(soft))
    assert mixed.item() == pytest.approx(reference(loss, z, soft, COUNTS), rel=1e-12)
    single = loss(torch.from_numpy(z).float(), torch.from_numpy(labels))
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(hard.item(), rel=1e-5)


@balanced_loss
@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.05, 3])
def test_tau_scales_the_bias(balanced, tau):
    z, labels, _ = problem(1)
    loss = balanced(COUNTS, tau=tau)
    expected = reference(loss, z, one_hot(labels, C), COUNTS, tau)
    value = loss(torch.from_numpy(z), torch.from_numpy(labels)).item()
    assert value == pytest.approx(expected, rel=1e-12)


@balanced_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tau_zero_is_the_plain_loss_bit_for_bit(balanced, dtype):
    for seed in range(5):
        z, labels, soft = problem(seed)
        z = torch.from_numpy(z).to(dtype)
        for targets in (torch.from_numpy(labels), torch.from_numpy(soft).to(dtype)):
            assert torch.equal(balanced(COUNTS, tau=0.0)(z, targets), PLAIN[balanced]()(z, targets))


@pytest.mark.parametrize("classes", [2, 5, 100])
@pytest.mark.parametrize("per_class", [1, 37])
def test_uniform_priors(classes, per_class):
    z, labels, _ = problem(7, classes=classes)
    z, labels = torch.from_numpy(z), torch.from_numpy(labels)
    counts = [per_class] * classes
    torch.testing.assert_close(BalancedCrossEntropy(counts)(z, labels), CrossEntropy()(z, labels), rtol=1e-12, atol=0)
    # log(1/C) - log(1 - 1/C) = -log(C - 1): zero for two classes only
    torch.testing.assert_close(
        BalancedBinaryCrossEntropy(counts)(z, labels),
        BinaryCrossEntropy()(z - np.log(classes - 1), labels),
        rtol=1e-12,
        atol=0,
    )


@every_loss
@pytest.mark.parametrize("seed", range(3))
def test_mixup_with_label_smoothing(make, seed):
    z, first, _ = problem(seed)
    second = np.random.default_rng(seed + 50).integers(0, C, B)
    lam, smoothing = 0.3, 0.1
    targets = np.empty((B, C))
    for i in range(B):
        for c in range(C):
            own = lam * (first[i] == c) + (1 - lam) * (second[i] == c)
            targets[i, c] = (1 - smoothing) * own + smoothing / C
    loss, logits = make(), torch.from_numpy(z)
    value = loss(logits, torch.from_numpy(targets)).item()
    assert value == pytest.approx(reference(loss, z, targets, COUNTS), rel=1e-12)

    def smoothed(labels):
        return loss(logits, torch.from_numpy((1 - smoothing) * one_hot(labels, C) + smoothing / C)).item()

    # Every loss is affine in the targets, so mixing targets mixes losses.
    assert value == pytest.approx(lam * smoothed(first) + (1 - lam) * smoothed(second), rel=1e-12)


@every_loss
def test_indices_and_one_hot_targets_agree(make):
    z, labels, _ = problem(3)
    z, loss = torch.from_numpy(z), make()
    hot = torch.from_numpy(one_hot(labels, C))
    expected = loss(z, torch.from_numpy(labels))
    torch.testing.assert_close(loss(z, hot), expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(loss(z, hot.float()), expected, rtol=1e-13, atol=0)


@every_loss
def test_batch_reduction_is_the_mean(make):
    z, labels, _ = problem(4)
    z, labels, loss = torch.from_numpy(z), torch.from_numpy(labels), make()
    one_by_one = [loss(z[i : i + 1], labels[i : i + 1]).item() for i in range(B)]
    assert loss(z, labels).item() == pytest.approx(np.mean(one_by_one), rel=1e-12)
    # Repeating the batch changes nothing, for the sum over classes too.
    assert loss(z.repeat(3, 1), labels.repeat(3)).item() == pytest.approx(loss(z, labels).item(), rel=1e-12)


def test_bce_sums_over_classes():
    value = BinaryCrossEntropy()(torch.zeros(2, 7, dtype=torch.float64), torch.tensor([0, 3]))
    assert value.item() == pytest.approx(7 * np.log(2), rel=1e-14)


# ------------------------------------------------------------------------------------------------ gradients


@every_loss
def test_gradcheck(make):
    z, labels, soft = problem(5, batch=3)
    z = torch.from_numpy(z).requires_grad_()
    loss = make()
    assert torch.autograd.gradcheck(lambda x: loss(x, torch.from_numpy(labels)), (z,))
    assert torch.autograd.gradcheck(lambda x: loss(x, torch.from_numpy(soft)), (z,))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tau", [0.0, 1.0, 1.05])
def test_gradients_have_their_closed_form(seed, tau):
    z, labels, soft = problem(seed)
    pi = COUNTS / COUNTS.sum()
    for t, targets in [(one_hot(labels, C), labels), (soft, soft)]:
        x = torch.from_numpy(z).requires_grad_()
        BalancedBinaryCrossEntropy(COUNTS, tau=tau)(x, torch.from_numpy(targets)).backward()
        odds = np.exp(z + tau * (np.log(pi) - np.log1p(-pi)))
        np.testing.assert_allclose(x.grad.numpy(), (odds / (1 + odds) - t) / B, rtol=1e-11, atol=1e-15)
        x = torch.from_numpy(z).requires_grad_()
        BalancedCrossEntropy(COUNTS, tau=tau)(x, torch.from_numpy(targets)).backward()
        share = np.exp(z + tau * np.log(pi))
        share /= share.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(x.grad.numpy(), (share - t) / B, rtol=1e-11, atol=1e-15)


@every_loss
def test_inputs_are_left_alone(make):
    z, _, soft = problem(6)
    logits, targets = torch.from_numpy(z.copy()), torch.from_numpy(soft.copy())
    make()(logits, targets)
    assert (logits.numpy() == z).all()
    assert (targets.numpy() == soft).all()


@balanced_loss
def test_counts_are_left_alone_and_may_be_read_only(balanced):
    counts = COUNTS.astype(np.float64)  # already of the working type: nothing forces a copy
    counts.setflags(write=False)
    torch.set_warn_always(True)  # torch warns of a read-only array once per process
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            loss = balanced(counts)
        finally:
            torch.set_warn_always(False)
    z, labels, _ = problem(6)
    z, labels = torch.from_numpy(z), torch.from_numpy(labels)
    assert torch.equal(loss(z, labels), balanced(COUNTS)(z, labels))
    changing = COUNTS.astype(np.float64)
    loss = balanced(changing)
    changing[:] = 1
    assert torch.equal(loss(z, labels), balanced(COUNTS)(z, labels))


# ------------------------------------------------------------------------------------------------- theorems


def discrete_world(seed, classes, points=40):
    """p(x|y) as a [points, classes] table, a long-tailed prior, and the joint p(x, y) it gives."""
    rng = np.random.default_rng(seed)
    likelihood = rng.dirichlet(np.full(points, 0.7), size=classes).T + 1e-6
    likelihood /= likelihood.sum(axis=0)
    counts = np.array([int(1000 * 0.01 ** (c / (classes - 1))) for c in range(classes)])
    return likelihood, counts, likelihood * (counts / counts.sum())


def population_gradient(loss, z, joint):
    """d/dz of E_x E_{y|x} loss(z(x), y), exactly: one row per x, soft targets p(y|x), weight p(x)."""
    x = torch.from_numpy(z).requires_grad_()
    posterior = joint / joint.sum(axis=1, keepdims=True)
    total = sum(w * loss(x[i : i + 1], torch.from_numpy(posterior[i : i + 1])) for i, w in enumerate(joint.sum(axis=1)))
    total.backward()
    return x.grad.numpy()


@pytest.mark.parametrize("classes", [2, 4, 10])
def test_theorem_1_balanced_ce_is_stationary_at_the_balanced_posterior(classes):
    likelihood, counts, joint = discrete_world(classes, classes)
    balanced = np.log(likelihood / likelihood.sum(axis=1, keepdims=True))  # log p_bal(y|x)
    gradient = population_gradient(BalancedCrossEntropy(counts), balanced, joint)
    np.testing.assert_allclose(gradient, 0, atol=1e-15)
    # Plain CE is not, but is once the prior is put into the logits: its minimiser is z + log pi.
    assert np.abs(population_gradient(CrossEntropy(), balanced, joint)).max() > 1e-3
    shifted = balanced + np.log(counts / counts.sum())
    np.testing.assert_allclose(population_gradient(CrossEntropy(), shifted, joint), 0, atol=1e-15)


def test_theorem_1_for_gaussian_classes():
    """Two unit Gaussians at -1 and +1: the balanced log-odds are 2x whatever the training prior."""
    x = np.linspace(-4, 4, 81)
    counts = np.array([900, 100])
    densities = np.exp(-0.5 * (x[:, None] - np.array([-1.0, 1.0])) ** 2)
    joint = densities * counts / counts.sum()
    z = np.stack([np.zeros_like(x), 2 * x], axis=1)
    np.testing.assert_allclose(population_gradient(BalancedCrossEntropy(counts), z, joint), 0, atol=1e-15)
    z = np.stack([-2 * x, 2 * x], axis=1)
    gradient = population_gradient(BalancedBinaryCrossEntropy(counts), z, joint)
    np.testing.assert_allclose(gradient, 0, atol=1e-15)


@pytest.mark.parametrize("classes", [2, 4, 10])
def test_theorem_2_balanced_bce_is_stationary_at_the_likelihood_ratio(classes):
    likelihood, counts, joint = discrete_world(classes, classes)
    pi = counts / counts.sum()
    # p(x | not y) under the training prior
    rest = (joint.sum(axis=1, keepdims=True) - joint) / (1 - pi)
    z = np.log(likelihood / rest)
    gradient = population_gradient(BalancedBinaryCrossEntropy(counts), z, joint)
    np.testing.assert_allclose(gradient, 0, atol=1e-15)
    assert np.abs(population_gradient(BinaryCrossEntropy(), z, joint)).max() > 1e-3
    # With p(x | not y) under the balanced prior instead, the two agree for two classes only.
    balanced_rest = (likelihood.sum(axis=1, keepdims=True) - likelihood) / (classes - 1)
    balanced_z = np.log(likelihood / balanced_rest)
    gradient = population_gradient(BalancedBinaryCrossEntropy(counts), balanced_z, joint)
    if classes == 2:
        posterior = likelihood / likelihood.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(balanced_z, np.log(posterior / (1 - posterior)), atol=1e-12)
        np.testing.assert_allclose(gradient, 0, atol=1e-15)
    else:
        assert np.abs(gradient).max() > 1e-4


# ------------------------------------------------------------------------------------ extremes and precision


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_of_ten_thousand(make, dtype):
    z = np.array([[1e4, -1e4, 0, 1e4, -1e4], [-1e4, -1e4, -1e4, -1e4, 1e4], [1e4] * 5, [-1e4] * 5])
    loss = make()
    for labels in ([0, 4, 2, 1], [1, 0, 4, 3]):
        logits = torch.tensor(z, dtype=dtype, requires_grad=True)
        value = loss(logits, torch.tensor(labels))
        value.backward()
        expected = reference(loss, z, one_hot(labels, 5), COUNTS)
        # float32 numbers near 1e4 are 1e-3 apart, so a bias added to them is no better than that.
        assert value.item() == pytest.approx(expected, rel=1e-12 if dtype == torch.float64 else 1e-3)
        assert logits.grad.isfinite().all()


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_bce_of_a_trained_model_over_many_classes(balanced, dtype, tolerance):
    """Thousands of classes rejected with logits near -15 contribute 3e-7 each: that must not be rounding.

    `(1 - t) z - logsigmoid(z)` cancels there; `t softplus(-z) + (1 - t) softplus(z)` does not.
    """
    classes = 8142
    counts = np.maximum(1, 1000 * 0.002 ** (np.arange(classes) / (classes - 1))).astype(int)
    z = np.random.default_rng(0).normal(-15, 1, size=(4, classes))
    labels = np.arange(4)
    z[labels, labels] = 6
    if balanced:  # the same training logits, reached with the bias
        pi = counts / counts.sum()
        loss = BalancedBinaryCrossEntropy(counts)
        z = z - np.log(pi) + np.log1p(-pi)
    else:
        loss = BinaryCrossEntropy()
    logits = torch.from_numpy(z).to(dtype)
    expected = reference(loss, logits.double().numpy(), one_hot(labels, classes), counts)
    value = loss(logits, torch.from_numpy(labels)).item()
    assert value == pytest.approx(expected, rel=tolerance, abs=0)


@balanced_loss
def test_inat18_size(balanced):
    classes = 8142
    counts = np.maximum(1, 1000 * 0.002 ** (np.arange(classes) / (classes - 1))).astype(int)
    counts[-5:] = 1
    z, labels, _ = problem(0, batch=4, classes=classes)
    loss = balanced(counts)
    expected = reference(loss, z, one_hot(labels, classes), counts)
    assert loss(torch.from_numpy(z), torch.from_numpy(labels)).item() == pytest.approx(expected, rel=1e-12)
    single = loss(torch.from_numpy(z).float(), torch.from_numpy(labels)).item()
    assert single == pytest.approx(expected, rel=1e-5)


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_logits_are_computed_in_float32(make, dtype, autocast):
    z, labels, soft = problem(8)
    logits = torch.from_numpy(z).to(dtype).requires_grad_()
    loss = make()
    for targets in (torch.from_numpy(labels), torch.from_numpy(soft).float()):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            value = loss(logits, targets)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, loss(logits.detach().float(), targets), rtol=1e-6, atol=0)
    value.backward()
    assert logits.grad.dtype == dtype


@every_loss
def test_autocast_leaves_float32_logits_in_float32(make):
    z, labels, _ = problem(9)
    logits, labels = torch.from_numpy(z).float(), torch.from_numpy(labels)
    loss = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(logits, labels)
    torch.testing.assert_close(value, loss(logits, labels), rtol=1e-6, atol=0)


# -------------------------------------------------------------------------------------------------- modules


@every_loss
def test_a_loss_has_no_parameters_and_does_not_enter_a_checkpoint(make):
    """A model saved beside one loss loads beside another, and keeps the second one's prior."""

    class Task(nn.Module):
        def __init__(self, criterion):
            super().__init__()
            self.model, self.criterion = nn.Linear(3, C), criterion

    loss = make()
    assert not list(loss.parameters())
    z, labels, _ = problem(10)
    z, labels = torch.from_numpy(z), torch.from_numpy(labels)
    before = loss(z, labels)
    task = Task(loss)
    for other in (
        CrossEntropy(),
        BalancedBinaryCrossEntropy(COUNTS[::-1].copy()),
        BalancedCrossEntropy([1] * C),
    ):
        task.load_state_dict(Task(other).state_dict(), strict=True)
    assert torch.equal(loss(z, labels), before)


@balanced_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moves_with_dtype(balanced, dtype):
    z, labels, _ = problem(11)
    loss = balanced(COUNTS).to(dtype)
    expected = reference(loss, z, one_hot(labels, C), COUNTS)
    value = loss(torch.from_numpy(z).to(dtype), torch.from_numpy(labels))
    assert value.dtype == dtype
    assert value.item() == pytest.approx(expected, rel=1e-6 if dtype == torch.float32 else 1e-12)


# --------------------------------------------------------------------------------------------------- errors


def test_one_class_has_no_finite_odds():
    for function in (BalancedBinaryCrossEntropy, balanced_bce_bias):
        with pytest.raises(ValueError, match="(?i)class"):
            function([5])


@pytest.mark.parametrize("function", BALANCED + BIASES)
@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([], r"(?i)empty|no class|at least one"),
        ([5, 4, -3, 2], r"(?i)class\D*2\b.*-3"),
        ([5, float("nan"), 3], r"(?i)class\D*1\b.*nan"),
        ([5, 4, 3, float("inf")], r"(?i)class\D*3\b.*inf"),
        ([5, 4, 3, 0], r"(?i)class\D*3\b"),
    ],
)
def test_bad_counts_name_the_class(function, counts, message):
    with pytest.raises(ValueError, match=message):
        function(counts)


@balanced_loss
@pytest.mark.parametrize("tau", [-0.1, float("nan"), float("inf")])
def test_bad_tau(balanced, tau):
    with pytest.raises(ValueError, match=r"\btau\b"):
        balanced(COUNTS, tau=tau)


@balanced_loss
@pytest.mark.parametrize("columns", [1, C - 1, C + 1])
def test_logits_of_another_number_of_classes(balanced, columns):
    """One column would broadcast against the bias in silence."""
    with pytest.raises(ValueError, match=rf"\b{columns}\b.*\b{C}\b|\b{C}\b.*\b{columns}\b"):
        balanced(COUNTS)(torch.zeros(2, columns), torch.zeros(2, dtype=torch.int64))


@every_loss
@pytest.mark.parametrize(
    ("logits_shape", "targets"),
    [
        ((4, C), torch.zeros(5, dtype=torch.int64)),
        ((4, C), torch.zeros(1, dtype=torch.int64)),
        ((4, C), torch.zeros(4, C - 1)),
        ((4, C), torch.zeros(4, 1)),
        ((4, C), torch.zeros(3, C)),
        ((4, C), torch.zeros(1, C)),
        ((C,), torch.zeros(C)),
        ((C,), torch.zeros(C, dtype=torch.int64)),
        ((4, C, 1), torch.zeros(4, C, 1)),
        ((4, C, 2), torch.zeros(4, 2, dtype=torch.int64)),
    ],
    ids=str,
)
def test_mismatched_shapes(make, logits_shape, targets):
    with pytest.raises(ValueError, match=r"(?i)shape|logits|targets"):
        make()(torch.zeros(logits_shape), targets)


def test_casting_the_module_keeps_the_bias_exact():
    counts, logits = [900, 90, 9], torch.randn(4, 3, dtype=torch.float64, generator=torch.manual_seed(0))
    targets = torch.tensor([0, 1, 2, 1])
    loss = BalancedBinaryCrossEntropy(counts)
    expected = loss(logits, targets)
    assert torch.equal(loss.bfloat16()(logits, targets), expected)
    assert loss(logits.float(), targets).dtype == torch.float32
    assert torch.equal(loss(logits, targets), expected), "another precision in between"


@pytest.mark.parametrize("loss", [CrossEntropy(), BinaryCrossEntropy()])
def test_no_target_is_skipped_in_silence(loss):
    with pytest.raises(ValueError, match="targets must lie in 0 to 2, found -100 to 1"):
        loss(torch.randn(2, 3), torch.tensor([-100, 1]))
    with pytest.raises(ValueError, match="targets must lie in 0 to 2, found 0 to 3"):
        loss(torch.randn(2, 3), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"torch.int64 targets of shape \(2, 3\) do not fit"):
        loss(torch.randn(2, 3), torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="B at least 1"):
        loss(torch.randn(0, 3), torch.ones(0, dtype=torch.int64))


def test_counts_may_be_a_tensor():
    assert torch.equal(balanced_bce_bias(torch.tensor([3, 2, 1])), balanced_bce_bias([3, 2, 1]))


# ----------------------------------------------------------------------------------------------- the table


DOCUMENTED = {
    "ce": lambda z, t, log_pi, log_odds, tau: reference_ce(z, t),
    "bal_ce": lambda z, t, log_pi, log_odds, tau: reference_ce(z + tau * log_pi, t),
    "bce": lambda z, t, log_pi, log_odds, tau: reference_bce(z, t),
    "bal_bce": lambda z, t, log_pi, log_odds, tau: reference_bce(z + tau * log_odds, t),
}


@pytest.mark.parametrize("name", PAPER_LOSSES)
def test_an_entry_of_the_paper_makes_the_loss_it_names(name):
    z, labels, soft = problem(3)
    pi = COUNTS / COUNTS.sum()
    loss = find(name)
    for tau in (1.0, 0.5) if loss.bias else (1.0,):
        criterion = find(name, tau).create(COUNTS, tau)
        for targets, t in ((labels, one_hot(labels, C)), (soft, soft)):
            found = criterion(torch.from_numpy(z), torch.from_numpy(targets)).item()
            expected = DOCUMENTED[name](z, t, np.log(pi), np.log(pi / (1 - pi)), tau)
            assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_an_entry_says_what_its_module_does(loss):
    """Also of entries that are not the paper's: the bias is what moves the logits, and the prior is read back."""
    z, labels, _ = problem(5)
    if loss.adapt is None:  # else its model says what it takes
        logits, targets = torch.from_numpy(np.tile(z, (loss.views, 1))), torch.from_numpy(labels)
        value = loss.create(COUNTS, 1.0, **loss.options)(logits, targets)
        assert value.ndim == 0
        assert torch.isfinite(value)
    assert LOSSES[loss.name] is loss
    assert loss.title
    assert loss.source
    if loss.bias is not None:
        assert loss.bias(COUNTS).shape == (C,)
        assert loss.bias(COUNTS).dtype == torch.float64
    read = {"softmax": lambda logits: logits.softmax(0), "sigmoid": torch.sigmoid}[loss.reads]
    np.testing.assert_allclose(read(prior_bias(loss, COUNTS)), COUNTS / COUNTS.sum(), rtol=1e-12)


@pytest.mark.parametrize("name", PAPER_LOSSES)
def test_the_bias_of_an_entry_is_what_its_module_adds(name):
    loss, plain = find(name), find(name.removeprefix("bal_")).create(COUNTS, 1.0)
    z, labels, _ = problem(7)
    logits, targets = torch.from_numpy(z), torch.from_numpy(labels)
    moved = logits if loss.bias is None else logits + loss.bias(COUNTS)
    assert loss.create(COUNTS, 1.0)(logits, targets).item() == pytest.approx(plain(moved, targets).item(), rel=1e-12)


@pytest.mark.parametrize("name", ["focal_loss", "", "CE", "bal-bce"])
def test_a_name_without_an_entry_is_an_error_that_lists_the_names(name):
    with pytest.raises(ValueError) as error:
        find(name)
    assert str(error.value) == f"finetune.loss {name!r} is not one of {', '.join(LOSSES)}"


def test_tau_without_a_bias_is_refused_as_it_would_reach_nothing():
    for name, loss in LOSSES.items():
        if loss.bias is None:
            assert find(name, 1.0) is loss
            with pytest.raises(ValueError, match=f"tau = 0.5 has no effect on the loss '{name}', which has no bias"):
                find(name, 0.5)
        else:
            assert find(name, 0.5) is loss
