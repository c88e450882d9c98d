"""Reads the folder of a data set: which images it holds, of which classes.

Four layouts give the same :class:`~livt.data.listing.Listing`; ``livt.data.folders`` reads the last two:

- ``train.parquet`` and ``test.parquet`` (else ``val.parquet``), in the Hugging Face image layout: ``image`` = bytes and
  path, ``label`` = an integer;
- what ``data_prep`` has made: ``manifest.json`` and ``files.csv``, with a tree or Arrow shards;
- ``train.csv`` and ``test.csv`` (else ``val.csv``): columns ``path``, within the folder, and ``label``, an integer from
  0 or the name of a class;
- a tree ``train/CLASS/FILE`` and ``test/CLASS/FILE`` (else ``val/CLASS/FILE``).

Shapes: ``N`` images.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from livt.config import DATASETS, FILE_DATASETS, DataConfig
from livt.data.folders import read_lists, read_tree
from livt.data.images import DataError, EncodedSplit
from livt.data.listing import Listing, check_labels, files_split, numbered

TRAIN_FILES, TEST_FILES = ("train.parquet", "train_pool.parquet"), ("test.parquet", "val.parquet")
# Which script makes the folder of a large set.
SCRIPTS = {
    "imagenet_lt": "data_prep/imagenet_lt.py",
    "imagenet_bal": "data_prep/imagenet_lt.py --balanced",
    "inat18": "data_prep/inat18.py",
    "places_lt": "data_prep/places_lt.py",
}
LAYOUTS = (
    "train/CLASS/FILE and test/CLASS/FILE, train.csv and test.csv (columns path and label), or train.parquet and "
    "test.parquet, with val for test if you like (data_prep/README.md, Your own images)"
)


def data_folder() -> Path:
    """Return ``$LIVT_DATA``, else ``data``."""
    return Path(os.environ.get("LIVT_DATA") or "data")


def read(config: DataConfig) -> Listing:
    """Return what the folder of a data set holds. Raises DataError naming the file and the remedy."""
    folder = folder_of(config)
    if config.name in DATASETS:
        return _parquet(folder, config)
    if config.name in FILE_DATASETS:
        return _prepared(folder, config, f"prepare it with {SCRIPTS[config.name]}")
    if not folder.is_dir():
        raise DataError(
            f"there is no folder {folder.absolute()}: data.name is a folder below {data_folder()} (set LIVT_DATA for "
            f"another), a path such as ./{config.name}, or one of {', '.join((*DATASETS, *FILE_DATASETS))}"
        )
    if any((folder / name).is_file() for name in TRAIN_FILES):
        return _parquet(folder, config)
    if (folder / "manifest.json").is_file():
        return _prepared(folder, config, "prepare it")
    if (folder / "train.csv").is_file():
        return read_lists(folder, config.size[0])
    if (folder / "train").is_dir():
        return read_tree(folder, config.size[0])
    raise DataError(f"{folder.absolute()} holds no data set: put there {LAYOUTS}")


def folder_of(config: DataConfig) -> Path:
    """Return the folder that a data set is read from."""
    return Path(os.path.expanduser(config.name)) if config.is_path else data_folder() / config.name


# ---------------------------------------------------------------- Parquet files


def _parquet(folder: Path, config: DataConfig) -> Listing:
    known = config.name in DATASETS
    fetch = "fetch" if known else "write"
    paths = [_find(folder, config.name, names, known) for names in (TRAIN_FILES, TEST_FILES)]
    tables = [_read_parquet(path, f"{fetch} it anew") for path in paths]
    labels = tables[0][0]
    if known:
        classes = [str(label) for label in range(config.num_classes)]
    else:
        classes = tables[0][1] or numbered(str(paths[0]), labels, f"{fetch} it anew")
        if tables[1][1] not in (tables[0][1], []):
            raise DataError(f"{paths[1]} names other classes than {paths[0].name}: write it anew with the same names")
    splits = []
    for path, (labels, _) in zip(paths, tables, strict=True):
        check_labels(str(path), labels, classes, f"{fetch} it anew")
        size = DATASETS[config.name][1:] if known else config.size
        splits.append(
            EncodedSplit(
                path=path,
                encoded=partial(_encoded, path, f"{fetch} it anew"),
                labels=torch.from_numpy(labels),
                size=size,
                fit=not known,
                remedy=f"{fetch} the file anew",
            )
        )
    return Listing(train=splits[0], evaluation=splits[1], classes=classes)


def _find(folder: Path, name: str, candidates: tuple[str, ...], known: bool) -> Path:
    for candidate in candidates:
        if (folder / candidate).is_file():
            return folder / candidate
    missing = f"{folder} holds neither {' nor '.join(candidates)}"
    if not known:
        raise DataError(f"{missing}: put the images to evaluate on there")
    raise DataError(
        f"{missing}: put the data set {name!r} there, or set LIVT_DATA to the folder that holds it "
        "(data_prep/README.md shows the layout); digits and digit_pairs need no folder"
    )


def _read_parquet(path: Path, remedy: str) -> tuple[NDArray[np.int64], list[str]]:
    """Return the labels [N], and names of the classes, if the file has them; no image is read."""
    import pyarrow  # only the data folder needs it
    from pyarrow import parquet

    with _readable(path, remedy):
        schema = parquet.read_schema(path)
        schema.field("image")
        table = parquet.read_table(path, columns=["label"])
        if not pyarrow.types.is_integer(table["label"].type):
            raise ValueError(f"label is {table['label'].type}, not an integer")
        labels = table["label"].to_numpy().astype(np.int64)
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = features.get("info", {}).get("features", {}).get("label", {}).get("names", [])
        names = [str(name) for name in names]
    if not len(labels):
        raise DataError(f"{path} holds no images: {remedy}")
    return labels, names


def _encoded(path: Path, remedy: str) -> list[Any]:
    """Return the encoded images of a Parquet file."""
    from pyarrow import parquet

    with _readable(path, remedy):
        return parquet.read_table(path, columns=["image"])["image"].to_pylist()


@contextmanager
def _readable(path: Path, remedy: str) -> Iterator[None]:
    """Say of any error while a Parquet file is read that it is not one as it should be."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"not a Parquet file with columns image and label ({str(error).splitlines()[0]})"
        raise DataError(f"{path} is {reason}: {remedy}") from None


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


