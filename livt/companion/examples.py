"""Test images of a frequent, a middling and a rare class, and what each loss says of them.

Images are shown where they are, beside the weights of the runs, or what these said, kept with the promoted records; a
page without them says so.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

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
from livt.lab.files import write_atomically
from livt.lab.promoted import promoted_folder
from livt.lab.runs import Record, RunStore
from livt.lab.stored import data_of, stored_logits

IMAGES = 5  # of each class: the first of the test split
# Of the sets whose folders number the classes (Krizhevsky, 2009).
NAMES = {"cifar10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]}


def section(panels: Sequence[Panel]) -> str:
    """Return what ``shown`` has of each suite with a seed of all four losses, as tabs of HTML."""
    tabs = {panel.suite.title: shown(panel) for panel in panels if by_seed(panel)}
    return report.tabs(tabs) if tabs else ""


def shown(panel: Panel) -> str:
    """Return the figure of one suite and the recall of its three classes, or that alone, and why, as HTML."""
    recall = report.table(
        recall_table(panel.suite.main.data, panel.class_counts, panel.records),
        "Recall of the class with the most training images, of one in the middle, and of the rarest [%], all seeds",
    )
    for runs in by_seed(panel):
        try:
            return figure(panel, runs) + recall
        except (DataError, RunError):
            continue
    why = "Test images stand here where the build has the images, and the weights of these runs or what they said."
    return f"{recall}<p>{why}</p>"


def figure(panel: Panel, runs: Mapping[str, Record]) -> str:
    """Return the figure of one suite, as HTML. runs: those of a seed by loss.

    Raises DataError where its images are missing, RunError where weights are, or the images have changed.
    """
    chosen = three_classes(panel.class_counts)
    said = {LOSS_NAMES[loss]: predicted(run, panel.store, chosen) for loss, run in runs.items()}
    data = data_of(next(iter(runs.values())))
    names = class_names(panel.suite.main.data, data.num_classes)
    labels = data.evaluation.labels.numpy()
    rows = [np.flatnonzero(labels == label)[:IMAGES] for label in chosen]
    drawn = [
        Example(
            title=f"{names[label]}\n{panel.class_counts[label]:,} to train on",
            images=sample(data.evaluation, row.tolist()).permute(0, 2, 3, 1).numpy(),
            said={loss: [(names[p], p == label) for p in of[label][:IMAGES]] for loss, of in said.items()},
        )
        for label, row in zip(chosen, rows, strict=True)
    ]
    seed = next(iter(runs.values())).config["seed"]
    caption = (
        f"{report.begun(panel.suite.title)}: the first {IMAGES} test images of the class with the most images to train "
        f"on, of one in the middle and of the rarest, and what each loss says of them (seed {seed}; ✓ is right)."
    )
    rarest = recall_table(panel.suite.main.data, panel.class_counts, panel.records).iloc[:, -1]
    found = ", ".join(f"{loss} {report.plain(cell)} %" for loss, cell in rarest.items())
    return plots.shown(examples(drawn), escape(caption), f"{caption} Of the rarest class are found: {found}.")


def predicted(run: Record, store: RunStore, classes: Sequence[int]) -> dict[int, list[int]]:
    """Return what a run says of each test image of some classes, by class, in the order of the split.

    From its weights, else as kept with its promoted record. Raises RunError where there is neither.
    """
    try:
        logits, labels = stored_logits(run, store)
    except RunError:
        path = kept(run)
        if not path.is_file():
            raise
        said = json.loads(path.read_text())
        return {label: said[str(label)] for label in classes}
    return {label: logits.argmax(1)[labels == label].tolist() for label in classes}


def keep(run: Record, store: RunStore, classes: Sequence[int]) -> Path:
    """Write what a run of the store says of the test images of some classes beside the promoted records; return where.

    Raises DataError where the images are missing, RunError where the weights are.
    """
    text = json.dumps({str(label): said for label, said in predicted(run, store, classes).items()})
    kept(run).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(kept(run), f"{text}\n".encode())
    return kept(run)


def kept(run: Record) -> Path:
    """Return the file of ``keep``."""
    return promoted_folder() / "predictions" / f"{run.id}.json"


def by_seed(panel: Panel) -> list[dict[str, Record]]:
    """Return the runs of the four losses by loss, of each seed that all have, smallest first."""
    runs: dict[int, dict[str, Record]] = {}
    for run in panel.records:
        runs.setdefault(run.config["seed"], {})[run.recipe.finetune.loss] = run
    return [{loss: runs[s][loss] for loss in LOSS_NAMES} for s in sorted(runs) if set(LOSS_NAMES) <= set(runs[s])]


def three_classes(counts: NDArray[np.int64]) -> list[int]:
    """Return the class with the most training images, the one in the middle, and the one with the fewest.

    Of equal counts the first.

    >>> three_classes(np.array([5, 50, 2, 20, 2]))
    [1, 0, 2]
    """
    middle = np.argsort(-counts, kind="stable")[len(counts) // 2]
    return [int(counts.argmax()), int(middle), int(counts.argmin())]


def class_names(config: DataConfig, classes: int) -> list[str]:
    """Return the names of the classes of a configuration's images; numbers where these are not on this machine."""
    if config.name in EMBEDDED:
        width = len(str(classes - 1))
        return [f"{label:0{width}d}" for label in range(classes)]
    if config.name in NAMES:
        return NAMES[config.name]
    try:
        names = [str(name) for name in read(config).classes]
    except DataError:
        names = [str(label) for label in range(classes)]
    return [f"class {name}" if name.isdecimal() else name for name in names]


def recall_table(config: DataConfig, counts: NDArray[np.int64], runs: Sequence[Record]) -> pd.DataFrame:
    """Return the recall of three classes by loss as HTML, mean ± standard deviation over seeds.

    config, counts: the images and the training images of each class. runs: of the four losses, any number of seeds.
    """
    chosen, names = three_classes(counts), class_names(config, len(counts))
    rows = pd.DataFrame(
        {"arm": run.recipe.finetune.loss, "seed": run.config["seed"], "run": run.id, "part": ""}
        | {f"per_class.{label}": run.result["per_class"][label] for label in chosen}
        for run in runs
    )
    table = {
        title: {
            f"{escape(names[label])} ({counts[label]:,})": report.number(rows, loss, f"per_class.{label}")
            for label in chosen
        }
        for loss, title in LOSS_NAMES.items()
    }
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("loss (training images)")
