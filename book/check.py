"""Compare each number that an executed notebook displays with the records of the runs it names.

An element of a cell's HTML or Markdown with ``data-terms`` displays a number computed from runs. The attribute is JSON,
a list of terms ``[weight, metric, [run ids, one per seed]]``; the metric is a path into a record's ``result``, such as
"accuracy", "posthoc.few" or "per_class.7", or "probe.knn.few": what that probe read at the end of a pretraining. Seed
``i`` has the value: the sum over the terms of weight times the metric of run ``i``. A seed without a value (an empty
shot group) drops out. The text shows, with ``data-digits`` decimals (1):

- ``data-show="mean"``: the mean over seeds;
- ``data-show="spread"``: mean ± sample standard deviation, the mean alone for one seed;
- ``data-show="interval"``: the 95 % Student-t interval of the mean, "low to high";

with ``data-signed`` a "+" before what is positive, and "-" for what does not exist. A click on the
number shows more, which is compared too: ``data-seeds``, the seed of each run; ``data-arms``, a name for each term; and
``data-values``, for each term the metric of each run, null where it has none, with one decimal more than the text. The
build computes all of it anew here, without ``livt.companion.report``, which made it.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from bs4 import BeautifulSoup, Tag
from scipy import stats

from livt.lab.failures import RunError
from livt.lab.find import mixed_code
from livt.lab.runs import Record, RunStore
from livt.losses import LOSSES

# Sums in another order differ by less than this; a text is right for any value so close.
ROUNDING = 1e-9
LIST = "livt-all-runs"  # class of a table that lists runs, each with the code that made it, and compares none


class TermsError(ValueError):
    """A displayed number's attributes that say nothing that can be computed."""


def reader(store: RunStore, promoted: Mapping[str, Record]) -> Callable[[str], Record]:
    """Return the function that gives a record by its run id: from the store, else a promoted one."""

    @cache
    def load(run_id: str) -> Record:
        own = store.is_finished(run_id) or run_id not in promoted
        return store.load(run_id) if own else promoted[run_id]

    return load


def check_notebooks(
    paths: Sequence[Path], load: Callable[[str], Record], known: Collection[Record] = ()
) -> tuple[int, list[str]]:
    """Return how many displayed numbers were checked, and a line for each that its records do not give.

    A table that mixes runs of different training code is named too, unless ``known`` has proofs that they are equal.
    ``load``: as from ``reader``.
    """
    checked, problems = 0, []
    for path in paths:
        cells = nbformat.read(path, as_version=4).cells
        outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
        for text in (data[kind] for data in outputs for kind in ("text/html", "text/markdown") if kind in data):
            count, found = check_html(text, load, known)
            checked += count
            problems += [f"{path.name}: {problem}" for problem in found]
    return checked, problems


def check_html(text: str, load: Callable[[str], Record], known: Collection[Record] = ()) -> tuple[int, list[str]]:
    """Return the same for one piece of HTML."""
    elements = BeautifulSoup(text, "html.parser").select("[data-terms]") if "data-terms" in text else []
    problems = []
    tables: dict[tuple[int, str], dict[str, Record]] = {}  # by table and data set: those are not compared run by run
    for element in elements:
        shown = " ".join(element.get_text().split())
        try:
            terms = read_terms(str(element["data-terms"]))
            allowed = texts(values_of(terms, load), element)
            problems += [f"{shown!r} {problem}" for problem in check_parts(terms, element, load)]
            table = element.find_parent("table")
            if table is None or LIST in table.get("class", []):
                table = element  # a number in running text or in a list stands for itself
            for record in {run: load(run) for _, _, runs in terms for run in runs}.values():
                shown_there = tables.setdefault((id(table), record.config.get("data", {}).get("name", "")), {})
                shown_there[record.id] = record
        except (TermsError, RunError) as error:
            problems.append(f"{shown!r} cannot be checked: {error}")
            continue
        if shown not in allowed:
            runs = ", ".join(dict.fromkeys(run for _, _, runs in terms for run in runs)) or "none"
            problems.append(f"shows {shown!r}, the records say {allowed[0]!r}; runs: {runs}")
    problems += filter(None, (mixed_code(list(table.values()), known) for table in tables.values()))
    return len(elements), problems


def read_terms(text: str) -> list[tuple[float, str, list[str]]]:
    """Return the terms of ``data-terms``; refuse what has not the same number of different runs in each."""
    try:
        terms = [(float(weight), metric, list(runs)) for weight, metric, runs in json.loads(text)]
    except (ValueError, TypeError):
        raise TermsError(f"data-terms is not a list of [weight, metric, [runs]]: {text[:80]}") from None
    if not terms or not all(isinstance(name, str) for _, metric, runs in terms for name in (metric, *runs)):
        raise TermsError(f"data-terms is not a list of [weight, metric, [runs]]: {text[:80]}")
    counts = [len(runs) for _, _, runs in terms]
    if len(set(counts)) > 1:
        raise TermsError(f"the terms have {' and '.join(map(str, counts))} runs")
    if any(len(set(runs)) < len(runs) for _, _, runs in terms):
        raise TermsError("a term names a run twice")
    return terms


