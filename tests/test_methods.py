"""What a method can be beyond a loss of logits: a model of its own, options, views, sampling, another network."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from livt.config import Options, Recipe, with_overrides
from livt.data.sets import load_dataset
from livt.finetune import create_classifier
from livt.lab.cost import flops_of
from livt.lab.recipe_files import read_recipe, write_recipe
from livt.lab.recipes import smoke
from livt.lab.runs import RunStore
from livt.lab.stages import train
from livt.longtail import sampling_shares
from livt.losses import LOSSES, CrossEntropy, Loss, loss_of
from livt.resnets import create_resnet

SCRATCH = {"pretrain": None}


class Pair(nn.Module):
    """Two classifiers on one encoder: their mean at test, both in training."""

    def __init__(self, vit, heads, scale):
        super().__init__()
        self.vit, self.scale = vit, scale
        self.other = nn.ModuleList(nn.Linear(vit.num_features, vit.num_classes) for _ in range(int(heads) - 1))

    def forward(self, images):
        features = self.vit.forward_head(self.vit.forward_features(images), pre_logits=True)
        logits = torch.stack([head(features) for head in (self.vit.head, *self.other)], 1)
        return self.scale * logits if self.training else self.scale * logits.mean(1)


class Later(CrossEntropy):
    """Cross-entropy of all heads in all views, from the second epoch on."""

    epochs_seen: list[tuple[int, int]] = []  # noqa: RUF012  a test's notebook

    def __init__(self, counts, tau, heads, scale):
        super().__init__()
        if heads < 1:
            raise ValueError(f"finetune.options.heads must be at least 1, not {heads:g}")

    def begin(self, epoch, epochs):
        self.on = float(epoch > 0)
        self.epochs_seen.append((epoch, epochs))

    def forward(self, logits, labels):
        first, second = logits.chunk(2)
        assert len(first) == len(labels)
        assert not torch.equal(first, second), "each view is augmented by itself"
        return (
            self.on
            * sum(CrossEntropy.forward(self, view[:, k], labels) for view in (first, second) for k in (0, 1))
            / 4
        )


@pytest.fixture
def method(monkeypatch):
    def adapt(network, heads, scale):
        return Pair(network, heads, scale)

    options = {"heads": 2.0, "scale": 1.0}
    entry = Loss(name="pair", title="Pair", create=Later, reads="softmax", source="this test", options=options)
    monkeypatch.setitem(LOSSES, "pair", Loss(**vars(entry) | {"adapt": adapt, "soft": False, "views": 2}))
    Later.epochs_seen.clear()
    return with_overrides(smoke(), {"finetune.loss": "pair"})


def test_a_method_trains_a_model_of_its_own_by_what_it_gives(method, tmp_path):
    store = RunStore(tmp_path)
    train("pretrain", method, store, progress=False)
    record = train("finetune", method, store, progress=False)
    assert Later.epochs_seen == [(0, 2), (1, 2)]
    assert record.metrics[0]["train_loss"] == 0 < record.metrics[1]["train_loss"], "it was told the epoch"
    assert store.load(record.id).result == record.result
    again = create_classifier(method, 10)
    assert {"other.0.weight", "vit.head.weight"} <= again.state_dict().keys()
    assert "posthoc" in record.result


def test_an_interrupted_method_resumes_to_the_same(method, tmp_path, monkeypatch):
    whole = train("finetune", with_overrides(method, SCRATCH), RunStore(tmp_path / "whole"), progress=False)
    begin = Later.begin

    def stop_in_the_second(loss, epoch, epochs):
        if epoch == 1:
            raise KeyboardInterrupt
        begin(loss, epoch, epochs)

    store = RunStore(tmp_path / "parts")
    monkeypatch.setattr(Later, "begin", stop_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        train("finetune", with_overrides(method, SCRATCH), store, progress=False)
    monkeypatch.setattr(Later, "begin", begin)
    assert train("finetune", with_overrides(method, SCRATCH), store, progress=False).metrics == whole.metrics


def test_options_name_a_run_and_have_the_defaults_of_the_method(method):
    changed = with_overrides(method, {"finetune.options.scale": "0.5"})
    assert changed.finetune.options == {"scale": 0.5}
    assert create_classifier(changed, 10).scale == 0.5
    assert create_classifier(method, 10).scale == 1.0
    assert changed.stage("finetune") != method.stage("finetune")
    assert "options" not in method.stage("finetune")["finetune"]
    assert Recipe.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed
    assert len({changed, Recipe.from_dict(changed.to_dict())}) == 1
    assert Options({"b": 1, "a": 2}) == Options({"a": 2, "b": 1})
    assert hash(Options({"b": 1, "a": 2})) == hash(Options({"a": 2, "b": 1}))


def test_a_recipe_file_keeps_options(method, tmp_path):
    path = tmp_path / "mine.yaml"
    recipe = with_overrides(method, {"finetune.options.scale": 0.5, "finetune.sampling": "class"})
    path.write_text(write_recipe(recipe))
    assert read_recipe(path) == recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"finetune.options.gamma": 1},
            "options.gamma is no parameter of the loss 'pair'; known here: heads, scale",
        ),
        ({"finetune.options.heads": 0}, "finetune.options.heads must be at least 1, not 0"),
        ({"finetune.mixup": 0.2}, "finetune.mixup 0.2 makes soft targets, which the loss 'pair' cannot take"),
        ({"finetune.label_smoothing": 0.1}, "finetune.label_smoothing 0.1 makes soft targets"),
        ({"finetune.loss": "ce", "finetune.options.gamma": 1}, "no parameter of the loss 'ce'; it has none"),
    ],
)
def test_what_a_method_cannot_use_is_refused_before_anything_trains(method, changes, message, tmp_path):
    recipe = with_overrides(method, changes)
    with pytest.raises(ValueError, match=message):
        loss_of(recipe.finetune)
    with pytest.raises(ValueError, match=message):
        train("pretrain", recipe, RunStore(tmp_path), progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"finetune.options": 3}, "options must be Options, not 3"),
        ({"finetune.options.gamma": "much"}, "options.gamma must be float, not 'much'"),
        ({"finetune.options.gamma": 1e999}, "options.gamma must be finite"),
        ({"finetune.sampling": "random"}, "sampling 'random' is not one of image, square_root, class"),
        ({"model.size": "resnet10"}, "model.patch_size must be 1, not 4: resnet10 takes no patches"),
        ({"model.size": "resnet10", "model.patch_size": 1}, "pretrain must be null: a masked autoencoder needs"),
    ],
)
def test_impossible_values_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        with_overrides(smoke(), changes)


@pytest.mark.parametrize(("sampling", "power"), [("image", 1), ("square_root", 0.5), ("class", 0)])
def test_images_are_drawn_by_class_as_asked(sampling, power, monkeypatch, tmp_path):
    changes = SCRATCH | {"finetune.sampling": sampling, "finetune.epochs": 2, "finetune.augment": {}}
    recipe = with_overrides(smoke(), changes)
    counts, seen = np.asarray(load_dataset(recipe.data).class_counts), []
    real = CrossEntropy.forward
    monkeypatch.setattr(CrossEntropy, "forward", lambda self, z, y: seen.append(y) or real(self, z, y))
    train("finetune", with_overrides(recipe, {"finetune.loss": "ce"}), RunStore(tmp_path), progress=False)
    found = torch.bincount(torch.cat(seen), minlength=10).numpy()
    shares = counts**power / (counts**power).sum()
    assert np.allclose(sampling_shares(sampling, counts), shares, rtol=1e-12)
    expected = shares * found.sum()
    assert np.all(np.abs(found - expected) < 5 * np.sqrt(expected)), "within five standard deviations of each count"


def test_two_views_cost_two_images_and_a_second_head_its_own(method):
    scratch = with_overrides(method, SCRATCH)
    plain = flops_of("finetune", with_overrides(scratch, {"finetune.loss": "ce"}), 10)
    head = 2 * 3 * 10 * create_classifier(scratch, 10).vit.num_features - 2 * 10 * 0
    assert flops_of("finetune", scratch, 10) == 2 * (plain + head)


@pytest.mark.parametrize("name", ["resnet8", "resnet10", "resnet32", "resnet50"])
def test_residual_networks_are_as_deep_as_their_name_and_start_without_an_opinion(name):
    with torch.device("meta"):
        network = create_resnet(name, 7)
    convolutions = [m for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    if name == "resnet50":  # two of three layers of a bottleneck are 1 x 1
        assert sum(m.kernel_size == (3, 3) for m in convolutions) == 16
    else:
        assert len(convolutions) + 1 == int(name.removeprefix("resnet"))
        assert convolutions[0].stride == (1, 1)
    images = torch.rand(2, 3, 32, 32)
    logits = create_resnet(name, 7).eval()(images)
    assert logits.abs().max() < 1e-2


def test_a_residual_network_trains_and_resumes(tmp_path):
    recipe = with_overrides(smoke(), SCRATCH | {"model.size": "resnet10", "model.patch_size": 1, "finetune.loss": "ce"})
    record = train("finetune", recipe, RunStore(tmp_path), progress=False)
    assert record.metrics[-1]["train_loss"] < record.metrics[0]["train_loss"]
    assert any(name.endswith("running_mean") for name in create_classifier(recipe, 10).state_dict())
