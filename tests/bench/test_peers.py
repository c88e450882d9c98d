"""Training steps beside the libraries people would use otherwise, in one run: `make bench`.

The peers are ``transformers.ViTMAEForPreTraining`` and timm's ViT with PyTorch's own BCE, as their users write them, at
the same sizes, data, precision and optimiser. Each figure comes with its share of the rate at which this machine
multiplies matrices in the same run. Memory is the peak of a step on a GPU; on a CPU, what the step keeps for its
backward pass. Then how fast images come from files, and what each switch is worth, on and off.
"""

import io
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from statistics import median

import folders
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.models.vision_transformer import Attention
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from livt.config import AugmentConfig, DataConfig, Engine, Recipe, with_overrides
from livt.data.augment import Augment
from livt.data.batches import TrainingBatches, evaluation_batches
from livt.data.sets import load_dataset
from livt.finetune import create_classifier
from livt.lab.recipes import tiny_imagenet_lt
from livt.losses import BalancedBinaryCrossEntropy
from livt.models import compile_model, place
from livt.optim import EpochLoss, create_optimizer, take_step
from livt.pretrain import create_mae

transformers = pytest.importorskip("transformers", reason="the bench extra has the peer: pip install '.[bench]'")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CLASSES = 200
# name: (recipe overrides, batch on a CPU, batch on a GPU)
SHAPES = {
    "tiny/8 at 64 px": ({}, 64, 1024),
    "base/16 at 224 px": (
        {
            "model.size": "base",
            "model.patch_size": 16,
            "data.image_size": 224,
            "pretrain.decoder_width": 512,
            "pretrain.decoder_depth": 8,
            "pretrain.decoder_heads": 16,
        },
        16,  # of few images, the optimiser's part of the time would be far from that of training
        256,
    ),
}


def recipe_of(shape: str, precision: str) -> Recipe:
    overrides = {**SHAPES[shape][0], "pretrain.precision": precision, "finetune.precision": precision}
    return with_overrides(tiny_imagenet_lt(), overrides | {"finetune.drop_path": 0.0})


def peer_mae(recipe: Recipe) -> torch.nn.Module:
    mae, stage = create_mae(recipe), recipe.pretrain
    width, heads, depth = mae.encoder.embed_dim, mae.encoder.blocks[0].attn.num_heads, len(mae.encoder.blocks)
    return transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            image_size=recipe.data.size[0],
            patch_size=recipe.model.patch_size,
            decoder_hidden_size=stage.decoder_width,
            decoder_num_hidden_layers=stage.decoder_depth,
            decoder_num_attention_heads=stage.decoder_heads,
            decoder_intermediate_size=4 * stage.decoder_width,
            mask_ratio=stage.mask_ratio,
            norm_pix_loss=True,
        )
    )


@cache
def matrix_rate(precision: str) -> float:
    """Return floating-point operations per second of a large matrix product, the best of some."""
    size = 8192 if DEVICE.type == "cuda" else 2048
    a = torch.randn(size, size, device=DEVICE, dtype=getattr(torch, precision))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        (a @ a).sum().item()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def a_batch(recipe: Recipe, count: int) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 3, *recipe.data.size, device=DEVICE), torch.arange(count, device=DEVICE) % CLASSES


def our_step(recipe: Recipe, stage: str, count: int, switch: str = "") -> Callable[[], float]:
    """Return a training step as both stages take it, with one switch turned."""
    settings, batch = getattr(recipe, stage), a_batch(recipe, count)
    model = create_mae(recipe) if stage == "pretrain" else create_classifier(recipe)
    place(model, DEVICE, settings.precision).train()
    if switch == "checkpointing":
        model.checkpointing = True
        if stage == "finetune":
            model.set_grad_checkpointing(True)
    if switch == "the other attention":
        for module in model.modules():
            if isinstance(module, Attention):
                module.fused_attn = not module.fused_attn
    optimizer = create_optimizer(model, settings)
    if switch == "AdamW not fused":
        optimizer = torch.optim.AdamW(optimizer.param_groups, betas=(settings.beta1, settings.beta2), fused=False)
    if switch == "compiled":
        compile_model(model)
    criterion = BalancedBinaryCrossEntropy([10] * CLASSES).to(DEVICE)

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        return model(images, settings.mask_ratio).loss if stage == "pretrain" else criterion(model(images), labels)

    return lambda: take_step(optimizer, loss_of, [batch], lr=1e-5, settings=settings).item()


