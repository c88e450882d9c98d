"""The table of ways to cluster: what each asks of its pseudo-labels, and how they are made from predictions.

All but k-means label the images by transport (``livt.clustering.transport``) and differ in its terms alone. Shapes:
``N`` images, ``D`` features, ``K`` clusters.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from livt.clustering.transport import Plan, regularised, transport
from livt.config import ClusterConfig

MEMORY = 5120  # images in the memory of the reference code, for which its weight of the neighbours is meant
TOLERANCE = 1e-3  # share of the mass that may be off its marginals; training is a thousand steps of more noise


@dataclass(frozen=True, kw_only=True)
class Method:
    """An entry of the table. options: its parameters, with the paper's values; what a method lacks, its labels lack.

    ``gamma``: how firmly clusters are held to equal mass, without which they are held to it exactly. ``start_mass``:
    the mass of the first epoch, without which it is 1 throughout. ``neighbours`` and ``weight``: those of the graph.
    """

    name: str
    title: str
    source: str
    options: dict[str, float] = field(default_factory=dict)

    @property
    def learns(self) -> bool:
        """Whether it trains a head; k-means does not."""
        return self.name != "k_means"


_SOFT = {"epsilon": 0.1, "gamma": 1.0}
_GROWING = _SOFT | {"start_mass": 0.1}
METHODS = {
    method.name: method
    for method in (
        Method(name="k_means", title="k-means", source="Lloyd, 1982; seeds of Arthur and Vassilvitskii, 2007"),
        Method(name="balanced", title="balanced OT", source="SeLa, ICLR 2020; SwAV, 2020", options={"epsilon": 0.1}),
        Method(name="uot", title="unbalanced OT", source="Zhang et al., ICLR 2024", options=_SOFT),
        Method(name="p2ot", title="P2OT", source="Zhang et al., ICLR 2024", options=_GROWING),
        Method(
            name="sp2ot",
            title="SP2OT",
            source="Zhang et al., 2024; rhfeiyang/SPPOT",
            options=_GROWING | {"neighbours": 20.0, "weight": 1000.0},
        ),
    )
}


def method_of(settings: ClusterConfig) -> Method:
    """Return the method of a recipe. Raises ValueError for a name without an entry, and for settings it cannot use."""
    if settings.method not in METHODS:
        raise ValueError(f"cluster.method {settings.method!r} is not one of {', '.join(METHODS)}")
    method = METHODS[settings.method]
    if not method.learns and settings.epochs != 1:
        raise ValueError(f"cluster.epochs must be 1, not {settings.epochs}: {method.name} learns nothing")
    for name, value in settings.options.items():
        if name not in method.options:
            known = ", ".join(method.options) or "no options"
            raise ValueError(f"cluster.options has no {name!r}: {method.name} has {known}")
        must = {
            "epsilon": ("be positive", value > 0),
            "gamma": ("not be negative", value >= 0),
            "start_mass": ("lie in (0, 1]", 0 < value <= 1),
            "neighbours": ("be a whole number of at least 1", value >= 1 and value == int(value)),
            "weight": ("not be negative", value >= 0),
        }
        if not must[name][1]:
            raise ValueError(f"cluster.options.{name} must {must[name][0]}, not {value:g}")
    return method


def options_of(settings: ClusterConfig) -> dict[str, float]:
    """Return the options of a recipe's method, those of its paper where the recipe has no others."""
    return METHODS[settings.method].options | settings.options


def mass_at(epoch: int, epochs: int, options: dict[str, float]) -> float:
    """Return rho in an epoch, counted from 0: from ``start_mass`` to 1 along a sigmoid, exp(-5 (1 - t)^2).

    >>> [round(mass_at(epoch, 5, {"start_mass": 0.1}), 3) for epoch in range(5)]
    [0.106, 0.154, 0.358, 0.758, 1.0]
    """
    start = options.get("start_mass", 1.0)
    t = epoch / (epochs - 1) if epochs > 1 else 1.0
    return start + (1 - start) * math.exp(-5 * (1 - t) ** 2)


def neighbour_graph(features: Tensor, neighbours: int) -> Tensor:
    """Return S, sparse float64 [N, N]: the cosine of each image and its nearest others, at most ``neighbours`` a row.

    Negative cosines are left out. features: of length one, [N, D].
    """
    images = len(features)
    values, columns = [], []
    for first in range(0, images, 1000):
        cosine = features[first : first + 1000] @ features.T
        rows = torch.arange(len(cosine), device=features.device)
        cosine[rows, first + rows] = -1.0  # an image is no neighbour of its own
        value, column = cosine.topk(min(neighbours, images - 1), dim=1)
        values.append(value.clamp(min=0))
        columns.append(column)
    value, column = torch.cat(values), torch.cat(columns)
    row = torch.arange(images, device=features.device)[:, None].expand_as(column)
    places = torch.stack([row.flatten(), column.flatten()])
    size = (images, images)
    return torch.sparse_coo_tensor(places, value.flatten().double(), size, check_invariants=True).coalesce()


def pseudo_labels(
    log_p: Tensor, mass: float, options: dict[str, float], graph: Tensor | None = None, start: Tensor | None = None
) -> Plan:
    """Return the labels of all images by their predictions, log_p [N, K], at one mass.

    The weight of the neighbours is lambda_1 = ``weight`` (1 - rho) N / 5120: a label holds 1/N, so that the pull of 20
    neighbours on an image keeps its size against log p, which does not depend on N. graph: of ``neighbour_graph``.
    """
    known = {
        "mass": mass,
        "gamma": options.get("gamma", math.inf),
        "epsilon": options["epsilon"],
        "tolerance": TOLERANCE,
        "start": start,
    }
    if graph is None:
        return transport(-log_p, **known)  # type: ignore[arg-type]
    weight = options["weight"] * (1 - mass) * len(log_p) / MEMORY
    return regularised(-log_p, graph, weight, **known)  # type: ignore[arg-type]
