"""Data sets by name.

Small sets are uint8 tensors in memory, [N, 3, H, W]; large ones stay in files. Both become normalized floats a batch at
a time (``livt.batches``). ``digits`` and ``digit_pairs`` come with scikit-learn; the others are read from the data
folder: ``$LIVT_DATA``, else ``data/``, as ``<name>/{train,test}.parquet`` in the Hugging Face image layout (``image`` =
bytes and path, ``label``), or as a folder of files (``livt.images``).

Shapes: ``N`` images, ``C`` classes.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor

from livt import distributed
from livt.augment import Augment
from livt.config import DATASETS, DataConfig, Recipe
from livt.images import DataError, FileSplit, Split, decode, read_folder
from livt.longtail import exponential_counts, subset_indices

# Per digit: scans set apart for the test split, then for validation; the rest train.
TEST_SCANS, VALIDATION_SCANS = 40, 20
PAIRS_PER_CLASS = 20  # evaluation pairs of each class
VALIDATION_IMAGES = 20  # per class, of the Parquet data sets
TRAIN_FILES, TEST_FILES = ("train.parquet", "train_pool.parquet"), ("test.parquet", "val.parquet")


# Which script makes the folder of a large set.
SCRIPTS = {
    "imagenet_lt": "data_prep/imagenet_lt.py",
    "imagenet_bal": "data_prep/imagenet_lt.py --balanced",
    "inat18": "data_prep/inat18.py",
    "places_lt": "data_prep/places_lt.py",
}


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A training split and an evaluation split (the test split, or validation images set apart from training).

    class_counts: int [C] of the training split. mean, std: of its channels, in [0, 1] (large sets: those of ImageNet,
    as the official code has them). digest: of all images and labels (large sets: of all paths, sizes and labels),
    16 hexadecimal digits.
    """

    train: Split | FileSplit
    evaluation: Split | FileSplit
    class_counts: NDArray[np.int64]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str

    @property
    def num_classes(self) -> int:
        return len(self.class_counts)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of full batches in an epoch. Raises ValueError where there is none."""
        if batch_size > len(self.train.labels):
            raise ValueError(f"batch_size {batch_size} exceeds the {len(self.train.labels)} training images")
        return len(self.train.labels) // batch_size


@lru_cache(maxsize=4)
def load_dataset(config: DataConfig) -> Dataset:
    """Return the data set of a configuration; the same configuration always gives the same images.

    Raises DataError where the data folder, a class, or an image cannot be used.
    """
    # One fixed seed: which images train and which evaluate is a property of the data set, not of a run.
    generator = np.random.default_rng(0)
    if config.in_files:
        return _file_dataset(config, generator)
    if config.name == "digits":
        train, evaluation = _digits(config, generator)
    elif config.name == "digit_pairs":
        train, evaluation = _digit_pairs(config, generator)
    else:
        train, evaluation = _parquet(config, generator)
    if config.image_size is not None:
        train, evaluation = (_resized(split, config.size) for split in (train, evaluation))
    mean, std = _channel_statistics(train.images)
    content = hashlib.sha256()
    for tensor in (train.images, train.labels, evaluation.images, evaluation.labels):
        content.update(str(tuple(tensor.shape)).encode())
        content.update(tensor.numpy().tobytes())
    return Dataset(
        train=train,
        evaluation=evaluation,
        class_counts=np.bincount(train.labels.numpy(), minlength=config.num_classes),
        mean=mean,
        std=std,
        digest=content.hexdigest()[:16],
    )


def check_fit(recipe: Recipe) -> None:
    """Raise ValueError where a stage of the recipe cannot train on its data, or on so many processes.

    It is called before either stage begins.
    """
    for name, stage, config in (
        ("pretrain", recipe.pretrain, recipe.pretrain_data),
        ("finetune", recipe.finetune, recipe.data),
    ):
        if stage is None:
            continue
        data = load_dataset(config)
        data.steps_per_epoch(stage.batch_size)
        Augment(stage.augment, data.mean, data.std)
        if config.in_files and (stage.augment.crop_min_scale is None or stage.augment.shift):
            raise ValueError(
                f"{name}.augment: the images of {config.name} differ in size, so crop_min_scale must be set, and shift "
                "be 0"
            )
        if stage.accumulation_steps % distributed.size():
            raise ValueError(
                f"{distributed.size()} processes cannot share a batch of {stage.accumulation_steps} parts evenly: set "
                f"{name}.accumulation_steps to a multiple of {distributed.size()}"
            )


def _channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, in [0, 1], from exact counts of the 256 values."""
    values = np.arange(256) / 255
    means, deviations = [], []
    for channel in images.numpy().transpose(1, 0, 2, 3):
        share = np.bincount(channel.ravel(), minlength=256) / channel.size
        mean = share @ values
        means.append(float(mean))
        deviations.append(max(float(np.sqrt(share @ (values - mean) ** 2)), 1e-6))
    return tuple(means), tuple(deviations)


