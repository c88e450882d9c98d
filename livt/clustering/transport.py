"""Optimal transport from images to clusters: balanced, unbalanced, partial, and regularised by a graph of neighbours.

The pseudo-labels Q minimise, over Q >= 0 with rows of at most 1/N and the total mass ``rho``,

    <Q, C> - weight <S, Q Q'> + gamma KL(Q' 1 || rho / K) + epsilon * (negative entropy),

with C = -log P the cost of each cluster. Source: P2OT (Zhang et al., ICLR 2024) and SP2OT. A virtual cluster of cost 0
takes what is left of each row, 1 - rho in all, so that rows are equalities (Caffarelli and McCann's device); its
entropy counts too. ``weight`` 0 is P2OT; with rho = 1 unbalanced, with gamma infinite too balanced transport.

Shapes: ``N`` images, ``K`` clusters. All computation is in float64.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ABSORB = 30.0  # nats: a column's scaling of this size moves into its potential, before it can overflow
EVERY = 10  # iterations between two looks at the error


class TransportError(ArithmeticError):
    """The scaling did not reach its tolerance; the message says how far it came and after how many iterations."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A solution. q: mass of each image in each cluster, float64 [N, K]. potential: logarithms of the column scalings,
    [K + 1], the virtual cluster's last, to start a similar problem from. iterations: those of scaling, in all. error:
    the sum of the rows' distances to 1/N that was left. values: the objective after each round of
    majorisation, the first that of the start; empty without neighbours. settled: whether the rounds ended by tolerance.
    """

    q: Tensor
    potential: Tensor
    iterations: int
    error: float
    values: tuple[float, ...] = ()
    settled: bool = True

    @property
    def weights(self) -> Tensor:
        """The share of each image that is in a cluster, and not in the virtual one: [N], 0 to 1."""
        return self.q.sum(1) * len(self.q)


def transport(
    cost: Tensor,
    *,
    mass: float = 1.0,
    gamma: float = math.inf,
    epsilon: float = 0.1,
    start: Tensor | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 20_000,
) -> Plan:
    """Return the plan without neighbours, by scaling: rows to 1/N, clusters with exponent gamma / (gamma + epsilon).

    cost [N, K], in nats. mass: rho. gamma: infinite makes each cluster take exactly rho / K, 0 frees them. start: the
    ``potential`` of a similar problem. Raises ValueError for values out of range, TransportError where the rows are
    still further than ``tolerance`` from 1/N, in all, after ``max_iterations``.
    """
    check(cost, mass, gamma, epsilon)
    cost = _extended(cost.double(), mass)
    images, columns = cost.shape
    target = cost.new_full((columns,), mass / (columns - (mass < 1)))
    power = torch.full_like(target, 1.0 if math.isinf(gamma) else gamma / (gamma + epsilon))
    if mass < 1:
        target[-1], power[-1] = 1 - mass, 1.0  # the virtual cluster takes what it must
    potential = cost.min(0).values / epsilon if start is None else start.to(cost)[:columns]
    kernel, scale, error = _kernel(cost, potential, epsilon), torch.ones_like(target), math.inf
    if not kernel.max(0).values.min() > 0:  # a start of another problem, under which a cluster is out of all reach
        potential = cost.min(0).values / epsilon
        kernel = _kernel(cost, potential, epsilon)
    for iteration in range(1, max_iterations + 1):
        rows = 1 / (images * (kernel @ scale))  # [N]
        scale = (target / (kernel.T @ rows)) ** power * (potential * (power - 1)).exp()
        if iteration % EVERY == 0 or iteration == max_iterations:
            found = rows * (kernel @ scale)
            if mass == 1:  # a common factor of all clusters is in no plan, and goes slowly where gamma is large
                found /= found.sum()
            error = (found - 1 / images).abs().sum().item()
            if error <= tolerance:
                break
            if not scale.log().abs().max() < ABSORB:
                potential = potential + scale.log()
                kernel, scale = _kernel(cost, potential, epsilon), torch.ones_like(target)
    if not error <= tolerance:
        raise TransportError(
            f"the scaling is {error:.2g} from its marginals after {iteration:,} iterations, not {tolerance:g}: raise "
            "max_iterations, tolerance or epsilon"
        )
    plan = kernel * scale
    plan /= images * plan.sum(1, keepdim=True)
    scaling = torch.zeros(columns + (mass == 1), dtype=torch.float64, device=cost.device)
    scaling[:columns] = potential + scale.log()
    return Plan(q=plan[:, : columns - (mass < 1)], potential=scaling, iterations=iteration, error=error)


def regularised(
    cost: Tensor,
    similarity: Tensor,
    weight: float,
    *,
    mass: float = 1.0,
    gamma: float = math.inf,
    epsilon: float = 0.1,
    start: Tensor | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 20_000,
    rounds: int = 10,
) -> Plan:
    """Return the plan with neighbours: each round solves :func:`transport` at cost C - weight (S + S') Q.

    similarity: S [N, N], not negative, dense or sparse. The linear part is an upper bound where S + S' has no negative
    eigenvalue, and a graph's has; so a round that raises the objective is halved on the line to its solution, until it
    does not (the generalised conditional gradient: that line leads down). From Q uniform on, until a round gains less
    than ``tolerance`` or ``rounds`` are over, which ``settled`` tells. Raises as ``transport`` does.
    """
    if not weight >= 0:
        raise ValueError(f"weight must not be negative, not {weight:g}")
    if similarity.shape != (len(cost), len(cost)):
        raise ValueError(f"similarity must be [{len(cost)}, {len(cost)}], not {list(similarity.shape)}")
    check(cost, mass, gamma, epsilon)
    cost, similarity = cost.double(), similarity.double()
    both = similarity + similarity.T

    def value_of(q: Tensor) -> float:
        value = objective(q, cost, mass=mass, gamma=gamma, epsilon=epsilon)
        return value - weight / 2 * (q * (both @ q)).sum().item()

    q = torch.full_like(cost, mass / cost.numel())
    values, iterations, settled = [value_of(q)], 0, False
    for _ in range(rounds):
        found = transport(
            cost - weight * (both @ q),
            mass=mass,
            gamma=gamma,
            epsilon=epsilon,
            start=start,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
        start, iterations, step = found.potential, iterations + found.iterations, 1.0
        while (value := value_of(q + step * (found.q - q))) > values[-1] and step > 1e-6:
            step /= 2
        if value < values[-1]:
            q = q + step * (found.q - q)
            values.append(value)
        settled = len(values) < 2 or step <= 1e-6 or values[-2] - values[-1] <= tolerance
        if settled:
            break
    return Plan(
        q=q,
        potential=found.potential,
        iterations=iterations,
        error=found.error,
        values=tuple(values),
        settled=settled,
    )


def objective(q: Tensor, cost: Tensor, *, mass: float, gamma: float, epsilon: float) -> float:
    """Return the objective of a plan q [N, K] without neighbours, in nats; its clusters' masses add up to ``mass``.

    With gamma infinite the divergence is left out: there it is a constraint.
    """
    left = (1 / len(q) - q.sum(1)).clamp(min=0)  # of the virtual cluster
    entropy = torch.xlogy(q, q).sum() + torch.xlogy(left, left).sum()
    value = (q * cost).sum() + epsilon * entropy
    if math.isfinite(gamma):
        masses = q.sum(0)
        value = value + gamma * (torch.xlogy(masses, masses * q.shape[1] / mass) - masses).sum() + gamma * mass
    return value.item()


def check(cost: Tensor, mass: float, gamma: float, epsilon: float) -> None:
    """Raise ValueError naming what no problem of transport can have."""
    if cost.ndim != 2 or 0 in cost.shape or not cost.isfinite().all():
        raise ValueError(f"cost must be finite, [N, K], not of shape {list(cost.shape)} or with nan")
    if not 0 < mass <= 1:
        raise ValueError(f"mass must lie in (0, 1], not {mass:g}")
    if not gamma >= 0:
        raise ValueError(f"gamma must not be negative, not {gamma:g}")
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon must be positive, not {epsilon:g}")


def _extended(cost: Tensor, mass: float) -> Tensor:
    """Return the cost with the virtual cluster's column behind it, where that takes anything."""
    return torch.cat([cost, cost.new_zeros(len(cost), 1)], 1) if mass < 1 else cost


def _kernel(cost: Tensor, potential: Tensor, epsilon: float) -> Tensor:
    """Return exp(potential - cost / epsilon), each row up to a factor, which its own scaling takes up."""
    logits = potential - cost / epsilon
    return (logits - logits.max(1, keepdim=True).values).exp()
