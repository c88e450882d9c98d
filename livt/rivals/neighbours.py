"""What the features, or the pixels, know without a classifier: nearest class mean and nearest neighbour.

The logit of a class is minus the squared distance to its nearest reference: the mean feature of its training images, or
each training image by itself. Nothing is learned. Nearest class mean: Mensink et al., TPAMI 2013; in long-tailed
recognition, Kang et al., ICLR 2020, with unnormalized features (``un``) and squared distances as its repository has it.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from livt.data.sets import Dataset
from livt.rivals.methods import METHODS, Look, Method, features_of, widths_of, with_head


class Nearest(nn.Module):
    """Logits [B, C] of points [B, D]: minus the squared distance to the nearest reference of each class.

    The references [M, D] and their labels [M] are buffers that are not saved: they are read off the images anew.
    """

    references: Tensor
    labels: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("references", torch.zeros(0, 0), persistent=False)
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64), persistent=False)

    def remember(self, references: Tensor, labels: Tensor) -> None:
        """Take references [M, D] with their labels [M]; every class needs one."""
        self.references, self.labels = references.to(self.references), labels.to(self.labels)

    def forward(self, points: Tensor) -> Tensor:
        """Return float32 logits [B, C]."""
        # By products, in numbers long enough that the squares do not cancel; Apple's GPUs have no float64.
        dtype = torch.float32 if points.device.type == "mps" else torch.float64
        x, r = points.to(dtype), self.references.to(dtype).reshape(-1, points.shape[1])
        square = x.square().sum(1, keepdim=True) - 2 * x @ r.T + r.square().sum(1)  # [B, M]
        far = square.new_full((len(x), self.classes), torch.inf)
        return -far.scatter_reduce(1, self.labels.expand(len(x), -1), square.clamp(min=0), "amin").float()


class OnPixels(nn.Module):
    """A model that looks at the pixels of normalized images alone; its network is that of the first stage, unused."""

    def __init__(self, network: nn.Module, head: Nearest) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, C] of images [B, 3, H, W]."""
        return self.head(pixels_of(self, images))


def on_features(model: nn.Module) -> nn.Module:
    """Return the model with a head that compares features."""
    return with_head(model, Nearest(widths_of(model)[1]))


def on_pixels(model: nn.Module) -> nn.Module:
    """Return a model that compares pixels."""
    return OnPixels(model, Nearest(int(model.num_classes)))  # type: ignore[arg-type]


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the mean feature of each class, float64 [C, D], of features [N, D] and labels [N]."""
    members = one_hot(labels, classes).double()  # [N, C]
    return members.T @ features.double() / members.sum(0)[:, None]


def remember_means(model: nn.Module, data: Dataset, look: Look) -> None:
    """Give a model the mean feature of each class of the training images."""
    found = class_means(look(partial(features_of, model), data.train), data.train.labels.cpu(), data.num_classes)
    _head(model).remember(found, torch.arange(data.num_classes))


def remember_images(points: Callable[[nn.Module, Tensor], Tensor], model: nn.Module, data: Dataset, look: Look) -> None:
    """Give a model the points [N, D] of all training images."""
    _head(model).remember(look(partial(points, model), data.train), data.train.labels)


def pixels_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return the pixels [B, D] of images [B, 3, H, W]."""
    return images.flatten(1)


def _head(model: nn.Module) -> Nearest:
    return next(module for module in model.modules() if isinstance(module, Nearest))


METHODS["class_means"] = Method(
    name="class_means",
    title="Nearest class mean",
    source="Mensink et al., TPAMI 2013",
    adapt=on_features,
    prepare=remember_means,
)
METHODS["nearest_feature"] = Method(
    name="nearest_feature",
    title="1-NN, features",
    source="Cover and Hart, 1967",
    adapt=on_features,
    prepare=partial(remember_images, features_of),
)
METHODS["nearest_pixels"] = Method(
    name="nearest_pixels",
    title="1-NN, pixels",
    source="Cover and Hart, 1967",
    adapt=on_pixels,
    prepare=partial(remember_images, pixels_of),
    on_head=False,
)
