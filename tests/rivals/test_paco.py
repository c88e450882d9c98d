"""PaCo against its formula, written out key by key, and what its queue and slow copy do over steps."""

from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from livt.losses import LOSSES, BalancedCrossEntropy, CrossEntropy
from livt.models import create_vit
from livt.optim import layer_decay_groups
from livt.resnets import create_resnet
from livt.rivals.paco import NO_LABEL, Contrast, ParametricContrastive, parametric_contrast

COUNTS = np.array([500, 120, 30, 7, 1])
B, C, D, Q = 4, len(COUNTS), 6, 7
OPTIONS = LOSSES["paco"].options


def problem(seed=0, filled=Q):
    """Return outputs of a model whose queue holds ``filled`` keys, and labels [B]; vectors are not of unit length."""
    torch.manual_seed(seed)
    logits = torch.randn(B, C, dtype=torch.float64, requires_grad=True)
    queries = torch.randn(B, D, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(B, D, dtype=torch.float64)
    queue = F.normalize(torch.randn(Q, D, dtype=torch.float64))
    labels = torch.randint(C, (Q,))
    queue[filled:], labels[filled:] = 0, NO_LABEL
    return Contrast(logits, queries, keys, queue, labels), torch.randint(C, (B,))


def unit(outputs):
    return outputs._replace(
        queries=F.normalize(outputs.queries),
        keys=F.normalize(outputs.keys),
        queue=outputs.queue.clone(),
        labels=outputs.labels.clone(),
    )


def create(counts=COUNTS, tau=1.0, **options):
    return ParametricContrastive(counts, tau, **OPTIONS | options)


def reference(outputs, labels, *, alpha=0.01, gamma=1.0, temperature=0.05, counts=COUNTS):
    bias = torch.from_numpy(np.log(counts / counts.sum()))
    queries = [q / q.norm() for q in outputs.queries]
    kept = outputs.labels != NO_LABEL
    others = [*queries, *(k / k.norm() for k in outputs.keys), *outputs.queue[kept]]
    classes = [*labels.tolist(), *labels.tolist(), *outputs.labels[kept].tolist()]
    total = 0
    for i in range(B):
        y = int(labels[i])
        centres = outputs.logits[i] + bias
        s = [queries[i] @ other / temperature for other in others]
        below = centres.exp().sum() + gamma * sum(s[j].exp() for j in range(len(s)) if j != i)
        positives = [j for j, c in enumerate(classes) if c == y and j != i]
        loss = -(centres[y].exp() / below).log()
        for j in positives:
            loss = loss - alpha * (s[j].exp() / below).log()
        total = total + loss / (1 + alpha * len(positives)) / B
    return total


@pytest.mark.parametrize("filled", [0, 3, Q])
@pytest.mark.parametrize(
    "options", [{}, {"alpha": 0.5, "temperature": 0.3}, {"gamma": 0.2, "alpha": 1.0, "temperature": 1.0}], ids=str
)
def test_value_and_gradient(filled, options):
    outputs, labels = problem(1, filled)
    value, expected = create(**options)(unit(outputs), labels), reference(outputs, labels, **options)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    inputs = outputs.logits, outputs.queries
    for found, wanted in zip(*(torch.autograd.grad(loss, inputs) for loss in (value, expected)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-13)


def test_gradcheck():
    outputs, labels = problem(2, 4)

    def loss(logits, queries):
        keys = torch.cat((F.normalize(queries), F.normalize(outputs.keys), outputs.queue))
        members = torch.cat((labels, labels, outputs.labels))
        return parametric_contrast(logits, F.normalize(queries), keys, members, alpha=0.3, gamma=1.0, temperature=0.5)

    assert torch.autograd.gradcheck(loss, (outputs.logits, outputs.queries))


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.3])
def test_without_keys_it_is_balanced_softmax_and_with_equal_priors_cross_entropy(tau):
    outputs, labels = problem(3)
    alone = {"alpha": 0.0, "gamma": 0.0}
    torch.testing.assert_close(
        create(tau=tau, **alone)(unit(outputs), labels),
        BalancedCrossEntropy(COUNTS, tau)(outputs.logits, labels),
        rtol=1e-13,
        atol=0,
    )
    flat = create([3] * C, tau, **alone)(unit(outputs), labels)
    torch.testing.assert_close(flat, CrossEntropy()(outputs.logits, labels), rtol=1e-13, atol=0)


def test_equal_priors_and_tau_zero_differ_by_what_all_centres_are_lowered():
    outputs, labels = problem(4)
    flat = create([3] * C)(unit(outputs), labels)
    lowered = outputs._replace(logits=outputs.logits - np.log(C))
    torch.testing.assert_close(flat, create(tau=0.0)(unit(lowered), labels), rtol=1e-12, atol=0)


