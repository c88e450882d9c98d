"""What to train: a recipe, as frozen keyword-only dataclasses with a JSON round trip and a stable digest.

A recipe is checked when it is made: an impossible value is a ValueError naming the field, before any work.
"""

import contextlib
import copy
import dataclasses
import functools
import hashlib
import json
import os
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

# Raise this when training changes its meaning: runs of an older format are then trained anew, never mixed in.
RUN_FORMAT = 1

# name: (classes, native height, native width)
DATASETS = {
    "digits": (10, 8, 8),
    "digit_pairs": (100, 8, 16),
    "cifar10": (10, 32, 32),
    "cifar100": (100, 32, 32),
    "tiny_imagenet": (200, 64, 64),
    "tiny_imagenet_32": (200, 32, 32),
}
# name: classes. Their images differ in size and stay in files until they are needed; data.image_size says how large
# the model sees them.
FILE_DATASETS = {"imagenet_lt": 1000, "imagenet_bal": 1000, "inat18": 8142, "places_lt": 365}
# name: (width, depth, heads); the last four as in the paper (Table 5), the others for small images
MODEL_SIZES = {
    "femto": (16, 2, 2),
    "pico": (32, 2, 2),
    "micro": (64, 2, 4),
    "nano": (64, 4, 4),
    "mini": (96, 4, 3),
    "midi": (128, 6, 4),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}
# name: (blocks, channels) of each stage, for small images; None for timm's own of that name. They have no pretraining
# stage. ResNet-32 is the field's usual one for CIFAR (He et al., CVPR 2016).
RESNETS: dict[str, tuple[tuple[int, ...], tuple[int, ...]] | None] = {
    "resnet8": ((1, 1, 1), (8, 16, 32)),
    "resnet10": ((1, 1, 1, 1), (16, 32, 64, 128)),
    "resnet32": ((5, 5, 5), (16, 32, 64)),
    "resnet50": None,
}
# stage: the stages that it starts from, where a recipe has them. A stage has the name of its section of the recipe;
# ``livt.lab.stages`` says how each is trained.
STAGES: dict[str, tuple[str, ...]] = {
    "pretrain": (),
    "finetune": ("pretrain",),
    "second": ("finetune",),
    "cluster": ("pretrain",),
    "teacher": (),
    "distill": ("teacher",),
    "meta": ("pretrain",),
}
# method of a second stage: what its default section has other than 10 epochs on each image in turn, by its paper
SECOND_SETTINGS: dict[str, dict[str, Any]] = {
    "crt": {"sampling": "class"},
    "tau_norm": {"epochs": 1},
    "lws": {"sampling": "class"},
    "disalign": {},
    "mislas": {"sampling": "class"},
    "weight_balancing": {"weight_decay": 0.1},
    "class_means": {"epochs": 1},
    "nearest_feature": {"epochs": 1},
    "nearest_pixels": {"epochs": 1},
    "aggregation": {"epochs": 1},
}
# The largest value of a field that can be meant: what is larger is refused before it takes memory or years.
LIMITS = {
    "max_count": 10**9,
    "image_size": 4096,
    "validation_images": 10**9,
    "draw": 2**63 - 1,
    "patch_size": 1024,
    "epochs": 1_000_000,
    "batch_size": 1_000_000,
    "weight_decay": 1000,
    "probes": 100_000,
    "decoder_width": 16_384,
    "decoder_depth": 256,
    "decoder_heads": 1024,
    "tau": 1000,
    "concentration": 1_000_000,
    "mixup": 1000,
    "cutmix": 1000,
    "seed": 2**63 - 1,
    "workers": 1024,
}
MAX_PATCHES = 65_536  # of an image
STARTS = ("zero", "uniform", "prior")
SAMPLINGS = ("image", "square_root", "class")
PRECISIONS = ("float32", "bfloat16")


class Options(dict[str, float]):
    """A method's own parameters by name, in the order of their names; never changed, so that it can be hashed."""

    def __init__(self, values: Mapping[str, float] | Iterable[tuple[str, float]] = ()) -> None:
        super().__init__(sorted(dict(values).items()))

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


def since(run_format: int, default: Any) -> Any:
    """Return a field that came in with a later format: at its default it is no part of a run's name."""
    return dataclasses.field(default=default, metadata={"since": run_format})


