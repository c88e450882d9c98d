"""Probes of a trained classifier's features, as those of a pretrained encoder (``livt.probes``): nothing is learned.

They ask what supervised features know of the classes, beside those that were learned without labels. A probe reads what
the classifier's head sees, of training images without augmentation, and takes the head's place.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from livt.data.sets import Dataset
from livt.probes import knn_scores, linear_scores
from livt.rivals.methods import METHODS, Look, Method, features_of, head_of, widths_of, with_head


class ProbedHead(nn.Module):
    """Logits [B, C] of features [B, D]: what ``scores_of`` reads from those of the training images, and their labels.

    Features [N, D] and labels [N] are buffers that are not saved: they are read off the images anew.
    """

    features: Tensor
    labels: Tensor

    def __init__(self, scores_of: Callable[..., Tensor], classes: int) -> None:
        super().__init__()
        self.scores_of, self.classes = scores_of, classes
        self.register_buffer("features", torch.zeros(0, 0), persistent=False)
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return float32 logits [B, C]."""
        return self.scores_of(self.features, self.labels, features.float().cpu(), self.classes).float()


def votes(train: Tensor, labels: Tensor, evaluation: Tensor, num_classes: int) -> Tensor:
    """Return the logarithms [M, C] of the votes of 20 nearest neighbours: their softmax is a class's share of them."""
    return knn_scores(train, labels, evaluation, num_classes).clamp(min=1e-30).log()


def probed(scores_of: Callable[..., Tensor], model: nn.Module) -> nn.Module:
    """Return the model with a probe in place of its head."""
    return with_head(model, ProbedHead(scores_of, widths_of(model)[1]))


def remember(model: nn.Module, data: Dataset, look: Look) -> None:
    """Give a probe the features of all training images."""
    head = head_of(model)
    assert isinstance(head, ProbedHead)
    head.features, head.labels = look(partial(features_of, model), data.train), data.train.labels.cpu()


METHODS["knn_probe"] = Method(
    name="knn_probe",
    title="20-NN probe",
    source="Wu et al., CVPR 2018",
    adapt=partial(probed, votes),
    prepare=remember,
)
METHODS["linear_probe"] = Method(
    name="linear_probe",
    title="Linear probe",
    source="Alain and Bengio, 2016",
    adapt=partial(probed, linear_scores),
    prepare=remember,
)
