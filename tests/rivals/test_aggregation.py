"""SADE's test-time aggregation on experts whose stability is known."""

import numpy as np
import pytest
import torch

from livt.config import with_overrides
from livt.data.sets import load_dataset
from livt.lab.recipes import smoke
from livt.lab.runs import RunStore
from livt.lab.stages import load_weights, train
from livt.lab.stored import stored_logits
from livt.rivals.aggregation import aggregated, expert_weights, stability

K, N, C = 3, 400, 6


def views(noise, seed=0):
    """Return two views' logits [K, N, C] of experts that see the same signal, each with its own amount of noise."""
    rng = np.random.default_rng(seed)
    signal = 4 * np.eye(C)[rng.integers(0, C, N)]
    return [torch.from_numpy(np.stack([signal + s * rng.normal(size=(N, C)) for s in noise])) for _ in range(2)]


def weights_of(first, second, **options):
    return expert_weights(first, second, torch.Generator().manual_seed(0), **options)


def test_stability_is_the_mean_cosine_of_the_aggregated_probabilities():
    first, second = views([0.5, 1.0, 2.0])
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    total = 0.0
    for n in range(N):
        p, q = (sum(float(w) * view[k, n].numpy() for k, w in enumerate(weights)) for view in (first, second))
        p, q = np.exp(p) / np.exp(p).sum(), np.exp(q) / np.exp(q).sum()
        total += p @ q / np.sqrt(p @ p * (q @ q))
    assert stability(first, second, weights).item() == pytest.approx(total / N, rel=1e-12)
    of_log_probabilities = stability(first.log_softmax(2), second.log_softmax(2), weights)
    assert of_log_probabilities.item() == pytest.approx(total / N, rel=1e-12)
    parameters = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    few = first[:, :5], second[:, :5]
    assert torch.autograd.gradcheck(lambda v: stability(*few, v.softmax(0)), (parameters,))


@pytest.mark.parametrize("stable", range(K))
def test_the_expert_that_is_stable_gets_the_weight(stable):
    first, second = views([0.2 if k == stable else 3.0 for k in range(K)])
    found = weights_of(first, second, passes=60)
    assert found.argmax() == stable
    assert found[stable] > 0.8
    assert found.sum().item() == pytest.approx(1, abs=1e-12)
    assert stability(first, second, found) > stability(first, second, torch.full((K,), 1 / K, dtype=torch.float64))


def test_the_best_weights_of_two_experts_are_found():
    first, second = views([0.5, 1.5])

    def objective(weight):
        """Return what is sought: stability, less the weight decay of parameters (a, -a) of which that is the weight."""
        a = weight.logit() / 2
        return stability(first, second, torch.stack((weight, 1 - weight))) - 5e-4 * a**2

    grid = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    best = max(grid, key=lambda weight: objective(weight).item())
    assert 0.6 < best < 0.95
    found = weights_of(first, second, passes=300, lr=0.5, batch_size=N)
    assert found[0].item() == pytest.approx(best.item(), abs=0.01)


@pytest.mark.parametrize("experts", [1, 2, 3, 5])
def test_equal_experts_keep_equal_weights(experts):
    first, second = (view[:1].expand(experts, N, C) for view in views([1.0]))
    found = weights_of(first, second)
    np.testing.assert_allclose(found, np.full(experts, 1 / experts), atol=1e-12)


def test_it_stops_when_an_expert_has_lost_its_weight():
    first, second = views([0.1, 6.0, 6.0])
    stopped, longer = (weights_of(first, second, passes=epochs, lr=2.0) for epochs in (400, 4000))
    assert torch.equal(stopped, longer)
    assert stopped.min() < 0.05


def test_weights_repeat_and_may_be_asked_for_where_no_gradient_is_kept():
    first, second = views([0.5, 1.0, 2.0])
    expected = weights_of(first, second)
    with torch.no_grad():
        assert torch.equal(weights_of(first, second), expected)
    with torch.inference_mode():
        held = first * 1, second * 1
    assert torch.equal(weights_of(*held), expected)
    assert weights_of(first.float(), second.float()).dtype == torch.float32


def test_equal_weights_are_the_mean_of_the_experts():
    first, _ = views([0.5, 1.0, 2.0])
    torch.testing.assert_close(aggregated(first, torch.full((K,), 1 / K)), first.mean(0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("first", "second"), [((2, 3, 4), (2, 3, 5)), ((2, 3), (2, 3)), ((2, 0, 4), (2, 0, 4)), ((1, 3, 4), (2, 3, 4))]
)
def test_views_that_do_not_fit_are_refused(first, second):
    with pytest.raises(ValueError, match=r"two views must be logits \[K, N, C\] of one shape, not"):
        weights_of(torch.zeros(first), torch.zeros(second))


# ------------------------------------------------------------------------------------------- as a second stage


def recipe_of(loss, **changes):
    recipe = with_overrides(smoke(), {"pretrain": None, "finetune.loss": loss, "second.method": "aggregation"})
    return with_overrides(recipe, changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    store = RunStore(tmp_path_factory.mktemp("runs"))
    train("finetune", recipe_of("sade"), store, progress=False)
    return store


def test_it_follows_on_experts_and_keeps_their_weights(trained):
    longer = recipe_of("sade", **{"second.options.passes": 200})
    for recipe in (recipe_of("sade"), longer):
        record = train("second", recipe, trained, progress=False)
        weights = load_weights(record, trained)["head.weights"]
        assert weights.sum().item() == pytest.approx(1, abs=1e-6)
        assert record.metrics[0]["train_loss"] is None
        assert record.result["accuracy"] == record.metrics[-1]["accuracy"]
        logits, labels = stored_logits(record, trained)
        assert 100 * (logits.argmax(1) == labels).double().mean().item() == pytest.approx(record.result["accuracy"])
    assert (weights - 1 / 3).abs().max() > 1e-3


def test_it_does_not_see_the_labels(trained):
    recipe = recipe_of("sade", **{"second.options.passes": 3})
    first = train("second", recipe, trained, progress=False)
    again = RunStore(trained.root.parent / "shuffled")
    train("finetune", recipe, again, progress=False)
    labels = load_dataset(recipe.data).evaluation.labels
    before = labels.clone()
    try:
        labels.copy_(before.flip(0))
        other = train("second", recipe, again, progress=False)
    finally:
        labels.copy_(before)
    assert other.result["per_class"] != first.result["per_class"], "it was judged by other labels"
    one, two = (load_weights(record, store)["head.weights"] for record, store in ((first, trained), (other, again)))
    assert torch.equal(one, two)


def test_it_cannot_follow_what_has_no_experts(tmp_path):
    for loss in ("ce", "ldam", "bcl", "paco"):
        with pytest.raises(ValueError, match=f"'aggregation' cannot follow finetune.loss '{loss}': its model has no"):
            train("finetune", recipe_of(loss), RunStore(tmp_path), progress=False)
    with pytest.raises(ValueError, match="second.options.passes must be a whole number of at least 1, not 0"):
        train("finetune", recipe_of("sade", **{"second.options.passes": 0}), RunStore(tmp_path), progress=False)
    assert not list(tmp_path.iterdir())