def profile_counts(config: DataConfig, available: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many training images of each class to use, int [C]; ``available`` are those at hand.

    Without an imbalance factor: all of them. ``balanced`` takes the same total, spread evenly.
    """
    if config.max_count is None or config.imbalance_factor is None:
        counts = available
    else:
        counts = exponential_counts(config.max_count, config.imbalance_factor, config.num_classes)
    return np.full_like(counts, counts.sum() // len(counts)) if config.balanced else counts


# ---------------------------------------------------------------- embedded: scans of handwritten digits


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


def _digits(config: DataConfig, generator: np.random.Generator) -> tuple[Split, Split]:
    scans, labels = _scans()
    test, validation, train = (np.concatenate(part) for part in zip(*_scan_groups(generator), strict=True))
    counts = profile_counts(config, np.bincount(labels[train], minlength=10))
    train = train[_subset(labels[train], counts, generator, config)]
    held_out = validation if config.evaluation == "validation" else test
    return _rgb(scans[train], labels[train]), _rgb(scans[held_out], labels[held_out])


def _digit_pairs(config: DataConfig, generator: np.random.Generator) -> tuple[Split, Split]:
    """Two scans side by side; class 10 * left + right. The scans are real, the composition is ours.

    The classes take their rank in the long tail in a shuffled order, so that no digit is rare in itself.
    """
    if config.max_count is None:
        raise DataError("digit_pairs are composed on demand: set data.max_count and data.imbalance_factor")
    groups = _scan_groups(generator)
    rank = generator.random(100).argsort()
    counts = profile_counts(config, np.zeros(100, dtype=np.int64))[rank]
    train = _compose([g[2] for g in groups], counts, generator, config)
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


# ---------------------------------------------------------------- folders of files


def _file_dataset(config: DataConfig, generator: np.random.Generator) -> Dataset:
    if config.evaluation == "validation":
        raise DataError(f"{config.name} is prepared without validation images: data.evaluation must be 'test'")
    assert config.image_size is not None
    folder = data_folder() / config.name
    train, evaluation, listed = read_folder(folder, config.num_classes, config.image_size, SCRIPTS[config.name])
    labels = train.labels.numpy()
    counts = profile_counts(config, np.bincount(labels, minlength=config.num_classes))
    indices = _subset(labels, counts, generator, config)
    content = hashlib.sha256(listed.encode() + indices.tobytes()).hexdigest()
    return Dataset(
        train=train.subset(indices),
        evaluation=evaluation,
        class_counts=counts,
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        digest=content[:16],
    )


# ---------------------------------------------------------------- Parquet files in the data folder


def data_folder() -> Path:
    """Return ``$LIVT_DATA``, else ``data``."""
    return Path(os.environ.get("LIVT_DATA") or "data")


def _parquet(config: DataConfig, generator: np.random.Generator) -> tuple[Split, Split]:
    train_file, test_file = (_find_file(config.name, names) for names in (TRAIN_FILES, TEST_FILES))
    encoded, labels = _read_parquet(train_file, config.num_classes)
    pool = np.arange(len(labels))
    if config.evaluation == "validation":
        members = [pool[labels == c] for c in range(config.num_classes)]
        if min(map(len, members)) <= VALIDATION_IMAGES:
            raise DataError(
                f"{train_file} has too few images of a class to set {VALIDATION_IMAGES} apart for validation"
            )
        held_out = np.concatenate([m[-VALIDATION_IMAGES:] for m in members])
        pool = np.concatenate([m[:-VALIDATION_IMAGES] for m in members])
    available = np.bincount(labels[pool], minlength=config.num_classes)
    if config.name == "tiny_imagenet":
        counts = _tiny_imagenet_counts(config, available, train_file.with_name("classes.csv"))
    else:
        counts = profile_counts(config, available)
    train = pool[_subset(labels[pool], counts, generator, config)]
    train_split = _decode(encoded, labels, train, config, train_file)
    if config.evaluation == "validation":
        return train_split, _decode(encoded, labels, held_out, config, train_file)
    test_encoded, test_labels = _read_parquet(test_file, config.num_classes)
    return train_split, _decode(test_encoded, test_labels, np.arange(len(test_labels)), config, test_file)


def _find_file(name: str, candidates: tuple[str, ...]) -> Path:
    folder = data_folder() / name
    for candidate in candidates:
        if (folder / candidate).is_file():
            return folder / candidate
    raise DataError(
        f"{folder} holds neither {' nor '.join(candidates)}: put the data set {name!r} there, or set LIVT_DATA to the "
        "folder that holds it (data_prep/README.md shows the layout); digits and digit_pairs need no folder"
    )


def _read_parquet(path: Path, num_classes: int) -> tuple[list[dict], NDArray[np.int64]]:
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


def _tiny_imagenet_counts(config: DataConfig, available: NDArray[np.int64], classes: Path) -> NDArray[np.int64]:
    """Return the training images of each class: as many as ImageNet-LT has, or a profile in the order of its counts."""
    if config.imbalance_factor == 1:
        return profile_counts(config, available)  # the order is of no account
    imagenet_lt = _imagenet_lt_counts(classes)
    if config.imbalance_factor is None:
        return profile_counts(config, np.minimum(available, imagenet_lt))
    rank = np.argsort(np.argsort(-imagenet_lt, kind="stable"))
    return profile_counts(config, available)[rank]


def _imagenet_lt_counts(path: Path) -> NDArray[np.int64]:
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


def _subset(
    labels: NDArray[np.int64], counts: NDArray[np.int64], generator: np.random.Generator, config: DataConfig
) -> NDArray[np.int64]:
    try:
        return subset_indices(labels, counts, generator)
    except ValueError as error:
        raise DataError(f"{config.name}: {error}; lower data.max_count or raise data.imbalance_factor") from None


def _decode(encoded: list[dict], labels: NDArray, indices: NDArray, config: DataConfig, path: Path) -> Split:
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


def _resized(split: Split, size: tuple[int, int]) -> Split:
    resized = F.interpolate(split.images.float(), size, mode="bicubic", antialias=True, align_corners=False)
    return Split(images=resized.round_().clamp_(0, 255).to(torch.uint8), labels=split.labels)
