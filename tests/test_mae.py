"""The masked autoencoder: masking, targets, positions, initialisation, learning, checkpoint errors."""

import math
import os

import numpy as np
import pytest
import torch
from torch import nn

from livt.mae import MaskedAutoencoder, load_mae_checkpoint
from livt.models import create_vit

P = 4


def build(image_size=16, size="pico", seed=0, width=24, depth=2, heads=3):
    torch.manual_seed(seed)
    encoder = create_vit(size, image_size, P, 0, global_pool="token")
    return MaskedAutoencoder(encoder, decoder_width=width, decoder_depth=depth, decoder_heads=heads)


def batch(image_size=(16, 16), n=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 3, *image_size, generator=generator)
    return images, torch.rand(n, image_size[0] * image_size[1] // P**2, generator=generator)


def cut(images):
    """[B, 3, H, W] to [B, L, p*p*3] by slicing: patches row by row, pixels row by row, colours last."""
    _, _, height, width = images.shape
    rows = [
        images[:, :, y : y + P, x : x + P].permute(0, 2, 3, 1).flatten(1)
        for y in range(0, height, P)
        for x in range(0, width, P)
    ]
    return torch.stack(rows, dim=1)


def sincos(grid, width):
    """First half of the channels for x, second for y; each sin then cos; zeros for the class token."""
    table = np.zeros((1 + grid[0] * grid[1], width))
    quarter = width // 4
    for token in range(grid[0] * grid[1]):
        for half, place in enumerate((token % grid[1], token // grid[1])):
            for i in range(quarter):
                angle = place / 10000 ** (i / quarter)
                table[1 + token, half * 2 * quarter + i] = math.sin(angle)
                table[1 + token, half * 2 * quarter + quarter + i] = math.cos(angle)
    return torch.from_numpy(table)[None]


# ------------------------------------------------------------------------------------------------- masking


@pytest.mark.parametrize("size", [(16, 16), (8, 16), (20, 20)])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.6, 0.75, 0.8])
def test_mask_keeps_the_smallest_noise(size, ratio):
    images, noise = batch(size)
    length = noise.shape[1]
    mae = build(size)
    loss, pred, mask = mae(images, mask_ratio=ratio, noise=noise)
    kept = int(length * (1 - ratio))
    assert mask.shape == (3, length)
    assert pred.shape == (3, length, P * P * 3)
    assert loss.shape == ()
    for row, values in zip(mask, noise, strict=True):
        threshold = values.sort().values[kept]
        torch.testing.assert_close(row, (values >= threshold).to(row))  # 1 = removed


def test_default_mask_ratio_is_three_quarters_and_output_is_named():
    images, noise = batch()
    output = build()(images, noise=noise)
    assert output._fields == ("loss", "pred", "mask")
    assert output.mask.sum(dim=1).tolist() == [12, 12, 12]


def test_masks_without_noise_differ_between_images_and_calls():
    images, _ = batch(n=8)
    mae = build()
    torch.manual_seed(5)
    first, second = mae(images).mask, mae(images).mask
    assert (first.sum(dim=1) == 12).all()
    assert not torch.equal(first, second)
    assert not (first == first[0]).all()
    torch.manual_seed(5)
    assert torch.equal(mae(images).mask, first)


def test_same_noise_same_result():
    images, noise = batch()
    mae = build()
    state = torch.get_rng_state()
    first, second = mae(images, noise=noise), mae(images, noise=noise)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)  # given noise, nothing else is drawn


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5, float("nan"), float("inf"), 0.95, 1e-18])
def test_impossible_mask_ratios(ratio):
    """0.95 of 16 patches leaves none visible; 1e-18 removes none."""
    images, noise = batch()
    with pytest.raises(ValueError, match="mask_ratio"):
        build()(images, mask_ratio=ratio, noise=noise)


def test_wrong_noise_shape():
    images, noise = batch()
    for bad in (noise[:, :-1], noise[:1], noise[:, :, None]):
        with pytest.raises(ValueError, match="noise"):
            build()(images, noise=bad)


@pytest.mark.parametrize("size", [(16, 16), (8, 16)])
def test_only_visible_patches_are_seen(size):
    images, noise = batch(size)
    mae = build(size)
    images.requires_grad_()
    _, pred, mask = mae(images, mask_ratio=0.5, noise=noise)
    pred[mask.bool()].square().sum().backward()
    influence = cut(images.grad).abs().sum(dim=2)
    assert (influence[mask.bool()] == 0).all()
    assert (influence[~mask.bool()] > 0).all()


def test_changing_a_removed_patch_changes_the_loss_but_no_prediction():
    images, noise = batch()
    mae = build()
    before = mae(images, noise=noise)
    removed = int(before.mask[0].nonzero()[0])
    y, x = removed // 4 * P, removed % 4 * P
    images[0, :, y : y + P, x : x + P] = torch.rand(3, P, P)
    after = mae(images, noise=noise)
    assert torch.equal(after.pred, before.pred)
    assert not torch.equal(after.loss, before.loss)


