"""Which images of a pool train, and which are set apart from it to validate on.

Shapes: ``N`` images, ``C`` classes.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from livt.config import DataConfig
from livt.data.images import DataError
from livt.data.listing import named
from livt.longtail import exponential_counts, subset_indices

Profile = Callable[[DataConfig, NDArray[np.int64]], NDArray[np.int64]]


def profile_counts(config: DataConfig, available: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many training images of each class to use, int [C]; ``available`` are those at hand.

    Without an imbalance factor: all of them. ``balanced`` takes the same total, spread evenly.
    """
    if config.max_count is None or config.imbalance_factor is None:
        counts = available
    else:
        counts = exponential_counts(config.max_count, config.imbalance_factor, len(available))
    return np.full_like(counts, counts.sum() // len(counts)) if config.balanced else counts


def set_apart(
    labels: NDArray[np.int64], classes: Sequence[str], config: DataConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which of ``labels`` [N] are the pool to train on, and which validate: the last of each class.

    The last, not random ones: images that follow each other are often alike, and must not be parted. Raises DataError
    where that would leave a class without a training image.
    """
    wanted = config.validation_images
    counts = np.bincount(labels, minlength=len(classes))
    c = int(counts.argmin())
    if counts[c] <= wanted:
        remedy = f"data.validation_images may be {counts[c] - 1} at most" if counts[c] > 1 else "add images of it"
        raise DataError(
            f"{config.name}: class {named(c, classes)} has {counts[c]} training images, too few to set {wanted} apart "
            f"for validation: {remedy}"
        )
    members = np.split(labels.argsort(kind="stable"), counts.cumsum()[:-1])
    return np.concatenate([m[:-wanted] for m in members]), np.concatenate([m[-wanted:] for m in members])


def draw(
    labels: NDArray[np.int64],
    classes: Sequence[str],
    config: DataConfig,
    generator: np.random.Generator,
    profile: Profile = profile_counts,
) -> NDArray[np.int64]:
    """Draw the training images from a pool, as sorted indices into its ``labels`` [N].

    Raises DataError where a class has fewer images than the profile asks for, naming what would fit.
    """
    available = np.bincount(labels, minlength=len(classes))
    counts = profile(config, available)
    if (counts > available).any():
        c = int((counts > available).argmax())
        apart = " besides those for validation" if config.evaluation == "validation" else ""
        raise DataError(
            f"{config.name}: class {named(c, classes)} has {available[c]} images{apart}, but {counts[c]} were asked "
            f"for; {_remedy(config, available, profile)}"
        )
    return subset_indices(labels, counts, np.random.default_rng(config.draw) if config.draw else generator)


def _remedy(config: DataConfig, available: NDArray[np.int64], profile: Profile) -> str:
    """Say which profile, the nearest to the one of a configuration, the images suffice for."""
    even = f"set data.max_count to {available.min()} and data.imbalance_factor to 1"
    if config.max_count is None or config.imbalance_factor is None:
        return even

    def too_large(count: int) -> bool:
        return bool((profile(replace(config, max_count=count), available) > available).any())

    counts = range(ceil(config.imbalance_factor), config.max_count)
    fitting = bisect_left(counts, True, key=too_large)
    return f"lower data.max_count to {counts[fitting - 1]}" if fitting else even
