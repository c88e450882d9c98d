"""Plain NumPy in float64 to compare losses with: cross-entropies, and gradients by complex steps.

A reference is a function of logits [B, C] and soft targets [B, C], made of functions that are analytic.
"""

import numpy as np
import torch

COUNTS = np.array([500, 120, 30, 7, 1])
B, C = 6, len(COUNTS)
STEP = 1e-30  # no difference is taken, so that it may be as small as it likes


def problem(seed, scale=3.0):
    """Return logits [B, C], labels [B] and soft targets [B, C]."""
    rng = np.random.default_rng(seed)
    return rng.normal(scale=scale, size=(B, C)), rng.integers(0, C, B), rng.dirichlet(np.ones(C), size=B)


def one_hot(labels):
    return np.eye(C)[labels]


def log_softmax(z):
    shifted = z - z.real.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def cross_entropy(z, t):
    return -(t * log_softmax(z)).sum(axis=1).mean()


def softplus(z):
    return np.where(z.real > 0, z, 0) + np.log1p(np.exp(np.where(z.real > 0, -z, z)))


def effective_number_weights(counts, beta):
    weights = np.array([(1 - beta) / (1 - beta**n) for n in counts.tolist()])
    return weights / weights.sum() * len(counts)


def gradient(reference, z, t):
    """Return d reference / d z, [B, C], exact to rounding."""
    found = np.empty_like(z)
    for place in np.ndindex(*z.shape):
        moved = z.astype(complex)
        moved[place] += 1j * STEP
        found[place] = reference(moved, t).imag / STEP
    return found


def assert_parity(criterion, reference, seeds=range(3), *, soft=True, rtol=1e-10, draws=None):
    """Compare values and gradients, for labels and for soft targets; ``draws`` seeds what a criterion draws."""
    for seed in seeds:
        z, labels, mixed = problem(seed)
        for targets, t in [(labels, one_hot(labels)), (mixed, mixed)][: 1 + soft]:
            logits = torch.from_numpy(z.copy()).requires_grad_()
            if draws is not None:
                torch.manual_seed(draws)
            value = criterion(logits, torch.from_numpy(targets))
            value.backward()
            assert value.dtype == torch.float64
            np.testing.assert_allclose(value.item(), reference(z, t), rtol=rtol)
            np.testing.assert_allclose(logits.grad.numpy(), gradient(reference, z, t), rtol=rtol, atol=1e-12)
