"""ViT sizes, their initialisation, and checkpoints in and out."""

import argparse
import os

import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator
from timm.models import VisionTransformer
from torch import nn

from livt.mae import sincos_positions
from livt.models import create_vit, load_encoder, load_livt_checkpoint

SIZES = {  # width, depth, heads
    "pico": (32, 2, 2),
    "nano": (64, 4, 4),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}


def pico(image_size=16, patch_size=4, num_classes=5, seed=0, **options):
    torch.manual_seed(seed)
    return create_vit("pico", image_size, patch_size, num_classes, **options)


def scramble(model, seed=0):
    """Give every parameter a distinct random value, so that nothing agrees by its default."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return model.eval()


def images(size=(16, 16), batch=2, seed=1):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


# --------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(("size", "shape"), SIZES.items())
def test_parameter_count(size, shape):
    """Counted by hand: patches, tokens, blocks of 12 D^2 + 13 D, fc_norm and classifier."""
    width, depth, _ = shape
    p, classes, patches = 16, 1000, 14 * 14
    expected = (3 * p * p * width + width) + width + (patches + 1) * width
    expected += depth * (12 * width**2 + 13 * width) + 2 * width + width * classes + classes
    with torch.device("meta"):
        model = create_vit(size, 224, p, classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    published = {"tiny": 5.7e6, "small": 22e6, "base": 86e6, "large": 304e6}
    if size in published:
        assert expected == pytest.approx(published[size], rel=0.01)


@pytest.mark.parametrize(("size", "shape"), SIZES.items())
def test_architecture(size, shape):
    width, depth, heads = shape
    with torch.device("meta"):
        model = create_vit(size, 32, 8, 10)
    assert isinstance(model, VisionTransformer)
    assert (model.embed_dim, len(model.blocks)) == (width, depth)
    assert {block.attn.num_heads for block in model.blocks} == {heads}
    assert model.cls_token.shape == (1, 1, width)
    assert model.pos_embed.shape == (1, 17, width)
    assert model.blocks[0].attn.qkv.bias is not None
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 2 * depth + 1
    assert {norm.eps for norm in norms} == {1e-6}


def test_image_size_as_height_and_width():
    model = pico(image_size=(8, 16))
    assert tuple(model.patch_embed.grid_size) == (2, 4)
    assert model(images((8, 16))).shape == (2, 5)
    with pytest.raises(AssertionError):
        model(images((16, 8)))


def test_average_pooling_leaves_out_the_class_token():
    model = scramble(pico())
    tokens = model.forward_features(images())
    torch.testing.assert_close(model(images()), model.head(model.fc_norm(tokens[:, 1:].mean(dim=1))))
    names = dict(model.named_parameters())
    assert "fc_norm.weight" in names
    assert "norm.weight" not in names


def test_token_pooling_without_a_classifier_is_an_encoder():
    model = scramble(pico(num_classes=0, global_pool="token"))
    names = dict(model.named_parameters())
    assert "norm.weight" in names
    assert not any(name.startswith(("fc_norm", "head")) for name in names)
    torch.testing.assert_close(model(images()), model.forward_features(images())[:, 0])


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_classifier_starts_near_zero(pool):
    model = pico(num_classes=2000, global_pool=pool)
    # A normal truncated at two deviations has 0.88 of the deviation; both readings of "truncated" pass.
    assert 1.7e-5 < model.head.weight.std().item() < 2.1e-5
    assert abs(model.head.weight.mean().item()) < 1e-6
    assert (model.head.bias == 0).all()
    assert model(images()).abs().max() < 1e-2


def test_drop_path_grows_linearly_with_depth():
    model = create_vit("nano", 16, 4, 5, drop_path=0.3)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
    scramble(model)
    assert torch.equal(model(images()), model(images()))
    assert all(isinstance(block.drop_path1, nn.Identity) for block in pico().blocks)


def test_every_parameter_gets_a_gradient():
    model = scramble(pico()).train()
    model(images()).square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


def test_same_seed_same_weights():
    first, second, other = pico(seed=3), pico(seed=3), pico(seed=4)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert not torch.equal(first.head.weight, other.head.weight)


def test_unknown_size_names_the_allowed_ones():
    with pytest.raises(ValueError, match="huge") as error:
        create_vit("huge", 16, 4, 5)
    assert all(size in str(error.value) for size in SIZES)


@pytest.mark.parametrize(("image_size", "patch"), [(30, 4), ((16, 30), 4), ((30, 16), 4), (224, 15)])
def test_image_size_must_be_a_multiple_of_the_patch(image_size, patch):
    with pytest.raises(ValueError, match=rf"(?=.*\b(30|224)\b)(?=.*\b{patch}\b)"):
        create_vit("pico", image_size, patch, 5)


# ------------------------------------------------------------------------------------------- load_encoder


def encoder_state(**options):
    return scramble(pico(num_classes=0, global_pool="token", **options), seed=7).state_dict()


def test_encoder_into_classifier():
    state, model = encoder_state(), pico(seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_encoder(model, state)
    after = model.state_dict()
    shared = state.keys() & after.keys()
    assert set(report.loaded) == shared
    assert set(report.fresh) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert set(report.dropped) == {"norm.weight", "norm.bias"}
    assert report.resampled == ()
    assert all(isinstance(names, tuple) for names in (report.loaded, report.fresh, report.dropped))
    assert all(torch.equal(after[name], state[name]) for name in shared)
    assert all(torch.equal(after[name], before[name]) for name in report.fresh)


def test_loading_copies_and_leaves_the_state_alone():
    state = encoder_state()
    names, before = list(state), state["pos_embed"].clone()
    model = pico(image_size=32)
    load_encoder(model, state)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    assert list(state) == names
    assert torch.equal(state["pos_embed"], before)
    assert torch.equal(state["cls_token"], encoder_state()["cls_token"])


def positions_of(grid, values):
    """pos_embed [1, 1 + L, 32] with `values` [rows, columns] in every channel and 9 for the class token."""
    rows = torch.as_tensor(values, dtype=torch.float32).expand(grid).reshape(-1, 1)
    return torch.cat((torch.full((1, 1), 9.0), rows)).expand(-1, 32)[None].clone()


@pytest.mark.parametrize(
    ("size", "grid"), [((32, 32), (8, 8)), ((8, 8), (2, 2)), ((16, 32), (4, 8)), ((20, 12), (5, 3))]
)
def test_positions_resample_to_another_grid(size, grid):
    model = pico(image_size=size)
    state = encoder_state()
    report = load_encoder(model, state)
    assert report.resampled == ("pos_embed",)
    assert model.pos_embed.shape == (1, 1 + grid[0] * grid[1], 32)
    assert torch.equal(model.pos_embed[:, 0], state["pos_embed"][:, 0])  # the class token has no place

    # A constant stays constant; a ramp along the columns stays one, growing along the columns only.
    load_encoder(model, state | {"pos_embed": positions_of((4, 4), 3.0)})
    torch.testing.assert_close(model.pos_embed[:, 1:], torch.full_like(model.pos_embed[:, 1:], 3.0))
    load_encoder(model, state | {"pos_embed": positions_of((4, 4), torch.arange(4.0))})
    ramp = model.pos_embed[0, 1:, 0].detach().reshape(grid)
    torch.testing.assert_close(ramp, ramp[:1].expand(grid))
    assert (ramp[0].diff() > 0).all()
    assert ramp.mean().item() == pytest.approx(1.5, abs=1e-4)  # symmetric about the centre


def test_a_grid_that_is_not_square_loads_unchanged():
    state, model = encoder_state(image_size=(8, 16)), pico(image_size=(8, 16))
    report = load_encoder(model, state)
    assert report.resampled == ()
    assert torch.equal(model.pos_embed, state["pos_embed"])


@pytest.mark.parametrize("size", [(8, 16), (8, 24)])
def test_positions_that_cannot_be_resampled_are_named(size):
    """Eight or twelve rows of positions are no square grid, so which grid they were for is unknown."""
    with pytest.raises(ValueError, match="pos_embed"):
        load_encoder(pico(image_size=32), encoder_state(image_size=size))


@pytest.mark.parametrize("missing", ["cls_token", "pos_embed", "blocks.1.attn.qkv.bias", "patch_embed.proj.weight"])
def test_missing_encoder_weight(missing):
    state = encoder_state()
    del state[missing]
    with pytest.raises(ValueError, match=missing):
        load_encoder(pico(), state)


@pytest.mark.parametrize("extra", ["decoder_pred.weight", "blocks.2.norm1.weight", "mask_token", "normal.weight"])
def test_unexpected_encoder_weight(extra):
    with pytest.raises(ValueError, match=extra):
        load_encoder(pico(), encoder_state() | {extra: torch.zeros(3)})


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("blocks.0.mlp.fc1.weight", (64, 32)),
        ("cls_token", (1, 1, 64)),
        ("patch_embed.proj.weight", (32, 3, 8, 8)),
        ("pos_embed", (1, 17, 64)),
        ("pos_embed", (17,)),
    ],
)
def test_misshaped_encoder_weight_changes_nothing(name, shape):
    model = pico()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=name):
        load_encoder(model, encoder_state() | {name: torch.zeros(shape)})
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# ------------------------------------------------------------------------------------ load_livt_checkpoint


def write_checkpoint(path, state, **rest):
    torch.save({"model": state, **rest}, path)
    return path


def test_official_checkpoint_gives_the_same_logits(tmp_path):
    model = scramble(pico(image_size=32, num_classes=7))
    path = write_checkpoint(
        tmp_path / "checkpoint.pth",
        model.state_dict(),
        args=argparse.Namespace(lr=1e-3, model="vit_base_patch16", loss="Bal_BCE"),
        optimizer={"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
        epoch=99,
        scaler={"scale": 65536.0},
    )
    for given in (path, str(path)):
        loaded = load_livt_checkpoint(given, num_heads=2)
        assert isinstance(loaded, VisionTransformer)
        assert torch.equal(loaded.eval()(images((32, 32))), model(images((32, 32))))
    wrong = load_livt_checkpoint(path, num_heads=4).eval()
    assert not torch.allclose(wrong(images((32, 32))), model(images((32, 32))), atol=1e-3)


@pytest.mark.parametrize(
    ("width", "depth", "heads", "grid", "patch", "classes"),
    [(24, 3, 3, 3, 2, 4), (16, 1, 4, 5, 4, 11), (32, 11, 2, 1, 8, 2)],
)
def test_sizes_are_read_off_the_shapes(tmp_path, width, depth, heads, grid, patch, classes):
    torch.manual_seed(0)
    model = scramble(
        VisionTransformer(
            img_size=grid * patch,
            patch_size=patch,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            num_classes=classes,
            global_pool="avg",
        )
    )
    loaded = load_livt_checkpoint(write_checkpoint(tmp_path / "c.pth", model.state_dict()), num_heads=heads).eval()
    x = images((grid * patch, grid * patch))
    assert torch.equal(loaded(x), model(x))


def test_missing_and_unexpected_keys_are_named(tmp_path):
    state = pico().state_dict()
    for name in state:
        path = write_checkpoint(tmp_path / "c.pth", {k: v for k, v in state.items() if k != name})
        with pytest.raises(ValueError, match=name):
            load_livt_checkpoint(path, num_heads=2)
    for name in ("norm.weight", "head_dist.weight", "blocks.0.ls1.gamma", "mask_token"):
        path = write_checkpoint(tmp_path / "c.pth", state | {name: torch.zeros(32)})
        with pytest.raises(ValueError, match=name):
            load_livt_checkpoint(path, num_heads=2)


def test_misshaped_weight_is_named(tmp_path):
    path = write_checkpoint(
        tmp_path / "c.pth", pico().state_dict() | {"blocks.1.attn.proj.weight": torch.zeros(32, 31)}
    )
    with pytest.raises(ValueError, match="blocks.1.attn.proj.weight"):
        load_livt_checkpoint(path, num_heads=2)


@pytest.mark.parametrize("heads", [0, 3, 64])
def test_heads_that_do_not_divide_the_width(tmp_path, heads):
    path = write_checkpoint(tmp_path / "c.pth", pico().state_dict())
    with pytest.raises(ValueError, match=rf"\b{heads}\b"):
        load_livt_checkpoint(path, num_heads=heads)


class RunsCode:
    """Unpickling this makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("place", ["model", "args"])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, place):
    content = {"model": pico().state_dict()} | {place: RunsCode(tmp_path / "ran")}
    torch.save(content, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="evil.pth"):
        load_livt_checkpoint(tmp_path / "evil.pth", num_heads=2)
    assert not (tmp_path / "ran").exists()


