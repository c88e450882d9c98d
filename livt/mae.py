"""The masked autoencoder around a given encoder (He et al., CVPR 2022).

Shapes: ``B`` batch, ``L`` patches, ``V`` visible patches, ``p`` patch size, ``D`` encoder width, ``E`` decoder width.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from livt.models import count_blocks, load_strictly, read_checkpoint, vit_arguments

_layer_norm = partial(nn.LayerNorm, eps=1e-6)


class MAEOutput(NamedTuple):
    """loss: scalar; pred: [B, L, p*p*3]; mask: [B, L], 1 where a patch was removed."""

    loss: Tensor
    pred: Tensor
    mask: Tensor


def sincos_positions(grid_size: tuple[int, int], width: int) -> Tensor:
    """Return fixed sine-cosine position embeddings, [1, 1 + L, width]; the class token's row is zero.

    The first half of the channels encodes the column, the second the row; each is sines, then cosines, of
    frequencies 10000 ** (-4 i / width).
    """
    if width % 4:
        raise ValueError(f"sine-cosine positions need a width that is a multiple of 4, not {width}")
    rows, columns = grid_size
    frequency = 10000 ** (-torch.arange(width // 4, dtype=torch.float64) * 4 / width)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    parts = [wave(axis.flatten().double()[:, None] * frequency) for axis in (x, y) for wave in (torch.sin, torch.cos)]
    return F.pad(torch.cat(parts, dim=1), (0, 0, 1, 0)).float()[None]


class MaskedAutoencoder(nn.Module):
    """Encodes the visible patches with ``encoder``, reconstructs the removed ones with a lighter decoder.

    ``encoder`` is a timm VisionTransformer with a class token. Its weights are initialised anew, its positions set
    to fixed sine-cosine ones. With ``checkpointing`` set, training keeps the activations of one block at a time and
    computes them again for the gradient. Raises ValueError where widths and heads do not fit.
    """

    def __init__(
        self,
        encoder: VisionTransformer,
        *,
        decoder_width: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        decoder_mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        if encoder.num_prefix_tokens != 1:
            raise ValueError(f"the encoder needs one class token, not {encoder.num_prefix_tokens} prefix tokens")
        if decoder_heads < 1 or decoder_width % decoder_heads:
            raise ValueError(f"decoder_heads {decoder_heads} does not divide decoder_width {decoder_width}")
        width, channels = encoder.embed_dim, encoder.patch_embed.proj.in_channels
        self.encoder = encoder
        self.checkpointing = False
        self.patch_size = encoder.patch_embed.patch_size[0]
        # An encoder with fc_norm normalizes behind its pooling, which a decoder never sees: then the norm is ours.
        self.norm = _layer_norm(width) if isinstance(encoder.norm, nn.Identity) else nn.Identity()
        self.decoder_embed = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_width, decoder_heads, decoder_mlp_ratio, qkv_bias=True, norm_layer=_layer_norm)
            for _ in range(decoder_depth)
        )
        self.decoder_norm = _layer_norm(decoder_width)
        self.decoder_pred = nn.Linear(decoder_width, self.patch_size**2 * channels)

        grid = encoder.patch_embed.grid_size
        self.decoder_pos_embed = nn.Parameter(sincos_positions(grid, decoder_width), requires_grad=False)
        encoder.pos_embed.data = sincos_positions(grid, width)
        encoder.pos_embed.requires_grad_(False)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        projection = self.encoder.patch_embed.proj
        nn.init.xavier_uniform_(projection.weight.view(projection.out_channels, -1))
        nn.init.zeros_(projection.bias)
        nn.init.normal_(self.encoder.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    def patchify(self, images: Tensor) -> Tensor:
        """Cut images [B, 3, H, W] into patches [B, L, p*p*3], row by row, channels last."""
        p = self.patch_size
        batch, channels, height, width = images.shape
        patches = images.reshape(batch, channels, height // p, p, width // p, p)
        return patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, p * p * channels)  # [B, L, p*p*3]

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Invert :meth:`patchify`."""
        p = self.patch_size
        rows, columns = self.encoder.patch_embed.grid_size
        blocks = patches.reshape(len(patches), rows, columns, p, p, -1)
        return blocks.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, rows * p, columns * p)

    def encode(self, patches: Tensor, keep: Tensor) -> Tensor:
        """Embed and encode only the patches ``keep`` [B, V]: returns [B, 1 + V, D], the class token first."""
        encoder = self.encoder
        weight = encoder.patch_embed.proj.weight.permute(0, 2, 3, 1).flatten(1)  # [D, p*p*3], as patchify orders
        tokens = F.linear(_take(patches, keep), weight, encoder.patch_embed.proj.bias)
        positions = encoder.pos_embed.expand(len(patches), -1, -1)
        tokens = tokens + _take(positions[:, 1:], keep)
        class_token = encoder.cls_token + positions[:, :1]
        return self.norm(encoder.norm(self._through(encoder.blocks, torch.cat((class_token, tokens), dim=1))))

    def decode(self, latent: Tensor, restore: Tensor) -> Tensor:
        """Predict all patches [B, L, p*p*3] from the visible ones; ``restore`` [B, L] undoes the shuffle."""
        tokens = self.decoder_embed(latent)  # [B, 1 + V, E]
        batch, patches = restore.shape
        removed = self.mask_token.to(tokens.dtype).expand(batch, patches + 1 - tokens.shape[1], -1)
        shuffled = torch.cat((tokens[:, 1:], removed), dim=1)  # [B, L, E]
        tokens = torch.cat((tokens[:, :1], _take(shuffled, restore)), dim=1) + self.decoder_pos_embed
        return self.decoder_pred(self.decoder_norm(self._through(self.decoder_blocks, tokens)))[:, 1:]

    def _through(self, blocks: Iterable[nn.Module], tokens: Tensor) -> Tensor:
        for block in blocks:
            tokens = checkpoint(block, tokens, use_reentrant=False) if self.checkpointing else block(tokens)
        return tokens

    def forward(
        self,
        images: Tensor,
        mask_ratio: float = 0.75,
        noise: Tensor | None = None,
        normalize_targets: bool = True,
    ) -> MAEOutput:
        """Reconstruct images [B, 3, H, W]; the loss is the mean squared error on the removed patches.

        ``noise`` [B, L] decides the masking (the ``int(L * (1 - mask_ratio))`` smallest are kept); None draws it.
        With ``normalize_targets`` each patch's pixels are brought to zero mean and unit deviation.
        Raises ValueError for images or noise of another shape, and for a mask ratio that leaves no patch visible, or
        removes none.
        """
        if tuple(images.shape[2:]) != tuple(self.encoder.patch_embed.img_size):
            size = tuple(self.encoder.patch_embed.img_size)
            raise ValueError(f"images are {tuple(images.shape[2:])} pixels, the encoder takes {size}")
        patches = self.patchify(images)
        batch, length, _ = patches.shape
        visible = int(length * (1 - mask_ratio)) if 0 < mask_ratio < 1 else 0
        if not 0 < visible < length:
            raise ValueError(f"mask_ratio {mask_ratio} leaves {visible} of {length} patches visible, not some of them")
        if noise is None:
            noise = torch.rand(batch, length, device=images.device)
        if noise.shape != (batch, length):
            raise ValueError(f"noise must be [{batch}, {length}], not {list(noise.shape)}")

        order = noise.argsort(dim=1)
        restore = order.argsort(dim=1)
        mask = (restore >= visible).to(patches.dtype)
        pred = self.decode(self.encode(patches, order[:, :visible]), restore)
        return MAEOutput(self.loss(patches, pred, mask, normalize_targets), pred, mask)

    def loss(self, patches: Tensor, pred: Tensor, mask: Tensor, normalize_targets: bool) -> Tensor:
        """Return the mean squared error over the removed patches, float32 or wider."""
        dtype = torch.promote_types(patches.dtype, torch.float32)
        target, pred = patches.to(dtype), pred.to(dtype)
        if normalize_targets:
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        error = (pred - target).square().mean(-1)  # [B, L]
        return (error * mask).sum() / mask.sum()


