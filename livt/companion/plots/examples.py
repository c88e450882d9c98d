"""The figure of test images with what each loss says of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from livt.companion.plots import WIDTH

RIGHT, WRONG = "#00664B", "#A34700"  # dark enough for small type on white


@dataclass(frozen=True, kw_only=True)
class Example:
    """Images of one class, uint8 [N, H, W, 3]; said: by loss, of each image the name of a class, and if it is right."""

    title: str
    images: NDArray[np.uint8]
    said: Mapping[str, Sequence[tuple[str, bool]]]


def examples(rows: Sequence[Example]) -> Figure:
    """Draw a row of images for each class, what each loss says under each image."""
    columns = max(len(row.images) for row in rows)
    height, width = rows[0].images.shape[1:3]
    side = (WIDTH - 1.1) / columns
    tall = side * 0.8 * height / width
    line = 0.16
    figure, axes = plt.subplots(
        2 * len(rows),
        columns,
        figsize=(WIDTH, len(rows) * (tall + line * len(rows[0].said) + 0.12)),
        height_ratios=[tall, line * len(rows[0].said)] * len(rows),
        squeeze=False,
    )
    figure.subplots_adjust(left=1.1 / WIDTH, right=0.995, top=0.99, bottom=0.01, wspace=0.06, hspace=0.08)
    for i, row in enumerate(rows):
        for j in range(columns):
            top, below = axes[2 * i, j], axes[2 * i + 1, j]
            for axis in (top, below):
                axis.set(xticks=[], yticks=[])
                axis.grid(visible=False)
                axis.spines[:].set_visible(False)
            if j < len(row.images):
                top.imshow(row.images[j], interpolation="nearest")
                for k, (loss, found) in enumerate(row.said.items()):
                    name, right = found[j]
                    below.text(
                        0.02,
                        1 - (k + 0.5) / len(row.said),
                        f"{'✓' if right else '✗'} {name}",
                        color=RIGHT if right else WRONG,
                        fontsize=8,
                        va="center",
                    )
                    if not j:
                        below.text(-0.08, 1 - (k + 0.5) / len(row.said), loss, fontsize=8, va="center", ha="right")
        for k, words in enumerate(row.title.split("\n")):  # each line ends at the image, whatever the font
            place = (-0.08, 0.5 - 0.17 * (k - 0.5) / tall)
            axes[2 * i, 0].text(
                *place, words, transform=axes[2 * i, 0].transAxes, fontsize=8.5, va="center", ha="right"
            )
    return figure