def values_of(terms: Sequence[tuple[float, str, Sequence[str]]], load: Callable[[str], Record]) -> np.ndarray:
    """Return one value per seed, without those that are nan. Raises RunError for a missing run."""
    values = []
    for i in range(len(terms[0][2])):
        records = [load(runs[i]) for _, _, runs in terms]
        if len({record.config["seed"] for record in records}) > 1:
            raise TermsError(f"number {i + 1} of the runs is of another seed in each term")
        pairs = zip(terms, records, strict=True)
        values.append(sum(weight * metric_of(record, metric) for (weight, metric, _), record in pairs))
    return np.array([value for value in values if not math.isnan(value)], dtype=np.float64)


def check_parts(
    terms: Sequence[tuple[float, str, Sequence[str]]], element: Tag, load: Callable[[str], Record]
) -> list[str]:
    """Return a line for each seed, arm and value of a number's attributes that its records do not have."""
    seeds, arms, values = read_parts(element)
    own = [load(run).config["seed"] for run in terms[0][2]]
    problems = [] if seeds == own else [f"names the seeds {seeds}, the records have {own}"]
    if [len(arms), *map(len, values)] != [len(terms), *(len(runs) for _, _, runs in terms)]:
        return [*problems, f"has {len(arms)} arms and {list(map(len, values))} values for its terms"]
    near = 0.5 * 10.0 ** -(int(str(element.get("data-digits", "1"))) + 1) + ROUNDING
    for (_, metric, runs), arm, shown in zip(terms, arms, values, strict=True):
        for run, value in zip(runs, shown, strict=True):
            record = load(run)
            found = metric_of(record, metric)
            if math.isnan(found) != math.isnan(value) or abs(value - found) > near:
                problems.append(f"gives {run} the value {value}, its record has {found:.4f}")
            loss = record.config.get("finetune", {}).get("loss")
            others = {other.title for name, other in LOSSES.items() if name != loss} if loss else set()
            if others & set(re.findall(r"[\w-]+", arm)):
                problems.append(f"calls {run} {arm!r}, its loss is {loss}")
    return problems


def read_parts(element: Tag) -> tuple[list[int], list[str], list[list[float]]]:
    """Return a number's seeds, the names of its terms, and the value of each term and seed, nan for null."""
    try:
        seeds, arms, values = (list(json.loads(str(element[f"data-{name}"]))) for name in ("seeds", "arms", "values"))
        return seeds, list(map(str, arms)), [[math.nan if v is None else float(v) for v in own] for own in values]
    except (KeyError, ValueError, TypeError):
        raise TermsError("data-seeds, data-arms or data-values is missing or no list") from None


def metric_of(record: Record, path: str) -> float:
    """Return a number of a record's result, or of its last probes, by its dotted path; nan where it is null."""
    value: Any = record.result
    keys = path.split(".")
    if keys[0] == "probe":
        value, keys = record.metrics[-1].get("probe"), ["_".join(keys[1:])]
    for key in keys:
        parts = {str(i): part for i, part in enumerate(value)} if isinstance(value, list) else value
        if not isinstance(parts, Mapping) or key not in parts:
            raise TermsError(f"{record.id} has no metric {path!r}")
        value = parts[key]
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TermsError(f"{path!r} of {record.id} is not a number")
    return float(value)


def texts(values: np.ndarray, element: Tag) -> list[str]:
    """Return the texts that display the values as the element asks: one, or two where rounding is a tie."""
    show, digits = element.get("data-show"), str(element.get("data-digits", "1"))
    if show not in ("mean", "spread", "interval"):
        raise TermsError(f"data-show is {show!r}, not mean, spread or interval")
    if not digits.isdecimal():
        raise TermsError(f"data-digits is {digits!r}, not a number of digits")
    n, sign = len(values), "+" if element.has_attr("data-signed") else ""
    if n == 0 or (n == 1 and show == "interval"):
        return ["-"]
    mean = values.mean()
    if n == 1 or show == "mean":
        return rounded(mean, sign, digits)
    std = values.std(ddof=1)
    if show == "spread":
        return [f"{a} ± {b}" for a in rounded(mean, sign, digits) for b in rounded(std, "", digits)]
    half = stats.t.ppf(0.975, n - 1) * std / math.sqrt(n)
    return [f"{a} to {b}" for a in rounded(mean - half, sign, digits) for b in rounded(mean + half, sign, digits)]


def rounded(value: float, sign: str, digits: str) -> list[str]:
    near = (value, value - ROUNDING, value + ROUNDING)
    return list(dict.fromkeys(f"{number:{sign}.{digits}f}" for number in near))


def compare_promoted(promoted: Mapping[str, Record], store: RunStore) -> str:
    """Say how the store's results compare with the promoted records of the same runs; machines differ."""
    own = {run_id: store.load(run_id) for run_id in promoted if store.is_finished(run_id)}
    same = sum(own[run_id].result == promoted[run_id].result for run_id in own)
    gaps = [abs(own[i].result["accuracy"] - promoted[i].result["accuracy"]) for i in own if own[i].stage != "pretrain"]
    line = f"{same} of {len(own)} runs that are promoted too have the promoted result exactly"
    return f"{line}; accuracy differs by at most {max(gaps):.2f} points" if gaps else line
