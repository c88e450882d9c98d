"""Arms by model size: parameters against the formula of a ViT, marks and differences against their definitions."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from livt.companion import plots
from livt.companion.chapter import Panel
from livt.companion.plots.model_size import Sizes, groups_by_size
from livt.companion.sizes import PAPER_SIZES, beside_the_paper, difference, paper_by_size, parameters_of, unlearned
from livt.config import MODEL_SIZES
from livt.lab import experiments
from livt.lab.find import find
from livt.lab.runs import RunStore


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    """Return the sweep of sizes on digit pairs, whose records are promoted."""
    arms = experiments.arms("model_size", "digits")
    wanted = [replace(recipe, seed=seed) for recipe in arms.values() for seed in (0, 1, 2)]
    store = RunStore(tmp_path_factory.mktemp("runs"))
    return Panel("digits", arms, tuple(find(wanted, store).values()), store)


def test_parameters_are_those_of_a_vit(panel):
    recipe = next(iter(panel.arms.values()))
    (height, width), p, classes = recipe.data.size, recipe.model.patch_size, len(panel.class_counts)
    tokens = (height // p) * (width // p) + 1
    found = parameters_of(panel)
    assert list(found) == list(panel.suite.sizes)
    for size, count in found.items():
        d, depth, _ = MODEL_SIZES[size]
        block = 12 * d * d + 13 * d  # attention 4 d^2 + 4 d, MLP 8 d^2 + 5 d, two norms 4 d
        assert count == (3 * p * p + 1) * d + d + tokens * d + depth * block + 2 * d + (d + 1) * classes


def test_an_arm_is_unlearned_up_to_five_times_chance():
    measured = pd.DataFrame({"arm": ["a", "a", "b", "b"], "accuracy": [4.0, 6.0, 5.0, 5.2]})
    assert unlearned(SimpleNamespace(measured=measured, chance=1.0)) == ["a"]


def test_the_paper_stands_below_what_was_measured(panel):
    sizes = panel.suite.sizes
    frame = beside_the_paper(panel, "accuracy", sizes)
    assert frame.index.tolist() == [
        *(("measured, 3 seeds", size) for size in sizes),
        *(("paper, 1 seed", size) for size in PAPER_SIZES),
    ]
    assert frame.loc[("paper, 1 seed", "Base"), "Bal-BCE"] == "60.9"
    assert paper_by_size()["size"].unique().tolist() == list(PAPER_SIZES)
    low = unlearned(panel)
    for size in sizes:
        assert ("†" in frame.loc[("measured, 3 seeds", size), "BCE"]) == (f"{size}/bce" in low)
    assert "†" not in "".join(beside_the_paper(panel, "few", sizes).stack())


def test_a_difference_is_marked_where_an_arm_is_low(panel):
    weights = {"pico/bal_bce": 1, "pico/bce": -1}
    plain, marked = (difference(panel.measured, weights, "accuracy", low) for low in ((), ["pico/bce"]))
    means = panel.measured.groupby("arm").accuracy.mean()
    assert f">{means['pico/bal_bce'] - means['pico/bce']:+.1f}</span><br>(" in plain
    assert marked.replace(" †", "") == plain != marked


def test_with_few_classes_ten_points_above_chance_are_enough(panel_of):
    panel = panel_of("model_size")
    few = SimpleNamespace(measured=panel.measured.assign(accuracy=47.0), chance=10.0)
    assert unlearned(few) == [], "five times chance would be 50 %"
    assert unlearned(SimpleNamespace(measured=panel.measured.assign(accuracy=20.0), chance=10.0))


def test_a_group_without_a_class_is_no_accuracy_of_zero(panel_of):
    rows = panel_of("loss_ablation").measured.assign(size="pico")
    figures = [
        plots.loss_ablation({"none": rows.assign(few=np.nan), "some": rows}),
        groups_by_size({"none": Sizes(frame=rows.assign(few=np.nan), parameters={"pico": 3e4})}, ["many", "few"]),
    ]
    notes = [[text.get_text() for text in axis.texts] for figure in figures for axis in figure.axes]
    assert notes == [["no class"], [], [], ["no such class"]]
