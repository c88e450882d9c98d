"""Which recipes answer which table or figure; trains what is missing, returns a tidy frame.

An experiment is a function of a profile and seeds that lists recipes. Nothing here decides how one recipe trains.
"""

import ast
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from livt.config import LOSSES, Recipe, with_overrides
from livt.data import load_dataset
from livt.finetune import finetune
from livt.paper import LOSS_CLAIMS, LOSS_NAMES, Claim, Estimate, estimate, published, verdict
from livt.pretrain import pretrain
from livt.recipes import PROFILES
from livt.runs import Record, RunStore

COLUMNS = ["loss", "size", "seed", "many", "medium", "few", "accuracy", "ece", "mce", "run"]
SEEDS = (0, 1, 2)


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
            **{name: run.result[name] for name in COLUMNS[3:9]},
            "run": run.id,
        }
        for run in runs
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(COLUMNS[3:9], float))


def curves(runs: Sequence[Record]) -> pd.DataFrame:
    """Return one tidy row per run and epoch: loss, seed, run and the epoch's metrics."""
    rows = [
        {"loss": run.recipe.finetune.loss, "seed": run.recipe.seed, "run": run.id, **row}
        for run in runs
        for row in run.metrics
    ]
    return pd.DataFrame(rows)


def comparison(measured: pd.DataFrame, models: Sequence[str] = ("ViT-Tiny", "ViT-Base")) -> pd.DataFrame:
    """Return mean ± standard deviation over seeds by loss, each beside Table 5's rows for ``models``.

    measured: as from ``results``. Index: loss and source; columns: the metrics, percent, as text.
    """
    metrics = COLUMNS[3:9]
    table = published("table5_loss_by_model_size")
    rows = {}
    for loss, name in LOSS_NAMES.items():
        runs = measured[measured.loss == loss]
        found = {metric: estimate(runs[metric].dropna()) for metric in metrics}
        rows[name, f"measured, {len(runs)} seeds"] = {m: _spread(e) for m, e in found.items()}
        for model in models:
            row = table[(table.model == model) & (table.loss == name)].iloc[0]
            rows[name, f"paper, {model}"] = {metric: f"{row[metric]:.1f}" for metric in metrics}
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=["loss", "source"])
    return frame


def _spread(e: Estimate) -> str:
    return "-" if e.n == 0 else f"{e.mean:.1f}" if e.n == 1 else f"{e.mean:.1f} ± {e.std:.1f}"


def judge(measured: pd.DataFrame, claims: Sequence[Claim] = LOSS_CLAIMS) -> pd.DataFrame:
    """Return a row per claim: its number over seeds with the 95 % interval, the paper's, its threshold, the verdict."""
    rows = []
    for claim in claims:
        values, paper = claim.measured(measured), claim.published()
        e = estimate(values)
        rows.append(
            {
                "claim": claim.id,
                "statement": claim.statement,
                "seeds": e.n,
                "measured [points]": _spread(e),
                "95 % interval": "-" if e.n < 2 else f"{e.low:.1f} to {e.high:.1f}",
                "paper, over sizes": f"{paper.min():.1f} to {paper.max():.1f}",
                "threshold": claim.threshold,
                "verdict": verdict(values, floor=claim.floor, threshold=claim.threshold),
            }
        )
    return pd.DataFrame(rows)


def published_panels(models: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return Table 5's rows of each model by panel title, with the loss names of this package."""
    table = published("table5_loss_by_model_size")
    table["loss"] = table["loss"].map({name: loss for loss, name in LOSS_NAMES.items()})
    return {f"paper, {model} on ImageNet-LT, 1 seed": table[table.model == model] for model in models}


def verdict_sentence(measured: pd.DataFrame) -> str:
    """Return the answer in one Markdown sentence, computed from the runs."""
    rows = judge(measured).set_index("claim")
    parts = [
        f"{text} by {row['measured [points]']} points (95 % interval {row['95 % interval']}; "
        f"paper {row['paper, over sizes']}): **{row['verdict']}**"
        for text, row in (("Bal-BCE exceeds BCE", rows.loc["C5"]), ("Bal-BCE exceeds Bal-CE", rows.loc["C6"]))
    ]
    return f"Over {rows.loc['C5', 'seeds']} seeds, {'; '.join(parts)}."


def provenance(runs: Sequence[Record]) -> pd.DataFrame:
    """Return a row per run: what made it, where, and how long it took."""
    rows = []
    for run in runs:
        about = run.environment
        commit = f"{about['commit'][:10]}{' + changes' if about['dirty'] else ''}" if about["commit"] else "unknown"
        rows.append(
            {
                "run": run.id,
                "seed": run.config["seed"],
                "from": run.result.get("pretrain_run") or "-",
                "data": about["data_digest"],
                "commit": commit,
                "device": about["device"],
                "threads": about["threads"],
                "torch": about["packages"]["torch"],
                "images/s": about["images_per_second"],
                "seconds": about["wall_time_s"],
            }
        )
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
        data_digest = load_dataset(recipe.data).digest
        run_id = store.id(recipe.stage("finetune"), data_digest)
        if store.is_finished(run_id):
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
    finally:
        bar.close()
        if running:
            stop.set()
        pool.shutdown(wait=not running, cancel_futures=True)


def _start_worker(parent: int, stop: Event) -> None:
    """Train on one thread; end at once with the parent or at its word: a run survives a kill at any instant."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent and not stop.wait(timeout=1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train(stage: str, recipe: Recipe, store: RunStore, device: str, progress: bool) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if device == "cpu" else threads)
    try:
        (pretrain if stage == "pretrain" else finetune)(recipe, store, device=device, progress=progress)
    finally:
        torch.set_num_threads(threads)


def check_parameters(namespace: Mapping[str, Any], **allowed: Any) -> SimpleNamespace:
    """Return a notebook's parameters, checked; call it in the cell behind ``parameters`` with ``globals()``.

    ``allowed`` gives, for each parameter, a type (``int``, ``str``), ``list[int]`` or a tuple of choices. A string is
    read as a literal where another type is asked for, as papermill's ``-p seeds '[0, 1]'`` gives a string. Raises
    ValueError for a parameter that is unknown (a plain value in the namespace that is not allowed), ill-typed or not
    among the choices, naming what is allowed.
    """
    literals = (bool, int, float, str, list, tuple, dict, type(None))
    given = {k for k, v in namespace.items() if isinstance(v, literals) and not k.startswith("_")} - {"In", "Out"}
    if unknown := sorted(given - allowed.keys()):
        raise ValueError(f"unknown parameter {', '.join(unknown)}; this notebook takes {', '.join(allowed)}")
    return SimpleNamespace(**{name: _check_parameter(name, namespace[name], kind) for name, kind in allowed.items()})


def _check_parameter(name: str, value: Any, kind: Any) -> Any:
    if isinstance(kind, tuple):
        if value not in kind:
            raise ValueError(f"parameter {name} = {value!r} is not one of {', '.join(kind)}")
        return value
    if isinstance(value, str) and kind is not str:
        with contextlib.suppress(ValueError, SyntaxError):  # the check below names the type it should have
            value = ast.literal_eval(value)
    if kind == list[int]:
        fits = isinstance(value, list | tuple) and len(value) > 0 and all(type(v) is int and v >= 0 for v in value)
        if not fits or len(set(value)) != len(value):
            raise ValueError(f"parameter {name} must be a list of different whole numbers, like [0, 1], not {value!r}")
        return list(value)
    if type(value) is not kind:
        raise ValueError(f"parameter {name} must be {kind.__name__}, not {value!r}")
    return value
