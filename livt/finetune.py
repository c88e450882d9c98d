"""BFT, balanced fine-tuning: the classifier, from the pretrained encoder or from scratch.

Shapes: ``B`` images of a part of a batch, ``C`` classes.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike
from timm.data.mixup import Mixup
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import one_hot

from livt.config import RESNETS, Engine, FinetuneConfig, Recipe
from livt.data.augment import Augment
from livt.data.batches import TrainingBatches
from livt.data.seeds import one_cpu_thread, seed_everything
from livt.data.sets import Dataset
from livt.distributed import is_leader, wrap
from livt.evaluate import predict, scores, share_to, summarize
from livt.longtail import sampling_shares
from livt.losses import Criterion, loss_of, prior_bias, start_bias
from livt.metrics import evaluate_logits
from livt.models import compile_model, create_vit, load_encoder, place
from livt.optim import EpochLoss, check_finite, create_optimizer, epoch_schedule, take_step
from livt.resnets import ResNet, create_resnet
from livt.run import Run

STAGE = 2  # keeps the random numbers of the two stages apart


def create_loss(settings: FinetuneConfig, class_counts: ArrayLike) -> Criterion:
    """Return the training loss of a recipe; class_counts [C] are those of the training split.

    Raises ValueError for a loss that is not in the table, and for parameters that it cannot use.
    """
    loss = loss_of(settings)
    return loss.create(class_counts, settings.tau, **loss.options | settings.options)


def create_network(recipe: Recipe, num_classes: int, *, drop_path: float = 0.0) -> VisionTransformer | ResNet:
    """Return the untrained classifier of a recipe, as it is before its loss adapts it."""
    size = recipe.model.size
    if size in RESNETS:
        return create_resnet(size, num_classes, drop_path=drop_path)
    return create_vit(size, recipe.data.size, recipe.model.patch_size, num_classes, drop_path=drop_path)


def adapted(settings: FinetuneConfig, network: nn.Module) -> nn.Module:
    """Return the model that a recipe's loss trains: the classifier itself, or what the loss makes of it."""
    loss = loss_of(settings)
    return network if loss.adapt is None else loss.adapt(network, **loss.options | settings.options)


def create_classifier(recipe: Recipe, num_classes: int) -> nn.Module:
    """Return the untrained model of a recipe."""
    return adapted(recipe.finetune, create_network(recipe, num_classes))


def create_mixer(
    settings: FinetuneConfig, class_counts: ArrayLike
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return a function of images [B, 3, H, W] and labels [B] that mixes them and gives targets for a loss.

    Soft targets [B, C] where the settings mix or smooth, else the labels as they are.
    """
    if not (settings.mixup or settings.cutmix or settings.label_smoothing):
        return lambda images, labels: (images, labels)
    counts = torch.as_tensor(np.asarray(class_counts))
    share, classes = settings.label_smoothing, len(counts)
    towards = counts / counts.sum() if settings.smoothing_target == "prior" else torch.full((classes,), 1 / classes)
    mixup = Mixup(settings.mixup, settings.cutmix, label_smoothing=0.0, num_classes=classes)

    def mix(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal towards
        towards = towards.to(images.device)
        if settings.mixup or settings.cutmix:
            images, targets = mixup(images, labels)
        else:
            targets = one_hot(labels, classes).to(torch.float32)
        return images, torch.lerp(targets, towards, share)

    return mix


def finetune(
    recipe: Recipe,
    data: Dataset,
    run: Run,
    *,
    encoder: Mapping[str, Tensor] | None = None,
    device: torch.device,
    progress: bool = True,
    engine: Engine = Engine(),
) -> None:
    """Train the recipe's classifier on ``data``, the images of ``recipe.data``, and finish ``run``.

    ``encoder`` are the weights to start from (:func:`livt.mae.encoder_weights`); None trains from scratch. What the run
    has saved is resumed. The last epoch's weights and metrics are the result, never the best epoch's. Raises ValueError
    for settings or weights that do not fit, NonFiniteLossError when the loss is no longer a number.
    """
    # ---------------------------------------------------------------- what to do
    settings = recipe.finetune
    loss = loss_of(settings)
    steps = data.steps_per_epoch(settings.batch_size)

    with one_cpu_thread(device):
        # ---------------------------------------------------------------- model, optimiser, state
        seed_everything(recipe.seed, STAGE, 0)
        network = create_network(recipe, data.num_classes, drop_path=settings.drop_path)
        loaded = None
        if encoder is not None and isinstance(network, VisionTransformer):  # no other network has a pretraining stage
            loaded = load_encoder(network, encoder)
        start = start_bias(settings.loss, settings.start, data.class_counts, settings.tau)
        with torch.no_grad():
            network.get_classifier().bias.copy_(start)
        network.set_grad_checkpointing(engine.checkpointing)
        net = adapted(settings, network)
        place(net, device, settings.precision)
        optimizer = create_optimizer(net, settings, settings.layer_decay)
        run.restore(net, optimizer)
        if engine.compile:
            compile_model(net)
        model = wrap(net, device)
        criterion = create_loss(settings, data.class_counts).to(device)
        mix = create_mixer(settings, data.class_counts)
        augment = Augment(settings.augment, data.mean, data.std)
        weights = None
        if settings.sampling != "image":
            shares = sampling_shares(settings.sampling, data.class_counts) / data.class_counts
            weights = torch.from_numpy(shares)[data.train.labels.cpu()]
        batches = TrainingBatches(
            data.train, settings, augment, (recipe.seed, STAGE), device, engine, weights=weights, views=loss.views
        )

        def step_loss(images: Tensor, labels: Tensor) -> Tensor:
            mixed, targets = mix(images, labels)
            return criterion(model(mixed), targets)

        # ---------------------------------------------------------------- train, evaluate each epoch
        for epoch in run.epochs(settings.epochs, progress):
            net.train()
            criterion.begin(epoch, settings.epochs)
            schedule = epoch_schedule(settings, epoch, steps)
            losses = EpochLoss(epoch * steps, f"{run.id}; its last good state is the end of epoch {run.saved}")
            for (_, lr), parts in zip(schedule, batches.epoch(epoch), strict=True):
                losses.add(take_step(optimizer, step_loss, parts, lr=lr, settings=settings, model=model))
            train_loss = losses.mean()
            check_finite(net, f"the end of epoch {epoch + 1} of {run.id}")
            logits, labels = predict(net, data.evaluation, augment, settings.precision, engine)
            row = {"epoch": epoch + 1, "lr": max(lr for _, lr in schedule), "train_loss": train_loss}
            if is_leader():  # who alone writes
                row |= scores(evaluate_logits(logits, labels, data.class_counts))
            run.save(net, optimizer, row, waited=batches.waited)

        # ---------------------------------------------------------------- the last epoch is the result
        logits, labels = predict(net, data.evaluation, augment, settings.precision, engine)
        if is_leader():
            result = summarize(logits, labels, data.class_counts)
            if loss.bias is None:
                adjusted = logits.double() - prior_bias(loss, data.class_counts)
                result["posthoc"] = scores(evaluate_logits(adjusted, labels, data.class_counts))
            result["share_to_95"] = share_to(0.95, run.metrics)
            result["fresh"] = loaded and loaded.fresh
            run.finish(net.state_dict(), result, settings.epochs * steps * settings.batch_size, device)
