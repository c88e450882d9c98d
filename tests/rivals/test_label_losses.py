"""What all losses of one image and its label have in common: the table, soft targets, options, training by name."""

import numpy as np
import pytest
import torch
from references import COUNTS, B, C, one_hot, problem

from livt import rivals  # noqa: F401  its losses are part of the table
from livt.config import with_overrides
from livt.data.sets import load_dataset
from livt.finetune import create_classifier, create_loss
from livt.lab.cost import flops_of
from livt.lab.recipes import smoke
from livt.lab.runs import RunStore
from livt.lab.stages import load_weights, train
from livt.losses import LOSSES, CrossEntropy, balanced_bce_bias, balanced_ce_bias, loss_of

NAMES = ("causal", "cb_ce", "drw_bal_bce", "focal", "gcl", "lade", "ldam", "ldam_drw")
OPTIONS = {
    "causal": {"heads": 2, "scale": 16, "gamma": 1 / 32, "alpha": 3},
    "cb_ce": {"beta": 0.9999},
    "drw_bal_bce": {"share": 0.8, "beta": 0.9999},
    "focal": {"gamma": 2},
    "gcl": {"scale": 30, "kappa": 0.5},
    "lade": {"alpha": 0.1, "remine_lambda": 0.01},
    "ldam": {"scale": 30, "max_margin": 0.5},
    "ldam_drw": {"scale": 30, "max_margin": 0.5, "share": 0.8, "beta": 0.9999},
}
BIASES = {"drw_bal_bce": balanced_bce_bias, "lade": balanced_ce_bias}

every_method = pytest.mark.parametrize("name", NAMES)


def recipe_of(name, **options):
    changes = {f"finetune.options.{option}": value for option, value in options.items()}
    return with_overrides(smoke(), {"pretrain": None, "finetune.loss": name} | changes)


def criterion_of(name, epoch=0):
    """Return a method's criterion; in epoch 9 of 10, deferred weights are on."""
    criterion = LOSSES[name].create(COUNTS, 1.0, **LOSSES[name].options)
    criterion.begin(epoch, 10)
    return criterion


@every_method
def test_the_entry(name):
    loss = LOSSES[name]
    assert loss.name == name
    assert loss.title
    assert loss.source
    assert loss.options == OPTIONS[name]
    assert loss.bias is BIASES.get(name)
    assert loss.reads == ("sigmoid" if name == "drw_bal_bce" else "softmax")
    assert loss.soft == (name != "lade")
    assert loss_of(recipe_of(name).finetune) is loss


@every_method
@pytest.mark.parametrize("epoch", [0, 9])
def test_gradcheck(name, epoch):
    z, labels, soft = (torch.from_numpy(array) for array in problem(5))
    criterion = criterion_of(name, epoch)

    def loss(z, targets):
        torch.manual_seed(0)  # for what draws
        return criterion(z, targets)

    for targets in (labels, soft)[: 1 + LOSSES[name].soft]:
        assert torch.autograd.gradcheck(lambda z, t=targets: loss(z, t), (z.clone().requires_grad_(),))


@pytest.mark.parametrize("name", [name for name in NAMES if LOSSES[name].soft])
@pytest.mark.parametrize("epoch", [0, 9])
def test_mixed_labels_are_the_mean_of_both(name, epoch):
    """Of the sums of weighted losses and of their weights, where the mean is one of weights."""
    z, first, _ = problem(1)
    second, share = np.random.default_rng(11).integers(0, C, B), 0.3
    criterion, logits = criterion_of(name, epoch), torch.from_numpy(z)

    def loss(t):
        torch.manual_seed(0)
        return criterion(logits, torch.from_numpy(t)).item()

    on = epoch == 9 and name in ("drw_bal_bce", "ldam_drw")
    by_class = np.array([(1 - 0.9999) / (1 - 0.9999**n) for n in COUNTS]) if on else np.ones(C)
    weights = [by_class[labels].sum() for labels in (first, second)]
    shares = np.array([share * weights[0], (1 - share) * weights[1]])
    mixed = loss(share * one_hot(first) + (1 - share) * one_hot(second))
    assert mixed == pytest.approx(shares @ [loss(first), loss(second)] / shares.sum(), rel=1e-11)
    assert loss(one_hot(first)) == pytest.approx(loss(first), rel=1e-12)


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("autocast", [False, True])
def test_it_is_computed_in_float32_at_least(name, dtype, autocast):
    z, labels, _ = problem(8)
    logits, criterion = torch.from_numpy(z).to(dtype), criterion_of(name, 9)
    values = []
    for given, on in ((logits, autocast), (logits.float(), False)):
        torch.manual_seed(0)
        noise = torch.randn(B, C)  # the same draws in each precision
        with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16, enabled=on):
            patch.setattr(torch, "randn_like", lambda like, noise=noise: noise)
            values.append(criterion(given, torch.from_numpy(labels)))
    assert values[0].dtype == torch.float32
    torch.testing.assert_close(values[0], values[1], rtol=1e-6, atol=0)


