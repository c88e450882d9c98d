"""The split of the gain of Bal-BCE: which runs it is made of, and that its steps add up."""

import math
from dataclasses import replace

import pytest

from livt.companion.anatomy import STAGES, parts_of, split_of, steps
from livt.companion.anatomy_tables import said, split_column
from livt.companion.chapter import Panel
from livt.lab import experiments
from livt.lab.find import find
from livt.lab.runs import RunStore


@pytest.fixture(scope="module")
def panel_of(tmp_path_factory):
    """Return the panel of experiments on digit pairs, whose records are promoted."""

    def panel_of(*names):
        arms = {arm: recipe for name in names for arm, recipe in experiments.arms(name, "digits").items()}
        wanted = [replace(recipe, seed=seed) for recipe in arms.values() for seed in (0, 1, 2)]
        store = RunStore(tmp_path_factory.mktemp("runs"))
        return Panel("digits", arms, tuple(find(dict.fromkeys(wanted), store).values()), store)

    return panel_of


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


def test_a_difference_is_called_by_its_sign(split):
    gain = steps(split.where, "bce")["total gain"]
    assert said(split, gain).endswith("<strong>a gain</strong>")
    loss = {arm: -weight for arm, weight in gain.items()}
    assert said(split, loss, ("down", "flat", "up")).endswith("<strong>down</strong>")
    nothing = {f"{split.where}/bce, zero start": 1, f"{split.where}/bce, zero start, removed": -1}
    assert said(split, nothing).endswith("<strong>inconclusive</strong>"), "neither arm has left chance"


def test_the_identity_holds_in_float32_where_both_were_trained(split):
    for column in (split_column(split, where, ("bce",)) for where in ("pico/15", "femto/15")):
        assert ">0.00 ±" in column["BCE", "Bal-BCE as trained, minus that"].replace("+", "").replace("-0.00", "0.00")
    assert ">-<" in split_column(split, "pico/8", ("bce",))["BCE", "Bal-BCE as trained, minus that"]
