"""Suites: a data set with its recipes, sizes, lengths and seeds; what the experiments train, and a build shows."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from livt.config import Recipe
from livt.lab.recipes import (
    digit_pairs,
    digit_pairs_short,
    imagenet_lt,
    photos,
    photos_nano,
    photos_tiny,
    photos_tiny_64,
    smoke,
    tiny_imagenet_lt,
    tiny_imagenet_lt_short,
)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What the experiments train on one data set.

    title: the data, as a page names them. main: the recipe of the loss ablation. sweep: the recipe that other
    experiments vary, shorter where their number would cost too much. sizes: model sizes, smallest first. lengths:
    epochs of fine-tuning to compare. cnn: the residual network to compare a ViT with. finer: a recipe that fine-tunes
    what ``main`` pretrains at a higher resolution, where the images have one. leaderboard: the recipe in which every
    method takes its turn, where ``main`` costs too much for so many. seeds: of every experiment; seeds_of: of one,
    where it has others. experiments: their names, None for all. part_of: the suite that this one is trained with.
    """

    title: str
    main: Recipe
    sweep: Recipe
    sizes: tuple[str, ...]
    lengths: tuple[int, ...]
    cnn: str = "resnet10"
    finer: Recipe | None = None
    leaderboard: Recipe | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    seeds_of: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    experiments: tuple[str, ...] | None = None
    part_of: str = ""


SUITES: dict[str, Suite] = {
    "smoke": Suite(
        title="single digits, untrained",
        main=smoke(),
        sweep=smoke(),
        sizes=("femto", "pico"),
        cnn="resnet8",
        lengths=(2, 3),
    ),
    "digits": Suite(
        title="digit pairs",
        main=digit_pairs(),
        sweep=digit_pairs_short(),
        sizes=("femto", "pico", "micro"),
        cnn="resnet8",
        lengths=(8, 15, 30),
        seeds_of=dict.fromkeys(("leaderboard", "rivals", "searched", "mdcs", "clustering"), (0, 1, 2, 3, 4))
        | dict.fromkeys(("loss_ablation", "controls"), tuple(range(10))),
    ),
    "photos": Suite(
        title="CIFAR-10-LT",
        main=photos(),
        sweep=photos_nano(),
        sizes=("pico", "nano", "mini"),
        lengths=(6, 12, 24),
        leaderboard=photos_nano(),
        seeds_of=dict.fromkeys(("loss_ablation", "controls", "recipes_lt_vs_balanced"), (0, 1, 2, 3, 4)),
        experiments=(
            "loss_ablation",
            "controls",
            "recipes_lt_vs_balanced",
            "networks",
            "equal_compute",
            "anatomy",
            "model_size",
        ),
    ),
    "photos_10": Suite(
        title="CIFAR-10-LT, factor 10",
        main=photos_nano(10),
        sweep=photos_nano(10),
        sizes=("pico", "nano", "mini"),
        lengths=(6, 12, 24),
        experiments=("loss_ablation", "controls"),
        part_of="photos",
    ),
    "photos_tiny": Suite(
        title="Tiny-ImageNet-LT, 32 px",
        main=photos_tiny(),
        sweep=photos_tiny("mini"),  # of the metadata, trained before the rest went to half the parameters
        sizes=("pico", "nano", "mini"),
        lengths=(6, 12, 24),
        finer=photos_tiny_64(),
        experiments=("loss_ablation", "controls", "resolution"),
        part_of="photos",
    ),
    "gpu": Suite(
        title="Tiny-ImageNet-LT, 64 px",
        main=tiny_imagenet_lt(),
        sweep=tiny_imagenet_lt_short(),
        sizes=("nano", "tiny", "small"),
        cnn="resnet32",
        lengths=(15, 30, 60),
    ),
    "paper": Suite(
        title="ImageNet-LT",
        main=imagenet_lt(),
        sweep=imagenet_lt(),
        sizes=("tiny", "small", "base", "large"),
        cnn="resnet50",
        finer=imagenet_lt(384),
        lengths=(25, 50, 100),
    ),
}
# The old word for a suite, and the one name that has changed with it.
RENAMED = {"profile": "suite", "cpu": "digits"}


def with_parts(name: str) -> list[str]:
    """Return the names of a suite and of those that are trained with it.

    >>> with_parts("digits")
    ['digits']
    """
    return [other for other, suite in SUITES.items() if name in (other, suite.part_of)]
