"""The section on more pixels: its numbers are the records', its costs those of the counted operations."""

import re
from dataclasses import replace

import pytest
from bs4 import BeautifulSoup

from livt.companion import resolution
from livt.companion.chapter import Panel
from livt.companion.report import plain
from livt.lab.experiments import arms
from livt.lab.find import find
from livt.lab.runs import RunStore

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def panel(tmp_path_factory) -> Panel:
    """Of promoted records alone."""
    store = RunStore(tmp_path_factory.mktemp("runs"))
    both = arms("resolution", "photos_tiny")
    wanted = [replace(recipe, seed=seed) for recipe in both.values() for seed in SEEDS]
    return Panel("photos_tiny", both, tuple(find(wanted, store).values()), store)


def test_each_number_is_the_records(panel):
    soup = BeautifulSoup(resolution.section([panel]), "html.parser")
    low, high, apart = zip(*(row.find_all("td") for row in soup.select("tbody tr")), strict=True)
    scores = {
        name: [run.result["accuracy"] for run in panel.records if run.recipe.data.size == size]
        for name, size in (("low", (32, 32)), ("high", (64, 64)))
    }
    assert [cells[0].text for cells in (low, high)] == ["16", "64"]
    for cells, found in ((low, scores["low"]), (high, scores["high"])):
        assert float(cells[2].text.split()[0]) == pytest.approx(sum(found) / len(SEEDS), abs=0.05)
    gain = sum(b - a for a, b in zip(scores["low"], scores["high"], strict=True)) / len(SEEDS)
    assert float(apart[2].text.split()[0]) == pytest.approx(gain, abs=0.05)


def test_four_times_the_patches_cost_more_than_four_times_in_fine_tuning_alone(panel):
    """Attention is quadratic in the patches, and the pretraining costs the same."""
    text = plain(resolution.shown(panel))
    tuning, both = map(
        float, re.search(r"takes ([\d.]+) times the operations, .* together ([\d.]+) times", text).groups()
    )
    assert 1 < both < tuning
    low, high = (panel.arms[arm] for arm in (resolution.LOW, resolution.HIGH))
    assert low.pretrain_data == high.pretrain_data
    width, depth, classes = 64, 4, len(panel.class_counts)
    expected = []
    for patches in (16, 64):
        tokens = patches + 1
        block = 12 * tokens * width**2 + 2 * tokens**2 * width  # multiplications: projections and MLP; attention
        forward = depth * block + patches * 3 * 8 * 8 * width + width * classes
        expected.append(2 * 3 * forward - 2 * patches * 3 * 8 * 8 * width)  # images need no gradient
    cells = BeautifulSoup(text, "html.parser").select("tbody tr")[1].find_all("td")
    shown = [float(cell.text) for cell in cells[:2]]
    assert shown == pytest.approx([flops / 1e6 for flops in expected], rel=0.02, abs=0.5)
    assert tuning == pytest.approx(expected[1] / expected[0], rel=0.02)


def test_one_resolution_is_no_comparison(panel):
    alone = Panel("photos_tiny", panel.arms, panel.records[: len(SEEDS)], panel.store)
    assert set(alone.measured.arm) == {resolution.LOW}
    assert resolution.section([alone]) == resolution.section([]) == resolution.NOT_RUN
