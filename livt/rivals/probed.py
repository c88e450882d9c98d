"""Probes of a trained classifier's features, as those of a pretrained encoder (``livt.probes``): nothing is learned.

They ask what supervised features know of the classes, beside those that were learned without labels. A probe reads what
the classifier's head sees, of training images without augmentation, and takes the head's place.

Shapes: ``B`` images, ``N`` training images, ``D`` features, ``C`` classes.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from livt.data.sets import Dataset
from livt.probes import knn_scores, linear_scores
from livt.rivals.methods import METHODS, Look, Method, features_of, head_of, widths_of, with_head

Scores = Callable[[Tensor], Tensor]  # of features, float32 [B, D] on the CPU: [B, C]


class ProbedHead(nn.Module):
    """Logits [B, C] of features [B, D] by what was read off the training images; zero as long as nothing was."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.scores: Scores | None = None

    def forward(self, features: Tensor) -> Tensor:
        """Return float32 logits [B, C]."""
        if self.scores is None:
            return features.new_zeros(len(features), self.classes, dtype=torch.float32)
        with torch.autocast("cpu", enabled=False):
            return self.scores(features.float().cpu()).float()


def votes(train: Tensor, labels: Tensor, classes: int) -> Scores:
    """Return the logarithms of the votes of 20 nearest neighbours: their softmax is a class's share of them.

    train [N, D], labels [N].
    """
    return lambda features: knn_scores(train, labels, features, classes).clamp(min=1e-30).log()


def linear_map(train: Tensor, labels: Tensor, classes: int) -> Scores:
    """Return the map of :func:`livt.probes.linear_scores`, fitted once: it is affine, so a basis shows it.

    train [N, D], labels [N].
    """
    width = train.shape[1]
    shown = linear_scores(train, labels, torch.cat((torch.zeros(1, width), torch.eye(width))), classes)
    constant, weight = shown[0], shown[1:] - shown[0]  # [C], [D, C]
    return lambda features: features.double() @ weight + constant


def probed(model: nn.Module) -> nn.Module:
    """Return the model with a probe in place of its head."""
    return with_head(model, ProbedHead(widths_of(model)[1]))


def remember(fit: Callable[[Tensor, Tensor, int], Scores], model: nn.Module, data: Dataset, look: Look) -> None:
    """Give a probe the features of all training images."""
    head = head_of(model)
    assert isinstance(head, ProbedHead)
    head.scores = fit(look(partial(features_of, model), data.train), data.train.labels.cpu(), data.num_classes)


METHODS["knn_probe"] = Method(
    name="knn_probe",
    title="20-NN probe",
    source="Wu et al., CVPR 2018",
    adapt=probed,
    prepare=partial(remember, votes),
)
METHODS["linear_probe"] = Method(
    name="linear_probe",
    title="Linear probe",
    source="Alain and Bengio, 2016",
    adapt=probed,
    prepare=partial(remember, linear_map),
)
