"""The results of an experiment as tidy frames: a row per run, a column per metric; what is missing is trained."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import pandas as pd

from livt.config import Recipe
from livt.lab.check import recipe_of
from livt.lab.experiments import PAPER_LOSSES, arms, recipes
from livt.lab.failures import RunError
from livt.lab.find import find
from livt.lab.runs import Record, RunStore
from livt.lab.train import train_all

METRICS = ["many", "medium", "few", "accuracy", "ece", "mce", "share_to_95"]
RARE = ("early_distance", "survivors", "tail_lead")  # a column where a run has it
COLUMNS = ["arm", "loss", "size", "seed", *METRICS, "part", "run"]


def reproduce(
    experiment: str, suite: str, store: RunStore, seeds: Sequence[int] | None = None, **how: Any
) -> pd.DataFrame:
    """Train what the experiment lacks and return a row per run, with the columns ``COLUMNS``.

    ``seeds`` None takes those of the suite. ``how`` is handed to :func:`livt.lab.train.train_all`.
    """
    wanted = recipes(experiment, suite, seeds)
    train_all(wanted, store, **how)
    return results(records(wanted, store), arms(experiment, suite))


def table_of(
    experiments: Sequence[str], suite: str, store: RunStore, seeds: Sequence[int] | None = None
) -> pd.DataFrame:
    """Return a row per run that has a record; of several experiments, with a column that names the experiment."""
    tables = []
    for name in experiments:
        table = results(find(recipes(name, suite, seeds), store).values(), arms(name, suite))
        if len(experiments) > 1:
            table.insert(0, "experiment", name)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def records(recipes: Sequence[Recipe], store: RunStore) -> list[Record]:
    """Return the record of each recipe. Raises RunError for one that is missing or damaged."""
    found = find(recipes, store)
    for recipe in recipes:
        if recipe not in found:
            raise RunError(f"no run of {recipe.data.name}, {recipe.finetune.loss}, seed {recipe.seed} in {store.root}")
    return [found[recipe] for recipe in recipes]


def results(
    runs: Iterable[Record], arms: Mapping[str, Recipe] | None = None, part: Literal["", "posthoc"] = ""
) -> pd.DataFrame:
    """Return one tidy row per run and arm that it belongs to, in the order of the arms.

    Values are percentages, nan for an empty group.

    ``arms`` None takes the loss as the arm. Runs of no arm are left out. ``part`` "posthoc" gives the metrics of plain
    losses after their balanced bias was taken from the logits at test; a run of a balanced loss has none. A run with
    several heads has a row for each besides, of the arm "<arm>, <head>". What is ``RARE`` has a column where a run has
    it.
    """
    names: dict[Recipe, list[str]] = {}
    for name, recipe in (arms or {}).items():
        names.setdefault(told(recipe), []).append(name)
    rows = []
    for run in runs:
        recipe = run.recipe
        found = run.result.get(part) if part else run.result
        if found is None:
            continue
        other = "deit_lt" if recipe.distill else recipe.cluster.method if recipe.cluster else None
        loss = other or (recipe.meta or recipe.finetune).loss
        named = loss if recipe.second is None else f"{loss}, {recipe.second.method}"
        for arm in names.get(told(recipe), []) if arms else [named]:
            about = {"loss": loss, "size": recipe.model.size, "seed": recipe.seed, "run": run.id}
            heads = {} if part else run.result.get("heads", {})
            every = {arm: (found, part)} | {f"{arm}, {head}": (own, f"heads.{head}") for head, own in heads.items()}
            for name, (scores, where) in every.items():
                values = {metric: scores.get(metric) for metric in METRICS}
                values |= {metric: scores[metric] for metric in RARE if metric in scores}
                rows.append({"arm": name, **about, **values, "part": where})
    more = [metric for metric in RARE if any(metric in row for row in rows)]
    table = pd.DataFrame(rows, columns=[*COLUMNS, *more]).astype(dict.fromkeys(METRICS, float))
    order = {name: i for i, name in enumerate(arms or PAPER_LOSSES)}
    return table.sort_values("arm", key=lambda column: column.map(order), kind="stable", ignore_index=True)


def told(recipe: Recipe) -> Recipe:
    """Return a recipe at seed 0 as its run tells it, without what does not decide the run."""
    return replace(recipe_of(recipe.last_stage, recipe.stage(recipe.last_stage)), seed=0)


def curves(runs: Sequence[Record]) -> pd.DataFrame:
    """Return one tidy row per run and epoch: loss, seed, run and the epoch's metrics."""
    named = ({"loss": run.recipe.finetune.loss, "seed": run.recipe.seed, "run": run.id} for run in runs)
    return pd.DataFrame([about | row for about, run in zip(named, runs, strict=True) for row in run.metrics])
