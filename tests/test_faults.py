"""What a user sees when something goes wrong, and that it costs nothing that was finished.

Here, as messages of the command line: a full disk, a read-only store, too little memory, no number in the loss, damaged
states, weights, JSON, Parquet files and images, a state that would run code, missing classes, wrong counts, changed
data, a clock that goes backwards, two sweeps at once, and a promotion that is killed. Elsewhere:

- killed while preparing data: ``test_data_prep_kill.py``; while training: ``kill_points.py`` (``test_training.py``);
  while exporting or importing: ``test_archive.py``. A killed worker and an interrupt: ``test_experiments.py``; a sweep,
  fifty times and for a person to run: ``kill_sweeps.py``.
- a corrupt archive of runs: ``test_archive.py``; a public checkpoint, also one that would run code:
  ``test_models.py``; a pickle of CIFAR, corrupt downloads and sources: ``test_data_prep.py``.
- each damaged file of a run, an edited promoted record, a folder without write permission: ``test_runs.py``.
- each way in which Parquet files, images and folders of data can be wrong: ``test_data.py``, ``test_images.py``.
"""

import hashlib
import io
import itertools
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from filelock import FileLock
from PIL import Image
from pyarrow import parquet

from livt import __main__ as cli
from livt.cli.parser import build_parser
from livt.config import with_overrides
from livt.data.sets import load_dataset
from livt.lab.files import write_atomically
from livt.lab.promoted import promote, read_promoted
from livt.lab.recipes import smoke
from livt.lab.runs import RunStore

HERE = Path(__file__)
STEPS = 8  # of each stage of the smoke recipe: 2 epochs of 4
KEPT = "saved epochs and finished runs are kept, and with more room the same command goes on from them"


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """Run a command in this process; return its status, output and errors."""
    status = cli.main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def train(capsys, root: Path, *more: object) -> tuple[int, str, str]:
    return run(capsys, "finetune", "smoke", "--runs", root, "--device", "cpu", "--quiet", *more)


def whole(root: Path, run_id: str) -> tuple[bytes, bytes]:
    """Metrics and weights of a run that is finished and sound, and alone in its folder."""
    store = RunStore(root)
    store.load(run_id)
    files = {path.name for path in (root / run_id).iterdir()}
    assert files == {"config.json", "environment.json", "metrics.jsonl", "result.json", "weights.safetensors"}
    return (root / run_id / "metrics.jsonl").read_bytes(), store.weights(run_id).read_bytes()


@contextmanager
def at_step(number: int, act: Callable[[torch.optim.Optimizer], object]) -> Iterator[None]:
    """Act after the optimizer's step ``number``, counted from 0 over both stages."""
    count, real = itertools.count(), torch.optim.AdamW.step

    def step(self, *arguments, **options):
        result = real(self, *arguments, **options)
        if next(count) == number:
            act(self)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        yield


def raises(error: BaseException) -> Callable[[object], None]:
    def act(_: object) -> None:
        raise error

    return act


def completes(capsys, root: Path, steps: int, *more: object) -> bool:
    """Whether the same command now ends well, and takes no more than these steps: no complete epoch is done again."""
    with at_step(steps, raises(AssertionError("an epoch was lost"))):
        return train(capsys, root, *more)[::2] == (0, "")


