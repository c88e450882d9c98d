"""Training steps beside the libraries people would use otherwise, in one run: `make bench`.

The peers are ``transformers.ViTMAEForPreTraining`` and timm's ViT with PyTorch's own BCE, as their users write them, at
the same sizes, data, precision and optimiser. Each figure comes with its share of the rate at which this machine
multiplies matrices in the same run. Labels: images per second, and share of that rate in percent.
"""

import time
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from livt.config import Recipe, with_overrides
from livt.finetune import create_classifier
from livt.losses import BalancedBinaryCrossEntropy
from livt.optim import create_optimizer, take_step
from livt.pretrain import create_mae
from livt.recipes import tiny_imagenet_lt

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
        4,
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


@pytest.mark.parametrize("who", ["livt", "peer"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("shape", SHAPES)
def test_step_beside_a_peer(benchmark, shape, stage, precision, who):
    benchmark.group = f"{stage}, {shape}, {precision}, {DEVICE.type}"
    recipe = recipe_of(shape, precision)
    settings = getattr(recipe, stage)
    count = SHAPES[shape][2 if DEVICE.type == "cuda" else 1]
    images = torch.randn(count, 3, *recipe.data.size, device=DEVICE)
    labels = torch.arange(count, device=DEVICE) % CLASSES
    if stage == "pretrain":
        model = (create_mae(recipe) if who == "livt" else peer_mae(recipe)).to(DEVICE)
        batch = (images,)
        loss_of = (lambda x: model(x, settings.mask_ratio).loss) if who == "livt" else (lambda x: model(x).loss)
    else:
        model, batch = create_classifier(recipe).to(DEVICE), (images, labels)
        ours = BalancedBinaryCrossEntropy([10] * CLASSES)

        def plain(z, y):
            return F.binary_cross_entropy_with_logits(z, F.one_hot(y, CLASSES).to(z.dtype), reduction="sum") / count

        criterion = ours if who == "livt" else plain

        def loss_of(x, y):
            return criterion(model(x), y)

    model.train()
    if who == "livt":
        optimizer = create_optimizer(model, settings)

        def step():
            return take_step(optimizer, loss_of, [batch], lr=1e-5, settings=settings, where="bench")
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

        def step():
            optimizer.zero_grad()
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bfloat16"):
                loss = loss_of(*batch)
            loss.backward()
            optimizer.step()
            return loss.item()

    with FlopCounterMode(display=False) as counter:
        assert torch.isfinite(torch.tensor(step()))
    benchmark.pedantic(step, warmup_rounds=1, rounds=10 if count >= 64 else 4)
    if benchmark.stats:  # none where benchmarks are switched off
        seconds = benchmark.stats.stats.median
        share = 100 * counter.get_total_flops() / seconds / matrix_rate(precision)
        benchmark.extra_info["images_per_second"] = round(count / seconds, 1)
        benchmark.extra_info["share_of_matrix_rate"] = round(share, 1)
