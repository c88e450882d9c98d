"""Several experts on one trunk: the model of RIDE, SADE and NCL.

The experts share a Vision Transformer up to its last blocks; each has its own copy of these and of what follows. In
training the model returns the logits of each expert, [B, K, C], in evaluation their mean, [B, C].

The network stays what it is: layers of it give way to :class:`Experts` under the same names, so that layer-wise decay
treats an expert's block as the block that it is a copy of. Shapes: ``B`` images, ``K`` experts, ``L`` tokens,
``D`` width, ``C`` classes.
"""

from collections.abc import Iterable
from copy import deepcopy

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from livt.rivals.heads import CosineHead, replace_head
from livt.rivals.options import require


class Experts(nn.ModuleList):
    """A layer of each expert, which takes that expert's rows: [K * B, ...], those of the first expert first."""

    def forward(self, rows: Tensor) -> Tensor:
        """Return what the experts make of their own rows, in the same order."""
        return torch.cat([own(part) for own, part in zip(self, rows.chunk(len(self)), strict=True)])


class Fork(Experts):
    """The first layer that the experts do not share: each takes the same rows."""

    def forward(self, rows: Tensor) -> Tensor:
        """Return what each expert makes of the rows [B, ...], as [K * B, ...]."""
        return torch.cat([own(rows) for own in self])


class Heads(Experts):
    """The classifiers of the experts."""

    def forward(self, features: Tensor) -> Tensor:
        """Return logits of features [K * B, D]: [B, K, C] in training, their mean [B, C] in evaluation."""
        logits = self.each(features)
        return logits if self.training else logits.mean(1)

    def each(self, features: Tensor) -> Tensor:
        """Return the logits of each expert, [B, K, C], of features [K * B, D]."""
        return torch.stack([own(part) for own, part in zip(self, features.chunk(len(self)), strict=True)], 1)


def linear_experts(network: nn.Module, experts: float, own_blocks: float) -> nn.Module:
    """Return the network with so many experts, each with a linear classifier.

    The first keeps the network's classifier, so that one expert is the network. The others share its biases and draw
    their weights as ``nn.Linear`` does: from the near-zero weights that a classifier starts with here, experts would
    all but learn the same. Raises ValueError for what :func:`_fork` refuses.
    """
    vit = _vision_transformer(network)
    first = vit.get_classifier()
    others = [nn.Linear(first.in_features, first.out_features) for _ in range(int(experts) - 1)]
    for other in others:
        other.bias.data.copy_(first.bias.data)
    vit.head = _fork(vit, Heads([first, *others]), own_blocks)
    return vit


def cosine_experts(network: nn.Module, experts: float, own_blocks: float, scale: float) -> nn.Module:
    """Return the network with so many experts, each with a classifier of cosines times ``scale``.

    Raises ValueError for what :func:`_fork` and :func:`livt.rivals.heads.replace_head` refuse.
    """
    vit = _vision_transformer(network)
    linear = vit.get_classifier()
    heads = [CosineHead(linear.in_features, linear.out_features, scale) for _ in range(int(experts))]
    return replace_head(vit, _fork(vit, Heads(heads), own_blocks))


def check_experts(experts: float, own_blocks: float) -> None:
    """Raise ValueError for numbers of experts and of their own blocks that no network has."""
    for name, value in (("experts", experts), ("own_blocks", own_blocks)):
        require(value >= 1 and value == int(value), name, "must be a whole number of at least 1", value)


def expert_logits(network: nn.Module, images: Tensor) -> Tensor:
    """Return the logits of each expert, [B, K, C], of a model that is made here, also in evaluation."""
    vit = _vision_transformer(network)
    return vit.head.each(vit.forward_head(vit.forward_features(images), pre_logits=True))


def checked(logits: Tensor) -> Tensor:
    """Return the logits of experts in float32 or wider; raise ValueError where they are not [B, K, C]."""
    if logits.ndim != 3 or not logits.is_floating_point():
        raise ValueError(f"logits must be floating point [B, K, C], not {logits.dtype} of shape {tuple(logits.shape)}")
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _vision_transformer(network: nn.Module) -> VisionTransformer:
    if not isinstance(network, VisionTransformer):
        raise ValueError(
            "model.size must name a Vision Transformer: experts have its last blocks for their own, "
            "and a residual network has none"
        )
    return network


def _fork(vit: VisionTransformer, heads: Heads, own_blocks: float) -> Heads:
    """Give each of the heads its copy of the last blocks and of the norm before it; return the heads.

    Raises ValueError for more own blocks than there are.
    """
    depth = len(vit.blocks)
    require(own_blocks <= depth, "own_blocks", f"must be at most {depth}, the blocks of the network", own_blocks)
    start = depth - int(own_blocks)
    vit.blocks[start] = Fork(_copies(vit.blocks[start], len(heads)))
    for number in range(start + 1, depth):
        vit.blocks[number] = Experts(_copies(vit.blocks[number], len(heads)))
    vit.fc_norm = Experts(_copies(vit.fc_norm, len(heads)))
    return heads


def _copies(layer: nn.Module, count: int) -> Iterable[nn.Module]:
    return [layer, *(deepcopy(layer) for _ in range(count - 1))]
