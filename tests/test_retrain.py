"""A run trained again: equal to the bit, or told how it differs; the proof is kept, and the book accepts it."""

import json
import shutil

import pytest
from finished import finished
from safetensors.torch import load_file, save_file

from livt import __main__ as cli
from livt.config import with_overrides
from livt.lab import stages
from livt.lab.files import dump_json, sha256
from livt.lab.find import mixed_code
from livt.lab.promoted import promote, read_promoted
from livt.lab.recipes import smoke
from livt.lab.runs import RunStore
from livt.lab.stages import STAGES, train

SCRATCH = with_overrides(smoke(), {"pretrain": None, "finetune.loss": "ce"})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store with three runs: the smoke recipe's two, and one from scratch."""
    store = RunStore(tmp_path_factory.mktemp("runs"))
    for stage, recipe in (("pretrain", smoke()), ("finetune", smoke()), ("finetune", SCRATCH)):
        train(stage, recipe, store, progress=False)
    return store


@pytest.fixture
def store(trained, tmp_path, monkeypatch) -> RunStore:
    """A copy of the store to prove things in, with a folder of promoted records beside it."""
    monkeypatch.setenv("LIVT_RESULTS", str(tmp_path / "results"))
    return RunStore(shutil.copytree(trained.root, tmp_path / "runs"))


def run_of(recipe, store, stage="finetune"):
    return stages.run_id(stage, recipe, store)


def verify(capsys, store, *arguments):
    status = cli.main(["runs", "verify", "--runs", str(store.root), "--device", "cpu", *arguments])
    return status, *capsys.readouterr()


def seal(folder, result):
    """Seal a run's files as they are now, as somebody would who knows how."""
    files = {
        name: sha256((folder / name).read_bytes())
        for name in json.loads((folder / "result.json").read_bytes())["files"]
    }
    sealed = {"result": result, "files": files}
    (folder / "result.json").write_bytes(dump_json({**sealed, "sha256": sha256(dump_json(sealed))}))


def test_an_equal_run_is_said_to_be_and_keeps_the_proof(store, capsys, tmp_path):
    run_id = run_of(SCRATCH, store)
    promote(store, run_id, tmp_path / "results")
    before = store.load(run_id)
    status, out, _ = verify(capsys, store, "--retrain", run_id[:14])
    assert (status, out) == (0, f"{run_id}: trained again, equal to the bit\n")
    (proof,) = json.loads((store.root / run_id / "proofs.json").read_bytes())
    assert (proof["equal"], proof["code"]) == (True, STAGES["finetune"].code(SCRATCH))
    assert proof["torch"] == before.environment["packages"]["torch"]
    assert {"commit", "dirty", "device", "date"} <= proof.keys()
    after = store.load(run_id)
    assert (after.proofs, after.result) == ((proof,), before.result)
    kept = read_promoted(tmp_path / "results")[run_id]
    assert (kept.proofs, kept.result, kept.environment) == ((proof,), before.result, before.environment)
    assert verify(capsys, store, run_id)[:2] == (0, f"{run_id}: sound\n")


def test_a_proof_joins_the_codes_of_old_and_new_runs(store, capsys):
    """What the proof is for: an old run and a new one in one table."""
    run_id = run_of(SCRATCH, store)
    folder = store.root / run_id
    about = json.loads((folder / "environment.json").read_bytes()) | {"code": "0" * 12}
    (folder / "environment.json").write_bytes(dump_json(about))
    seal(folder, json.loads((folder / "result.json").read_bytes())["result"])
    other = with_overrides(SCRATCH, {"seed": 1})
    new = finished(other, store, code=STAGES["finetune"].code(other))
    assert mixed_code([store.load(run_id), new], []) != ""
    status, out, _ = verify(capsys, store, "--retrain", run_id)
    assert (status, out) == (0, f"{run_id}: trained again, equal to the bit\n"), "what made it is not what is compared"
    assert mixed_code([store.load(run_id), new], []) == ""


def test_both_stages_are_trained_again_with_what_they_start_from(store, capsys, tmp_path):
    ids = [run_of(smoke(), store, stage) for stage in ("pretrain", "finetune")]
    status, out, _ = verify(capsys, store, "--retrain", *ids)
    assert (status, out) == (0, "".join(f"{run_id}: trained again, equal to the bit\n" for run_id in ids))
    assert [len(store.load(run_id).proofs) for run_id in ids] == [1, 1]
    assert sorted(store.ids()) == sorted([*ids, run_of(SCRATCH, store)]), "the store has no run more"