def test_missing_file(tmp_path):
    with pytest.raises((FileNotFoundError, ValueError), match="absent.pth"):
        load_livt_checkpoint(tmp_path / "absent.pth", num_heads=2)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0, 1, 40, 1000, 0.5, 0.99, -1])
def test_truncated_file_is_named(tmp_path, kept, zipped):
    torch.save({"model": pico().state_dict()}, tmp_path / "full.pth", _use_new_zipfile_serialization=zipped)
    content = (tmp_path / "full.pth").read_bytes()
    end = int(kept * len(content)) if isinstance(kept, float) else kept
    (tmp_path / "cut.pth").write_bytes(content[:end])
    with pytest.raises(ValueError, match="cut.pth"):
        load_livt_checkpoint(tmp_path / "cut.pth", num_heads=2)


@pytest.mark.parametrize("content", [b"<!DOCTYPE html>", b"\x80\x02}q\x00.", b"hello world\n" * 50, b"\x00" * 4096])
def test_a_file_of_something_else_is_named(tmp_path, content):
    (tmp_path / "page.pth").write_bytes(content)
    with pytest.raises(ValueError, match="page.pth"):
        load_livt_checkpoint(tmp_path / "page.pth", num_heads=2)


@pytest.mark.parametrize("content", [{"epoch": 3}, {"model": 3}, [1, 2], {"model": {"head.weight": "text"}}])
def test_a_checkpoint_without_a_model_is_named(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="(?s)other.pth.*model"):
        load_livt_checkpoint(tmp_path / "other.pth", num_heads=2)


def test_fine_tuning_at_384_pixels_takes_the_positions_of_224():
    """14 x 14 patches to 24 x 24, as the paper's larger images need: near to what SciPy makes of the same positions."""
    small, large = create_vit("pico", 224, 16, 0, global_pool="token"), create_vit("pico", 384, 16, 5)
    coarse = sincos_positions((14, 14), 32)
    report = load_encoder(large, small.state_dict() | {"pos_embed": coarse})
    assert report.resampled == ("pos_embed",)
    found = large.pos_embed[0, 1:].detach().reshape(24, 24, 32).numpy()
    grid = coarse[0, 1:].reshape(14, 14, 32).numpy()
    places = (np.arange(24) + 0.5) * 14 / 24 - 0.5
    expected = RegularGridInterpolator(
        (range(14), range(14)), grid, method="cubic", bounds_error=False, fill_value=None
    )
    inner = slice(4, 20)  # at the rim the two continue differently
    there = np.stack(np.meshgrid(places[inner], places[inner], indexing="ij"), -1)
    assert np.abs(found[inner, inner] - expected(there)).max() < 0.1
