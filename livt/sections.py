"""The sections of a recipe: typed fields that check themselves, of the data, the model and the paper's two stages.

A section is checked when it is made: an impossible value is a ValueError naming the field, before any work.
"""

import dataclasses
import functools
import os
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

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


def require(holds: bool, message: str) -> None:
    """Raise ValueError with the message where the condition does not hold."""
    if not holds:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a recipe: typed fields that convert to and from JSON."""

    def __post_init__(self) -> None:
        hints = _hints(type(self))  # type: ignore[arg-type]  # a class is hashable, whatever its instances are
        for field in dataclasses.fields(self):
            value = _convert(getattr(self, field.name), hints[field.name], field.name)
            limit = LIMITS.get(field.name)
            if limit is not None and value is not None:
                require(value <= limit, f"{field.name} must be at most {limit:,}, not {_shown(value)}")
            object.__setattr__(self, field.name, value)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from JSON values. An unknown or missing key, or a wrong type, is a ValueError naming it."""
        names = {field.name for field in dataclasses.fields(cls)}
        for key in values:
            require(key in names, f"unknown key {key!r}; {cls.__name__} has {', '.join(sorted(names))}")
        missing = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING and f.name not in values]
        require(not missing, f"{cls.__name__} lacks {', '.join(missing)}")
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
            values[field.name] = value.identity() if isinstance(value, Section) else value
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
    if issubclass(hint, Section) and isinstance(value, Mapping):
        return hint.from_dict(value)
    if hint is Options and isinstance(value, Mapping):
        return Options({str(key): _convert(number, float, f"{name}.{key}") for key, number in value.items()})
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and number:
        require(abs(value) < 1e300, f"{name} must be finite, not {_shown(value)}")
        return float(value)
    if isinstance(value, hint) and (hint is not int or number):
        return value
    raise ValueError(f"{name} must be {hint.__name__}, not {_shown(value)}")


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
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
        require(bool(self.name.strip()), "data.name must not be empty")
        require(self.evaluation in ("test", "validation"), "data.evaluation must be 'test' or 'validation'")
        require(
            (self.max_count is None) == (self.imbalance_factor is None),
            "data.max_count and data.imbalance_factor go together: set both for an exponential profile, or neither",
        )
        if self.max_count is not None and self.imbalance_factor is not None:
            require(
                1 <= self.imbalance_factor <= self.max_count,
                f"data.imbalance_factor {self.imbalance_factor:g} must lie between 1 and data.max_count "
                f"{self.max_count}: the smallest class needs an image",
            )
        require(self.validation_images > 0, "data.validation_images must be positive")
        require(self.draw >= 0, "data.draw must not be negative")
        require(self.image_size is None or self.image_size > 0, "data.image_size must be positive")
        names = (*DATASETS, *FILE_DATASETS)
        other = f"data.name {self.name!r} is not one of {', '.join(names)}, so it is a folder of your own, whose images"
        whose = f"the images of {self.name}" if self.name in FILE_DATASETS else other
        require(
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
class ModelConfig(Section):
    """A Vision Transformer by size name, with its patch size in pixels; or a residual network, of patch size 1."""

    size: str
    patch_size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        names = (*MODEL_SIZES, *RESNETS)
        require(self.size in names, f"model.size {self.size!r} is not one of {', '.join(names)}")
        require(self.patch_size >= 1, f"model.patch_size must be at least 1, not {self.patch_size}")
        require(
            self.size in MODEL_SIZES or self.patch_size == 1,
            f"model.patch_size must be 1, not {self.patch_size}: {self.size} takes no patches",
        )


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Section):
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
        require(self.shift >= 0, f"augment.shift must not be negative, not {self.shift}")
        scale = self.crop_min_scale
        require(scale is None or 0 < scale <= 1, f"augment.crop_min_scale must lie in (0, 1], not {scale}")
        require(0 <= self.random_erasing <= 1, "augment.random_erasing must be a probability")


@dataclass(frozen=True, kw_only=True)
class StageConfig(Section):
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
        require(self.epochs >= 1, f"epochs must be at least 1, not {self.epochs}")
        require(
            0 <= self.warmup_epochs < self.epochs,
            f"warmup_epochs {self.warmup_epochs:g} must be shorter than training ({self.epochs} epochs)",
        )
        require(self.batch_size >= 1, f"batch_size must be at least 1, not {self.batch_size}")
        require(
            self.accumulation_steps >= 1 and self.batch_size % self.accumulation_steps == 0,
            f"accumulation_steps {self.accumulation_steps} must divide batch_size {self.batch_size}",
        )
        require(0 <= self.min_lr <= self.lr and self.base_lr > 0, "need base_lr > 0 and 0 <= min_lr <= peak rate")
        require(0 <= self.beta1 < 1 and 0 <= self.beta2 < 1, "beta1 and beta2 must lie in [0, 1)")
        require(self.weight_decay >= 0, f"weight_decay must not be negative, not {self.weight_decay}")
        require(self.clip_grad is None or self.clip_grad > 0, "clip_grad must be positive or null")
        require(self.precision in PRECISIONS, f"precision {self.precision!r} is not one of {', '.join(PRECISIONS)}")

    @property
    def lr(self) -> float:
        """Peak learning rate."""
        return self.base_lr * self.batch_size / 256


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(StageConfig):
    """MGP: a masked autoencoder on the training images, without labels (He et al., CVPR 2022).

    ``probes``: how many times the features are probed with labels, at equal distances from the start to the end of
    training; the probes read and never train the encoder. ``data``: other images to pretrain on, or of another size;
    None takes those of the recipe. ``seed``: of this stage, from which fine-tunings with other seeds can then start;
    None takes that of the recipe (the fine-tuning is then another run than with the same number here).
    """

    beta2: float = 0.95
    mask_ratio: float = 0.75
    normalize_targets: bool = True
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    probes: int = 0
    data: DataConfig | None = since(2, None)
    seed: int | None = since(2, None)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.seed is None or self.seed >= 0, f"pretrain.seed must not be negative, not {self.seed}")
        require(self.probes == 0 or self.probes >= 2, f"probes must be 0, or at least 2, not {self.probes}")
        require(0 < self.mask_ratio < 1, f"mask_ratio must lie inside (0, 1), not {self.mask_ratio}")
        require(min(self.decoder_depth, self.decoder_heads) >= 1, "decoder_depth and decoder_heads must be positive")
        require(
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
        require(self.tau >= 0, f"finetune.tau must not be negative, not {self.tau}")
        require(self.start in STARTS, f"finetune.start {self.start!r} is not one of {', '.join(STARTS)}")
        require(self.smoothing_target in STARTS[1:], "finetune.smoothing_target must be 'uniform' or 'prior'")
        require(0 < self.layer_decay <= 1, f"finetune.layer_decay must lie in (0, 1], not {self.layer_decay}")
        require(0 <= self.drop_path < 1, f"finetune.drop_path must lie in [0, 1), not {self.drop_path}")
        require(0 <= self.label_smoothing < 1, "finetune.label_smoothing must lie in [0, 1)")
        require(self.mixup >= 0 and self.cutmix >= 0, "finetune.mixup and finetune.cutmix must not be negative")
        require(self.sampling in SAMPLINGS, f"sampling {self.sampling!r} is not one of {', '.join(SAMPLINGS)}")
        mixes = self.mixup > 0 or self.cutmix > 0
        require(
            not mixes or self.batch_size // self.accumulation_steps % 2 == 0,
            "mixup and cutmix pair images: batch_size / accumulation_steps must be even",
        )
