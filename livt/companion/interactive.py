"""Figures that a reader moves without a kernel: HTML that holds its data and a static image of itself.

The script ``book/_static/interactive.js`` puts the live figure in the image's place and computes everything that a
slider changes. Where it does not run, as in a notebook, the image stays.

Shapes: ``B`` images, ``C`` classes, ``L`` patches, ``H`` rows and ``W`` columns of pixels.
"""

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from livt.companion.clustering import STOPS, FillingProblem, fill, filling_problem
from livt.companion.plots import interactive as still
from livt.companion.plots import static_image
from livt.companion.plots.sp2ot import filling_curves
from livt.longtail import check_class_counts, exponential_counts
from livt.losses import (
    BalancedBinaryCrossEntropy,
    BalancedCrossEntropy,
    BinaryCrossEntropy,
    CrossEntropy,
    balanced_bce_bias,
)

# Each pixel of a live image is an element of the page.
MAX_PIXELS = 4096
# Each class of a live profile has a slider, from one image to so many.
MAX_IMAGES = 10_000


def count_explorer(class_counts: Sequence[int] = (500, 158, 50, 16, 5)) -> str:
    """Return the figure in which a reader drags the count of each class: its prior, its bias, and what is decided.

    Class c is a unit Gaussian at 2 c on a line, and each loss decides as the minimiser of its population value does
    (:func:`line_decisions`). Raises ValueError for fewer than two or more than eight classes, and counts outside 1 to
    10,000.
    """
    counts = check_class_counts(class_counts)
    if not 2 <= len(counts) <= 8 or (counts % 1).any() or counts.max() > MAX_IMAGES:
        raise ValueError(f"give 2 to 8 classes of 1 to {MAX_IMAGES:,} images, not {list(class_counts)}")
    place, chosen = line_decisions(counts)
    rules = {"CE, BCE": chosen["bce"], "Bal-BCE": chosen["bal_bce"], "Bal-CE": chosen["bal_ce"]}
    biases = balanced_bce_bias(counts).numpy()
    alt = (
        f"Priors and biases of {len(counts)} classes of {', '.join(f'{n:g}' for n in counts)} images; below, which "
        "class is decided along a line: CE and BCE give most of it to large classes, Bal-BCE less, Bal-CE equal parts."
    )
    fallback = static_image(still.counts(counts.astype(int), biases, place, rules), alt)
    data = {"counts": counts.astype(int).tolist()}
    return _figure("count-explorer", "From counts to prior, bias and decision", data, fallback)


def line_decisions(class_counts: ArrayLike) -> tuple[NDArray[np.float64], dict[str, NDArray[np.int64]]]:
    """Return places on a line, [G], and the class decided at each, [G], by what minimises BCE, Bal-BCE and Bal-CE.

    Class c is a unit Gaussian at 2 c; p(x | c) sums to one over the places. BCE, as CE, decides by the training
    posterior; Bal-BCE by log p(x | c) - log p(x | not c), its bias dropped; Bal-CE by p(x | c).
    """
    counts = check_class_counts(class_counts)
    centres = 2 * np.arange(len(counts))
    place = -4 + 0.05 * np.arange(round((centres[-1] + 8) / 0.05)) + 0.0125  # no boundary of equal classes is a place
    density = np.exp(-0.5 * (place[:, None] - centres) ** 2)
    density /= density.sum(axis=0)
    joint = counts * density
    others = joint @ (1 - np.eye(len(counts))) / (counts.sum() - counts)  # p(x | not c)
    scores = {"bce": joint, "bal_bce": density / others, "bal_ce": density}
    return place, {rule: score.argmax(axis=1) for rule, score in scores.items()}


def bias_explorer(
    datasets: Mapping[str, ArrayLike], *, fallback: str, selected: str | None = None, tau: float = 1.0
) -> str:
    """Return the figure in which a reader chooses a class, its prior and tau, and sees sigmoid, softmax and margins.

    datasets: class counts [C] by the data set's title, all of them kept. fallback: as from ``static_image``. selected:
    the title shown first, else the first one. Raises ValueError for invalid counts, an unknown title, or tau outside
    0 to 5.
    """
    if not datasets:
        raise ValueError("datasets is empty: give class counts by title")
    chosen = next(iter(datasets)) if selected is None else selected
    if chosen not in datasets:
        raise ValueError(f"selected {chosen!r} is not one of {', '.join(datasets)}")
    data = {
        "datasets": {title: _runs_of_counts(title, counts) for title, counts in datasets.items()},
        "selected": chosen,
        "tau": _check_tau(tau),
    }
    return _figure("bias-explorer", "Sigmoid, softmax and the bias of one class", data, fallback)


