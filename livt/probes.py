"""What an encoder's features know of the classes, asked without training it: nearest neighbours and a linear map.

Shapes: ``N`` training images, ``M`` evaluation images, ``D`` width, ``C`` classes.
"""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import normalize

from livt.config import Engine
from livt.data.augment import Augment
from livt.data.batches import apply
from livt.data.images import FileSplit, Split
from livt.data.sets import Dataset
from livt.metrics import evaluate_logits


def features(
    encoder: VisionTransformer, split: Split | FileSplit, augment: Augment, engine: Engine = Engine()
) -> Tensor:
    """Return the mean patch token of each image without augmentation, float32 [N, D], on the CPU."""
    training, device = encoder.training, next(encoder.parameters()).device
    encoder.eval()
    prefix = encoder.num_prefix_tokens
    found = apply(lambda x: encoder.forward_features(x)[:, prefix:].mean(1), split, augment, device, engine)
    encoder.train(training)
    return found


def knn_scores(
    train: Tensor, labels: Tensor, evaluation: Tensor, num_classes: int, *, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Return votes [M, C] of the k nearest training features by cosine, each weighted exp(cosine / temperature).

    train [N, D], labels [N], evaluation [M, D]. Source: Wu et al., CVPR 2018, with the usual k and temperature.
    """
    train, evaluation = normalize(train, dim=1), normalize(evaluation, dim=1)
    found = [(some @ train.T).topk(min(k, len(train)), dim=1) for some in evaluation.split(1000)]
    cosine, nearest = map(torch.cat, zip(*found, strict=True))  # [M, k]
    votes = torch.zeros(len(evaluation), num_classes)
    return votes.scatter_add_(1, labels[nearest], (cosine / temperature).exp())


def linear_scores(
    train: Tensor, labels: Tensor, evaluation: Tensor, num_classes: int, *, ridge: float = 1e-3
) -> Tensor:
    """Return scores [M, C] of the least-squares map from standardized features to classes, float64.

    Each class has the same total weight in the fit, so that the map itself does not prefer the head. ``ridge`` is the
    penalty on the map relative to the mean weight; the constant is not penalized.
    """
    mean, std = train.mean(0), train.std(0).clamp(min=1e-6)
    x, z = (torch.cat(((f - mean) / std, torch.ones(len(f), 1)), 1).double() for f in (train, evaluation))
    counts = torch.bincount(labels, minlength=num_classes).double()
    weight = 1 / counts[labels][:, None]  # [N, 1]
    penalty = torch.full((x.shape[1],), ridge * weight.sum().item(), dtype=torch.float64)
    penalty[-1] = 0.0
    gram = x.T @ (weight * x) + penalty.diag()  # [D + 1, D + 1]
    sums = x.new_zeros(num_classes, x.shape[1]).index_add_(0, labels, weight * x)  # [C, D + 1]
    return z @ torch.linalg.solve(gram, sums.T)


def probe(encoder: VisionTransformer, data: Dataset, augment: Augment, engine: Engine = Engine()) -> dict[str, float]:
    """Return accuracy, many, medium, few of both probes on the evaluation split: ``knn_*``, ``linear_*``, percent."""
    train, evaluation = (features(encoder, split, augment, engine) for split in (data.train, data.evaluation))
    labels = data.train.labels.cpu()
    row: dict[str, float] = {}
    for name, scores_of in (("knn", knn_scores), ("linear", linear_scores)):
        scores = scores_of(train, labels, evaluation, data.num_classes)
        found = evaluate_logits(scores, data.evaluation.labels, data.class_counts)
        row |= {f"{name}_{part}": getattr(found, part) for part in ("accuracy", "many", "medium", "few")}
    return row
