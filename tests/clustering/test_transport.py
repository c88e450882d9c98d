"""The solver against Python Optimal Transport, against SciPy's general optimisers, and in its limits."""

import math

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import minimize

from livt.clustering.transport import TransportError, objective, regularised, transport

EXACT = {"tolerance": 1e-12, "max_iterations": 200_000}


def problem(images, clusters, seed=0, scale=2.0):
    draw = np.random.default_rng(seed)
    logits = torch.from_numpy(draw.normal(scale=scale, size=(images, clusters)))
    weights = torch.from_numpy(draw.random((images, images)))
    return -torch.log_softmax(logits, 1), weights.fill_diagonal_(0)


def uniform(n):
    return np.full(n, 1 / n)


@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_balanced_transport_is_pots(epsilon):
    cost, _ = problem(12, 4)
    ours = transport(cost, epsilon=epsilon, **EXACT)
    theirs = ot.sinkhorn(uniform(12), uniform(4), cost.numpy(), epsilon, numItermax=100_000, stopThr=1e-13)
    assert np.allclose(ours.q, theirs, atol=1e-9)
    assert torch.allclose(ours.weights, torch.ones(12, dtype=torch.float64))


@pytest.mark.parametrize("gamma", [0.3, 5.0])
def test_unbalanced_transport_is_pots(gamma):
    cost, _ = problem(12, 4)
    ours = transport(cost, gamma=gamma, epsilon=0.2, **EXACT)
    theirs = ot.unbalanced.sinkhorn_unbalanced(
        uniform(12), uniform(4), cost.numpy(), 0.2, (math.inf, gamma), numItermax=100_000, stopThr=1e-14
    )
    assert np.allclose(ours.q, theirs, atol=1e-8)


@pytest.mark.parametrize("mass", [0.25, 0.75])
def test_partial_transport_costs_what_the_linear_programme_does(mass):
    cost, _ = problem(12, 4)
    ours = transport(cost, mass=mass, epsilon=0.002, tolerance=1e-9, max_iterations=200_000)
    theirs = ot.partial.partial_wasserstein(uniform(12), np.full(4, mass / 4), cost.numpy(), m=mass)
    assert (ours.q.numpy() * cost.numpy()).sum() == pytest.approx((theirs * cost.numpy()).sum(), abs=2e-3)
    assert ours.q.sum(0).numpy() == pytest.approx(np.full(4, mass / 4), abs=1e-8)
    assert (ours.q.sum(1) <= 1 / 12 + 1e-12).all()


def generic(cost, similarity, weight, mass, gamma, epsilon, start):
    """Minimise the written-out objective by SciPy over q >= 0 with rows of at most 1/N and the total ``mass``."""
    images, clusters = cost.shape

    def value(x):
        q = x.reshape(images, clusters)
        left, masses = np.maximum(1 / images - q.sum(1), 1e-300), q.sum(0)
        entropy = (x * np.log(x)).sum() + (left * np.log(left)).sum()
        far = (masses * np.log(masses * clusters / mass) - masses + mass / clusters).sum()
        return (q * cost).sum() - weight * (similarity * (q @ q.T)).sum() + gamma * far + epsilon * entropy

    limits = [
        {"type": "eq", "fun": lambda x: x.sum() - mass},
        {"type": "ineq", "fun": lambda x: 1 / images - x.reshape(images, clusters).sum(1) - 1e-12},
    ]
    options = {"ftol": 1e-13, "maxiter": 300}
    bounds = [(1e-12, 1 / images)] * (images * clusters)
    found = minimize(value, start.ravel(), method="SLSQP", bounds=bounds, constraints=limits, options=options)
    return found.x.reshape(images, clusters), value


def test_a_tiny_problem_without_neighbours_is_solved_as_scipy_solves_it():
    cost, _ = problem(5, 3)
    known = {"mass": 0.6, "gamma": 0.7, "epsilon": 0.15}
    ours = transport(cost, **known, **EXACT)
    theirs, value = generic(cost.numpy(), np.zeros((5, 5)), 0.0, *known.values(), np.full((5, 3), 0.6 / 15))
    assert np.allclose(ours.q, theirs, atol=1e-4)
    assert objective(ours.q, cost, **known) == pytest.approx(value(ours.q.numpy().ravel()), abs=1e-12)
    assert value(ours.q.numpy().ravel()) <= value(theirs.ravel()) + 1e-9


def test_a_tiny_problem_with_neighbours_reaches_the_best_of_many_starts():
    cost, similarity = problem(4, 2, seed=3)
    known = {"mass": 0.7, "gamma": 1.0, "epsilon": 0.2}
    ours = regularised(cost, similarity, 0.8, **known, rounds=200, tolerance=1e-12)
    draw, best = np.random.default_rng(0), math.inf
    for _ in range(3):
        start = draw.dirichlet(np.ones(2), size=4) * 0.7 / 4
        theirs, value = generic(cost.numpy(), similarity.numpy(), 0.8, *known.values(), start)
        best = min(best, value(theirs.ravel()))
    assert value(ours.q.numpy().ravel()) == pytest.approx(best, abs=1e-6)
    assert ours.values[-1] == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("weight", [0.5, 10.0])
