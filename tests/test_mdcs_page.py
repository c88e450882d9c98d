"""The chapter on MDCS: its arms, the verdict on D2, and how experts and seeds differ."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from livt.companion import disagreement, mdcs
from livt.companion.chapter import Panel
from livt.companion.claims import claims
from livt.companion.disagreement import EXPERTS, main_prediction, spread_of
from livt.companion.frames import ledger
from livt.config import with_overrides
from livt.lab.experiments import ON_DEMAND, arms, recipes
from livt.lab.failures import RunError
from livt.lab.runs import RunStore
from livt.lab.stages import train
from livt.lab.stored import stored_logits
from livt.lab.suites import SUITES
from livt.losses import loss_of

(D2,) = (claim for claim in claims() if claim.id == "D2")


# ---------------------------------------------------------------- the experiment and the claim


@pytest.mark.parametrize("suite", SUITES)
def test_the_arms_differ_by_what_is_switched_alone(suite):
    found = arms("mdcs", suite)
    base = found["mdcs/both"]
    assert not base.finetune.options, "it is the method with the options of its paper"
    assert base.data == SUITES[suite].main.data
    for name, recipe in found.items():
        assert with_overrides(recipe, {"finetune.options": {}}) == base, name
        loss_of(recipe.finetune)
    options = {name: loss_of(r.finetune).options | r.finetune.options for name, r in found.items()}
    for name, own in options.items():
        alike = own["lambda_many"] == own["lambda_medium"] == own["lambda_few"] == 1
        assert alike == (name.split(",")[0] in ("mdcs/neither", "mdcs/distillation"))
        assert (own["weight"] == 0) == (name in ("mdcs/neither", "mdcs/diversity"))
        assert (own["confident"] == 0) == name.endswith("every image")
    assert "mdcs" in ON_DEMAND
    assert len(recipes("mdcs", "digits")) == 30


def test_the_contrasts_are_the_effects_of_a_two_by_two():
    cells = {"neither": 50.0, "diversity": 52.0, "distillation": 55.0, "both": 64.0}
    rows = pd.DataFrame([{"arm": f"mdcs/{arm}", "seed": 0, "accuracy": value} for arm, value in cells.items()])
    assert [contrast.measured(rows).item() for contrast in D2.contrasts] == [7.0, 5.5, 8.5]
    for contrast in D2.contrasts:
        assert sum(contrast.weights.values()) == 0
        assert (contrast.floor, contrast.threshold) == (0.0, None)


# ---------------------------------------------------------------- bias and variance


def logits_for(votes, classes=3):
    """Return logits [S, N, 1, C] of an expert that decides for given classes [S, N]."""
    return 4.0 * np.eye(classes)[np.array(votes)][:, :, None]


def test_variance_is_who_leaves_the_majority_and_bias_where_it_is_wrong():
    votes = [[0, 1, 2, 2], [0, 1, 2, 1], [0, 0, 2, 1]]
    rows = spread_of(logits_for(votes).repeat(2, 2), np.array([0, 1, 0, 1]))
    assert [row["variance"] for row in rows] == [25.0, 0.0, 25.0]
    assert {row["bias"] for row in rows} == {25.0}
    assert {row["disagreement"] for row in rows} == {0.0}
    assert [row["expert_variance"] for row in rows] == [25.0, 0.0, 25.0], "both experts are the model"


def test_a_tie_goes_to_the_class_with_more_probability():
    logits = np.log([[[0.6, 0.4]], [[0.1, 0.9]]])
    assert main_prediction(logits).tolist() == [1]
    assert main_prediction(logits[::-1]).tolist() == [1]


def test_experts_disagree_by_pairs():
    logits = np.concatenate([logits_for([[0, 0, 1, 2]]), logits_for([[0, 1, 1, 0]]), logits_for([[0, 1, 1, 1]])], 2)
    for row in spread_of(logits.repeat(2, 0), np.zeros(4, int)):
        assert row["disagreement"] == pytest.approx(100 * (2 + 2 + 1) / 12)
        assert row["variance"] == row["expert_variance"] == 0


def test_one_seed_has_a_disagreement_and_no_variance():
    (row,) = spread_of(logits_for([[0, 1, 2]]).repeat(2, 2), np.zeros(3, int))
    assert row["disagreement"] == 0
    assert np.isnan([row[score] for score in ("variance", "bias", "expert_variance")]).all()


# ---------------------------------------------------------------- from runs to the page


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    """Two arms of the smoke suite from scratch, two seeds each."""
    store = RunStore(tmp_path_factory.mktemp("runs"))
    found = {
        n: with_overrides(arms("mdcs", "smoke")[n], {"pretrain": None, "model.size": "femto"})
        for n in ("mdcs/diversity", "mdcs/both")
    }
    records = [
        train("finetune", replace(recipe, seed=seed), store, progress=False)
        for recipe in found.values()
        for seed in (0, 1)
    ]
    return Panel("smoke", found, tuple(records), store)


def test_what_is_measured_is_what_the_runs_recorded(panel):
    table = disagreement.measured(panel)
    assert table.arm.tolist() == ["mdcs/diversity"] * 2 + ["mdcs/both"] * 2
    accuracy = panel.measured.set_index("run").accuracy
    np.testing.assert_allclose(table.set_index("run").accuracy, accuracy[table.run], atol=1e-9)
    logits, labels = disagreement.logits_of_experts(panel.records[0], panel.store)
    np.testing.assert_allclose(logits.mean(1), stored_logits(panel.records[0], panel.store)[0], atol=1e-5)
    assert logits.shape == (len(labels), len(EXPERTS), 10)
    assert table.disagreement.gt(0).all()


def test_a_kept_table_stands_for_its_runs_and_no_others(panel, tmp_path, monkeypatch):
    monkeypatch.setenv("LIVT_RESULTS", str(tmp_path))
    elsewhere = replace(panel, store=RunStore(tmp_path / "none"))
    assert disagreement.spread(elsewhere).empty
    assert mdcs.apart(elsewhere) == mdcs.NO_WEIGHTS
    path = disagreement.table_path("smoke")
    path.parent.mkdir()
    own = disagreement.spread(panel)
    own.to_csv(path, index=False)
    kept = disagreement.spread(elsewhere)
    pd.testing.assert_frame_equal(kept, own, check_exact=False, check_dtype=False)
    assert disagreement.spread(replace(elsewhere, records=panel.records[:3])).empty
    own.assign(accuracy=1.0).to_csv(path, index=False)
    with pytest.raises(RunError, match="has other accuracies than the records"):
        disagreement.spread(elsewhere)


def test_the_command_keeps_the_table_or_says_whose_weights_it_lacks(panel, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIVT_RESULTS", str(tmp_path))
    monkeypatch.setattr(disagreement, "RunStore", lambda: panel.store)
    with pytest.raises(SystemExit):
        disagreement.main(["--suite", "smoke"])
    assert "lacks the weights of every run of mdcs" in capsys.readouterr().err
    monkeypatch.setattr(disagreement.experiments, "recipes", lambda name, suite: [r.recipe for r in panel.records])
    monkeypatch.setattr(disagreement.experiments, "arms", lambda name, suite: panel.arms)
    disagreement.main(["--suite", "smoke"])
    assert "mdcs_smoke.csv: 4 runs" in capsys.readouterr().out
    assert not disagreement.spread(replace(panel, store=RunStore(tmp_path / "none"))).empty


def test_the_page_shows_what_there_is(panel):
    assert mdcs.each([], mdcs.verdict) == mdcs.figure([]) == mdcs.NOT_RUN
    assert "not all of the four cells have runs" in mdcs.verdict(panel)
    table = mdcs.accuracies(panel)
    assert table.count("data-terms") == 10
    alike = replace(panel, arms={name: arms("mdcs", "smoke")["mdcs/neither"] for name in panel.arms})
    assert mdcs.experts_of(alike, "mdcs/both") == dict.fromkeys(EXPERTS, 1.0)
    shown = mdcs.apart(panel)
    for text in ("1, λ = -0.5", "2, λ = 1", "3, λ = 2.5", "+5.4", "experts disagree"):
        assert text in shown
    for html in (mdcs.figure([panel]), mdcs.drawing()):
        assert html.startswith('<figure class="livt-figure"><img')


@pytest.mark.parametrize(("sign", "ruling"), [(1, "direction holds"), (-1, "not reproduced")])
def test_the_verdict_follows_from_the_cells(sign, ruling):
    cells = {"neither": -10, "diversity": -8, "distillation": -5, "both": 4}
    rows = [
        {"arm": f"mdcs/{arm}", "seed": seed, "accuracy": 60 + sign * value + 0.1 * seed * (arm == "both")}
        for arm, value in cells.items()
        for seed in range(3)
    ]
    assert ledger({"mdcs": pd.DataFrame(rows).assign(part="", run="")}, (), chance=1)["D2"][0] == ruling
    assert ruling in mdcs.RULINGS
