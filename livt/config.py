"""What to train: a recipe, as frozen keyword-only dataclasses with a JSON round trip and a stable digest.

Its parts are in ``livt.sections``, those of stages that are not the paper's in ``livt.rival_sections``; the names of
both can be imported from here. A recipe is checked when it is made: an impossible value is a ValueError naming the
field, before any work.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from livt.rival_sections import SECOND_SETTINGS as SECOND_SETTINGS
from livt.rival_sections import (
    ClusterConfig,
    DistillConfig,
    MetaConfig,
    SecondConfig,
    TeacherConfig,
    cluster_settings,
    meta_settings,
    second_settings,
)
from livt.sections import DATASETS as DATASETS
from livt.sections import FILE_DATASETS as FILE_DATASETS
from livt.sections import LIMITS as LIMITS
from livt.sections import MODEL_SIZES, DataConfig, FinetuneConfig, ModelConfig, PretrainConfig, Section, require, since
from livt.sections import PRECISIONS as PRECISIONS
from livt.sections import RESNETS as RESNETS
from livt.sections import SAMPLINGS as SAMPLINGS
from livt.sections import STARTS as STARTS
from livt.sections import AugmentConfig as AugmentConfig
from livt.sections import Options as Options
from livt.sections import StageConfig as StageConfig

# Raise this when training changes its meaning: runs of an older format are then trained anew, never mixed in.
RUN_FORMAT = 1

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
MAX_PATCHES = 65_536  # of an image


@dataclass(frozen=True, kw_only=True)
class Recipe(Section):
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
        require(self.seed >= 0, f"seed must not be negative, not {self.seed}")
        patch = self.model.patch_size
        require(
            self.pretrain is None or self.model.size in MODEL_SIZES,
            f"pretrain must be null: a masked autoencoder needs a Vision Transformer, not {self.model.size}",
        )
        if self.distill is not None:
            alone = self.pretrain is None and self.second is None
            require(alone, "distill trains a student from scratch: pretrain and second must be null")
            require(
                self.model.size in MODEL_SIZES,
                f"distill must be null: a student is a Vision Transformer, not {self.model.size}",
            )
        if self.meta is not None:
            others = (self.second, self.cluster, self.teacher, self.distill)
            require(
                all(stage is None for stage in others),
                "meta takes the place of fine-tuning: second, cluster, teacher and distill must be null",
            )
            require(
                self.model.size in MODEL_SIZES,
                f"meta must be null: metadata are tokens of a Vision Transformer, not of {self.model.size}",
            )
            require(
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
            require(
                height % patch == 0 and width % patch == 0,
                f"image size {height} x {width} is not a multiple of model.patch_size {patch}",
            )
            require(
                height // patch * (width // patch) <= MAX_PATCHES,
                f"an image of {height} x {width} has more than {MAX_PATCHES:,} patches of {patch}: raise "
                "model.patch_size",
            )
            shift = 0 if stage is None else stage.augment.shift
            require(
                shift < min(height, width), f"{name}.augment.shift {shift} moves the image ({height} x {width}) away"
            )
        require(self.cluster is None or self.pretrain is not None, "cluster needs pretrain, whose features it clusters")
        if self.pretrain is not None:
            height, width = self.pretrain_data.size
            patches = height // patch * (width // patch)
            visible = int(patches * (1 - self.pretrain.mask_ratio))
            require(
                0 < visible < patches,
                f"pretrain.mask_ratio {self.pretrain.mask_ratio:g} leaves {visible} of {patches} patches visible",
            )
            require(
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

    def seed_of(self, stage: str) -> int:
        """Return the seed of a stage: its own, where its section has one, else that of the recipe."""
        own = getattr(getattr(self, stage), "seed", None)
        return self.seed if own is None else int(own)

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
        require(getattr(self, stage) is not None, f"this recipe has no stage {stage!r}")
        parts, waiting = set[str](), [stage]
        while waiting:
            parts.add(waiting[-1])
            waiting += STAGES[waiting.pop()]
        values = {key: value for key, value in self.identity().items() if key not in STAGES or key in parts}
        # A recipe on these images, or of this seed, shares the run.
        values |= {"data": self.data_of(stage).identity(), "seed": self.seed_of(stage)}
        for key in ("data", "seed"):
            values[stage].pop(key, None)
        return {"format": RUN_FORMAT, "stage": stage, **values}


@dataclass(frozen=True, kw_only=True)
class Engine(Section):
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
        require(self.workers is None or self.workers >= 0, f"workers must not be negative, not {self.workers}")


def with_overrides(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """Return the recipe with values set by dotted path, such as ``{"finetune.tau": 1.05}``.

    A string is read as JSON where that gives the field's type. In a recipe without a second stage, ``second.method``
    brings one, with the settings of its fine-tuning and of the method's paper, and so do ``cluster.method`` and
    ``meta.concentration``: the defaults of ``livt.rival_sections``. Unknown paths, wrong types and impossible values
    are a ValueError that names the path.
    """
    later = {path: value for path, value in overrides.items() if path.startswith(("second.", "cluster.", "meta."))}
    values = overridden(recipe.to_dict(), {path: overrides[path] for path in overrides if path not in later})
    for path in later:
        name = path.partition(".")[0]
        if values[name] is None:
            key = "concentration" if name == "meta" else "method"
            given = later.get(f"{name}.{key}")
            kind = {"second": "second stage", "cluster": "clustering", "meta": "stage with metadata"}[name]
            require(given is not None, f"{path}: this recipe has no {kind}: set {name}.{key}")
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


def overridden(values: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Set nested values by dotted path, in place, and return them; a string is read as :func:`with_overrides` does.

    Raises ValueError for an unknown path.
    """
    for path, value in overrides.items():
        *parents, key = path.split(".")
        section = values
        for parent in parents:
            require(isinstance(section.get(parent), dict), f"{path}: {parent!r} is not a section of this recipe")
            section = section[parent]
        is_open = parents[-1:] == ["options"]  # which names it knows, the loss says
        require(is_open or key in section, f"{path}: unknown key {key!r}; known here: {', '.join(section)}")
        if isinstance(value, str) and not isinstance(section.get(key), str):
            with contextlib.suppress(ValueError):  # a plain word is for the type check to judge, and so is a long one
                value = json.loads(value)
        section[key] = value
    return values


def digest(config: Mapping[str, Any], data_digest: str) -> str:
    """Return the 12-digit hexadecimal digest of a stage's configuration and its data."""
    text = json.dumps([config, data_digest], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
