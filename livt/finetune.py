"""BFT, balanced fine-tuning: the classifier, from the pretrained encoder or from scratch.

Shapes: ``B`` images of a part of a batch, ``C`` classes.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from safetensors.torch import load_file
from timm.data.mixup import Mixup
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import one_hot

from livt.augment import Augment, evaluation_crop, one_cpu_thread, seed_everything
from livt.batches import TrainingBatches
from livt.config import Engine, FinetuneConfig, Recipe
from livt.data import Dataset, check_fit, load_dataset
from livt.distributed import is_leader, wrap
from livt.evaluate import predict
from livt.images import FileSplit
from livt.losses import (
    BalancedBinaryCrossEntropy,
    BalancedCrossEntropy,
    BinaryCrossEntropy,
    CrossEntropy,
    balanced_bce_bias,
    balanced_ce_bias,
    start_bias,
)
from livt.metrics import Metrics, confidences, evaluate_logits, reliability
from livt.models import LoadReport, compile_model, create_vit, load_encoder, place, timm_config
from livt.optim import EpochLoss, check_finite, create_optimizer, epoch_schedule, take_step
from livt.runs import Record, RunError, RunStore, dump_json, write_atomically

STAGE = 2  # keeps the random numbers of the two stages apart


def create_loss(settings: FinetuneConfig, class_counts: ArrayLike) -> nn.Module:
    """Return the training loss by its recipe name; class_counts [C] are those of the training split."""
    match settings.loss:
        case "ce":
            return CrossEntropy()
        case "bce":
            return BinaryCrossEntropy()
        case "bal_ce":
            return BalancedCrossEntropy(class_counts, settings.tau)
        case _:
            return BalancedBinaryCrossEntropy(class_counts, settings.tau)


def create_classifier(recipe: Recipe, *, drop_path: float = 0.0) -> VisionTransformer:
    """Return the untrained classifier of a recipe."""
    size, patch_size = recipe.model.size, recipe.model.patch_size
    return create_vit(size, recipe.data.size, patch_size, recipe.data.num_classes, drop_path=drop_path)


def load_pretrained(vit: VisionTransformer, recipe: Recipe, store: RunStore) -> tuple[str, LoadReport]:
    """Load the encoder of the recipe's pretraining run, and return that run's id and what was loaded.

    Raises RunError where that run is missing, unfinished, or damaged.
    """
    run_id = store.id(recipe.stage("pretrain"), load_dataset(recipe.pretrain_data).digest)
    if not store.is_finished(run_id):
        raise RunError(f"the pretraining run {run_id} is not finished in {store.root}: pretrain this recipe first")
    store.load(run_id)
    state = load_file(store.weights(run_id))
    encoder = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    return run_id, load_encoder(vit, encoder)


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
    recipe: Recipe, store: RunStore, *, device: str = "cpu", progress: bool = True, engine: Engine = Engine()
) -> Record:
    """Train the recipe's classifier, or return the finished run; resume what was interrupted.

    The last epoch's weights and metrics are the result, never the best epoch's. Raises ValueError for settings that
    do not fit the data, RunError for a damaged run or a missing pretraining run, NonFiniteLossError when the loss is
    no longer a number.
    """
    # ---------------------------------------------------------------- what to do
    settings, on = recipe.finetune, torch.device(device)
    check_fit(recipe)
    data = load_dataset(recipe.data)
    steps = data.steps_per_epoch(settings.batch_size)

    with one_cpu_thread(on), store.open(recipe.stage("finetune"), data.digest, on) as run:
        if run.finished:
            return store.load_for_all(run.id)

        # ---------------------------------------------------------------- model, optimiser, state
        seed_everything(recipe.seed, STAGE, 0)
        vit = create_classifier(recipe, drop_path=settings.drop_path)
        source, report = load_pretrained(vit, recipe, store) if recipe.pretrain else (None, None)
        start = start_bias(settings.loss, settings.start, data.class_counts, settings.tau)
        with torch.no_grad():
            vit.head.bias.copy_(start)
        place(vit, on, settings.precision)
        vit.set_grad_checkpointing(engine.checkpointing)
        optimizer = create_optimizer(vit, settings, settings.layer_decay)
        run.restore(vit, optimizer)
        if engine.compile:
            compile_model(vit)
        model = wrap(vit, on)
        criterion = create_loss(settings, data.class_counts).to(on)
        mix = create_mixer(settings, data.class_counts)
        augment = Augment(settings.augment, data.mean, data.std)
        batches = TrainingBatches(data.train, settings, augment, (recipe.seed, STAGE), on, engine)

        def loss_of(images: Tensor, labels: Tensor) -> Tensor:
            mixed, targets = mix(images, labels)
            return criterion(model(mixed), targets)

        # ---------------------------------------------------------------- train, evaluate each epoch
        for epoch in run.epochs(settings.epochs, progress):
            vit.train()
            schedule = epoch_schedule(settings, epoch, steps)
            losses = EpochLoss(epoch * steps, f"{run.id}; its last good state is the end of epoch {run.saved}")
            for (_, lr), parts in zip(schedule, batches.epoch(epoch), strict=True):
                losses.add(take_step(optimizer, loss_of, parts, lr=lr, settings=settings, model=model))
            train_loss = losses.mean()
            check_finite(vit, f"the end of epoch {epoch + 1} of {run.id}")
            logits, labels = predict(vit, data.evaluation, augment, settings.precision, engine)
            row = {"epoch": epoch + 1, "lr": max(lr for _, lr in schedule), "train_loss": train_loss}
            if is_leader():  # who alone writes
                row |= _scores(evaluate_logits(logits, labels, data.class_counts))
            run.save(vit, optimizer, row, waited=batches.waited)

        # ---------------------------------------------------------------- the last epoch is the result
        logits, labels = predict(vit, data.evaluation, augment, settings.precision, engine)
        if is_leader():
            result = summarize(logits, labels, data.class_counts)
            if not settings.loss.startswith("bal_"):
                bias_of = balanced_bce_bias if settings.loss == "bce" else balanced_ce_bias
                adjusted = evaluate_logits(logits.double() - bias_of(data.class_counts), labels, data.class_counts)
                result["posthoc"] = _scores(adjusted)
            result["share_to_95"] = share_to(0.95, run.metrics)
            result |= {"pretrain_run": source, "fresh": report.fresh if report else None}
            run.finish(vit.state_dict(), result, settings.epochs * steps * settings.batch_size, on)
    return store.load_for_all(run.id)


def stored_logits(record: Record, store: RunStore, *, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Return raw logits [N, C] and labels [N] of a fine-tuned run on its evaluation split, from its stored weights.

    Raises ValueError for a pretraining run, RunError where the data have changed since the run.
    """
    data, recipe = data_of(record), record.recipe
    vit = create_classifier(recipe)
    vit.load_state_dict(load_file(store.weights(record.id)))
    augment = Augment(recipe.finetune.augment, data.mean, data.std)
    place(vit, torch.device(device), recipe.finetune.precision)
    return predict(vit, data.evaluation, augment, recipe.finetune.precision)


