"""From recipes to records without images or training, and runs of different training code told apart."""

import json
from dataclasses import replace

import pytest
from finished import finished

from livt.config import with_overrides
from livt.lab import find as finding
from livt.lab.experiments import arms
from livt.lab.failures import RunError
from livt.lab.find import find, mixed_code, starts, tell_of_other_code
from livt.lab.promoted import promote
from livt.lab.recipes import smoke
from livt.lab.runs import RunStore
from livt.lab.stages import STAGES

PROOF = {"device": "a CPU", "torch": "2.8", "date": "2026-01-01"}
CE, BCE, BAL_BCE = (with_overrides(smoke(), {"finetune.loss": loss}) for loss in ("ce", "bce", "bal_bce"))


@pytest.fixture
def store(tmp_path, monkeypatch) -> RunStore:
    """An empty store, and an empty folder of promoted records; no images can be loaded and nothing can be trained."""

    def refuse(*_, **__):
        raise AssertionError("finding loads no images and trains nothing")

    for name in ("livt.data.sets.load_dataset", "livt.lab.stages.load_dataset", "livt.lab.stages.train"):
        monkeypatch.setattr(name, refuse)
    monkeypatch.setenv("LIVT_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(finding, "_told", False)
    return RunStore(tmp_path / "runs")


@pytest.fixture
def elsewhere(tmp_path) -> RunStore:
    """Another store, from which records are promoted."""
    return RunStore(tmp_path / "elsewhere")


# ---------------------------------------------------------------- finding


def test_the_store_comes_first_then_the_promoted_records_else_nothing(store, elsewhere, tmp_path):
    both = finished(CE, store, score=61.0)
    for recipe, score in ((CE, 51.0), (BCE, 52.0)):
        promote(elsewhere, finished(recipe, elsewhere, score=score).id, tmp_path / "results")
    found = find([BAL_BCE, BCE, CE], store)
    assert list(found) == [BCE, CE], "in the order of the recipes, without what is missing"
    assert (found[CE], found[CE].result["accuracy"]) == (both, 61.0)
    assert found[BCE].result["accuracy"] == 52.0
    assert list(find([CE, BCE], store)) == [CE, BCE]


def test_without_a_store_the_promoted_records_are_found(store, elsewhere, tmp_path):
    assert find([CE], store) == {}
    record = finished(CE, elsewhere)
    promote(elsewhere, record.id, tmp_path / "results")
    assert find([CE], store) == {CE: record}
    assert not store.root.exists()


def test_a_stage_is_found_by_what_decides_it(store):
    record = finished(CE, store, stage="pretrain")
    assert find([CE, BCE], store, "pretrain") == {CE: record, BCE: record}, "they share it"
    assert find([with_overrides(CE, {"seed": 1})], store, "pretrain") == {}
    assert find([CE], store) == {}, "the result of the recipe is its last stage"


def test_a_recipe_without_the_stage_is_refused(store):
    with pytest.raises(ValueError, match="this recipe has no stage 'pretrain'"):
        find([with_overrides(CE, {"pretrain": None})], store, "pretrain")


def test_unfinished_runs_are_missing(store):
    with store.open(CE.stage("finetune"), "0" * 16):
        pass
    assert find([CE], store) == {}


def test_runs_of_one_recipe_and_different_images_are_refused_by_name(store):
    runs = sorted(finished(CE, store, data=digit * 16).id for digit in "12")
    other = finished(BCE, store)
    assert find([BCE], store) == {BCE: other}, "they are in nobody's way who does not ask for them"
    with pytest.raises(RunError) as error:
        find([BCE, CE], store)
    named = f"{runs[0]} and {runs[1]} in {store.root} are of one recipe and different images: keep one of them"
    assert str(error.value) == named


def test_a_damaged_run_is_an_error_not_a_gap(store, elsewhere, tmp_path):
    record = finished(CE, store)
    promote(elsewhere, finished(CE, elsewhere).id, tmp_path / "results")
    path = store.root / record.id / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b"{}\n")
    with pytest.raises(RunError, match="metrics.jsonl does not match its checksum"):
        find([CE], store)


def test_the_runs_that_others_start_from_come_once(store, elsewhere, tmp_path):
    here, there = finished(CE, store, stage="pretrain"), finished(replace(CE, seed=1), elsewhere, stage="pretrain")
    promote(elsewhere, there.id, tmp_path / "results")
    record = finished(CE, elsewhere)
    tuned = [
        replace(record, id=f"finetune-{number}", result={"accuracy": 1.0, "pretrain_run": source})
        for number, source in enumerate((here.id, there.id, here.id, None, "pretrain-gone"))
    ]
    assert starts(tuned, store) == [here, there]


# ---------------------------------------------------------------- one code in one table


def proven(record, *codes, equal=True):
    return replace(
        record,
        proofs=tuple(
            {"code": code, "equal": equal, "device": "a CPU", "torch": "2.8", "date": "2026-01-01"} for code in codes
        ),
    )


def test_runs_of_one_code_may_stand_in_one_table(store):
    assert mixed_code([], []) == ""
    assert mixed_code([finished(recipe, store, code="a" * 12) for recipe in (CE, BCE)], []) == ""


