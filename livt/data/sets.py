"""Data sets by name.

Small sets are uint8 tensors in memory, [N, 3, H, W]; large ones stay in files. Both become normalized floats a batch at
a time (``livt.batches``). ``digits`` and ``digit_pairs`` come with scikit-learn; the others are read from the data
folder: ``$LIVT_DATA``, else ``data/``, as ``<name>/{train,test}.parquet`` in the Hugging Face image layout (``image`` =
bytes and path, ``label``), or as a folder of files (``livt.images``).

Shapes: ``N`` images, ``C`` classes.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.nn import functional as F

from livt import distributed
from livt.config import STAGES, DataConfig, Recipe
from livt.data.augment import Augment
from livt.data.images import DataError, FileSplit, Split
from livt.data.readers import (
    SCRIPTS,
    TEST_FILES,
    TRAIN_FILES,
    data_folder,
    decode_all,
    find_file,
    imagenet_lt_counts,
    read_folder,
    read_parquet,
)
from livt.longtail import exponential_counts, subset_indices
from livt.losses import find

# Per digit: scans set apart for the test split, then for validation; the rest train.
TEST_SCANS, VALIDATION_SCANS = 40, 20
PAIRS_PER_CLASS = 20  # evaluation pairs of each class


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
    # Fixed seeds: which images train and which evaluate is a property of the data set, not of a run.
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


def classes_of(config: DataConfig) -> int:
    """Return the number of classes of a data set."""
    return config.num_classes


def check_fit(recipe: Recipe) -> None:
    """Raise ValueError where a stage of the recipe cannot train on its data, or on so many processes, or by its loss.

    It is called before any stage begins.
    """
    find(recipe.finetune.loss, recipe.finetune.tau)
    for name in STAGES:
        stage = getattr(recipe, name)
        if stage is None:
            continue
        config = recipe.data_of(name)
        data = load_dataset(config)
        data.steps_per_epoch(stage.batch_size)
        Augment(stage.augment, data.mean, data.std)
        if isinstance(data.train, FileSplit) and (stage.augment.crop_min_scale is None or stage.augment.shift):
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


def _parquet(config: DataConfig, generator: np.random.Generator) -> tuple[Split, Split]:
    train_file, test_file = (find_file(config.name, names) for names in (TRAIN_FILES, TEST_FILES))
    encoded, labels = read_parquet(train_file, config.num_classes)
    pool = np.arange(len(labels))
    if config.evaluation == "validation":
        members = [pool[labels == c] for c in range(config.num_classes)]
        if min(map(len, members)) <= config.validation_images:
            raise DataError(
                f"{train_file} has too few images of a class to set {config.validation_images} apart for validation"
            )
        held_out = np.concatenate([m[-config.validation_images :] for m in members])
        pool = np.concatenate([m[: -config.validation_images] for m in members])
    available = np.bincount(labels[pool], minlength=config.num_classes)
    if config.name == "tiny_imagenet":
        counts = _tiny_imagenet_counts(config, available, train_file.with_name("classes.csv"))
    else:
        counts = profile_counts(config, available)
    train = pool[_subset(labels[pool], counts, generator, config)]
    train_split = decode_all(encoded, labels, train, config, train_file)
    if config.evaluation == "validation":
        return train_split, decode_all(encoded, labels, held_out, config, train_file)
    test_encoded, test_labels = read_parquet(test_file, config.num_classes)
    return train_split, decode_all(test_encoded, test_labels, np.arange(len(test_labels)), config, test_file)


def _tiny_imagenet_counts(config: DataConfig, available: NDArray[np.int64], classes: Path) -> NDArray[np.int64]:
    """Return the training images of each class: as many as ImageNet-LT has, or a profile in the order of its counts."""
    if config.imbalance_factor == 1:
        return profile_counts(config, available)  # the order is of no account
    imagenet_lt = imagenet_lt_counts(classes)
    if config.imbalance_factor is None:
        return profile_counts(config, np.minimum(available, imagenet_lt))
    rank = np.argsort(np.argsort(-imagenet_lt, kind="stable"))
    return profile_counts(config, available)[rank]


def _subset(
    labels: NDArray[np.int64], counts: NDArray[np.int64], generator: np.random.Generator, config: DataConfig
) -> NDArray[np.int64]:
    if config.draw:
        generator = np.random.default_rng(config.draw)
    try:
        return subset_indices(labels, counts, generator)
    except ValueError as error:
        raise DataError(f"{config.name}: {error}; lower data.max_count or raise data.imbalance_factor") from None


def _resized(split: Split, size: tuple[int, int]) -> Split:
    resized = F.interpolate(split.images.float(), size, mode="bicubic", antialias=True, align_corners=False)
    return Split(images=resized.round_().clamp_(0, 255).to(torch.uint8), labels=split.labels)
