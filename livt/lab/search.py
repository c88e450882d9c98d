"""A fair search: as many validation trials for each method of the leaderboard, and what they chose.

What a trial draws is declared in ``livt.lab.ranges``. Every trial, and each default, is a run on validation images; the
best of a method is then trained on the test images. What was chosen is data, ``searched.json`` beside this module, made
of the records of the runs by ``python -m livt.lab.search --suite digits``.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from livt.config import Recipe, with_overrides
from livt.lab.failures import RunError
from livt.lab.files import dump_json, read_json, write_atomically
from livt.lab.leaderboard import methods
from livt.lab.ranges import SEARCHED, SEED, TRIALS, trials
from livt.lab.suites import SUITES, Suite

if TYPE_CHECKING:
    from livt.lab.runs import Record, RunStore

FILE = Path(__file__).with_name("searched.json")
ARMS = ("default", *(f"trial {number}" for number in range(1, TRIALS + 1)))
# Where the training images come from a pool that they would use up: as the settings for photographs were chosen.
APART: dict[str, dict[str, Any]] = {"cifar10": {"data.validation_images": 200, "data.max_count": 4800}}

Changes = dict[str, float]  # of a method's default, by dotted path


def search(suite: Suite) -> dict[str, Recipe]:
    """Return the default and the trials of each method on validation images, from MGP on the same training images.

    Keys: ``<method>/default``, ``<method>/trial 1`` and so on. Validation images are as many of each class, so that
    their accuracy is the mean over classes: of digit pairs 20 a class, of scans that neither train nor test.
    """
    apart = {"data.evaluation": "validation"} | APART.get(suite.main.data.name, {})
    arms: dict[str, Recipe] = {}
    for name, recipe in methods(suite).items():
        if name in SEARCHED:
            changes = ({}, *trials(name, recipe))
            arms |= {
                f"{name}/{arm}": with_overrides(recipe, apart | own) for arm, own in zip(ARMS, changes, strict=True)
            }
    return arms


def searched(suite: Suite) -> dict[str, Recipe]:
    """Return each method with what its trials chose, on the test images; nothing where the suite was not searched.

    Keys: ``searched/<method>``. Where the default was chosen, it is the recipe of ``mgp/<method>`` of the leaderboard.
    """
    own = next((choice for name, choice in chosen().items() if SUITES[name] is suite), {})
    defaults = methods(suite)
    return {f"searched/{name}": with_overrides(defaults[name], change) for name, change in own.items()}


# ---------------------------------------------------------------- the choice


def chosen() -> dict[str, dict[str, Changes]]:
    """Return what was chosen, by suite and method; no changes where the default was."""
    found: dict[str, dict[str, Changes]] = read_json(FILE, "take it from the repository again")
    return found


def choose(suite: str, store: "RunStore | None") -> dict[str, Changes]:
    """Return, by method, what has the best validation accuracy: no changes where the default has it, or shares it.

    Of equal trials the earlier. ``store`` None reads promoted records alone. Raises RunError where a run has no record,
    naming what is missing.
    """
    from livt.lab.find import find  # needs PyTorch, which the names of experiments do without

    arms = {arm: replace(recipe, seed=SEED) for arm, recipe in search(SUITES[suite]).items()}
    records = find(arms.values(), store)
    missing = [arm for arm, recipe in arms.items() if recipe not in records]
    if missing:
        named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise RunError(
            f"{len(missing)} of {len(arms)} validation runs of suite {suite} have no record ({named}): "
            f"`python -m livt reproduce search --suite {suite}` trains them"
        )
    found = {arm: records[recipe] for arm, recipe in arms.items()}
    return {name: _best(name, recipe, found) for name, recipe in methods(SUITES[suite]).items() if name in SEARCHED}


def _best(name: str, default: Recipe, records: "Mapping[str, Record]") -> Changes:
    scores = [records[f"{name}/{arm}"].result["accuracy"] for arm in ARMS]
    return ({}, *trials(name, default))[scores.index(max(scores))]


def main(arguments: list[str] | None = None) -> int:
    """Write what the validation runs of a suite chose into searched.json, and print it."""
    from livt.lab.runs import RunStore

    parser = ArgumentParser(prog="python -m livt.lab.search", description=main.__doc__)
    parser.add_argument("--suite", choices=SUITES, required=True)
    parser.add_argument("--runs", default="", help="the run store, default $LIVT_RUNS, else runs")
    options = parser.parse_args(arguments)
    try:
        found = choose(options.suite, RunStore(options.runs))
    except RunError as error:
        print(f"livt: error: {error}", file=sys.stderr)
        return 2
    write_atomically(FILE, dump_json(chosen() | {options.suite: found}))
    for name, change in found.items():
        print(f"{name}: {', '.join(f'{path} = {value:g}' for path, value in change.items()) or 'default'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
