"""MGP, masked generative pretraining: a masked autoencoder on the training images, without labels.

Shapes: ``B`` images of a part of a batch.
"""

from typing import Any

import torch
from torch import Tensor

from livt.config import Engine, PretrainConfig, Recipe
from livt.data.augment import Augment
from livt.data.batches import TrainingBatches
from livt.data.seeds import one_cpu_thread, seed_everything
from livt.data.sets import Dataset
from livt.distributed import wrap
from livt.mae import MaskedAutoencoder
from livt.models import compile_model, create_vit, place
from livt.optim import EpochLoss, check_finite, create_optimizer, epoch_schedule, take_step
from livt.probes import probe
from livt.run import Run

STAGE = 1  # keeps the random numbers of the two stages apart


def create_mae(recipe: Recipe) -> MaskedAutoencoder:
    """Return the untrained masked autoencoder of a recipe. Raises ValueError for a recipe without pretraining."""
    settings = pretrain_settings(recipe)
    size = recipe.pretrain_data.size
    encoder = create_vit(recipe.model.size, size, recipe.model.patch_size, num_classes=0, global_pool="token")
    return MaskedAutoencoder(
        encoder,
        decoder_width=settings.decoder_width,
        decoder_depth=settings.decoder_depth,
        decoder_heads=settings.decoder_heads,
    )


def pretrain_settings(recipe: Recipe) -> PretrainConfig:
    """Return the recipe's pretraining section. Raises ValueError where it has none."""
    if recipe.pretrain is None:
        raise ValueError("this recipe trains from scratch: it has no pretraining stage")
    return recipe.pretrain


def probe_epochs(settings: PretrainConfig) -> set[int]:
    """Return the epochs after which the features are probed; the first of ``settings.probes`` comes before training."""
    parts = settings.probes - 1
    return {round(settings.epochs * i / parts) for i in range(1, parts + 1)} if settings.probes else set()


def pretrain(
    recipe: Recipe,
    data: Dataset,
    run: Run,
    *,
    device: torch.device,
    progress: bool = True,
    engine: Engine = Engine(),
) -> None:
    """Train the recipe's masked autoencoder on ``data``, the images of ``recipe.pretrain_data``, and finish ``run``.

    What the run has saved is resumed. The last epoch's weights are the result. Raises ValueError for settings that do
    not fit the data, NonFiniteLossError when the loss is no longer a number.
    """
    # ---------------------------------------------------------------- what to do
    settings = pretrain_settings(recipe)
    steps = data.steps_per_epoch(settings.batch_size)

    with one_cpu_thread(device):
        # ---------------------------------------------------------------- model, optimiser, state
        seed_everything(recipe.seed, STAGE, 0)
        mae = create_mae(recipe)
        place(mae, device, settings.precision)
        mae.checkpointing = engine.checkpointing
        optimizer = create_optimizer(mae, settings)
        run.restore(mae, optimizer)
        if engine.compile:
            compile_model(mae)
        model = wrap(mae, device)
        augment = Augment(settings.augment, data.mean, data.std)
        batches = TrainingBatches(data.train, settings, augment, (recipe.seed, STAGE), device, engine)

        def loss_of(images: Tensor, _: Tensor) -> Tensor:
            return model(images, settings.mask_ratio, normalize_targets=settings.normalize_targets).loss

        # ---------------------------------------------------------------- train, probe the features now and then
        mae.train()
        probed = probe_epochs(settings)
        untrained = probe(mae.encoder, data, augment, engine) if settings.probes and not run.metrics else None
        for epoch in run.epochs(settings.epochs, progress):
            schedule = epoch_schedule(settings, epoch, steps)
            losses = EpochLoss(epoch * steps, f"{run.id}; its last good state is the end of epoch {run.saved}")
            for (_, lr), parts in zip(schedule, batches.epoch(epoch), strict=True):
                losses.add(take_step(optimizer, loss_of, parts, lr=lr, settings=settings, model=model))
            train_loss = losses.mean()
            check_finite(mae, f"the end of epoch {epoch + 1} of {run.id}")
            row: dict[str, Any] = {"epoch": epoch + 1, "train_loss": train_loss}
            row["lr"] = max(lr for _, lr in schedule)
            if epoch + 1 in probed:
                row["probe"] = probe(mae.encoder, data, augment, engine)
            if untrained and not epoch:
                row["probe_untrained"] = untrained
            run.save(mae, optimizer, row, waited=batches.waited)

        # ---------------------------------------------------------------- seal
        result = {"train_loss": run.metrics[-1]["train_loss"], "steps_per_epoch": steps}
        images = settings.epochs * steps * settings.batch_size
        run.finish(mae.state_dict(), result, images, device)
