"""Runs as processes side by side and as jobs: submitit's own local ones, and those of a real SLURM on this machine."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import pytest
from folders import prepare

from livt import __main__ as cli
from livt.config import Recipe, with_overrides
from livt.distributed import cores
from livt.lab import slurm as cluster
from livt.lab import worker
from livt.lab.experiments import recipes
from livt.lab.failures import RunError
from livt.lab.local import devices_of
from livt.lab.plan import Plan
from livt.lab.recipes import smoke
from livt.lab.results import reproduce
from livt.lab.runs import RunStore
from livt.lab.slurm import parse_parameters
from livt.lab.train import plan, train_all


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """The smoke ablation of two seeds, trained by processes side by side: (store, table)."""
    store = RunStore(tmp_path_factory.mktemp("pool"))
    return store, reproduce("loss_ablation", "smoke", store, [0, 1], jobs=2, progress=False)


def lacking(pool: RunStore, root: Path, recipe: Recipe) -> list[str]:
    """Copy a store, but for both runs of one recipe; return their ids, the pretraining first."""
    missing = list(plan([recipe], RunStore(root)).stages)
    shutil.copytree(pool.root, root, ignore=shutil.ignore_patterns(*missing, ".*"))
    return missing


def weights(store: RunStore, run_id: str) -> bytes:
    return store.weights(run_id).read_bytes()


def jobs_of(store: RunStore) -> list[str]:
    """The ids of all jobs that were ever submitted for a store."""
    return [path.name.split("_")[0] for path in (store.root / ".jobs").glob("*_submitted.pkl")]


# ---------------------------------------------------------------- what is to be done, and where


@pytest.mark.parametrize(
    ("device", "gpus", "jobs", "expected"),
    [
        ("cuda", 1, None, ["cuda:0"]),
        ("cuda", 4, None, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("cuda", 2, 5, ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]),
        ("cuda", 8, 2, ["cuda:0", "cuda:1"]),
        ("cuda:1", 8, None, ["cuda:1"]),
        ("cuda:1", 8, 2, ["cuda:1", "cuda:1"]),
        ("mps", 0, None, ["mps"]),
        ("cpu", 8, 3, ["cpu"] * 3),
        ("cpu", 8, None, ["cpu"] * cores()),
    ],
)
def test_each_process_has_a_device(device, gpus, jobs, expected):
    assert devices_of(device, gpus, jobs) == expected


def test_each_worker_keeps_a_device_of_its_own():
    context = get_context("spawn")
    unclaimed = context.SimpleQueue()
    for device in ("cuda:0", "cuda:1"):
        unclaimed.put(device)
    ask = "(__import__('time').sleep(1), os.getpid(), __import__('livt.lab.worker').lab.worker.device)[1:]"
    with ProcessPoolExecutor(2, context, worker.start, (os.getpid(), unclaimed)) as workers:
        found = list(workers.map(eval, [ask.replace("os.", "__import__('os').")] * 6))
    assert len(set(found)) == 2
    assert {device for _, device in found} == {"cuda:0", "cuda:1"}


def test_a_plan_has_what_is_missing_and_what_waits_for_what(pool, tmp_path):
    store, table = pool
    wanted = recipes("loss_ablation", "smoke", [0, 1])
    assert plan(wanted, store) == Plan({}, {})
    nothing = plan(wanted, RunStore(tmp_path))
    assert set(nothing.stages) == set(store.ids())
    assert sorted(nothing.ready) == [run_id for run_id in store.ids() if run_id.startswith("pretrain")]
    followers = [run_id for first in nothing.ready for run_id in nothing.follows(first, nothing.ready)]
    assert sorted(followers) == sorted(table.run)
    first, second = lacking(store, tmp_path / "some", wanted[0])
    some = plan(wanted, RunStore(tmp_path / "some"))
    assert (some.ready, some.follows(first, {first}), some.behind([first])) == ([first], [second], {second})
    scratch = plan([with_overrides(wanted[0], {"pretrain": None})], store)
    assert scratch.ready == list(scratch.stages)


# ---------------------------------------------------------------- what the command line takes


def test_parameters_are_numbers_words_and_lists():
    given = ["partition=gpu", "time=30", "mem_gb=1.5", "comment=a=b", "exclusive=true", "setup=one", "setup=two"]
    expected = {"partition": "gpu", "time": 30, "mem_gb": 1.5, "comment": "a=b", "exclusive": True}
    assert parse_parameters(given) == {**expected, "setup": ["one", "two"]}


def ablation(store: Path, *more: str, seeds: str = "0") -> list[str]:
    arguments = ["reproduce", "loss_ablation", "--suite", "smoke", "--seeds", seeds, "--runs", str(store)]
    return [*arguments, "--device", "cpu", *more]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jobs", "2"], "--jobs is for --executor local"),
        (["--slurm", "gpu"], "--slurm gpu: expected KEY=VALUE"),
        (["--slurm", "partion=gpu"], "--slurm partion: unknown; known are account, array_parallelism, comment"),
        (["--slurm", "job_name=mine"], "--slurm job_name: unknown"),
        (["--slurm", "time=04:00:00"], "--slurm time=04:00:00: expected a whole number of minutes"),
        (["--slurm", "gpus_per_node=all"], "--slurm gpus_per_node=all: expected a whole number"),
        (["--slurm", "mem_gb=16GB"], "--slurm mem_gb=16GB: expected a number of gigabytes"),
    ],
)
def test_a_wrong_option_is_one_line_before_anything_is_submitted(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(cluster.shutil, "which", lambda name: f"/usr/bin/{name}")
    status = cli.main(ablation(tmp_path / "runs", "--executor", "slurm", *arguments))
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith(f"livt: error: {message}")
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_slurm_options_need_slurm(capsys, tmp_path):
    assert cli.main(ablation(tmp_path, "--slurm", "partition=gpu")) == 2
    assert capsys.readouterr().err == "livt: error: --slurm is for --executor slurm\n"


def test_a_machine_without_slurm_or_submitit_says_so(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(ablation(tmp_path / "runs", "--executor", "slurm")) == 2
    err = capsys.readouterr().err
    assert err == "livt: error: there is no SLURM on this machine (no sbatch): train here with --executor local\n"
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert cli.main(ablation(tmp_path / "runs", "--executor", "slurm")) == 2
    err = capsys.readouterr().err
    assert err == "livt: error: jobs are submitted by a package that is missing: pip install 'livt[cluster]'\n"


@pytest.mark.parametrize("executor", ["local", "slurm"])
def test_torchrun_is_for_one_run(capsys, tmp_path, monkeypatch, executor):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(ablation(tmp_path / "runs", "--executor", executor)) == 2
    err = capsys.readouterr().err
    assert err.startswith("livt: error: reproduce starts its own processes: run it without torchrun")
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------- jobs on this machine, without SLURM


@pytest.mark.slow  # SLURM's own test trains the same
def test_jobs_train_what_processes_train_each_run_once(pool, tmp_path):
    store = RunStore(tmp_path)
    four = recipes("loss_ablation", "smoke", [0])
    train_all(four, store, executor="submitit", progress=False)
    assert len(store.ids()) == len(jobs_of(store)) == 4 + 1
    for run_id in store.ids():
        assert weights(store, run_id) == weights(pool[0], run_id)
        assert store.load(run_id).metrics == pool[0].load(run_id).metrics
    train_all(four, store, executor="submitit", progress=False)
    assert len(jobs_of(store)) == 5, "nothing is missing, nothing is submitted"


def test_a_failed_job_is_named_with_its_log_and_the_others_finish(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "ASK_EVERY", 1.0)
    monkeypatch.setattr(cluster, "SHOWN_WITHIN", 3.0)
    store = RunStore(tmp_path)
    two = recipes("loss_ablation", "smoke", [0])[:2]
    scratch = with_overrides(two[0], {"pretrain": None})
    (first,) = plan(two, store).ready
    (tmp_path / first).write_text("in the way of the run's folder")
    with pytest.raises(RunError) as failure:
        train_all([*two, scratch], store, executor="submitit", progress=False)
    job = next(j for j in jobs_of(store) if "Error" in (tmp_path / ".jobs" / f"{j}_0_log.err").read_text())
    assert str(failure.value) == (
        f"1 of 4 runs failed, and 2 that follow were not submitted: {first} ({tmp_path}/.jobs/{job}_0_log.err); "
        "saved epochs are kept, and the same command goes on from them"
    )
    assert [store.is_finished(run_id) for run_id in store.ids()] == [True], "the one from scratch"
    assert len(jobs_of(store)) == 2


# ---------------------------------------------------------------- a real SLURM

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
CONFIGURATION = """
ClusterName=livt
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=2,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="module")
def slurm():
    """A SLURM of one node with two CPUs, which this machine pretends to be; its commands find it by SLURM_CONF."""
    absent = [name for name in NEEDED if not shutil.which(name)]
    if absent:
        pytest.skip(f"SLURM is not installed (no {', '.join(absent)}): apt-get install slurm-wlm munge")
    if os.geteuid():
        pytest.skip("only root can start the daemons of SLURM")
    with pytest.MonkeyPatch.context() as monkeypatch, ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True)))
        folder.chmod(0o711)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        host = socket.gethostname().partition(".")[0]
        text = CONFIGURATION.format(host=host, folder=folder, ports=free_ports(2))
        (folder / "slurm.conf").write_text(text)
        version = tuple(map(int, re.findall(r"\d+", ask("slurmd", "-V"))[:2]))
        plugin = "disabled" if version >= (23, 2) else "cgroup/v1"  # which asks nothing of the machine
        (folder / "cgroup.conf").write_text(f"CgroupPlugin={plugin}\n")
        monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        munge = ["--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
        munge += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
        for command in (["munged", *munge], ["slurmctld", "-D"], ["slurmd", "-D"]):
            log = stack.enter_context(open(folder / f"{command[0]}.log", "w"))
            daemon = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            stack.callback(daemon.wait)
            stack.callback(daemon.terminate)
        if not eventually(lambda: ask("sinfo", "--noheader", "--format=%T") == "idle", 30):
            logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
            pytest.skip(f"SLURM does not start on this machine:\n{logs}")
        stack.callback(lambda: eventually(lambda: not queued(), 30))
        stack.callback(subprocess.run, ["scancel", "--user=root"])
        yield


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]


def ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def queued() -> dict[str, str]:
    """Job ids by the names of jobs."""
    return {name: job for job, name in (line.split() for line in ask("squeue", "-h", "--format=%A %j").splitlines())}


def eventually(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def train_in_another_process(store: Path, parameters: dict, changes: dict) -> subprocess.Popen:
    """A command that trains the smoke recipe, with changes, by jobs."""
    code = (
        "import json, sys; from livt.config import with_overrides; from livt.lab.train import train_all;"
        "from livt.lab.recipes import smoke; from livt.lab.runs import RunStore;"
        "store, parameters, changes = sys.argv[1], *map(json.loads, sys.argv[2:]);"
        "train_all([with_overrides(smoke(), changes)], RunStore(store), executor='slurm', slurm=parameters)"
    )
    command = [sys.executable, "-c", code, str(store), json.dumps(parameters), json.dumps(changes)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_slurm_trains_what_processes_train(pool, slurm, tmp_path, capsys):
    last = recipes("loss_ablation", "smoke", [0, 1])[-1]
    store = RunStore(tmp_path / "runs")
    missing = lacking(pool[0], store.root, last)
    target = tmp_path / "table.csv"
    options = ["--executor", "slurm", "--slurm", "partition=test", "--slurm", "cpus_per_task=1", "--quiet"]
    assert cli.main(ablation(store.root, *options, "--csv", str(target), seeds="0,1")) == 0
    pd.testing.assert_frame_equal(pd.read_csv(target).assign(part=""), pool[1], check_dtype=False)
    assert all(weights(store, run_id) == weights(pool[0], run_id) for run_id in missing)
    scripts = sorted((store.root / ".jobs").glob("*_submission.sh"), key=lambda path: int(path.name.split("_")[0]))
    assert [f"--job-name={run_id}\n" in path.read_text() for path, run_id in zip(scripts, missing, strict=True)]


def test_a_refusal_of_slurm_is_one_line(slurm, tmp_path, capsys, monkeypatch):
    assert cli.main(ablation(tmp_path, "--executor", "slurm", "--slurm", "partition=none", "--quiet")) == 2
    err = capsys.readouterr().err
    assert err.startswith("livt: error: the job of pretrain-")
    assert "invalid partition specified: none" in err
    assert err.count("\n") == 1
    (tmp_path / "slurm.conf").touch()
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    assert cli.main(ablation(tmp_path, "--executor", "slurm")) == 2
    err = capsys.readouterr().err
    assert err.startswith("livt: error: SLURM does not answer: ")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_two_commands_at_once_submit_each_run_once(pool, slurm, tmp_path):
    command = [sys.executable, "-m", "livt", *ablation(tmp_path, "--executor", "slurm", seeds="0,1")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    outputs = [process.communicate(timeout=250) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    store = RunStore(tmp_path)
    assert len(jobs_of(store)) == len(store.ids()) == 8 + 2
    assert all(weights(store, run_id) == weights(pool[0], run_id) for run_id in store.ids())


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_jobs_outlive_the_command_and_the_next_one_follows_them(slurm, tmp_path, how):
    store = RunStore(tmp_path)
    command = [sys.executable, "-m", "livt", *ablation(tmp_path, "--executor", "slurm", "--quiet")]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert eventually(queued, 60)
    ((run_id, job),) = queued().items()
    time.sleep(1)  # submitit gives the job's files their names
    first.send_signal(how)
    _, err = first.communicate(timeout=60)
    if how == signal.SIGINT:
        assert first.returncode == 130
        assert err.strip() == (
            "livt: interrupted; jobs go on: the same command follows them and submits the rest; to end them: "
            f"scancel {job}"
        )
    assert queued() == {run_id: job}
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert job in jobs_of(store)
    assert len(jobs_of(store)) == len(store.ids()) == 5


@pytest.mark.slow
@pytest.mark.parametrize("why", ["preempted", "timed-out"])
def test_a_job_that_must_leave_its_node_goes_on_from_its_last_complete_epoch(slurm, tmp_path, monkeypatch, why):
    """Also one with processes that load images, which get SLURM's signals as well."""
    prepare(tmp_path / "data")
    monkeypatch.setenv("LIVT_DATA", str(tmp_path / "data"))
    epochs = {"preempted": 30, "timed-out": 60}[why]
    changes = {
        "data": {"name": "places_lt", "image_size": 32},
        "pretrain": None,
        "finetune.epochs": epochs,
        "finetune.augment.shift": 0,
        "finetune.augment.crop_min_scale": 0.2,
    }
    store = RunStore(tmp_path / "runs")
    # The signal comes up to 60 s earlier than its 90 s before the end: with a minute, at the next look at the clock.
    process = train_in_another_process(store.root, {"time": 1 if why == "timed-out" else 60}, changes)
    (run_id,) = plan([with_overrides(smoke(), changes)], store).stages
    assert eventually(lambda: store.progress(run_id) >= 3, 60)
    job = queued()[run_id]
    if why == "preempted":
        subprocess.run(["scancel", "--signal=TERM", job], check=True)  # a warning, which is not yet the end
        time.sleep(1)
        subprocess.run(["scancel", "--signal=USR2", job])
    assert eventually(lambda: ask("squeue", "-h", "--states=PENDING", "--format=%A") == job, 60)
    seen = [store.progress(run_id)]
    assert 3 <= seen[0] < epochs
    assert eventually(lambda: seen.append(store.progress(run_id)) or process.poll() is not None, 220)
    assert process.returncode == 0, process.stderr.read()
    assert seen == sorted(seen), "complete epochs are not trained again"
    assert [row["epoch"] for row in store.load(run_id).metrics] == list(range(1, epochs + 1))
    assert jobs_of(store) == [job]
    log = (store.root / ".jobs" / f"{job}_0_log.out").read_text()
    assert f"this job is {why}" in log
    assert log.count("Starting with JobEnvironment") == log.count("Requeued job") + 1


@pytest.mark.slow
def test_a_cancelled_job_is_a_failed_run(slurm, tmp_path):
    process = train_in_another_process(tmp_path, {"nodes": 1}, {"pretrain.epochs": 1000})
    assert eventually(lambda: RunStore(tmp_path).ids(), 60)
    ((run_id, job),) = queued().items()
    subprocess.run(["scancel", job], check=True)
    assert process.wait(timeout=250) == 1
    assert f"1 of 2 runs failed, and 1 that follow were not submitted: {run_id} (" in process.stderr.read()


@pytest.mark.slow
def test_the_tasks_of_a_job_train_one_run_together(slurm, tmp_path):
    parts = {"pretrain.accumulation_steps": 2, "finetune.accumulation_steps": 2}
    train_all([with_overrides(smoke(), parts)], RunStore(tmp_path / "one"), jobs=1, progress=False)
    process = train_in_another_process(tmp_path / "two", {"ntasks_per_node": 2}, parts)
    assert process.wait(timeout=200) == 0, process.stderr.read()
    scripts = [path.read_text() for path in (tmp_path / "two" / ".jobs").glob("*_submission.sh")]
    assert len(scripts) == 2
    assert all("--kill-on-bad-exit=1" in script for script in scripts), "a task that dies ends the others"
    one, two = RunStore(tmp_path / "one"), RunStore(tmp_path / "two")
    assert one.ids() == two.ids()
    for run_id in one.ids():
        assert two.load(run_id).environment["processes"] == 2
        for row, other in zip(one.load(run_id).metrics, two.load(run_id).metrics, strict=True):
            assert row["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
