"""The formulas of second stages: against references in NumPy, plain float64 and scikit-learn, and in their limits."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional as F

from livt.config import with_overrides
from livt.lab.recipes import smoke
from livt.longtail import exponential_counts
from livt.losses import CrossEntropy
from livt.models import create_vit
from livt.resnets import create_resnet
from livt.rivals.crt import new_head
from livt.rivals.disalign import Aligned, reweighted
from livt.rivals.lws import Scaled
from livt.rivals.methods import METHODS, WeightedCrossEntropy, check_head, features_of, head_of, mean_over, method_of
from livt.rivals.mislas import LabelAwareSmoothing
from livt.rivals.neighbours import Nearest, class_means
from livt.rivals.second import create_optimizer
from livt.rivals.taunorm import normalized
from livt.rivals.weight_balancing import bounded, class_balanced, shorten

COUNTS = exponential_counts(200, 100, 7)
WIDTH, CLASSES, BATCH = 5, 7, 11


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(3)


def linear() -> nn.Linear:
    return nn.Linear(WIDTH, CLASSES).double().requires_grad_(False)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(BATCH, WIDTH, dtype=torch.float64), torch.randint(CLASSES, (BATCH,))


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def network(kind: str) -> nn.Module:
    made = create_vit("femto", 8, 4, CLASSES) if kind == "vit" else create_resnet(kind, CLASSES)
    nn.init.normal_(made.get_classifier().weight)
    nn.init.normal_(made.get_classifier().bias)
    return made.eval().requires_grad_(False)


# ---------------------------------------------------------------- heads


@pytest.mark.parametrize("kind", ["vit", "resnet10", "resnet50"])
@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_tau_normalization_is_its_formula_on_every_network(kind, tau):
    model, images = network(kind), torch.rand(4, 3, 8, 8)
    w, x = head_of(model).weight.double().numpy(), features_of(model, images).double().numpy()
    expected = x @ (w / np.linalg.norm(w, axis=1, keepdims=True) ** tau).T
    assert np.allclose(normalized(model, tau)(images), expected, rtol=1e-4, atol=1e-5)


def test_tau_normalization_at_0_leaves_the_first_stage_without_its_bias():
    model, images = network("vit"), torch.rand(4, 3, 8, 8)
    head_of(model).bias.zero_()
    before, weight = model(images), head_of(model).weight.clone()
    assert torch.equal(normalized(model, 0.0)(images), before)
    assert torch.equal(head_of(model).weight, weight)
    model = network("vit")
    assert head_of(model).bias.any()
    assert not head_of(normalized(model, 0.0)).bias.any()


def test_tau_normalization_at_1_makes_all_weights_of_length_1():
    assert torch.allclose(head_of(normalized(network("vit"), 1.0)).weight.norm(dim=1), torch.ones(CLASSES))


def test_learnable_weight_scaling_and_its_gradient_are_their_formulas():
    inner, (x, y) = linear(), batch()
    head = Scaled(inner, CLASSES).double()
    assert torch.equal(head(x), inner(x)), "factors of 1 are the first stage"
    with torch.no_grad():
        head.factor.copy_(torch.rand(CLASSES) + 0.5)
    CrossEntropy()(head(x), y).backward()
    z = x.numpy() @ inner.weight.numpy().T + inner.bias.numpy()
    scaled = head.factor.detach().numpy() * z
    assert np.allclose(head(x).detach(), scaled, rtol=1e-12)
    expected = ((softmax(scaled) - np.eye(CLASSES)[y]) * z).mean(0)
    assert np.allclose(head.factor.grad, expected, rtol=1e-10)
    assert inner.weight.grad is None


def test_distribution_alignment_and_its_gradients_are_their_formulas():
    inner, (x, y) = linear(), batch()
    head = Aligned(inner, WIDTH, CLASSES).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    v, d = head.confidence.weight[0], head.confidence.bias
    z, alpha, beta = inner(x), head.magnitude, head.margin
    share = 1 / (1 + torch.exp(-(x @ v + d)))[:, None]
    expected = share * (alpha * z + beta) + (1 - share) * z
    assert torch.allclose(head(x), expected, rtol=1e-12)
    learned = [parameter for parameter in head.parameters() if parameter.requires_grad]
    assert len(learned) == 4
    weights = (COUNTS / COUNTS.sum()) ** -1.2
    weights = torch.from_numpy(weights / weights.sum() * CLASSES)
    reference = (weights[y] * (torch.logsumexp(expected, 1) - expected[torch.arange(BATCH), y])).mean()
    loss = reweighted(COUNTS, rho=1.2)(head(x), y)
    assert torch.allclose(loss, reference, rtol=1e-12)
    for own, other in zip(torch.autograd.grad(loss, learned), torch.autograd.grad(reference, learned), strict=True):
        assert torch.allclose(own, other, rtol=1e-10, atol=1e-14)
        assert own.abs().sum() > 0
    assert gradcheck(head, (x.clone().requires_grad_(),))


def test_distribution_alignment_is_the_first_stage_without_confidence_and_at_its_start():
    inner, (x, _) = linear(), batch()
    head = Aligned(inner, WIDTH, CLASSES).double()
    assert torch.equal(head(x), inner(x)), "alpha 1 and beta 0"
    with torch.no_grad():
        head.magnitude.fill_(3.0)
        head.margin.fill_(-2.0)
        assert not torch.equal(head(x), inner(x))
        head.confidence.bias.fill_(-1e4)
    assert torch.equal(head(x), inner(x)), "s = 0"


@pytest.mark.parametrize("kind", ["vit", "resnet10"])
def test_a_new_head_takes_the_place_of_the_old_one_and_starts_near_zero(kind):
    model = new_head(network(kind))
    assert type(head_of(model)) is nn.Linear
    assert all(p.requires_grad for p in head_of(model).parameters())
    assert model(torch.rand(2, 3, 8, 8)).abs().max() < 1e-2


# ---------------------------------------------------------------- losses


def test_class_weights_are_those_of_the_effective_number():
    weights = (1 - 0.9999) / (1 - 0.9999 ** COUNTS.astype(np.longdouble))
    assert np.allclose(class_balanced(COUNTS, 0.9999).weights, weights / weights.sum() * CLASSES, rtol=1e-12)
    assert torch.equal(class_balanced(COUNTS, 0.0).weights, torch.ones(CLASSES, dtype=torch.float64))
    assert torch.allclose(reweighted(COUNTS, 0.0).weights, torch.ones(CLASSES, dtype=torch.float64))


def test_a_weighted_cross_entropy_is_pytorchs_summed_and_divided_by_the_batch():
    weights = np.random.default_rng(0).uniform(0.1, 5, CLASSES)
    z, y = torch.randn(BATCH, CLASSES, dtype=torch.float64, requires_grad=True), batch()[1]
    loss = WeightedCrossEntropy(weights)(z, y)
    scaled = torch.from_numpy(weights / weights.sum() * CLASSES)
    reference = F.cross_entropy(z, y, weight=scaled, reduction="sum") / BATCH
    assert torch.allclose(loss, reference, rtol=1e-13)
    own, other = (torch.autograd.grad(value, z)[0] for value in (loss, reference))
    assert torch.allclose(own, other, rtol=1e-12, atol=1e-16)
    equal = WeightedCrossEntropy(np.full(CLASSES, 0.1))(z, y)
    assert torch.allclose(equal, F.cross_entropy(z, y), rtol=1e-14)


def smoothing(counts: np.ndarray, head: float, tail: float) -> np.ndarray:
    return tail + (head - tail) * np.sin((counts - counts.min()) * np.pi / (2 * (counts.max() - counts.min())))


def test_label_aware_smoothing_and_its_gradient_are_their_formulas():
    z, y = torch.randn(BATCH, CLASSES, dtype=torch.float64, requires_grad=True), batch()[1]
    criterion = LabelAwareSmoothing(COUNTS, 0.4, 0.1, 0.2)
    eps = smoothing(COUNTS, 0.4, 0.1)
    assert np.allclose(criterion.smoothing, eps, rtol=1e-14)
    assert (eps.max(), eps.min()) == (eps[0], eps[-1]) == (pytest.approx(0.4), pytest.approx(0.1))
    loss = criterion(z, y)
    loss.backward()
    p = softmax(z.detach().numpy())
    own = eps[y]
    expected = (1 - own) * -np.log(p[np.arange(BATCH), y]) + own * -np.log(p).mean(1)
    assert loss.item() == pytest.approx(expected.mean(), rel=1e-13)
    target = (1 - own)[:, None] * np.eye(CLASSES)[y] + own[:, None] / CLASSES
    assert np.allclose(z.grad, (p - target) / BATCH, rtol=1e-10, atol=1e-15)


def test_label_aware_smoothing_without_smoothing_is_cross_entropy():
    z, y = torch.randn(BATCH, CLASSES, dtype=torch.float64), batch()[1]
    assert torch.allclose(LabelAwareSmoothing(COUNTS, 0, 0, 1)(z, y), CrossEntropy()(z, y), rtol=1e-14)
    same = LabelAwareSmoothing([9] * CLASSES, 0.4, 0.1, 1)(z, y)
    assert torch.allclose(same, F.cross_entropy(z, y, label_smoothing=0.1), rtol=1e-13), "equal classes: all are small"


@pytest.mark.parametrize("make", [lambda: LabelAwareSmoothing(COUNTS, 0.4, 0.1, 1), lambda: reweighted(COUNTS, 1.2)])
def test_a_mixed_target_costs_what_its_parts_cost(make):
    z, criterion = torch.randn(BATCH, CLASSES, dtype=torch.float64), make()
    a, b, share = batch()[1], batch()[1], 0.3
    mixed = share * F.one_hot(a, CLASSES).double() + (1 - share) * F.one_hot(b, CLASSES).double()
    assert torch.allclose(criterion(z, mixed), share * criterion(z, a) + (1 - share) * criterion(z, b), rtol=1e-13)
    assert torch.equal(mean_over(z, F.one_hot(a, CLASSES).double()), mean_over(z, a))


# ---------------------------------------------------------------- length of weights


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_weights_are_shortened_to_a_limit_between_the_lengths_of_the_first_stage(share):
    model = network("vit")
    before = head_of(model).weight.clone()
    length = before.norm(dim=1)
    limit = length.min() + share * (length.max() - length.min())
    bounded(model, max_norm=share, beta=0.9999)
    bias = head_of(model).bias.clone()
    shorten(model)
    expected = before.numpy() * np.minimum(1, limit.item() / length.numpy())[:, None]
    assert np.allclose(head_of(model).weight.detach(), expected, rtol=1e-6)
    assert torch.equal(head_of(model).bias, bias)
    short = length <= limit
    assert torch.equal(head_of(model).weight[short], before[short]), "what is short enough is left alone"
    if share == 1:
        assert short.all()


# ---------------------------------------------------------------- neighbours


def test_the_nearest_mean_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), rng.integers(1, 9, CLASSES))
    x, other = (rng.normal(size=(n, WIDTH)).astype(np.float32) for n in (len(labels), 300))
    means = class_means(torch.from_numpy(x), torch.from_numpy(labels), CLASSES)
    reference = NearestCentroid().fit(x.astype(np.float64), labels)
    assert np.allclose(means, reference.centroids_, rtol=1e-12)
    head = Nearest(CLASSES)
    head.remember(means, torch.arange(CLASSES))
    logits = head(torch.from_numpy(other))
    assert np.array_equal(logits.argmax(1), reference.predict(other.astype(np.float64)))
    squared = ((other[:, None].astype(np.float64) - reference.centroids_) ** 2).sum(2)
    assert np.allclose(-logits, squared, rtol=1e-6)


def test_the_nearest_neighbour_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    labels = np.concatenate([np.arange(CLASSES), rng.integers(0, CLASSES, 60)])
    x, other = (rng.normal(size=(n, WIDTH)).astype(np.float32) for n in (len(labels), 300))
    head = Nearest(CLASSES)
    head.remember(torch.from_numpy(x), torch.from_numpy(labels))
    reference = KNeighborsClassifier(1, algorithm="brute").fit(x.astype(np.float64), labels)
    assert np.array_equal(head(torch.from_numpy(other)).argmax(1), reference.predict(other.astype(np.float64)))
    known = head(torch.from_numpy(x))
    assert np.array_equal(known.argmax(1), labels)
    assert known.max(1).values.abs().max() < 1e-5
    assert not head.state_dict(), "what it remembers is read off the images anew"


# ---------------------------------------------------------------- what is refused, and the optimiser


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"second.method": "crt", "second.options.tau": 1}, "second.options.tau is no parameter .* 'crt'; it has none"),
        (
            {"second.method": "disalign", "second.options.tau": 1},
            "of the method 'disalign'; known here: rho",
        ),
        ({"second.method": "disalign", "second.options.rho": -1}, "second.options.rho must not be negative, not -1"),
        ({"second.method": "mislas", "second.options.head": 1}, "second.options.head must lie in \\[0, 1\\), not 1"),
        ({"second.method": "mislas", "second.options.head_rate": 0}, "second.options.head_rate must lie in \\(0, 1\\]"),
        ({"second.method": "weight_balancing", "second.options.beta": 1}, "second.options.beta must lie in \\[0, 1\\)"),
        (
            {"second.method": "tau_norm", "second.epochs": 2},
            "epochs must be 1, not 2: 'tau_norm' learns nothing",
        ),
        ({"second.method": "best"}, "second.method 'best' is not one of aggregation, crt, disalign"),
    ],
)
def test_impossible_settings_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        method_of(with_overrides(smoke(), changes).second)


@pytest.mark.parametrize(
    ("name", "options"), [("tau_norm", {"tau": -1.0}), ("weight_balancing", {"max_norm": -1.0, "beta": 0.5})]
)
def test_impossible_options_of_a_head_are_refused_by_name(name, options):
    with pytest.raises(ValueError, match=f"second.options.{next(iter(options))} must not be negative, not -1"):
        METHODS[name].adapt(network("vit"), **options)


class Wrapped(nn.Module):
    """A network whose logits are changed after its head."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.num_features, self.num_classes = inner, inner.num_features, inner.num_classes
        self.get_classifier, self.forward_features = inner.get_classifier, inner.forward_features
        self.forward_head = inner.forward_head

    def forward(self, images):
        return 2 * self.inner(images)


