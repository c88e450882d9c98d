"""Features that labels trained, beside those of MGP alone: what the same probes read from both."""

from collections.abc import Sequence

import pandas as pd

from livt.companion import report
from livt.companion.chapter import Panel
from livt.companion.masked import parts_of
from livt.companion.plots import METRIC_NAMES
from livt.companion.statistics import estimate, sign

NOT_RUN = "<p>No encoder that was trained with labels has been probed yet.</p>"
PROBES = {"knn": "20 nearest neighbours", "linear": "linear map"}
ALONE, SCRATCH = "MGP alone", "CE from scratch"
SEEDS = 3  # fewer have no interval worth a word
FOUND = {1: "MGP's features say more", 0: "too close to tell", -1: "the supervised features say more"}


def probed(panel: Panel) -> pd.DataFrame:
    """Return the rows of the experiment, and those of the pretrainings by themselves, of which the records tell.

    A row of a pretraining has the arm "MGP alone/<probe>", and as its part where the record has its numbers.
    """
    rows = [
        {"arm": f"{ALONE}/{name}", "seed": run.recipe.seed, "run": run.id, "part": f"probe.{name}"}
        | parts_of(run.metrics[-1]["probe"], name)
        for run in panel.starts
        if "probe" in run.metrics[-1]
        for name in PROBES
    ]
    own = panel.measured[["arm", "seed", "run", "part", *METRIC_NAMES]]
    return pd.concat([pd.DataFrame(rows, columns=own.columns).astype(own.dtypes), own], ignore_index=True)


def section(panels: Sequence[Panel]) -> str:
    """Return a table of each suite and what it says of each group of classes, as tabs of HTML."""
    return report.tabs({panel.title: shown(panel) for panel in panels}) if panels else NOT_RUN


def shown(panel: Panel) -> str:
    """Return what both probes read from each encoder of a suite, and MGP minus CE from scratch, as HTML."""
    frame = probed(panel)
    encoders = list(dict.fromkeys(frame.arm.str.partition("/")[0]))
    groups = [metric for metric in METRIC_NAMES if frame[metric].notna().any()]
    rows: dict[tuple[str, str], dict[str, str]] = {}
    said = []
    for probe, title in PROBES.items():
        for encoder in encoders:
            rows[title, encoder] = {
                METRIC_NAMES[group]: report.number(frame, f"{encoder}/{probe}", group) for group in groups
            }
        first, second = f"{ALONE}/{probe}", f"{SCRATCH}/{probe}"
        if not {first, second} <= set(frame.arm):
            continue
        rows[title, f"{ALONE} minus {SCRATCH}"] = {
            METRIC_NAMES[group]: report.change(frame, {first: 1, second: -1}, group) for group in groups
        }
        wide = frame.pivot(index="seed", columns="arm", values=groups)
        apart = {group: estimate((wide[group, first] - wide[group, second]).dropna()) for group in groups}
        told = [f"{METRIC_NAMES[group]}: {FOUND[sign(e)]}" for group, e in apart.items() if e.n >= SEEDS]
        said += [f"By {title}: {'; '.join(told)}."] if told else []
    caption = f"{report.begun(panel.suite.title)}: accuracy of the probes in percent, differences in points"
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["probe", "encoder"])
    return report.table(table, caption, frame, f"{panel.name}_probed") + f"<p>{' '.join(said)}</p>"
