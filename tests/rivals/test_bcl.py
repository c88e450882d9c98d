"""BCL against its formula, written out pair by pair."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from livt.losses import LOSSES, BalancedCrossEntropy
from livt.models import create_vit
from livt.resnets import create_resnet
from livt.rivals.bcl import BCL, Contrast, balanced_contrast

COUNTS = np.array([500, 120, 30, 7, 1])
B, C, D = 4, len(COUNTS), 6
OPTIONS = LOSSES["bcl"].options


def problem(seed=0, labels=None):
    torch.manual_seed(seed)
    vectors = [torch.randn(n, D, dtype=torch.float64, requires_grad=True) for n in (2 * B, C)]
    logits = torch.randn(B, C, dtype=torch.float64, requires_grad=True)
    return logits, *vectors, torch.randint(C, (B,)) if labels is None else torch.tensor(labels)


def create(counts=COUNTS, tau=1.0, **options):
    return BCL(counts, tau, **OPTIONS | options)


def contrast_reference(projections, prototypes, labels, temperature):
    points = [F.normalize(v, dim=0) for v in (*projections, *prototypes)]
    classes = [*labels.tolist(), *labels.tolist(), *range(C)]
    total = 0
    for i in range(2 * B):
        exponentials = [(points[i] @ p / temperature).exp() for p in points]
        below = 0
        for c in range(C):
            members = [j for j, own in enumerate(classes) if own == c and j != i]
            below = below + sum(exponentials[j] for j in members) / len(members)
        positives = [j for j, own in enumerate(classes) if own == classes[i] and j != i]
        total = total - sum((exponentials[j] / below).log() for j in positives) / len(positives)
    return total / (2 * B)


@pytest.mark.parametrize("labels", [None, [0, 1, 2, 3], [2, 2, 2, 2], [4, 0, 0, 4]], ids=str)
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_value_and_gradient(labels, temperature):
    logits, projections, prototypes, labels = problem(1, labels)
    unit = F.normalize(projections), F.normalize(prototypes)
    value = create(temperature=temperature)(Contrast(logits, *unit), labels)
    pi = torch.from_numpy(COUNTS / COUNTS.sum())
    odds = logits.exp() * pi
    classified = -(odds[torch.arange(B), labels] / odds.sum(1)).log().mean()
    expected = classified + 0.35 * contrast_reference(projections, prototypes, labels, temperature)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    inputs = logits, projections, prototypes
    for found, wanted in zip(*(torch.autograd.grad(loss, inputs) for loss in (value, expected)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-13)


def test_gradcheck():
    _, projections, prototypes, labels = problem(2)

    def loss(projections, prototypes):
        return balanced_contrast(F.normalize(projections), F.normalize(prototypes), labels, 0.5)

    assert torch.autograd.gradcheck(loss, (projections, prototypes))


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.3])
def test_without_weight_it_is_balanced_softmax(tau):
    logits, projections, prototypes, labels = problem(3)
    outputs = Contrast(logits, F.normalize(projections), F.normalize(prototypes))
    assert torch.equal(create(tau=tau, weight=0.0)(outputs, labels), BalancedCrossEntropy(COUNTS, tau)(logits, labels))


def test_with_one_image_of_each_class_in_a_view_all_classes_are_already_even():
    """Then, with as many members in each class but the anchor's, the class means are a plain sum over a constant."""
    _, projections, prototypes, _ = problem(4)
    labels, unit, centres = torch.arange(B), F.normalize(projections), F.normalize(prototypes)[:B]
    found = balanced_contrast(unit, centres, labels, 0.2)
    s = unit @ torch.cat((unit, centres)).T / 0.2
    members = torch.cat((labels, labels, labels))
    same = members[: 2 * B, None] == members
    own = torch.eye(2 * B, 3 * B, dtype=torch.bool)
    below = (s.exp() * ~own / (3 - same.double())).sum(1, keepdim=True)
    expected = -((s - below.log()) * (same & ~own)).sum(1).div(2).mean()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_the_first_view_is_classified_and_the_others_contrasted():
    torch.manual_seed(0)
    loss = LOSSES["bcl"]
    model = loss.adapt(create_vit("pico", 8, 4, C), **loss.options).train()
    images = torch.randn(3 * B, 3, 8, 8)
    outputs = model(images)
    assert [tuple(t.shape) for t in outputs] == [(B, C), (2 * B, 128), (C, 128)]
    torch.testing.assert_close(outputs.projections.norm(dim=1), torch.ones(2 * B))
    torch.testing.assert_close(outputs.logits, model.eval()(images[:B]))
    assert not [name for name in model.state_dict() if "running" in name], "no statistics that only training sees"
    assert model.head.classifier.weight.shape == (C, 32)


def test_a_residual_network_is_contrasted_too():
    loss = LOSSES["bcl"]
    model = loss.adapt(create_resnet("resnet10", C), **loss.options).train()
    outputs = model(torch.randn(6, 3, 16, 16))
    assert [tuple(t.shape) for t in outputs] == [(2, C), (4, 128), (C, 128)]
    assert model.eval()(torch.randn(2, 3, 16, 16)).shape == (2, C)


def test_half_precision_is_computed_in_float32():
    logits, projections, prototypes, labels = problem(5)
    half = Contrast(*(t.detach().bfloat16() for t in (logits, F.normalize(projections), F.normalize(prototypes))))
    with torch.autocast("cpu", torch.bfloat16):
        value = create()(half, labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, create()(Contrast(*(t.float() for t in half)), labels), rtol=1e-6, atol=0)


def test_what_does_not_fit_is_refused():
    outputs = Contrast(*problem()[:3])
    with pytest.raises(ValueError, match=r"targets must be class indices \[B\], not torch.float32 of \(4, 5\)"):
        create()(outputs, torch.ones(B, C))
    for options, message in (
        ({"weight": -1.0}, "options.weight must not be negative, not -1"),
        ({"temperature": 0.0}, "options.temperature must be positive, not 0"),
        ({"dim": 0.0}, "options.dim must be a whole number of at least 1, not 0"),
        ({"scale": -1.0}, "options.scale must be positive, not -1"),
    ):
        with pytest.raises(ValueError, match=message):
            create(**options)
