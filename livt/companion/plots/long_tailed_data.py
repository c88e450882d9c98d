"""Figures of the chapter on long-tailed data."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from livt.companion.plots import WIDTH

# The data sets, in the order of the chapter: colours that mean no loss.
LOOKS: tuple[dict[str, Any], ...] = (
    {"color": "#009E73", "linestyle": "-", "linewidth": 2},
    {"color": "#CC79A7", "linestyle": "--", "linewidth": 2},
    {"color": "0.1", "linestyle": "-.", "linewidth": 2},
)


def tails(class_counts: Mapping[str, NDArray[np.int64]]) -> Figure:
    """Draw three profiles by title, largest class first: counts by rank, and the share of images the head holds."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.6), layout="constrained", width_ratios=(3, 2))
    for (title, counts), look in zip(class_counts.items(), LOOKS, strict=True):
        left.plot(np.arange(1, len(counts) + 1), counts, label=title, **look)
        held = np.concatenate(([0], np.cumsum(counts) / counts.sum()))
        right.plot(np.linspace(0, 100, len(held)), 100 * held, **look)
    left.set(xscale="log", yscale="log", xlim=(0.9, 1.2e4), ylim=(1.5, 8000))
    left.set(xlabel="class rank, 1 = most images", ylabel="training images of the class")
    for group, low, high, grey, y in (("many", 100, 8000, "1.0", 115), ("medium", 20, 100, "0.93", 23)):
        left.axhspan(low, high, color=grey, zorder=0)
        left.text(1, y, f"{group}-shot", color="0.2")
    left.axhspan(1.5, 20, color="0.84", zorder=0)
    left.text(1, 1.8, "few-shot", color="0.2")
    right.plot([0, 100], [0, 100], color="0.4", linewidth=1)
    right.text(60, 48, "balanced", color="0.3", ha="left", va="center")
    right.set(xlim=(0, 100), ylim=(0, 101), xlabel="classes, largest first [%]", ylabel="images they hold [%]")
    figure.legend(loc="outside lower center", ncols=len(LOOKS))
    return figure


def imitations(class_counts: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]]) -> Figure:
    """Draw three profiles by title beside the exponential ones that stand for them: counts by rank, largest first."""
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.7), layout="constrained", sharey=True)
    for axis, (title, (real, other)), look in zip(axes, class_counts.items(), LOOKS, strict=True):
        rank = np.arange(1, len(real) + 1)
        axis.plot(rank, real, **look | {"linestyle": "-"}, label="real")
        axis.plot(rank, other, color="0.4", linestyle=":", linewidth=2, label="exponential")
        axis.set(yscale="log", title=title, xlabel="class rank")
        axis.legend(loc="upper right")
    axes[0].set_ylabel("training images of the class")
    return figure


def montage(rows: Sequence[tuple[str, NDArray[np.uint8]]], slots: int, gap: int = 1) -> Figure:
    """Draw images of classes, each [n, H, W, 3], side by side under their title: up to ``slots`` in a row."""
    strips = []
    for _, images in rows:
        _, height, width, _ = images.shape
        strip = np.full((height, slots * (width + gap), 3), 255, dtype=np.uint8)
        for i, image in enumerate(images[:slots]):
            strip[:, i * (width + gap) : i * (width + gap) + width] = image
        strips.append(strip)
    heights = [strip.shape[0] / strip.shape[1] for strip in strips]
    size = (WIDTH, WIDTH * sum(heights) + 0.36 * len(rows))
    figure, axes = plt.subplots(len(rows), 1, figsize=size, layout="constrained", height_ratios=heights)
    for axis, (title, _), strip in zip(axes, rows, strips, strict=True):
        axis.imshow(strip, interpolation="nearest")
        axis.set_title(title, loc="left")
        axis.axis("off")
    return figure