class Undisturbed:
    """The smoke recipe, trained in peace: the ids of its two runs, and a check that another store has the same."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pre = RunStore.id(smoke().stage("pretrain"), load_dataset(smoke().data).digest)
        self.fine = RunStore.id(smoke().stage("finetune"), load_dataset(smoke().data).digest)

    def copy(self, root: Path, *run_ids: str) -> Path:
        for run_id in run_ids:
            shutil.copytree(self.root / run_id, root / run_id)
        return root

    def equals(self, root: Path, *run_ids: str) -> bool:
        return all(whole(root, run_id) == whole(self.root, run_id) for run_id in run_ids or (self.pre, self.fine))


@pytest.fixture(scope="module")
def undisturbed(smoke_runs) -> Undisturbed:
    assert cli.main(["finetune", "smoke", "--runs", str(smoke_runs), "--device", "cpu", "--quiet"]) == 0
    return Undisturbed(smoke_runs)


# ---------------------------------------------------------------- a full disk


class SmallDisk:
    """A file system of its own, of a few megabytes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def leave(self, size: int) -> None:
        """Fill the disk but for ``size`` bytes, rounded up to pages."""
        disk = os.statvfs(self.path)
        (self.path / "ballast").write_bytes(b"")
        (self.path / "ballast").write_bytes(bytes((disk.f_bavail - -(-size // disk.f_frsize)) * disk.f_frsize))

    def make_room(self) -> None:
        (self.path / "ballast").unlink()

    def remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", self.path], check=True)


@pytest.fixture
def disk(tmp_path) -> Iterator[SmallDisk]:
    path = tmp_path / "disk"
    path.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", path], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a tmpfs of its own needs Linux and root")
    yield SmallDisk(path)
    subprocess.run(["umount", "-l", path], check=True)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow beyond ``size`` bytes: a full disk where none can be mounted."""
    resource = pytest.importorskip("resource", reason="limits need POSIX")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize(
    ("room", "file", "epochs"), [(0, "config.json", 0), (1, "resume.pt", 0), (4.5, "resume.pt", 1)], ids=str
)
def test_a_disk_that_fills_up_in_training_costs_no_complete_epoch(capsys, undisturbed, disk, stage, room, file, epochs):
    """``room``: what is left, in sizes of the run's weights; the state between two epochs takes three of them."""
    root, run_id = disk.path / "runs", undisturbed.pre if stage == "pretrain" else undisturbed.fine
    if stage == "finetune":
        undisturbed.copy(root, undisturbed.pre)
    disk.leave(int(room * RunStore(undisturbed.root).weights(run_id).stat().st_size))
    status, out, err = train(capsys, root)
    assert (status, err) == (2, f"livt: error: {root / run_id / file}: No space left on device; {KEPT}\n")
    assert out.startswith(f"{undisturbed.pre}: ") == (stage == "finetune")
    listed = run(capsys, "runs", "list", "--runs", root)[1].splitlines()
    assert f"{run_id}  unfinished, {epochs} epochs" in listed
    assert not list(root.rglob("*.tmp")), "half a file was left"
    assert stage == "pretrain" or undisturbed.equals(root, undisturbed.pre)
    disk.make_room()
    assert completes(capsys, root, STEPS * (2 if stage == "pretrain" else 1) - 4 * epochs)
    assert undisturbed.equals(root)


def test_a_file_that_may_not_grow_is_named_too(capsys, undisturbed, tmp_path):
    with largest_file(100_000):
        status, out, err = train(capsys, tmp_path)
    path = tmp_path / undisturbed.pre / "resume.pt"
    assert (status, out, err) == (2, "", f"livt: error: {path}: File too large; {KEPT}\n")
    assert [p.name for p in path.parent.iterdir()] == ["config.json"]
    assert train(capsys, tmp_path)[::2] == (0, "")
    assert undisturbed.equals(tmp_path)


def test_the_name_of_the_file_comes_back_from_a_training_process(tmp_path):
    with largest_file(10), pytest.raises(OSError, match="File too large") as caught:
        write_atomically(tmp_path / "weights", bytes(20))
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.strerror, error.filename) == ("File too large", str(tmp_path / "weights"))


def test_a_table_that_finds_no_room_keeps_its_runs(capsys, smoke_runs, tmp_path):
    target = tmp_path / "table.csv"
    sweep = ["reproduce", "loss_ablation", "--suite", "smoke", "--seeds", "0", "--jobs", "1", "--quiet"]
    sweep += ["--device", "cpu", "--runs", smoke_runs, "--csv", target]
    assert run(capsys, *sweep)[0] == 0
    table = target.read_text()
    target.write_text("old")
    with largest_file(200):
        status, out, err = run(capsys, *sweep)
    assert (status, err) == (2, f"livt: error: {target}: File too large; {KEPT}\n")
    assert out.count("finetune-") == 4, "the table is shown"
    assert target.read_text() == "old"
    assert run(capsys, *sweep)[0] == 0
    assert target.read_text() == table


@pytest.mark.parametrize("what", ["promote", "export", "import"])
def test_a_full_disk_leaves_the_old_record_archive_and_store(capsys, undisturbed, disk, tmp_path, what):
    archive, there = disk.path / "runs.tar", disk.path / "there"
    if what == "import":
        assert run(capsys, "runs", "export", undisturbed.fine, "--to", archive, "--runs", undisturbed.root)[0] == 0
        undisturbed.copy(there, undisturbed.pre)
        arguments = ("runs", "import", archive, "--runs", there)
        named, old = there / ".import" / undisturbed.pre / "config.json", undisturbed.pre
    elif what == "export":
        archive.write_bytes(b"old")
        arguments = ("runs", "export", undisturbed.fine, "--to", archive, "--runs", undisturbed.root)
        named = archive
    else:
        there.mkdir()
        named = there / f"{undisturbed.pre}.json"
        named.write_bytes(b"old")
        arguments = ("runs", "promote", undisturbed.pre, "--to", there, "--runs", undisturbed.root)
    disk.leave(0)
    status, out, err = run(capsys, *arguments)
    assert (status, out, err) == (2, "", f"livt: error: {named}: No space left on device; {KEPT}\n")
    left = {path for path in disk.path.rglob("*") if path.is_file() and path.suffix != ".lock"}
    if what == "import":
        assert {path.relative_to(there).parts[0] for path in left if there in path.parents} == {old}
        assert undisturbed.equals(there, undisturbed.pre)
    else:
        assert left == {named, disk.path / "ballast"}
        assert named.read_bytes() == b"old"
    disk.make_room()
    assert run(capsys, *arguments)[::2] == (0, "")
    if what == "import":
        assert undisturbed.equals(there)
    elif what == "export":
        assert run(capsys, "runs", "import", archive, "--runs", tmp_path / "back")[0] == 0
        assert undisturbed.equals(tmp_path / "back")
    else:
        assert read_promoted(there) == {undisturbed.pre: RunStore(undisturbed.root).load(undisturbed.pre)}


# ---------------------------------------------------------------- a run store that cannot be written


def test_a_read_only_store_is_read_and_never_written(capsys, undisturbed, disk, tmp_path):
    root = undisturbed.copy(disk.path / "runs", undisturbed.pre)
    archive = tmp_path / "runs.tar"
    assert run(capsys, "runs", "export", undisturbed.fine, "--to", archive, "--runs", undisturbed.root)[0] == 0
    disk.remount("ro")
    reason = f"cannot write to the run store {root}: Read-only file system; choose another with --runs DIR or LIVT_RUNS"
    assert train(capsys, root, "--set", "pretrain=null") == (2, "", f"livt: error: {reason}\n")
    assert run(capsys, "pretrain", "smoke", "--runs", root, "--device", "cpu")[::2] == (0, ""), "it is finished"
    assert run(capsys, "runs", "import", archive, "--runs", root) == (2, "", f"livt: error: {reason}\n")
    record = root / f"{undisturbed.pre}.json"
    told = (2, "", f"livt: error: [Errno 30] Read-only file system: '{record}'\n")
    assert run(capsys, "runs", "promote", undisturbed.pre, "--runs", root, "--to", root) == told
    told = (2, "", f"livt: error: --to {root / 'runs.tar'}: cannot write a file there\n")
    assert run(capsys, "runs", "export", "--runs", root, "--to", root / "runs.tar") == told
    assert run(capsys, "runs", "verify", "--runs", root) == (0, f"{undisturbed.pre}: sound\n", "")
    assert run(capsys, "runs", "promote", undisturbed.pre, "--runs", root, "--to", tmp_path)[::2] == (0, "")
    assert [path.name for path in root.iterdir()] == [undisturbed.pre]
    disk.remount("rw")
    assert train(capsys, root)[::2] == (0, "")
    assert undisturbed.equals(root)


def test_finished_runs_of_a_read_only_store_are_evaluated_and_make_their_table(capsys, undisturbed, disk):
    sweep = ("reproduce", "loss_ablation", "--suite", "smoke", "--seeds", "0", "--jobs", "1", "--quiet")
    table = run(capsys, *sweep, "--device", "cpu", "--runs", undisturbed.root)
    fine = re.findall(r"finetune-\w+", table[1])
    assert len(fine) == 4
    root = undisturbed.copy(disk.path / "runs", undisturbed.pre, *fine)
    disk.remount("ro")
    assert run(capsys, *sweep, "--device", "cpu", "--runs", root) == table
    evaluation = ("evaluate", undisturbed.fine, "--device", "cpu", "--runs")
    assert run(capsys, *evaluation, root) == run(capsys, *evaluation, undisturbed.root)


# ---------------------------------------------------------------- memory


CPU = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
)


def lower(run_id: str) -> str:
    stage = run_id.partition("-")[0]
    return (
        f"livt: error: out of memory while training {run_id}: add --checkpointing (slower; this run goes on from its "
        f"last saved epoch), or train another run with more {stage}.accumulation_steps (now 1; the batch of 64 is "
        "then worked off in smaller parts) or a smaller model.size\n"
    )


@pytest.mark.parametrize(
    ("error", "stage"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "pretrain"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "finetune"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB)"), "finetune"),
        (RuntimeError(CPU), "finetune"),
        (MemoryError(), "pretrain"),
    ],
    ids=["CUDA", "cuBLAS", "MPS", "CPU", "Python"],
)
def test_out_of_memory_says_what_to_lower_and_keeps_the_epochs(capsys, undisturbed, tmp_path, error, stage):
    run_id = undisturbed.pre if stage == "pretrain" else undisturbed.fine
    with at_step(5 if stage == "pretrain" else STEPS + 5, raises(error)):
        status, _, err = train(capsys, tmp_path)
    assert (status, err) == (2, lower(run_id))
    assert RunStore(tmp_path).progress(run_id) == 1
    assert completes(capsys, tmp_path, STEPS * (2 if stage == "pretrain" else 1) - 4, "--checkpointing")
    assert undisturbed.equals(tmp_path)


