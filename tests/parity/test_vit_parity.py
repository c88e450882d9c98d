"""Fine-tuned classifiers: the official `.pth` against a plain-PyTorch ViT, and safetensors read by timm."""

import argparse

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from livt.models import create_vit, load_livt_checkpoint


def random_state(grid, patch, width, depth, classes, seed=0):
    """Weights under the official names: no `norm`, but `fc_norm` behind the average pooling."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, std=1.0):
        return std * torch.randn(shape, generator=generator)

    def linear(name, out, into):
        return {f"{name}.weight": normal(out, into, std=into**-0.5), f"{name}.bias": normal(out, std=0.3)}

    def norm(name):
        return {f"{name}.weight": 1 + normal(width, std=0.3), f"{name}.bias": normal(width, std=0.3)}

    state = {
        "cls_token": normal(1, 1, width),
        "pos_embed": normal(1, 1 + grid * grid, width),
        "patch_embed.proj.weight": normal(width, 3, patch, patch, std=(3 * patch * patch) ** -0.5),
        "patch_embed.proj.bias": normal(width, std=0.3),
    }
    for i in range(depth):
        state |= norm(f"blocks.{i}.norm1") | norm(f"blocks.{i}.norm2")
        state |= linear(f"blocks.{i}.attn.qkv", 3 * width, width) | linear(f"blocks.{i}.attn.proj", width, width)
        state |= linear(f"blocks.{i}.mlp.fc1", 4 * width, width) | linear(f"blocks.{i}.mlp.fc2", width, 4 * width)
    return state | norm("fc_norm") | linear("head", classes, width)


def reference_logits(state, images, depth, heads):
    """The forward pass of a pre-norm ViT, written out on the state dict."""
    width = state["cls_token"].shape[-1]

    def linear(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name, x):
        centred = x - x.mean(dim=-1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    patch = state["patch_embed.proj.weight"].shape[-1]
    columns = F.unfold(images, patch, stride=patch).transpose(1, 2)  # [B, L, 3*p*p]
    x = columns @ state["patch_embed.proj.weight"].flatten(1).T + state["patch_embed.proj.bias"]
    x = torch.cat([state["cls_token"].expand(len(images), -1, -1), x], dim=1) + state["pos_embed"]
    for i in range(depth):
        n, length, _ = x.shape
        qkv = linear(f"blocks.{i}.attn.qkv", norm(f"blocks.{i}.norm1", x))
        q, k, v = qkv.reshape(n, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        weight = torch.softmax(torch.einsum("bhid,bhjd->bhij", q, k) / (width // heads) ** 0.5, dim=-1)
        mixed = torch.einsum("bhij,bhjd->bihd", weight, v).reshape(n, length, width)
        x = x + linear(f"blocks.{i}.attn.proj", mixed)
        hidden = linear(f"blocks.{i}.mlp.fc1", norm(f"blocks.{i}.norm2", x))
        x = x + linear(f"blocks.{i}.mlp.fc2", 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5)))
    return linear("head", norm("fc_norm", x[:, 1:].mean(dim=1)))


@pytest.mark.parametrize(
    ("grid", "patch", "width", "depth", "heads", "classes"),
    [(4, 4, 32, 2, 4, 7), (3, 2, 24, 12, 3, 10), (2, 8, 16, 1, 1, 3)],
)
def test_official_checkpoint(tmp_path, grid, patch, width, depth, heads, classes):
    state = random_state(grid, patch, width, depth, classes)
    content = {
        "model": state,
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 99,
        "args": argparse.Namespace(loss="Bal_BCE", lr=None, output_dir="out"),
    }
    torch.save(content, tmp_path / "checkpoint.pth")
    model = load_livt_checkpoint(tmp_path / "checkpoint.pth", num_heads=heads).eval()
    side = grid * patch
    images = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = reference_logits(state, images, depth, heads)
        assert expected.std() > 0.1
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)
        exact = reference_logits({k: v.double() for k, v in state.items()}, images.double(), depth, heads)
        torch.testing.assert_close(model.double()(images.double()), exact, rtol=1e-10, atol=1e-10)


def test_created_model_computes_the_reference():
    """`create_vit` itself, not only the loader, is the published architecture."""
    state = random_state(4, 4, 32, 2, 5)
    model = create_vit("pico", 16, 4, 5).eval()
    model.load_state_dict(state, strict=True)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        expected = reference_logits({k: v.double() for k, v in state.items()}, images, depth=2, heads=2)
        torch.testing.assert_close(model.double()(images), expected, rtol=1e-10, atol=1e-10)


def test_saved_safetensors_load_in_timm(tmp_path):
    state = random_state(14, 16, 192, 12, 6)
    model = create_vit("tiny", 224, 16, 6).eval()
    model.load_state_dict(state, strict=True)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    theirs = timm.create_model(
        "vit_tiny_patch16_224",
        checkpoint_path=str(tmp_path / "weights.safetensors"),
        global_pool="avg",
        num_classes=6,
    ).eval()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(images)
        assert logits.std() > 0.1
        torch.testing.assert_close(theirs(images), logits, rtol=0, atol=0)
