"""Classifiers of another kind than a linear layer, put in its place.

Shapes: ``B`` images, ``D`` features, ``C`` classes.
"""

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from livt.resnets import ResNet


class CosineHead(nn.Module):
    """``scale`` times the cosines of features [B, D] and class weights [C, D]; no bias.

    Source: Cao et al., NeurIPS 2019 (kaidic/LDAM-DRW), where the loss scales the cosines; scaled here, they are logits,
    and their softmax the probabilities that were trained. The weights start with random directions of length 1.
    """

    def __init__(self, features: int, classes: int, scale: float) -> None:
        super().__init__()
        self.in_features, self.out_features, self.scale = features, classes, scale
        self.weight = nn.Parameter(F.normalize(nn.init.uniform_(torch.empty(classes, features), -1, 1)))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [B, C] of features [B, D]."""
        return self.scale * F.linear(F.normalize(features), F.normalize(self.weight))


def replace_head(network: VisionTransformer | ResNet, head: nn.Module) -> nn.Module:
    """Put another classifier in the place of a network's own, under its name; return the network.

    Raises ValueError where the classes start with different biases (``finetune.start``), which ``head`` cannot hold.
    """
    linear = network.get_classifier()
    if not linear.bias.is_meta and linear.bias.min() != linear.bias.max():
        raise ValueError("finetune.start must be 'zero': a classifier of cosines has no bias to start from")
    name = next(name for name, module in network.named_modules() if module is linear)
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, head)
    return network


def with_cosine_head(network: VisionTransformer | ResNet, scale: float) -> nn.Module:
    """Return the network with a cosine head in the place of its linear one, for as many classes."""
    linear = network.get_classifier()
    return replace_head(network, CosineHead(linear.in_features, linear.out_features, scale))