# ---------------------------------------------------------------- what data_prep has made


def _prepared(folder: Path, config: DataConfig, remedy: str) -> Listing:
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        listing = (folder / "files.csv").read_bytes()
        digest, classes = str(manifest["digest"]), [str(name) for name in manifest["classes"]]
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} is missing: {remedy}, or set LIVT_DATA to the folder above it") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / 'manifest.json'} cannot be used ({error}): {remedy}") from None
    if hashlib.sha256(listing).hexdigest() != digest:
        raise DataError(f"{folder / 'files.csv'} is not the one that manifest.json names: {remedy} again")
    if config.name in FILE_DATASETS and len(classes) != config.num_classes:
        raise DataError(f"{folder} has {len(classes)} classes, not {config.num_classes}: {remedy}")
    rows = [line.rsplit(",", 2) for line in listing.decode().splitlines()[1:]]
    splits = []
    for split in ("train", "val"):
        members = [(path, int(label), int(size)) for path, label, size in rows if path.startswith(f"{split}/")]
        labels = np.array([label for _, label, _ in members], dtype=np.int64)
        check_labels(f"{folder / 'files.csv'}, {split}", labels, classes, f"{remedy} again")
        splits.append(files_split(folder, members, config.size[0], f"{remedy} again, with --verify", split))
    return Listing(train=splits[0], evaluation=splits[1], classes=classes, digest=digest)
