"""What the figures that a reader moves show where their script does not run: their first state."""

from collections.abc import Mapping
from itertools import groupby

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from livt.companion.plots import COLOURS, WIDTH
from livt.companion.published import LOSS_NAMES

MOVED, OTHER = "#009E73", "#9AA3AD"


def counts(
    class_counts: NDArray[np.int64],
    biases: NDArray[np.float64],
    place: NDArray[np.float64],
    chosen: Mapping[str, NDArray[np.int64]],
) -> Figure:
    """Draw the prior and the bias of each class, and which class each rule decides along the line ``place`` [G].

    chosen: the decided class [G] by the name of the rule. The last class is the marked one.
    """
    figure, axes = plt.subplot_mosaic(
        [["prior", "bias"], ["decision", "decision"]], figsize=(WIDTH, 4.2), layout="constrained"
    )
    left, right, axis = axes["prior"], axes["bias"], axes["decision"]
    classes = np.arange(1, len(class_counts) + 1)
    colours = [OTHER] * (len(classes) - 1) + [MOVED]
    left.bar(classes, class_counts / class_counts.sum(), color=colours, edgecolor="0.25")
    left.set(ylabel="prior π", ylim=(0, 1))
    right.bar(classes, biases, color=colours, edgecolor="0.25")
    right.set(ylabel="log π − log(1 − π) [nats]")
    for bars in (left, right):
        bars.set(xlabel="images of the class", xticks=classes, xticklabels=class_counts)
        bars.grid(axis="x", visible=False)
    step, first, last = place[1] - place[0], place[0] + 1.5, place[-1] - 1.5
    for row, decided in enumerate(chosen.values()):
        start = 0
        for c, run in groupby(decided):
            stop = start + len(list(run))
            colour = colours[c] if c == len(classes) - 1 or c % 2 else "white"
            left_end, right_end = max(place[start] - step / 2, first), min(place[stop - 1] + step / 2, last)
            width = right_end - left_end
            if width > 0:  # else beyond what is drawn
                axis.barh(row, width, left=left_end, height=0.7, color=colour, edgecolor="0.25")
            if width > 0.4:
                axis.text(left_end + width / 2, row, str(c + 1), ha="center", va="center")
            start = stop
    axis.set(yticks=range(len(chosen)), yticklabels=list(chosen), ylim=(len(chosen) - 0.5, -0.5))
    axis.set(xticks=2 * (classes - 1), xticklabels=[f"class {c}" for c in classes], xlim=(first, last))
    axis.set(xlabel="the image's place on the line; each class lies around its own")
    axis.grid(visible=False)
    return figure


def gradients(
    class_counts: NDArray[np.float64], forces: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
) -> Figure:
    """Draw how one step of descent moves each class's score under each loss: pull [C] and push [C], and their sum."""
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 4.6), sharex=True, sharey=True, layout="constrained")
    place = np.arange(len(class_counts))
    for axis, (name, (pull, push)) in zip(axes.flat, forces.items(), strict=True):
        axis.bar(place, pull, color=COLOURS[name], edgecolor="0.25", label="own images (coloured)")
        axis.bar(place, push, color="white", edgecolor="0.25", label="other images")
        axis.plot(place, pull + push, "D", color="0.1", markersize=5, label="sum")
        axis.axhline(0, color="0.25", linewidth=0.8)
        axis.set(title=LOSS_NAMES[name], xticks=place, xticklabels=class_counts.astype(int))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    figure.supxlabel("images of the class in the batch", fontsize=9)
    figure.supylabel("force on the score, −∂L/∂z", fontsize=9)
    return figure


def masked(image: NDArray, hidden: NDArray[np.bool_], prediction: NDArray[np.float64]) -> Figure:
    """Draw a grey image [H, W], its visible patches, and these with the predicted ones around them."""
    panels = {
        "original": image,
        "visible patches": np.ma.masked_where(hidden, image),
        "reconstruction": np.where(hidden, prediction, image),
    }
    height = WIDTH / 3 * image.shape[0] / image.shape[1] + 0.6
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, height), layout="constrained")
    for axis, (title, pixels) in zip(axes, panels.items(), strict=True):
        axis.set_facecolor("#9ECAE1")
        axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        axis.set(title=title, xticks=[], yticks=[])
        axis.grid(False)
    return figure