# ---------------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("size", [(16, 16), (8, 16), (16, 8)])
@pytest.mark.parametrize("normalize", [True, False])
def test_loss_is_the_error_on_removed_patches(size, normalize):
    images, noise = batch(size)
    loss, pred, mask = build(size)(images, mask_ratio=0.5, noise=noise, normalize_targets=normalize)
    target = cut(images).double()
    if normalize:
        mean = target.mean(dim=2, keepdim=True)
        variance = (target - mean).square().sum(dim=2, keepdim=True) / (target.shape[2] - 1)  # unbiased
        target = (target - mean) / (variance + 1e-6).sqrt()
    removed = mask.bool()
    expected = (pred.double() - target)[removed].square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_flat_patches_have_finite_targets():
    images, noise = torch.ones(2, 3, 16, 16), torch.rand(2, 16)
    loss = build()(images, noise=noise).loss
    loss.backward()
    assert loss.isfinite()


def test_autocast_keeps_a_float32_loss():
    images, noise = batch()
    mae = build()
    plain = mae(images, noise=noise)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = mae(images, noise=noise)
    assert mixed.loss.dtype == torch.float32
    torch.testing.assert_close(mixed.loss, plain.loss, rtol=2e-2, atol=0)
    assert torch.equal(mixed.mask, plain.mask)
    mixed.loss.backward()
    assert all(p.grad.isfinite().all() for p in mae.parameters() if p.requires_grad)


# ----------------------------------------------------------------------------------------------- positions