def _take(tokens: Tensor, index: Tensor) -> Tensor:
    """Return tokens[b, index[b, i]]: [B, L, D] and [B, V] give [B, V, D]."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))


def encoder_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the encoder's weights of a masked autoencoder's state dict, under the names of the encoder."""
    return {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}


def load_mae_checkpoint(path: str | Path, *, num_heads: int, decoder_num_heads: int) -> MaskedAutoencoder:
    """Return the masked autoencoder of a public MAE ``.pth``, decoder included.

    All sizes but the numbers of heads are read off the shapes. Raises FileNotFoundError, or ValueError naming the
    file and what is missing, unexpected, or does not fit.
    """
    state, source = read_checkpoint(path), str(path)
    arguments = vit_arguments(state, num_heads=num_heads, source=source)
    embed = state.get("decoder_embed.weight")
    if embed is None or not embed.ndim:
        raise ValueError(f"{path} lacks the weight 'decoder_embed.weight': it holds an encoder without its decoder")
    width, fc1 = len(embed), state.get("decoder_blocks.0.mlp.fc1.weight")
    decoder: dict[str, Any] = {
        "decoder_width": width,
        "decoder_mlp_ratio": 4.0 if fc1 is None or not fc1.ndim else len(fc1) / width,
        "decoder_depth": count_blocks(state, "decoder_blocks.", source),
        "decoder_heads": decoder_num_heads,
    }
    ours = ("decoder_", "mask_token")
    state = {k if k.startswith(ours) else f"encoder.{k}": v for k, v in state.items()}
    return load_strictly(
        lambda: MaskedAutoencoder(VisionTransformer(num_classes=0, **arguments), **decoder), state, source
    ).eval()
