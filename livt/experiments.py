"""Which recipes answer which table or figure; trains what is missing, returns a tidy frame.

An experiment is a function of a profile and seeds that lists recipes. Nothing here decides how one recipe trains.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.synchronize import Event

import pandas as pd
from tqdm import tqdm

from livt.config import LOSSES, Recipe, with_overrides
from livt.data import check_fit, load_dataset
from livt.finetune import finetune
from livt.pretrain import pretrain
from livt.recipes import PROFILES
from livt.runs import Record, RunError, RunStore

METRICS = ["many", "medium", "few", "accuracy", "ece", "mce"]
COLUMNS = ["loss", "size", "seed", *METRICS, "run"]


def loss_ablation(profile: str, seeds: Sequence[int]) -> list[Recipe]:
    """Table 5: CE, Bal-CE, BCE and Bal-BCE from one pretraining per seed."""
    return [
        with_overrides(PROFILES[profile](), {"seed": seed, "finetune.loss": loss}) for loss in LOSSES for seed in seeds
    ]


EXPERIMENTS: dict[str, Callable[[str, Sequence[int]], list[Recipe]]] = {"loss_ablation": loss_ablation}


def reproduce(
    experiment: str,
    profile: str,
    seeds: Sequence[int],
    store: RunStore,
    *,
    jobs: int | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """Train what the experiment lacks and return a row per fine-tuning run, with the columns ``COLUMNS``."""
    recipes = EXPERIMENTS[experiment](profile, seeds)
    train_all(recipes, store, jobs=jobs, device=device, progress=progress)
    return results(records(recipes, store))


def records(recipes: Sequence[Recipe], store: RunStore) -> list[Record]:
    """Return the finished fine-tuning run of each recipe. Raises RunError for one that is missing or damaged."""
    return [store.load(store.id(r.stage("finetune"), load_dataset(r.data).digest)) for r in recipes]


def results(runs: Sequence[Record]) -> pd.DataFrame:
    """Return one tidy row per run; percentages, nan for an empty group."""
    rows = [
        {
            "loss": run.recipe.finetune.loss,
            "size": run.recipe.model.size,
            "seed": run.recipe.seed,
            **{name: run.result[name] for name in METRICS},
            "run": run.id,
        }
        for run in runs
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(METRICS, float))


def curves(runs: Sequence[Record]) -> pd.DataFrame:
    """Return one tidy row per run and epoch: loss, seed, run and the epoch's metrics."""
    rows = [
        {"loss": run.recipe.finetune.loss, "seed": run.recipe.seed, "run": run.id, **row}
        for run in runs
        for row in run.metrics
    ]
    return pd.DataFrame(rows)


def train_all(
    recipes: Sequence[Recipe],
    store: RunStore,
    *,
    jobs: int | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> None:
    """Train every recipe that is not in the store, several side by side, each on one CPU thread.

    ``jobs`` None takes one process per CPU core, or one process on a GPU. A pretraining shared by several recipes is
    trained once. The first failure stops the rest and is raised; finished runs stay.
    """
    jobs = jobs or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    jobs = jobs if device == "cpu" else 1
    stages: dict[str, tuple[str, Recipe]] = {}
    follows: dict[str, list[str]] = {}
    for recipe in recipes:
        data = load_dataset(recipe.data)
        check_fit(recipe, data)
        data_digest = data.digest
        run_id = store.id(recipe.stage("finetune"), data_digest)
        if store.is_finished(run_id):
            store.load(run_id)  # a damaged run is named before anything trains
            continue
        stages[run_id] = ("finetune", recipe)
        if recipe.pretrain:
            first = store.id(recipe.stage("pretrain"), data_digest)
            if not store.is_finished(first):
                stages[first] = ("pretrain", recipe)
                follows.setdefault(first, []).append(run_id)
    if not stages:
        return
    if jobs == 1:
        for stage, recipe in sorted(stages.values(), key=lambda work: work[0] == "finetune"):
            _train(stage, recipe, store, device, progress)
        return
    ready = [run_id for run_id in stages if not any(run_id in after for after in follows.values())]
    _train_side_by_side(stages, follows, ready, store, min(jobs, len(stages)), device, progress)


def _train_side_by_side(
    stages: Mapping[str, tuple[str, Recipe]],
    follows: Mapping[str, list[str]],
    ready: Sequence[str],
    store: RunStore,
    jobs: int,
    device: str,
    progress: bool,
) -> None:
    total = sum(getattr(recipe, stage).epochs for stage, recipe in stages.values())
    mininterval = 0.2 if sys.stderr.isatty() else 10.0
    bar = tqdm(total=total, disable=not progress, unit="epoch", mininterval=mininterval)
    context = get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(jobs, context, _start_worker, (os.getpid(), stop))
    running: dict[Future[None], str] = {}
    done: list[str] = []

    def submit(run_ids: Sequence[str]) -> None:
        for run_id in run_ids:
            running[pool.submit(_train, *stages[run_id], store, device, False)] = run_id

    try:
        submit(ready)
        while running:
            finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in finished:
                run_id = running.pop(future)
                future.result()
                done.append(run_id)
                submit(follows.get(run_id, []))
            bar.set_description(f"{len(done)} of {len(stages)} runs", refresh=False)
            bar.update(sum(store.progress(run_id) for run_id in stages) - bar.n)
    except BrokenProcessPool:
        raise RunError(
            "a training process was killed, perhaps for lack of memory: try fewer jobs; complete epochs are kept, "
            "and the same command goes on from them"
        ) from None
    finally:
        bar.close()
        if running:
            stop.set()
        pool.shutdown(wait=not running, cancel_futures=True)


def _start_worker(parent: int, stop: Event) -> None:
    """End at once with the parent or at its word: a run survives a kill at any instant."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent and not stop.wait(timeout=1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train(stage: str, recipe: Recipe, store: RunStore, device: str, progress: bool) -> None:
    (pretrain if stage == "pretrain" else finetune)(recipe, store, device=device, progress=progress)
