"""The published leaderboards as frames, and their rows, with those of this book, as HTML."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from livt.companion import report
from livt.companion.chapter import Panel
from livt.companion.methods import PRINTED
from livt.companion.published import LOSS_NAMES, published
from livt.lab.leaderboard import NAMES
from livt.longtail import GROUPS

TITLES = {"imagenet_lt": "ImageNet-LT", "inat18": "iNaturalist 2018", "places_lt": "Places-LT"}
TABLES = {"imagenet_lt": "table2_imagenet_lt", "inat18": "table3_inat18", "places_lt": "table4_places_lt"}
SCORES = ("accuracy", *GROUPS)
COLUMNS = {"method": ("method", False), "accuracy": ("all", True), **{group: (group, True) for group in GROUPS}}
ABOUT = {"venue": ("venue", False), "backbone": ("backbone", False), "resolution": ("px", True)}


def leaderboard(key: str) -> pd.DataFrame:
    """Return a published table, best first: ``ours`` marks LiVT, ``extra data`` says what else a method trained on."""
    table = published(TABLES[key]).sort_values("accuracy", ascending=False, kind="stable").reset_index(drop=True)
    table["ours"] = table.method == "LiVT"
    table["method"] = table.method.str.replace(" -", "-")
    table["venue"] = table.venue.fillna("CVPR 23")
    table["year"] = 2000 + table.venue.str[-2:].astype(int)
    table["extra data"] = table.backbone.str.extract(r"\((.+) pretrained\)", expand=False).fillna("none")
    table["backbone"] = table.backbone.str.replace(r" \(.*| from.*", "", regex=True)
    return table


def published_gains() -> pd.DataFrame:
    """Return what methods of this book's own leaderboard gained over CE by the published tables, in points.

    Columns: data, method, network, gain, equal (whether CE has the same network there). The data are those of Tables 2
    to 4, at 224 px, and CIFAR-100-LT.
    """
    boards = pd.concat([leaderboard(key).assign(data=name) for key, name in TITLES.items()])
    boards = boards.assign(method=boards.method.map(PRINTED | {"CE": "ce"}))
    small = published("cifar100_lt_rivals").assign(data="CIFAR-100-LT", backbone="ResNet-32")
    rows = pd.concat([boards, small[small.method.isin(NAMES)]], ignore_index=True).dropna(subset="method")
    ce = rows[rows.method == "ce"].set_index("data")
    rows["gain"] = rows.accuracy - rows.data.map(ce.accuracy)
    rows["equal"] = rows.backbone == rows.data.map(ce.backbone)
    found = rows[rows.method != "ce"].rename(columns={"backbone": "network"})
    return found[["data", "method", "network", "gain", "equal"]].reset_index(drop=True)


def leaderboard_rows(board: pd.DataFrame) -> list[dict[str, str]]:
    """Return the rows of a leaderboard as ``report.sortable`` takes them."""
    rows = []
    for row in board.to_dict("records"):
        cells = {score: "-" if np.isnan(row[score]) else f"{row[score]:.1f}" for score in SCORES}
        cells |= {name: escape(str(row[name])) for name in (*ABOUT, "extra data")}
        cells |= {"sort venue": f"{row['year']} {row['venue']}", "mark": "paper" if row["ours"] else ""}
        rows.append(cells | {"method": escape(row["method"]) + (" (this paper)" if row["ours"] else "")})
    return rows


def our_rows(
    panels: Sequence[Panel], dataset: str, scores: Mapping[str, str], factor: float | None = None
) -> list[dict[str, str]]:
    """Return a row for each panel of a data set: mean ± standard deviation of Bal-BCE, as HTML that names its runs.

    scores: the metric by its column. factor: the imbalance factor of the data set, None for any.
    """
    rows = []
    for panel in panels:
        data, model = panel.suite.main.data, panel.suite.main.model
        measured = panel.measured[panel.measured.arm == "bal_bce"]
        if data.name != dataset or factor not in (None, data.imbalance_factor) or measured.empty:
            continue
        row: dict[str, Any] = {
            "mark": "book",
            "method": f"this book: {LOSS_NAMES['bal_bce']}, n = {len(measured)}",
            "backbone": f"ViT-{model.size}/{model.patch_size}",
            "resolution": str(data.size[1]),
        }
        for column, metric in scores.items():
            row |= {
                column: report.number(measured, "bal_bce", metric),
                f"sort {column}": f"{measured[metric].mean():.6f}",
            }
        rows.append(row)
    return rows


def sorted_rows(rows: Sequence[Mapping[str, str]], score: str) -> list[Mapping[str, str]]:
    """Return rows by a score, best first; those without a number come last."""

    def key(row: Mapping[str, str]) -> float:
        try:
            return -float(row.get(f"sort {score}") or row.get(score, ""))
        except ValueError:
            return np.inf

    return sorted(rows, key=key)