def test_keys_and_their_labels_enter_the_queue_together_and_the_oldest_leave():
    outputs, _ = problem(5, 0)
    queue, labels = outputs.queue, outputs.labels
    seen = []
    for step in range(3):
        keys = F.normalize(torch.randn(B, D, dtype=torch.float64))
        targets = torch.randint(C, (B,))
        create()(unit(outputs)._replace(keys=keys, queue=queue, labels=labels), targets)
        seen = [*zip(keys, targets.tolist(), strict=True), *seen][:Q]
        assert labels.tolist() == [c for _, c in seen] + [NO_LABEL] * (Q - len(seen))
        assert torch.equal(queue[: len(seen)], torch.stack([k for k, _ in seen])), step


def test_a_batch_larger_than_the_queue_fills_it():
    outputs, targets = problem(6, 0)
    small = unit(outputs)._replace(queue=torch.zeros(2, D), labels=torch.full((2,), NO_LABEL))
    create(queue=2.0)(small, targets)
    assert torch.equal(small.labels, targets[:2])


def adapted(network, **options):
    return LOSSES["paco"].adapt(network, **OPTIONS | {"queue": 16.0, "dim": 8.0} | options)


def vit():
    torch.manual_seed(0)
    return create_vit("pico", 8, 4, C)


def test_queries_and_keys_are_the_same_at_the_start_and_the_slow_copy_follows():
    model = adapted(vit(), momentum=0.9).train()
    before = {name: p.clone() for name, p in model.slow.named_parameters()}
    view = torch.randn(B, 3, 8, 8)
    outputs = model(torch.cat((view, view)))
    torch.testing.assert_close(outputs.queries, outputs.keys)
    assert not outputs.keys.requires_grad
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1
    model(torch.cat((view, view)))
    for name, slow in model.slow.named_parameters():
        assert not slow.requires_grad
        torch.testing.assert_close(slow, 0.9 * before[name] + 0.1 * model.get_parameter(name))
    model.eval()(view)
    for name, slow in model.slow.named_parameters():
        torch.testing.assert_close(slow, 0.9 * before[name] + 0.1 * model.get_parameter(name))


def test_it_stays_the_network_that_it_was():
    plain = vit()
    model = adapted(deepcopy(plain)).eval()
    images = torch.randn(B, 3, 8, 8)
    assert torch.equal(model(images), plain.eval()(images))
    assert isinstance(model, type(plain))
    assert plain.state_dict().keys() <= model.state_dict().keys()

    def rates(network):
        scales = {id(p): g["lr_scale"] for g in layer_decay_groups(network, 0.05, 0.5) for p in g["params"]}
        return {name: scales[id(p)] for name, p in network.named_parameters() if id(p) in scales}

    found, expected = rates(model), rates(plain)
    assert {name: found[name] for name in expected} == expected
    assert {scale for name, scale in found.items() if name not in expected} == {1.0}
    assert not [name for name in found if name.startswith("slow")]


def test_two_copies_share_nothing():
    model = adapted(vit())
    other = deepcopy(model)
    other.queue += 1
    assert not model.queue.any()


def test_checkpointing_changes_nothing_and_leaves_the_slow_copy_alone():
    network = vit()
    network.set_grad_checkpointing(True)
    model, plain = adapted(network).train(), adapted(vit()).train()
    plain.load_state_dict(model.state_dict())
    assert not model.slow.grad_checkpointing
    images = torch.randn(2 * B, 3, 8, 8)
    for one, other in zip(model(images), plain(images), strict=True):
        assert torch.equal(one, other)


def test_a_residual_network_has_a_slow_copy_too():
    model = adapted(create_resnet("resnet10", C)).train()
    outputs = model(torch.randn(2 * B, 3, 16, 16))
    assert [tuple(t.shape) for t in outputs] == [(B, C), (B, 8), (B, 8), (16, 8), (16,)]
    assert model.eval()(torch.randn(B, 3, 16, 16)).shape == (B, C)


def test_half_precision_is_computed_in_float32():
    outputs, labels = problem(7)
    outputs = unit(outputs)
    half = Contrast(*(t.detach().bfloat16() if t.is_floating_point() else t for t in outputs))
    wide = Contrast(*(t.float() if t.is_floating_point() else t for t in half))
    wide = wide._replace(labels=half.labels.clone())
    with torch.autocast("cpu", torch.bfloat16):
        value = create()(half, labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, create()(wide, labels), rtol=1e-6, atol=0)


def test_what_does_not_fit_is_refused():
    outputs, _ = problem()
    for targets in (torch.ones(B, C), torch.zeros(B + 1, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"targets must be class indices \[4\], not torch"):
            create()(unit(outputs), targets)
    for options, message in (
        ({"alpha": -1.0}, "options.alpha must not be negative, not -1"),
        ({"gamma": -1.0}, "options.gamma must not be negative, not -1"),
        ({"temperature": 0.0}, "options.temperature must be positive, not 0"),
        ({"momentum": 1.5}, r"options.momentum must lie in \[0, 1\], not 1.5"),
        ({"queue": 0.5}, "options.queue must be a whole number of at least 1, not 0.5"),
        ({"dim": 0.0}, "options.dim must be a whole number of at least 1, not 0"),
    ):
        with pytest.raises(ValueError, match=message):
            create(**options)
