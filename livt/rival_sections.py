"""The sections of a recipe for the stages that are not the paper's, and what they hold by default."""

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from livt.sections import RESNETS, SAMPLINGS, AugmentConfig, FinetuneConfig, Options, StageConfig, require, since

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
    "knn_probe": {"epochs": 1},
    "linear_probe": {"epochs": 1},
}


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
        require(self.sampling in SAMPLINGS, f"sampling {self.sampling!r} is not one of {', '.join(SAMPLINGS)}")


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
        require(self.augment == AugmentConfig(), "cluster.augment must be off: features are computed once")
        require(self.tokens in ("mean", "all"), f"cluster.tokens must be 'mean' or 'all', not {self.tokens!r}")
        require(self.temperature > 0, f"cluster.temperature must be positive, not {self.temperature:g}")


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
        require(self.size in RESNETS, f"teacher.size {self.size!r} is not one of {', '.join(RESNETS)}")
        require(self.rho >= 0, f"teacher.rho must not be negative, not {self.rho:g}")


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
            require(0 <= getattr(self, name) < 1, f"distill.{name} must lie in [0, 1), not {getattr(self, name):g}")
        require(0 <= self.share <= 1, f"distill.share must lie in [0, 1], not {self.share:g}")
        require(self.mixup >= 0 and self.cutmix >= 0, "distill.mixup and distill.cutmix must not be negative")
        require(
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
        require(self.concentration >= 0, f"meta.concentration must not be negative, not {self.concentration:g}")
        require(0 <= self.masked <= 1, f"meta.masked must lie in [0, 1], not {self.masked:g}")
        some = self.ancestors == 0 or 2 <= self.ancestors <= 200
        require(some, f"meta.ancestors must be 0, or from 2 to 200 classes, not {self.ancestors}")
        alone = not (self.ancestors and self.concentration)
        require(alone, "meta.concentration must be 0 with meta.ancestors: one kind of metadata at a time")
        require(not (self.mixup or self.cutmix), "meta.mixup and meta.cutmix must be 0: metadata are of one image")
        require(self.sampling == "image", "meta.sampling must be 'image'")


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
