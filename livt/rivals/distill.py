"""DeiT-LT (Rangwani et al., CVPR 2024): a ViT from scratch with a token for the labels and one for a CNN's word.

The class token learns the labels, the distillation token the hard labels that the teacher gives the same image, mixed
and augmented so strongly that it is none of those that the teacher was trained on. Late in training the classes of the
distillation weigh by their class-balanced weights. At test the logits of the two heads are averaged.

Shapes: ``B`` images of a part of a batch, ``N`` images of a split, ``C`` classes.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from timm.data.mixup import Mixup
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from livt.config import MODEL_SIZES, DistillConfig, Engine, Recipe
from livt.data.augment import Augment
from livt.data.batches import TrainingBatches, apply
from livt.data.seeds import one_cpu_thread, seed_everything
from livt.data.sets import Dataset
from livt.distributed import is_leader, wrap
from livt.evaluate import predict, scores, share_to, summarize
from livt.metrics import evaluate_logits
from livt.models import compile_model, place
from livt.optim import EpochLoss, check_finite, create_optimizer, epoch_schedule, take_step
from livt.rivals.attention import attention_distances
from livt.rivals.teacher import create_teacher
from livt.rivals.weights import class_balanced_weights, deferred_epoch, weighted_targets
from livt.run import Run

STAGE = 5  # keeps its random numbers apart from those of the other stages
HEADS = ("class token", "distillation token")


def create_student(recipe: Recipe, num_classes: int, *, drop_path: float = 0.0) -> VisionTransformerDistilled:
    """Return the untrained student of a recipe: timm's ViT with a class and a distillation token, heads near zero.

    In training it returns the logits of both heads, each [B, C], in evaluation their mean.
    """
    width, depth, heads = MODEL_SIZES[recipe.model.size]
    vit = VisionTransformerDistilled(
        img_size=recipe.data.size,
        patch_size=recipe.model.patch_size,
        num_classes=num_classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        drop_path_rate=drop_path,
    )
    vit.set_distilled_training(True)
    for head in (vit.head, vit.head_dist):
        nn.init.trunc_normal_(head.weight, std=2e-5)
        nn.init.zeros_(head.bias)
    return vit


class Distillation(nn.Module):
    """Half the cross-entropy of the class token with the labels, half that of the distillation token with a teacher's.

    The classes of the latter weigh by w from ``share`` of training on, and its mean is then sum of w_t L over sum of
    w_t, as PyTorch's weighted cross-entropy has it in the authors' code (val-iisc/DeiT-LT). ``smoothing``: share of the
    labels that is spread over all classes. Raises ValueError for invalid counts, naming the class.
    """

    def __init__(self, class_counts: ArrayLike, *, share: float, beta: float, smoothing: float = 0.0) -> None:
        super().__init__()
        self.later = class_balanced_weights(class_counts, beta)
        self.weights, self.share, self.smoothing = torch.ones_like(self.later), share, smoothing

    def begin(self, epoch: int, epochs: int) -> bool:
        """Weigh the classes from the deferred epoch on, and return whether they do."""
        deferred = epoch >= deferred_epoch(self.share, epochs)
        self.weights = self.later if deferred else torch.ones_like(self.later)
        return deferred

    def forward(self, outputs: tuple[Tensor, Tensor], labels: Tensor, taught: Tensor) -> Tensor:
        """Return the scalar loss of logits [B, C] of both heads; labels and taught are indices [B] or soft [B, C]."""
        with torch.autocast(labels.device.type, enabled=False):
            by_class, by_teacher = (out.to(torch.promote_types(out.dtype, torch.float32)) for out in outputs)
            shares = weighted_targets(taught, self.weights, by_teacher)
            distilled = -(shares * by_teacher.log_softmax(1)).sum() / shares.sum()
            targets = labels.to(by_class.dtype) if labels.is_floating_point() else labels.long()
            return 0.5 * F.cross_entropy(by_class, targets, label_smoothing=self.smoothing) + 0.5 * distilled


def create_mixer(settings: DistillConfig, classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return a function of images [B, 3, H, W] and labels [B] that mixes them, with soft labels [B, C]."""
    if settings.mixup or settings.cutmix:
        return Mixup(settings.mixup, settings.cutmix, label_smoothing=0.0, num_classes=classes)
    return lambda images, labels: (images, labels)


