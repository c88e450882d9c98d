"""A measured number leads to its runs: a button opens a box with the value of each arm and seed, by mouse or key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from livt.companion.report import number, table
from livt.lab.results import COLUMNS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

STATIC = Path(__file__).parents[2] / "book" / "_static"
SCRIPT, STYLE = ((STATIC / f"provenance.{kind}").read_text() for kind in ("js", "css"))
ARMS = ("bal_bce", "bce")
IDS = {(arm, seed): f"finetune-{i:012x}" for i, (arm, seed) in enumerate((a, s) for a in ARMS for s in range(3))}
ACCURACY = {"bal_bce": [94.81, 95.0, 96.25], "bce": [19.3, 20.0, 21.25]}
HOSTILE = "<img src=x onerror='window.attacked = 1'>"


def rows_of(**changed: object) -> pd.DataFrame:
    rows = [
        dict.fromkeys(COLUMNS, 1.0)
        | {"arm": arm, "seed": seed, "accuracy": ACCURACY[arm][seed], "part": "", "run": run}
        for (arm, seed), run in IDS.items()
    ]
    return pd.DataFrame([row | changed for row in rows], columns=COLUMNS)


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    measured = rows_of()
    difference = number(measured, {"bal_bce": 1, "bce": -1}, "accuracy", signed=True)
    cells = table(pd.DataFrame({"run": [IDS["bce", 0]], "accuracy": [number(measured, "bce", "accuracy")]}))
    hostile = number(rows_of(arm=HOSTILE, run=f"x'{HOSTILE}").iloc[:1], HOSTILE, "accuracy", show="mean")
    empty = number(measured.iloc[:0], "bce", "accuracy")
    path = tmp_path / "page.html"
    path.write_text(
        f'<html lang="en" data-content_root="../"><meta charset="utf-8"><style>{STYLE}</style>'
        f"<p id='sentence'>The gain is {difference} points.</p><div style='overflow: auto; width: 8rem'>{cells}</div>"
        f"<p id='narrow' style='width: 0'>of {difference} ({difference}), {difference}.</p>"
        f"<table class='livt-measured'><tr><td>cluster-{'0' * 12}</td></tr></table>"
        f"<p id='hostile'>{hostile}</p><p id='empty'>{empty}</p><script>{SCRIPT}</script></html>"
    )
    page = browser.new_page()
    page.goto(path.as_uri())
    yield page
    page.close()


def box_of(page: Page) -> Locator:
    return page.locator(".livt-runs:popover-open")


def test_a_number_becomes_a_button_that_keeps_what_it_shows(page: Page) -> None:
    button = page.locator("#sentence button")
    assert button.inner_text() == "+75.2 ± 0.3"
    assert button.get_attribute("aria-expanded") == "false"
    terms = json.loads(button.get_attribute("data-terms") or "")
    assert terms[1] == [-1, "accuracy", [IDS["bce", seed] for seed in range(3)]]
    assert page.locator("span[data-terms]").count() == 0


def test_a_click_shows_arms_and_values_of_each_seed(page: Page) -> None:
    assert box_of(page).count() == 0
    page.locator("#sentence button").click()
    box = box_of(page)
    heading = "+75.2 ± 0.3: accuracy, Bal-BCE − BCE, mean ± standard deviation over seeds 0 to 2."
    assert box.locator("p").first.inner_text() == heading
    assert box.locator("li").all_inner_texts() == [
        "Bal-BCE 94.81 − BCE 19.30 = 75.51, seed 0",
        "Bal-BCE 95.00 − BCE 20.00 = 75.00, seed 1",
        "Bal-BCE 96.25 − BCE 21.25 = 75.00, seed 2",
    ]
    targets = [link.get_attribute("href") for link in box.locator("a").all()]
    assert targets == [f"../notebooks/runs.html#{IDS[arm, seed]}" for seed in range(3) for arm in ARMS]


def test_one_arm_is_no_sum_and_no_runs_are_said(page: Page) -> None:
    page.locator(".livt-measured button").click()
    assert box_of(page).locator("li").all_inner_texts() == [
        f"BCE {value:.2f}, seed {seed}" for seed, value in enumerate(ACCURACY["bce"])
    ]
    page.keyboard.press("Escape")
    page.locator("#empty button").click()
    assert box_of(page).inner_text().strip() == "-: accuracy, BCE: no runs."


def test_the_keyboard_opens_reads_and_closes(page: Page) -> None:
    button = page.locator("#sentence button")
    page.keyboard.press("Tab")
    assert button.evaluate("(element) => element === document.activeElement")
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    assert page.evaluate("document.activeElement.href").endswith(f"runs.html#{IDS['bal_bce', 0]}")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.href").endswith(f"runs.html#{IDS['bce', 0]}")
    page.keyboard.press("Escape")
    assert box_of(page).count() == 0
    assert button.get_attribute("aria-expanded") == "false"
    assert button.evaluate("(element) => element === document.activeElement")


def test_a_click_elsewhere_or_on_the_number_closes(page: Page) -> None:
    button = page.locator("#sentence button")
    button.click()
    box_of(page).locator("p").first.click()
    assert box_of(page).count() == 1, "a click into the box keeps it"
    page.locator("#sentence").click(position={"x": 2, "y": 2})
    assert box_of(page).count() == 0
    button.click()
    button.click()
    assert box_of(page).count() == 0
    assert button.get_attribute("aria-expanded") == "false"
    button.click()
    assert box_of(page).count() == 1


def test_the_box_lies_in_the_window_whatever_cuts_the_table(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 600})
    for button in page.locator("button.livt-number").all():
        button.click()
        at = box_of(page).bounding_box()
        assert at is not None
        assert at["x"] >= 0
        assert at["x"] + at["width"] <= 390
        page.keyboard.press("Escape")


def test_text_of_a_record_is_never_markup(page: Page) -> None:
    page.locator("#hostile button").click()
    assert HOSTILE in box_of(page).inner_text()
    assert page.locator("img").count() == 0
    assert page.evaluate("window.attacked") is None


def test_a_run_of_any_stage_in_a_table_is_a_link(page: Page) -> None:
    assert page.locator(".livt-measured td a").all_inner_texts() == [IDS["bce", 0], f"cluster-{'0' * 12}"]


def test_what_touches_a_number_stays_on_its_line(page: Page) -> None:
    whole = "+75.2 ± 0.3"
    assert page.locator("#narrow").inner_text() == f"of {whole} ({whole}), {whole}."
    assert page.locator("#narrow .livt-whole").all_inner_texts() == [f"({whole}),", f"{whole}."]
    tops = page.locator("#narrow").evaluate(
        "p => [...p.querySelectorAll('button')].map((b) => b.getBoundingClientRect().top)"
    )
    assert len(set(tops)) == 3, "a line of this narrow paragraph holds one number"
    pieces = page.locator("#narrow .livt-whole").evaluate_all("all => all.map((one) => one.getClientRects().length)")
    assert pieces == [1, 1]
