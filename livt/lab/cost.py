"""What training would take, told before anything trains: parameters, floating-point operations, memory and hours.

All are read off the model on no device at all: nothing is computed but, for a machine that has no run to tell its
speed, how fast it multiplies large matrices. Hours and memory are estimates.
"""

import statistics
import time
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from livt.clustering import methods as clustering
from livt.clustering.cluster import Prototypes
from livt.config import DataConfig, Options, Recipe, StageConfig
from livt.data.sets import Overview, check_stage, overview, steps_of
from livt.lab.environment import device_name
from livt.lab.runs import Record
from livt.lab.stages import STAGES
from livt.longtail import GROUPS, shot_groups
from livt.losses import loss_of
from livt.rivals.methods import method_of

# The least and most of the rate at which a device multiplies large matrices that training steps were seen to use:
# from the smallest models to ViT-Base. On a GPU they are assumed, as in livt.lab.recipes.
SHARES = {"cpu": (0.08, 0.7), "cuda": (0.05, 0.4)}
# Weight, gradient and AdamW's two moments in float32, and a copy of the weight in bfloat16; of a weight that is not
# trained, the first and the last.
BYTES_PER_PARAMETER, BYTES_UNTRAINED = 18, 6
# Settings of a stage that change no image's cost, at one value each.
_ALIKE = {
    **{field.name: field.default for field in fields(StageConfig) if field.default is not MISSING},
    **{"epochs": 1, "warmup_epochs": 0.0, "batch_size": 1, "base_lr": 1.0, "beta2": 0.9},
}
_UNMIXED = dict.fromkeys(("mixup", "cutmix", "label_smoothing"), 0.0)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one stage of a recipe. flops: of one training image, forward and backward. memory: bytes of the model, its
    optimiser and the activations of one part of a batch; images: bytes of all images where they are held in memory.
    """

    stage: str
    found: Overview
    parameters: int
    flops: int
    steps_per_epoch: int
    epochs: int
    batch_size: int
    memory: int
    images: int

    @property
    def trained_images(self) -> int:
        """The images that are seen in training, repeated ones counted again."""
        return self.epochs * self.steps_per_epoch * self.batch_size


def cost_of(stage: str, recipe: Recipe) -> Cost:
    """Return what a stage of a recipe takes. Raises ValueError where it cannot train on its data; no image is read."""
    settings, data = getattr(recipe, stage), recipe.data_of(stage)
    found = overview(data)
    total = int(found.class_counts.sum())
    check_stage(recipe, stage, total, found.in_files)
    classes = len(found.class_counts)
    model = _on_no_device(stage, recipe, classes)
    part = settings.batch_size // settings.accumulation_steps
    two, three = (_kept(recipe, stage, classes, n) for n in (2, 3))
    held = 0 if found.in_files else (total + found.evaluation_images) * 3 * data.size[0] * data.size[1]
    return Cost(
        stage=stage,
        found=found,
        parameters=parameters_of(stage, recipe, classes),
        flops=flops_of(stage, recipe, classes),
        steps_per_epoch=steps_of(total, settings.batch_size),
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        memory=sum(p.numel() * _bytes_of(p) for p in model.parameters()) + (three - two) * part,
        images=held,
    )


def _bytes_of(parameter: Tensor) -> int:
    return BYTES_PER_PARAMETER if parameter.requires_grad else BYTES_UNTRAINED


def _on_no_device(stage: str, recipe: Recipe, classes: int) -> nn.Module:
    with torch.device("meta"):
        return STAGES[stage].model(recipe, classes).train(stage != "second")


def parameters_of(stage: str, recipe: Recipe, classes: int) -> int:
    """Return the parameters of a stage's model, those that it does not train among them."""
    return _parameters(stage, _shape(stage, recipe), classes)


@cache
def _parameters(stage: str, recipe: Recipe, classes: int) -> int:
    return sum(p.numel() for p in _on_no_device(stage, recipe, classes).parameters())