@every_method
def test_it_holds_no_state_and_checks_shapes(name):
    criterion = criterion_of(name)
    assert not criterion.state_dict()
    assert not list(criterion.parameters())
    for logits, targets in ((torch.zeros(4, C), torch.zeros(5, dtype=torch.int64)), (torch.zeros(C), torch.zeros(C))):
        with pytest.raises(ValueError, match="shape|soft targets"):
            criterion(logits, targets)
    with pytest.raises(ValueError, match="targets must lie in 0 to 4, found 0 to 5"):
        criterion(torch.zeros(2, C), torch.tensor([0, 5]))


@pytest.mark.parametrize(
    ("name", "option", "value", "must"),
    [
        ("focal", "gamma", -1, "must not be negative, not -1"),
        ("cb_ce", "beta", 1, "must lie in [0, 1), not 1"),
        ("cb_ce", "beta", -0.1, "must lie in [0, 1), not -0.1"),
        ("ldam", "max_margin", -0.5, "must not be negative, not -0.5"),
        ("ldam", "scale", 0, "must be positive, not 0"),
        ("ldam", "beta", 0.9, "is no parameter of the loss 'ldam'; known here: scale, max_margin"),
        ("ldam_drw", "share", 1.5, "must lie in [0, 1], not 1.5"),
        ("ldam_drw", "beta", 1, "must lie in [0, 1), not 1"),
        ("drw_bal_bce", "share", -0.1, "must lie in [0, 1], not -0.1"),
        ("drw_bal_bce", "beta", 2, "must lie in [0, 1), not 2"),
        ("lade", "alpha", -1, "must not be negative, not -1"),
        ("lade", "remine_lambda", -1, "must not be negative, not -1"),
        ("causal", "heads", 1.5, "must be a whole number of at least 1, not 1.5"),
        ("causal", "heads", 0, "must be a whole number of at least 1, not 0"),
        ("causal", "scale", -1, "must be positive, not -1"),
        ("causal", "gamma", -1, "must not be negative, not -1"),
        ("causal", "alpha", -1, "must not be negative, not -1"),
        ("gcl", "scale", 0, "must be positive, not 0"),
        ("gcl", "kappa", -1, "must not be negative, not -1"),
    ],
)
def test_impossible_options_are_refused_by_name(name, option, value, must):
    with pytest.raises(ValueError) as error:
        loss_of(recipe_of(name, **{option: value}).finetune)
    assert f"finetune.options.{option} {must}" in str(error.value)


@pytest.mark.parametrize("setting", ["mixup", "cutmix", "label_smoothing"])
def test_what_makes_soft_targets_is_refused_where_they_are_not_taken(setting):
    changed = {f"finetune.{setting}": 0.1}
    with pytest.raises(
        ValueError, match=rf"finetune.{setting} 0.1 makes soft targets, which the loss 'lade' cannot take"
    ):
        loss_of(with_overrides(recipe_of("lade"), changed).finetune)
    for name in set(NAMES) - {"lade"}:
        loss_of(with_overrides(recipe_of(name), changed).finetune)


@every_method
def test_every_parameter_gets_a_gradient(name):
    recipe = recipe_of(name)
    data = load_dataset(recipe.data)
    torch.manual_seed(0)
    model = create_classifier(recipe, data.num_classes).train()
    images, labels = torch.rand(8, 3, *recipe.data.size), torch.arange(8)
    create_loss(recipe.finetune, data.class_counts)(model(images), labels).backward()
    without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without
    assert model.eval()(images).shape == (8, data.num_classes)


@every_method
def test_it_trains_by_name_and_resumes_to_the_same(name, tmp_path, monkeypatch):
    """The second of two epochs is the one that deferred weights are on, and the one that a kill takes away."""
    recipe = recipe_of(name, **({"share": 0.5} if "share" in OPTIONS[name] else {}))
    store = RunStore(tmp_path / "whole")
    whole = train("finetune", recipe, store, progress=False)
    assert np.isfinite([row["train_loss"] for row in whole.metrics]).all()
    assert ("posthoc" in whole.result) == (name not in BIASES)
    criterion = type(create_loss(recipe.finetune, (2, 1)))
    begin = criterion.begin

    def stop_in_the_second(loss, epoch, epochs):
        if epoch == 1:
            raise KeyboardInterrupt
        begin(loss, epoch, epochs)

    parts = RunStore(tmp_path / "parts")
    with monkeypatch.context() as patch:
        patch.setattr(criterion, "begin", stop_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            train("finetune", recipe, parts, progress=False)
    again = train("finetune", recipe, parts, progress=False)
    assert again.metrics == whole.metrics
    found, expected = load_weights(again, parts), load_weights(whole, store)
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("name", ["ldam", "gcl", "causal"])
def test_a_cosine_head_costs_what_a_linear_one_does(name):
    assert flops_of("finetune", recipe_of(name), 10) == flops_of("finetune", recipe_of("ce"), 10)


def test_a_method_of_the_plain_loss_is_told_apart_by_its_model():
    assert type(LOSSES["causal"].create(COUNTS, 1.0, **OPTIONS["causal"])) is CrossEntropy
    assert create_classifier(recipe_of("causal"), 10).head.direction.shape == (32,)
