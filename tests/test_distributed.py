"""Training with several processes, as torchrun starts them: gloo on the CPU."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from folders import prepare
from safetensors.torch import load_file

from livt.config import with_overrides
from livt.lab.recipes import smoke
from livt.lab.runs import OpenRun, RunStore
from livt.lab.stages import train

HERE = Path(__file__).parent
# Everything random that a part of a batch can draw: shifts, erasing, mixing, dropped paths, masks.
RANDOM = ("finetune.mixup=0.8", "finetune.cutmix=1.0", "finetune.drop_path=0.2", "finetune.augment.random_erasing=0.25")
IN_FILES = (
    'data={"name": "places_lt", "image_size": 32}',
    "pretrain.augment.shift=0",
    "pretrain.augment.crop_min_scale=0.2",
    "finetune.augment.shift=0",
    "finetune.augment.crop_min_scale=0.2",
    "finetune.augment.rand_augment=rand-m9-mstd0.5-inc1",
    "pretrain.probes=0",
)
PARTS = ("pretrain.accumulation_steps=2", "finetune.accumulation_steps=2")


def torchrun(*arguments: str, processes: int = 2, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [f"--max-restarts={restarts}", "--monitor-interval=0.1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


def finetune(store: Path, settings: tuple[str, ...], *more: str) -> list[str]:
    changes = [part for setting in settings for part in ("--set", setting)]
    return ["-m", "livt", "finetune", "smoke", "--device", "cpu", "--quiet", "--runs", str(store), *changes, *more]


def same_runs(a: Path, b: Path) -> None:
    """Both stores hold the same runs: the same metrics and results, weights equal to rounding."""
    first, second = RunStore(a), RunStore(b)
    assert first.ids() == second.ids()
    assert len(first.ids()) == 2
    for run_id in first.ids():
        one, two = first.load(run_id), second.load(run_id)
        assert [row["epoch"] for row in one.metrics] == [row["epoch"] for row in two.metrics]
        for row, other in zip(one.metrics, two.metrics, strict=True):
            assert row["train_loss"] == pytest.approx(other["train_loss"], rel=1e-6)
        theirs = load_file(second.weights(run_id))
        for name, value in load_file(first.weights(run_id)).items():
            torch.testing.assert_close(value, theirs[name], rtol=1e-5, atol=1e-6)
        if one.stage == "finetune":
            for name in ("accuracy", "many", "medium", "few", "ece"):
                assert one.result[name] == pytest.approx(two.result[name], abs=1e-3)


@pytest.mark.parametrize("where", [pytest.param("memory", marks=pytest.mark.slow), "files"])
def test_two_processes_train_what_one_trains(tmp_path, where, monkeypatch):
    settings = PARTS + RANDOM
    if where == "files":
        prepare(tmp_path / "data", "shards")
        monkeypatch.setenv("LIVT_DATA", str(tmp_path / "data"))
        settings += IN_FILES
    alone = subprocess.run(
        [sys.executable, *finetune(tmp_path / "one", settings, "--workers", "0")], capture_output=True, text=True
    )
    assert alone.returncode == 0, alone.stderr
    both = torchrun(*finetune(tmp_path / "two", settings, "--workers", "1"))
    assert both.returncode == 0, both.stderr
    assert both.stdout == alone.stdout, "the leader alone reports, and the same"
    same_runs(tmp_path / "one", tmp_path / "two")
    environment = RunStore(tmp_path / "two").load(RunStore(tmp_path / "two").find("finetune")).environment
    assert environment["processes"] == 2


@pytest.mark.slow
def test_only_the_leader_writes(tmp_path):
    out = torchrun(str(HERE / "worker_processes.py"), "forbidden", str(tmp_path))
    assert out.returncode == 0, out.stderr
    lines = out.stdout.split("\n")
    assert {line.split(":")[0] for line in lines if line} == {"process 0", "process 1"}
    assert len(RunStore(tmp_path).ids()) == 2


@pytest.mark.slow
def test_a_killed_process_is_started_again_and_the_run_goes_on(tmp_path):
    out = torchrun(str(HERE / "worker_processes.py"), "killed", str(tmp_path / "killed"), restarts=1)
    assert out.returncode == 0, out.stderr
    assert "failed (exitcode: " in out.stderr, "of the killed process, or of the one that noticed it"
    whole = torchrun(str(HERE / "worker_processes.py"), "forbidden", str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    for run_id in RunStore(tmp_path / "whole").ids():
        for name in ("metrics.jsonl", "weights.safetensors"):
            files = [tmp_path / store / run_id / name for store in ("killed", "whole")]
            assert files[0].read_bytes() == files[1].read_bytes(), f"{run_id}/{name}"


@pytest.mark.slow
def test_a_process_that_fails_ends_the_others(tmp_path):
    """They wait for it in an exchange, and torchrun for its end."""
    out = torchrun(str(HERE / "worker_processes.py"), "fails", str(tmp_path))
    assert out.returncode == 1
    assert "RunError: this process has failed" in out.stderr
    assert "exitcode  : 2" in out.stderr
    assert [RunStore(tmp_path).is_finished(run_id) for run_id in RunStore(tmp_path).ids()] == [False]


@pytest.mark.slow
def test_processes_that_resume_from_different_states_are_refused(tmp_path, monkeypatch):
    """As on machines whose run stores are not one folder."""
    save = OpenRun.save

    def save_and_stop(*arguments, **named):
        save(*arguments, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(OpenRun, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(
                "pretrain", with_overrides(smoke(), dict(part.split("=") for part in PARTS)), RunStore(tmp_path / "0")
            )
    (run_id,) = RunStore(tmp_path / "0").ids()
    out = torchrun(str(HERE / "worker_processes.py"), "apart", str(tmp_path))
    assert out.returncode == 1
    for rank in (0, 1):
        what = f"the processes find different states of {tmp_path / str(rank) / run_id}: the run store is one folder"
        assert what in out.stderr
    assert not RunStore(tmp_path / "0").is_finished(run_id)


def test_every_row_is_gathered_once_and_in_order():
    out = torchrun(str(HERE / "worker_processes.py"), "gather", processes=3)
    assert out.returncode == 0, out.stderr
    expected = [f"process {rank}: {list(range(count))}" for rank in range(3) for count in (1, 2, 7)]
    assert sorted(filter(None, out.stdout.split("\n"))) == sorted(expected)


@pytest.mark.slow
def test_processes_that_cannot_share_a_batch_are_refused_before_training(tmp_path):
    out = torchrun(*finetune(tmp_path / "runs", ("pretrain.accumulation_steps=2",)))
    message = (
        "livt: error: 2 processes cannot share a batch of 1 parts evenly: set finetune.accumulation_steps to a "
        "multiple of 2"
    )
    assert out.returncode != 0
    assert message in out.stderr
    assert "Traceback" not in out.stderr.split("torch/distributed")[0]
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_killed_loading_process_ends_training_with_one_line_and_the_run_goes_on(tmp_path, monkeypatch):
    prepare(tmp_path / "data")
    monkeypatch.setenv("LIVT_DATA", str(tmp_path / "data"))
    settings = (*IN_FILES, "pretrain=null", "finetune.epochs=8")
    settings = tuple(s for s in settings if not s.startswith("pretrain."))
    command = [sys.executable, *finetune(tmp_path / "runs", settings, "--workers", "2")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "runs").glob("finetune-*/resume.pt")):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        error = process.stderr.read()
    (run_id,) = RunStore(tmp_path / "runs").ids()
    assert process.returncode == 2
    assert error == (
        f"livt: error: a process that loads images for {run_id} was killed, perhaps for lack of memory: try fewer "
        "--workers; the same command goes on from the last saved epoch\n"
    )
    done = RunStore(tmp_path / "runs").progress(run_id)
    assert 0 < done < 8
    assert subprocess.run(command, capture_output=True).returncode == 0
    record = RunStore(tmp_path / "runs").load(run_id)
    assert [row["epoch"] for row in record.metrics] == list(range(1, 9))
    assert 0 < record.environment["waiting_percent"] < 100