def flops_of(stage: str, recipe: Recipe, classes: int) -> int:
    """Return the floating-point operations of one image's step: matrix products and convolutions, there and back.

    What is not trained has no way back, and a second stage that learns nothing looks at its images once, if at all.
    A teacher's step by SAM takes two passes; of a student's step, the teacher's look at the image is a part.
    """
    return _flops(stage, _shape(stage, recipe), classes)


def _shape(stage: str, recipe: Recipe) -> Recipe:
    """Return a recipe that has the same model and views in a stage, and nothing else of its own: those cost the same.

    Costs are counted once for all of these.
    """
    loss = loss_of(recipe.finetune)
    same: dict[str, Any] = _ALIKE | {"sampling": "image", "start": "zero", "drop_path": 0.0, **_UNMIXED}
    if loss.adapt is None and loss.views == 1:
        same |= {"loss": "ce", "options": Options(), "tau": 1.0}
    finetune = replace(recipe.finetune, **same)
    if stage == "cluster":
        return replace(recipe, seed=0, finetune=finetune, second=None)  # its features are those of a pretraining
    pretrain = teacher = student = None
    if stage == "pretrain" and recipe.pretrain is not None:
        pretrain = replace(recipe.pretrain, **_ALIKE)
    later = recipe.second if stage == "second" else None
    if stage in ("teacher", "distill") and recipe.teacher is not None:
        teacher = replace(recipe.teacher, **_ALIKE, mixup=0.0, cutmix=0.0)
    if stage == "distill" and recipe.distill is not None:
        student = replace(recipe.distill, **_ALIKE, share=1.0, mixup=0.0, cutmix=0.0)
    meta = recipe.meta if stage == "meta" else None
    if meta is not None:
        meta = replace(meta, **same, concentration=0.0, masked=1.0)
    changed: dict[str, Any] = {
        "data": DataConfig(name=recipe.data.name, image_size=recipe.data.image_size),
        "pretrain": pretrain,
        "finetune": finetune,
        "second": later,
        "teacher": teacher,
        "distill": student,
        "cluster": None,
        "meta": meta,
    }
    return replace(recipe, seed=0, **changed)


@cache
def _flops(stage: str, recipe: Recipe, classes: int) -> int:
    if recipe.second is not None and stage == "second":
        method = method_of(recipe.second)
        if method.create is None and method.prepare is None:
            return 0
    if recipe.cluster is not None and stage == "cluster" and not clustering.method_of(recipe.cluster).learns:
        return 0
    model = _on_no_device(stage, recipe, classes)  # not counted: what is looked at in making it
    with torch.device("meta"):
        images = _input(stage, recipe, model, 2)  # one has no batch statistics
    teacher = None if recipe.teacher is None else _on_no_device("teacher", recipe, classes)
    with FlopCounterMode(display=False) as counter:
        loss = _trained_by(model, recipe, stage, images)
        if loss.requires_grad:
            loss.backward()
        if stage == "distill" and teacher is not None:
            with torch.no_grad():
                teacher(images)
    passes = 2 if stage == "teacher" and recipe.teacher is not None and recipe.teacher.rho else 1
    return passes * counter.get_total_flops() // 2


def _input(stage: str, recipe: Recipe, model: nn.Module, images: int) -> Tensor:
    """Return what a stage's model takes of so many images: these, or their features, which clustering computes once."""
    if isinstance(model, Prototypes):
        return torch.zeros(images, model.weight.shape[1])
    return torch.zeros(images * _views(stage, recipe), 3, *recipe.data_of(stage).size)


def _trained_by(model: nn.Module, recipe: Recipe, stage: str, images: Tensor) -> Tensor:
    """Return a scalar that a stage could train by: a masked autoencoder's loss, the sum of what another model gives."""
    if stage == "pretrain" and recipe.pretrain is not None:
        return model(images, recipe.pretrain.mask_ratio).loss
    outputs = model(images)  # a tensor, whose rows are summed, or several
    return sum((output.sum() for output in outputs), torch.zeros((), device=images.device))


def _views(stage: str, recipe: Recipe) -> int:
    settings = {"finetune": recipe.finetune, "teacher": recipe.teacher}.get(stage)
    return 1 if settings is None else loss_of(settings).views


