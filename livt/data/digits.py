"""The data sets that come with scikit-learn: 1,797 scans of handwritten digits, single ones and pairs.

No scan of the training split is in the test or validation images. Shapes: ``N`` images.
"""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from livt.config import DataConfig
from livt.data.draw import draw, profile_counts
from livt.data.images import DataError, Split

# Per digit: scans set apart for the test split, then for validation; the rest train.
TEST_SCANS, VALIDATION_SCANS = 40, 20
PAIRS_PER_CLASS = 20  # evaluation pairs of each class


@lru_cache(maxsize=1)
def _scans() -> tuple[Tensor, NDArray[np.int64]]:
    """Return the 1,797 scans as uint8 [N, 8, 8] and their digits [N] (Alpaydin & Kaynak, 1998)."""
    from sklearn.datasets import load_digits  # slow to import; only the embedded sets need it

    bunch = load_digits()
    return torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8)), bunch.target


def _scan_groups(generator: np.random.Generator) -> list[list[NDArray[np.int64]]]:
    """Return, for each digit, the indices of its test, validation and training scans; no scan is in two groups."""
    labels = _scans()[1]
    cuts = [TEST_SCANS, TEST_SCANS + VALIDATION_SCANS]
    members = (np.flatnonzero(labels == digit) for digit in range(10))
    return [np.split(m[generator.random(m.size).argsort()], cuts) for m in members]


def _rgb(images: Tensor, labels: NDArray) -> Split:
    return Split(images=images.unsqueeze(1).expand(-1, 3, -1, -1).contiguous(), labels=torch.from_numpy(labels))


def digits(config: DataConfig, generator: np.random.Generator) -> tuple[Split, Split]:
    """Return the scans to train on and to evaluate on."""
    scans, labels = _scans()
    test, validation, train = (np.concatenate(part) for part in zip(*_scan_groups(generator), strict=True))
    train = train[draw(labels[train], [str(digit) for digit in range(10)], config, generator)]
    held_out = validation if config.evaluation == "validation" else test
    return _rgb(scans[train], labels[train]), _rgb(scans[held_out], labels[held_out])


def digit_pairs(config: DataConfig, generator: np.random.Generator) -> tuple[Split, Split]:
    """Return pairs to train on and to evaluate on: two scans side by side, of class 10 * left + right.

    The scans are real, the composition is ours. The classes take their rank in the long tail in a shuffled order, so
    that no digit is rare in itself.
    """
    if config.max_count is None:
        raise DataError("digit_pairs are composed on demand: set data.max_count and data.imbalance_factor")
    groups = _scan_groups(generator)
    rank = generator.random(100).argsort()
    counts = profile_counts(config, np.zeros(100, dtype=np.int64))[rank]
    drawn = np.random.default_rng(config.draw) if config.draw else generator
    train = _compose([g[2] for g in groups], counts, drawn, config)
    held_out = [g[1 if config.evaluation == "validation" else 0] for g in groups]
    return train, _compose(held_out, np.full(100, PAIRS_PER_CLASS), generator, config)


def _compose(
    scans: list[NDArray], counts: NDArray[np.int64], generator: np.random.Generator, config: DataConfig
) -> Split:
    """Draw ``counts[c]`` distinct pairs of scans for each two-digit class c."""
    images, labels = [], np.repeat(np.arange(100), counts)
    for c, count in enumerate(counts):
        left, right = scans[c // 10], scans[c % 10]
        pairs = len(left) * len(right)
        if count > pairs:
            raise DataError(f"{config.name}: class {c} has {pairs} pairs, but data.max_count asks for {count}")
        first, second = np.divmod(generator.random(pairs).argsort()[:count], len(right))
        images.append(torch.cat((_scans()[0][left[first]], _scans()[0][right[second]]), dim=2))
    return _rgb(torch.cat(images), labels)
