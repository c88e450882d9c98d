"""MDCS against its formula, written out image by image, and its strong view."""

import numpy as np
import pytest
import torch

from livt.losses import LOSSES, BalancedCrossEntropy, CrossEntropy
from livt.rivals.mdcs import EXPERTS, MDCS, strong_view

COUNTS = np.array([500, 120, 30, 7, 1])
B, C = 6, len(COUNTS)
OPTIONS = LOSSES["mdcs"].options
LAMBDAS = (-0.5, 1.0, 2.5)


def problem(seed=0):
    """Return logits of both views [2 B, 3, C] and labels [B]; views agree, and are right, more often than by chance."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, C, B)
    logits = rng.normal(scale=2, size=(2 * B, EXPERTS, C)) + 3 * np.eye(C)[np.tile(labels, 2)][:, None]
    return torch.from_numpy(logits).requires_grad_(), torch.from_numpy(labels)


def create(counts=COUNTS, **options):
    return MDCS(counts, 1.0, **OPTIONS | options)


def probabilities(z):
    exps = [z_c.exp() for z_c in z]
    return [e / sum(exps) for e in exps]


def reference(logits, labels, *, weight=0.6, lambdas=LAMBDAS, confident=True):
    """The loss with log n as the paper writes it, and how many pairs of image and expert distil themselves."""
    total, pairs = 0, 0
    for k, value in enumerate(lambdas):
        bias = value * torch.from_numpy(np.log(COUNTS))
        p = [probabilities(logits[row, k] + bias) for row in range(2 * B)]
        for row in range(2 * B):
            total = total - p[row][labels[row % B]].log() / (2 * B)
        kept = []
        for b in range(B):
            teacher = [value.item() for value in p[b]]
            if not confident or teacher.index(max(teacher)) == labels[b]:
                kept.append(sum(t * (np.log(t) - s.log()) for t, s in zip(teacher, p[B + b], strict=True)))
        total = total + weight * sum(kept) / max(1, len(kept))
        pairs += len(kept)
    return total, pairs


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "change",
    [{}, {"confident": 0}, {"weight": 0}, {"lambda_many": 1, "lambda_few": 1}, {"lambda_medium": 0, "weight": 2}],
    ids=str,
)
def test_value_and_gradient(seed, change):
    logits, labels = problem(seed)
    options = OPTIONS | change
    lambdas = [options[f"lambda_{name}"] for name in ("many", "medium", "few")]
    expected, pairs = reference(
        logits, labels, weight=options["weight"], lambdas=lambdas, confident=options["confident"]
    )
    assert (pairs == EXPERTS * B) == (options["confident"] == 0), "some, not all, are chosen"
    value = create(**change)(logits, labels)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    found, wanted = (torch.autograd.grad(loss, logits)[0] for loss in (value, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-13)


def test_gradcheck_without_what_is_held_constant():
    logits, labels = (part[:2] for part in problem(1))
    weak, strong = logits.detach(), 0.5 * logits.detach().flip(2)

    def loss(second):  # the teacher is constant, so that finite differences see what autograd does
        return create()(torch.cat((weak, second)), labels)

    assert torch.autograd.gradcheck(loss, (strong.requires_grad_(),))
    assert torch.autograd.gradcheck(lambda z: create(weight=0)(z, labels[:1]), (logits.detach().requires_grad_(),))


def test_without_diversity_and_distillation_it_is_the_balanced_softmax_of_each_expert():
    logits, labels = problem(2)
    value = create(lambda_many=1, lambda_few=1, weight=0)(logits, labels)
    balanced = BalancedCrossEntropy(COUNTS)
    expected = sum(balanced(logits[:, k], labels.repeat(2)) for k in range(EXPERTS))
    assert value.item() == pytest.approx(expected.item(), rel=1e-13)


def test_views_that_agree_have_nothing_to_distil():
    logits, labels = problem(3)
    same = logits[:B].repeat(2, 1, 1)
    assert create()(same, labels).item() == pytest.approx(create(weight=0)(same, labels).item(), rel=1e-13)


def test_where_no_weak_view_is_right_cross_entropy_is_left():
    logits, labels = problem(4)
    wrong = logits.detach().clone()
    wrong[:B] = 50 * torch.eye(C, dtype=torch.float64)[(labels + 1) % C][:, None]
    assert create()(wrong, labels).item() == pytest.approx(create(weight=0)(wrong, labels).item(), rel=1e-13)
    assert create(confident=0)(wrong, labels) > create(weight=0)(wrong, labels)


def test_equal_priors_give_plain_cross_entropy_and_distillation_of_plain_logits():
    logits, labels = problem(5)
    expected = sum(CrossEntropy()(logits[:, k], labels.repeat(2)).item() for k in range(EXPERTS))
    assert create([9] * C, weight=0)(logits, labels).item() == pytest.approx(expected, rel=1e-13)


def test_the_weight_rises_over_a_share_of_training():
    def weights(epochs, **options):
        criterion = create(**options)
        found = []
        for epoch in range(epochs):
            criterion.begin(epoch, epochs)
            found.append(criterion.present)
        return found

    np.testing.assert_allclose(weights(200), [0.6 * min((epoch + 1) / 20, 1) for epoch in range(200)])
    np.testing.assert_allclose(weights(400, warmup=0.05), [0.6 * min((epoch + 1) / 20, 1) for epoch in range(400)])
    np.testing.assert_allclose(weights(15), [0.4] + [0.6] * 14)
    assert weights(4) == weights(4, warmup=0) == [0.6] * 4


def test_half_precision_is_computed_in_float32():
    logits, labels = problem(6)
    half = logits.detach().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = create()(half, labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, create()(half.float(), labels), rtol=1e-6, atol=0)


def test_what_does_not_fit_is_refused():
    logits, labels = problem()
    with pytest.raises(ValueError, match=r"logits must be \[2 \* B, 3, 5\] and targets class indices"):
        create()(logits[:B], labels)
    with pytest.raises(ValueError, match="not .* and torch.float64 of "):
        create()(logits, torch.eye(C, dtype=torch.float64)[labels])
    for name, value, must in (
        ("weight", -1, "not be negative"),
        ("warmup", 1.5, r"lie in \[0, 1\]"),
        ("confident", 0.5, "be 0 or 1"),
        ("scale", 0, "be positive"),
        ("distort", -0.1, r"lie in \[0, 1\]"),
        ("cutout", 2, r"lie in \[0, 1\]"),
        ("own_blocks", 1.5, "be a whole number"),
    ):
        with pytest.raises(ValueError, match=f"finetune.options.{name} must {must}.*, not {value:g}"):
            create(**{name: value})


# ---------------------------------------------------------------- the strong view


def images(batch=400, height=8, width=16):
    return 1 + torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_a_hole_of_half_each_side_is_cut_out_somewhere():
    seen = images()
    torch.manual_seed(0)
    strong = strong_view(seen, 0.0, 0.5)
    hole = (strong == 0).all(1)
    assert torch.equal(strong, seen.masked_fill(hole[:, None], 0)), "nothing else is changed"
    rows, columns = hole.any(2).sum(1), hole.any(1).sum(1)
    assert torch.equal(hole.sum((1, 2)), rows * columns), "it is a box"
    assert (rows.max(), columns.max()) == (4, 8)
    assert (rows.min(), columns.min()) <= (2, 4), "cut off at an edge"
    assert hole.float().mean(0).min() > 0.05, "no place is spared"


def test_the_map_moves_pixels_as_far_as_it_says():
    """An image of its own column and row numbers tells where each pixel was taken from."""
    height, width = 32, 64
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    seen = torch.stack((2 * x - 1, 2 * y - 1, torch.ones_like(x)))[None].repeat(200, 1, 1, 1)
    torch.manual_seed(1)
    taken = strong_view(seen, 0.1, 0.0)[:, :2, 13:19, 26:38]  # far from the edges, where zeros come in
    off = (taken - seen[:, :2, 13:19, 26:38]).abs()
    assert 0.09 < off.max() < 0.1 * (1 + 0.2 + 0.2), "a shift of up to 0.1, and as much of both coordinates"
    torch.testing.assert_close(taken.diff(dim=3, n=2), torch.zeros(200, 2, 6, 10), rtol=0, atol=1e-5)  # it is affine


def test_nothing_is_drawn_or_changed_without_strength():
    seen, state = images(2), torch.get_rng_state()
    assert strong_view(seen, 0.0, 0.0) is seen
    assert torch.equal(torch.get_rng_state(), state)


def test_the_second_view_alone_is_made_strong_and_in_training_alone():
    from livt.models import create_vit

    torch.manual_seed(0)
    network = LOSSES["mdcs"].adapt(create_vit("femto", (8, 16), 4, C), **OPTIONS)
    plain = LOSSES["mdcs"].adapt(create_vit("femto", (8, 16), 4, C), **OPTIONS | {"distort": 0.0, "cutout": 0.0})
    plain.load_state_dict(network.state_dict())
    seen = images(8)
    both = seen.repeat(2, 1, 1, 1)
    strong, same = network.train()(both), plain.train()(both)
    assert torch.equal(same[:8], same[8:])
    torch.testing.assert_close(strong[:8], same[:8])
    assert (strong[8:] - same[8:]).abs().amax((1, 2)).min() > 0
    assert torch.equal(network.eval()(seen), plain.eval()(seen))
