"""Residual networks on timm, to compare a Vision Transformer with (claim C1)."""

from typing import TypeAlias

import timm
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from torch import nn

from livt.config import RESNETS

ResNet: TypeAlias = ByobNet | timm.models.resnet.ResNet


def create_resnet(size: str, num_classes: int, *, drop_path: float = 0.0) -> ResNet:
    """Return a timm residual network of a named size, its classifier near zero as that of a ViT.

    Those for small images begin with a 3 x 3 convolution of stride 1. Raises ValueError for an unknown size.
    """
    if size not in RESNETS:
        raise ValueError(f"unknown model size {size!r}; choose from {', '.join(RESNETS)}")
    stages = RESNETS[size]
    if stages is None:
        resnet = timm.create_model(size, num_classes=num_classes, drop_path_rate=drop_path)
    else:
        blocks = tuple(
            ByoBlockCfg(type="basic", d=depth, c=channels, s=min(2, 1 + number), gs=0, br=1.0)
            for number, (depth, channels) in enumerate(zip(*stages, strict=True))
        )
        config = ByoModelCfg(blocks=blocks, stem_chs=stages[1][0], stem_type="3x3", stem_pool="")
        resnet = ByobNet(config, num_classes=num_classes, drop_path_rate=drop_path)
        resnet.stem.conv.stride = (1, 1)
    head = resnet.get_classifier()
    nn.init.trunc_normal_(head.weight, std=2e-5)
    nn.init.zeros_(head.bias)
    return resnet
