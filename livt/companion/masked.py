"""Masked autoencoders of stored runs, and what probes read from all their tokens, or from the pixels themselves.

Shapes: ``B`` images, ``N`` images of a split, ``L`` patches, ``D`` width of a token.
"""

from collections.abc import Mapping
from itertools import product

import torch
from safetensors.torch import load_file
from torch import Tensor

from livt.companion.plots import METRIC_NAMES
from livt.config import Recipe
from livt.data.augment import Augment
from livt.data.images import Split
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
