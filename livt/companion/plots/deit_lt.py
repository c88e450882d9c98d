"""The figures of the chapter on DeiT-LT: its idea as a drawing, and how far each block looks."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from livt.companion.plots import WIDTH, grid

LABELS, TAUGHT = "#0072B2", "#D55E00"  # what comes from the labels, and from the teacher
STYLES: dict[str, dict[str, Any]] = {
    "deit_lt": {"color": TAUGHT, "marker": "o", "linestyle": "-"},
    "plain teacher": {"color": "#E69F00", "marker": "s", "linestyle": (0, (4, 1.5))},
    "weak augmentation": {"color": "#CC79A7", "marker": "^", "linestyle": (0, (6, 1.5, 1.5, 1.5))},
    "vit": {"color": "#000000", "marker": "D", "linestyle": (0, (1, 1))},
    "vit, weak augmentation": {"color": "0.45", "marker": "v", "linestyle": (0, (3, 1, 1, 1, 1, 1))},
}


def idea() -> Figure:
    """Draw who learns what from whom: the image, the teacher, the student's two tokens, and their mean at test."""
    figure, axis = plt.subplots(figsize=(WIDTH, 3.0), layout="constrained")
    axis.set(xlim=(0, 10), ylim=(0, 4.2))
    axis.axis("off")
    _box(axis, (0.1, 1.3, 1.9, 1.4), "image,\nstrongly\naugmented,\nmixed", "0.3")
    _box(axis, (2.9, 2.7, 2.3, 1.3), "CNN teacher\nLDAM-DRW, flat by SAM\n(then fixed)", TAUGHT)
    _box(axis, (2.9, 0.2, 2.3, 1.7), "ViT student\npatches\n+ class token\n+ distillation token", "0.1")
    _box(axis, (6.1, 1.5, 1.7, 0.8), "distillation\ntoken's head", TAUGHT)
    _box(axis, (6.1, 0.1, 1.7, 0.8), "class\ntoken's head", LABELS)
    _box(axis, (8.5, 0.75, 1.4, 0.9), "at test:\ntheir mean", "0.1")
    for start, end, colour in (
        ((2.0, 2.3), (2.9, 3.2), TAUGHT),
        ((2.0, 1.7), (2.9, 1.1), "0.1"),
        ((5.2, 1.3), (6.1, 1.8), "0.1"),
        ((5.2, 0.8), (6.1, 0.5), "0.1"),
        ((7.8, 1.8), (8.5, 1.4), "0.1"),
        ((7.8, 0.5), (8.5, 1.0), "0.1"),
        ((5.2, 3.4), (6.8, 2.3), TAUGHT),
    ):
        axis.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 1.5})
    axis.text(
        6.3, 3.1, "learns its hard label $y_t$, rare classes\nupweighted late in training", color=TAUGHT, va="center"
    )
    axis.text(8.0, 0.1, "learns the labels $y$", color=LABELS, va="center")
    return figure


def _box(axis: Axes, place: tuple[float, float, float, float], text: str, colour: str) -> None:
    x, y, width, height = place
    style: dict[str, Any] = {
        "boxstyle": "round,pad=0,rounding_size=0.12",
        "facecolor": "white",
        "edgecolor": colour,
        "linewidth": 1.5,
    }
    axis.add_patch(FancyBboxPatch((x, y), width, height, **style))
    axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", color="0.1")


def distances(
    panels: Mapping[str, tuple[Mapping[str, Sequence[Sequence[float]]], float]], names: Mapping[str, str]
) -> Figure:
    """Draw the mean attention distance of each block, a line for each arm and seed.

    panels: by title, the distances [pixels] of each arm's seeds, and that of a block that attends to all patches alike.
    names: how the legend calls each arm.
    """
    figure, axes = grid(len(panels), height=3.2)
    for axis, (title, (found, even)) in zip(axes, panels.items(), strict=True):
        for arm, style in STYLES.items():
            for seed in found.get(arm, ()):
                axis.plot(range(1, len(seed) + 1), seed, linewidth=1.5, markersize=4, **style)
        blocks = max((len(seed) for seeds in found.values() for seed in seeds), default=1)
        axis.axhline(even, color="0.4", linewidth=1)
        axis.annotate("all patches alike", (1, even), xytext=(0, 3), textcoords="offset points", color="0.3")
        axis.set(title=title, xlabel="block", ylabel="attention distance [pixels]", ylim=(0, 1.2 * even))
        axis.set_xticks(range(1, blocks + 1))
    lines = [axes[0].plot([], [], **style)[0] for style in STYLES.values()]
    figure.legend(lines, [names[arm] for arm in STYLES], loc="outside lower center", ncols=2)
    return figure
