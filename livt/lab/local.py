"""Trains the runs of a plan on this machine, by processes side by side.

The run store is the only meeting point: what is finished, and how far the rest is, is read from it.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import active_children, get_context
from types import FrameType
from typing import NoReturn

from livt.config import Engine, Recipe
from livt.data.batches import loading_processes
from livt.distributed import cores
from livt.lab import worker
from livt.lab.failures import Ended, RunError
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
    of ``time.monotonic``, and, as Ended, a signal that ends this process.
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
    unclaimed = context.SimpleQueue()
    for device in devices:
        unclaimed.put(device)
    others = set(active_children())
    pool = ProcessPoolExecutor(len(devices), context, worker.start, (os.getpid(), unclaimed))
    running: dict[Future[None], str] = {}
    trained = set[str]()

    def submit(run_ids: Sequence[str]) -> None:
        for run_id in run_ids:
            with worker.signals_held():
                running[pool.submit(_train_in_worker, *plan.stages[run_id], store, engine)] = run_id

    try:
        with _signals_raised():
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
                    raise TimeIsUp
    except BrokenProcessPool:
        raise RunError(
            "a training process was killed, perhaps for lack of memory: try fewer jobs; saved epochs are kept, "
            "and the same command goes on from them"
        ) from None
    finally:
        if running:  # a run survives a kill at any instant
            for process in set(active_children()) - others:
                process.kill()
        pool.shutdown(cancel_futures=True)
        with suppress(OSError):  # of a terminal that was closed
            bar.close()


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Raise Ended, once, where a signal would end this process; one that is ignored, as under nohup, stays so."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    ours = [s for s in map(signal.Signals.__getitem__, names) if signal.getsignal(s) == signal.SIG_DFL]

    def end(number: int, _: FrameType | None) -> NoReturn:
        for each in ours:
            signal.signal(each, signal.SIG_IGN)
        raise Ended(number)

    if threading.current_thread() is not threading.main_thread():
        ours = []
    for each in ours:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each in ours:
            signal.signal(each, signal.SIG_DFL)


def _train_in_worker(stage: str, recipe: Recipe, store: RunStore, engine: Engine) -> None:
    train(stage, recipe, store, device=worker.device, progress=False, engine=engine)
