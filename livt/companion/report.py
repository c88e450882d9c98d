"""Numbers and tables as HTML: each number names the runs behind it."""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from math import isnan
from typing import Literal

import numpy as np
import pandas as pd

from livt.companion.statistics import estimate
from livt.losses import LOSSES

Show = Literal["mean", "spread", "interval"]
LARGE = 200_000  # bytes of a table, above which a page holds it compressed


def in_seeds(count: int) -> str:
    """Return a number of seeds as text.

    >>> in_seeds(1), in_seeds(3)
    ('1 seed', '3 seeds')
    """
    return f"{count} seed{'' if count == 1 else 's'}"


def number(
    measured: pd.DataFrame,
    weights: Mapping[str, float] | str,
    metric: str,
    *,
    show: Show = "spread",
    digits: int = 1,
    signed: bool = False,
) -> str:
    """Return a measured number as HTML with the runs, arms, seeds and values behind it, which the build checks.

    measured: rows as from ``results``. ``weights``: the number is the sum of ``weights[arm] * metric`` within one seed;
    a single arm's name stands for weight 1. ``show``: the mean over seeds, the mean ± standard deviation ("spread"), or
    the 95 % Student-t interval of the mean. ``-`` stands for nothing measured. Raises ValueError where two rows are of
    one arm and seed.
    """
    weights = {weights: 1} if isinstance(weights, str) else weights
    columns = {name: measured[name].tolist() for name in ("seed", "arm", "part", "run", metric)}  # a page has thousands
    row: dict[tuple[int, str], int] = {}
    for i, place in enumerate(zip(columns["seed"], columns["arm"], strict=True)):
        if place[1] in weights:
            if place in row:
                raise ValueError(f"two runs of one arm and seed: {place}")
            row[place] = i
    seeds = [seed for seed in sorted(set(columns["seed"])) if all((seed, arm) in row for arm in weights)]
    terms, parts = [], []
    for arm, weight in weights.items():
        own = [row[seed, arm] for seed in seeds]
        part = columns["part"][own[0]] if own else ""
        terms.append([weight, f"{part}.{metric}" if part else metric, [columns["run"][i] for i in own]])
        parts.append([columns[metric][i] for i in own])
    values = np.array(list(weights.values())) @ np.array(parts, dtype=float)
    attributes = {
        "data-terms": terms,
        "data-arms": [arm_title(arm) for arm in weights],
        "data-seeds": [int(seed) for seed in seeds],
        "data-values": [[None if isnan(value) else round(value, digits + 1) for value in own] for own in parts],
        "data-show": show,
    }
    attributes |= {"data-digits": digits} if digits != 1 else {}
    attributes |= {"data-signed": "true"} if signed else {}
    written = " ".join(f"{name}='{_attribute(value)}'" for name, value in attributes.items())
    return f"<span {written}>{text(values, show, digits=digits, signed=signed)}</span>"


def arm_title(arm: str) -> str:
    """Return an arm's name with its loss as the book writes it.

    >>> arm_title("pico/15/bal_bce, zero start")
    'pico/15/Bal-BCE, zero start'
    """
    return re.sub(r"\w+", lambda word: LOSSES[word[0]].title if word[0] in LOSSES else word[0], arm)


def _attribute(value: object) -> str:
    """Return what stands between single quotes: JSON, or a text as it is."""
    written = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return escape(written, quote=False).replace("'", "&#x27;")


def text(values: Sequence[float] | pd.Series, show: Show = "spread", *, digits: int = 1, signed: bool = False) -> str:
    """Return as plain text, as ``number`` would, what no record has: one value per seed, nan where there is none.

    >>> text([1.0, 2.0]), text([3.0, float("nan")]), text([]), text([1.0, 2.0], "mean", signed=True)
    ('1.5 ± 0.7', '3.0', '-', '+1.5')
    """
    e = estimate(pd.Series(values, dtype=float).dropna())
    form = f"{'+' if signed else ''}.{digits}f"
    if e.n == 0 or (show == "interval" and e.n == 1):
        return "-"
    if show == "interval":
        return f"{e.low:{form}} to {e.high:{form}}"
    return f"{e.mean:{form}}" if show == "mean" or e.n == 1 else f"{e.mean:{form}} ± {e.std:.{digits}f}"


def begun(words: str) -> str:
    """Return words as a sentence begins with them, their other letters as they are.

    >>> begun("digit pairs"), begun("CIFAR-10-LT")
    ('Digit pairs', 'CIFAR-10-LT')
    """
    return words[:1].upper() + words[1:]


def plain(html: str) -> str:
    """Return text without its HTML tags, for where only Markdown is read."""
    return re.sub(r"</?span[^>]*>", "", html)


