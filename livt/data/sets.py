"""Data sets by name or by folder.

Small sets are uint8 tensors in memory, [N, 3, H, W]; images in files stay there. Both become normalized floats a batch
at a time (``livt.data.batches``). ``digits`` and ``digit_pairs`` come with scikit-learn (``livt.data.digits``); all
others, those known by name and one's own, are folders (``livt.data.readers``).

Shapes: ``N`` images, ``C`` classes.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.nn import functional as F

from livt import distributed
from livt.config import FILE_DATASETS, STAGES, DataConfig, Recipe
from livt.data.augment import Augment
from livt.data.channels import moments, moments_of_files
from livt.data.digits import digit_pairs, digits
from livt.data.draw import draw, profile_counts, set_apart
from livt.data.images import FileSplit, Split
from livt.data.listing import Listing
from livt.data.readers import folder_of, imagenet_lt_counts, read
from livt.losses import loss_of

EMBEDDED = {"digits": digits, "digit_pairs": digit_pairs}


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A training split and an evaluation split (the test split, or validation images set apart from training).

    class_counts: int [C] of the training split. mean, std: of its channels, in [0, 1] (large sets known by name: those
    of ImageNet, as the official code has them). digest: of all images and labels (of images in files: of all paths,
    sizes and labels, and which of them train), 16 hexadecimal digits.
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
        return steps_of(len(self.train.labels), batch_size)


def steps_of(images: int, batch_size: int) -> int:
    """Return the number of full batches in an epoch of so many images. Raises ValueError where there is none."""
    if batch_size > images:
        raise ValueError(f"batch_size {batch_size} exceeds the {images} training images")
    return images // batch_size


@lru_cache(maxsize=4)
def load_dataset(config: DataConfig) -> Dataset:
    """Return the data set of a configuration; the same configuration always gives the same images.

    Raises DataError where the data folder, a class, or an image cannot be used. Of images in files of one's own, each
    is decoded once for that, and for the mean and deviation, which a cache then keeps.
    """
    # Fixed seeds: which images train and which evaluate is a property of the data set, not of a run.
    generator = np.random.default_rng(0)
    if config.name in EMBEDDED:
        return _in_memory(*EMBEDDED[config.name](config, generator), config)
    listing, chosen, held_out = _chosen(config, generator)
    train, evaluation = listing.train.subset(chosen), _evaluation(listing, held_out)
    if isinstance(train, Split) and isinstance(evaluation, Split):
        return _in_memory(train, evaluation, config)
    assert isinstance(train, FileSplit)
    assert isinstance(evaluation, FileSplit)
    content = hashlib.sha256(listing.digest.encode() + chosen.tobytes())
    if held_out is not None:
        content.update(held_out.tobytes())
    digest = content.hexdigest()[:16]
    if config.name in FILE_DATASETS:
        mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    else:
        mean, std = moments_of_files(train, evaluation, digest)
    class_counts = np.bincount(train.labels.numpy())
    return Dataset(train=train, evaluation=evaluation, class_counts=class_counts, mean=mean, std=std, digest=digest)


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What a data set holds, without an image of it: training images of each class, int [C], images to evaluate on.

    in_files: whether the images stay in files.
    """

    class_counts: NDArray[np.int64]
    evaluation_images: int
    in_files: bool


def overview(config: DataConfig) -> Overview:
    """Return what the data set of a configuration holds; no image of a folder is decoded."""
    if config.name in EMBEDDED:
        data = load_dataset(config)
        counts, evaluation, in_files = data.class_counts, len(data.evaluation.labels), False
    else:
        listing, chosen, held_out = _chosen(config, np.random.default_rng(0))
        counts = np.bincount(listing.train.labels.numpy()[chosen])
        evaluation = len(listing.evaluation.labels if held_out is None else held_out)
        in_files = isinstance(listing.train, FileSplit)
    return Overview(class_counts=counts, evaluation_images=evaluation, in_files=in_files)


def load_evaluation(config: DataConfig) -> Split | FileSplit:
    """Return the evaluation split of a configuration, as :func:`load_dataset` has it; no training image is decoded."""
    if config.name in EMBEDDED:
        return load_dataset(config).evaluation
    listing, _, held_out = _chosen(config, np.random.default_rng(0))
    split = _evaluation(listing, held_out)
    if isinstance(split, Split) and split.images.shape[2:] != config.size:
        return _resized(split, config.size)
    return split


