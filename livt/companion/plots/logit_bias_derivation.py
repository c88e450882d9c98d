"""Figures of the derivation: what stands where the live ones do not run."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from livt.companion.plots import COLOURS, WIDTH
from livt.losses import balanced_bce_bias, balanced_ce_bias


def biases(class_counts: NDArray[np.int64], title: str, tau: float) -> Figure:
    """Draw both biases against the class rank, largest class first, and their difference."""
    rank = range(1, len(class_counts) + 1)
    log_prior, log_odds = balanced_ce_bias(class_counts), balanced_bce_bias(class_counts)
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3), layout="constrained")
    label = r"Bal-CE: $\tau \log \pi$"
    left.plot(rank, tau * log_prior, color=COLOURS["bal_ce"], linewidth=8, label=label)
    label = r"Bal-BCE: $\tau \log \frac{\pi}{1 - \pi}$"
    left.plot(rank, tau * log_odds, color=COLOURS["bal_bce"], linewidth=2.5, linestyle="--", label=label)
    left.set(xlabel="class rank, 1 = most images", ylabel="bias [nats]", title=f"{title}, τ = {tau:g}")
    left.legend(loc="upper right")
    right.semilogy(rank, log_odds - log_prior, color="0.1", linewidth=2)
    right.set(xlabel="class rank, 1 = most images", ylabel=r"$-\log(1 - \pi)$ [nats]", title="second term, τ = 1")
    return figure


def sigmoids(class_counts: NDArray[np.int64], title: str, tau: float) -> Figure:
    """Draw the sigmoid over the score without a bias, and with that of head, median and tail, largest class first."""
    bias = tau * balanced_bce_bias(class_counts).numpy()
    z = np.linspace(-6, 6 - bias.min(), 400)
    figure, axis = plt.subplots(figsize=(WIDTH, 3.6), layout="constrained")
    label = "no bias: BCE, and any loss at test"
    axis.plot(z, 1 / (1 + np.exp(-z)), color=COLOURS["bce"], linewidth=2, label=label)
    for name, c, dash in (("head", 0, "-"), ("median", len(bias) // 2, "--"), ("tail", -1, ":")):
        label = f"{name} class: {class_counts[c]} images, bias {bias[c]:.1f}"
        axis.plot(z, 1 / (1 + np.exp(-z - bias[c])), dash, color=COLOURS["bal_bce"], linewidth=3, label=label)
    axis.set(xlabel="score $z$ [nats]", ylabel="probability in training", title=f"{title}, τ = {tau:g}")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