def table(
    frame: pd.DataFrame,
    caption: str = "",
    csv: pd.DataFrame | None = None,
    name: str = "table",
    *,
    html: bool = True,
) -> str:
    """Return a frame as an HTML table, its cells taken as HTML or as plain text, with a link that downloads ``csv``.

    ``csv`` None downloads nothing; ``name`` is the file's name without its ending.
    """
    body = frame.to_html(escape=not html, classes="livt-measured", border=0, na_rep="-", index_names=False)
    for level in frame.index.names:  # pandas leaves the corner empty, or gives the names a row of their own
        body = body.replace("<th></th>", f"<th>{level}</th>" if level else "<td></td>", 1)
    if caption:
        body = body.replace(">", f"><caption>{caption}</caption>", 1)
    return f'<div class="livt-table">{body}</div>' + ("" if csv is None else download(csv, name))


def download(frame: pd.DataFrame, name: str) -> str:
    """Return a link, as HTML, that downloads the frame as ``<name>.csv``; the page itself holds the data.

    What is larger than ``LARGE`` is compressed, as ``<name>.csv.gz``, which pandas and R read as it is.
    """
    content, file, kind = frame.to_csv(index=False).encode(), f"{name}.csv", "text/csv"
    if len(content) > LARGE:
        content, file, kind = gzip.compress(content, mtime=0), f"{file}.gz", "application/gzip"
    held = base64.b64encode(content).decode()
    link = f'<a class="livt-download" download="{file}" href="data:{kind};base64,{held}">'
    return f'<p class="livt-download">{link}Download {file}</a> ({len(frame)} rows)</p>'


def sortable(
    name: str,
    caption: str,
    columns: Mapping[str, tuple[str, bool]],
    rows: Sequence[Mapping[str, str]],
    sorted_by: str,
) -> str:
    """Return an HTML table whose columns the reader sorts; without scripts the rows stay as they come.

    columns: (label, is a number) by key; the rows, of HTML by key, come sorted by ``sorted_by``, largest first. A row
    may say "mark": "paper" is set in bold, "book" in italics; and "sort KEY": what sorts that cell.
    """
    layout = {True: "text-align: right", False: "text-align: left; white-space: normal"}
    sides = {key: f'style="{layout[is_number]}"' for key, (_, is_number) in columns.items()}
    head, body = "", ""
    for key, (label, is_number) in columns.items():
        order = ' aria-sort="descending"' if key == sorted_by else ""
        kind = "number" if is_number else "text"
        head += f'<th scope="col" data-kind="{kind}" {sides[key]}{order}>{escape(label)}</th>'
    for row in rows:
        style = {"paper": "font-weight: bold", "book": "font-style: italic"}.get(row.get("mark", ""), "")
        body += f'<tr style="{style}">'
        for key, side in sides.items():
            by = f' data-sort="{escape(row[f"sort {key}"])}"' if f"sort {key}" in row else ""
            body += f"<td {side}{by}>{row.get(key, '')}</td>"
        body += "</tr>\n"
    return (
        f'<div class="livt-table" role="region" aria-label="{escape(caption)}" tabindex="0">\n'
        f'<table class="table dataframe livt-measured livt-sortable" id="{name}">\n'
        f'<caption style="caption-side: top; color: inherit; text-align: left">{escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>"
    )


def tabs(panels: Mapping[str, str]) -> str:
    """Return pieces of HTML, by title, as tabs that need no script; in print all stand below each other. One has none.

    >>> tabs({"digits": "<p>1</p>"})
    '<p>1</p>'
    """
    if len(panels) == 1:
        return next(iter(panels.values()))
    group = f"tabs-{hashlib.sha256(''.join(panels.values()).encode()).hexdigest()[:10]}"
    parts = []
    for number, (title, content) in enumerate(panels.items()):
        name, checked = f"{group}-{number}", " checked" if number == 0 else ""
        parts.append(
            f'<input type="radio" name="{group}" id="{name}"{checked}><label for="{name}">{escape(title)}</label>'
            f'<div class="livt-tab"><p class="livt-tab-title">{escape(title)}</p>{content}</div>'
        )
    return f'<div class="livt-tabs">{"".join(parts)}</div>'


def folded(summary: str, content: str) -> str:
    """Return HTML that is shown when its summary is clicked."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def change(measured: pd.DataFrame, weights: Mapping[str, float], metric: str = "accuracy", *, digits: int = 1) -> str:
    """Return the mean of a difference with its sign, and its 95 % interval in parentheses, as from ``number``.

    The interval is left out where fewer than two seeds were measured.
    """
    mean = number(measured, weights, metric, show="mean", digits=digits, signed=True)
    interval = number(measured, weights, metric, show="interval", digits=digits, signed=True)
    return mean if plain(interval) == "-" else f"{mean} ({interval})"


def text_change(values: Sequence[float] | pd.Series) -> str:
    """Return the mean of differences and its 95 % interval as plain text, as ``change`` does of what records have.

    >>> text_change([1.0, 1.0, 1.0])
    '+1.0 (+1.0 to +1.0)'
    """
    mean, interval = text(values, "mean", signed=True), text(values, "interval", signed=True)
    return mean if interval == "-" else f"{mean} ({interval})"
