"""What a folder of images holds, by whichever layout it is read: two splits and the classes that both have.

Shapes: ``N`` images.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from livt.data.images import DataError, EncodedSplit, FileSplit, shards

Row = tuple[str, int, int]  # path within the folder, label, size in bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class Listing:
    """The images to train on and to evaluate on, and the names of the classes by label; each has images in both.

    digest: of the paths, labels and sizes of images in files; empty for Parquet, of which the images are digested.
    """

    train: FileSplit | EncodedSplit
    evaluation: FileSplit | EncodedSplit
    classes: Sequence[str]
    digest: str = ""


def check_labels(where: str, labels: NDArray[np.int64], classes: Sequence[str], remedy: str) -> None:
    """Raise DataError where a label is of no class, or a class has no image."""
    if len(labels) and (labels.min() < 0 or labels.max() >= len(classes)):
        found = f"found {labels.min()} to {labels.max()}"
        raise DataError(f"{where}: labels must lie in 0 to {len(classes) - 1}, {found}: {remedy}")
    missing = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
    if missing.size:
        first = named(int(missing[0]), classes)
        raise DataError(f"{where}: class {first} has no images ({missing.size} such in all): {remedy}")


def named(label: int, classes: Sequence[str]) -> str:
    """Return how to speak of a class: by its number, and by its name where it has one."""
    return str(label) if classes[label] == str(label) else f"{label} ({classes[label]})"


def numbered(where: str, labels: ArrayLike, remedy: str) -> list[str]:
    """Return the classes of training labels that are integers, named by them.

    Raises DataError where they do not count from 0 without a gap.
    """
    found = np.unique(np.asarray(labels))
    gap = np.flatnonzero(found != np.arange(len(found)))
    if gap.size:
        problem = f"{found[0]} is negative" if found[0] < 0 else f"{gap[0]} is missing, and there is {found[-1]}"
        raise DataError(f"{where}: labels that are integers count from 0 without a gap; {problem}: {remedy}")
    return [str(label) for label in found]


def files_split(folder: Path, rows: Sequence[Row], size: int, remedy: str, split: str = "") -> FileSplit:
    """Return a split of files, or, with a name of the split, of the shards of that name, if there are any."""
    paths = np.array([os.fsencode(row[0]) for row in rows])
    return FileSplit(
        folder=folder,
        paths=paths,
        sizes=np.array([row[2] for row in rows], dtype=np.int64),
        labels=torch.tensor([row[1] for row in rows], dtype=torch.int64),
        rows=_shard_rows(folder, split, paths, remedy) if split else None,
        size=size,
        remedy=remedy,
    )


def listing_of(
    folder: Path, train: Sequence[Row], evaluation: Sequence[Row], classes: Sequence[str], size: int, remedy: str
) -> Listing:
    """Return the listing of two splits' rows (path, label, bytes), its digest over all of them."""
    content = hashlib.sha256()
    for split, rows in (("train", train), ("evaluation", evaluation)):
        for path, label, length in rows:
            content.update(os.fsencode(f"{split},{path},{label},{length}\n"))
    splits = (files_split(folder, rows, size, remedy) for rows in (train, evaluation))
    return Listing(train=next(splits), evaluation=next(splits), classes=classes, digest=content.hexdigest())


def _shard_rows(folder: Path, split: str, paths: NDArray[np.bytes_], remedy: str) -> NDArray[np.int64] | None:
    """Return the row of each path in the split's shards; None where the folder has none."""
    _, groups = shards(folder, split)
    if not groups:
        return None
    stored = [f"{split}/{name}".encode() for group in groups for name in group.field("path").to_pylist()]
    row_of = {path: row for row, path in enumerate(stored)}
    try:
        return np.array([row_of[path] for path in paths])
    except KeyError as error:
        raise DataError(f"the shards of {folder} lack {error.args[0].decode()}: {remedy}") from None