def test_other_runtime_errors_are_not_taken_for_want_of_memory(capsys, tmp_path):
    with at_step(5, raises(RuntimeError("shapes differ"))), pytest.raises(RuntimeError, match="^shapes differ$"):
        train(capsys, tmp_path)


LIMITED = """
import resource, sys
import torch
from livt import __main__ as cli
from livt.data.sets import load_dataset
from livt.lab import stages
from livt.lab.recipes import smoke
torch.set_num_threads(1)
load_dataset(smoke().data)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000,) * 2)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc to know how much memory a process has")
def test_a_model_that_memory_does_not_hold_is_one_line(capsys, tmp_path):
    command = [
        sys.executable,
        "-c",
        LIMITED,
        "finetune",
        "smoke",
        "--runs",
        str(tmp_path),
        "--device",
        "cpu",
        "--quiet",
    ]
    out = subprocess.run([*command, "--set", "model.size=base"], capture_output=True, text=True)
    run_id = RunStore(tmp_path).ids()[0]
    assert (out.returncode, out.stdout, out.stderr) == (2, "", lower(run_id))


def test_out_of_memory_outside_training_is_one_line_too(capsys, undisturbed, monkeypatch):
    monkeypatch.setattr("livt.lab.stored.predict", lambda *_, **__: raises(torch.OutOfMemoryError("CUDA"))(None))
    told = "livt: error: out of memory: close other programs, or take another --device; nothing finished is lost\n"
    assert run(capsys, "evaluate", undisturbed.fine, "--runs", undisturbed.root, "--device", "cpu") == (2, "", told)
    monkeypatch.undo()
    assert run(capsys, "evaluate", undisturbed.fine, "--runs", undisturbed.root, "--device", "cpu")[::2] == (0, "")


# ---------------------------------------------------------------- no number in the loss


def poison(optimizer: torch.optim.Optimizer) -> None:
    """What a diverged step leaves behind."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.data.fill_(float("nan"))


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize(("step", "epochs"), [(0, 0), (4, 1), (7, 1)])
def test_a_loss_that_is_no_number_stops_before_it_is_saved(capsys, undisturbed, tmp_path, stage, step, epochs):
    run_id = undisturbed.pre if stage == "pretrain" else undisturbed.fine
    with at_step(step + (STEPS if stage == "finetune" else 0), poison):
        status, _, err = train(capsys, tmp_path)
    what = f"the training loss is nan at step {step + 1} of {run_id}; its last good state is the end of epoch {epochs}"
    if step == 7:  # no loss comes after it: the weights are looked at
        name = "mask_token" if stage == "pretrain" else "cls_token"
        what = f"{name} is no longer finite at the end of epoch 2 of {run_id}"
    assert (status, err) == (2, f"livt: error: {what}; lower base_lr or set clip_grad\n")
    assert RunStore(tmp_path).progress(run_id) == epochs
    assert completes(capsys, tmp_path, STEPS * (2 if stage == "pretrain" else 1) - 4 * epochs)
    assert undisturbed.equals(tmp_path)


