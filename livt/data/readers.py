"""Reads data sets from disk: Parquet files, and folders that ``data_prep`` has made.

Shapes: ``N`` images, ``C`` classes.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.functional import pil_to_tensor

from livt.config import DATASETS, DataConfig
from livt.data.images import DataError, FileSplit, Split, decode, shards


def read_folder(folder: Path, num_classes: int, size: int, script: str) -> tuple[FileSplit, FileSplit, str]:
    """Return the training and evaluation images of a prepared folder, and the digest of its list of files.

    Raises DataError naming ``script``, which makes the folder, where it is absent, damaged, or not of ``num_classes``
    classes with images in both splits.
    """
    remedy = f"prepare it with {script}"
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        listing = (folder / "files.csv").read_bytes()
        digest, classes = str(manifest["digest"]), len(manifest["classes"])
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} is missing: {remedy}, or set LIVT_DATA to the folder above it") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{folder / 'manifest.json'} cannot be used ({error}): {remedy}") from None
    if hashlib.sha256(listing).hexdigest() != digest:
        raise DataError(f"{folder / 'files.csv'} is not the one that manifest.json names: {remedy} again")
    if classes != num_classes:
        raise DataError(f"{folder} has {classes} classes, not {num_classes}: {remedy}")
    rows = [line.rsplit(",", 2) for line in listing.decode().splitlines()[1:]]
    splits = []
    for split in ("train", "val"):
        members = [row for row in rows if row[0].startswith(f"{split}/")]
        labels = torch.tensor([int(row[1]) for row in members], dtype=torch.int64)
        counts = torch.bincount(labels, minlength=num_classes)
        if len(counts) != num_classes or (counts == 0).any():
            empty = (counts == 0).nonzero().flatten().tolist()
            problem = f"class {empty[0]} has no image" if empty else f"label {len(counts) - 1} is no class"
            raise DataError(f"{folder / 'files.csv'}: {problem} in {split}: {remedy} again")
        paths = np.array([row[0].encode() for row in members])
        splits.append(
            FileSplit(
                folder=folder,
                paths=paths,
                sizes=np.array([int(row[2]) for row in members]),
                labels=labels,
                rows=_rows(folder, split, paths, remedy),
                size=size,
            )
        )
    return splits[0], splits[1], digest


def _rows(folder: Path, split: str, paths: NDArray[np.bytes_], remedy: str) -> NDArray[np.int64] | None:
    """Return the row of each path in the split's shards; None where the folder is a tree."""
    _, groups = shards(folder, split)
    if not groups:
        return None
    stored = [f"{split}/{name}".encode() for group in groups for name in group.field("path").to_pylist()]
    row_of = {path: row for row, path in enumerate(stored)}
    try:
        return np.array([row_of[path] for path in paths])
    except KeyError as error:
        raise DataError(f"the shards of {folder} lack {error.args[0].decode()}: {remedy} again") from None


TRAIN_FILES, TEST_FILES = ("train.parquet", "train_pool.parquet"), ("test.parquet", "val.parquet")


# Which script makes the folder of a large set.
SCRIPTS = {
    "imagenet_lt": "data_prep/imagenet_lt.py",
    "imagenet_bal": "data_prep/imagenet_lt.py --balanced",
    "inat18": "data_prep/inat18.py",
    "places_lt": "data_prep/places_lt.py",
}


def data_folder() -> Path:
    """Return ``$LIVT_DATA``, else ``data``."""
    return Path(os.environ.get("LIVT_DATA") or "data")


def find_file(name: str, candidates: tuple[str, ...]) -> Path:
    folder = data_folder() / name
    for candidate in candidates:
        if (folder / candidate).is_file():
            return folder / candidate
    raise DataError(
        f"{folder} holds neither {' nor '.join(candidates)}: put the data set {name!r} there, or set LIVT_DATA to the "
        "folder that holds it (data_prep/README.md shows the layout); digits and digit_pairs need no folder"
    )


def read_parquet(path: Path, num_classes: int) -> tuple[list[dict], NDArray[np.int64]]:
    """Return the encoded images and labels [N] of a file, every class present."""
    import pyarrow  # only the data folder needs it
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, columns=["image", "label"])
        if not pyarrow.types.is_integer(table["label"].type):
            raise ValueError(f"label is {table['label'].type}, not an integer")
        encoded, labels = table["image"].to_pylist(), table["label"].to_numpy().astype(np.int64)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        reason = f"not a Parquet file with columns image and label ({str(error).splitlines()[0]})"
        raise DataError(f"{path} is {reason}: fetch it anew") from None
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        found = f"found {labels.min()} to {labels.max()}"
        raise DataError(f"{path}: labels must lie in 0 to {num_classes - 1}, {found}: fetch it anew")
    missing = np.flatnonzero(np.bincount(labels, minlength=num_classes) == 0)
    if missing.size:
        raise DataError(f"{path}: class {missing[0]} has no images ({missing.size} such in all): fetch it anew")
    return encoded, labels


def imagenet_lt_counts(path: Path) -> NDArray[np.int64]:
    """Return ImageNet-LT's own training counts for the classes of Tiny-ImageNet, int [200]."""
    import pandas as pd

    try:
        table = pd.read_csv(path).sort_values("label")
        if table["label"].tolist() != list(range(DATASETS["tiny_imagenet"][0])):
            raise ValueError("label is not 0 to 199")
        return table["imagenet_lt_n_train"].to_numpy(np.int64)
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path} does not give label and imagenet_lt_n_train ({error}): fetch it anew, or set data.max_count and "
            "data.imbalance_factor"
        ) from None


def decode_all(encoded: list[dict], labels: NDArray, indices: NDArray, config: DataConfig, path: Path) -> Split:
    _, height, width = DATASETS[config.name]
    images = torch.empty(len(indices), 3, height, width, dtype=torch.uint8)

    def fill(row: int) -> None:
        i = indices[row]
        found = encoded[i] if isinstance(encoded[i], dict) else {}
        name = f"{path}, row {i}" + (f" ({found['path']})" if found.get("path") else "")
        image = decode(found.get("bytes") or b"", name, "fetch the file anew")
        if image.size != (width, height):
            size = f"{image.size[0]} x {image.size[1]} pixels"
            raise DataError(f"{name} is {size}, expected {width} x {height}: fetch the file anew")
        images[row] = pil_to_tensor(image)

    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding the interpreter's lock
        for _ in pool.map(fill, range(len(indices))):
            pass
    return Split(images=images, labels=torch.from_numpy(labels[indices]))
