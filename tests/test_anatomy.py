"""A balanced loss is a plain loss that starts its classifier bias at the prior and removes it at test, in float64."""

from collections.abc import Callable

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import one_hot

from livt.config import Recipe, with_overrides
from livt.data.sets import load_dataset
from livt.finetune import create_classifier, create_loss
from livt.lab.recipes import smoke
from livt.losses import balanced_bce_bias, balanced_ce_bias, start_bias
from livt.optim import create_optimizer, epoch_schedule, take_step

EPOCHS, STEPS, BATCH = 4, 10, 32
BIAS = {"ce": balanced_ce_bias, "bce": balanced_bce_bias}
EQUAL = 1e-9


def settings(loss: str, start: str = "zero", **more: object) -> Recipe:
    """Return the smoke recipe from scratch with a loss and a start; ``more`` are further settings of fine-tuning."""
    changes = {"loss": loss, "start": start, "epochs": EPOCHS, "batch_size": BATCH, **more}
    recipe = with_overrides(smoke(), {"pretrain": None})
    return with_overrides(recipe, {f"finetune.{name}": value for name, value in changes.items()})


def train(
    recipe: Recipe,
    start: Tensor | None = None,
    *,
    soft: bool = False,
    change: Callable[[torch.optim.Optimizer, VisionTransformer], None] = lambda optimizer, vit: None,
) -> Tensor:
    """Return float64 test logits [N, C] after EPOCHS x STEPS steps of the package's own optimiser and loss.

    Weights and batches are the same in each call. ``start`` replaces the start of the recipe; ``soft`` mixes the
    labels; ``change`` may alter the optimiser before the first step.
    """
    data, options = load_dataset(recipe.data), recipe.finetune
    torch.manual_seed(0)
    vit = create_classifier(recipe, 10).double()
    nn.init.trunc_normal_(vit.head.weight, std=0.02)
    with torch.no_grad():
        own = start_bias(options.loss, options.start, data.class_counts, options.tau)
        vit.head.bias.copy_(own if start is None else start)
    optimizer = create_optimizer(vit, options, options.layer_decay)
    change(optimizer, vit)
    criterion = create_loss(options, data.class_counts)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (data.mean, data.std))

    def images(split):
        return (split.images.double() / 255 - mean) / std

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        return criterion(vit(x), y)

    x, y = images(data.train), data.train.labels
    if soft:
        y = 0.8 * one_hot(y, data.num_classes).double() + 0.2 * one_hot(y.flip(0), data.num_classes).double()
    for epoch in range(EPOCHS):
        for _, lr in epoch_schedule(options, epoch, STEPS):
            batch = torch.randperm(len(x))[:BATCH]
            take_step(optimizer, loss_of, [(x[batch], y[batch])], lr=lr, settings=options)
    with torch.no_grad():
        return vit.eval()(images(data.evaluation))


def gap(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def bias(loss: str, tau: float = 1.0) -> Tensor:
    return tau * BIAS[loss](load_dataset(smoke().data).class_counts)


@pytest.mark.parametrize(
    "more",
    [{}, {"clip_grad": 0.5}, {"layer_decay": 1.0}, {"accumulation_steps": 2}],
    ids=["adamw", "clipped", "no layer decay", "accumulated"],
)
@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_a_balanced_loss_is_a_plain_one_that_starts_at_the_prior_and_loses_it_at_test(loss, more):
    balanced = train(settings(f"bal_{loss}", **more))
    plain = train(settings(loss, "prior", **more))
    assert gap(balanced, plain - bias(loss)) < EQUAL
    # The training moved the logits, and far more than the two differ: the comparison is not of two starts.
    assert balanced.std(0).min() > 1e-3
    assert gap(balanced, plain) > 0.5


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_it_holds_for_soft_targets(loss):
    balanced, plain = (train(r, soft=True) for r in (settings(f"bal_{loss}"), settings(loss, "prior")))
    assert gap(balanced, plain - bias(loss)) < EQUAL


@pytest.mark.parametrize("loss", ["ce", "bce"])
@pytest.mark.parametrize("tau", [0.5, 1.5])
def test_with_the_compensated_start_tau_acts_at_test_alone(loss, tau):
    """Its start is (1 - tau) b, so that every tau begins, and trains, as the plain loss from the prior."""
    recipe = settings(f"bal_{loss}", "prior", tau=tau)
    counts = load_dataset(recipe.data).class_counts
    assert gap(start_bias(f"bal_{loss}", "prior", counts, tau), bias(loss, 1 - tau)) < 1e-12
    assert gap(train(recipe), train(settings(loss, "prior")) - bias(loss, tau)) < EQUAL


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_a_naive_tau_also_changes_the_start(loss):
    tau = 0.5
    naive = train(settings(f"bal_{loss}", tau=tau))
    assert gap(naive, train(settings(loss), start=bias(loss, tau)) - bias(loss, tau)) < EQUAL
    assert gap(naive, train(settings(f"bal_{loss}", "prior", tau=tau))) > 1e-3


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_it_fails_where_the_bias_is_decayed(loss):
    """Decay pulls the bias towards zero: that is the balanced solution in one training and another in the other."""

    def decay_the_bias(optimizer, vit):
        for group in optimizer.param_groups:
            if any(p is vit.head.bias for p in group["params"]):
                group["weight_decay"] = 0.05

    balanced = train(settings(f"bal_{loss}"), change=decay_the_bias)
    plain = train(settings(loss, "prior"), change=decay_the_bias)
    assert gap(balanced, plain - bias(loss)) > 1e-3


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_it_fails_where_the_bias_is_not_trained(loss):
    """Frozen at zero on both sides, as in a head without bias: the plain loss has nowhere to hold the prior."""

    def freeze(optimizer, vit):
        vit.head.bias.requires_grad_(False)

    balanced = train(settings(f"bal_{loss}"), change=freeze)
    plain = train(settings(loss), change=freeze)
    assert gap(balanced, plain - bias(loss)) > 1e-3


def test_the_package_never_decays_the_bias_of_the_classifier():
    vit = create_classifier(smoke(), 10)
    for group in create_optimizer(vit, smoke().finetune, 0.75).param_groups:
        if any(p is vit.head.bias for p in group["params"]):
            assert group["weight_decay"] == 0.0
            break
    else:
        pytest.fail("the bias of the classifier is in no group")