# ---------------------------------------------------------------- damaged state, weights and JSON of a run


def interrupted(capsys, undisturbed: Undisturbed, root: Path) -> Path:
    """Interrupt pretraining in its second epoch; return the run's state."""
    with at_step(5, raises(KeyboardInterrupt())):
        status, out, err = train(capsys, root)
    told = "\nlivt: interrupted; the same command goes on from the last saved epoch\n"
    assert (status, out, err) == (130, "", told)
    assert RunStore(root).progress(undisturbed.pre) == 1
    return root / undisturbed.pre / "resume.pt"


def starts_again(capsys, undisturbed: Undisturbed, path: Path, reason: str) -> None:
    """The run starts again, says why, comes to the same result, and the state is still there under another name."""
    content = path.read_bytes()
    status, _, err = train(capsys, path.parent.parent)
    aside = path.with_name(f"resume-{hashlib.sha256(content).hexdigest()[:8]}.pt")
    told = f"{path} {reason}: it is kept as {aside.name}, and this run starts again from the beginning\n"
    assert (status, err) == (0, told)
    assert aside.read_bytes() == content
    aside.unlink()
    assert undisturbed.equals(path.parent.parent)


def sealed(state: object) -> bytes:
    """A state as it is saved, with the checksum that fits."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue()


def test_a_state_that_would_run_code_is_set_aside(capsys, undisturbed, tmp_path):
    class RunsCode:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = interrupted(capsys, undisturbed, tmp_path / "runs")
    path.write_bytes(sealed({"model": RunsCode()}))
    starts_again(capsys, undisturbed, path, "holds more than weights and numbers, and was not read")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kept", [0, 31, 32, 0.5, -1])
def test_a_truncated_state_starts_the_run_again_and_says_so(capsys, undisturbed, tmp_path, kept):
    path = interrupted(capsys, undisturbed, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    starts_again(capsys, undisturbed, path, "is damaged")


def group(state: dict, **changes: object) -> None:
    state["optimizer"]["param_groups"][0].update(changes)


def moments(state: dict) -> dict:
    return state["optimizer"]["state"][1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: [1], "is no saved state"),
        (lambda s: {}, "is no saved state"),
        (lambda s: s.pop("model"), "is no saved state"),
        (lambda s: s.update(model=3), "is no saved state"),
        (lambda s: s.update(model={}), "is of another model"),
        (lambda s: s["model"].update({"mask_token": torch.zeros(3)}), "is of another model"),
        (lambda s: s.update(optimizer=[]), "is no saved state"),
        (lambda s: s["optimizer"].update(param_groups=[]), "is of another optimizer"),
        (lambda s: group(s, betas="x"), "is of another optimizer"),
        (lambda s: group(s, params=[0, 1]), "is of another optimizer"),
        (lambda s: moments(s).pop("exp_avg"), "is of another optimizer"),
        (lambda s: moments(s).update(exp_avg=torch.zeros(3)), "is of another model"),
        (lambda s: moments(s).update(exp_avg=3.0), "is no saved state"),
        (lambda s: moments(s).update(step="first"), "is no saved state"),
        (lambda s: s["optimizer"]["state"].update({10**9: moments(s)}), "is no saved state"),
        (lambda s: s["metrics"][0].pop("train_loss"), "epoch 1 lacks train_loss"),
        (lambda s: s["metrics"][0].update(epoch=7), "epoch 1 says that it is epoch 7"),
        (lambda s: s.update(metrics=[s["metrics"][0] | {"epoch": i} for i in (1, 2, 3)]), "has 3 epochs, more than"),
        (lambda s: s.update(metrics=3), "is no saved state"),
        (lambda s: s.update(wall_time_s="3"), "is no saved state"),
        (lambda s: s.update(waited_s=float("nan")), "is no saved state"),
        (lambda s: s.update(code="000000000000"), "was saved by other training code"),
    ],
)
def test_a_state_that_is_not_one_of_this_run_is_set_aside(capsys, undisturbed, tmp_path, saved_state, change, reason):
    """Its checksum fits, so nothing but what it says can tell."""
    path = tmp_path / undisturbed.pre / "resume.pt"
    path.parent.mkdir()
    state = torch.load(io.BytesIO(saved_state[32:]), weights_only=True)
    changed = change(state)
    path.write_bytes(sealed(changed if isinstance(changed, list) or changed == {} else state))
    aside = path.with_name(f"resume-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pt")
    with at_step(0, raises(KeyboardInterrupt())):  # it starts again, and need not end
        status, _, err = train(capsys, tmp_path)
    assert status == 130
    first, *rest = err.splitlines()
    assert first.startswith(f"{path} {reason}")
    assert first.endswith(f": it is kept as {aside.name}, and this run starts again from the beginning")
    assert rest == ["", "livt: interrupted; the same command goes on from the last saved epoch"]
    assert aside.exists()
    assert not path.exists()


@pytest.fixture(scope="module")
def saved_state(undisturbed, tmp_path_factory) -> bytes:
    """The state of the smoke recipe's pretraining after its first epoch."""
    root = tmp_path_factory.mktemp("state")
    with at_step(5, raises(KeyboardInterrupt())):
        cli.main(["finetune", "smoke", "--runs", str(root), "--device", "cpu", "--quiet"])
    return (root / undisturbed.pre / "resume.pt").read_bytes()