def _kept(recipe: Recipe, stage: str, classes: int, images: int) -> int:
    """Return the bytes that autograd keeps of a forward pass of so many images, parameters left out.

    The tensors are fakes, of a shape and a type and without content.
    """
    model = _on_no_device(stage, recipe, classes)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        own = {p.untyped_storage()._cdata for p in model.parameters()}
        storages: dict[int, torch.UntypedStorage] = {}  # held, so that no two have one address

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage
            return tensor

        narrow = torch.autocast("cpu", torch.bfloat16, enabled=getattr(recipe, stage).precision == "bfloat16")
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), narrow:
            seen = _input(stage, recipe, model, images)
            _trained_by(model, recipe, stage, seen)
        return sum(storage.nbytes() for address, storage in storages.items() if address not in own)


# ---------------------------------------------------------------- time


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Floating-point operations a second of training, at least and at most, and what that is taken from."""

    low: float
    high: float
    source: str


def speed_of(stage: str, recipe: Recipe, cost: Cost, device: torch.device, records: Iterable[Record]) -> Speed:
    """Return how fast this machine trains a stage: as runs of the same model here did, else as it multiplies."""
    name = device_name(device)
    seen = [
        record
        for record in records
        if record.stage == stage
        and record.environment["device"] == name
        and _alike(record, stage, recipe)
        and record.environment["images_per_second"] > 0  # a second stage that learns nothing tells no speed
    ]
    if seen:
        rates = [record.environment["images_per_second"] for record in seen]
        what = f"{len(seen)} runs of this model on this kind of machine, {statistics.median(rates):,.0f} images/s"
        return Speed(low=min(rates) * cost.flops, high=max(rates) * cost.flops, source=what)
    rate = _multiplication(device, getattr(recipe, stage).precision)
    low, high = SHARES.get(device.type, SHARES["cuda"])
    source = f"{100 * low:.0f} to {100 * high:.0f} % of the {rate / 1e9:,.0f} GFLOP/s of a large matrix product here"
    return Speed(low=low * rate, high=high * rate, source=source)


def _alike(record: Record, stage: str, recipe: Recipe) -> bool:
    """Whether a run has the model, the image size and the settings that decide how long a step takes."""
    config, own = record.config, recipe.stage(stage)
    sizes = [values["data"].get("image_size") for values in (config, own)], [v["data"]["name"] for v in (config, own)]
    decoder = ("mask_ratio", "decoder_width", "decoder_depth")
    decisive = ("batch_size", "accumulation_steps", "precision", "method", "size", "rho", *decoder)
    same = config.get("teacher", {}).get("size") == own.get("teacher", {}).get("size")
    same &= all(config[stage].get(key) == own[stage].get(key) for key in decisive)
    return same and config["model"] == own["model"] and all(len(set(pair)) == 1 for pair in sizes)


def _multiplication(device: torch.device, precision: str) -> float:
    """Return the floating-point operations a second of a matrix product, on one CPU thread or one GPU."""
    side = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = torch.ones(side, side, dtype=dtype, device=device)
        rates = []
        for _ in range(4):  # the first warms up
            start = time.perf_counter()
            (one @ one)[0, 0].item()
            rates.append(2 * side**3 / (time.perf_counter() - start))
    finally:
        torch.set_num_threads(threads)
    return max(rates)


def hours(cost: Cost, speed: Speed) -> tuple[float, float]:
    """Return the hours of a stage on one device, at least and at most; evaluation and loading come on top."""
    total = cost.flops * cost.trained_images / 3600
    return total / speed.high, total / speed.low


def counts_text(found: Overview) -> str:
    """Return the images of a data set and their imbalance in a line."""
    counts = found.class_counts
    groups = shot_groups(counts)
    sizes = ", ".join(f"{int((groups == group).sum()):,} {group}" for group in GROUPS)
    return (
        f"{int(counts.sum()):,} to train on, {len(counts):,} classes of {counts.max():,} to {counts.min():,} "
        f"({sizes}); {found.evaluation_images:,} to evaluate on"
    )