def profile_explorer(
    profiles: Mapping[str, tuple[int, int]],
    datasets: Mapping[str, ArrayLike] | None = None,
    *,
    fallback: str,
    imbalance_factor: float = 100,
    threshold: float = 0.1,
) -> str:
    """Return the figure in which a reader drags an imbalance factor: counts, both biases, and their second term.

    profiles: (images of the largest class, number of classes) of exponential profiles, by title. datasets: real class
    counts [C] by title, shown as they are. fallback: as from ``static_image``. threshold: nats above which the second
    term is said to matter. Raises ValueError where a value does not fit.
    """
    if not profiles:
        raise ValueError("profiles is empty: give (largest count, number of classes) by title")
    for title, (largest, classes) in profiles.items():
        if classes < 2:
            raise ValueError(f"profile {title!r} has {classes} class: the bias needs at least two")
        exponential_counts(largest, imbalance_factor, classes)  # refuses what does not fit
    if not threshold > 0:
        raise ValueError(f"threshold must be above 0 nats, not {threshold}")
    data = {
        "profiles": {title: {"largest": n, "classes": c} for title, (n, c) in profiles.items()},
        "datasets": {title: _runs_of_counts(title, counts) for title, counts in (datasets or {}).items()},
        "imbalance_factor": float(imbalance_factor),
        "threshold": float(threshold),
    }
    return _figure("profile-explorer", "Class profile, biases and the second term", data, fallback)


def gradient_flow(class_counts: Sequence[int] = (36, 16, 7, 3, 2), *, confidence: float = 0.0, seed: int = 0) -> str:
    """Return the figure of the gradient per class over a toy batch, for the four losses.

    The batch has ``class_counts`` [C] images of each class, so its priors are those of the biases. The scores are
    ``confidence * (1[c = label] + noise)``, noise [B, C] normal with deviation 0.5: confidence 0 is a fresh
    classifier. Raises ValueError for fewer than two or more than eight classes, over 200 images, or a confidence
    outside 0 to 8.
    """
    counts = check_class_counts(class_counts)
    if not 2 <= len(counts) <= 8 or counts.sum() > 200 or (counts % 1).any():
        raise ValueError(f"a toy batch has 2 to 8 classes and at most 200 images, not {list(class_counts)}")
    if not 0 <= confidence <= 8:
        raise ValueError(f"confidence must lie in 0 to 8, not {confidence}")
    noise = np.random.default_rng(seed).normal(scale=0.5, size=(int(counts.sum()), len(counts))).round(2)
    data = {"counts": counts.astype(int).tolist(), "noise": noise.tolist(), "confidence": confidence, "tau": 1.0}
    alt = "For each loss and class: how far the class's own images raise its score, how far the others lower it."
    losses = {
        "ce": CrossEntropy(),
        "bal_ce": BalancedCrossEntropy(counts),
        "bce": BinaryCrossEntropy(),
        "bal_bce": BalancedBinaryCrossEntropy(counts),
    }
    forces = {name: class_forces(loss, counts, noise, confidence) for name, loss in losses.items()}
    fallback = static_image(still.gradients(counts, forces), alt)
    return _figure("gradient-flow", "Gradient of each class over a toy batch", data, fallback)


