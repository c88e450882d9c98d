import hashlib
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import livt
from livt.config import with_overrides
from livt.lab import runs
from livt.lab.failures import RunError
from livt.lab.files import dump_json, sha256, write_atomically
from livt.lab.promoted import check_record, promote, promoted_records, read_promoted
from livt.lab.recipes import smoke
from livt.lab.runs import OpenRun, RunStore
from livt.lab.stages import train

FILES = ("config.json", "metrics.jsonl", "environment.json", "weights.safetensors", "result.json")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    store = RunStore(tmp_path_factory.mktemp("runs"))
    record = train("pretrain", smoke(), store, progress=False)
    return store, record


@pytest.fixture
def damaged(trained, tmp_path):
    """A copy of the trained run to damage: (store, run id, its folder)."""
    store, record = trained
    target = tmp_path / record.id
    target.mkdir()
    for name in FILES:
        (target / name).write_bytes((store.root / record.id / name).read_bytes())
    return RunStore(tmp_path), record.id, target


def test_a_record_holds_configuration_metrics_result_and_environment(trained):
    store, record = trained
    assert sorted(p.name for p in (store.root / record.id).iterdir()) == sorted(FILES)
    assert [row["epoch"] for row in record.metrics] == [1, 2]
    assert record.config == smoke().stage("pretrain")
    about = record.environment
    assert (
        about["packages"]["torch"] == torch.__version__.split("+")[0] or about["packages"]["torch"] == torch.__version__
    )
    assert about["threads"] == 1
    assert about["wall_time_s"] > 0
    assert about["images_per_second"] > 0
    assert len(about["data_digest"]) == 16
    assert {"commit", "dirty", "device", "python", "finished"} <= set(about)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(damaged, name):
    store, run_id, folder = damaged
    (folder / name).unlink()
    with pytest.raises(RunError, match=f"{name} is missing"):
        store.load(run_id)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_named(damaged, name):
    store, run_id, folder = damaged
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(RunError, match=name) as error:
        store.load(run_id)
    assert "delete the folder" in str(error.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_truncated_file_is_named(damaged, name, kept):
    store, run_id, folder = damaged
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(RunError, match=name):
        store.load(run_id)


def test_a_run_under_another_name_is_refused(damaged):
    store, run_id, folder = damaged
    folder.rename(folder.with_name("pretrain-000000000000"))
    with pytest.raises(RunError, match="not the configuration of pretrain-000000000000"):
        store.load("pretrain-000000000000")
    assert not store.is_finished(run_id)


@pytest.fixture(scope="module")
def after_one_epoch(tmp_path_factory):
    """What is saved after the first of the two epochs of the trained run: the file's name and its content."""
    store = RunStore(tmp_path_factory.mktemp("interrupted"))
    save = OpenRun.save

    def save_and_stop(self, *arguments, **named):
        save(self, *arguments, **named)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OpenRun, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train("pretrain", smoke(), store, progress=False)
    (path,) = store.root.glob("*/resume.pt")
    return path.relative_to(store.root), path.read_bytes()


def sealed(state) -> bytes:
    """A state as a run saves it, with its checksum."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue()


def opened(content: bytes) -> dict:
    return torch.load(io.BytesIO(content[32:]), weights_only=True)


def without(name: str):
    return lambda content: sealed({key: value for key, value in opened(content).items() if key != name})


def having(**values):
    return lambda content: sealed(opened(content) | values)


OTHER = torch.nn.Linear(2, 2)
STATES = {
    "empty": (lambda content: b"", "is damaged"),
    "text": (lambda content: b"this is no state\n" * 9, "is damaged"),
    "one bit": (lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:], "is damaged"),
    "half": (lambda content: content[: len(content) // 2], "is damaged"),
    "a list": (lambda content: sealed([1, 2]), "is no saved state"),
    "without its model": (without("model"), "is no saved state"),
    "without its optimizer": (without("optimizer"), "is no saved state"),
    "a model that is none": (having(model=[1]), "is no saved state"),
    "another model": (having(model=OTHER.state_dict()), "is of another model"),
    "another optimizer": (
        having(optimizer=torch.optim.AdamW(OTHER.parameters()).state_dict()),
        "is of another optimizer",
    ),
    "epochs that are none": (having(metrics=[{"epoch": 2}]), "epoch 1 lacks lr"),
    "other code": (having(code="0" * 12), "was saved by other training code"),
}


@pytest.mark.parametrize(("change", "message"), STATES.values(), ids=STATES)
def test_a_state_that_cannot_be_resumed_is_set_aside_and_the_run_starts_again(
    trained, after_one_epoch, tmp_path, capsys, change, message
):
    (before, whole), (name, sound) = trained, after_one_epoch
    path, content = tmp_path / name, change(sound)
    path.parent.mkdir()
    path.write_bytes(content)
    store = RunStore(tmp_path)
    again = train("pretrain", smoke(), store, progress=False)
    (aside,) = path.parent.glob("*.pt")
    kept = f"it is kept as {aside.name}, and this run starts again from the beginning"
    assert capsys.readouterr().err == f"{path} {message}: {kept}\n"
    assert aside.read_bytes() == content
    assert (again.result, again.metrics) == (whole.result, whole.metrics)
    assert store.weights(again.id).read_bytes() == before.weights(whole.id).read_bytes()
    assert store.load(again.id) == again, "what was set aside is no part of the run"


def test_a_sound_state_is_resumed_without_a_word(trained, after_one_epoch, tmp_path, capsys):
    """So the states above, which differ from this one in one thing, are refused for that thing."""
    name, content = after_one_epoch
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_bytes(sealed(opened(content)))
    record = train("pretrain", smoke(), RunStore(tmp_path), progress=False)
    assert capsys.readouterr().err == ""
    assert (record.result, record.metrics) == (trained[1].result, trained[1].metrics)
    assert [path.name for path in (tmp_path / name).parent.glob("*.pt")] == []
    (tmp_path / "again" / name).parent.mkdir(parents=True)
    first = {"epoch": 1, "lr": 0.0, "train_loss": 7.0}
    (tmp_path / "again" / name).write_bytes(having(metrics=[first])(content))
    assert train("pretrain", smoke(), RunStore(tmp_path / "again"), progress=False).metrics[0] == first, "it is read"


def test_a_state_that_takes_long_to_save_is_saved_now_and_then_and_at_the_end(tmp_path, monkeypatch):
    """Every step of this clock is a second: an epoch takes 10, saving 3; so saving takes 5 % with a save each 60."""
    config = with_overrides(smoke(), {"pretrain.epochs": 20}).stage("pretrain")
    seconds = iter(range(10_000))
    monkeypatch.setattr(runs, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    with RunStore(tmp_path).open(config, "") as run:
        save = run._save_state

        def slow(*arguments):
            [next(seconds) for _ in range(2)]
            save(*arguments)

        monkeypatch.setattr(run, "_save_state", slow)
        saved = []
        for epoch in run.epochs(20, progress=False):
            [next(seconds) for _ in range(10)]
            run.save(model, optimizer, {"epoch": epoch + 1, "lr": 0.0, "train_loss": 1.0})
            saved.append(run.saved)
            assert RunStore(tmp_path).progress(run.id) == epoch + 1, "the rows are written after each epoch"
    assert saved == [1] * 6 + [7] * 6 + [13] * 6 + [19, 20]
    with RunStore(tmp_path).open(config, "") as run:
        run.restore(model, optimizer)
        assert [row["epoch"] for row in run.metrics] == list(range(1, 21))


def test_reading_resume_state_runs_no_code(tmp_path, capsys):
    """The state is read as weights only."""

    class RunsCode:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    store = RunStore(tmp_path)
    with store.open(smoke().stage("pretrain"), "data") as run:
        (run.path / "resume.pt").write_bytes(sealed({"model": RunsCode()}))
        model = torch.nn.Linear(1, 1)
        run.restore(model, torch.optim.SGD(model.parameters()))
    assert "resume.pt holds more than weights and numbers, and was not read: it is kept as" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_an_installed_copy_inside_another_checkout_claims_no_commit(tmp_path):
    package = tmp_path / "site-packages" / "livt"
    shutil.copytree(Path(livt.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    code = "from livt.lab.environment import git_state; print(git_state())"
    environment = os.environ | {"PYTHONPATH": str(package.parent)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert out.stdout.strip() == "{'commit': None, 'dirty': None}", out.stderr


def test_writing_leaves_the_old_content_or_the_new(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr(
        "livt.lab.files.os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_empty_groups_are_null_in_json_and_nothing_else_is():
    assert json.loads(dump_json({"few": float("nan"), "many": 1.5, "rows": [float("nan")]})) == {
        "few": None,
        "many": 1.5,
        "rows": [None],
    }
    with pytest.raises(ValueError, match="JSON compliant"):
        dump_json({"loss": float("inf")})


def test_two_processes_do_the_work_once(tmp_path):
    command = [sys.executable, "-m", "livt", "pretrain", "smoke", "--runs", str(tmp_path), "--quiet"]
    command += ["--set", "pretrain.epochs=20", "--device", "cpu"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert outputs[0][0] == outputs[1][0]
    waited = sum("waiting for it" in err for _, err in outputs)
    assert waited == 1, outputs


def _hold(root, started):
    with RunStore(root).open(smoke().stage("pretrain"), "data"):
        started.set()
        time.sleep(60)


def test_a_killed_process_releases_its_lock(tmp_path):
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, started))
    holder.start()
    assert started.wait(60)
    holder.kill()
    holder.join()
    with RunStore(tmp_path).open(smoke().stage("pretrain"), "data") as run:
        assert not run.finished


def test_runs_are_found_by_the_beginning_of_their_name(trained):
    store, record = trained
    assert store.ids() == [record.id]
    assert store.find(record.id[:12]) == record.id
    assert store.find(record.id.split("-")[1][:4]) == record.id
    with pytest.raises(RunError, match="no single run 'zzz' in .*: it fits none"):
        store.find("zzz")
    assert store.progress(record.id) == 2
    assert store.progress("pretrain-none") == 0
    with pytest.raises(RunError, match="there is no run pretrain-none"):
        store.load("pretrain-none")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_store_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with (
        pytest.raises(RunError, match="cannot write to the run store"),
        RunStore(tmp_path).open(smoke().stage("pretrain"), "data"),
    ):
        pass


def test_a_store_that_is_a_file_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    with (
        pytest.raises(RunError, match="cannot write to the run store"),
        RunStore(tmp_path / "runs").open(smoke().stage("pretrain"), "data"),
    ):
        pass


def test_the_store_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LIVT_RUNS", str(tmp_path))
    assert RunStore().root == tmp_path
    monkeypatch.delenv("LIVT_RUNS")
    assert str(RunStore().root) == "runs"


# ---------------------------------------------------------------- promotion


def test_a_promoted_record_reads_back(trained, tmp_path):
    store, record = trained
    path = promote(store, record.id, tmp_path / "results")
    assert path.name == f"{record.id}.json"
    assert path.stat().st_size < 20_000
    assert read_promoted(tmp_path / "results") == {record.id: record}
    assert read_promoted(tmp_path / "none") == {}


def test_an_edited_or_renamed_record_is_refused(trained, tmp_path):
    store, record = trained
    path = promote(store, record.id, tmp_path)
    content = path.read_bytes()
    values = json.loads(content)
    values["environment"]["threads"] = 64
    path.write_bytes(dump_json(values))
    with pytest.raises(RunError, match="was changed after its promotion: promote the run again"):
        read_promoted(tmp_path)
    line = b' "sha256": "' + b"0" * 64 + b'",\n'  # as that of the seal: nothing but the seal's own line may go unseen
    path.write_bytes(content.replace(b' "environment": {\n', b' "environment": {\n' + line))
    with pytest.raises(RunError, match="was changed after its promotion"):
        read_promoted(tmp_path)
    for formatted in (content.replace(b"\n", b"\r\n"), json.dumps(json.loads(content)).encode(), content):
        path.write_bytes(formatted)
        assert read_promoted(tmp_path) == {record.id: record}
    path.rename(tmp_path / "renamed.json")
    with pytest.raises(RunError, match="renamed.json was changed after its promotion"):
        read_promoted(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["result"].update(train_loss=0.1), "the last train_loss is"),
        (lambda r: r["metrics"].pop(), "it has 1 epochs, but its configuration says 2"),
        (lambda r: r["metrics"][0].update(lr=9.0), "the peak learning rate is 9.0"),
        (lambda r: r["environment"].update(data_digest="0" * 16), "the digest is"),
        (lambda r: r["config"].update(seed=7), "the digest is"),
        (lambda r: r["config"]["pretrain"].update(epochs=3), "it has 2 epochs, but its configuration says 3"),
        (lambda r: r.update(id="pretrain-0"), "is not a run record: 'pretrain-0' is not the name of a run"),
        (lambda r: r.pop("result"), "is not a run record"),
        (lambda r: r["metrics"].clear(), "it has 0 epochs, but its configuration says 2"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(trained, tmp_path, change, message):
    values = json.loads(dump_json(trained[1].to_dict()))
    check_record(values, "sound")
    change(values)
    (tmp_path / "x.json").write_bytes(dump_json(values))
    with pytest.raises(RunError, match=f"x.json.*{message}"):
        read_promoted(tmp_path)


def test_a_record_is_checked_when_it_is_looked_up_and_not_for_others(trained, tmp_path):
    """Also one that was sealed as it is."""
    store, record = trained
    promote(store, record.id, tmp_path)
    values = json.loads(dump_json(record.to_dict()))
    values["id"], values["result"]["train_loss"] = "pretrain-000000000000", 0.1
    (tmp_path / f"{values['id']}.json").write_bytes(dump_json(values | {"sha256": sha256(dump_json(values))}))
    records = promoted_records(tmp_path)
    assert sorted(records) == sorted([values["id"], record.id])
    assert records[record.id] == record
    with pytest.raises(RunError, match=f"{values['id']}.json: the digest is"):
        records[values["id"]]
    with pytest.raises(RunError, match="the digest is"):
        read_promoted(tmp_path)


def test_damaged_promoted_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text('{"id": ')
    with pytest.raises(RunError, match=r"x.json is not readable JSON .*promote the run again"):
        read_promoted(tmp_path)


def test_the_recipe_of_a_fine_tuning_record_is_the_one_trained(trained):
    recipe = with_overrides(smoke(), {"finetune.loss": "bce"})
    values = trained[1].to_dict() | {"config": recipe.stage("finetune"), "stage": "finetune"}
    assert type(trained[1])(**values).recipe == recipe
