"""Speed, as ratios within one run: `make bench`. Not part of `make test`, which measures nothing."""

import pytest
import torch
import torch.nn.functional as F

from livt.config import with_overrides
from livt.finetune import create_classifier
from livt.losses import BalancedBinaryCrossEntropy, BinaryCrossEntropy, CrossEntropy
from livt.optim import create_optimizer, take_step
from livt.pretrain import create_mae
from livt.recipes import digit_pairs

BATCH, CLASSES = 1024, 8142
COUNTS = torch.arange(1, CLASSES + 1)
LOSSES = {
    "torch BCE": lambda z, y: (
        F.binary_cross_entropy_with_logits(z, F.one_hot(y, CLASSES).float(), reduction="sum") / BATCH
    ),
    "BCE": BinaryCrossEntropy(),
    "Bal-BCE": BalancedBinaryCrossEntropy(COUNTS),
    "CE": CrossEntropy(),
}


@pytest.mark.benchmark(group="loss, forward and backward, [1024, 8142], float32")
@pytest.mark.parametrize("name", LOSSES)
def test_loss(benchmark, name):
    logits = torch.randn(BATCH, CLASSES, requires_grad=True)
    labels = torch.randint(0, CLASSES, (BATCH,))

    def step():
        logits.grad = None
        LOSSES[name](logits, labels).backward()

    benchmark.pedantic(step, warmup_rounds=2, rounds=10)
    assert logits.grad.isfinite().all()


@pytest.mark.benchmark(group="one training step, digit_pairs, batch 256")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_step(benchmark, stage, precision):
    recipe = with_overrides(digit_pairs(), {f"{stage}.precision": precision})
    settings = getattr(recipe, stage)
    images = torch.randn(256, 3, 8, 16)
    labels = torch.arange(256) % 100
    if stage == "pretrain":
        model = create_mae(recipe)
        batch, loss_of = (images,), lambda x: model(x, settings.mask_ratio).loss
    else:
        model = create_classifier(recipe)
        criterion = BalancedBinaryCrossEntropy([10] * 100)
        batch, loss_of = (images, labels), lambda x, y: criterion(model(x), y)
    optimizer = create_optimizer(model, settings)
    benchmark.pedantic(
        lambda: take_step(optimizer, loss_of, [batch], lr=1e-4, settings=settings).item(),
        warmup_rounds=3,
        rounds=20,
    )
    if benchmark.stats:  # none where benchmarks are switched off
        benchmark.extra_info["images_per_second"] = round(256 / benchmark.stats.stats.median)