@pytest.mark.parametrize(
    ("name", "kept"), [("weights.safetensors", 0.5), ("config.json", 0.5), ("result.json", 0), ("result.json", 0.5)]
)
def test_a_damaged_pretraining_run_stops_what_starts_from_it(capsys, undisturbed, tmp_path, name, kept):
    root = undisturbed.copy(tmp_path / "runs", undisturbed.pre)
    path = root / undisturbed.pre / name
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    reason = "does not match its checksum"
    if name.endswith(".json"):
        with pytest.raises(json.JSONDecodeError) as error:
            json.loads(path.read_bytes())
        reason = f"is not readable JSON ({error.value})"
    remedy = f"the run is damaged; delete the folder {path.parent} to train it anew\n"
    told = f"{path} {reason}: {remedy}"
    assert train(capsys, root) == (2, "", f"livt: error: {told}")
    if name == "config.json":  # whose seal these look at first
        told = f"{path} does not match its checksum: {remedy}"
    assert run(capsys, "runs", "verify", "--runs", root) == (1, f"{undisturbed.pre}: {told}", "")
    assert run(capsys, "runs", "promote", undisturbed.pre, "--runs", root, "--to", tmp_path / "results") == (
        2,
        "",
        f"livt: error: {told}",
    )
    assert not (tmp_path / "results").exists()
    assert RunStore(root).ids() == [undisturbed.pre]
    shutil.rmtree(path.parent)
    assert train(capsys, root)[::2] == (0, "")
    assert undisturbed.equals(root)


