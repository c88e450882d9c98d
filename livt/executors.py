"""Trains the runs that an experiment lacks: by processes side by side, or each as a job of a SLURM cluster.

The run store is the only meeting point: what is finished, and how far the rest is, is read from it.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from tqdm import tqdm

from livt.batches import loading_processes
from livt.config import Engine, Recipe
from livt.distributed import cores, process_group
from livt.finetune import finetune
from livt.pretrain import pretrain
from livt.runs import RunError, RunStore

JOBS = ".jobs"  # in the run store: what submitit hands to the jobs, and their logs
ASK_EVERY = 15.0  # seconds between two looks at the queue: kind to SLURM
SHOWN_WITHIN = 120.0  # seconds that a shared file system may take to show the result of a job that has left the queue
PATIENCE = 600.0  # seconds without an answer from SLURM, as while its controller is started anew
TIME_LIMIT = 240  # minutes of a job, if not given; a longer run is requeued
MAX_TIMEOUTS = 100  # after so many time limits a run fails: else one whose epoch takes longer would never end
_LISTS = {"setup", "teardown", "srun_args"}
_OURS = {"name", "job_name", "additional_parameters", "stderr_to_stdout", "num_gpus"}


class TimeIsUp(Exception):
    """The time that was given for training is over; saved epochs are kept."""


@dataclass(frozen=True)
class Plan:
    """The stages to train, by run id, and for each pretraining the fine-tunings that wait for it."""

    stages: Mapping[str, tuple[str, Recipe]]
    follows: Mapping[str, Sequence[str]]

    @property
    def ready(self) -> list[str]:
        """The runs that wait for no other."""
        waiting = {run_id for followers in self.follows.values() for run_id in followers}
        return [run_id for run_id in self.stages if run_id not in waiting]

    def progress_bar(self, shown: bool) -> tqdm:
        """Return a bar over the epochs of all stages."""
        total = sum(getattr(recipe, stage).epochs for stage, recipe in self.stages.values())
        mininterval = 0.2 if sys.stderr.isatty() else 10.0
        return tqdm(total=total, disable=not shown, unit="epoch", mininterval=mininterval)

    def show(self, bar: tqdm, store: RunStore) -> None:
        """Bring the bar to what the store holds."""
        done = sum(store.is_finished(run_id) for run_id in self.stages)
        bar.set_description(f"{done} of {len(self.stages)} runs", refresh=False)
        bar.update(sum(store.progress(run_id) for run_id in self.stages) - bar.n)


def usable_device(name: str) -> str:
    """Return the device of a name, "auto" being the GPU where there is one. Raises ValueError for one of no use."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.is_available():
        return name  # not tried: of several processes, each would take memory of the first GPU
    try:
        torch.ones(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return name


def _train(stage: str, recipe: Recipe, store: RunStore, device: str, progress: bool, engine: Engine = Engine()) -> None:
    (pretrain if stage == "pretrain" else finetune)(recipe, store, device=device, progress=progress, engine=engine)


# ---------------------------------------------------------------- processes side by side


def devices_of(device: str, gpus: int, jobs: int | None = None) -> list[str]:
    """Return the device of each process side by side.

    "cuda" stands for all ``gpus`` of the machine; "cuda:1" and others for one device. ``jobs`` None takes a process per
    GPU, or per CPU core.

    >>> devices_of("cuda", gpus=2, jobs=3)
    ['cuda:0', 'cuda:1', 'cuda:0']
    """
    if device == "cuda":
        return [f"cuda:{number % gpus}" for number in range(jobs or gpus)]
    return [device] * (jobs or (cores() if device == "cpu" else 1))


def train_side_by_side(
    plan: Plan,
    store: RunStore,
    devices: Sequence[str],
    *,
    engine: Engine,
    progress: bool,
    deadline: float | None = None,
) -> None:
    """Train every stage of a plan on this machine, with one process for each of ``devices``.

    The first failure stops the rest and is raised; finished runs stay. So does, as TimeIsUp, the ``deadline``, a value
    of ``time.monotonic``.
    """
    devices = devices[: len(plan.stages)]
    if len(devices) == 1 and deadline is None:  # a limit needs a process that can be ended
        for stage, recipe in sorted(plan.stages.values(), key=lambda work: work[0] == "finetune"):
            _train(stage, recipe, store, devices[0], progress, engine)
        return
    if engine.workers is None:  # the processes share the cores
        engine = replace(engine, workers=loading_processes(len(devices)))
    bar = plan.progress_bar(progress)
    context = get_context("spawn")
    stop = context.RawValue("b", 0)  # an Event would wait for a killed worker to take notice
    unclaimed = context.SimpleQueue()
    for device in devices:
        unclaimed.put(device)
    pool = ProcessPoolExecutor(len(devices), context, _start_worker, (os.getpid(), stop, unclaimed))
    running: dict[Future[None], str] = {}

    def submit(run_ids: Sequence[str]) -> None:
        for run_id in run_ids:
            running[pool.submit(_train_in_worker, *plan.stages[run_id], store, engine)] = run_id

    try:
        submit(plan.ready)
        while running:
            finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in finished:
                run_id = running.pop(future)
                future.result()
                submit(plan.follows.get(run_id, []))
            plan.show(bar, store)
            if deadline is not None and time.monotonic() > deadline and running:
                stop.value = 1
                wait(running)  # the processes end themselves
                running.clear()
                raise TimeIsUp
    except BrokenProcessPool:
        raise RunError(
            "a training process was killed, perhaps for lack of memory: try fewer jobs; saved epochs are kept, "
            "and the same command goes on from them"
        ) from None
    finally:
        bar.close()
        if running:
            stop.value = 1
        pool.shutdown(wait=not running, cancel_futures=True)


_worker_device = ""  # of this process, if it is a worker: one GPU for all its runs


def _start_worker(parent: int, stop: Any, unclaimed: Any) -> None:
    """End at once with the parent or at its word: a run survives a kill at any instant. Claim a device."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which an end at once would leave behind

    def watch() -> None:
        while os.getppid() == parent and not stop.value:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    global _worker_device
    _worker_device = unclaimed.get()


def _train_in_worker(stage: str, recipe: Recipe, store: RunStore, engine: Engine) -> None:
    _train(stage, recipe, store, _worker_device, False, engine)


# ---------------------------------------------------------------- jobs of a cluster


@dataclass(frozen=True)
class Job:
    """One stage as a job: submitit pickles it, and calls it on the node, as often as the job is started there.

    The node decides what device "auto" is. Several tasks of a job train its run together.
    """

    stage: str
    recipe: Recipe
    store: RunStore
    device: str
    engine: Engine

    def __call__(self) -> None:
        from submitit import JobEnvironment
        from submitit.helpers import TorchDistributedEnvironment

        engine = self.engine
        if engine.workers is None and (cores := os.environ.get("SLURM_CPUS_PER_TASK")):  # its own, not all of the node
            engine = replace(engine, workers=min(loading_processes(), int(cores)))
        if JobEnvironment().num_tasks > 1:  # each task sees all GPUs of its node and takes the one of its number
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        with process_group(torch.device(usable_device(self.device))) as device:
            _train(self.stage, self.recipe, self.store, str(device), False, engine)

    def checkpoint(self) -> Any:
        """Return what to submit when SLURM wants the node back: the same again; it goes on from the last epoch."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def parse_parameters(items: Iterable[str]) -> dict[str, Any]:
    """Return ``--slurm`` options as a mapping; those that are lists collect their values.

    >>> parse_parameters(["partition=gpu", "time=240", "setup=module load cuda", "exclusive=true"])
    {'partition': 'gpu', 'time': 240, 'setup': ['module load cuda'], 'exclusive': True}
    """
    parameters: dict[str, Any] = {}
    for item in items:
        key, separator, text = item.partition("=")
        if not separator:
            raise ValueError(f"--slurm {item}: expected KEY=VALUE")
        if key in _LISTS:
            parameters.setdefault(key, []).append(text)
        elif re.fullmatch(r"\d+", text):
            parameters[key] = int(text)
        elif re.fullmatch(r"\d+\.\d+", text):
            parameters[key] = float(text)
        else:
            parameters[key] = {"true": True, "false": False}.get(text, text)
    return parameters


def _create_executor(folder: Path, parameters: Mapping[str, Any], cluster: str) -> Any:
    """Return submitit's executor, or say what is wrong with the machine or the parameters."""
    try:
        import submitit
    except ImportError:
        raise RunError("jobs are submitted by a package that is missing: pip install 'livt[cluster]'") from None
    if cluster == "slurm" and not shutil.which("sbatch"):
        raise RunError("there is no SLURM on this machine (no sbatch): train here with --executor local")
    whole = {"time", "timeout_min", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node", "ntasks_per_node"}
    shared = {"timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node"}
    known = (shared | submitit.SlurmExecutor._valid_parameters()) - _OURS
    for key, value in parameters.items():
        if key not in known:
            raise ValueError(f"--slurm {key}: unknown; known are {', '.join(sorted(known))}")
        if key in whole and type(value) is not int:
            unit = " of minutes" if key in ("time", "timeout_min") else ""
            raise ValueError(f"--slurm {key}={value}: expected a whole number{unit}")
        if key == "mem_gb" and type(value) not in (int, float):
            raise ValueError(f"--slurm mem_gb={value}: expected a number of gigabytes")
    # One task that dies ends the others, which would wait for it in vain.
    parameters = {**parameters, "srun_args": ["--kill-on-bad-exit=1", *parameters.get("srun_args", [])]}
    named = {key if key in shared else f"slurm_{key}": value for key, value in parameters.items()}
    if "cpus_per_task" in named:  # from SLURM 22.05 on, srun no longer takes this over from sbatch
        export = "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"
        named["slurm_setup"] = [export, *named.get("slurm_setup", [])]
    executor = submitit.AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=MAX_TIMEOUTS)
    requeue = {"requeue": True}  # allowed, whatever the cluster's default
    executor.update_parameters(**{"timeout_min": TIME_LIMIT, **named}, slurm_additional_parameters=requeue)
    return executor


def _queue(folder: Path, patience: float = 0.0) -> dict[str, str]:
    """Return the job ids of this store's runs that SLURM has queued or runs, whichever command submitted them.

    Jobs have the names of their runs; those of another store are told apart by what submitit left in the folder.
    """
    end = time.monotonic() + patience
    while True:
        command = ["squeue", "--me", "--noheader", "--format=%A %j"]
        answer = subprocess.run(command, capture_output=True, text=True)
        if answer.returncode == 0:
            jobs = (line.split(maxsplit=1) for line in answer.stdout.splitlines())
            return {name: job_id for job_id, name in jobs if (folder / f"{job_id}_submitted.pkl").exists()}
        if time.monotonic() > end:
            raise RunError(f"SLURM does not answer: {answer.stderr}; jobs that were submitted go on")
        time.sleep(10)


def train_as_jobs(
    plan: Plan,
    store: RunStore,
    *,
    device: str,
    engine: Engine,
    progress: bool,
    parameters: Mapping[str, Any],
    cluster: Literal["slurm", "local"] = "slurm",
) -> None:
    """Train every stage of a plan as a job of its own, named by its run, and wait for all.

    A run that is in the queue already, of an earlier command, is followed instead of submitted again. A fine-tuning is
    submitted when its pretraining is finished, so that no job waits for another while it holds a GPU.

    ``parameters`` are submitit's or sbatch's. ``cluster`` "local" starts the jobs on this machine without SLURM. Raises
    RunError at the end if runs have failed, naming each with its log; the runs that follow them are left out.
    """
    executor = _create_executor(store.root / JOBS, parameters, cluster)
    folder = executor.folder
    folder.mkdir(parents=True, exist_ok=True)
    submitted: dict[str, Any] = {}
    if cluster == "slurm":
        _queue(folder)  # where SLURM does not answer now, it is not waited for
    queue: Callable[[], dict[str, str]] = {
        "slurm": lambda: _queue(folder, PATIENCE),
        "local": lambda: {run_id: job.job_id for run_id, job in submitted.items() if not job.done()},
    }[cluster]

    ready, active = plan.ready, dict[str, str]()  # active: the job of each run that is queued or in training
    failed, absent, asked = dict[str, str](), dict[str, float](), float("-inf")  # absent: since when
    bar = plan.progress_bar(progress)

    def submit(run_id: str) -> str:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        executor.update_parameters(name=run_id)
        try:
            with redirect_stderr(StringIO()):  # submitit prints what sbatch says, and raises it as well
                submitted[run_id] = executor.submit(Job(*plan.stages[run_id], store, device, engine))
        except (FailedJobError, FailedSubmissionError) as error:
            raise RunError(f"the job of {run_id} was refused: {error}; jobs that were submitted go on") from None
        return submitted[run_id].job_id

    try:
        while ready or active:
            if ready or time.monotonic() - asked > ASK_EVERY:
                with FileLock(folder / "submit.lock"):  # of two commands at once, one submits and the other follows
                    queued = queue()
                    for run_id in ready:
                        finished = store.is_finished(run_id)  # perhaps in the meantime, by another command
                        active[run_id] = queued.get(run_id) or ("" if finished else submit(run_id))
                if not ready:
                    asked = time.monotonic()
                    missing = [run_id for run_id in active if run_id not in queued and not store.is_finished(run_id)]
                    absent = {run_id: absent.get(run_id, asked) for run_id in missing}
                    late = [run_id for run_id, since in absent.items() if asked - since > SHOWN_WITHIN]
                    failed |= {run_id: active.pop(run_id) for run_id in late}
                ready = []
            for run_id in [run_id for run_id in active if store.is_finished(run_id)]:
                del active[run_id]
                ready += plan.follows.get(run_id, [])
            plan.show(bar, store)
            if active and not ready:
                time.sleep(1)
    except KeyboardInterrupt:
        job_ids = " ".join(filter(None, active.values()))
        raise KeyboardInterrupt(
            f"jobs go on: the same command follows them and submits the rest; to end them: scancel {job_ids}"
        ) from None
    finally:
        bar.close()
    if failed:
        left = sum(len(plan.follows.get(run_id, [])) for run_id in failed)
        logs = {run_id: folder / f"{job_id}_0_log.err" for run_id, job_id in failed.items()}
        named = (f"{run_id} ({log if log.exists() else 'its job never started'})" for run_id, log in logs.items())
        raise RunError(
            f"{len(failed)} of {len(plan.stages)} runs failed"
            + (f", and {left} that follow were not submitted" if left else "")
            + f": {', '.join(named)}; saved epochs are kept, and the same command goes on from them"
        )
