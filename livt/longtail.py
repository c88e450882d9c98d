"""Imbalance: class counts, priors, shot groups, and long-tailed subsets.

Shapes: ``N`` images, ``C`` classes. ``class_counts`` is always the number of training images of each class.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

GROUPS = ("many", "medium", "few")


def check_class_counts(class_counts: ArrayLike, num_classes: int | None = None) -> NDArray[np.float64]:
    """Return class counts as float64 [C], or say what is wrong with them.

    Raises ValueError for counts that are empty, not one-dimensional, negative, not finite, or zero, and for a
    length other than ``num_classes``.
    """
    try:
        counts = np.asarray(class_counts, dtype=np.float64).copy()
    except (TypeError, ValueError) as error:
        raise ValueError(f"class_counts must be numbers: {error}") from None
    if counts.ndim != 1:
        raise ValueError(f"class_counts must be one-dimensional, one count per class, not of shape {counts.shape}")
    if counts.size == 0:
        raise ValueError("class_counts is empty: give one count per class")
    if num_classes is not None and counts.size != num_classes:
        raise ValueError(f"class_counts has length {counts.size}, expected {num_classes}, one count per class")
    for problem, bad in (
        ("not finite", ~np.isfinite(counts)),
        ("negative", counts < 0),
        ("zero: a class without training images has no prior", counts == 0),
    ):
        if bad.any():
            c = int(np.argmax(bad))
            raise ValueError(f"class_counts[{c}] = {counts[c]:g} is {problem}")
    return counts


def class_priors(class_counts: ArrayLike) -> NDArray[np.float64]:
    """Return the training priors pi = n_c / N, float64 [C]."""
    counts = check_class_counts(class_counts)
    return counts / counts.sum()


def exponential_counts(max_count: int, imbalance_factor: float, num_classes: int) -> NDArray[np.int64]:
    """Return the exponential long-tail profile, int [C], largest class first.

    n_c = int(max_count * (1 / imbalance_factor) ** (c / (C - 1))), as for CIFAR-LT (Cui et al., CVPR 2019).

    >>> exponential_counts(100, 10, 5).tolist()
    [100, 56, 31, 17, 10]
    """
    if num_classes < 1 or max_count < 1:
        raise ValueError(f"max_count ({max_count}) and num_classes ({num_classes}) must be at least 1")
    if not 1 <= imbalance_factor <= max_count:
        raise ValueError(
            f"imbalance_factor {imbalance_factor:g} must lie between 1 and max_count ({max_count}): "
            "the smallest class needs an image"
        )
    position = np.arange(num_classes) / max(num_classes - 1, 1)
    # The tiny addend keeps exact products such as 100 * 0.1 from being truncated to the integer below.
    return (max_count * (1 / imbalance_factor) ** position + 1e-9).astype(np.int64)


def shot_groups(class_counts: ArrayLike) -> NDArray[np.str_]:
    """Return each class's group, [C]: ``many`` (> 100 training images), ``medium`` (20 to 100), ``few`` (< 20).

    >>> shot_groups([101, 100, 20, 19]).tolist()
    ['many', 'medium', 'medium', 'few']
    """
    counts = check_class_counts(class_counts)
    return np.where(counts > 100, "many", np.where(counts >= 20, "medium", "few"))


def sampling_shares(sampling: str, class_counts: ArrayLike) -> NDArray[np.float64]:
    """Return the share of each class, float64 [C], among images drawn by "image", "square_root" or "class".

    That is in proportion to n_c, to its root, or the same for all (Kang et al., ICLR 2020, Eq. 1).

    >>> sampling_shares("square_root", [9, 1]).tolist()
    [0.75, 0.25]
    """
    counts = check_class_counts(class_counts) ** {"image": 1.0, "square_root": 0.5, "class": 0.0}[sampling]
    return counts / counts.sum()


def imbalance_factor(class_counts: ArrayLike) -> float:
    """Return the largest class count over the smallest.

    >>> imbalance_factor([500, 50, 5])
    100.0
    """
    counts = check_class_counts(class_counts)
    return float(counts.max() / counts.min())


def gini(class_counts: ArrayLike) -> float:
    """Return the Gini coefficient of the class counts: 0 when balanced, towards 1 when one class holds all.

    >>> gini([7, 7, 7])
    0.0
    """
    counts = np.sort(check_class_counts(class_counts))
    rank = np.arange(1, counts.size + 1)
    return float((2 * rank - counts.size - 1) @ counts / (counts.size * counts.sum()))


def subset_indices(
    labels: ArrayLike, class_counts: Sequence[int] | NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draw ``class_counts[c]`` images of each class without replacement.

    labels: [N] class indices. Returns sorted indices into ``labels``. Raises ValueError naming the class that has
    fewer images than asked for.
    """
    labels = np.asarray(labels)
    wanted = check_class_counts(class_counts).astype(np.int64)
    chosen = []
    for c, count in enumerate(wanted):
        members = np.flatnonzero(labels == c)
        if members.size < count:
            raise ValueError(f"class {c} has {members.size} images, but {count} were asked for")
        chosen.append(members[generator.random(members.size).argsort()[:count]])
    return np.sort(np.concatenate(chosen))
