"""Metrics of a long-tailed classifier, as the official LiVT code defines them.

Shapes: ``N`` images, ``C`` classes. All values are percent.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from livt.longtail import GROUPS, check_class_counts, shot_groups


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Percentages; ``per_class`` is [C]. A group, or a class, without test images is ``nan``, never 0."""

    accuracy: float
    many: float
    medium: float
    few: float
    ece: float
    mce: float
    per_class: NDArray[np.float64]


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return float64 softmax probabilities over the last axis."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def confidences(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the largest softmax probability of each row of logits [N, C], [N], some rows at a time."""
    largest = logits.max(1, keepdims=True)
    parts = (slice(start, start + 1000) for start in range(0, len(logits), 1000))
    return np.concatenate([1 / np.exp(logits[part].astype(np.float64) - largest[part]).sum(1) for part in parts])


def reliability(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = 15
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Bin confidences into equal-width bins (lo, hi] and return, per bin: size, accuracy, mean confidence.

    confidence, correct: [N], fractions and booleans. Each result is [bins]; an empty bin is ``nan``.
    The binning is that of Guo et al., ICML 2017.
    """
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    size = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        accuracy = np.bincount(index, weights=correct, minlength=bins) / size
        mean_confidence = np.bincount(index, weights=confidence, minlength=bins) / size
    return size, accuracy, mean_confidence


def evaluate_logits(logits: ArrayLike, labels: ArrayLike, class_counts: ArrayLike, bins: int = 15) -> Metrics:
    """Evaluate raw logits [N, C] against labels [N]; ``class_counts`` [C] are those of the training set.

    ``accuracy`` is over images; many / medium / few are means of per-class accuracies over the group; ECE and MCE
    are over ``bins`` bins of the largest softmax probability, whatever loss trained the model. MCE is the largest
    gap over non-empty bins, however small the bin.

    Raises ValueError for shapes that disagree, labels outside 0 to C - 1, and logits that are not finite.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(f"expected logits [N, C] and labels [N], N >= 1, got {logits.shape} and {labels.shape}")
    classes = logits.shape[1]
    counts = check_class_counts(class_counts, classes)
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must lie in 0 to {classes - 1}, found {labels.min()} to {labels.max()}")
    if not np.isfinite(logits).all():
        raise ValueError("logits are not finite")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")

    correct = logits.argmax(1) == labels
    with np.errstate(invalid="ignore"):
        hits = np.bincount(labels, weights=correct, minlength=classes)
        per_class = 100 * hits / np.bincount(labels, minlength=classes)
    groups = shot_groups(counts)
    by_group = {g: per_class[(groups == g) & ~np.isnan(per_class)] for g in GROUPS}

    size, accuracy, confidence = reliability(confidences(logits), correct, bins)
    gap = 100 * np.abs(accuracy - confidence)[size > 0]
    return Metrics(
        accuracy=100 * float(correct.mean()),
        ece=float(gap @ size[size > 0] / len(labels)),
        mce=float(gap.max()),
        per_class=per_class,
        **{g: float(values.mean()) if values.size else float("nan") for g, values in by_group.items()},
    )