def test_a_promoted_record_needs_no_store(store, capsys, tmp_path):
    run_id = run_of(SCRATCH, store)
    promote(store, run_id, tmp_path / "results")
    empty = RunStore(tmp_path / "empty")
    for times in (1, 2):
        status, out, _ = verify(capsys, empty, "--retrain", run_id)
        assert (status, out) == (0, f"{run_id}: trained again, equal to the bit\n")
        assert len(read_promoted(tmp_path / "results")[run_id].proofs) == times
    assert not empty.root.exists()


def test_a_forged_result_is_told_with_numbers(store, capsys, tmp_path):
    """Every checksum fits, and so would the book's own checks; only training again shows it."""
    run_id = run_of(SCRATCH, store)
    promote(store, run_id, tmp_path / "results")
    folder, honest = store.root / run_id, store.load(run_id)
    rows = [*honest.metrics[:-1], honest.metrics[-1] | {"accuracy": 99.5}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
    seal(folder, honest.result | {"accuracy": 99.5})
    assert verify(capsys, store, run_id)[:2] == (0, f"{run_id}: sound\n")
    status, out, _ = verify(capsys, store, "--retrain", run_id)
    numbers = f"accuracy 99.5000, now {honest.result['accuracy']:.4f}"
    made = "made with the same device, PyTorch and training code"
    assert (status, out) == (1, f"{run_id}: trained again, and metrics, result differ: {numbers}; {made}\n")
    assert [proof["equal"] for proof in store.load(run_id).proofs] == [False]
    assert read_promoted(tmp_path / "results")[run_id].proofs == (), "that record is of the honest result"


def test_forged_weights_are_told(store, capsys):
    run_id = run_of(SCRATCH, store)
    path = store.weights(run_id)
    weights = load_file(path)
    weights["head.bias"][0] += 1e-6
    save_file(weights, path, metadata={"format": "pt"})
    seal(store.root / run_id, store_result(store, run_id))
    status, out, _ = verify(capsys, store, "--retrain", run_id)
    assert status == 1
    assert out.startswith(f"{run_id}: trained again, and weights differ: accuracy ")


def store_result(store, run_id):
    return json.loads((store.root / run_id / "result.json").read_bytes())["result"]


def test_what_made_the_runs_differ_is_named(store, capsys):
    run_id = run_of(SCRATCH, store)
    folder = store.root / run_id
    about = json.loads((folder / "environment.json").read_bytes())
    about |= {"code": "0" * 12, "device": "an abacus", "packages": about["packages"] | {"torch": "0.1"}}
    (folder / "environment.json").write_bytes(dump_json(about))
    seal(folder, store_result(store, run_id) | {"share_to_95": 0.0})
    status, out, _ = verify(capsys, store, "--retrain", run_id)
    assert status == 1
    assert "made with device an abacus, now " in out
    assert "; torch 0.1, now " in out
    assert f"; training code {'0' * 12}, now {STAGES['finetune'].code(SCRATCH)}\n" in out


def test_a_run_whose_images_have_changed_is_refused_before_training(store, capsys, monkeypatch):
    record = finished(with_overrides(SCRATCH, {"seed": 1}), store)  # of a data digest that no images have
    monkeypatch.setattr(stages, "train", None)  # calling it would fail
    status, out, err = verify(capsys, store, "--retrain", record.id)
    assert (status, out) == (2, "")
    changed = "cannot be trained again: its images, or what its settings mean, have changed"
    assert err == f"livt: error: {record.id} {changed}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no single finished run 'nothing' in {root} or {results}: it fits none"),
        (["finetune"], "no single finished run 'finetune' in {root} or {results}: it fits finetune-"),
        ([], "--retrain trains runs again, which takes as long as before: name those to train"),
    ],
    ids=["unknown", "ambiguous", "unnamed"],
)
def test_a_run_that_is_not_named_is_one_line_before_work(store, capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(stages, "train", None)  # calling it would fail
    status, out, err = verify(capsys, store, "--retrain", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"livt: error: {message.format(root=store.root, results=tmp_path / 'results')}")
    assert err.count("\n") == 1
