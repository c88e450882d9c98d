"""The result box of the book's first page: what was found, with its numbers, on which data and how large a model."""

from collections.abc import Iterable, Sequence
from html import escape

import torch

from livt.companion import examples, report
from livt.companion.chapter import Panel, photographs_first
from livt.companion.claims import claims
from livt.companion.contrasts import EXPLAINING, Contrast
from livt.companion.frames import judge, kept, with_removal
from livt.companion.interactive import count_explorer
from livt.companion.ledger import signed
from livt.companion.published import LOSS_NAMES
from livt.finetune import create_classifier

# What the box needs of each suite.
EXPERIMENTS = ("loss_ablation", "controls")
ENOUGH = 3  # seeds of each loss: fewer have no interval worth a first page
CONTROL = "bce, prior start"
CONTRASTS = {contrast.label: contrast for claim in claims() for contrast in claim.contrasts}


def result_box(panels: Sequence[Panel]) -> str:
    """Return what the runs of each suite say, as HTML for a page at the root of the book: a tab per suite.

    A suite with fewer than ``ENOUGH`` seeds of a loss or of the control is left out; ValueError where none stays.
    """
    boxes = {panel.suite.title: box(panel) for panel in with_enough(panels, (*LOSS_NAMES, CONTROL))}
    return (
        '<section class="livt-result" aria-labelledby="livt-result">'
        '<p id="livt-result"><strong>What was found</strong></p>'
        f"{report.tabs(boxes)}</section>\n{count_explorer()}"
    )


def three_classes(panels: Sequence[Panel]) -> str:
    """Return what the four losses find of three classes, of the suite that comes first, as HTML.

    panels: of the loss ablation alone. ValueError where no suite has ``ENOUGH`` seeds.
    """
    return examples.shown(with_enough(panels, LOSS_NAMES)[0])


def with_enough(panels: Sequence[Panel], arms: Iterable[str]) -> list[Panel]:
    """Return the suites with ``ENOUGH`` seeds of each of some arms, photographs before others; ValueError for none."""
    names = list(arms)
    shown = [panel for panel in panels if seeds_of(panel, names) >= ENOUGH]
    if not shown:
        raise ValueError(f"no suite has {ENOUGH} seeds of each loss: the first page has nothing to show")
    return photographs_first(shown)


def seeds_of(panel: Panel, arms: Sequence[str]) -> int:
    """Return how many seeds each of some arms has at least."""
    return min(panel.measured[panel.measured.arm == arm].seed.nunique() for arm in arms)


def box(panel: Panel) -> str:
    """Return what the runs of one suite say, as HTML: the data, four sentences, and what the book itself found."""
    runs = with_removal(panel)
    accuracy = {arm: f"{report.number(runs, arm, 'accuracy')} %" for arm in (*LOSS_NAMES, CONTROL)}
    gain, level = CONTRASTS["Bal-BCE minus BCE"], CONTRASTS["Bal-BCE minus Bal-CE"]
    left = report.number(runs, {f"{CONTROL}, removed": 1, "bal_bce": -1}, "accuracy", signed=True)
    sentences = [
        f"Bal-BCE ends at {accuracy['bal_bce']} test accuracy, BCE at {accuracy['bce']}: {said(panel, gain)}.",
        f"BCE that starts at the prior, as Bal-BCE does, ends at {accuracy[CONTROL]}: Bal-BCE minus that is "
        f"{said(panel, gain.controls()[EXPLAINING])}.",
        f"Bal-CE, the balanced softmax, ends at {accuracy['bal_ce']}: Bal-BCE minus Bal-CE is {said(panel, level)}.",
        f"With BCE from the prior, the claims about BCE keep, in points: {kept(runs, chance=panel.chance)}.",
    ]
    found = "".join(f"<li>{sentence}</li>" for sentence in sentences)
    own = (
        "<strong>Bal-BCE is BCE with another start and a subtraction at test</strong>, "
        '<a href="notebooks/bal_bce_anatomy.html">as this book proves</a>: BCE from the prior, its bias subtracted at '
        f"test, differs from Bal-BCE by {left} points."
    )
    return f'<p class="livt-data">{data_of(panel)}</p><ul>{found}</ul><p>{own}</p>'


def said(panel: Panel, contrast: Contrast) -> str:
    """Return a contrast's number, its interval, the paper's number and the verdict, as HTML."""
    row = judge(panel.measured, [contrast], chance=panel.chance).iloc[0]
    limits = f"95 % interval {row['95 % interval']}; paper {row['paper']}"
    return f"{row['measured']} points ({limits}), {signed(row['verdict'])}"


def data_of(panel: Panel) -> str:
    """Return on what a suite was measured, as HTML: classes, images, pixels, model and seeds."""
    recipe, counts = panel.suite.main, panel.class_counts
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in create_classifier(recipe, len(counts)).parameters())
    size = f"{parameters / 1e6:.1f} million" if parameters >= 1e6 else f"{parameters / 1e3:.0f} thousand"
    height, width = recipe.data.size
    return escape(
        f"{panel.title}: {len(counts)} classes with {counts.max():,} to {counts.min():,} training images of {height} × "
        f"{width} pixels; a ViT with {size} parameters."
    )
