"""What a fair search adds to the measured leaderboard, and the runs that chose settings, as HTML."""

from collections.abc import Mapping
from html import escape

import pandas as pd

from livt.companion import report
from livt.companion.chapter import Chapter, Panel
from livt.companion.methods import title
from livt.companion.plan import validation_runs
from livt.companion.provenance import runs_frame
from livt.companion.report import change, number
from livt.companion.rivals import BASES, agreement, counted, gaps, harness
from livt.companion.statistics import rank_correlation
from livt.config import Recipe
from livt.lab import experiments
from livt.lab.find import find
from livt.lab.leaderboard import methods
from livt.lab.ranges import SEARCHED, SEED, TRIALS, ranges_of
from livt.lab.runs import Record, RunStore
from livt.lab.search import ARMS, chosen, search
from livt.lab.suites import SUITES

NOT_RUN = "<p>No suite has been searched yet.</p>"


def declared(defaults: Mapping[str, Recipe]) -> str:
    """Return what was declared before the search, as HTML: the number of trials, and folded each range with its source.

    defaults: the recipe of each method.
    """
    rows = [
        {"method": escape(title(name)), "setting": f"<code>{own.path}</code>", "range": str(own), "source": own.source}
        for name in SEARCHED
        for own in ranges_of(name, defaults[name])
    ]
    table = report.table(pd.DataFrame(rows).set_index("method"))
    said = f"Declared before: {len(SEARCHED)} methods, each with its default and {TRIALS} trials, seed {SEED}."
    return f"<p>{said}</p>" + report.folded(f"What is drawn, and from what ({len(rows)} ranges)", table)


def added(page: Chapter) -> str:
    """Return what was declared, and of each suite that was searched the methods before and after, as tabs of HTML."""
    panels = [panel for panel in page.panels("rivals", "searched") if panel.name in chosen()]
    shown = {panel.title: before_and_after(panel, validation(panel.name, page.store)) for panel in panels}
    return declared(methods(SUITES["digits"])) + (report.tabs(shown) if shown else NOT_RUN)


def validation(suite: str, store: RunStore) -> Panel:
    """Return the runs of a suite's search: on validation images, and so for its own table alone."""
    found = find(experiments.recipes("search", suite), store)
    return Panel(suite, search(SUITES[suite]), tuple(found.values()), store)


def before_and_after(panel: Panel, tried: Panel) -> str:
    """Return a table of the methods with both settings, best searched one first, as HTML.

    Below it stand how far both orders agree, and how many methods with their chosen settings are ahead of LiVT's losses
    with theirs.
    """
    measured, scores = panel.measured, tried.measured
    means = measured.groupby("arm").accuracy.mean()
    names = [name for name in chosen()[panel.name] if f"mgp/{name}" in means]
    names.sort(key=lambda name: -means.get(f"searched/{name}", 0.0))
    both = [name for name in names if f"searched/{name}" in means]
    validated = scores.groupby("arm").accuracy.mean()
    rows = {}
    for name in names:
        changed = chosen()[panel.name][name]
        best = max((f"{name}/{arm}" for arm in ARMS), key=lambda arm: validated.get(arm, float("-inf")))
        own, base = f"searched/{name}", f"mgp/{name}"
        rows[escape(title(name))] = {
            "validation, default": number(scores, f"{name}/default", "accuracy"),
            "validation, best": number(scores, best, "accuracy"),
            "test, default": number(measured, base, "accuracy"),
            "test, searched": number(measured, own, "accuracy"),
            "difference": change(measured, {own: 1, base: -1}) if changed else "same runs",
            "chosen": ", ".join(f"{path.split('.')[-1]} {value:g}" for path, value in changed.items()) or "the default",
        }
    if not rows:
        return NOT_RUN
    caption = f"{report.begun(harness(panel))}, from MGP with equal epochs: accuracy in percent"
    table = report.table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("method"), caption)
    kept = sum(not chosen()[panel.name][name] for name in names)
    untrained = len(names) - len(both)
    lacking = f"; of {untrained} what was chosen has no runs yet" if untrained else ""
    orders = rank_correlation(*(means[[f"{way}/{name}" for name in both]].tolist() for way in ("mgp", "searched")))
    said = f"{kept} of {len(names)} keep their default{lacking}. Before and after: {agreement(orders)}"
    others = [name for name in both if name != "bal_bce"]
    if "bal_bce" in both and others:
        apart = "; ".join(counted(gaps(measured, base, way="searched"), base) for base in BASES)
        lead = change(measured, {f"searched/{others[0]}": 1, "searched/bal_bce": -1})
        best = f"{escape(title(others[0]))} minus {title('bal_bce')}: {lead}"
        said += f" Each with its chosen setting, and after Holm's correction, {apart}. {best} points of test accuracy."
    return f"{table}<p>{said}</p>"


def runs_that_chose(store: RunStore) -> tuple[list[Record], pd.DataFrame]:
    """Return the promoted validation runs and what they start from, suite by suite, and a row for each.

    The rows are those of ``provenance.runs_frame``, with the data; each tells how its recipe differs from the main one.
    """
    every = validation_runs(store)
    records: list[Record] = []
    frames = []
    for data in dict.fromkeys(run.config["data"]["name"] for run in every):
        name = next(name for name, suite in SUITES.items() if suite.main.data.name == data)
        own = [run for run in every if run.config["data"]["name"] == data]
        frame = runs_frame(own, {"search": search(SUITES[name])}, SUITES[name].main)
        frame.insert(1, "data", SUITES[name].title)
        records += own
        frames.append(frame)
    return records, pd.concat(frames, ignore_index=True)
