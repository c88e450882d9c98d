"""What the long tail costs a recipe, against loops over the records and against numbers written out."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from livt.companion.drops import accuracies, budget, change_by_group, drop_of, settings_of
from livt.config import with_overrides
from livt.lab import experiments

ARMS = experiments.arms("recipes_lt_vs_balanced", "digits")


def test_a_drop_is_balanced_minus_long_tailed(panel_of):
    measured = panel_of("recipes_lt_vs_balanced").measured
    means = measured.groupby("arm").accuracy.mean()
    shown = [BeautifulSoup(cell, "html.parser").get_text() for cell in accuracies(measured, "mae")]
    expected = [means["mae/balanced"], means["mae/lt"], means["mae/balanced"] - means["mae/lt"]]
    assert [float(text.partition(" ")[0]) for text in shown] == pytest.approx(expected, abs=0.051)
    assert drop_of("vit", -1) == {"vit/balanced": -1, "vit/lt": 1}


def test_changes_are_those_of_the_classes_of_each_group():
    counts = [300, 200, 50, 3]
    after, before = [90.0, 80.0, 40.0, None], [95.0, 95.0, 90.0, 80.0]
    runs = {"x/lt": ("a", counts, after), "x/balanced": ("b", [100] * 4, before), "y/lt": ("c", counts, after)}
    records = [SimpleNamespace(id=i, result={"class_counts": n, "per_class": p}) for i, n, p in runs.values()]
    measured = pd.DataFrame({"arm": list(runs), "seed": 5, "run": [i for i, _, _ in runs.values()]})
    found = change_by_group(SimpleNamespace(measured=measured, records=records)).set_index("group")
    assert set(found.recipe) == {"x"}, "the other has no balanced run"
    assert found.change.drop("few").to_dict() == {"many": -10.0, "medium": -50.0}
    assert np.isnan(found.change["few"])
    assert found.classes.to_dict() == {"many": 2, "medium": 1, "few": 1}


def test_settings_say_how_long_and_how_fast():
    recipe = ARMS["mae/lt"]
    settings = settings_of(recipe)
    assert settings["pretraining"] == f"{recipe.pretrain.epochs} epochs"
    assert settings["epochs with labels"] == recipe.finetune.epochs
    assert float(settings["peak rate"]) == pytest.approx(recipe.finetune.lr, rel=1e-5)
    assert settings_of(ARMS["vit/lt"])["pretraining"] == "none"
    assert not {"base lr", "tau", "epochs", "start"} & set(settings)


def test_the_budget_has_a_row_for_each_length_of_training_with_ce(panel_of):
    panel = panel_of("equal_compute", "loss_ablation")
    rows = rows_of(panel)
    ce = {arm: recipe for arm, recipe in panel.arms.items() if recipe.finetune.loss == "ce"}
    assert len(rows) == len({(r.pretrain and r.pretrain.epochs, r.finetune.epochs) for r in ce.values()})
    means = panel.measured[panel.measured.arm.isin(list(ce))].groupby("arm").accuracy.mean()
    shown = [float(row.select("td")[0].get_text().partition(" ")[0]) for row in rows]
    assert sorted(shown) == pytest.approx(sorted(means), abs=0.051)


def test_the_budget_leaves_out_another_network(panel_of):
    """As where the loss ablation has a larger one than the sweeps."""
    panel = panel_of("equal_compute", "loss_ablation")
    assert panel.suite.sweep.model == panel.suite.main.model
    larger = {arm: with_overrides(recipe, {"model.size": "micro"}) for arm, recipe in panel.arms.items() if arm == "ce"}
    (row,) = {row.get_text() for row in rows_of(panel)} - {
        row.get_text() for row in rows_of(replace(panel, arms=panel.arms | larger))
    }
    assert f"{panel.suite.main.finetune.epochs}" in row


def rows_of(panel):
    return BeautifulSoup(budget(panel), "html.parser").select("tbody tr")
