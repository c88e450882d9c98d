"""What every method with a model of its own must do: learn with all its parameters, resume, refuse, be told of."""

import pytest
import torch

from livt.config import with_overrides
from livt.finetune import create_classifier
from livt.lab.cost import cost_of, flops_of
from livt.lab.recipes import smoke
from livt.lab.runs import RunStore
from livt.lab.stages import load_weights, train
from livt.losses import LOSSES, loss_of

METHODS = ["ride", "sade", "ncl", "paco", "bcl", "mdcs"]
every_method = pytest.mark.parametrize("name", METHODS)
COUNTS = [40, 20, 10, 5, 3, 3, 2, 2, 1, 1]


def recipe_of(name, changes=None):
    return with_overrides(smoke(), {"finetune.loss": name, "pretrain": None} | (changes or {}))


def batch(name, images=16):
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn(LOSSES[name].views * images, 3, 8, 8, generator=generator)
    return seen, torch.randint(10, (images,), generator=generator)


def created(name, **options):
    torch.manual_seed(0)
    model = create_classifier(recipe_of(name), 10).train()
    criterion = LOSSES[name].create(COUNTS, 1.0, **LOSSES[name].options | options)
    criterion.begin(0, 10)
    return model, criterion


@every_method
def test_every_parameter_gets_a_gradient(name):
    model, criterion = created(name)
    images, labels = batch(name)
    criterion(model(images), labels).backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.startswith("slow."):  # follows the network, and learns nothing itself
            assert not parameter.requires_grad
        else:
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.abs().max() > 0, parameter_name


@every_method
def test_one_batch_can_be_learned(name):
    model, criterion = created(name)
    images, labels = batch(name)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        criterion(model(images), labels).backward()
        optimizer.step()
    assert (model.eval()(images[: len(labels)]).argmax(1) == labels).all()


@every_method
def test_evaluation_gives_logits_of_each_image_alone(name):
    model = created(name)[0].eval()
    images, labels = batch(name)
    images = images[: len(labels)]
    with torch.no_grad():
        logits = model(images)
        assert logits.shape == (len(labels), 10)
        torch.testing.assert_close(torch.cat([model(one) for one in images.split(1)]), logits, rtol=1e-4, atol=1e-5)


@every_method
def test_bfloat16_is_near_float32(name):
    values = []
    for enabled in (False, True):
        model, criterion = created(name)
        images, labels = batch(name)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = criterion(model(images), labels)
        loss.backward()
        assert loss.dtype == torch.float32
        values.append(loss.item())
    assert values[1] == pytest.approx(values[0], rel=0.05)


@every_method
def test_an_interrupted_run_resumes_to_the_same(name, tmp_path, monkeypatch):
    recipe = recipe_of(name)
    stores = [RunStore(tmp_path / part) for part in ("whole", "parts")]
    whole = train("finetune", recipe, stores[0], progress=False)
    criterion = LOSSES[name].create
    begin = criterion.begin

    def stop_in_the_second(loss, epoch, epochs):
        if epoch == 1:
            raise KeyboardInterrupt
        begin(loss, epoch, epochs)

    monkeypatch.setattr(criterion, "begin", stop_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        train("finetune", recipe, stores[1], progress=False)
    monkeypatch.setattr(criterion, "begin", begin)
    resumed = train("finetune", recipe, stores[1], progress=False)
    assert resumed.metrics == whole.metrics
    one, other = (load_weights(record, store) for record, store in zip((whole, resumed), stores, strict=True))
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]), key


@every_method
def test_soft_targets_are_taken_or_refused_by_name(name):
    settings = recipe_of(name, {"finetune.mixup": 0.8}).finetune
    if LOSSES[name].soft:
        model, criterion = created(name)
        images, labels = batch(name)
        soft = torch.lerp(*(torch.eye(10)[own] for own in (labels, labels.roll(1))), 0.3)
        criterion(model(images), soft).backward()
        loss_of(settings)
    else:
        with pytest.raises(ValueError, match=f"finetune.mixup 0.8 makes soft targets, which the loss '{name}' cannot"):
            loss_of(settings)


@every_method
def test_it_starts_from_the_same_pretrained_encoder_as_any_other(name, tmp_path):
    recipe = with_overrides(smoke(), {"finetune.loss": name})
    store = RunStore(tmp_path)
    train("pretrain", recipe, store, progress=False)
    record = train("finetune", recipe, store, progress=False)
    assert record.result["fresh"] == ["fc_norm.bias", "fc_norm.weight", "head.bias", "head.weight"]
    assert record.metrics[-1]["train_loss"] < record.metrics[0]["train_loss"]
    assert ("posthoc" in record.result) == (LOSSES[name].bias is None)


@every_method
def test_what_it_costs_is_told_before_it_trains(name):
    plain, own = (cost_of("finetune", recipe_of(loss)) for loss in ("ce", name))
    assert own.parameters > plain.parameters
    assert own.memory > plain.memory
    extra = flops_of("finetune", recipe_of(name), 10) / flops_of("finetune", recipe_of("ce"), 10)
    # Three experts have three last blocks of two; a key takes one of the three passes of a query; class weights are
    # projected once for a batch, here of one image; three experts see two views.
    low, high = {"bcl": (3, 3.6), "paco": (1.3, 1.5), "mdcs": (3.8, 4.2)}.get(name, (1.9, 2.1))
    assert low < extra < high


@every_method
def test_an_impossible_option_is_refused_before_anything_trains(name, tmp_path):
    for option in LOSSES[name].options:
        if option.startswith("lambda_"):
            continue  # any number is possible
        with pytest.raises(ValueError, match=r"finetune.options.\w+ must .*, not -3"):
            train("finetune", recipe_of(name, {f"finetune.options.{option}": -3}), RunStore(tmp_path), progress=False)
    assert not list(tmp_path.iterdir())
