"""PaCo: supervised contrast with a queue of keys, and class centres among them that carry the class priors.

Cui et al., ICCV 2021. Each image comes in two views: the network makes a query of one, its slow copy a key of the
other. Shapes: ``B`` images, ``C`` classes, ``D`` features of the network, ``d`` of the contrast, ``Q`` keys in the
queue.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from livt.losses import LOSSES, Criterion, Loss, balanced_ce_bias
from livt.resnets import ResNet
from livt.rivals.options import require
from livt.rivals.weights import beside

NO_LABEL = -1  # of a place in the queue that is still empty


class Contrast(NamedTuple):
    """What the model returns in training.

    logits [B, C]: the similarities to the class centres; queries and keys [B, d]: unit vectors; queue [Q, d] and
    labels [Q]: the model's own buffers, newest first, which the criterion, who knows the labels, brings up to date.
    """

    logits: Tensor
    queries: Tensor
    keys: Tensor
    queue: Tensor
    labels: Tensor


class PaCo(nn.Module):
    """What PaCo adds to a network's own class: a projection, a slow copy that makes keys, and a queue of them.

    The slow copy moves towards the network by 1 - ``momentum`` at each forward pass in training, and learns nothing
    itself. With several processes, all of them go by the queue of the first.
    """

    projection: nn.Module
    slow: nn.Module
    queue: Tensor
    labels: Tensor
    momentum: float
    get_classifier: Callable[[], nn.Module]

    def forward(self, images: Tensor) -> Tensor | Contrast:
        """Return logits [B, C] of images [B, 3, H, W] in evaluation; in training, of two views [2 * B, ...], all."""
        if not self.training:
            return super().forward(images)
        first, second = images.chunk(2)
        with torch.no_grad():
            for name, parameter in self.slow.named_parameters():
                parameter.lerp_(self.get_parameter(name), 1 - self.momentum)
            keys = F.normalize(self.slow.get_submodule("projection")(_features(self.slow, second)))
        features = _features(self, first)
        queries = F.normalize(self.projection(features))
        return Contrast(self.get_classifier()(features), queries, keys, self.queue, self.labels)


def _features(network: Any, images: Tensor) -> Tensor:
    return network.forward_head(network.forward_features(images), pre_logits=True)


def adapt(network: VisionTransformer | ResNet, momentum: float, queue: float, dim: float, **others: float) -> nn.Module:
    """Return the network as a :class:`PaCo`: of a class that has its own class's methods, and PaCo's before them.

    A model around the network would put a prefix before the names by which layer-wise decay tells its layers.
    """
    classifier = network.get_classifier()
    width, device = classifier.in_features, classifier.weight.device
    network.projection = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, int(dim)))
    slow = deepcopy(network).requires_grad_(False)
    slow.reset_classifier(0)
    slow.set_grad_checkpointing(False)  # it has no gradient to compute anything again for
    network.slow = slow
    network.register_buffer("queue", torch.zeros(int(queue), int(dim), device=device))
    network.register_buffer("labels", torch.full((int(queue),), NO_LABEL, device=device))
    network.__class__ = type("PaCo", (PaCo, type(network)), {})
    assert isinstance(network, PaCo)
    network.momentum = momentum
    return network


def parametric_contrast(
    centres: Tensor, queries: Tensor, keys: Tensor, labels: Tensor, *, alpha: float, gamma: float, temperature: float
) -> Tensor:
    """Return the parametric contrastive loss, a scalar (Eq. 4).

    centres: logits [B, C], priors included; queries: [B, d]; keys: [M, d], the first B being the queries themselves;
    labels: [M], those of the keys, the first B also those of the queries; ``NO_LABEL`` for what is no key.
    With s for the cosine of query and key over the temperature, and S = sum_c e^(z_c) + gamma sum of e^s over all keys
    but the query itself, the loss of a query is the mean of -log(e^(z_y) / S), with weight 1, and of -log(e^s / S),
    with weight ``alpha``, for each other key of its class.
    """
    batch = len(queries)
    own = torch.eye(batch, len(keys), dtype=torch.bool, device=labels.device)
    among = (labels != NO_LABEL) & ~own
    similarity = queries @ keys.T / temperature  # [B, M]
    together = ((labels[:batch, None] == labels) & among).to(similarity)
    others = similarity.masked_fill(~among, -torch.inf) + (math.log(gamma) if gamma else -math.inf)
    log_sum = torch.cat((centres, others), 1).logsumexp(1, keepdim=True)
    to_centre = (centres - log_sum).gather(1, labels[:batch, None]).squeeze(1)
    to_keys = ((similarity - log_sum) * together).sum(1)
    return -((to_centre + alpha * to_keys) / (1 + alpha * together.sum(1))).mean()


class ParametricContrastive(Criterion):
    """:func:`parametric_contrast` to the centres, with logits z + tau log pi, and to both views and the queue.

    Takes what the model returns and class indices [B]. Soft targets have no positives and are refused. ``alpha`` 0.01,
    ``temperature`` 0.05, ``momentum`` 0.999, ``queue`` 1024, ``dim`` 32 and ``gamma`` 1 are those that the reference
    repository, dvlab-research/Parametric-Contrastive-Learning, has for CIFAR-100-LT (for ImageNet-LT: 0.05, 0.2, 0.999,
    8192, 128). The queue there begins with random keys of random classes, here empty. Its projection has a batch
    norm, and keys are shuffled among devices to hide what that gives away; here, as in the authors' later GPaCo, it has
    none. Raises ValueError for impossible options.
    """

    def __init__(
        self,
        class_counts: ArrayLike,
        tau: float,
        *,
        alpha: float,
        gamma: float,
        temperature: float,
        momentum: float,
        queue: float,
        dim: float,
    ) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("gamma", gamma)):
            require(value >= 0, name, "must not be negative", value)
        require(temperature > 0, "temperature", "must be positive", temperature)
        require(0 <= momentum <= 1, "momentum", "must lie in [0, 1]", momentum)
        for name, value in (("queue", queue), ("dim", dim)):
            require(value >= 1 and value == int(value), name, "must be a whole number of at least 1", value)
        self.bias = tau * balanced_ce_bias(class_counts)
        self.alpha, self.gamma, self.temperature = alpha, gamma, temperature

    def forward(self, outputs: Contrast, targets: Tensor) -> Tensor:
        """Return the scalar loss, and put the keys into the queue; raise ValueError for targets that do not fit."""
        if targets.is_floating_point() or targets.shape != outputs.logits.shape[:1]:
            raise ValueError(
                f"targets must be class indices [{len(outputs.logits)}], not {targets.dtype} of {tuple(targets.shape)}"
            )
        targets = targets.long()
        with torch.autocast(targets.device.type, enabled=False):
            logits, queries, keys = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in outputs[:3])
            loss = parametric_contrast(
                logits + beside(self.bias, logits),
                queries,
                torch.cat((queries, keys, outputs.queue.to(keys))),
                torch.cat((targets, targets, outputs.labels)),
                alpha=self.alpha,
                gamma=self.gamma,
                temperature=self.temperature,
            )
        for places, newest in ((outputs.queue, keys), (outputs.labels, targets)):
            places.copy_(torch.cat((newest.detach().to(places), places))[: len(places)])
        return loss


LOSSES["paco"] = Loss(
    name="paco",
    title="PaCo",
    create=ParametricContrastive,
    reads="softmax",
    bias=balanced_ce_bias,
    source="Cui et al., ICCV 2021; dvlab-research/Parametric-Contrastive-Learning",
    options={
        "alpha": 0.01,
        "gamma": 1.0,
        "temperature": 0.05,
        "momentum": 0.999,
        "queue": 1024.0,
        "dim": 32.0,
    },
    adapt=adapt,
    soft=False,
    views=2,
)
