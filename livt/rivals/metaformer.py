"""MetaFormer (Diao et al., 2022; dqshuai/MetaFormer): what is known of an image enters its attention as more tokens.

Each metadata vector becomes a token beside the patches: linear, ReLU, layer norm, then a residual block of two layers
of these. In training, the metadata of a share of the images are hidden, that is zero; the share falls linearly to
none. Here the network is the plain ViT after MGP, so that the tokens stand in all blocks, and not behind convolutions;
and the metadata are synthetic (``livt.rivals.metadata``), or WordNet's groups of classes (``livt.rivals.ancestors``).

Shapes: ``B`` images of a part of a batch, ``N`` images of a split, ``M`` numbers of metadata, ``D`` width, ``C``
classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from timm.models import checkpoint_seq
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from livt.config import MODEL_SIZES, Engine, MetaConfig, Recipe
from livt.data.augment import Augment, moved
from livt.data.batches import TrainingBatches, apply
from livt.data.seeds import one_cpu_thread, seed_everything
from livt.data.sets import Dataset
from livt.distributed import is_leader, share, wrap
from livt.evaluate import scores, share_to, summarize
from livt.finetune import create_loss, create_mixer
from livt.losses import Loss, loss_of, start_bias
from livt.metrics import Metrics, evaluate_logits
from livt.models import compile_model, create_vit, load_encoder, place
from livt.optim import EpochLoss, check_finite, create_optimizer, epoch_schedule, take_step
from livt.rivals.ancestors import codes
from livt.rivals.metadata import PARTS, metadata_of
from livt.run import Run

STAGE = 6  # keeps its random numbers apart from those of the other stages
TRAIN, EVALUATION, ORDER = 10**9, 10**9 + 1, 10**9 + 2  # and those of its metadata apart from those of its epochs
HEADS = ("shuffled", "missing")


class MetadataToken(nn.Module):
    """A token [B, D] of metadata [B, M]: linear, ReLU, layer norm, and a residual block of two layers of these."""

    def __init__(self, numbers: int, width: int) -> None:
        super().__init__()
        self.embed = self._layer(numbers, width)
        self.residual = nn.Sequential(self._layer(width, width), self._layer(width, width))

    def forward(self, metadata: Tensor) -> Tensor:
        token = self.embed(metadata)
        return token + self.residual(token)

    @staticmethod
    def _layer(numbers: int, width: int) -> nn.Sequential:
        linear = nn.Linear(numbers, width)
        nn.init.trunc_normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)
        return nn.Sequential(linear, nn.ReLU(), nn.LayerNorm(width))


class MetaFormer(VisionTransformer):
    """timm's ViT with average pooling, and a token for each part of the metadata behind its class token.

    parts: how many numbers each part of the metadata has; they add up to ``M``.
    """

    def __init__(self, parts: Sequence[int], **arguments: Any) -> None:
        super().__init__(**arguments, global_pool="avg")
        self.parts = tuple(parts)
        self.metadata = nn.ModuleList(MetadataToken(numbers, self.embed_dim) for numbers in parts)

    def forward(self, images: Tensor, metadata: Tensor | None = None) -> Tensor:
        """Return logits [B, C]; ``metadata`` [B, M] None is missing metadata, zeros."""
        if metadata is None:
            metadata = images.new_zeros(len(images), sum(self.parts))
        tokens, before = self._pos_embed(self.patch_embed(images)), self.num_prefix_tokens
        more = [embed(part)[:, None] for embed, part in zip(self.metadata, metadata.split(self.parts, 1), strict=True)]
        tokens = torch.cat([tokens[:, :before], *more, tokens[:, before:]], 1)
        tokens = checkpoint_seq(self.blocks, tokens) if self.grad_checkpointing else self.blocks(tokens)
        return self.head(self.fc_norm(tokens[:, before + len(more) :].mean(1)))


def create_metaformer(
    recipe: Recipe, num_classes: int, *, drop_path: float = 0.0, encoder: Mapping[str, Tensor] | None = None
) -> MetaFormer:
    """Return the model of a recipe before training, its head near zero, with an encoder's weights or without.

    Raises ValueError for settings of the recipe that the stage cannot use, and for weights that do not fit.
    """
    meta_loss(meta_settings(recipe))
    size, patch = recipe.model.size, recipe.model.patch_size
    plain = create_vit(size, recipe.data.size, patch, num_classes, drop_path=drop_path)
    if encoder is not None:
        load_encoder(plain, encoder)
    width, depth, heads = MODEL_SIZES[size]
    model = MetaFormer(
        parts_of(meta_settings(recipe)),
        img_size=recipe.data.size,
        patch_size=patch,
        num_classes=num_classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        drop_path_rate=drop_path,
    )
    model.load_state_dict(plain.state_dict(), strict=False)  # all but the layers of the metadata
    return model


def hidden_share(masked: float, epoch: int, epochs: int) -> float:
    """Return the share of the images whose metadata are hidden in an epoch, counted from 0; it falls linearly."""
    return masked * (1 - epoch / epochs)


def hide(metadata: Tensor, hidden: float) -> Tensor:
    """Return metadata [B, M] in which this share of the rows, drawn at random and rounded down, is zero."""
    rows = torch.randperm(len(metadata))[: int(len(metadata) * hidden)]
    return metadata.index_fill(0, moved(rows, metadata.device), 0.0)


def meta(
    recipe: Recipe,
    data: Dataset,
    run: Run,
    *,
    encoder: Mapping[str, Tensor] | None = None,
    device: torch.device,
    progress: bool = True,
    engine: Engine = Engine(),
) -> None:
    """Fine-tune the recipe's classifier with metadata on ``data``, the images of ``recipe.data``, and finish ``run``.

    ``encoder`` are the weights to start from; None trains from scratch. What the run has saved is resumed; the last
    epoch is the result. Its scores are those with each image's metadata; ``heads`` has those with the metadata
    shuffled among the images, and with none. ``tail_lead`` is few-shot minus many-shot accuracy. Raises ValueError
    for settings or weights that do not fit, NonFiniteLossError when the loss is no longer a number.
    """
    # ---------------------------------------------------------------- what to do
    settings = meta_settings(recipe)
    steps = data.steps_per_epoch(settings.batch_size)
    labels, counts = data.evaluation.labels.cpu(), data.class_counts
    seen_labels = data.train.labels.cpu()
    metadata = drawn(settings, seen_labels, len(counts), (recipe.seed, STAGE, TRAIN)).to(device)
    own = evaluation_metadata(recipe, data)
    seen_labels = seen_labels.to(device)

    with one_cpu_thread(device):
        # ---------------------------------------------------------------- model, optimiser, state
        seed_everything(recipe.seed, STAGE, 0)
        net = create_metaformer(recipe, data.num_classes, drop_path=settings.drop_path, encoder=encoder)
        with torch.no_grad():
            net.head.bias.copy_(start_bias(settings.loss, settings.start, counts, settings.tau))
        net.set_grad_checkpointing(engine.checkpointing)
        place(net, device, settings.precision)
        optimizer = create_optimizer(net, settings, settings.layer_decay)
        run.restore(net, optimizer)
        if engine.compile:
            compile_model(net)
        model = wrap(net, device)
        criterion = create_loss(settings, counts).to(device)
        smooth = create_mixer(settings, counts)
        augment = Augment(settings.augment, data.mean, data.std)
        numbered = replace(data.train, labels=torch.arange(len(seen_labels)))  # an image's number finds its metadata
        batches = TrainingBatches(numbered, settings, augment, (recipe.seed, STAGE), device, engine)
        hidden = 0.0

        def step_loss(images: Tensor, numbers: Tensor) -> Tensor:
            images, targets = smooth(images, seen_labels[numbers])
            return criterion(model(images, hide(metadata[numbers], hidden)), targets)

        def measured(given: Tensor) -> Tensor:
            return predict_with(net, data, given, augment, settings.precision, engine)

        # ---------------------------------------------------------------- train, evaluate each epoch
        for epoch in run.epochs(settings.epochs, progress):
            net.train()
            criterion.begin(epoch, settings.epochs)
            hidden = hidden_share(settings.masked, epoch, settings.epochs)
            schedule = epoch_schedule(settings, epoch, steps)
            losses = EpochLoss(epoch * steps, f"{run.id}; its last good state is the end of epoch {run.saved}")
            for (_, lr), parts in zip(schedule, batches.epoch(epoch), strict=True):
                losses.add(take_step(optimizer, step_loss, parts, lr=lr, settings=settings, model=model))
            train_loss = losses.mean()
            check_finite(net, f"the end of epoch {epoch + 1} of {run.id}")
            logits = measured(own)
            row = {"epoch": epoch + 1, "lr": max(lr for _, lr in schedule), "train_loss": train_loss}
            if is_leader():  # who alone writes
                row |= scores(evaluate_logits(logits, labels, counts))
            run.save(net, optimizer, row, waited=batches.waited)

        # ---------------------------------------------------------------- the last epoch is the result
        order = torch.randperm(len(own), generator=torch.Generator().manual_seed(ORDER))
        logits, *others = [measured(given) for given in (own, own[order], torch.zeros_like(own))]
        if is_leader():
            result = summarize(logits, labels, counts)
            result["tail_lead"] = tail_lead(evaluate_logits(logits, labels, counts))
            found = {name: evaluate_logits(z, labels, counts) for name, z in zip(HEADS, others, strict=True)}
            result["heads"] = {name: {**scores(m), "tail_lead": tail_lead(m)} for name, m in found.items()}
            result["share_to_95"] = share_to(0.95, run.metrics)
            run.finish(net.state_dict(), result, settings.epochs * steps * settings.batch_size, device)


def evaluation_metadata(recipe: Recipe, data: Dataset) -> Tensor:
    """Return the metadata of the evaluation images of a recipe, float32 [N, M] on the CPU."""
    key = (recipe.seed, STAGE, EVALUATION)
    return drawn(meta_settings(recipe), data.evaluation.labels.cpu(), data.num_classes, key)


def drawn(settings: MetaConfig, labels: Tensor, classes: int, key: tuple[int, ...]) -> Tensor:
    """Return the metadata of images with these labels [N], float32 [N, M]: their groups, or a draw each by ``key``."""
    if settings.ancestors:
        return torch.from_numpy(codes(settings.ancestors)).float()[labels]
    return metadata_of(labels, classes, settings.concentration, key)


def parts_of(settings: MetaConfig) -> tuple[int, ...]:
    """Return how many numbers each part of the metadata has. Raises ValueError for groups that WordNet lacks."""
    return (codes(settings.ancestors).shape[1],) if settings.ancestors else PARTS


def predict_with(
    model: MetaFormer,
    data: Dataset,
    metadata: Tensor,
    augment: Augment,
    precision: str = "float32",
    engine: Engine = Engine(),
) -> Tensor:
    """Return raw float32 logits [N, C] of the evaluation images with metadata [N, M], on the CPU.

    The model is left in evaluation mode. Several processes share the images.
    """
    model.eval()
    device = next(model.parameters()).device
    rows = iter(metadata[list(share(len(metadata)))])  # of this process's images, in their order

    def logits_of(images: Tensor) -> Tensor:
        given = torch.stack([next(rows) for _ in range(len(images))])
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            return model(images, given.to(device))

    return apply(logits_of, data.evaluation, augment, device, engine)


def tail_lead(metrics: Metrics) -> float | None:
    """Return few-shot minus many-shot accuracy in points, None where one of the groups has no class."""
    return None if metrics.few is None or metrics.many is None else metrics.few - metrics.many


def meta_settings(recipe: Recipe) -> MetaConfig:
    """Return the section of a recipe's fine-tuning with metadata. Raises ValueError where it has none."""
    if recipe.meta is None:
        raise ValueError("this recipe has no metadata: set meta.concentration")
    return recipe.meta


def meta_loss(settings: MetaConfig) -> Loss:
    """Return the loss of the stage. Raises ValueError for one that needs a model or views of its own."""
    loss = loss_of(settings)
    if loss.adapt is not None or loss.views != 1:
        raise ValueError(f"meta.loss {settings.loss!r} brings a model or views of its own: take one of plain logits")
    return loss
