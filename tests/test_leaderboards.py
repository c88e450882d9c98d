"""The leaderboards as rows to sort: those of the paper, and those of this book's runs."""

from types import SimpleNamespace

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from livt.companion import report
from livt.companion.leaderboards import COLUMNS, TITLES, leaderboard, leaderboard_rows, our_rows, sorted_rows
from livt.lab.suites import SUITES


def panel(accuracies, suite="paper"):
    """A stand-in for a chapter's panel: Bal-BCE with a run per seed, and CE that is better and must not be shown."""
    rows = [
        {"arm": arm, "seed": seed, "accuracy": value + (arm == "ce"), "part": "", "run": f"{arm}-{seed}"}
        for arm in ("ce", "bal_bce")
        for seed, value in enumerate(accuracies)
    ]
    return SimpleNamespace(suite=SUITES[suite], measured=pd.DataFrame(rows))


@pytest.mark.parametrize("key", TITLES)
def test_livt_is_marked_and_rows_come_best_first(key):
    board = leaderboard(key)
    assert board.accuracy.is_monotonic_decreasing
    assert set(board[board.ours].resolution) == {224, 384}
    assert set(board[board.ours].year) == {2023}
    rows = leaderboard_rows(board)
    assert [row["mark"] for row in rows].count("paper") == 2
    assert all("this paper" in row["method"] for row in rows if row["mark"])


def test_a_row_of_this_book_is_the_mean_of_bal_bce_and_stands_at_its_place():
    data = SUITES["paper"].main.data
    (row,) = our_rows([panel([60.0, 61.0, 62.0]), panel([99.0], "digits")], data.name, {"accuracy": "accuracy"})
    assert report.plain(row["accuracy"]) == "61.0 ± 1.0"
    assert "n = 3" in row["method"]
    assert our_rows([panel([60.0])], "inat18", {"accuracy": "accuracy"}) == []
    rows = sorted_rows([*leaderboard_rows(leaderboard("imagenet_lt")), row, {"accuracy": "not run"}], "accuracy")
    means = [float(r.get("sort accuracy") or r["accuracy"]) for r in rows[:-1]]
    assert means == sorted(means, reverse=True)
    assert rows[-1] == {"accuracy": "not run"}


def test_a_sortable_table_says_what_sorts_a_cell():
    rows = [{"method": "<b>A</b>", "accuracy": "61.0 ± 1.0", "sort accuracy": "61.04", "mark": "book"}, {"method": "B"}]
    page = BeautifulSoup(report.sortable("some", "A & B", COLUMNS, rows, "accuracy"), "html.parser")
    assert page.caption.get_text() == "A & B"
    heads = {head.get_text(): head for head in page.select("th")}
    assert heads["all"]["aria-sort"] == "descending"
    assert [head["data-kind"] for head in heads.values()] == ["text", "number", "number", "number", "number"]
    cells = page.select("tbody tr")[0].select("td")
    assert cells[1]["data-sort"] == "61.04"
    assert cells[0].b.get_text() == "A", "cells are HTML"
    assert page.select("tbody tr")[1].select("td")[1].get_text() == ""