def distill(
    recipe: Recipe,
    data: Dataset,
    run: Run,
    *,
    taught_by: Mapping[str, Tensor] | None = None,
    device: torch.device,
    progress: bool = True,
    engine: Engine = Engine(),
) -> None:
    """Train the recipe's student on ``data``, the images of ``recipe.data``, and finish ``run``.

    ``taught_by`` are the weights of the teacher; without them the distillation token learns the labels too. What the
    run has saved is resumed; the last epoch is the result, which has the scores of each head (``heads``) and the mean
    attention distance of each block on the evaluation images, in pixels (``attention_distance``; ``early_distance`` is
    that of the first). Raises ValueError for
    settings or weights that do not fit, NonFiniteLossError when the loss is no longer a number.
    """
    # ---------------------------------------------------------------- what to do
    settings = distill_settings(recipe)
    steps = data.steps_per_epoch(settings.batch_size)

    with one_cpu_thread(device):
        # ---------------------------------------------------------------- models, optimiser, state
        seed_everything(recipe.seed, STAGE, 0)
        net = create_student(recipe, data.num_classes, drop_path=settings.drop_path)
        net.set_grad_checkpointing(engine.checkpointing)
        place(net, device, settings.precision)
        teacher = None
        if taught_by is not None:
            teacher = create_teacher(recipe, data.num_classes)
            teacher.load_state_dict(dict(taught_by))
            teacher.to(device).eval().requires_grad_(False)
        optimizer = create_optimizer(net, settings)
        run.restore(net, optimizer)
        if engine.compile:
            compile_model(net)
        model = wrap(net, device)
        criterion = Distillation(
            data.class_counts, share=settings.share, beta=settings.beta, smoothing=settings.label_smoothing
        ).to(device)
        mix = create_mixer(settings, data.num_classes)
        augment = Augment(settings.augment, data.mean, data.std)
        batches = TrainingBatches(data.train, settings, augment, (recipe.seed, STAGE), device, engine)
        deferred = False

        def step_loss(images: Tensor, labels: Tensor) -> Tensor:
            if not deferred:
                images, labels = mix(images, labels)
            if teacher is None:
                return criterion(model(images), labels, labels)
            with torch.no_grad():
                taught = teacher(images).argmax(1)
            return criterion(model(images), labels, taught)

        # ---------------------------------------------------------------- train, evaluate each epoch
        for epoch in run.epochs(settings.epochs, progress):
            net.train()
            deferred = criterion.begin(epoch, settings.epochs)
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

        def seen(function: Callable[[Tensor], Tensor]) -> Tensor:
            def look(images: Tensor) -> Tensor:
                with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                    return function(images)

            return apply(look, data.evaluation, augment, device, engine)

        both, distances = (
            seen(lambda images: head_logits(net, images)),
            seen(lambda images: attention_distances(net, images)),
        )
        if is_leader():
            result = summarize(logits, labels, data.class_counts)
            found = {
                name: evaluate_logits(own, labels, data.class_counts)
                for name, own in zip(HEADS, both.unbind(1), strict=True)
            }
            result["heads"] = {name: scores(metrics) for name, metrics in found.items()}
            by_block = distances.mean(0, dtype=torch.float64).tolist()
            result |= {"attention_distance": by_block, "early_distance": by_block[0]}
            result["share_to_95"] = share_to(0.95, run.metrics)
            run.finish(net.state_dict(), result, settings.epochs * steps * settings.batch_size, device)


def head_logits(student: VisionTransformerDistilled, images: Tensor) -> Tensor:
    """Return the logits of the heads of class and distillation token, [N, 2, C]; their mean is the student's."""
    tokens = student.forward_features(images)
    return torch.stack((student.head(tokens[:, 0]), student.head_dist(tokens[:, 1])), 1)


def distill_settings(recipe: Recipe) -> DistillConfig:
    """Return the section of a recipe's student. Raises ValueError where it has none."""
    if recipe.distill is None:
        raise ValueError("this recipe has no student: give it a section distill")
    return recipe.distill
