"""What was to be trained on photographs, and judged how, written down before the first run on the test images.

The rules are those of the ledger (``livt.companion.claims``, ``livt.companion.statistics``): limits from the published
tables, one number per seed, Student's interval, Holm's method over the contrasts of a suite. Arms and seeds are those
of ``livt.lab.experiments`` and ``livt.lab.suites``. Nothing is left out once it is trained, and no seed is replaced.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from livt.config import Recipe
from livt.lab import experiments
from livt.lab.find import find, starts
from livt.lab.promoted import promoted_folder, read_promoted
from livt.lab.runs import Record, RunStore
from livt.lab.suites import SUITES


@dataclass(frozen=True, kw_only=True)
class Planned:
    """An experiment on a suite: the claims that it tests, and its estimated cost in hours of one CPU core."""

    suite: str
    experiment: str
    claims: tuple[str, ...]
    hours: float


# In the order of training. What is trained for one experiment is not trained again for the next. After the first three
# seeds of the loss ablation and of the controls, and before any run of a sweep, the sweeps (and all of factor 10) went
# from the ViT of the loss ablation to one of half its parameters, and the sizes from nano, mini and midi to pico, nano
# and mini: runs took 1.5 times what had been estimated, and the whole would not have been trained in 24 core-hours.
# Tiny-ImageNet-LT followed them to that ViT later, before any of the runs that are planned on it, for the same reason.
# The rows of the networks and of the resolution were added when those seeds were known. Arms, seeds and rules of the
# others are the first ones.
PLAN = (
    Planned(suite="photos", experiment="loss_ablation", claims=("C4", "C5", "C6", "C7", "C8", "C9"), hours=2.3),
    Planned(suite="photos", experiment="controls", claims=("C4", "C5", "C7", "C8"), hours=1.4),
    Planned(suite="photos", experiment="networks", claims=("C1",), hours=1.5),
    Planned(suite="photos", experiment="model_size", claims=("C12",), hours=1.1),
    Planned(suite="photos", experiment="recipes_lt_vs_balanced", claims=("C2", "C3"), hours=2.8),
    Planned(suite="photos_tiny", experiment="resolution", claims=("C10",), hours=1.5),
    Planned(suite="photos", experiment="equal_compute", claims=(), hours=0.7),
    Planned(suite="photos_tiny", experiment="loss_ablation", claims=("C4", "C5", "C6", "C7", "C8", "C9"), hours=0.8),
    Planned(suite="photos_tiny", experiment="controls", claims=("C4", "C5", "C7", "C8"), hours=0.8),
    Planned(suite="photos", experiment="anatomy", claims=("C4", "C5", "C6", "C7", "C8"), hours=3.1),
    Planned(suite="photos_10", experiment="loss_ablation", claims=("C4", "C5", "C6", "C7", "C8", "C9"), hours=1.3),
    Planned(suite="photos_10", experiment="controls", claims=("C4", "C5", "C7", "C8"), hours=0.7),
    # Added later, before the first of its runs: the rule of C11 is older.
    Planned(suite="photos", experiment="rivals", claims=("C11",), hours=4.1),
)


def state(store: RunStore) -> pd.DataFrame:
    """Return a row per entry of the plan: data, experiment, claims, runs planned, runs there, hours.

    Hours are of one CPU core: as estimated, and as spent on the runs that are there and on those that they start from,
    each counted where it is first needed.
    """
    rows, counted = [], set[str]()
    for entry in PLAN:
        recipes = experiments.recipes(entry.experiment, entry.suite)
        found = find(recipes, store).values()
        runs = {run.id: run for run in (*found, *starts(found, store)) if run.id not in counted}
        counted |= runs.keys()
        rows.append(
            {
                "data": SUITES[entry.suite].title,
                "experiment": entry.experiment,
                "claims": ", ".join(entry.claims) or "-",
                "runs planned": len(recipes),
                "runs there": len(found),
                "hours estimated": entry.hours,
                "hours spent": round(sum(run.environment["wall_time_s"] for run in runs.values()) / 3600, 1),
            }
        )
    return pd.DataFrame(rows)


def validation_runs(store: RunStore) -> list[Record]:
    """Return the promoted runs by which settings were chosen, on validation images, and what these start from."""
    records = read_promoted(promoted_folder()).values()
    tried = [r for r in records if r.stage != "pretrain" and r.config["data"]["evaluation"] == "validation"]
    tried.sort(key=lambda record: record.result["accuracy"])
    return list({run.id: run for run in (*tried, *starts(tried, store))}.values())


def missing(store: RunStore | None) -> Iterable[Recipe]:
    """Yield the recipes of the plan that have no record, in its order."""
    for entry in PLAN:
        recipes = experiments.recipes(entry.experiment, entry.suite)
        found = find(recipes, store)
        yield from (recipe for recipe in recipes if recipe not in found)