def class_forces(
    loss: torch.nn.Module, class_counts: ArrayLike, noise: ArrayLike, confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how one step of descent moves each class's score, summed over the batch: (pull [C], push [C]).

    pull is the part of minus the gradient that comes from the class's own images, push that of all other images.
    Arguments as in ``gradient_flow``.
    """
    counts = check_class_counts(class_counts).astype(int)
    labels = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
    own = torch.nn.functional.one_hot(labels, len(counts)).double()
    scores = (confidence * (own + torch.as_tensor(noise, dtype=torch.float64))).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(scores, labels), scores)
    return (-(gradient * own).sum(dim=0)).numpy(), (-(gradient * (1 - own)).sum(dim=0)).numpy()


def anatomy_explorer(
    panels: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float | None]]]], *, fallback: str, tau: float = 1.0
) -> str:
    """Return the figure that takes the gain of Bal-BCE apart: start, removal at test, and the strength removed.

    panels: by the data's title, by start ("zero", "uniform", "prior"), and by the strength removed from the scores at
    test, as text ("0" is as trained): accuracy by the name of a group of classes, percent, None where it has no class.
    fallback: as from ``static_image``. tau: the strength shown first. Raises ValueError where a panel lacks a start, a
    start lacks strength 0 or has other strengths or groups than the first, or ``tau`` is not among them.
    """
    if not panels:
        raise ValueError("panels is empty: give accuracies by start and strength, by title")
    for title, starts in panels.items():
        if set(starts) != {"zero", "uniform", "prior"}:
            raise ValueError(f"{title!r} must have the starts zero, uniform and prior, not {', '.join(starts)}")
        first = starts["zero"]
        if not {"0", f"{tau:g}"} <= set(first) or any(set(values) != set(first) for values in starts.values()):
            raise ValueError(f"each start of {title!r} must have the same strengths, 0 and {tau:g} among them")
        groups = {tuple(values) for strengths in starts.values() for values in strengths.values()}
        if len(groups) != 1:
            raise ValueError(f"the accuracies of {title!r} are not of the same groups of classes")
    return _figure("anatomy-explorer", "From BCE to Bal-BCE, step by step", {"panels": panels, "tau": tau}, fallback)


def mae_stepper(
    original: ArrayLike,
    reconstructions: Mapping[int, ArrayLike],
    order: Sequence[int],
    patch_size: int,
    *,
    shown: int | None = None,
) -> str:
    """Return the figure that steps through a masked autoencoder: image, visible patches, reconstruction, error.

    original: one grey image, [H, W], 0 to 255. reconstructions: the predicted image [H, W] on the same scale for each
    number of visible patches that the slider stops at, from 1 to L - 1; predictions of visible patches are not shown
    or scored. order: the L patches, numbered row by row as ``MaskedAutoencoder.patchify`` does, in the order in which
    they are kept (``noise.argsort()``): with V visible patches these are ``order[:V]``. patch_size: pixels of a patch's
    side. shown: the number of visible patches shown first, else the one closest to a quarter of them.

    The error is the mean over the pixels of removed patches of ((prediction - original) / 255) ** 2; predictions are
    stored to a hundredth of a grey level. Raises ValueError where sizes do not fit.
    """
    image = np.asarray(original)
    if image.ndim != 2 or image.size > MAX_PIXELS or not ((image >= 0) & (image <= 255)).all():
        raise ValueError(f"original must be [H, W], 0 to 255, at most {MAX_PIXELS} pixels, not of shape {image.shape}")
    if patch_size < 1 or image.shape[0] % patch_size or image.shape[1] % patch_size:
        raise ValueError(f"patches of {patch_size} pixels do not tile an image of shape {image.shape}")
    patches = image.size // patch_size**2
    if sorted(order) != list(range(patches)):
        raise ValueError(f"order must hold each of the {patches} patches once")
    if not reconstructions:
        raise ValueError("reconstructions is empty: give a predicted image by number of visible patches")
    predicted = {}
    for visible, prediction in sorted(reconstructions.items()):
        values = np.asarray(prediction, dtype=np.float64)
        if not 0 < visible < patches:
            raise ValueError(f"reconstructions has {visible} visible patches, outside 1 to {patches - 1}")
        if values.shape != image.shape or not np.isfinite(values).all():
            raise ValueError(f"reconstructions[{visible}] must be finite, of shape {image.shape}, not {values.shape}")
        predicted[visible] = values.round(2)
    if shown is None:
        shown = min(predicted, key=lambda visible: abs(visible - patches / 4))
    if shown not in predicted:
        raise ValueError(f"shown {shown} is not one of the reconstructions: {', '.join(map(str, predicted))}")
    data = {
        "original": image.tolist(),
        "reconstructions": {str(visible): values.tolist() for visible, values in predicted.items()},
        "order": [int(patch) for patch in order],
        "patch_size": patch_size,
        "shown": int(shown),
    }
    removed = np.ones(patches, dtype=bool)
    removed[list(order[:shown])] = False
    grid = removed.reshape(image.shape[0] // patch_size, -1)
    mask = grid.repeat(patch_size, axis=0).repeat(patch_size, axis=1)
    alt = (
        f"Three images: the original; its {shown} visible patches of {patches}; "
        "the visible patches with the predicted ones around them."
    )
    fallback = static_image(still.masked(image, mask, predicted[shown]), alt)
    return _figure("mae-stepper", "A masked autoencoder, step by step", data, fallback)


def mass_explorer(problem: FillingProblem | None = None, shown: str = "SP2OT") -> str:
    """Return the figure in which the mass grows and clusters fill, each stop a solution of the real solver.

    problem: points in the plane, None for that of ``livt.companion.clustering``. shown: the way of labelling that comes
    first. Raises ValueError for one that is not there, or for more than four clusters.
    """
    problem = filling_problem() if problem is None else problem
    if len(problem.prototypes) > 4:
        raise ValueError(f"the figure has four colours, not {len(problem.prototypes)}")
    found = fill(problem)
    if shown not in found:
        raise ValueError(f"shown {shown!r} is not one of {', '.join(found)}")
    methods = {
        name: {
            "labels": [plan.argmax(1).tolist() for plan in plans],
            "weights": [(plan.sum(1) * len(plan)).clip(0, 1).round(2).tolist() for plan in plans],
            "fills": [plan.sum(0).round(4).tolist() for plan in plans],
        }
        for name, plans in found.items()
    }
    data = {
        "points": problem.points.round(3).tolist(),
        "groups": problem.groups.tolist(),
        "prototypes": problem.prototypes.round(3).tolist(),
        "shares": (np.bincount(problem.groups) / len(problem.groups)).round(4).tolist(),
        "stops": list(STOPS),
        "methods": methods,
        "shown": shown,
    }
    alt = "How full the clusters of four groups, 60 to 6 points, are as the mass grows, by three ways to label them."
    fallback = static_image(filling_curves(STOPS, found), alt)
    return _figure("mass-explorer", "Clusters fill as the mass grows", data, fallback)


def proof(title: str, steps: Sequence[tuple[str, str, str, bool | str]]) -> str:
    r"""Return a proof that unfolds line by line; without the script, all lines show.

    steps: (name of the line, LaTeX without dollars, reason, verified). ``verified`` is the outcome of a check, shown as
    such, or a text shown as it is. The reason may hold LaTeX between ``\(`` and ``\)``. Raises ValueError for no steps
    or empty parts.
    """
    if not steps:
        raise ValueError("steps is empty: a proof has at least one line")
    lines = []
    for number, (name, latex, reason, verified) in enumerate(steps, 1):
        if not (name.strip() and latex.strip() and reason.strip()) or verified == "":
            raise ValueError(f"line {number} of the proof has an empty part")
        if isinstance(verified, str):
            mark = f'<span class="livt-mark">{escape(verified)}</span>'
        elif verified:
            mark = '<span class="livt-mark livt-true">✓ verified by SymPy</span>'
        else:
            mark = '<span class="livt-mark livt-false">✗ not verified</span>'
        formula = _math(rf"\displaystyle {latex}")
        lines.append(
            f'<li class="livt-line"><p class="livt-line-name">{escape(name)} {mark}</p>'
            f'<p class="livt-formula">{formula}</p>'
            f'<p class="livt-reason">{_text_with_math(reason)}</p></li>'
        )
    body = f'<ol class="livt-lines">{"".join(lines)}</ol>'
    return _figure("proof", title, {"lines": [name for name, *_ in steps]}, body, keep=True)


def _math(latex: str) -> str:
    return rf'<span class="math notranslate nohighlight">\({escape(latex)}\)</span>'


def _text_with_math(text: str) -> str:
    parts = re.split(r"\\\((.+?)\\\)", text)
    return "".join(_math(part) if odd % 2 else escape(part) for odd, part in enumerate(parts))


def _figure(kind: str, title: str, data: Mapping[str, Any], fallback: str, keep: bool = False) -> str:
    # A "<" would end the script element early, were it followed by "/script".
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return (
        f'<div class="livt-interactive" data-kind="{kind}" role="group" aria-label="{escape(title)}">'
        f'<script type="application/json">{text}</script>'
        f'<p class="livt-title">{escape(title)}</p>'
        f'<div class="{"livt-content" if keep else "livt-fallback"}">{fallback}</div></div>'
    )


def _runs_of_counts(title: str, class_counts: ArrayLike) -> dict[str, list[int]]:
    """Return the distinct counts, largest first, and how many classes have each: the whole profile, in little room."""
    counts = check_class_counts(class_counts)
    if len(counts) < 2 or (counts % 1).any():
        raise ValueError(f"{title!r} needs whole class counts of at least two classes")
    values, classes = np.unique(counts.astype(int), return_counts=True)
    return {"counts": values[::-1].tolist(), "classes": classes[::-1].tolist()}


def _check_tau(tau: float) -> float:
    if not 0 <= tau <= 5:
        raise ValueError(f"tau must lie in 0 to 5, not {tau}")
    return float(tau)
