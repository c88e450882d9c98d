"""Masked autoencoders of stored runs, and what probes read from all their tokens, or from the pixels themselves.

Shapes: ``B`` images, ``N`` images of a split, ``L`` patches, ``D`` width of a token.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from livt.companion.plots import METRIC_NAMES
from livt.config import Recipe
from livt.data.augment import Augment
from livt.data.images import FileSplit, Split
from livt.data.seeds import seed_everything
from livt.data.sets import Dataset
from livt.lab.runs import Record, RunStore
from livt.mae import MaskedAutoencoder
from livt.metrics import evaluate_logits
from livt.pretrain import STAGE, create_mae
from livt.probes import knn_scores, linear_scores

VIEWS = {"mean patch": lambda tokens: tokens.mean(1), "all patches": lambda tokens: tokens.flatten(1)}


def untrained_mae(recipe: Recipe) -> MaskedAutoencoder:
    """Return the masked autoencoder from which the recipe's pretraining starts, with its seed."""
    seed_everything(recipe.seed, STAGE, 0)
    return create_mae(recipe).eval()


def stored_mae(recipe: Recipe, record: Record, store: RunStore) -> MaskedAutoencoder:
    """Return the masked autoencoder of a recipe with the weights of its finished pretraining run."""
    mae = create_mae(recipe)
    mae.load_state_dict(load_file(store.weights(record.id)))
    return mae.eval()


def some(split: Split | FileSplit, most: int) -> Tensor:
    """Return the indices of images to look at: of files about ``most``, evenly spaced, else the first 10,000."""
    count = len(split.labels)
    if isinstance(split, FileSplit):
        return torch.arange(0, count, max(1, count // most))
    return torch.arange(min(count, 10_000))


@dataclass(frozen=True)
class Rebuilt:
    """Images as a masked autoencoder rebuilds them.

    loss: on the hidden patches, as in training. predicted, means: in pixels from 0 to 255, [B, 3, H, W], every patch
    predicted, or filled with its mean. mask: of the same shape, True where a patch is hidden.
    """

    loss: float
    predicted: Tensor
    means: Tensor
    mask: Tensor


@torch.inference_mode()
def rebuild(mae: MaskedAutoencoder, augment: Augment, images: Tensor, visible: int, noise: Tensor) -> Rebuilt:
    """Rebuild images, [B, 3, H, W] in 0 to 255, from the ``visible`` patches whose noise [B, L] is least.

    Each predicted patch is given the true mean and deviation of the patch, which the model does not predict.
    """
    x = augment.normalize(images)
    found = mae(x, 1 - (visible + 0.5) / noise.shape[1], noise)
    target = mae.patchify(x)
    mean, deviation = target.mean(-1, keepdim=True), (target.var(-1, keepdim=True) + 1e-6).sqrt()
    parts = found.pred * deviation + mean, mean.expand_as(target), found.mask[..., None].expand_as(target)
    predicted, means, mask = (mae.unpatchify(part) for part in parts)
    predicted, means = (pixels * augment.std + augment.mean for pixels in (predicted, means))
    return Rebuilt(found.loss.item(), predicted, means, mask.bool())


def grey_levels(image: Tensor, shrink: int = 1) -> NDArray[np.float32]:
    """Return an image [3, H, W] in 0 to 255 as grey levels, means of ``shrink`` x ``shrink`` pixels."""
    grey = image.float().mean(0, keepdim=True).clamp(0, 255)
    return torch.nn.functional.avg_pool2d(grey, shrink)[0].numpy()


def mean_guess(mae: MaskedAutoencoder, images: Tensor) -> float:
    """Return the loss of an answer that gives each patch of normalized images [B, 3, H, W] its mean."""
    patches = mae.patchify(images).double()
    return (patches.var(-1, correction=0) / (patches.var(-1) + 1e-6)).mean().item()


def parts_of(found: Mapping[str, float | None], probe: str) -> dict[str, float]:
    """Return the accuracies of one probe from what ``livt.probes.probe`` returns or a record holds.

    Percent, nan for an empty group.

    >>> parts_of({"knn_accuracy": 50.0, "knn_many": 60.0, "knn_medium": 40.0, "knn_few": None}, "knn")
    {'accuracy': 50.0, 'many': 60.0, 'medium': 40.0, 'few': nan}
    """
    values = {part: found[f"{probe}_{part}"] for part in METRIC_NAMES}
    return {part: float("nan") if value is None else value for part, value in values.items()}


@torch.inference_mode()
def probe_tokens(
    model: MaskedAutoencoder | None, data: Dataset, augment: Augment, patchify: MaskedAutoencoder
) -> dict[tuple[str, str], dict[str, float]]:
    """Return accuracies by what is read ("mean patch", "all patches") and by probe ("knn", "linear"), percent.

    Read are the patch tokens [N, L, D] of the model's encoder or, for None, the pixels of the patches as ``patchify``
    cuts them. All images are held in memory; raises ValueError for images in files.
    """
    if not isinstance(data.train, Split) or not isinstance(data.evaluation, Split):
        raise ValueError("the tokens of images in files do not fit into memory")
    splits = [augment.normalize(split.images) for split in (data.train, data.evaluation)]
    if model is None:
        channels = 3 if (data.train.images[:, :1] == data.train.images).all() else 1  # grey: the three are one
        tokens = [patchify.patchify(images)[..., ::channels] for images in splits]
    else:
        encode = model.encoder.forward_features
        tokens = [torch.cat([encode(some)[:, 1:] for some in images.split(1000)]) for images in splits]
    scores = {}
    for (view, take), (name, scores_of) in product(VIEWS.items(), {"knn": knn_scores, "linear": linear_scores}.items()):
        train, test = map(take, tokens)
        predicted = scores_of(train, data.train.labels, test, data.num_classes)
        found = evaluate_logits(predicted, data.evaluation.labels, data.class_counts)
        scores[view, name] = {part: getattr(found, part) for part in METRIC_NAMES}
    return scores


def probes_by_epoch(runs: Iterable[Record], probes: Iterable[str]) -> pd.DataFrame:
    """Return the accuracies [%] that probes read in pretraining runs: a row per run, probed epoch and probe.

    Epoch 0 is the untrained encoder. Empty where no run was probed.
    """
    rows, names = [], list(probes)
    for run in runs:
        found = [(row["epoch"], row["probe"]) for row in run.metrics if "probe" in row]
        found = [(0, run.metrics[0]["probe_untrained"]), *found] if found else []
        about = {"seed": run.config["seed"], "run": run.id}
        rows += [about | {"probe": name, "epoch": epoch} | parts_of(x, name) for epoch, x in found for name in names]
    return pd.DataFrame(rows)