def data_of(record: Record) -> Dataset:
    """Return the data set of a fine-tuned run.

    Raises ValueError for a pretraining run, RunError where the data have changed since the run.
    """
    if record.stage != "finetune":
        raise ValueError(f"{record.id} is a pretraining run: it has no classifier")
    recipe = record.recipe
    data = load_dataset(recipe.data)
    if data.digest != record.environment["data_digest"]:
        change = f"its digest is {data.digest}, not {record.environment['data_digest']}"
        raise RunError(
            f"the data {recipe.data.name} has changed since {record.id}: {change}; restore the data, or train again"
        )
    return data


def save_for_timm(record: Record, store: RunStore, folder: Path) -> None:
    """Write a fine-tuned run's model as ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads it.

    ``folder`` gets ``model.safetensors`` and ``config.json``, the latter last. Raises ValueError for a pretraining run,
    RunError where the data, whose mean and deviation belong to the model, have changed since the run.
    """
    data = data_of(record)
    recipe = record.recipe
    size, patch_size = recipe.data.size, recipe.model.patch_size
    crop = evaluation_crop(size[0]) if isinstance(data.evaluation, FileSplit) else 1.0  # in memory are whole images
    config = timm_config(recipe.model.size, size, patch_size, data.num_classes, data.mean, data.std, crop)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "model.safetensors", store.weights(record.id).read_bytes())
    write_atomically(folder / "config.json", dump_json(config))


def share_to(level: float, rows: Sequence[Mapping[str, float]]) -> float:
    """Return the share of training, percent, after which accuracy first reached ``level`` times its last value."""
    reached = [row["accuracy"] >= level * rows[-1]["accuracy"] for row in rows]
    return 100 * (reached.index(True) + 1) / len(rows)


def _scores(metrics: Metrics) -> dict[str, float]:
    """Return the metrics over all classes and over each group, without those of single classes."""
    return {k: v for k, v in dataclasses.asdict(metrics).items() if k != "per_class"}


def summarize(logits: Tensor, labels: Tensor, class_counts: ArrayLike) -> dict[str, object]:
    """Return the metrics of logits [N, C] as JSON values, with per-class accuracies and the reliability diagram."""
    values = logits.numpy()
    scores = dataclasses.asdict(evaluate_logits(values, labels.numpy(), class_counts))
    size, accuracy, confidence = reliability(confidences(values), values.argmax(1) == labels.numpy())
    diagram = {"size": size, "accuracy": accuracy, "confidence": confidence}
    scores |= {"reliability": diagram, "class_counts": np.asarray(class_counts)}
    return _plain(scores)


def _plain(value):
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value
