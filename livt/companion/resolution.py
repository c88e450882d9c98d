"""Fine-tuning at a higher resolution than that of the pretraining: what it gives, and what it costs."""

from collections.abc import Sequence

import pandas as pd

from livt.companion import report
from livt.companion.chapter import Panel
from livt.companion.plots import METRIC_NAMES
from livt.companion.rivals import compute
from livt.lab.cost import flops_of

LOW, HIGH = "pretrained resolution", "higher resolution"  # the experiment's arms
NOT_RUN = "<p>No encoder has been fine-tuned at a higher resolution yet.</p>"
SCORES = {**METRIC_NAMES, "ece": "ECE"}


def section(panels: Sequence[Panel]) -> str:
    """Return a table of each suite that was fine-tuned at both resolutions, as tabs of HTML."""
    both = [panel for panel in panels if {LOW, HIGH} <= set(panel.measured.arm)]
    return report.tabs({panel.title: shown(panel) for panel in both}) if both else NOT_RUN


def shown(panel: Panel) -> str:
    """Return the scores at each resolution, their difference, and the operations of training, as HTML."""
    measured, classes = panel.measured, len(panel.class_counts)
    scores = {key: name for key, name in SCORES.items() if measured[key].notna().any()}
    rows, operations = {}, {}
    for arm in (LOW, HIGH):
        recipe = panel.arms[arm]
        height, width = recipe.data.size
        patch = recipe.model.patch_size
        operations[arm] = flops_of("finetune", recipe, classes), compute(recipe, classes)
        rows[f"{height} x {width} pixels"] = {
            "patches": f"{height // patch * (width // patch)}",
            "MFLOP": f"{operations[arm][0] / 1e6:,.0f}",
            **{name: report.number(measured, arm, key) for key, name in scores.items()},
        }
    rows["difference"] = {"patches": "", "MFLOP": ""} | {
        name: report.change(measured, {HIGH: 1, LOW: -1}, key) for key, name in scores.items()
    }
    tuning, all_of_it = (high / low for low, high in zip(operations[LOW], operations[HIGH], strict=True))
    caption = (
        f"{report.begun(panel.suite.title)}, Bal-BCE: scores in percent, differences in points. MFLOP: of one image's "
        "step of fine-tuning, forward and backward"
    )
    table = report.table(
        pd.DataFrame(rows).rename_axis("fine-tuned at"),
        caption,
        measured,
        f"{panel.name}_resolution",
    )
    return table + (
        f"<p>Fine-tuning at the higher resolution takes {tuning:.1f} times the operations, both stages together "
        f"{all_of_it:.1f} times.</p>"
    )
