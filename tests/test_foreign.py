"""Somebody else's classifiers: official files, safetensors, timm's folders, held against timm and a plain forward."""

import json

import numpy as np
import pytest
import timm
import torch
from folders import own
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from livt import __main__ as cli
from livt.config import DataConfig
from livt.data.sets import load_dataset
from livt.lab.foreign import data_for, evaluate_classifier, load_classifier
from livt.metrics import evaluate_logits
from livt.models import load_livt_checkpoint

SMALL = {"img_size": 32, "patch_size": 16, "embed_dim": 96, "depth": 4, "num_heads": 3, "num_classes": 3}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def vit(pool: str = "avg", **changes) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(global_pool=pool, **SMALL | changes).eval()
    torch.nn.init.normal_(model.head.weight)  # so that it tells classes apart
    return model


@pytest.fixture
def pets(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_dataset.cache_clear()
    return own(tmp_path / "pets", "parquet", size=(32, 32))


def expected(model, folder, mean=MEAN, std=STD):
    """The scores, by a forward pass written here."""
    data = load_dataset(DataConfig(name=str(folder), image_size=32))
    m, s = (torch.tensor(v).view(3, 1, 1) for v in (mean, std))
    with torch.no_grad():
        logits = model((data.evaluation.images / 255 - m) / s)
    return evaluate_logits(logits.numpy(), data.evaluation.labels.numpy(), data.class_counts)


def save(model, path, kind):
    if kind == "pth":
        torch.save({"model": model.state_dict()}, path := path.with_suffix(".pth"))
    else:
        save_file(model.state_dict(), path := path.with_suffix(".safetensors"))
    return path


def folder_of(model, folder, **changes):
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    arguments = {k: v for k, v in SMALL.items() if k != "num_classes"} | {"global_pool": "avg"}
    config = {
        "architecture": "vit_base_patch16_224",
        "num_classes": 3,
        "model_args": arguments,
        "pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "crop_pct": 1.0},
    }
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
@pytest.mark.parametrize("pool", ["avg", "token"])
def test_a_file_gives_the_scores_of_its_model(pets, tmp_path, capsys, kind, pool):
    model = vit(pool)
    path = save(model, tmp_path / "LiVT", kind)
    arguments = ["evaluate", "--checkpoint", str(path), str(pets), "--device", "cpu"]
    assert cli.main([*arguments, "--format", "json"]) == 0
    found, scores = json.loads(capsys.readouterr().out), expected(model, pets)
    for name in ("accuracy", "few", "ece", "mce"):
        assert found[name] == pytest.approx(getattr(scores, name), abs=1e-3)
    assert (found["many"], found["medium"], found["images"]) == (None, None, 6)
    assert found["class_counts"] == [4, 9, 6]
    assert cli.main([*arguments, "--format", "csv"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert dict(zip(header.split(","), row.split(","), strict=True))["accuracy"] == str(found["accuracy"])
    assert cli.main(arguments) == 0
    about, names, values = capsys.readouterr().out.splitlines()
    assert "6 images of 32 x 32, 3 classes (0 many, 0 medium, 3 few by 19 training images)" in about
    assert names.split() == ["many", "medium", "few", "all", "ece", "mce"]
    assert values.split()[:4] == ["-", "-", f"{scores.few:.1f}", f"{scores.accuracy:.1f}"]
    if (kind, pool) == ("pth", "avg"):
        other = load_livt_checkpoint(path, num_heads=3).state_dict()
        assert all(torch.equal(value, other[name]) for name, value in load_classifier(path).model.state_dict().items())


def test_a_folder_of_timm_brings_its_own_normalization(pets, tmp_path):
    model = vit()
    folder = folder_of(model, tmp_path / "model")
    assert torch.equal(timm.create_model(f"local-dir:{folder}", pretrained=True).head.weight, model.head.weight)
    found = load_classifier(folder)
    result, notes = evaluate_classifier(found, data_for(str(pets), found))
    scores = expected(model, pets, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert (result["accuracy"], notes) == (pytest.approx(scores.accuracy), [])
    assert result["ece"] == pytest.approx(scores.ece, abs=1e-3)


def test_another_crop_is_said(tmp_path, capsys):
    photos = own(tmp_path / "photos", "tree")
    settings = {"mean": MEAN, "std": STD, "crop_pct": 0.95}
    folder = folder_of(vit(), tmp_path / "model", pretrained_cfg=settings)
    assert cli.main(["evaluate", "--checkpoint", str(folder), str(photos), "--device", "cpu", "--workers", "0"]) == 0
    err = capsys.readouterr().err
    assert err == "livt: note: the folder asks for the share 0.95 of an image's short side; evaluated at 0.875\n"


def test_another_size_resamples_the_positions(pets, tmp_path):
    model = vit()
    path = save(model, tmp_path / "x", "pth")
    found = load_classifier(path, image_size=64)
    model.set_input_size(img_size=(64, 64))
    assert torch.allclose(found.model.pos_embed, model.pos_embed)
    result, _ = evaluate_classifier(found, data_for(str(pets), found))
    assert np.isfinite(result["accuracy"])
    with pytest.raises(ValueError, match="for images of 64 x 64 pixels: give --image-size"):
        evaluate_classifier(found, DataConfig(name=str(pets), image_size=32))
    assert data_for("tiny_imagenet", found) == DataConfig(name="tiny_imagenet")
    assert data_for("cifar10", found) == DataConfig(name="cifar10", image_size=64)


def test_heads_are_asked_for_where_nothing_tells_them(tmp_path):
    path = save(vit(embed_dim=60, depth=1, num_heads=5), tmp_path / "x", "pth")
    with pytest.raises(ValueError, match="width 60 and depth 1, which tell no number of heads: give --heads"):
        load_classifier(path)
    assert load_classifier(path, num_heads=5).model.blocks[0].attn.num_heads == 5
    with pytest.raises(ValueError, match="num_heads 7 does not divide the width 60"):
        load_classifier(path, num_heads=7)


def damage(path, model):
    state = model.state_dict()
    state["head.weight"] = torch.full_like(state["head.weight"], float("nan"))
    torch.save({"model": state}, path)


def without_head(path, model):
    torch.save({"model": {k: v for k, v in model.state_dict().items() if not k.startswith("head")}}, path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path, model: None, "no checkpoint at"),
        (lambda path, model: path.write_bytes(b"junk"), "is damaged, or holds more than weights"),
        (without_head, "has no classifier (no weight 'head.weight'): it is an encoder, to be fine-tuned first"),
        (damage, "numbers that are not finite"),
        (lambda path, model: save(vit(num_classes=7), path, "pth"), "the model has 7 classes, and"),
        (lambda path, model: save(vit(init_values=1.0), path, "pth"), "unexpected 'blocks.0.ls1"),
    ],
    ids=["absent", "junk", "headless", "nan", "classes", "layer scale"],
)  # fmt: skip
def test_a_file_that_does_not_do_is_one_line(pets, tmp_path, capsys, make, message):
    make(tmp_path / "x.pth", vit())
    assert cli.main(["evaluate", "--checkpoint", str(tmp_path / "x.pth"), str(pets), "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "hf_hub:somebody/model"}, "timm has no architecture"),
        ({"architecture": "resnet18", "model_args": {}}, "resnet18 is not a plain Vision Transformer"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "model_args has 'checkpoint_path', which is not read"),
        ({"model_args": {"depth": 10**9}}, "depth is 1000000000"),
        ({"model_args": {"embed_dim": 2**40}}, "embed_dim is 1099511627776"),
        ({"model_args": [1]}, "does not describe a model of timm"),
        ({"pretrained_cfg": {"mean": [1], "std": [1]}}, "mean and std are not those of three channels"),
        ({"num_classes": 4}, "head.weight has shape (3, 96), the model needs (4, 96)"),
    ],
    ids=str,
)
def test_a_folder_that_does_not_do_is_one_line(tmp_path, changes, message):
    folder = folder_of(vit(), tmp_path / "model", **changes)
    with pytest.raises(ValueError) as error:
        load_classifier(folder)
    assert message in str(error.value)


def test_options_of_a_checkpoint_are_not_for_a_run(capsys):
    assert cli.main(["evaluate", "finetune-0123", "--heads", "3"]) == 2
    assert "--heads, --image-size and --set are for --checkpoint" in capsys.readouterr().err