def peer_step(recipe: Recipe, stage: str, count: int) -> Callable[[], float]:
    """Return a training step as users of the peers write it."""
    images, labels = a_batch(recipe, count)
    model = (peer_mae(recipe) if stage == "pretrain" else create_classifier(recipe)).to(DEVICE).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def loss_of() -> Tensor:
        if stage == "pretrain":
            return model(images).loss
        logits = model(images)
        targets = F.one_hot(labels, CLASSES).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / count

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=getattr(recipe, stage).precision == "bfloat16"):
            loss = loss_of()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def flops_of(step: Callable[[], float]) -> int:
    with FlopCounterMode(display=False) as counter:
        assert math.isfinite(step())
    return counter.get_total_flops()


def memory_of(step: Callable[[], float]) -> float:
    """Return in MB what a step takes beyond what is held before it."""
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - held) / 1e6
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(kept.values()) / 1e6


def labels_of(seconds: float, count: int, precision: str, flops: int, memory: float | None) -> dict[str, float | None]:
    share = 100 * flops / seconds / matrix_rate(precision)
    return {"images/s": count / seconds, "% of matrix rate": share, "MB": memory}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("shape", SHAPES)
def test_step_beside_a_peer(benchmark, side_by_side, shape, stage, precision):
    """In bfloat16 also beside the peer in its default precision."""
    benchmark.group = f"{stage}, {shape}, {precision}, {DEVICE.type}"
    count = SHAPES[shape][2 if DEVICE.type == "cuda" else 1]
    recipe = recipe_of(shape, precision)
    steps = {"livt": our_step(recipe, stage, count), "peer": peer_step(recipe, stage, count)}
    if precision != "float32":
        steps["peer in float32"] = peer_step(recipe_of(shape, "float32"), stage, count)
    costs = {name: (flops_of(step), memory_of(step)) for name, step in steps.items()}

    def label(name: str, seconds: float) -> dict[str, float | None]:
        return labels_of(seconds, count, "float32" if name.endswith("float32") else precision, *costs[name])

    side_by_side(steps.pop("livt"), steps, 10 if count >= 64 else 3, label)


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "evaluation"])
@pytest.mark.parametrize("form", ["tree", "shards"])
def test_images_from_files(benchmark, side_by_side, tmp_path, monkeypatch, form, stage):
    benchmark.group = f"{stage} from {form}, JPEG of 341 x 256 and about 24 KB to 224 px, one loading process"
    monkeypatch.setattr(folders, "picture", photograph)
    folders.prepare(tmp_path, form)
    monkeypatch.setenv("LIVT_DATA", str(tmp_path))
    load_dataset.cache_clear()
    data = load_dataset(DataConfig(name="places_lt", image_size=224))
    load_dataset.cache_clear()
    crops = AugmentConfig(crop_min_scale=0.2, flip=True)
    randomly = AugmentConfig(crop_min_scale=0.08, flip=True, rand_augment="rand-m9-mstd0.5-inc1", random_erasing=0.25)
    augment = Augment(randomly if stage == "finetune" else crops, data.mean, data.std)
    settings = replace(tiny_imagenet_lt().finetune, batch_size=32, augment=augment.config)
    engine = Engine(workers=1)
    batches = TrainingBatches(data.train, settings, augment, (0, 2), DEVICE, engine)

    def epoch() -> int:
        if stage == "evaluation":
            return sum(len(images) for images in evaluation_batches(data.evaluation, augment, DEVICE, engine))
        return sum(len(labels) for step in batches.epoch(0) for _, labels in step)

    count = epoch()
    side_by_side(epoch, {}, 3, lambda _, seconds: {"images/s": count / seconds})