def _chosen(
    config: DataConfig, generator: np.random.Generator
) -> tuple[Listing, NDArray[np.int64], NDArray[np.int64] | None]:
    """Return what a folder holds, which of its training images train, and which are set apart to validate on."""
    listing = read(config)
    labels = listing.train.labels.numpy()
    pool, held_out = np.arange(len(labels)), None
    if config.evaluation == "validation":
        pool, held_out = set_apart(labels, listing.classes, config)
    profile = _tiny_imagenet_counts if config.name == "tiny_imagenet" else profile_counts
    return listing, pool[draw(labels[pool], listing.classes, config, generator, profile)], held_out


def _evaluation(listing: Listing, held_out: NDArray[np.int64] | None) -> Split | FileSplit:
    if held_out is not None:
        return listing.train.subset(held_out)
    return listing.evaluation.subset(np.arange(len(listing.evaluation.labels)))


def _in_memory(train: Split, evaluation: Split, config: DataConfig) -> Dataset:
    if train.images.shape[2:] != config.size:
        train, evaluation = (_resized(split, config.size) for split in (train, evaluation))
    mean, std = moments(train.images)
    content = hashlib.sha256()
    for tensor in (train.images, train.labels, evaluation.images, evaluation.labels):
        content.update(str(tuple(tensor.shape)).encode())
        content.update(tensor.numpy().tobytes())
    return Dataset(
        train=train,
        evaluation=evaluation,
        class_counts=np.bincount(train.labels.numpy()),
        mean=mean,
        std=std,
        digest=content.hexdigest()[:16],
    )


def _resized(split: Split, size: tuple[int, int]) -> Split:
    resized = F.interpolate(split.images.float(), size, mode="bicubic", antialias=True, align_corners=False)
    return Split(images=resized.round_().clamp_(0, 255).to(torch.uint8), labels=split.labels)


def _tiny_imagenet_counts(config: DataConfig, available: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the training images of each class: as many as ImageNet-LT has, or a profile in the order of its counts."""
    if config.imbalance_factor == 1:
        return profile_counts(config, available)  # the order is of no account
    imagenet_lt = imagenet_lt_counts(folder_of(config) / "classes.csv")
    if config.imbalance_factor is None:
        return profile_counts(config, np.minimum(available, imagenet_lt))
    rank = np.argsort(np.argsort(-imagenet_lt, kind="stable"))
    return profile_counts(config, available)[rank]


def classes_of(config: DataConfig) -> int:
    """Return the number of classes of a data set; one's own are counted in its folder."""
    return config.num_classes if config.is_known else len(read(config).classes)


def check_fit(recipe: Recipe) -> None:
    """Raise ValueError where a stage of the recipe cannot train on its data, or on so many processes, or by its loss.

    It is called before any stage begins.
    """
    loss_of(recipe.finetune)
    for name in STAGES:
        if getattr(recipe, name) is not None:
            data = load_dataset(recipe.data_of(name))
            check_stage(recipe, name, len(data.train.labels), isinstance(data.train, FileSplit))


def check_stage(recipe: Recipe, name: str, images: int, in_files: bool) -> None:
    """Raise ValueError where a stage cannot train on so many images, in files or in memory, or on so many processes."""
    stage, config = getattr(recipe, name), recipe.data_of(name)
    steps_of(images, stage.batch_size)
    Augment(stage.augment, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)  # what it makes of its settings is checked
    reads_as_evaluation = name == "cluster"  # whole images, resized: no crop of its own
    if in_files and not reads_as_evaluation and (stage.augment.crop_min_scale is None or stage.augment.shift):
        raise ValueError(
            f"{name}.augment: the images of {config.name} differ in size, so crop_min_scale must be set, and shift be 0"
        )
    if stage.accumulation_steps % distributed.size():
        raise ValueError(
            f"{distributed.size()} processes cannot share a batch of {stage.accumulation_steps} parts evenly: set "
            f"{name}.accumulation_steps to a multiple of {distributed.size()}"
        )
