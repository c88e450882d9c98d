"""Records whose every text is an attack: the book's tables show it as text, and run nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from livt.companion import frames, provenance
from livt.companion.chapter import Panel
from livt.lab.experiments import arms
from livt.lab.find import find, starts
from livt.lab.runs import RunStore
from livt.lab.suites import SUITES

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser

ATTACK = "</td><script>window.attacked = 1</script><img src=x onerror='window.attacked = 2'>\"'><svg onload=attacked=3>"


def hostile(value: Any) -> Any:
    """Return a value with each text in it replaced."""
    if isinstance(value, dict):
        return {key: hostile(each) for key, each in value.items()}
    return ATTACK if isinstance(value, str) else value


def test_text_of_records_is_shown_and_not_run(browser: Browser, tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    recipes = arms("loss_ablation", "digits")
    known = find(recipes.values(), store)  # the promoted records
    proof = {"code": ATTACK, "commit": ATTACK, "hardware": ATTACK, "equal": True}
    records = [replace(run, environment=hostile(run.environment), proofs=(proof,)) for run in known.values()]
    assert len(records) == len(recipes)
    panel = Panel("digits", recipes, tuple(records), store)
    made = [*starts(list(known.values()), store), *records]
    frame = provenance.runs_frame(made, {"loss_ablation": recipes}, SUITES["digits"].main)
    shown = [
        frames.sources([panel]),
        provenance.runs_table(made, frame, {run.id: "1.0" for run in made}),
    ]
    page = browser.new_page()
    page.set_content(f"<html><body>{''.join(shown)}</body></html>")
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    page.wait_for_timeout(200)
    text = page.locator("body").inner_text()
    assert text.count("window.attacked = 1") >= len(records), "it is shown as what it is"
    assert not page.locator("img[src=x], svg[onload], td script").count()
    assert page.evaluate("window.attacked") is None
    assert not re.search(r"<script>window\.attacked", "".join(shown))
    page.close()
