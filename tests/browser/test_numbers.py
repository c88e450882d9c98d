"""A measured number leads to its runs: a click lists them, with links to the page of the runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from livt.companion.report import number, table
from livt.lab.experiments import COLUMNS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

STATIC = Path(__file__).parents[2] / "book" / "_static"
SCRIPT, STYLE = ((STATIC / f"provenance.{kind}").read_text() for kind in ("js", "css"))
IDS = {(arm, seed): f"finetune-{i:012x}" for i, (arm, seed) in enumerate((a, s) for a in "ab" for s in range(2))}


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    rows = [
        dict.fromkeys(COLUMNS, 1.0) | {"arm": arm, "seed": seed, "accuracy": 50.0 + seed, "part": "", "run": run}
        for (arm, seed), run in IDS.items()
    ]
    measured = pd.DataFrame(rows, columns=COLUMNS)
    difference = number(measured, {"a": 1, "b": -1}, "accuracy", signed=True)
    cells = table(pd.DataFrame({"run": [IDS["a", 0]], "accuracy": [number(measured, "a", "accuracy")]}))
    path = tmp_path / "page.html"
    path.write_text(
        f'<html lang="en" data-content_root="../"><meta charset="utf-8"><style>{STYLE}</style>'
        f"<p id='sentence'>The gain is {difference} points.</p>{cells}<script>{SCRIPT}</script></html>"
    )
    page = browser.new_page()
    page.goto(path.as_uri())
    yield page
    page.close()


def test_a_click_on_a_number_lists_its_runs(page: Page) -> None:
    assert page.locator(".livt-runs").count() == 0
    page.locator("#sentence [data-terms]").click()
    box = page.locator(".livt-runs")
    assert "+0.0 ± 0.0 is accuracy − accuracy" in box.inner_text()
    terms = json.loads(page.locator("#sentence [data-terms]").get_attribute("data-terms") or "")
    wanted = [run for _, _, ids in terms for run in ids]
    assert box.locator("a").all_inner_texts() == wanted == list(IDS.values())
    targets = [link.get_attribute("href") for link in box.locator("a").all()]
    assert targets == [f"../notebooks/runs.html#{run}" for run in wanted]


def test_the_list_closes(page: Page) -> None:
    number_ = page.locator("#sentence [data-terms]")
    number_.click()
    page.keyboard.press("Escape")
    assert page.locator(".livt-runs").count() == 0
    number_.click()
    page.locator(".livt-runs").click()
    assert page.locator(".livt-runs").count() == 1, "a click into the list keeps it"
    page.locator("#sentence").click(position={"x": 2, "y": 2})
    assert page.locator(".livt-runs").count() == 0


def test_a_run_in_a_table_is_a_link(page: Page) -> None:
    assert page.locator(".livt-measured td a").all_inner_texts() == [IDS["a", 0]]