@pytest.mark.parametrize("size", [(16, 16), (8, 16), (16, 8), (4, 20)])
def test_positions_are_fixed_sines_and_cosines(size):
    mae = build(size)
    grid = (size[0] // P, size[1] // P)
    for positions, width in [(mae.encoder.pos_embed, 32), (mae.decoder_pos_embed, 24)]:
        assert not positions.requires_grad
        torch.testing.assert_close(positions.detach().double(), sincos(grid, width), rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------- parameters, learning


def test_every_trainable_parameter_gets_a_gradient():
    images, noise = batch()
    mae = build()
    mae(images, noise=noise).loss.backward()
    fixed = {name for name, p in mae.named_parameters() if not p.requires_grad}
    assert {name.rsplit(".")[-1] for name in fixed} <= {"pos_embed", "decoder_pos_embed"}
    for name, p in mae.named_parameters():
        if p.requires_grad:
            assert p.grad is not None, name
            assert p.grad.abs().sum() > 0, name


def test_initialisation():
    mae = build(size="nano", width=64, depth=3, heads=4)
    matrices = [(name, m.weight) for name, m in mae.named_modules() if isinstance(m, nn.Linear)]
    assert len(matrices) == 4 * (4 + 3) + 2
    matrices.append(("patch projection", mae.encoder.patch_embed.proj.weight.flatten(1)))
    for name, weight in matrices:
        bound = math.sqrt(6 / sum(weight.shape))
        assert 0.98 * bound < weight.abs().max().item() <= bound * (1 + 1e-6), name
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05), name
        assert abs(weight.mean().item()) < 0.05 * bound, name
    for name, module in mae.named_modules():
        if isinstance(module, (nn.Linear, nn.LayerNorm)):
            assert (module.bias == 0).all(), name
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all(), name
            assert module.eps == 1e-6, name


def test_tokens_start_as_narrow_normals():
    tokens = [build(seed=seed, width=96) for seed in range(6)]
    for values in (
        torch.cat([mae.mask_token.flatten() for mae in tokens]),
        torch.cat([mae.encoder.cls_token.flatten() for mae in tokens]),
    ):
        assert values.std().item() == pytest.approx(0.02, rel=0.2)
        assert abs(values.mean().item()) < 0.006


@pytest.mark.parametrize("normalize", [True, False])
def test_one_batch_can_be_learned(normalize):
    images, noise = batch(n=2)
    mae = build(size="nano", width=32, depth=1, heads=2)
    optimizer = torch.optim.AdamW([p for p in mae.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(40):
        loss = mae(images, noise=noise, normalize_targets=normalize).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_encoder_is_the_one_given():
    encoder = create_vit("pico", 16, P, 0, global_pool="token")
    mae = MaskedAutoencoder(encoder, decoder_width=24, decoder_depth=1, decoder_heads=3)
    images, noise = batch()
    mae(images, noise=noise).loss.backward()
    assert encoder.blocks[0].attn.qkv.weight.grad is not None


# --------------------------------------------------------------------------------------- checkpoint errors


@pytest.fixture(scope="module")
def public_state():
    """Random weights under the public names: pico encoder, decoder of width 24."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "cls_token": (1, 1, 32),
        "pos_embed": (1, 17, 32),
        "mask_token": (1, 1, 24),
        "decoder_pos_embed": (1, 17, 24),
        "patch_embed.proj.weight": (32, 3, P, P),
        "patch_embed.proj.bias": (32,),
        "norm.weight": (32,),
        "norm.bias": (32,),
        "decoder_embed.weight": (24, 32),
        "decoder_embed.bias": (24,),
        "decoder_norm.weight": (24,),
        "decoder_norm.bias": (24,),
        "decoder_pred.weight": (P * P * 3, 24),
        "decoder_pred.bias": (P * P * 3,),
    }
    for stem, width in [("blocks.0", 32), ("blocks.1", 32), ("decoder_blocks.0", 24)]:
        for norm in ("norm1", "norm2"):
            shapes |= {f"{stem}.{norm}.weight": (width,), f"{stem}.{norm}.bias": (width,)}
        for layer, out, into in [
            ("attn.qkv", 3, 1),
            ("attn.proj", 1, 1),
            ("mlp.fc1", 4, 1),
            ("mlp.fc2", 1, 4),
        ]:
            shapes[f"{stem}.{layer}.weight"] = (out * width, into * width)
            shapes[f"{stem}.{layer}.bias"] = (out * width,)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def load(tmp_path, state, **rest):
    torch.save({"model": state, **rest}, tmp_path / "mae.pth")
    return load_mae_checkpoint(tmp_path / "mae.pth", num_heads=2, decoder_num_heads=3)


def test_public_names_and_shapes_load(tmp_path, public_state):
    mae = load(tmp_path, public_state, epoch=799)
    assert isinstance(mae, MaskedAutoencoder)
    own = list(mae.state_dict().values())
    assert sum(p.numel() for p in own) == sum(p.numel() for p in public_state.values())
    assert torch.equal(mae.encoder.pos_embed, public_state["pos_embed"])
    assert torch.equal(mae.decoder_pos_embed, public_state["decoder_pos_embed"])
    assert not mae.encoder.pos_embed.requires_grad
    assert not mae.decoder_pos_embed.requires_grad


def test_each_missing_weight_is_named(tmp_path, public_state):
    for name in public_state:
        with pytest.raises(ValueError, match=name):
            load(tmp_path, {k: v for k, v in public_state.items() if k != name})


@pytest.mark.parametrize("extra", ["head.weight", "fc_norm.weight", "blocks.0.gamma_1", "decoder.weight"])
def test_unexpected_weight_is_named(tmp_path, public_state, extra):
    with pytest.raises(ValueError, match=extra):
        load(tmp_path, public_state | {extra: torch.zeros(3)})


def test_misshaped_weight_is_named(tmp_path, public_state):
    with pytest.raises(ValueError, match="decoder_pred.weight"):
        load(tmp_path, public_state | {"decoder_pred.weight": torch.zeros(12, 24)})


def test_an_encoder_without_its_decoder_says_so(tmp_path, public_state):
    """The MAE authors also publish encoders alone."""
    encoder = {k: v for k, v in public_state.items() if not k.startswith(("decoder", "mask_token"))}
    with pytest.raises(ValueError, match="mae.pth.*decoder"):
        load(tmp_path, encoder)


class RunsCode:
    """Unpickling this makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_unsafe_missing_and_truncated_files(tmp_path, public_state):
    with pytest.raises(ValueError, match="mae.pth"):
        load(tmp_path, public_state, args=RunsCode(tmp_path / "ran"))
    assert not (tmp_path / "ran").exists()
    load(tmp_path, public_state)
    (tmp_path / "cut.pth").write_bytes((tmp_path / "mae.pth").read_bytes()[:-500])
    with pytest.raises(ValueError, match="cut.pth"):
        load_mae_checkpoint(tmp_path / "cut.pth", num_heads=2, decoder_num_heads=3)
    with pytest.raises((FileNotFoundError, ValueError), match="absent.pth"):
        load_mae_checkpoint(tmp_path / "absent.pth", num_heads=2, decoder_num_heads=3)


def test_an_encoder_that_normalizes_behind_its_pooling_gets_a_norm_before_the_decoder():
    """create_vit's default, average pooling, has no norm of tokens; the decoder needs one."""
    mae = MaskedAutoencoder(create_vit("pico", 16, 4, 0), decoder_width=16, decoder_depth=1, decoder_heads=2)
    images = torch.randn(2, 3, 16, 16)
    patches = mae.patchify(images)
    tokens = mae.encode(patches, torch.arange(16).expand(2, 16))
    assert tokens.mean(-1).abs().max() < 1e-5
    assert (tokens.std(-1, correction=0) - 1).abs().max() < 1e-3
    mae(images).loss.backward()
    assert mae.norm.weight.grad.abs().sum() > 0
