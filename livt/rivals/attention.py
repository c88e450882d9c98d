"""How far a Vision Transformer looks: the mean attention distance of each block (Dosovitskiy et al., ICLR 2021).

Shapes: ``B`` images, ``H`` heads, ``L`` patches.
"""

from typing import Any

import torch
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import Tensor, nn


def attention_distance(weights: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Return the mean distance, in pixels, from a patch to those that it attends to, [B].

    weights: from each patch to each, [B, H, L, L], of a grid of patches (rows, columns); they are brought to a sum of 1
    over the patches attended to, so that what goes to other tokens does not count. The mean is over patches and heads.
    """
    rows, columns = torch.meshgrid(*(torch.arange(n, device=weights.device) for n in grid), indexing="ij")
    places = patch_size * torch.stack((rows, columns), -1).flatten(0, 1).to(weights.dtype)  # [L, 2]
    distances = (places[:, None] - places[None]).norm(dim=-1)  # [L, L]
    return ((weights * distances).sum(-1) / weights.sum(-1)).mean((1, 2))


def uniform_distance(grid: tuple[int, int], patch_size: int) -> float:
    """Return the mean attention distance of a block that attends to all patches alike, in pixels."""
    patches = grid[0] * grid[1]
    return attention_distance(torch.ones(1, 1, patches, patches, dtype=torch.float64), grid, patch_size).item()


def attention_distances(vit: VisionTransformer, images: Tensor) -> Tensor:
    """Return the mean attention distance of each block of a model, in pixels, [B, blocks], for images [B, 3, ...]."""
    found: list[Tensor] = []
    grid, patch_size = vit.patch_embed.grid_size, vit.patch_embed.patch_size[0]

    def look(attention: nn.Module, inputs: tuple[Any, ...]) -> None:
        weights = attention_weights(attention, inputs[0])[:, :, vit.num_prefix_tokens :, vit.num_prefix_tokens :]
        found.append(attention_distance(weights, grid, patch_size))

    handles = [block.attn.register_forward_pre_hook(look) for block in vit.blocks]
    try:
        vit(images)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(found, 1)


def attention_weights(attention: nn.Module, tokens: Tensor) -> Tensor:
    """Return from which token timm's attention takes how much, float32 [B, H, tokens, tokens], for what it is given."""
    assert isinstance(attention, Attention)
    batch, count, _ = tokens.shape
    both = (
        attention.qkv(tokens).reshape(batch, count, 3, attention.num_heads, attention.head_dim).permute(2, 0, 3, 1, 4)
    )
    query, key = attention.q_norm(both[0]), attention.k_norm(both[1])
    return (attention.scale * query.float() @ key.float().transpose(-2, -1)).softmax(-1)
