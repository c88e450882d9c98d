"""Tables that sort and filter in a real browser, by mouse and by keyboard, and that are whole without scripts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

STATIC = Path(__file__).parents[2] / "book" / "_static"
SCRIPTS = "".join(f"<script>{(STATIC / name).read_text()}</script>" for name in ("sortable.js", "runs.js"))
ROWS = [("beta", "9.5 ± 0.1", "x"), ("alpha", "-", "y"), ("delta", "-1.0", "z"), ("gamma", "10.2", "w")]
TABLE = (
    '<div><table class="livt-sortable" id="livt-all-runs"><thead><tr><th data-kind="text">name</th>'
    '<th data-kind="number" aria-sort="descending">score</th><th data-kind="none">curve</th></tr></thead><tbody>'
    + "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in ROWS)
    + f"</tbody></table></div>{SCRIPTS}"
)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    page.set_content(TABLE)
    yield page
    page.close()


def names(page: Page) -> list[str]:
    return page.evaluate(
        "() => [...document.querySelectorAll('tbody tr')].filter((r) => !r.hidden).map((r) => r.cells[0].innerText)"
    )


def head(page: Page, name: str):
    return page.get_by_role("columnheader", name=name)


def test_a_click_sorts_and_another_turns_the_order_round(page: Page) -> None:
    assert names(page) == [row[0] for row in ROWS]
    head(page, "name").get_by_role("button").click()
    assert names(page) == ["alpha", "beta", "delta", "gamma"]
    assert head(page, "name").get_attribute("aria-sort") == "ascending"
    assert head(page, "score").get_attribute("aria-sort") is None
    head(page, "name").get_by_role("button").click()
    assert names(page) == ["gamma", "delta", "beta", "alpha"]


def test_numbers_sort_as_numbers_with_missing_ones_last(page: Page) -> None:
    button = head(page, "score").get_by_role("button")
    button.click()
    assert names(page) == ["delta", "beta", "gamma", "alpha"]
    button.click()
    assert names(page) == ["gamma", "beta", "delta", "alpha"]
    assert head(page, "score").get_attribute("aria-sort") == "descending"


def test_the_keyboard_sorts(page: Page) -> None:
    page.locator("input").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert names(page)[0] == "alpha"
    page.keyboard.press("Space")
    assert names(page)[0] == "gamma"
    assert page.locator("thead button").count() == 2, "a column of curves has no order"


def test_the_field_keeps_rows_with_all_texts(page: Page) -> None:
    field = page.locator("input")
    field.fill("ta, 1")
    assert names(page) == ["beta", "delta"]
    assert page.get_by_role("status").inner_text() == "2 of 4 runs"
    head(page, "name").get_by_role("button").click()
    assert names(page) == ["beta", "delta"]
    field.fill("")
    assert len(names(page)) == len(ROWS)


def test_without_scripts_the_table_is_whole(browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_content(TABLE)
    assert page.locator("tbody tr:visible").count() == len(ROWS)
    assert page.locator("input, button").count() == 0
    context.close()
