"""How well clusters are the classes, which labels alone can tell: they are used here and nowhere in training.

Shapes: ``N`` images, ``K`` clusters, as many as classes.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import normalized_mutual_info_score

from livt.longtail import GROUPS, shot_groups


def contingency(clusters: ArrayLike, labels: ArrayLike, size: int) -> NDArray[np.int64]:
    """Return the images of each cluster and class, [K, K], a row per cluster."""
    return np.bincount(np.asarray(clusters) * size + np.asarray(labels), minlength=size * size).reshape(size, size)


def match(table: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the class that each cluster stands for, [K]: one each, so that most images are right (Kuhn, 1955)."""
    return linear_sum_assignment(table, maximize=True)[1].astype(np.int64)


def cluster_scores(clusters: ArrayLike, labels: ArrayLike, class_counts: ArrayLike) -> dict[str, Any]:
    """Return the scores of clusters [N] against labels [N], all in percent; class_counts [K] are those of the labels.

    All but ``nmi`` are under the matching of :func:`match`. ``accuracy`` is the mean over classes, ``image_accuracy``
    that over images; many, medium and few are means over the classes of a group, None where there is none. ``nmi``: by
    the arithmetic mean of the entropies; ``f1``: the mean over classes. ``survivors``: of the small classes, those with
    fewer images than the mean, how many have a cluster of their own: it holds most of the class and little else, both
    more than half; None where all have equally many. ``sizes`` are the clusters', ``matching`` is their class.
    """
    counts = np.asarray(class_counts)
    size = len(counts)
    table = contingency(clusters, labels, size)
    matching, sizes = match(table), table.sum(1)
    right, held = np.zeros(size), np.zeros(size)  # by class: images in its cluster, and all images of that cluster
    right[matching], held[matching] = table[np.arange(size), matching], sizes
    recall, precision = right / counts, right / np.maximum(held, 1)
    small, groups = counts < counts.mean(), shot_groups(counts)
    own = (recall > 0.5) & (precision > 0.5)
    nmi = normalized_mutual_info_score(labels, clusters)
    return {
        "accuracy": 100 * float(recall.mean()),
        "image_accuracy": 100 * float(right.sum() / counts.sum()),
        **{group: 100 * float(recall[groups == group].mean()) if (groups == group).any() else None for group in GROUPS},
        "nmi": 100 * min(max(float(nmi), 0.0), 1.0),
        "f1": 100 * float((2 * right / (counts + held)).mean()),
        "survivors": 100 * float(own[small].mean()) if small.any() else None,
        "per_class": (100 * recall).tolist(),
        "sizes": sizes.tolist(),
        "matching": matching.tolist(),
    }
