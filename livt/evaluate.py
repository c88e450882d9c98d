"""A model and a split in, metrics out. Logits are raw: no loss's bias acts at test.

Shapes: ``N`` images, ``C`` classes.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from livt.config import Engine
from livt.data.augment import Augment
from livt.data.batches import apply
from livt.data.images import FileSplit, Split
from livt.metrics import Metrics, confidences, evaluate_logits, reliability


def predict(
    model: nn.Module,
    split: Split | FileSplit,
    augment: Augment,
    precision: str = "float32",
    engine: Engine = Engine(),
) -> tuple[Tensor, Tensor]:
    """Return raw float32 logits [N, C] and labels [N] of a split, on the CPU; the model is left in evaluation mode.

    ``precision`` "bfloat16" computes as such a training does. Several processes share the images.
    """
    model.eval()
    device = next(model.parameters()).device

    def logits_of(images: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            return model(images)

    return apply(logits_of, split, augment, device, engine), split.labels.cpu()


def share_to(level: float, rows: Sequence[Mapping[str, float]]) -> float:
    """Return the share of training, percent, after which accuracy first reached ``level`` times its last value."""
    reached = [row["accuracy"] >= level * rows[-1]["accuracy"] for row in rows]
    return 100 * (reached.index(True) + 1) / len(rows)


def scores(metrics: Metrics) -> dict[str, float]:
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