def _shown(value: Any) -> str:
    """Return a value as a message can show it, not long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class _Section:
    """A part of a recipe: typed fields that convert to and from JSON."""

    def __post_init__(self) -> None:
        hints = _hints(type(self))  # type: ignore[arg-type]  # a class is hashable, whatever its instances are
        for field in dataclasses.fields(self):
            value = _convert(getattr(self, field.name), hints[field.name], field.name)
            limit = LIMITS.get(field.name)
            if limit is not None and value is not None:
                _require(value <= limit, f"{field.name} must be at most {limit:,}, not {_shown(value)}")
            object.__setattr__(self, field.name, value)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from JSON values. An unknown or missing key, or a wrong type, is a ValueError naming it."""
        names = {field.name for field in dataclasses.fields(cls)}
        for key in values:
            _require(key in names, f"unknown key {key!r}; {cls.__name__} has {', '.join(sorted(names))}")
        missing = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING and f.name not in values]
        _require(not missing, f"{cls.__name__} lacks {', '.join(missing)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)

    def identity(self) -> dict[str, Any]:
        """Return the JSON values that name a run: without fields at their default that came in after format 1."""
        values = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.metadata.get("since", 1) > 1 and value == field.default:
                continue
            values[field.name] = value.identity() if isinstance(value, _Section) else value
        return values


@functools.cache
def _hints(section: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(section)


def _convert(value: Any, hint: Any, name: str) -> Any:
    """Return ``value`` as the field's type, so that 1 and 1.0 make one digest; refuse what does not fit."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if value is None:
            return None
        hint = next(h for h in typing.get_args(hint) if h is not types.NoneType)
    if issubclass(hint, _Section) and isinstance(value, Mapping):
        return hint.from_dict(value)
    if hint is Options and isinstance(value, Mapping):
        return Options({str(key): _convert(number, float, f"{name}.{key}") for key, number in value.items()})
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and number:
        _require(abs(value) < 1e300, f"{name} must be finite, not {_shown(value)}")
        return float(value)
    if isinstance(value, hint) and (hint is not int or number):
        return value
    raise ValueError(f"{name} must be {hint.__name__}, not {_shown(value)}")


@dataclass(frozen=True, kw_only=True)
class DataConfig(_Section):
    """Which images train, and which evaluate.

    ``name`` is one of ``DATASETS`` or ``FILE_DATASETS``, or images of one's own: the name of a folder below the data
    folder, or a path (``livt.data.readers`` describes what such a folder holds).

    ``imbalance_factor`` None takes the data set's own training counts (Tiny-ImageNet: those of ImageNet-LT); else the
    profile falls in the order of the classes. ``balanced`` spreads as many images evenly over the classes.
    ``image_size`` None keeps the native size, which only ``DATASETS`` have. ``evaluation`` "validation" sets training
    images apart to choose settings by, before the profile is drawn; "test" is for reporting. ``validation_images`` are
    those of each class; the embedded sets have their own number. ``draw``: another number draws other training images
    of the pool, with the same counts.
    """

    name: str
    max_count: int | None = None
    imbalance_factor: float | None = None
    balanced: bool = False
    image_size: int | None = None
    evaluation: str = "test"
    validation_images: int = since(2, 20)
    draw: int = since(2, 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(bool(self.name.strip()), "data.name must not be empty")
        _require(self.evaluation in ("test", "validation"), "data.evaluation must be 'test' or 'validation'")
        _require(
            (self.max_count is None) == (self.imbalance_factor is None),
            "data.max_count and data.imbalance_factor go together: set both for an exponential profile, or neither",
        )
        if self.max_count is not None and self.imbalance_factor is not None:
            _require(
                1 <= self.imbalance_factor <= self.max_count,
                f"data.imbalance_factor {self.imbalance_factor:g} must lie between 1 and data.max_count "
                f"{self.max_count}: the smallest class needs an image",
            )
        _require(self.validation_images > 0, "data.validation_images must be positive")
        _require(self.draw >= 0, "data.draw must not be negative")
        _require(self.image_size is None or self.image_size > 0, "data.image_size must be positive")
        names = (*DATASETS, *FILE_DATASETS)
        other = f"data.name {self.name!r} is not one of {', '.join(names)}, so it is a folder of your own, whose images"
        whose = f"the images of {self.name}" if self.name in FILE_DATASETS else other
        _require(
            self.image_size is not None or self.name in DATASETS,
            f"data.image_size must be set: {whose} may differ in size",
        )

    @property
    def is_known(self) -> bool:
        """Whether ``name`` is a data set that is known by its name."""
        return self.name in DATASETS or self.name in FILE_DATASETS

    @property
    def is_path(self) -> bool:
        """Whether ``name`` is the path of a folder: it contains a separator, or begins with ``.`` or ``~``."""
        return os.sep in self.name or self.name.startswith((".", "~"))

    @property
    def num_classes(self) -> int:
        """The number of classes of a data set known by name; ``livt.data.sets.classes_of`` counts those of others."""
        return FILE_DATASETS[self.name] if self.name in FILE_DATASETS else DATASETS[self.name][0]

    @property
    def size(self) -> tuple[int, int]:
        """Image height and width in pixels, as the model sees them."""
        return DATASETS[self.name][1:] if self.image_size is None else (self.image_size, self.image_size)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(_Section):
    """A Vision Transformer by size name, with its patch size in pixels; or a residual network, of patch size 1."""

    size: str
    patch_size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        names = (*MODEL_SIZES, *RESNETS)
        _require(self.size in names, f"model.size {self.size!r} is not one of {', '.join(names)}")
        _require(self.patch_size >= 1, f"model.patch_size must be at least 1, not {self.patch_size}")
        _require(
            self.size in MODEL_SIZES or self.patch_size == 1,
            f"model.patch_size must be 1, not {self.patch_size}: {self.size} takes no patches",
        )


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(_Section):
    """Augmentation of single images; each is off at its default.

    ``shift``: zero-padded random translation in pixels. ``flip``: random horizontal flip. ``crop_min_scale``: random
    resized crop, from this share of the area up to all of it. ``rand_augment``: timm's string, such as
    ``rand-m9-mstd0.5-inc1``. ``random_erasing``: probability.
    """

    shift: int = 0
    flip: bool = False
    crop_min_scale: float | None = None
    rand_augment: str | None = None
    random_erasing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.shift >= 0, f"augment.shift must not be negative, not {self.shift}")
        scale = self.crop_min_scale
        _require(scale is None or 0 < scale <= 1, f"augment.crop_min_scale must lie in (0, 1], not {scale}")
        _require(0 <= self.random_erasing <= 1, "augment.random_erasing must be a probability")


@dataclass(frozen=True, kw_only=True)
class StageConfig(_Section):
    """Optimisation, shared by both stages: AdamW, linear warm-up, half cosine; lr = base_lr * batch_size / 256.

    ``batch_size`` is the effective one, over all devices. It is worked off in ``accumulation_steps`` equal parts, which
    the devices share: 8 parts are 8 on one device, or 4 each on two, with the same result to rounding. Epochs count
    passes over the training images. ``clip_grad``: largest gradient norm, None for no clipping.
    """

    epochs: int
    warmup_epochs: float
    batch_size: int
    base_lr: float
    min_lr: float = 0.0
    beta1: float = 0.9
    beta2: float
    weight_decay: float = 0.05
    accumulation_steps: int = 1
    clip_grad: float | None = None
    precision: str = "float32"
    augment: AugmentConfig = AugmentConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.epochs >= 1, f"epochs must be at least 1, not {self.epochs}")
        _require(
            0 <= self.warmup_epochs < self.epochs,
            f"warmup_epochs {self.warmup_epochs:g} must be shorter than training ({self.epochs} epochs)",
        )
        _require(self.batch_size >= 1, f"batch_size must be at least 1, not {self.batch_size}")
        _require(
            self.accumulation_steps >= 1 and self.batch_size % self.accumulation_steps == 0,
            f"accumulation_steps {self.accumulation_steps} must divide batch_size {self.batch_size}",
        )
        _require(0 <= self.min_lr <= self.lr and self.base_lr > 0, "need base_lr > 0 and 0 <= min_lr <= peak rate")
        _require(0 <= self.beta1 < 1 and 0 <= self.beta2 < 1, "beta1 and beta2 must lie in [0, 1)")
        _require(self.weight_decay >= 0, f"weight_decay must not be negative, not {self.weight_decay}")
        _require(self.clip_grad is None or self.clip_grad > 0, "clip_grad must be positive or null")
        _require(self.precision in PRECISIONS, f"precision {self.precision!r} is not one of {', '.join(PRECISIONS)}")

    @property
    def lr(self) -> float:
        """Peak learning rate."""
        return self.base_lr * self.batch_size / 256


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(StageConfig):
    """MGP: a masked autoencoder on the training images, without labels (He et al., CVPR 2022).

    ``probes``: how many times the features are probed with labels, at equal distances from the start to the end of
    training; the probes read and never train the encoder. ``data``: other images to pretrain on, or of another size;
    None takes those of the recipe.
    """

    beta2: float = 0.95
    mask_ratio: float = 0.75
    normalize_targets: bool = True
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    probes: int = 0
    data: DataConfig | None = since(2, None)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.probes == 0 or self.probes >= 2, f"probes must be 0, or at least 2, not {self.probes}")
        _require(0 < self.mask_ratio < 1, f"mask_ratio must lie inside (0, 1), not {self.mask_ratio}")
        _require(min(self.decoder_depth, self.decoder_heads) >= 1, "decoder_depth and decoder_heads must be positive")
        _require(
            self.decoder_width > 0 and self.decoder_width % (4 * self.decoder_heads) == 0,
            f"decoder_width {self.decoder_width} must be a multiple of 4 x decoder_heads",
        )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(StageConfig):
    """BFT: the classifier, from the pretrained encoder or from scratch. ``tau`` scales a balanced loss's bias.

    ``loss`` is a name of ``livt.losses.LOSSES``, where it is looked up before anything trains (``livt.losses.find``).

    ``start`` sets the bias of the untrained classifier. "zero", as the official code has it; "uniform" and "prior" give
    every image the training probabilities 1/C, or the class priors. The bias is never decayed.
    ``label_smoothing`` moves that share of each target to 1/C, or to the priors (``smoothing_target``).
    ``sampling`` "class" draws as many images of each class, "square_root" in proportion to the root of its count, with
    replacement; "image" takes each image once an epoch. ``options``: parameters of the loss by name, where they are not
    those of its paper.
    """

    loss: str
    tau: float = 1.0
    start: str = "zero"
    beta2: float = 0.99
    layer_decay: float = 0.75
    drop_path: float = 0.0
    label_smoothing: float = 0.0
    smoothing_target: str = "uniform"
    mixup: float = 0.0
    cutmix: float = 0.0
    sampling: str = since(2, "image")
    options: Options = since(2, Options())

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.tau >= 0, f"finetune.tau must not be negative, not {self.tau}")
        _require(self.start in STARTS, f"finetune.start {self.start!r} is not one of {', '.join(STARTS)}")
        _require(self.smoothing_target in STARTS[1:], "finetune.smoothing_target must be 'uniform' or 'prior'")
        _require(0 < self.layer_decay <= 1, f"finetune.layer_decay must lie in (0, 1], not {self.layer_decay}")
        _require(0 <= self.drop_path < 1, f"finetune.drop_path must lie in [0, 1), not {self.drop_path}")
        _require(0 <= self.label_smoothing < 1, "finetune.label_smoothing must lie in [0, 1)")
        _require(self.mixup >= 0 and self.cutmix >= 0, "finetune.mixup and finetune.cutmix must not be negative")
        _require(self.sampling in SAMPLINGS, f"sampling {self.sampling!r} is not one of {', '.join(SAMPLINGS)}")
        mixes = self.mixup > 0 or self.cutmix > 0
        _require(
            not mixes or self.batch_size // self.accumulation_steps % 2 == 0,
            "mixup and cutmix pair images: batch_size / accumulation_steps must be even",
        )


@dataclass(frozen=True, kw_only=True)
class SecondConfig(StageConfig):
    """A second stage, which starts from the fine-tuned classifier and keeps its trunk as it is.

    ``method`` is a name of ``livt.rivals.methods.METHODS``, where it is looked up before anything trains; one that
    learns nothing has one epoch. ``sampling`` and ``options`` are as in fine-tuning, the options those of the method.
    """

    method: str
    beta2: float = 0.99
    sampling: str
    options: Options = since(2, Options())

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.sampling in SAMPLINGS, f"sampling {self.sampling!r} is not one of {', '.join(SAMPLINGS)}")


@dataclass(frozen=True, kw_only=True)
class ClusterConfig(StageConfig):
    """Clustering of the pretrained features without labels, into as many clusters as there are classes.

    ``method`` is a name of ``livt.clustering.methods.METHODS``, where it is looked up before anything trains; one that
    learns nothing has one epoch. The features stay as they are, so nothing is augmented. ``tokens``: "mean" clusters
    the mean patch token of an image, "all" its tokens behind one another, which know where in the image something is.
    ``temperature`` divides the cosines between features and prototypes. ``options``: parameters of the method by name,
    where they are not those of its paper.
    """

    method: str
    beta2: float = 0.99
    tokens: str = "mean"
    temperature: float = 0.1
    options: Options = since(2, Options())

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.augment == AugmentConfig(), "cluster.augment must be off: features are computed once")
        _require(self.tokens in ("mean", "all"), f"cluster.tokens must be 'mean' or 'all', not {self.tokens!r}")
        _require(self.temperature > 0, f"cluster.temperature must be positive, not {self.temperature:g}")


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(FinetuneConfig):
    """A residual network from scratch, for a student to learn from (DeiT-LT, Rangwani et al., CVPR 2024).

    ``size`` is its own, beside ``model.size`` of the student. ``rho``: radius of sharpness-aware minimisation (Foret et
    al., ICLR 2021), in which each step takes two passes; 0 trains plainly.
    """

    size: str
    rho: float = 0.05
    loss: str = "ldam_drw"
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.size in RESNETS, f"teacher.size {self.size!r} is not one of {', '.join(RESNETS)}")
        _require(self.rho >= 0, f"teacher.rho must not be negative, not {self.rho:g}")


@dataclass(frozen=True, kw_only=True)
class DistillConfig(StageConfig):
    """A Vision Transformer from scratch, whose distillation token learns what the recipe's teacher says of the images.

    Without a teacher both of its tokens learn the labels. From ``share`` of training on, the classes of the
    distillation weigh by their class-balanced weights (``beta``), and images are mixed no more; at 1, never.
    """

    beta2: float = 0.99
    drop_path: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    share: float = 11 / 12
    beta: float = 0.9999

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("drop_path", "label_smoothing", "beta"):
            _require(0 <= getattr(self, name) < 1, f"distill.{name} must lie in [0, 1), not {getattr(self, name):g}")
        _require(0 <= self.share <= 1, f"distill.share must lie in [0, 1], not {self.share:g}")
        _require(self.mixup >= 0 and self.cutmix >= 0, "distill.mixup and distill.cutmix must not be negative")
        _require(
            not (self.mixup or self.cutmix) or self.batch_size // self.accumulation_steps % 2 == 0,
            "mixup and cutmix pair images: batch_size / accumulation_steps must be even",
        )


@dataclass(frozen=True, kw_only=True)
class MetaConfig(FinetuneConfig):
    """Fine-tuning with a synthetic place and day of the year of each image as extra tokens (MetaFormer, Diao et al.).

    ``concentration`` of these around the place and day of the image's class (``livt.rivals.metadata``): 0 says nothing
    of the class. ``masked``: share of the training images whose metadata are hidden at first; it falls linearly to 0.
    ``ancestors``: 0, or on Tiny-ImageNet the metadata are WordNet's groups of at least so many classes instead
    (``livt.rivals.ancestors``).
    """

    concentration: float
    masked: float = 1.0
    ancestors: int = since(2, 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.concentration >= 0, f"meta.concentration must not be negative, not {self.concentration:g}")
        _require(0 <= self.masked <= 1, f"meta.masked must lie in [0, 1], not {self.masked:g}")
        some = self.ancestors == 0 or 2 <= self.ancestors <= 200
        _require(some, f"meta.ancestors must be 0, or from 2 to 200 classes, not {self.ancestors}")
        alone = not (self.ancestors and self.concentration)
        _require(alone, "meta.concentration must be 0 with meta.ancestors: one kind of metadata at a time")
        _require(not (self.mixup or self.cutmix), "meta.mixup and meta.cutmix must be 0: metadata are of one image")
        _require(self.sampling == "image", "meta.sampling must be 'image'")


@dataclass(frozen=True, kw_only=True)
class Recipe(_Section):
    """Everything that decides a result, apart from the images themselves. ``pretrain`` None trains from scratch;
    ``second`` None ends with the fine-tuned classifier. With ``cluster`` the result is that of clustering the
    pretrained features, with ``distill`` that of a student, from scratch, of the ``teacher``, with ``meta`` that of
    fine-tuning with metadata; ``finetune`` then has no part in it.
    """

    data: DataConfig
    model: ModelConfig
    pretrain: PretrainConfig | None
    finetune: FinetuneConfig
    second: SecondConfig | None = since(2, None)
    cluster: ClusterConfig | None = since(2, None)
    teacher: TeacherConfig | None = since(2, None)
    distill: DistillConfig | None = since(2, None)
    meta: MetaConfig | None = since(2, None)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.seed >= 0, f"seed must not be negative, not {self.seed}")
        patch = self.model.patch_size
        _require(
            self.pretrain is None or self.model.size in MODEL_SIZES,
            f"pretrain must be null: a masked autoencoder needs a Vision Transformer, not {self.model.size}",
        )
        if self.distill is not None:
            alone = self.pretrain is None and self.second is None
            _require(alone, "distill trains a student from scratch: pretrain and second must be null")
            _require(
                self.model.size in MODEL_SIZES,
                f"distill must be null: a student is a Vision Transformer, not {self.model.size}",
            )
        if self.meta is not None:
            others = (self.second, self.cluster, self.teacher, self.distill)
            _require(
                all(stage is None for stage in others),
                "meta takes the place of fine-tuning: second, cluster, teacher and distill must be null",
            )
            _require(
                self.model.size in MODEL_SIZES,
                f"meta must be null: metadata are tokens of a Vision Transformer, not of {self.model.size}",
            )
            _require(
                not self.meta.ancestors or self.data.name == "tiny_imagenet",
                f"meta.ancestors must be 0: WordNet's groups are of data.name=tiny_imagenet, not {self.data.name}",
            )
        for name, stage, size in (
            ("pretrain", self.pretrain, self.pretrain_data.size),
            ("finetune", self.finetune, self.data.size),
            ("second", self.second, self.data.size),
            ("cluster", self.cluster, self.data.size),
            ("teacher", self.teacher, self.data.size),
            ("distill", self.distill, self.data.size),
            ("meta", self.meta, self.data.size),
        ):
            height, width = size
            _require(
                height % patch == 0 and width % patch == 0,
                f"image size {height} x {width} is not a multiple of model.patch_size {patch}",
            )
            _require(
                height // patch * (width // patch) <= MAX_PATCHES,
                f"an image of {height} x {width} has more than {MAX_PATCHES:,} patches of {patch}: raise "
                "model.patch_size",
            )
            shift = 0 if stage is None else stage.augment.shift
            _require(
                shift < min(height, width), f"{name}.augment.shift {shift} moves the image ({height} x {width}) away"
            )
        _require(
            self.cluster is None or self.pretrain is not None, "cluster needs pretrain, whose features it clusters"
        )
        if self.pretrain is not None:
            height, width = self.pretrain_data.size
            patches = height // patch * (width // patch)
            visible = int(patches * (1 - self.pretrain.mask_ratio))
            _require(
                0 < visible < patches,
                f"pretrain.mask_ratio {self.pretrain.mask_ratio:g} leaves {visible} of {patches} patches visible",
            )
            _require(
                len({h * w for h, w in (self.data.size, self.pretrain_data.size)}) == 1 or height == width,
                "positions can be resampled from square images only: pretrain.data is not square",
            )

    @property
    def pretrain_data(self) -> DataConfig:
        """The images of the pretraining stage."""
        return self.data_of("pretrain")

    @property
    def last_stage(self) -> str:
        """The stage whose run is the result of this recipe."""
        return next(stage for stage in reversed(STAGES) if getattr(self, stage) is not None)

    def data_of(self, stage: str) -> DataConfig:
        """Return the images of a stage: its own, where its section has some, else those of the recipe."""
        return getattr(getattr(self, stage), "data", None) or self.data

    def needs(self, stage: str) -> list[str]:
        """Return the stages that a stage of this recipe starts from."""
        return [name for name in STAGES[stage] if getattr(self, name) is not None]

    def up_to(self, stage: str) -> list[str]:
        """Return a stage and those that it starts from, at whatever remove, each once and behind what it needs."""
        return [name for name in STAGES if self.stage(stage).get(name) is not None]

    def stage(self, stage: str) -> dict[str, Any]:
        """Return the JSON configuration that decides the run of a stage: its section and those it starts from.

        Raises ValueError where the recipe lacks the stage.
        """
        _require(getattr(self, stage) is not None, f"this recipe has no stage {stage!r}")
        parts, waiting = set[str](), [stage]
        while waiting:
            parts.add(waiting[-1])
            waiting += STAGES[waiting.pop()]
        values = {key: value for key, value in self.identity().items() if key not in STAGES or key in parts}
        values["data"] = self.data_of(stage).identity()  # a recipe on these images themselves shares the run
        values[stage].pop("data", None)
        return {"format": RUN_FORMAT, "stage": stage, **values}


@dataclass(frozen=True, kw_only=True)
class Engine(_Section):
    """How to train, which does not change what is trained.

    ``workers``: processes that load images from files, None for one per CPU core, eight at most; 0 loads in the
    training process. ``compile``: by ``torch.compile``. ``checkpointing``: keep the activations of one block at a time
    and compute them again for the gradient; takes less memory and about a third more time.
    """

    workers: int | None = None
    compile: bool = False
    checkpointing: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.workers is None or self.workers >= 0, f"workers must not be negative, not {self.workers}")


def with_overrides(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """Return the recipe with values set by dotted path, such as ``{"finetune.tau": 1.05}``.

    A string is read as JSON where that gives the field's type. In a recipe without a second stage, ``second.method``
    brings one, with the settings of its fine-tuning and of the method's paper (:func:`second_settings`), and so do
    ``cluster.method`` (:func:`cluster_settings`) and ``meta.concentration`` (:func:`meta_settings`). Unknown paths,
    wrong types and impossible values are a ValueError that names the path.
    """
    later = {path: value for path, value in overrides.items() if path.startswith(("second.", "cluster.", "meta."))}
    values = overridden(recipe.to_dict(), {path: overrides[path] for path in overrides if path not in later})
    for path in later:
        name = path.partition(".")[0]
        if values[name] is None:
            key = "concentration" if name == "meta" else "method"
            given = later.get(f"{name}.{key}")
            kind = {"second": "second stage", "cluster": "clustering", "meta": "stage with metadata"}[name]
            _require(given is not None, f"{path}: this recipe has no {kind}: set {name}.{key}")
            match name:
                case "second":
                    values[name] = second_settings(values["finetune"], str(given))
                case "cluster":
                    values[name] = cluster_settings(str(given))
                case _:
                    values[name] = meta_settings(values["finetune"])
    overridden(values, later)
    try:
        return Recipe.from_dict(values)
    except ValueError as error:
        raise ValueError(f"{', '.join(f'{k}={v}'[:80] for k, v in overrides.items())}: {error}") from None


def second_settings(finetune: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Return the default section of a second stage: as fine-tuning steps, without warm-up; else as the method's paper.

    finetune: the JSON values of that section.
    """
    shared = copy.deepcopy({field.name: finetune[field.name] for field in dataclasses.fields(StageConfig)})
    usual = {"epochs": 10, "warmup_epochs": 0.0, "method": method, "sampling": "image", "options": {}}
    return shared | usual | SECOND_SETTINGS.get(method, {})


def cluster_settings(method: str) -> dict[str, Any]:
    """Return the default section of clustering, as JSON values: 50 epochs as the paper, one of a method of one step."""
    epochs = 1 if method == "k_means" else 50
    section = ClusterConfig(method=method, epochs=epochs, warmup_epochs=0.0, batch_size=64, base_lr=0.02)
    return section.to_dict() | {"weight_decay": 0.0}


def meta_settings(finetune: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default section of fine-tuning with metadata: as fine-tuning, but that no images are mixed.

    finetune: the JSON values of that section.
    """
    own = {"concentration": 0.0, "masked": 1.0, "ancestors": 0}
    return copy.deepcopy(dict(finetune)) | {"mixup": 0.0, "cutmix": 0.0} | own


def overridden(values: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Set nested values by dotted path, in place, and return them; a string is read as :func:`with_overrides` does.

    Raises ValueError for an unknown path.
    """
    for path, value in overrides.items():
        *parents, key = path.split(".")
        section = values
        for parent in parents:
            _require(isinstance(section.get(parent), dict), f"{path}: {parent!r} is not a section of this recipe")
            section = section[parent]
        is_open = parents[-1:] == ["options"]  # which names it knows, the loss says
        _require(is_open or key in section, f"{path}: unknown key {key!r}; known here: {', '.join(section)}")
        if isinstance(value, str) and not isinstance(section.get(key), str):
            with contextlib.suppress(ValueError):  # a plain word is for the type check to judge, and so is a long one
                value = json.loads(value)
        section[key] = value
    return values


def digest(config: Mapping[str, Any], data_digest: str) -> str:
    """Return the 12-digit hexadecimal digest of a stage's configuration and its data."""
    text = json.dumps([config, data_digest], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