# ---------------------------------------------------------------- data


def png(value: int) -> bytes:
    """An image of noise, another for each value."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(value).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path: Path, encoded: list[bytes], labels: list[int]) -> None:
    images = [{"bytes": content, "path": f"{i}.png"} for i, content in enumerate(encoded)]
    parquet.write_table(pa.table({"image": images, "label": pa.array(labels, pa.int64())}), path)


TRAIN, TEST = [i // 30 for i in range(300)], [i // 2 for i in range(20)]
ON_CIFAR = ("data.name=cifar10", "data.max_count=null", "data.imbalance_factor=null", "model.patch_size=8")


def on_cifar(capsys, root: Path, *changes: str) -> tuple[int, str, str]:
    load_dataset.cache_clear()
    found = train(capsys, root, *itertools.chain(*(("--set", item) for item in (*ON_CIFAR, *changes))))
    load_dataset.cache_clear()
    return found


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    return [png(i) for i in range(300)]


@pytest.fixture
def cifar(tmp_path, monkeypatch, pictures) -> Path:
    """A data folder in the shape of CIFAR-10, with 30 training and 2 test images of each class."""
    folder = tmp_path / "data" / "cifar10"
    folder.mkdir(parents=True)
    monkeypatch.setenv("LIVT_DATA", str(folder.parent))
    write_parquet(folder / "train.parquet", pictures, TRAIN)
    write_parquet(folder / "test.parquet", pictures[:20], TEST)
    return folder


@pytest.fixture(scope="module")
def on_sound_data(tmp_path_factory, pictures) -> Path:
    """A store with the smoke recipe trained on the folder of ``cifar``."""
    folder, root = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("runs")
    (folder / "cifar10").mkdir()
    write_parquet(folder / "cifar10" / "train.parquet", pictures, TRAIN)
    write_parquet(folder / "cifar10" / "test.parquet", pictures[:20], TEST)
    arguments = itertools.chain(*(("--set", item) for item in ON_CIFAR))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIVT_DATA", str(folder))
        load_dataset.cache_clear()
        assert cli.main(["finetune", "smoke", "--runs", str(root), "--device", "cpu", "--quiet", *arguments]) == 0
        load_dataset.cache_clear()
    return root


def same_runs(root: Path, expected: Path) -> bool:
    run_ids = RunStore(expected).ids()
    return RunStore(root).ids() == run_ids and all(whole(root, i) == whole(expected, i) for i in run_ids)


def truncate(folder: Path, pictures: list[bytes]) -> str:
    path = folder / "train.parquet"
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(pa.ArrowInvalid) as error:
        parquet.ParquetFile(path)
    reason = str(error.value).splitlines()[0]
    return f"{path} is not a Parquet file with columns image and label ({reason}): fetch it anew"


def cut_an_image(folder: Path, pictures: list[bytes]) -> str:
    path, part = folder / "train.parquet", pictures[7][:1000]
    write_parquet(path, [*pictures[:7], part, *pictures[8:]], TRAIN)
    with pytest.raises(OSError, match="runcated") as error:
        Image.open(io.BytesIO(part)).convert("RGB")
    return f"{path}, row 7 (7.png) does not decode ({error.value}): fetch the file anew"


def shrink_an_image(folder: Path, pictures: list[bytes]) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 32)).save(buffer, "PNG")
    path = folder / "test.parquet"
    write_parquet(path, [*pictures[:19], buffer.getvalue()], TEST)
    return f"{path}, row 19 (19.png) is 16 x 32 pixels, expected 32 x 32: fetch the file anew"


def lose_a_training_class(folder: Path, pictures: list[bytes]) -> str:
    path = folder / "train.parquet"
    write_parquet(path, pictures[:270], TRAIN[:270])
    return f"{path}: class 9 has no images (1 such in all): fetch it anew"


def lose_test_classes(folder: Path, pictures: list[bytes]) -> str:
    path = folder / "test.parquet"
    write_parquet(path, pictures[2:18], TEST[2:18])
    return f"{path}: class 0 has no images (2 such in all): fetch it anew"


def add_a_class(folder: Path, pictures: list[bytes]) -> str:
    path = folder / "test.parquet"
    write_parquet(path, pictures[:21], [*TEST, 10])
    return f"{path}: labels must lie in 0 to 9, found 0 to 10: fetch it anew"


def lose_the_folder(folder: Path, pictures: list[bytes]) -> str:
    shutil.rmtree(folder)
    return (
        f"{folder} holds neither train.parquet nor train_pool.parquet: put the data set 'cifar10' there, or set "
        "LIVT_DATA to the folder that holds it (data_prep/README.md shows the layout); digits and "
        "digit_pairs need no folder"
    )


@pytest.mark.parametrize(
    "damage",
    [truncate, cut_an_image, shrink_an_image, lose_a_training_class, lose_test_classes, add_a_class, lose_the_folder],
)
def test_data_that_cannot_be_used_are_named_before_any_work(capsys, cifar, tmp_path, on_sound_data, pictures, damage):
    root = tmp_path / "runs"
    sound = {path.name: path.read_bytes() for path in cifar.iterdir()}
    told = damage(cifar, pictures)
    assert on_cifar(capsys, root) == (2, "", f"livt: error: {told}\n")
    assert not root.exists()
    cifar.mkdir(exist_ok=True)
    for name, content in sound.items():
        (cifar / name).write_bytes(content)
    assert on_cifar(capsys, root)[::2] == (0, "")
    assert same_runs(root, on_sound_data)


def test_class_counts_that_the_data_do_not_have_are_refused(capsys, cifar, tmp_path):
    remedy = "lower data.max_count to 30"
    told = f"cifar10: class 0 has 30 images, but 31 were asked for; {remedy}"
    wrong = on_cifar(capsys, tmp_path / "runs", "data.max_count=31", "data.imbalance_factor=10")
    assert wrong == (2, "", f"livt: error: {told}\n")
    assert not (tmp_path / "runs").exists()
    right = on_cifar(capsys, tmp_path / "runs", "data.max_count=30", "data.imbalance_factor=10")
    assert right[::2] == (0, "")


def test_a_damaged_manifest_of_a_large_set_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("LIVT_DATA", str(tmp_path))
    path = tmp_path / "places_lt" / "manifest.json"
    path.parent.mkdir()
    path.write_text('{"digest": ')
    changes = ("data.name=places_lt", "data.image_size=32", "finetune.augment.crop_min_scale=0.5")
    told = "(Expecting value: line 1 column 12 (char 11)): prepare it with data_prep/places_lt.py"
    assert on_cifar(capsys, tmp_path / "runs", *changes) == (2, "", f"livt: error: {path} cannot be used {told}\n")
    assert not (tmp_path / "runs").exists()


def test_data_that_change_under_a_run_are_refused_and_the_run_stays(capsys, cifar, tmp_path, on_sound_data, pictures):
    root = tmp_path / "runs"
    with at_step(STEPS + 5, raises(KeyboardInterrupt())):
        assert on_cifar(capsys, root)[0] == 130
    fine, pre = RunStore(root).ids()
    write_parquet(cifar / "test.parquet", [*pictures[:19], pictures[200]], TEST)
    assert on_cifar(capsys, root)[::2] == (0, "")
    others = sorted(set(RunStore(root).ids()) - {fine, pre})
    assert [name.partition("-")[0] for name in others] == ["finetune", "pretrain"], "runs of their own"
    assert RunStore(root).progress(fine) == 1

    write_parquet(cifar / "test.parquet", pictures[:20], TEST)
    digest, before = digest_of_data(), RunStore(root).load(others[0]).environment["data_digest"]
    told = f"the data cifar10 has changed since {others[0]}: its digest is {digest}, not {before}; "
    told += "restore the data, or train again"
    evaluation = ("evaluate", others[0], "--runs", root, "--device", "cpu")
    assert run(capsys, *evaluation) == (2, "", f"livt: error: {told}\n")
    for name in others:
        shutil.rmtree(root / name)
    assert on_cifar(capsys, root)[::2] == (0, "")
    assert same_runs(root, on_sound_data)


def digest_of_data() -> str:
    load_dataset.cache_clear()
    recipe = with_overrides(smoke(), dict(item.split("=") for item in ON_CIFAR))
    return load_dataset(recipe.data).digest


# ---------------------------------------------------------------- the clock


def test_a_clock_that_goes_backwards_changes_nothing(capsys, undisturbed, tmp_path, monkeypatch):
    """The first epoch is made in the future, the others while the clock runs backwards from ten years ago."""
    interrupted(capsys, undisturbed, tmp_path)
    future = time.time() + 1e9
    for path in tmp_path.rglob("*"):
        os.utime(path, (future, future))
    then = datetime.now(UTC) - timedelta(days=3650)
    ticks = itertools.count()

    def backwards() -> float:
        return then.timestamp() - 60 * next(ticks)

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.fromtimestamp(backwards(), tz)

    monkeypatch.setattr("time.time", backwards)
    monkeypatch.setattr("tqdm.std.time", backwards)
    monkeypatch.setattr("livt.lab.environment.datetime", Clock)
    with at_step(2 * STEPS - 4, raises(AssertionError("an epoch was lost"))):
        status, out, _ = run(capsys, "finetune", "smoke", "--runs", tmp_path, "--device", "cpu")
    monkeypatch.undo()
    assert status == 0
    assert [line.partition(":")[0] for line in out.splitlines()] == [undisturbed.pre, undisturbed.fine]
    assert undisturbed.equals(tmp_path)
    for run_id in (undisturbed.pre, undisturbed.fine):
        about = RunStore(tmp_path).load(run_id).environment
        assert 0 < about["wall_time_s"] < 100
        assert about["images_per_second"] > 0
        assert datetime.fromisoformat(about["finished"]) <= then
    again = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json*")}
    assert train(capsys, tmp_path) == (0, out, "")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json*")} == again, "nothing is trained twice"


# ---------------------------------------------------------------- two sweeps at once


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_two_sweeps_at_once_train_each_run_once(undisturbed, tmp_path, jobs):
    """Both are held at the first run until each waits for it, so that they do run side by side."""
    command = [sys.executable, "-m", "livt", "reproduce", "loss_ablation", "--suite", "smoke", "--seeds", "0"]
    command += ["--jobs", str(jobs), "--device", "cpu", "--runs", str(tmp_path / "runs")]
    (tmp_path / "runs").mkdir()
    texts = [tmp_path / "first", tmp_path / "second"]
    waiting = f"{undisturbed.pre}: another process is training this run; waiting for it\n"
    with FileLock(tmp_path / "runs" / f".{undisturbed.pre}.lock"):
        processes = []
        for text in texts:
            with open(text, "w") as err:
                processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True))
        deadline = time.monotonic() + 600  # only a defect takes so long
        while not all(waiting in text.read_text() for text in texts) and time.monotonic() < deadline:
            time.sleep(0.05)
    seals = set()
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        seals |= {(path.parent.name, path.stat().st_ino) for path in tmp_path.glob("runs/*/result.json")}
        time.sleep(0.01)
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1]
    assert outputs[0].count("finetune-") == 4
    assert sorted(run_id for run_id, _ in seals) == RunStore(tmp_path / "runs").ids(), "a run was sealed twice"
    if jobs == 1:  # a bar shows who trains a run; who finds it finished shows none
        trained = [set(re.findall(r"(\w+-[0-9a-f]{12}):   0%", text.read_text())) for text in texts]
        assert sorted(itertools.chain(*trained)) == RunStore(tmp_path / "runs").ids()
    for text in texts:
        assert waiting in text.read_text()
        assert not re.search("error|warning|Traceback", text.read_text(), re.IGNORECASE)
    assert undisturbed.equals(tmp_path / "runs")


# ---------------------------------------------------------------- promotion, killed at every file operation


@pytest.mark.slow
def test_a_killed_promotion_shows_a_whole_record_or_none():
    out = subprocess.run([sys.executable, HERE], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-3000:]
    # At least the folder, and the opening and the renaming of each of two files.
    assert min(int(count) for count in out.stdout.split()) >= 5, out.stdout


def test_the_sweep_that_a_person_ends_many_times_is_a_command():
    from kill_sweeps import SWEEP

    options = build_parser().parse_args(SWEEP)
    assert (options.command, options.suite, options.jobs) == ("reproduce", "smoke", 2)


def main() -> None:
    """Run as a script: it forks before PyTorch has started any thread."""
    from kill_points import in_child
    from test_archive import moments

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = folder / "runs"
        command = ["finetune", "smoke", "--runs", str(root), "--device", "cpu", "--quiet"]
        with redirect_stdout(io.StringIO()):
            assert in_child(lambda: cli.main(command)) == 0
        records = {run_id: RunStore(root).load(run_id) for run_id in RunStore(root).ids()}

        def work(place: Path) -> None:
            with redirect_stdout(io.StringIO()):
                assert cli.main(["runs", "promote", *records, "--runs", str(root), "--to", str(place / "results")]) == 0

        def whole_or_none(place: Path) -> None:
            found = read_promoted(place / "results")
            assert found.items() <= records.items()

        def all_whole(place: Path) -> None:
            assert read_promoted(place / "results") == records
            assert sorted(p.name for p in (place / "results").iterdir()) == sorted(f"{i}.json" for i in records)

        def promoted(place: Path) -> None:
            for run_id in records:
                promote(RunStore(root), run_id, place / "results")

        def still_there(place: Path) -> None:
            assert read_promoted(place / "results") == records

        counts = [
            moments(folder / "none", lambda place: None, work, whole_or_none, all_whole),
            moments(folder / "promoted", promoted, work, still_there, all_whole),
        ]
    print(*counts)


if __name__ == "__main__":
    main()