def test_majorisation_never_raises_the_objective_and_ends_where_it_stays(weight):
    cost, similarity = problem(16, 3, seed=1)
    signed = similarity * (similarity > 0.8)  # a graph: S + S' has negative eigenvalues, so the bound alone is none
    assert torch.linalg.eigvalsh(signed + signed.T).min() < -1
    known = {"mass": 0.5, "gamma": 1.0, "epsilon": 0.1}
    found = regularised(cost, signed, weight, **known, rounds=100, tolerance=1e-6)
    assert found.settled
    assert len(found.values) > 2
    assert all(b <= a for a, b in zip(found.values, found.values[1:], strict=False))
    again = transport(cost - weight * (signed + signed.T) @ found.q, **known, tolerance=1e-6)
    assert torch.allclose(again.q, found.q, atol=5e-3)
    assert torch.allclose(
        regularised(cost, signed.to_sparse(), weight, **known).q,
        regularised(cost, signed, weight, **known).q,
        atol=1e-10,
    )


def test_without_weight_neighbours_do_nothing():
    cost, similarity = problem(20, 3)
    plain = transport(cost, mass=0.4, gamma=1.0, tolerance=1e-10)
    assert torch.allclose(regularised(cost, similarity, 0.0, mass=0.4, gamma=1.0, tolerance=1e-10).q, plain.q)


def test_neighbours_pull_an_image_into_their_cluster():
    cost = torch.tensor([[0.0, 3.0]] * 4 + [[0.6, 0.5]] + [[3.0, 0.0]] * 4)
    near = torch.zeros(9, 9)
    near[4, :4] = 1.0
    known = {"gamma": 1.0, "epsilon": 0.1}
    assert transport(cost, **known).q[4].argmax() == 1
    assert regularised(cost, near, 5.0, **known).q[4].argmax() == 0


def test_limits_lead_into_each_other():
    cost, _ = problem(20, 3)
    balanced, free = transport(cost, tolerance=1e-11), transport(cost, gamma=0.0, tolerance=1e-11)
    assert torch.allclose(transport(cost, gamma=1e3, tolerance=1e-7).q, balanced.q, atol=1e-4)
    assert torch.allclose(transport(cost, mass=0.999, gamma=30.0, tolerance=1e-6).q, balanced.q, atol=5e-3)
    assert torch.allclose(free.q, torch.softmax(-cost / 0.1, 1) / 20)  # no cluster has a say in its mass
    uneven = transport(cost, gamma=0.5, tolerance=1e-11).q.sum(0).std()
    assert balanced.q.sum(0).std() < uneven < free.q.sum(0).std()


def test_surest_images_are_taken_first():
    cost, _ = problem(50, 4)
    little, much = (transport(cost, mass=mass, gamma=1.0, tolerance=1e-10) for mass in (0.2, 0.6))
    assert little.q.sum() == pytest.approx(0.2)
    assert much.q.sum() == pytest.approx(0.6)
    best = cost.min(1).values
    assert best[little.weights > 0.5].mean() < best[little.weights < 0.5].mean()
    assert (much.weights >= little.weights - 1e-9).all()


def test_a_start_near_the_solution_saves_iterations_and_changes_nothing():
    cost, _ = problem(200, 10, scale=4.0)
    known = {"mass": 0.3, "gamma": 1.0, "tolerance": 1e-9}
    cold = transport(cost, **known)
    warm = transport(cost, start=cold.potential, **known)
    assert torch.allclose(warm.q, cold.q, atol=1e-9)
    assert warm.iterations < cold.iterations / 10
    full = transport(cost, gamma=1.0, tolerance=1e-9)
    assert torch.allclose(transport(cost, start=full.potential, **known).q, cold.q, atol=1e-9)  # from full to partial


def test_costs_that_overflow_without_potentials():
    cost = torch.tensor([[0.0, 400.0], [0.0, 401.0], [0.0, 402.0], [0.0, 403.0]])
    found = transport(cost, tolerance=1e-10)
    assert found.q.isfinite().all()
    assert found.q.sum(0).tolist() == pytest.approx([0.5, 0.5])


def test_the_cap_says_how_far_it_came():
    cost, _ = problem(12, 4)
    with pytest.raises(TransportError, match=r"marginals after 7 iterations, not 1e-12: raise max_iterations"):
        transport(cost, mass=0.5, max_iterations=7, tolerance=1e-12)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mass": 0.0}, "mass must lie in"),
        ({"mass": 1.1}, "mass must lie in"),
        ({"gamma": -1.0}, "gamma must not be negative"),
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"cost": torch.full((2, 2), math.nan)}, "cost must be finite"),
        ({"cost": torch.zeros(2)}, "cost must be finite"),
        ({"weight": -1.0}, "weight must not be negative"),
        ({"similarity": torch.zeros(2, 3)}, "similarity must be"),
    ],
)
def test_bad_input_is_named(changed, message):
    values = {"cost": torch.zeros(2, 2), "similarity": torch.zeros(2, 2), "weight": 1.0} | changed
    with pytest.raises(ValueError, match=message):
        regularised(**values)
