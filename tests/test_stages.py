"""Stages by need: one more kind is an entry, and plans, ids, weights and records follow."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from livt import config
from livt.config import Recipe, TeacherConfig, with_overrides
from livt.lab import check, runs, stages
from livt.lab.failures import RunError
from livt.lab.find import find, starts
from livt.lab.plan import Plan
from livt.lab.recipes import smoke
from livt.lab.runs import RunStore
from livt.lab.stages import Stage, train
from livt.lab.train import plan, train_all


def taught(**changes) -> Recipe:
    """A recipe whose classifier learns from a teacher, which here starts from the same pretraining."""
    settings = smoke().finetune.to_dict() | {"loss": "ldam_drw", "size": "resnet8"}
    return replace(with_overrides(smoke(), changes), teacher=TeacherConfig.from_dict(settings))


@pytest.fixture
def calls(monkeypatch, tmp_path) -> Iterator[list[tuple[str, str, dict]]]:
    """Three kinds of stages whose loops train nothing; what each was called with: stage, loss, what it was given."""
    made = []

    def loop(recipe, data, run, *, device, progress, engine, **given):
        stage = run.config["stage"]
        made.append((stage, recipe.finetune.loss, given))
        settings, model = getattr(recipe, stage), torch.nn.Linear(1, 1)
        model.bias.data.fill_(len(made))
        score = "train_loss" if stage == "pretrain" else "accuracy"
        for epoch in run.epochs(settings.epochs, progress):
            row = {"epoch": epoch + 1, "lr": settings.lr, score: 1.0}
            run.save(model, torch.optim.SGD(model.parameters()), row)
        run.finish(model.state_dict(), {score: 1.0}, 1, device)

    needs = {"pretrain": (), "teacher": ("pretrain",), "finetune": ("pretrain", "teacher")}

    def untrained(recipe, classes):
        return torch.nn.Linear(1, 1)

    kinds = {
        "pretrain": Stage(train=loop, model=untrained, gives=lambda weights: {"handed over": weights["bias"]}),
        "teacher": Stage(train=loop, model=untrained, needs={"pretrain": "encoder"}),
        "finetune": Stage(train=loop, model=untrained, needs={"pretrain": "encoder", "teacher": "taught_by"}),
    }
    monkeypatch.setattr(runs, "check_values", lambda values: None)  # these loops make no real results
    monkeypatch.setattr(runs, "RUN_ID", re.compile(rf"({'|'.join(needs)})-[0-9a-f]{{12}}"))
    monkeypatch.setenv("LIVT_RESULTS", str(tmp_path / "promoted"))  # the book's are of other stages
    tables = ((config.STAGES, needs), (stages.STAGES, kinds))
    before = [dict(table) for table, _ in tables]
    for table, entries in tables:
        table.clear()
        table.update(entries)
    stages._untrained.cache_clear()  # models of the stages as they are elsewhere, and then of these
    yield made
    stages._untrained.cache_clear()
    for (table, _), entries in zip(tables, before, strict=True):  # monkeypatch would put them back in another order
        table.clear()
        table.update(entries)


def test_a_stage_that_another_needs_is_planned_before_it_and_once(calls, tmp_path):
    store = RunStore(tmp_path)
    found = plan([taught(), taught(**{"finetune.loss": "ce"})], store)
    kinds = [run_id.partition("-")[0] for run_id in found.stages]
    assert kinds == ["pretrain", "teacher", "finetune", "finetune"]
    mgp, teacher, one, other = found.stages
    assert found.needs == {mgp: set(), teacher: {mgp}, one: {mgp, teacher}, other: {mgp, teacher}}
    assert found.ready == [mgp]
    assert found.follows(mgp, {mgp}) == [teacher], "the others wait for the teacher too"
    assert found.follows(teacher, {mgp, teacher}) == [one, other]
    assert found.behind([teacher]) == {one, other}
    assert found.behind([mgp]) == {teacher, one, other}
    assert found.behind([one]) == set()
    assert calls == []


def test_stages_are_trained_in_order_with_the_weights_they_need(calls, tmp_path):
    store = RunStore(tmp_path)
    recipes = [taught(), taught(**{"finetune.loss": "ce"})]
    train_all(recipes, store, jobs=1, progress=False)
    assert [stage for stage, *_ in calls] == ["pretrain", "teacher", "finetune", "finetune"]
    given = [{name: sorted(weights) for name, weights in about.items()} for *_, about in calls]
    encoder, both = {"encoder": ["handed over"]}, {"encoder": ["handed over"], "taught_by": ["bias", "weight"]}
    assert given == [{}, encoder, both, both]
    assert [about["taught_by"]["bias"].item() for *_, about in calls[2:]] == [2.0, 2.0], "the teacher's, by its order"
    found = find(recipes, store)
    mgp, teacher = (find(recipes[:1], store, stage)[recipes[0]] for stage in ("pretrain", "teacher"))
    for record in found.values():
        assert (record.result["pretrain_run"], record.result["teacher_run"]) == (mgp.id, teacher.id)
    assert teacher.result["pretrain_run"] == mgp.id
    assert {record.id for record in starts(found.values(), store)} == {mgp.id, teacher.id}
    train_all(recipes, store, jobs=1, progress=False)
    assert len(calls) == 4, "nothing is trained twice"


def test_what_is_finished_is_not_waited_for(calls, tmp_path):
    store, recipe = RunStore(tmp_path), taught()
    for stage in ("pretrain", "teacher"):
        train(stage, recipe, store, progress=False)
    found = plan([recipe], store)
    assert found.ready == list(found.stages)
    assert [stage for stage, _ in found.stages.values()] == ["finetune"]


def test_a_stage_without_what_it_needs_names_it(calls, tmp_path):
    store = RunStore(tmp_path)
    train("pretrain", taught(), store, progress=False)
    with pytest.raises(RunError, match=r"the teacher run teacher-\w+ is not finished in .*: train this stage first"):
        train("finetune", taught(), store, progress=False)


def test_a_run_is_named_by_the_sections_it_starts_from_alone(calls):
    recipe, plain = taught(), smoke()
    assert {"pretrain", "teacher"} <= recipe.stage("teacher").keys()
    assert "finetune" not in recipe.stage("teacher")
    assert {"pretrain", "teacher", "finetune"} <= recipe.stage("finetune").keys()
    assert recipe.stage("pretrain") == plain.stage("pretrain")
    without = replace(recipe, teacher=None)
    assert without.stage("finetune") == plain.stage("finetune"), "who has no teacher keeps his name"
    assert (without.needs("finetune"), recipe.needs("finetune")) == (["pretrain"], ["pretrain", "teacher"])


def test_a_diamond_waits_for_both_sides():
    """The needs of runs as a plan has them, by hand: two runs start from one, and another from both."""
    needs = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c"), "e": ("b",)}
    found = Plan(
        {name: ("finetune", smoke()) for name in needs}, {name: frozenset(before) for name, before in needs.items()}
    )
    assert found.ready == ["a"]
    assert found.follows("a", {"a"}) == ["b", "c"]
    assert found.follows("b", {"a", "b"}) == ["e"]
    assert found.follows("c", {"a", "b", "c"}) == ["d"]
    assert found.behind(["b"]) == {"d", "e"}
    assert found.behind(["a"]) == {"b", "c", "d", "e"}
    assert found.behind(["c", "e"]) == {"d"}


def test_stages_come_once_and_behind_what_they_need(calls):
    assert taught().up_to("finetune") == ["pretrain", "teacher", "finetune"]
    assert taught().up_to("teacher") == ["pretrain", "teacher"]
    assert taught(pretrain=None).up_to("finetune") == ["teacher", "finetune"]


def test_the_recipe_of_a_stage_before_fine_tuning_follows_from_its_own_configuration(calls):
    for stage in ("pretrain", "teacher", "finetune"):
        assert check.recipe_of(stage, taught().stage(stage)).stage(stage) == taught().stage(stage)
