"""Second stages: what follows on a fine-tuned classifier whose trunk stays as it is.

Shapes: ``B`` images of a part of a batch, ``C`` classes.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from livt.config import Engine, Recipe, SecondConfig
from livt.data.augment import Augment
from livt.data.batches import TrainingBatches, apply
from livt.data.images import FileSplit, Split
from livt.data.seeds import one_cpu_thread, seed_everything, seeded
from livt.data.sets import Dataset
from livt.distributed import is_leader, wrap
from livt.evaluate import predict, scores, share_to, summarize
from livt.finetune import create_classifier
from livt.longtail import sampling_shares
from livt.metrics import evaluate_logits
from livt.models import compile_model, place
from livt.optim import EpochLoss, check_finite, epoch_schedule, take_step
from livt.rivals.methods import check_head, method_of, options_of
from livt.run import Run

STAGE = 3  # keeps its random numbers apart from those of pretraining and fine-tuning


def create_second(recipe: Recipe, num_classes: int, first: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Return the model of a recipe's second stage, in evaluation mode, which it never leaves.

    ``first`` are the weights of the fine-tuned classifier; None leaves those of an untrained one. Only what the method
    learns requires a gradient. Raises ValueError for a method or a setting that is not in the table, and for a first
    stage that the method cannot follow on.
    """
    settings = _settings(recipe)
    method = method_of(settings)
    model = create_classifier(recipe, num_classes)
    if first is not None:
        model.load_state_dict(dict(first))
    model.eval().requires_grad_(False)
    try:
        if method.on_head:
            check_head(model, recipe.data.size)
        return method.adapt(model, **options_of(settings)).eval()
    except ValueError as error:
        if str(error).startswith("second."):
            raise
        loss = recipe.finetune.loss
        raise ValueError(f"second.method {method.name!r} cannot follow finetune.loss {loss!r}: {error}") from None


def prepare(model: nn.Module, recipe: Recipe, data: Dataset, augment: Augment, engine: Engine = Engine()) -> None:
    """Let a model with all its weights, on its device, read off the images what its method needs of them."""
    settings, device = _settings(recipe), next(model.parameters()).device

    def look(function: Callable[[Tensor], Tensor], split: Split | FileSplit) -> Tensor:
        def seen(images: Tensor) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                return function(images)

        return apply(seen, split, augment, device, engine)

    method = method_of(settings)
    if method.prepare is not None:
        with seeded(recipe.seed, STAGE, 0):
            method.prepare(model, data, look, **options_of(settings))


def second(
    recipe: Recipe,
    data: Dataset,
    run: Run,
    *,
    first: Mapping[str, Tensor],
    device: torch.device,
    progress: bool = True,
    engine: Engine = Engine(),
) -> None:
    """Train the recipe's second stage on ``data``, the images of ``recipe.data``, and finish ``run``.

    ``first`` are the weights of the fine-tuned classifier. What the run has saved is resumed; the last epoch is the
    result. A method that learns nothing writes one row, without a training loss. Raises ValueError for settings or
    weights that do not fit, NonFiniteLossError when the loss is no longer a number.
    """
    # ---------------------------------------------------------------- what to do
    settings = _settings(recipe)
    method, options = method_of(settings), options_of(settings)
    steps = data.steps_per_epoch(settings.batch_size)

    with one_cpu_thread(device):
        # ---------------------------------------------------------------- model, optimiser, state
        seed_everything(recipe.seed, STAGE, 0)
        net = create_second(recipe, data.num_classes, first)
        place(net, device, settings.precision)
        optimizer = create_optimizer(net, settings, method.slower(**options))
        run.restore(net, optimizer)
        augment = Augment(settings.augment, data.mean, data.std)
        prepare(net, recipe, data, augment, engine)
        if engine.compile:
            compile_model(net)
        criterion = None if method.create is None else method.create(data.class_counts, **options).to(device)
        model = net if criterion is None else wrap(net, device)
        weights = None
        if settings.sampling != "image":
            shares = sampling_shares(settings.sampling, data.class_counts) / np.asarray(data.class_counts)
            weights = torch.from_numpy(shares)[data.train.labels.cpu()]
        batches = TrainingBatches(data.train, settings, augment, (recipe.seed, STAGE), device, engine, weights=weights)

        # ---------------------------------------------------------------- train, evaluate each epoch
        for epoch in run.epochs(settings.epochs, progress):
            row: dict[str, Any] = {"epoch": epoch + 1, "lr": 0.0, "train_loss": None}
            if criterion is not None:
                criterion.begin(epoch, settings.epochs)
                step_loss = partial(_loss, criterion, model)
                schedule = epoch_schedule(settings, epoch, steps)
                losses = EpochLoss(epoch * steps, f"{run.id}; its last good state is the end of epoch {run.saved}")
                for (_, lr), parts in zip(schedule, batches.epoch(epoch), strict=True):
                    losses.add(take_step(optimizer, step_loss, parts, lr=lr, settings=settings, model=model))
                row |= {"lr": max(lr for _, lr in schedule), "train_loss": losses.mean()}
                if method.project is not None:
                    method.project(net)
                check_finite(net, f"the end of epoch {epoch + 1} of {run.id}")
            logits, labels = predict(net, data.evaluation, augment, settings.precision, engine)
            if is_leader():  # who alone writes
                row |= scores(evaluate_logits(logits, labels, data.class_counts))
            run.save(net, optimizer, row, waited=batches.waited)

        # ---------------------------------------------------------------- the last epoch is the result
        logits, labels = predict(net, data.evaluation, augment, settings.precision, engine)
        if is_leader():
            result = summarize(logits, labels, data.class_counts)
            if criterion is not None:
                result["share_to_95"] = share_to(0.95, run.metrics)
            images = 0 if criterion is None else settings.epochs * steps * settings.batch_size
            run.finish(net.state_dict(), result, images, device)


def create_optimizer(model: nn.Module, settings: SecondConfig, slower: Mapping[str, float]) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters of a model, in groups with an ``lr_scale`` each.

    Matrices alone are decayed, as in fine-tuning. slower: parts of names with the share of the rate of what has them.
    """
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            share = next((share for part, share in slower.items() if part in name), 1.0)
            decay = settings.weight_decay if parameter.ndim > 1 else 0.0
            empty: dict[str, Any] = {"params": [], "weight_decay": decay, "lr_scale": share}
            groups.setdefault((share, parameter.ndim > 1), empty)["params"].append(parameter)
    nothing = [{"params": [], "lr_scale": 1.0}]
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(list(groups.values()) or nothing, lr=settings.lr, betas=betas, fused=bool(groups))


def _loss(criterion: nn.Module, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return criterion(model(images), labels)


def _settings(recipe: Recipe) -> SecondConfig:
    if recipe.second is None:
        raise ValueError("this recipe has no second stage: set second.method")
    return recipe.second
