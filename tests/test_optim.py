"""The learning rate as a function of the step, and the parameter groups of layer-wise decay."""

import math
import re

import pytest
import torch
from timm.models import VisionTransformer
from timm.optim import param_groups_layer_decay

from livt.optim import layer_decay_groups, learning_rate

SCHEDULE = {"warmup_steps": 10, "total_steps": 110, "lr": 1e-3, "min_lr": 1e-6}


def vit(depth=3, global_pool="avg", num_classes=5):
    return VisionTransformer(
        img_size=8,
        patch_size=4,
        embed_dim=8,
        depth=depth,
        num_heads=2,
        num_classes=num_classes,
        global_pool=global_pool,
    )


# -------------------------------------------------------------------------------------------- learning rate


@pytest.mark.parametrize("step", range(0, 131, 5))
@pytest.mark.parametrize("warmup", [0, 1, 10, 25])
def test_learning_rate_formula(step, warmup):
    lr, low, total = 2e-3, 1e-5, 110
    if step < warmup:
        expected = lr * step / warmup
    elif step < total:
        expected = low + (lr - low) / 2 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
    else:
        expected = low
    given = learning_rate(step, warmup_steps=warmup, total_steps=total, lr=lr, min_lr=low)
    assert given == pytest.approx(expected, rel=1e-12, abs=1e-18)


def test_learning_rate_landmarks():
    assert learning_rate(0, **SCHEDULE) == 0
    assert learning_rate(5, **SCHEDULE) == pytest.approx(5e-4)
    assert learning_rate(10, **SCHEDULE) == pytest.approx(1e-3)
    assert learning_rate(60, **SCHEDULE) == pytest.approx((1e-3 + 1e-6) / 2)
    for step in (110, 111, 10**6):
        assert learning_rate(step, **SCHEDULE) == pytest.approx(1e-6)


def test_learning_rate_rises_then_falls():
    values = [learning_rate(step, **SCHEDULE) for step in range(112)]
    assert values[:11] == sorted(set(values[:11]))
    assert values[10:111] == sorted(set(values[10:111]), reverse=True)
    assert max(values) == values[10]


def test_warmup_only_schedule_has_no_division_by_zero():
    schedule = {"warmup_steps": 4, "total_steps": 4, "lr": 1e-3, "min_lr": 1e-6}
    assert learning_rate(3, **schedule) == pytest.approx(7.5e-4)
    assert learning_rate(4, **schedule) in (1e-3, 1e-6)  # both ends claim this step
    assert learning_rate(5, **schedule) == 1e-6


@pytest.mark.parametrize(
    ("step", "changes", "message"),
    [
        (-1, {}, r"-1"),
        (0, {"warmup_steps": 111}, r"(?i)warm.?up"),
        (0, {"warmup_steps": 0, "total_steps": 0}, r"(?i)total"),
        (0, {"warmup_steps": 0, "total_steps": -5}, r"(?i)total"),
    ],
)
def test_learning_rate_refuses(step, changes, message):
    with pytest.raises(ValueError, match=message):
        learning_rate(step, **SCHEDULE | changes)


# ------------------------------------------------------------------------------------------ parameter groups


def settings(model, groups):
    """{parameter name: (weight_decay, lr_scale)}, checking that each parameter is in one group."""
    names = {id(p): name for name, p in model.named_parameters()}
    found = {}
    for group in groups:
        for p in group["params"]:
            assert names[id(p)] not in found, f"{names[id(p)]} is in two groups"
            found[names[id(p)]] = (group["weight_decay"], group["lr_scale"])
    return found


def expected_settings(model, depth, weight_decay, layer_decay):
    expected = {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        block = re.match(r"blocks\.(\d+)\.", name)
        if name in ("cls_token", "pos_embed") or name.startswith("patch_embed."):
            layer = 0
        else:
            layer = int(block[1]) + 1 if block else depth + 1
        plain = p.ndim == 1 or name in ("cls_token", "pos_embed")
        expected[name] = (0.0 if plain else weight_decay, layer_decay ** (depth + 1 - layer))
    return expected


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, (decay, scale) in expected.items():
        assert found[name] == (decay, pytest.approx(scale, rel=1e-12)), name


@pytest.mark.parametrize("depth", [2, 12])  # blocks.1 is a prefix of blocks.10 and blocks.11
@pytest.mark.parametrize("global_pool", ["avg", "token"])
@pytest.mark.parametrize(("weight_decay", "layer_decay"), [(0.05, 0.75), (0.3, 0.65), (0.05, 1.0), (0.0, 0.5)])
def test_groups_follow_the_rule(depth, global_pool, weight_decay, layer_decay):
    model = vit(depth, global_pool)
    found = settings(model, layer_decay_groups(model, weight_decay, layer_decay))
    assert_same(found, expected_settings(model, depth, weight_decay, layer_decay))


def test_landmarks_of_the_rule():
    found = settings(model := vit(3), layer_decay_groups(model, 0.05, 0.5))
    assert found["head.weight"] == (0.05, 1.0)
    assert found["head.bias"] == found["fc_norm.weight"] == (0.0, 1.0)
    assert found["blocks.2.mlp.fc1.weight"] == (0.05, 0.5)
    assert found["blocks.0.attn.qkv.bias"] == (0.0, 0.125)
    assert found["patch_embed.proj.weight"] == (0.05, 0.0625)
    assert found["cls_token"] == found["pos_embed"] == (0.0, 0.0625)


def test_groups_agree_with_timm_for_average_pooling():
    """timm puts `norm` into the last block's layer, so the rules agree where the model has only `fc_norm`."""
    model = vit(4)
    theirs = param_groups_layer_decay(
        model, weight_decay=0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.7
    )
    assert_same(settings(model, layer_decay_groups(model, 0.05, 0.7)), settings(model, theirs))


def test_frozen_parameters_are_in_no_group():
    model = vit(3)
    frozen = {"pos_embed", "head.bias"} | {n for n, _ in model.named_parameters() if n.startswith("blocks.1.")}
    for name, p in model.named_parameters():
        p.requires_grad_(name not in frozen)
    found = settings(model, layer_decay_groups(model, 0.05, 0.75))
    assert not frozen & found.keys()
    assert_same(found, expected_settings(model, 3, 0.05, 0.75))  # layers keep their numbers


def test_no_empty_group_and_adamw_takes_them():
    model = vit(2)
    for p in model.blocks[0].parameters():
        p.requires_grad_(False)
    groups = layer_decay_groups(model, 0.05, 0.75)
    assert all(group["params"] for group in groups)
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    assert {(g["weight_decay"], g["lr_scale"]) for g in optimizer.param_groups} == set(settings(model, groups).values())
