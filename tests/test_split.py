"""The split of the gain of Bal-BCE: which runs it is made of, and that its steps add up."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup

from livt.companion.anatomy import STAGES, STEPS, logits_of, parts_of, removed, split_of, steps
from livt.companion.anatomy_tables import by_metric, by_start, said, split_column, split_tab, verdict
from livt.companion.published import published


@pytest.fixture(scope="module")
def split(panel_of):
    return split_of(panel_of("anatomy", "loss_ablation", "controls", "model_size"))


def mean(split, weights, metric="accuracy"):
    means = split.measured.groupby("arm")[metric].mean()
    return sum(weight * means[arm] for arm, weight in weights.items())


def test_a_sweep_is_split_at_each_length_and_size(split):
    assert split.where == "pico/15"
    assert split.lengths == {"8 epochs": "pico/8", "15 epochs": "pico/15", "30 epochs": "pico/30"}
    assert split.sizes == {"ViT femto": "femto/15", "ViT pico": "pico/15", "ViT micro": "micro/15"}


def test_the_main_recipe_and_its_controls_are_split_where_there_is_no_sweep(panel_of):
    split = split_of(panel_of("loss_ablation", "controls"))
    assert split.where == "pico/30"
    assert list(split.lengths.values()) == list(split.sizes.values()) == ["pico/30"]


def test_without_a_control_there_is_no_split(panel_of):
    split = split_of(panel_of("loss_ablation"))
    assert not split.lengths
    assert not split.sizes


@pytest.mark.parametrize("loss", STAGES)
def test_the_steps_add_up_to_the_total(split, loss):
    for where in split.lengths.values():
        parts = steps(where, loss)
        total = parts.pop("total gain")
        assert sum(mean(split, w) for w in parts.values()) == pytest.approx(mean(split, total))
        assert mean(split, total) > 5, "the gain is there to be split"


def test_the_parts_are_means_of_the_records(split):
    parts = parts_of(split, {"all": "accuracy", "few": "few"})
    for start, strengths in parts.items():
        for tau, part in (("0", ""), ("1", "posthoc")):
            results = [
                run.result[part] if part else run.result
                for run in split.panel.records
                if (run.recipe.finetune.loss, run.recipe.finetune.start) == ("bce", start)
                and (run.recipe.model.size, run.recipe.finetune.epochs) == ("pico", 15)
            ]
            assert len(results) == 3
            assert strengths[tau]["few"] == pytest.approx(sum(result["few"] for result in results) / 3)
            assert strengths[tau]["all"] == pytest.approx(sum(result["accuracy"] for result in results) / 3)


def test_a_group_without_classes_has_no_part(split):
    other = replace(split)  # with a frame of its own
    other.measured["few"] = math.nan
    assert parts_of(other, {"few": "few"})["prior"]["1"] == {"few": None}


def test_further_strengths_are_means_over_seeds(split):
    rows = pd.DataFrame({"tau": [0.5, 0.5, 2.0], "seed": [0, 1, 0], "accuracy": [10.0, 20.0, 5.0]})
    parts = parts_of(split, {"all": "accuracy"}, dict.fromkeys(("zero", "uniform", "prior"), rows))
    assert list(parts["zero"]) == ["0", "1", "0.5", "2"]
    assert (parts["zero"]["0.5"], parts["zero"]["2"]) == ({"all": 15.0}, {"all": 5.0})


def test_logits_of_an_arm_are_those_of_its_runs(split, monkeypatch):
    def stored(record, store, device):
        assert store is split.panel.store
        return torch.full((2, 2), float(record.recipe.seed)), torch.tensor([0, 1])

    monkeypatch.setattr("livt.companion.anatomy.stored_logits", stored)
    found = logits_of(split, "bce, prior start")
    assert sorted(found) == [0, 1, 2]
    assert all(z.dtype == torch.float64 and (z == seed).all() for seed, (z, _) in found.items())


def test_a_bias_is_removed_at_each_strength():
    z, labels = torch.tensor([[3.0, 0.0], [3.0, 1.0], [3.0, 2.0], [0.0, 1.0]]), torch.tensor([0, 1, 1, 1])
    found = removed({7: (z, labels)}, torch.tensor([2.0, 0.0]), (0, 1.0, 2.0), [200, 5], ["accuracy", "few"])
    assert found.values.tolist() == [[0, 7, 50, 100 / 3], [1, 7, 75, 200 / 3], [2, 7, 75, 100]]


def test_a_difference_is_called_by_its_sign(split):
    gain = steps(split.where, "bce")["total gain"]
    assert said(split, gain).endswith("<strong>a gain</strong>")
    loss = {arm: -weight for arm, weight in gain.items()}
    assert said(split, loss, ("down", "flat", "up")).endswith("<strong>down</strong>")
    nothing = {f"{split.where}/bce, zero start": 1, f"{split.where}/bce, zero start, removed": -1}
    assert said(split, nothing).endswith("<strong>inconclusive</strong>"), "neither arm has left chance"


def numbers(html):
    """Return the words of each row of a table, without marks."""
    return [
        [cell.get_text() for cell in row.select("th, td")] for row in BeautifulSoup(html, "html.parser").select("tr")
    ]


def test_steps_stand_beside_the_papers_total(split):
    rows = {row[-3]: row[-2:] for row in numbers(by_metric(split, {"all": "accuracy", "few": "few"}, ["ViT-Base"]))[1:]}
    table = published("table5_loss_by_model_size").query("model == 'ViT-Base'").set_index("loss")
    for metric, shown in zip(("accuracy", "few"), rows["total, paper, ViT-Base"], strict=True):
        gain = table[metric]["Bal-CE"] - table[metric]["CE"]  # the last rows are CE's
        assert float(shown) == pytest.approx(gain, abs=0.05)
    step = steps(split.where, "ce")["removal at test"]
    assert float(rows["removal at test"][0].split(" ")[0]) == pytest.approx(mean(split, step), abs=0.05)


def test_each_start_is_shown_as_it_is_and_with_the_bias_removed(split):
    rows = numbers(by_start(split, {"all": "accuracy"}))[1:]
    first = [row[-2].split(" ")[0] for row in rows]
    arms = ["zero start", "zero start, removed", "uniform start", "uniform start, removed", "prior start"]
    for arm, shown in zip(arms, first, strict=False):
        assert float(shown) == pytest.approx(mean(split, {f"{split.where}/bce, {arm}": 1}), abs=0.05)
    assert len(rows) == 6 + 1 + 4 + 1
    assert first[6] == first[5], "trained directly, or by start and removal"


def test_the_figure_says_the_steps_of_each_column(split):
    html = split_tab(split, split.lengths, ("bce", "ce"))
    gains = BeautifulSoup(html, "html.parser").figcaption.get_text().rpartition("in points: ")[2]
    assert [part.split(" epochs")[0] for part in gains.split("; ")] == ["8", "15", "30"]
    last = [float(number) for number in gains.rstrip(".").rpartition("30 epochs ")[2].split(", ")]
    assert sum(last) == pytest.approx(mean(split, steps("pico/30", "bce")["total gain"]), abs=0.16)


def test_the_verdict_names_every_step_and_both_controls(split):
    lines = [line.get_text() for line in BeautifulSoup(verdict(split), "html.parser").select("p")]
    assert [line.partition(":")[0].partition(",")[0] for line in lines] == [
        "From BCE to Bal-BCE",
        "From CE to Bal-CE",
        "The steps that both families have",
        "Both controls with the bias subtracted at test",
    ]
    for loss, line in zip(STAGES, lines, strict=False):
        assert all(step in line for step in STEPS[loss])


def test_the_identity_holds_in_float32_where_both_were_trained(split):
    for column in (split_column(split, where, ("bce",)) for where in ("pico/15", "femto/15")):
        assert ">0.00 ±" in column["BCE", "Bal-BCE as trained, minus that"].replace("+", "").replace("-0.00", "0.00")
    assert ">-<" in split_column(split, "pico/8", ("bce",))["BCE", "Bal-BCE as trained, minus that"]
