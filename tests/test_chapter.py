"""Which suites a page shows beside the one it trains: those with something to compare."""

import pytest
from finished import finished

from livt.companion.chapter import Chapter, open_chapter
from livt.config import Recipe, with_overrides
from livt.lab.suites import SUITES

LOSSES = ("ce", "bal_ce", "bce", "bal_bce")


@pytest.fixture
def page(tmp_path, monkeypatch) -> Chapter:
    """A page of suite smoke on an empty store, without promoted records."""
    monkeypatch.setenv("LIVT_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("LIVT_RUNS", str(tmp_path / "runs"))
    return open_chapter({"suite": "smoke"})


def train(page: Chapter, recipe: Recipe, *losses: str) -> None:
    for loss in losses:
        finished(with_overrides(recipe, {"finetune.loss": loss}), page.store)


def shown(page: Chapter, *names: str) -> dict[str, int]:
    return {panel.name: len(panel.records) for panel in page.panels(*names)}


def test_nothing_is_shown_where_there_are_no_runs(page):
    assert shown(page, "loss_ablation") == {}


def test_the_losses_of_another_suite_are_shown_once_each_has_a_run(page):
    train(page, SUITES["smoke"].main, "ce")
    train(page, SUITES["digits"].main, *LOSSES[:3])
    assert shown(page, "loss_ablation") == {"smoke": 1}
    train(page, SUITES["digits"].main, LOSSES[3])
    assert shown(page, "loss_ablation") == {"smoke": 1, "digits": 4}


def test_one_arm_of_another_suite_compares_nothing(page):
    """A run that two experiments share shows the other experiment nowhere."""
    train(page, SUITES["digits"].sweep, "bal_bce")
    assert shown(page, "ablations") == shown(page, "equal_compute") == {}
    train(page, SUITES["digits"].sweep, "ce")
    assert shown(page, "equal_compute") == {"digits": 2}
    assert shown(page, "loss_ablation", "equal_compute") == {"digits": 2}, "as arms of the other experiment"
