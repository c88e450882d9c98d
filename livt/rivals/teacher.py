"""The teacher of DeiT-LT (Rangwani et al., CVPR 2024): a residual network from scratch, flat by SAM.

Its loss is LDAM-DRW unless the recipe names another. The authors train it by SGD; here it is AdamW, as everywhere.
Shapes: ``B`` images of a part of a batch, ``C`` classes.
"""

import torch
from torch import Tensor, nn

from livt.config import Engine, Recipe, TeacherConfig
from livt.data.augment import Augment
from livt.data.batches import TrainingBatches
from livt.data.seeds import one_cpu_thread, seed_everything
from livt.data.sets import Dataset
from livt.distributed import is_leader, wrap
from livt.evaluate import predict, scores, share_to, summarize
from livt.finetune import adapted, create_loss, create_mixer
from livt.longtail import sampling_shares
from livt.losses import Loss, loss_of, start_bias
from livt.metrics import evaluate_logits
from livt.models import compile_model, place
from livt.optim import EpochLoss, check_finite, create_optimizer, epoch_schedule
from livt.resnets import create_resnet
from livt.rivals.sam import Ascent, sam_step
from livt.run import Run

STAGE = 4  # keeps its random numbers apart from those of the other stages


def create_teacher(recipe: Recipe, num_classes: int) -> nn.Module:
    """Return the untrained teacher of a recipe. Raises ValueError where there is none, or its loss cannot be used."""
    settings, _ = _settings(recipe)
    return adapted(settings, create_resnet(settings.size, num_classes))


def teacher(
    recipe: Recipe,
    data: Dataset,
    run: Run,
    *,
    device: torch.device,
    progress: bool = True,
    engine: Engine = Engine(),
) -> None:
    """Train the recipe's teacher on ``data``, the images of ``recipe.data``, and finish ``run``.

    What the run has saved is resumed; the last epoch is the result. Raises ValueError for settings that do not fit,
    NonFiniteLossError when the loss is no longer a number.
    """
    # ---------------------------------------------------------------- what to do
    settings, loss = _settings(recipe)
    steps = data.steps_per_epoch(settings.batch_size)

    with one_cpu_thread(device):
        # ---------------------------------------------------------------- model, optimiser, state
        seed_everything(recipe.seed, STAGE, 0)
        network = create_resnet(settings.size, data.num_classes, drop_path=settings.drop_path)
        start = start_bias(settings.loss, settings.start, data.class_counts, settings.tau)
        with torch.no_grad():
            network.get_classifier().bias.copy_(start)
        network.set_grad_checkpointing(engine.checkpointing)
        net = adapted(settings, network)
        place(net, device, settings.precision)
        optimizer = create_optimizer(net, settings, settings.layer_decay)
        run.restore(net, optimizer)
        ascent = Ascent(optimizer, settings.rho) if settings.rho else None
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

        def step_loss(images: Tensor, targets: Tensor) -> Tensor:
            return criterion(model(images), targets)

        # ---------------------------------------------------------------- train, evaluate each epoch
        for epoch in run.epochs(settings.epochs, progress):
            net.train()
            criterion.begin(epoch, settings.epochs)
            schedule = epoch_schedule(settings, epoch, steps)
            losses = EpochLoss(epoch * steps, f"{run.id}; its last good state is the end of epoch {run.saved}")
            for (_, lr), parts in zip(schedule, batches.epoch(epoch), strict=True):
                losses.add(sam_step(optimizer, ascent, step_loss, mix, parts, lr=lr, settings=settings, model=model))
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
            result["share_to_95"] = share_to(0.95, run.metrics)
            run.finish(net.state_dict(), result, settings.epochs * steps * settings.batch_size, device)


def _settings(recipe: Recipe) -> tuple[TeacherConfig, Loss]:
    if recipe.teacher is None:
        raise ValueError("this recipe has no teacher: give it a section teacher")
    try:
        return recipe.teacher, loss_of(recipe.teacher)
    except ValueError as error:
        raise ValueError(str(error).replace("finetune.", "teacher.", 1)) from None
