"""Speed, as ratios within one run: `make bench`. Not part of `make test`, which measures nothing."""

import math

import pytest
import torch
import torch.nn.functional as F

from livt.config import with_overrides
from livt.finetune import create_classifier
from livt.lab.recipes import digit_pairs
from livt.losses import BalancedBinaryCrossEntropy, BinaryCrossEntropy, CrossEntropy
from livt.optim import create_optimizer, take_step
from livt.pretrain import create_mae

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCH, CLASSES = 1024, 8142
COUNTS = torch.arange(1, CLASSES + 1)
PEERS = {
    "torch BCE": lambda z, y: (
        F.binary_cross_entropy_with_logits(z, F.one_hot(y, CLASSES).float(), reduction="sum") / BATCH
    ),
    "BCE": BinaryCrossEntropy(),
    "CE": CrossEntropy(),
}


@pytest.mark.parametrize("peer", PEERS)
def test_loss(benchmark, side_by_side, peer):
    benchmark.group = f"Bal-BCE beside {peer}, forward and backward, [1024, 8142], float32, {DEVICE.type}"
    logits = torch.randn(BATCH, CLASSES, device=DEVICE, requires_grad=True)
    labels = torch.randint(0, CLASSES, (BATCH,), device=DEVICE)

    def step_of(loss):
        def step() -> None:
            logits.grad = None
            value = loss(logits, labels)
            value.backward()
            assert math.isfinite(value.item())  # waits for a GPU

        return step

    side_by_side(step_of(BalancedBinaryCrossEntropy(COUNTS).to(DEVICE)), {peer: step_of(PEERS[peer])}, rounds=60)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_step(benchmark, side_by_side, stage, precision):
    benchmark.group = f"{stage}, digit_pairs, batch 256, {precision}, cpu"
    recipe = with_overrides(digit_pairs(), {f"{stage}.precision": precision})
    settings = getattr(recipe, stage)
    images = torch.randn(256, 3, 8, 16)
    labels = torch.arange(256) % 100
    if stage == "pretrain":
        model = create_mae(recipe)
        batch, loss_of = (images,), lambda x: model(x, settings.mask_ratio).loss
    else:
        model = create_classifier(recipe, 100)
        criterion = BalancedBinaryCrossEntropy([10] * 100)
        batch, loss_of = (images, labels), lambda x, y: criterion(model(x), y)
    optimizer = create_optimizer(model, settings)
    side_by_side(
        lambda: take_step(optimizer, loss_of, [batch], lr=1e-4, settings=settings).item(),
        {},
        rounds=20,
        label=lambda _, seconds: {"images/s": 256 / seconds},
    )
