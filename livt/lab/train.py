"""Train what the run store lacks of some recipes, on this machine or as jobs of a cluster."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from livt.config import Engine, Recipe
from livt.data.sets import load_dataset
from livt.lab.find import tell_of_other_code
from livt.lab.local import devices_of, train_side_by_side
from livt.lab.plan import Plan, TimeIsUp
from livt.lab.runs import RunStore
from livt.lab.slurm import train_as_jobs
from livt.lab.stages import check_recipe, run_id


def train_all(
    recipes: Sequence[Recipe],
    store: RunStore,
    *,
    jobs: int | None = None,
    device: str = "cpu",
    progress: bool = True,
    engine: Engine = Engine(),
    executor: Literal["local", "slurm", "submitit"] = "local",
    slurm: Mapping[str, Any] | None = None,
    deadline: float | None = None,
) -> None:
    """Train every recipe that is not in the store; a pretraining shared by several recipes is trained once.

    ``executor`` "local" trains on this machine, several runs side by side, each on one GPU or CPU thread: ``jobs``
    processes, None for one per GPU or CPU core. "slurm" submits a job for each run, with the ``slurm`` parameters, and
    waits for them; there ``device`` may be "auto". "submitit" does the same without SLURM, on this machine. At
    ``deadline``, a value of ``time.monotonic``, local training ends with TimeIsUp.
    """
    missing = plan(recipes, store)
    tell_of_other_code(recipes, store)
    if not missing.stages:
        return
    if deadline is not None and time.monotonic() > deadline:
        raise TimeIsUp
    if executor == "local":
        devices = devices_of(device, torch.cuda.device_count(), jobs)
        train_side_by_side(missing, store, devices, engine=engine, progress=progress, deadline=deadline)
    else:
        train_as_jobs(
            missing,
            store,
            device=device,
            engine=engine,
            progress=progress,
            parameters=slurm or {},
            cluster="slurm" if executor == "slurm" else "local",
        )


def plan(recipes: Sequence[Recipe], store: RunStore) -> Plan:
    """Return the stages of the recipes that are not in the store. Raises RunError where what is there is damaged."""
    stages: dict[str, tuple[str, Recipe]] = {}
    needs: dict[str, frozenset[str]] = {}
    images: dict[str, int] = {}

    def add(stage: str, recipe: Recipe) -> str:
        """Plan a stage and what it needs; return its run id, or nothing where it is finished."""
        name = run_id(stage, recipe, store)
        if store.is_finished(name):
            store.load(name)  # a damaged run is named before anything trains
            return ""
        if name not in stages:
            needed = frozenset(add(need, recipe) for need in recipe.needs(stage)) - {""}
            stages[name], needs[name] = (stage, recipe), needed
            batch_size = getattr(recipe, stage).batch_size
            images[name] = load_dataset(recipe.data_of(stage)).steps_per_epoch(batch_size) * batch_size
        return name

    for recipe in dict.fromkeys(recipes):
        check_recipe(recipe)
        add(recipe.last_stage, recipe)
    return Plan(stages, needs, images)
