"""Test images of a frequent, a middling and a rare class, and what each loss says of them.

Images are shown where they are, beside the weights of the runs; a page without them says so.
"""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from livt.companion import plots, report
from livt.companion.chapter import Panel
from livt.companion.plots.examples import Example, examples
from livt.companion.published import LOSS_NAMES
from livt.config import DataConfig
from livt.data.batches import sample
from livt.data.images import DataError
from livt.data.readers import read
from livt.data.sets import EMBEDDED
from livt.lab.failures import RunError
from livt.lab.runs import Record
from livt.lab.stored import data_of, stored_logits

IMAGES = 5  # of each class: the first of the test split
PLACES = ("most frequent", "middle", "rarest")
# Of the sets whose folders number the classes (Krizhevsky, 2009).
NAMES = {"cifar10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]}


def section(panels: Sequence[Panel]) -> str:
    """Return the figure of each suite with a seed of all four losses, as tabs of HTML, and what cannot be shown."""
    shown, absent = {}, []
    for panel in panels:
        runs = one_seed(panel)
        if not runs:
            continue
        try:
            shown[panel.suite.title] = figure(panel, runs)
        except (DataError, RunError):
            absent.append(panel.suite.title)
    said = "Not shown, as images or weights are not on this machine, or no longer those of the runs"
    said = f"<p>{said}: {escape(', '.join(absent))}.</p>"
    return (report.tabs(shown) if shown else "") + (said if absent else "")


def figure(panel: Panel, runs: Mapping[str, Record]) -> str:
    """Return the figure of one suite and the recall of its three classes, as HTML. runs: those of a seed by loss.

    Raises DataError where its images are missing, RunError where weights are, or the images have changed.
    """
    data = data_of(next(iter(runs.values())))
    chosen = three_classes(panel.class_counts)
    names = class_names(panel.suite.main.data, data.num_classes)
    labels = data.evaluation.labels.numpy()
    rows = [np.flatnonzero(labels == label)[:IMAGES] for label in chosen]
    said = {}
    for loss, run in runs.items():
        predicted = stored_logits(run, panel.store)[0].argmax(1).numpy()
        said[LOSS_NAMES[loss]] = [predicted[row] for row in rows]
    shown = [
        Example(
            title=f"{names[label]}\n{panel.class_counts[label]:,} to train on",
            images=sample(data.evaluation, row.tolist()).permute(0, 2, 3, 1).numpy(),
            said={loss: [(names[p], bool(p == label)) for p in found[i]] for loss, found in said.items()},
        )
        for i, (label, row) in enumerate(zip(chosen, rows, strict=True))
    ]
    seed = next(iter(runs.values())).config["seed"]
    caption = (
        f"{report.begun(panel.suite.title)}: the first {IMAGES} test images of the class with the most images to train "
        f"on, of one in the middle and of the rarest, and what each loss says of them (seed {seed}; ✓ is right)."
    )
    recall = recall_table(panel, chosen, names)
    found = ", ".join(f"{loss} {report.plain(row.iloc[-1])} %" for loss, row in recall.iterrows())
    table = report.table(recall, "Recall of these classes [%], all seeds")
    return plots.shown(examples(shown), escape(caption), f"{caption} Of the rarest class are found: {found}.") + table


def one_seed(panel: Panel) -> dict[str, Record]:
    """Return the run of each loss with the first seed that all have; nothing where none has all."""
    runs: dict[int, dict[str, Record]] = {}
    for run in panel.records:
        runs.setdefault(run.config["seed"], {})[run.recipe.finetune.loss] = run
    for seed in sorted(runs):
        if set(LOSS_NAMES) <= set(runs[seed]):
            return {loss: runs[seed][loss] for loss in LOSS_NAMES}
    return {}


def three_classes(counts: NDArray[np.int64]) -> list[int]:
    """Return the class with the most training images, the one in the middle, and the one with the fewest.

    Of equal counts the first.

    >>> three_classes(np.array([5, 50, 2, 20, 2]))
    [1, 0, 2]
    """
    middle = np.argsort(-counts, kind="stable")[len(counts) // 2]
    return [int(counts.argmax()), int(middle), int(counts.argmin())]


def class_names(config: DataConfig, classes: int) -> list[str]:
    """Return the names of the classes of a configuration's images."""
    if config.name in EMBEDDED:
        width = len(str(classes - 1))
        return [f"{label:0{width}d}" for label in range(classes)]
    if config.name in NAMES:
        return NAMES[config.name]
    names = [str(name) for name in read(config).classes]
    return [f"class {name}" if name.isdecimal() else name for name in names]


def recall_table(panel: Panel, chosen: Sequence[int], names: Sequence[str]) -> pd.DataFrame:
    """Return the recall of some classes by loss as HTML, mean ± standard deviation over seeds."""
    runs = pd.DataFrame(
        {"arm": run.recipe.finetune.loss, "seed": run.config["seed"], "run": run.id, "part": ""}
        | {f"per_class.{label}": run.result["per_class"][label] for label in chosen}
        for run in panel.records
    )
    rows = {
        title: {
            f"{escape(names[label])}, {place}": report.number(runs, loss, f"per_class.{label}")
            for label, place in zip(chosen, PLACES, strict=True)
        }
        for loss, title in LOSS_NAMES.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("loss")
