"""Optimisation: the learning rate as a pure function of the step, layer-wise decay, and one optimiser step."""

import math
import re
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from livt.config import StageConfig
from livt.distributed import mean, size, without_averaging


class NonFiniteLossError(FloatingPointError):
    """The loss became nan or infinite; the message names the run, the step and the last good state."""


def learning_rate(step: int, *, warmup_steps: int, total_steps: int, lr: float, min_lr: float) -> float:
    """Return the learning rate at ``step``: linear from 0 to ``lr`` over the warm-up, then half a cosine to ``min_lr``.

    From ``total_steps`` on it stays at ``min_lr``. Raises ValueError for a negative step or a warm-up that does not
    fit into ``total_steps``.

    >>> [round(learning_rate(s, warmup_steps=2, total_steps=6, lr=1.0, min_lr=0.0), 3) for s in range(7)]
    [0.0, 0.5, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if total_steps < 1 or not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"need 0 <= warmup_steps <= total_steps >= 1, got {warmup_steps} and {total_steps}")
    if step < 0:
        raise ValueError(f"step must not be negative, got {step}")
    if step < warmup_steps:
        return lr * step / warmup_steps
    if step >= total_steps:
        return min_lr
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def layer_decay_groups(model: nn.Module, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters of a timm ViT into AdamW groups with an ``lr_scale`` each.

    Embeddings are layer 0, block ``i`` is layer ``i + 1``, everything after the blocks is the last layer;
    ``lr_scale = layer_decay ** (last - layer)``. 1-D parameters, tokens and positions are not decayed.
    The loop multiplies the learning rate by ``lr_scale``. Source: BEiT and MAE fine-tuning.
    """
    if not (0 < layer_decay <= 1 and weight_decay >= 0):
        raise ValueError(f"need 0 < layer_decay <= 1 and weight_decay >= 0, got {layer_decay} and {weight_decay}")
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    block = {name: int(m[1]) for name in named if (m := re.match(r"blocks\.(\d+)\.", name))}
    last = max(block.values(), default=-1) + 2
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in named.items():
        if name in block:
            layer = block[name] + 1
        else:
            layer = 0 if name.startswith(("patch_embed.", "cls_token", "pos_embed", "reg_token")) else last
        decayed = parameter.ndim > 1 and not name.endswith(("_token", "pos_embed"))
        group = groups.setdefault(
            (layer, decayed),
            {
                "params": [],
                "weight_decay": weight_decay if decayed else 0.0,
                "lr_scale": layer_decay ** (last - layer),
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def create_optimizer(model: nn.Module, settings: StageConfig, layer_decay: float = 1.0) -> torch.optim.AdamW:
    """Return AdamW over the layer-decay groups of a model."""
    groups = layer_decay_groups(model, settings.weight_decay, layer_decay)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), fused=True)


def epoch_schedule(settings: StageConfig, epoch: int, steps_per_epoch: int) -> list[tuple[int, float]]:
    """Return (step, learning rate) for each step of an epoch, counted from 0: here epochs become steps."""
    total, warmup = settings.epochs * steps_per_epoch, int(settings.warmup_epochs * steps_per_epoch)
    return [
        (step, learning_rate(step, warmup_steps=warmup, total_steps=total, lr=settings.lr, min_lr=settings.min_lr))
        for step in range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch)
    ]


class EpochLoss:
    """The losses of an epoch's steps, each read from the device while it works off the next: a GPU never waits.

    Raises NonFiniteLossError naming the step, counted from ``first_step``, and ``where``.
    """

    def __init__(self, first_step: int, where: str) -> None:
        self.first_step, self.where = first_step, where
        self.values: list[float] = []
        self.last: Tensor | None = None

    def add(self, loss: Tensor) -> None:
        self._read()
        self.last = loss

    def mean(self) -> float:
        self._read()
        return sum(self.values) / len(self.values)

    def _read(self) -> None:
        if self.last is None:
            return
        value, step, self.last = self.last.item(), self.first_step + len(self.values), None
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"the training loss is {value} at step {step} of {self.where}; lower base_lr or set clip_grad"
            )
        self.values.append(value)


def check_finite(model: nn.Module, where: str) -> None:
    """Raise NonFiniteLossError naming ``where`` if a parameter is nan or infinite, so that no such state is saved."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise NonFiniteLossError(f"{name} is no longer finite at {where}; lower base_lr or set clip_grad")


def take_step(
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[..., Tensor],
    parts: Iterable[tuple[Tensor, ...]],
    *,
    lr: float,
    settings: StageConfig,
    model: nn.Module | None = None,
) -> Tensor:
    """Update the parameters once from the mean of ``loss_of(*part)`` over this process's equal parts of the batch.

    ``model``: what ``loss_of`` calls, where several processes average its gradients. Returns the mean loss of the
    parts of all processes, still on the device: asking for its value would make a GPU wait (:class:`EpochLoss`).
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    optimizer.zero_grad(set_to_none=True)
    own = settings.accumulation_steps // size()
    total = torch.zeros((), device=parameters[0].device, dtype=parameters[0].dtype)
    for number, part in enumerate(parts, 1):
        with nullcontext() if number == own else without_averaging(model):
            with torch.autocast(part[0].device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                loss = loss_of(*part) / own
            loss.backward()
        total += loss.detach()
    if settings.clip_grad is not None:
        nn.utils.clip_grad_norm_(parameters, settings.clip_grad)
    optimizer.step()
    return mean(total)
