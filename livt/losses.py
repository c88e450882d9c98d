"""The four losses of the paper, cross-entropy and binary cross-entropy, plain and balanced; the table of all losses.

A balanced loss adds a fixed bias to the logits in training; the bias is left out at test (evaluate raw logits).

Shapes: ``B`` batch, ``C`` classes. Logits are [B, C]; targets are class indices [B] or soft targets [B, C].
All arithmetic is float32 or wider, also under autocast.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from livt.config import FinetuneConfig
from livt.longtail import check_class_counts


def balanced_ce_bias(class_counts: ArrayLike) -> Tensor:
    """Return log pi, float64 [C]: the bias of balanced cross-entropy (Theorem 1).

    Raises ValueError for invalid class counts, naming the class.

    >>> balanced_ce_bias([1, 1]).tolist() == [-math.log(2)] * 2
    True
    """
    counts = torch.from_numpy(check_class_counts(class_counts))
    return counts.log() - counts.sum().log()


def balanced_bce_bias(class_counts: ArrayLike) -> Tensor:
    """Return log pi - log(1 - pi), float64 [C]: the bias of balanced binary cross-entropy (Theorem 2).

    Computed as log n_c - log(N - n_c), which loses no digits when pi is close to 0 or 1.
    Raises ValueError for invalid class counts, naming the class, and for a single class (its odds are infinite).

    >>> balanced_bce_bias([5, 5]).tolist()
    [0.0, 0.0]
    """
    counts = torch.from_numpy(check_class_counts(class_counts))
    if len(counts) < 2:
        raise ValueError("class_counts has one class: its prior is 1 and the odds pi / (1 - pi) are infinite")
    # Summing the other classes, rather than subtracting from N, stays exact when one class dwarfs the rest.
    before = torch.cat((counts.new_zeros(1), counts.cumsum(0)[:-1]))
    after = torch.cat((counts.flip(0).cumsum(0).flip(0)[1:], counts.new_zeros(1)))
    return counts.log() - (before + after).log()


class Criterion(nn.Module):
    """A training loss: called with a model's outputs and targets, it returns a scalar."""

    def begin(self, epoch: int, epochs: int) -> None:
        """Prepare for an epoch, counted from 0, of so many: for a loss that changes in training."""


class _LogitBiasLoss(Criterion, ABC):
    """A loss on ``logits + tau * bias``; without class counts, on the logits as they are."""

    def __init__(self, bias: Tensor | None = None, tau: float = 1.0) -> None:
        super().__init__()
        if not (math.isfinite(tau) and tau >= 0):
            raise ValueError(f"tau must be finite and not negative, not {tau}")
        # Neither a parameter nor a buffer: it stays float64 on the CPU, where every device has it, whatever .to() does
        # to the module, and each forward pass takes it in the precision and on the device of its logits.
        self.exact_bias = None if bias is None else tau * bias
        self._cached: Tensor | None = None

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar loss; raise ValueError where logits and targets do not fit."""
        self._check(logits, targets)
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            if self.exact_bias is not None:
                if self._cached is None or (self._cached.dtype, self._cached.device) != (logits.dtype, logits.device):
                    self._cached = self.exact_bias.to(logits)
                logits = logits + self._cached
            return self._loss(logits, targets)

    def _check(self, logits: Tensor, targets: Tensor) -> None:
        if logits.ndim != 2 or not logits.is_floating_point():
            raise ValueError(f"logits must be floating point [B, C], not {logits.dtype} of shape {tuple(logits.shape)}")
        batch, classes = logits.shape
        if self.exact_bias is not None and len(self.exact_bias) != classes:
            raise ValueError(f"logits have {classes} classes, class_counts has {len(self.exact_bias)}")
        soft = targets.is_floating_point()
        if batch == 0 or tuple(targets.shape) != ((batch, classes) if soft else (batch,)):
            raise ValueError(
                f"{targets.dtype} targets of shape {tuple(targets.shape)} do not fit logits [{batch}, {classes}]: "
                "give class indices [B] as integers or soft targets [B, C] as floating point, B at least 1"
            )
        # Elsewhere the device raises its own error: to look at the values would make it wait.
        if not soft and targets.device.type == "cpu" and not 0 <= targets.min() <= targets.max() < classes:
            raise ValueError(f"targets must lie in 0 to {classes - 1}, found {targets.min()} to {targets.max()}")

    @abstractmethod
    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of logits that already carry the bias."""


class CrossEntropy(_LogitBiasLoss):
    """Softmax cross-entropy, mean over the batch."""

    def __init__(self) -> None:
        super().__init__()

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        if targets.is_floating_point():
            return F.cross_entropy(logits, targets.to(logits.dtype))
        # PyTorch would skip targets of -100 in silence; no class has the index given here.
        return F.cross_entropy(logits, targets.long(), ignore_index=torch.iinfo(torch.int64).min)


class BinaryCrossEntropy(_LogitBiasLoss):
    """Sigmoid cross-entropy against one-hot or soft targets: sum over classes, mean over the batch."""

    def __init__(self) -> None:
        super().__init__()

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        # PyTorch's binary_cross_entropy_with_logits subtracts z from log sigmoid(z), and so loses the small terms of
        # the many classes that are rejected with confidence.
        if targets.is_floating_point():
            terms = torch.lerp(F.logsigmoid(-logits), F.logsigmoid(logits), targets.to(logits.dtype))
            return -terms.sum() / len(logits)
        label = targets.long()
        own = logits[torch.arange(len(logits), device=logits.device), label]
        # Each class's evidence for the target. A sum of logits and bias is this module's own, and is changed in place.
        against = (torch.neg if self.exact_bias is None else torch.neg_)(logits)
        evidence = against.scatter_(1, label[:, None], own[:, None])
        return -F.logsigmoid(evidence).sum() / len(logits)


