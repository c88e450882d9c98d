"""Trains each run of a plan as a job of a SLURM cluster.

The run store is the only meeting point: what is finished, and how far the rest is, is read from it.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock

from livt.config import Engine, Recipe
from livt.data.batches import loading_processes
from livt.distributed import process_group
from livt.lab.failures import RunError
from livt.lab.plan import Plan, usable_device
from livt.lab.runs import RunStore
from livt.lab.stages import train

JOBS = ".jobs"  # in the run store: what submitit hands to the jobs, and their logs
ASK_EVERY = 15.0  # seconds between two looks at the queue: kind to SLURM
SHOWN_WITHIN = 120.0  # seconds that a shared file system may take to show the result of a job that has left the queue
PATIENCE = 600.0  # seconds without an answer from SLURM, as while its controller is started anew
TIME_LIMIT = 240  # minutes of a job, if not given; a longer run is requeued
MAX_TIMEOUTS = 100  # after so many time limits a run fails: else one whose epoch takes longer would never end
_LISTS = {"setup", "teardown", "srun_args"}
_OURS = {"name", "job_name", "additional_parameters", "stderr_to_stdout", "num_gpus"}


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
            train(self.stage, self.recipe, self.store, device=str(device), progress=False, engine=engine)

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
    trained = set[str]()
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
                trained.add(run_id)
                ready += plan.follows(run_id, trained)
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
        left = len(plan.behind(failed))
        logs = {run_id: folder / f"{job_id}_0_log.err" for run_id, job_id in failed.items()}
        named = (f"{run_id} ({log if log.exists() else 'its job never started'})" for run_id, log in logs.items())
        raise RunError(
            f"{len(failed)} of {len(plan.stages)} runs failed"
            + (f", and {left} that follow were not submitted" if left else "")
            + f": {', '.join(named)}; saved epochs are kept, and the same command goes on from them"
        )