def photograph(label: int, number: int) -> bytes:
    """A crop of one of scikit-learn's photographs, as data_prep stores shards."""
    image = Image.fromarray(load_sample_images().images[label % 2])
    left, top = 7 * (label % 40), 5 * (number % 30)
    buffer = io.BytesIO()
    image.crop((left, top, left + 341, top + 256)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_waiting_for_files(benchmark, side_by_side, tmp_path, monkeypatch, stage):
    benchmark.group = f"{stage}, base/16 at 224 px, waiting for files, {DEVICE.type}"
    monkeypatch.setattr(folders, "picture", photograph)
    folders.prepare(tmp_path, "shards")
    monkeypatch.setenv("LIVT_DATA", str(tmp_path))
    load_dataset.cache_clear()
    data = load_dataset(DataConfig(name="places_lt", image_size=224))
    load_dataset.cache_clear()
    count = 128 if DEVICE.type == "cuda" else 4
    recipe = recipe_of("base/16 at 224 px", "bfloat16")
    config = AugmentConfig(crop_min_scale=0.2, flip=True)
    if stage == "finetune":
        config = replace(config, crop_min_scale=0.08, rand_augment="rand-m9-mstd0.5-inc1", random_erasing=0.25)
    augment = Augment(config, data.mean, data.std)
    settings = replace(recipe.finetune, batch_size=count, augment=config, precision="bfloat16", epochs=1000)
    batches = TrainingBatches(data.train, settings, augment, (0, 2), DEVICE, Engine())
    model = create_mae(recipe) if stage == "pretrain" else create_classifier(recipe)
    place(model, DEVICE, settings.precision).train()
    optimizer, criterion = create_optimizer(model, settings), BalancedBinaryCrossEntropy([10] * CLASSES).to(DEVICE)

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        return model(images).loss if stage == "pretrain" else criterion(model(images), labels % CLASSES)

    steps = itertools.chain.from_iterable(map(batches.epoch, itertools.count()))

    waits = []

    def some_steps() -> None:
        waited = batches.waited
        losses = EpochLoss(0, "bench")
        for step in itertools.islice(steps, 7 if DEVICE.type == "cuda" else 4):
            losses.add(take_step(optimizer, loss_of, step, lr=1e-5, settings=settings))
        losses.mean()
        waits.append(batches.waited - waited)

    some_steps()
    side_by_side(some_steps, {}, 3, lambda _, seconds: {"% waiting": 100 * median(waits[-3:]) / seconds})


@pytest.mark.parametrize("switch", ["compiled", "AdamW not fused", "the other attention", "checkpointing"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("shape", SHAPES if DEVICE.type == "cuda" else list(SHAPES)[:1])  # minutes each on a CPU
def test_what_a_switch_is_worth(benchmark, side_by_side, shape, stage, precision, switch):
    """The operations are those of the step as trained: what checkpointing repeats is not counted."""
    benchmark.group = f"{switch}: {stage}, {shape}, {precision}, {DEVICE.type}"
    recipe, count = recipe_of(shape, precision), SHAPES[shape][2 if DEVICE.type == "cuda" else 1]
    steps = {"livt": our_step(recipe, stage, count), "switched": our_step(recipe, stage, count, switch)}
    steps["switched"]()  # compiles
    flops = flops_of(steps["livt"])
    unseen = switch == "compiled" and DEVICE.type == "cpu"  # what compiled code keeps there, no hook sees
    memory = {name: None if unseen and name == "switched" else memory_of(step) for name, step in steps.items()}

    def label(name: str, seconds: float) -> dict[str, float | None]:
        return labels_of(seconds, count, precision, flops, memory[name])

    side_by_side(steps.pop("livt"), steps, 10 if count >= 64 else 3, label)