class BalancedCrossEntropy(CrossEntropy):
    """Bal-CE: cross-entropy on ``logits + tau * log pi`` (Theorem 1; Ren et al., 2020; Menon et al., 2021).

    class_counts: training images of each class, [C]. Raises ValueError for invalid counts or tau.
    """

    def __init__(self, class_counts: ArrayLike, tau: float = 1.0) -> None:
        _LogitBiasLoss.__init__(self, balanced_ce_bias(class_counts), tau)


class BalancedBinaryCrossEntropy(BinaryCrossEntropy):
    """Bal-BCE: binary cross-entropy on ``logits + tau * (log pi - log(1 - pi))`` (Theorem 2).

    class_counts: training images of each class, [C]. Raises ValueError for invalid counts or tau.
    """

    def __init__(self, class_counts: ArrayLike, tau: float = 1.0) -> None:
        _LogitBiasLoss.__init__(self, balanced_bce_bias(class_counts), tau)


# ---------------------------------------------------------------- the table


@dataclass(frozen=True, kw_only=True)
class Loss:
    """An entry of the table: what a recipe's ``finetune.loss`` stands for.

    create: from class counts [C], tau and options, what to train with: its call takes the model's outputs, and targets
    as above. reads: what makes probabilities of its logits. bias: what it adds to the logits in training, float64 [C]
    from class counts; None for nothing, and then tau must be 1. source: the paper that it is from.

    Of methods that are more than a loss of logits: options: their parameters, with the values of their paper. adapt:
    from the classifier, ready to train, and options, the model to train in its place; in evaluation mode it returns
    logits [B, C], in training what ``create`` makes takes. soft: whether it takes soft targets. views: how often each
    image is augmented; outputs are those of all images in the first view, then in the second, and so on.
    """

    name: str
    title: str
    create: Callable[..., Criterion]
    reads: Literal["softmax", "sigmoid"]
    bias: Callable[[ArrayLike], Tensor] | None = None
    source: str
    options: dict[str, float] = field(default_factory=dict)
    adapt: Callable[..., nn.Module] | None = None
    soft: bool = True
    views: int = 1


PAPER_LOSSES = ("ce", "bal_ce", "bce", "bal_bce")
LOSSES = {
    loss.name: loss
    for loss in (
        Loss(
            name="ce",
            title="CE",
            create=lambda class_counts, tau: CrossEntropy(),
            reads="softmax",
            source="the baseline of Table 5",
        ),
        Loss(
            name="bal_ce",
            title="Bal-CE",
            create=BalancedCrossEntropy,
            reads="softmax",
            bias=balanced_ce_bias,
            source="Ren et al., NeurIPS 2020; Menon et al., ICLR 2021; Theorem 1",
        ),
        Loss(
            name="bce",
            title="BCE",
            create=lambda class_counts, tau: BinaryCrossEntropy(),
            reads="sigmoid",
            source="Touvron et al., ECCV 2022 (DeiT III)",
        ),
        Loss(
            name="bal_bce",
            title="Bal-BCE",
            create=BalancedBinaryCrossEntropy,
            reads="sigmoid",
            bias=balanced_bce_bias,
            source="Xu et al., CVPR 2023 (LiVT); Theorem 2",
        ),
    )
}


def find(name: str, tau: float = 1.0) -> Loss:
    """Return the loss of a name. Raises ValueError for a name without an entry, and for a tau that it cannot use."""
    if name not in LOSSES:
        raise ValueError(f"finetune.loss {name!r} is not one of {', '.join(LOSSES)}")
    if tau != 1 and LOSSES[name].bias is None:
        raise ValueError(f"finetune.tau = {tau:g} has no effect on the loss {name!r}, which has no bias")
    return LOSSES[name]


def loss_of(settings: FinetuneConfig) -> Loss:
    """Return the loss of a recipe. Raises ValueError for what :func:`find` refuses, and for settings it cannot use."""
    loss = find(settings.loss, settings.tau)
    for name in settings.options:
        if name not in loss.options:
            known = f"known here: {', '.join(loss.options)}" if loss.options else "it has none"
            raise ValueError(f"finetune.options.{name} is no parameter of the loss {loss.name!r}; {known}")
    mixes = {name: getattr(settings, name) for name in ("mixup", "cutmix", "label_smoothing")}
    for name, value in mixes.items():
        if value and not loss.soft:
            raise ValueError(f"finetune.{name} {value:g} makes soft targets, which the loss {loss.name!r} cannot take")
    loss.create((1, 1), settings.tau, **loss.options | settings.options)  # it refuses impossible values
    return loss


def prior_bias(loss: Loss, class_counts: ArrayLike) -> Tensor:
    """Return the logits, float64 [C], that the loss reads as the class priors."""
    return balanced_bce_bias(class_counts) if loss.reads == "sigmoid" else balanced_ce_bias(class_counts)


def start_bias(name: str, start: str, class_counts: ArrayLike, tau: float = 1.0) -> Tensor:
    """Return the bias of an untrained classifier, float64 [C], for a ``start`` of "zero", "uniform" or "prior".

    With "uniform" and "prior", scores of zero and what the loss ``name`` adds in training come to training
    probabilities of 1/C, or of the class priors. A softmax has the former at zero.
    """
    loss = find(name, tau)
    counts = torch.from_numpy(check_class_counts(class_counts))
    if start == "zero":
        return torch.zeros(len(counts), dtype=torch.float64)
    wanted = prior_bias(loss, counts if start == "prior" else torch.ones_like(counts))
    return wanted if loss.bias is None else wanted - tau * loss.bias(counts)
