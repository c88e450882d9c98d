"""Trains the runs of a plan on this machine, by processes side by side.

The run store is the only meeting point: what is finished, and how far the rest is, is read from it.
"""

import os
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

from tqdm import tqdm

from livt.config import Engine, Recipe
from livt.data.batches import loading_processes
from livt.distributed import cores
from livt.lab.failures import RunError
from livt.lab.plan import Plan, TimeIsUp
from livt.lab.runs import RunStore
from livt.lab.stages import train


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
        for stage, recipe in plan.stages.values():
            train(stage, recipe, store, device=devices[0], progress=progress, engine=engine)
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
    trained = set[str]()

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
                trained.add(run_id)
                submit(plan.follows(run_id, trained))
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
    train(stage, recipe, store, device=_worker_device, progress=False, engine=engine)


# ---------------------------------------------------------------- jobs of a cluster