def test_only_a_model_that_ends_in_its_one_head_passes():
    check_head(network("vit"), (8, 8))
    check_head(create_vit("femto", 8, 4, CLASSES).eval().to("meta"), (8, 8))
    with pytest.raises(ValueError, match="its model does not end in one head over features"):
        check_head(nn.Flatten(), (8, 8))
    with pytest.raises(ValueError, match="does not return what one head makes of the features"):
        check_head(Wrapped(network("vit")), (8, 8))


def test_weights_alone_are_decayed_and_some_parameters_learn_slower():
    settings = with_overrides(smoke(), {"second.method": "mislas"}).second
    model = METHODS["mislas"].adapt(network("vit"), head=0.4, tail=0.1, head_rate=0.2)
    optimizer = create_optimizer(model, settings, METHODS["mislas"].slower(head=0.4, tail=0.1, head_rate=0.2))
    found = {
        name: (group["lr_scale"], group["weight_decay"])
        for group in optimizer.param_groups
        for name, parameter in model.named_parameters()
        if any(parameter is own for own in group["params"])
    }
    assert found == {
        "head.factor": (1.0, 0.0),
        "head.inner.weight": (0.2, settings.weight_decay),
        "head.inner.bias": (0.2, 0.0),
    }


def test_every_method_has_a_source_and_the_defaults_that_its_functions_take():
    for name, method in METHODS.items():
        assert method.name == name
        assert method.title and method.source  # noqa: PT018
        settings = with_overrides(smoke(), {"second.method": name}).second
        assert method_of(settings) is method
        assert (settings.epochs == 1) == (method.create is None)
