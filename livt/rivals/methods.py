"""The table of second stages, and what their methods share: the classifier's head, features, a weighted cross-entropy.

Shapes: ``B`` images of a part of a batch, ``N`` images of a split, ``D`` features, ``C`` classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import one_hot

from livt.config import SecondConfig
from livt.data.images import FileSplit, Split
from livt.losses import Criterion, CrossEntropy

# Called with a function of normalized images [B, 3, H, W] and a split, it returns what the function gives of all its
# images as evaluation sees them, float32 [N, ...] on the CPU.
Look = Callable[[Callable[[Tensor], Tensor], Split | FileSplit], Tensor]


@dataclass(frozen=True, kw_only=True)
class Method:
    """An entry of the table: what a recipe's ``second.method`` stands for.

    adapt: from the first stage's model, in evaluation mode with its weights and none of them trainable, and options:
    the model in its place, which returns logits [B, C] in evaluation mode, the only one that it is used in; its
    parameters that require a gradient are what the method learns. create: from class counts [C] and options, the loss
    that it learns by; None learns nothing. prepare: called with the model, the images, a :data:`Look` and options once
    the model has its weights, before it trains and each time that it is loaded: for what a method reads off images,
    with labels or without; what it draws on the CPU is the same each time. project: called with the model after each
    epoch of training, before it is evaluated. slower: from options, parts of the names of parameters that learn at a
    share of the learning rate, and that share.

    on_head: whether the method needs a model that ends in one head over features (:func:`check_head`). source: the
    paper that it is from; options: its parameters, with the paper's values.
    """

    name: str
    title: str
    source: str
    adapt: Callable[..., nn.Module]
    create: Callable[..., Criterion] | None = None
    prepare: Callable[..., None] | None = None
    project: Callable[[nn.Module], None] | None = None
    slower: Callable[..., dict[str, float]] = lambda **options: {}
    on_head: bool = True
    options: dict[str, float] = field(default_factory=dict)


METHODS: dict[str, Method] = {}


def method_of(settings: SecondConfig) -> Method:
    """Return the method of a recipe. Raises ValueError for a name without an entry, and for settings it cannot use."""
    if settings.method not in METHODS:
        raise ValueError(f"second.method {settings.method!r} is not one of {', '.join(METHODS)}")
    method = METHODS[settings.method]
    for name in settings.options:
        if name not in method.options:
            known = f"known here: {', '.join(method.options)}" if method.options else "it has none"
            raise ValueError(f"second.options.{name} is no parameter of the method {method.name!r}; {known}")
    if method.create is None and settings.epochs != 1:
        raise ValueError(f"second.epochs must be 1, not {settings.epochs}: {method.name!r} learns nothing")
    if method.create is not None:
        method.create((1, 1), **options_of(settings))  # it refuses impossible values
    return method


def options_of(settings: SecondConfig) -> dict[str, float]:
    """Return the options of a recipe's method, those of its paper where the recipe has no others."""
    return METHODS[settings.method].options | settings.options


# ---------------------------------------------------------------- the head and the features


def head_of(model: nn.Module) -> nn.Module:
    """Return the head of a model: what makes logits [B, C] of features [B, D]."""
    return model.get_classifier()  # type: ignore[operator]  # timm's name for it


def widths_of(model: nn.Module) -> tuple[int, int]:
    """Return how many features [D] and classes [C] the head of a model has."""
    return int(model.num_features), int(model.num_classes)  # type: ignore[arg-type]


def with_head(model: nn.Module, head: nn.Module) -> nn.Module:
    """Return the model with another head, set in place."""
    own = head_of(model)
    model.set_submodule(next(name for name, module in model.named_modules() if module is own), head)
    return model


def features_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return the features [B, D] that a model's head sees."""
    return model.forward_head(model.forward_features(images), pre_logits=True)  # type: ignore[operator]


def linear_head(model: nn.Module) -> nn.Linear:
    """Return the head of a model. Raises ValueError where it is not a linear map of features."""
    head = head_of(model)
    if type(head) is not nn.Linear:
        raise ValueError(f"the head of its first stage is {type(head).__name__}, not a linear map of features")
    return head


@torch.no_grad()
def check_head(model: nn.Module, size: tuple[int, int]) -> None:
    """Raise ValueError unless a model, in evaluation mode, returns what its one head makes of features.

    size: of its images, height and width. No weight is looked at: the model may be on the meta device.
    """
    if not all(hasattr(model, name) for name in ("get_classifier", "forward_features", "forward_head")):
        raise ValueError("its model does not end in one head over features")
    seen: list[tuple[Tensor, Tensor]] = []
    hook = head_of(model).register_forward_hook(lambda head, inputs, output: seen.append((inputs[0], output)))
    try:
        logits = model(torch.zeros(2, 3, *size, device=next(model.parameters()).device))
    finally:
        hook.remove()
    width, classes = widths_of(model)
    shapes = [(tuple(features.shape), tuple(output.shape)) for features, output in seen]
    if shapes != [((2, width), (2, classes))] or seen[0][1] is not logits:
        raise ValueError("its model does not return what one head makes of the features of an image")


# ---------------------------------------------------------------- a loss by class


def mean_over(losses: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over the batch of the losses [B, C] of each class, by targets [B] or the shares of [B, C]."""
    shares = targets if targets.is_floating_point() else one_hot(targets.long(), losses.shape[1])
    return (shares.to(losses.dtype) * losses).sum() / len(losses)


class WeightedCrossEntropy(CrossEntropy):
    """Cross-entropy with a weight for each class, mean over the batch: sum over c of t_c w_c (-log p_c).

    weights: positive, of any scale, float64 [C]; they are scaled to a mean of 1. Of a mixed target, each class's share
    counts with the weight of that class.
    """

    def __init__(self, weights: NDArray[np.float64]) -> None:
        super().__init__()
        self.weights = torch.from_numpy(weights / weights.mean())

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return mean_over(-self.weights.to(logits) * logits.log_softmax(1), targets)


def cross_entropy(class_counts: Any) -> Criterion:
    """Return plain cross-entropy, whatever the class counts [C]."""
    return CrossEntropy()
