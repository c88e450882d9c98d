"""`livt.mae` against a plain-PyTorch masked autoencoder with the published architecture and weight names.

Shapes: B batch, L patches, p patch size, D encoder width, E decoder width.
"""

import argparse

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from livt.mae import load_mae_checkpoint


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        size = x.shape[-1] // self.heads
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        heads = []
        for h in range(self.heads):
            own = slice(h * size, (h + 1) * size)
            weight = (q[..., own] @ k[..., own].transpose(1, 2) * size**-0.5).softmax(dim=-1)
            heads.append(weight @ v[..., own])
        return self.proj(torch.cat(heads, dim=-1))


class Mlp(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        x = self.fc1(x)
        return self.fc2(0.5 * x * (1 + torch.erf(x / 2**0.5)))


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = Attention(dim, heads), Mlp(dim)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def sincos(side, dim):
    def wave(place):  # [L] -> [L, dim / 2]
        omega = 1 / 10000 ** (np.arange(dim // 4) / (dim / 4))
        angle = np.outer(place, omega)
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    x, y = np.meshgrid(np.arange(side), np.arange(side))  # the width goes first
    table = np.concatenate([wave(x.ravel()), wave(y.ravel())], axis=1)
    return torch.tensor(np.concatenate([np.zeros((1, dim)), table]), dtype=torch.float32)[None]


class ReferenceMAE(nn.Module):
    def __init__(self, side, patch, dim, depth, heads, decoder_dim, decoder_depth, decoder_heads):
        super().__init__()
        self.patch = patch
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, dim, patch, stride=patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(sincos(side, dim), requires_grad=False)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.decoder_embed = nn.Linear(dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.decoder_pos_embed = nn.Parameter(sincos(side, decoder_dim), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(Block(decoder_dim, decoder_heads) for _ in range(decoder_depth))
        self.decoder_norm = nn.LayerNorm(decoder_dim, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder_dim, patch * patch * 3)

    def forward(self, images, mask_ratio, noise, normalize_targets):
        n, _, height, width = images.shape
        p, h, w = self.patch, height // self.patch, width // self.patch
        length = h * w
        kept = int(length * (1 - mask_ratio))
        tokens = self.patch_embed.proj(images).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        # One image at a time, with explicit sets instead of a double argsort.
        visible = [sorted(noise[i].argsort()[:kept].tolist()) for i in range(n)]
        x = torch.stack([tokens[i, visible[i]] for i in range(n)])
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(n, -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_embed(self.norm(x))
        full = self.mask_token.expand(n, length, -1).clone()
        mask = torch.ones(n, length, dtype=images.dtype)
        for i in range(n):
            full[i, visible[i]] = x[i, 1:]
            mask[i, visible[i]] = 0
        x = torch.cat([x[:, :1], full], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        pred = self.decoder_pred(self.decoder_norm(x))[:, 1:]

        target = torch.einsum("nchpwq->nhwpqc", images.reshape(n, 3, h, p, w, p)).reshape(n, length, p * p * 3)
        if normalize_targets:
            mean, variance = target.mean(dim=-1, keepdim=True), target.var(dim=-1, keepdim=True)
            target = (target - mean) / (variance + 1e-6) ** 0.5
        per_patch = F.mse_loss(pred, target, reduction="none").mean(dim=-1)
        return (per_patch * mask).sum() / mask.sum(), pred, mask


SHAPES = {  # side, patch, dim, depth, heads, decoder dim, depth, heads
    "one-head": (3, 2, 16, 1, 1, 8, 1, 1),
    "small": (4, 4, 32, 2, 4, 24, 1, 3),
    "deep": (5, 3, 24, 11, 2, 16, 2, 4),
    "wide-decoder": (4, 2, 16, 2, 4, 40, 3, 5),
}


def pair(name, tmp_path, seed=0, scale=1.0, positions=0.0):
    """A reference with random weights, and the package's model loaded from its file."""
    torch.manual_seed(seed)
    shape = SHAPES[name]
    reference = ReferenceMAE(*shape)
    with torch.no_grad():
        for key, p in reference.named_parameters():
            if key.endswith("pos_embed"):
                p.add_(positions * torch.randn_like(p))
            elif "norm" in key and key.endswith("weight"):
                p.copy_(1 + 0.3 * torch.randn_like(p))
            else:
                p.copy_(scale * torch.randn_like(p) / (p[0].numel() ** 0.5 if p.ndim > 1 and "token" not in key else 3))
    content = {"model": reference.state_dict(), "epoch": 799, "args": argparse.Namespace(norm_pix_loss=True)}
    torch.save(content, tmp_path / "mae.pth")
    loaded = load_mae_checkpoint(tmp_path / "mae.pth", num_heads=shape[4], decoder_num_heads=shape[7])
    return reference.eval(), loaded.eval()


def batch(name, n=3, seed=0):
    side, patch = SHAPES[name][:2]
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 3, side * patch, side * patch, generator=generator)
    return images, torch.rand(n, side * side, generator=generator)


@torch.no_grad()
def assert_parity(reference, loaded, images, noise, ratio, normalize, tolerance):
    expected_loss, expected_pred, expected_mask = reference(images, ratio, noise, normalize)
    loss, pred, mask = loaded(images, mask_ratio=ratio, noise=noise, normalize_targets=normalize)
    assert torch.equal(mask, expected_mask)
    torch.testing.assert_close(loss, expected_loss, rtol=tolerance, atol=tolerance)
    removed = mask.bool()
    assert expected_pred[removed].std() > 0.1  # a comparison of near-zeros would prove nothing
    torch.testing.assert_close(pred[removed], expected_pred[removed], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.6, 0.75, 0.8])
@pytest.mark.parametrize("name", SHAPES)
def test_loss_and_predictions(name, ratio, normalize, tmp_path):
    assert_parity(*pair(name, tmp_path), *batch(name), ratio, normalize, 1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_double_precision_leaves_no_room_for_another_formula(name, tmp_path):
    """An eps of 1e-5 in a norm, or the tanh GELU, differs by far more than this."""
    reference, loaded = pair(name, tmp_path, seed=1)
    images, noise = batch(name, seed=1)
    expected = reference.double()(images.double(), 0.5, noise, True)[1]
    pred = loaded.double()(images.double(), mask_ratio=0.5, noise=noise).pred
    torch.testing.assert_close(pred, expected, rtol=1e-10, atol=1e-10)


def test_positions_come_from_the_file(tmp_path):
    reference, loaded = pair("small", tmp_path, positions=0.5)
    assert_parity(reference, loaded, *batch("small"), 0.5, True, 1e-5)


def test_gradients_agree(tmp_path):
    reference, loaded = pair("small", tmp_path, seed=2)
    images, noise = batch("small", seed=2)
    reference(images, 0.75, noise, True)[0].backward()
    loaded(images, mask_ratio=0.75, noise=noise).loss.backward()
    theirs = sorted(p.grad.norm().item() for p in reference.parameters() if p.requires_grad)
    ours = sorted(p.grad.norm().item() for p in loaded.parameters() if p.requires_grad)
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6)