def test_runs_of_two_codes_are_named_with_what_to_do(store):
    old, new = finished(CE, store, code="a" * 12), finished(BCE, store, code="b" * 12)
    said = mixed_code([old, new], [])
    assert said.startswith("runs of different training code stand in one table (")
    assert f"{'a' * 12}: 1 runs such as {old.id}" in said
    assert f"{'b' * 12}: 1 runs such as {new.id}" in said
    assert "runs verify --retrain" in said
    assert "\n" not in said


def test_a_student_with_a_teacher_has_other_modules_than_one_without():
    """Promoted records of DeiT-LT: the code of a student counts the loss of its teacher, where it has one."""
    students = [run for run in find(arms("deit_lt", "digits").values(), None).values() if run.stage == "distill"]
    assert len({run.code for run in students}) == 2
    assert mixed_code(students, []) == ""
    taught = next(run for run in students if "teacher" in run.config)
    other = replace(taught, environment=taught.environment | {"code": "b" * 12})
    assert mixed_code([*students, other], []) != ""


def test_a_run_of_before_codes_were_recorded_has_that_of_its_commit(store):
    record = finished(CE, store)
    at = {"commit": "0123456789abcdef", "dirty": False}
    before = [replace(record, environment=record.environment | at), finished(BCE, store, code="b" * 12)]
    assert before[0].code == "commit 0123456789"
    assert "commit 0123456789: 1 runs" in mixed_code(before, [])


def test_a_proof_makes_two_codes_one_for_its_stage_and_loss(store):
    old, new = finished(CE, store, code="a" * 12), finished(replace(CE, seed=1), store, code="b" * 12)
    assert mixed_code([old, new], []) != ""
    assert mixed_code([proven(old, "b" * 12), new], []) == ""
    another = proven(finished(replace(CE, seed=2), store, code="a" * 12), "b" * 12)
    assert mixed_code([old, new], [another]) == "", "a record that is known but not shown"
    of_another_loss = proven(finished(BCE, store, code="a" * 12), "b" * 12)
    assert mixed_code([old, new], [of_another_loss]) != ""
    of_another_stage = proven(finished(CE, store, stage="pretrain", code="a" * 12), "b" * 12)
    assert mixed_code([old, new], [of_another_stage]) != ""
    assert mixed_code([proven(old, "b" * 12, equal=False), new], []) != "", "it was shown to differ"
    assert mixed_code([proven(old, "c" * 12), new], []) != ""


def test_proofs_are_joined(store):
    """a was equal to b, and b to c: then a and c are one."""
    first, last = finished(CE, store, code="a" * 12), finished(replace(CE, seed=1), store, code="c" * 12)
    between = [proven(finished(replace(CE, seed=2), store, code="b" * 12), "c" * 12)]
    assert mixed_code([proven(first, "b" * 12), last], between) == ""
    assert mixed_code([last, proven(first, "b" * 12)], between) == ""


def test_a_table_of_several_losses_needs_a_proof_of_each(store):
    runs = [finished(recipe, store, code="a" * 12) for recipe in (CE, BCE)]
    runs += [finished(replace(recipe, seed=1), store, code="b" * 12) for recipe in (CE, BCE)]
    assert mixed_code([proven(runs[0], "b" * 12), *runs[1:]], []) != ""
    assert mixed_code([proven(runs[0], "b" * 12), proven(runs[1], "b" * 12), *runs[2:]], []) == ""


# ---------------------------------------------------------------- telling the user


def test_other_code_is_told_once_by_name_with_what_to_do(store, capsys):
    record = finished(CE, store, code="0" * 12)
    tell_of_other_code([CE, BCE], store)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"livt: note: in {store.root}, training code that has changed since made {record.id}: ")
    assert "`python -m livt runs verify --retrain RUN`" in said
    assert "to train a run anew, delete its folder" in said
    tell_of_other_code([CE, BCE], store)
    assert capsys.readouterr().err == ""


def test_many_runs_are_counted(store, capsys):
    recipes = [replace(CE, seed=seed) for seed in range(5)]
    named = [finished(recipe, store, code="0" * 12).id for recipe in recipes]
    tell_of_other_code(recipes, store)
    assert f"made {', '.join(named[:3])} and 2 more: " in capsys.readouterr().err


def test_both_stages_of_a_recipe_are_looked_at(store, capsys):
    record = finished(CE, store, stage="pretrain", code="0" * 12)
    tell_of_other_code([CE], store)
    assert record.id in capsys.readouterr().err


def test_the_present_code_and_what_is_proven_equal_to_it_go_without_a_word(store, elsewhere, tmp_path, capsys):
    present = STAGES["finetune"].code(CE)
    finished(CE, store, code=present)
    record = finished(replace(CE, seed=1), store, code="0" * 12)
    (store.root / record.id / "proofs.json").write_text(json.dumps([PROOF | {"code": present, "equal": True}]))
    promoted = finished(replace(CE, seed=2), elsewhere, code="0" * 12)
    promote(elsewhere, promoted.id, tmp_path / "results")
    tell_of_other_code([replace(CE, seed=seed) for seed in range(4)], store)
    assert capsys.readouterr().err == "", "a promoted record is what the book shows, not what this store has trained"


def test_a_proof_that_it_differs_is_no_excuse(store, capsys):
    record = finished(CE, store, code="0" * 12)
    proof = json.dumps([PROOF | {"code": STAGES["finetune"].code(CE), "equal": False}])
    (store.root / record.id / "proofs.json").write_text(proof)
    tell_of_other_code([CE], store)
    assert record.id in capsys.readouterr().err
