"""What options and arguments stand for: recipes, files to write, settings of training."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from livt.cli.parser import is_recipe_file
from livt.config import STAGES, Engine, Recipe, with_overrides
from livt.lab.recipes import RECIPES


def recipe_of(options: argparse.Namespace) -> Recipe:
    """Return the recipe of a name or a file, with the changes of ``--data`` and ``--set``.

    Where the epochs were changed to so few that the recipe's own warm-up does not fit, it is shortened in proportion,
    and stderr says so. Raises ValueError for what is no recipe.
    """
    from livt.lab.recipe_files import read_recipe

    name = options.recipe
    recipe = read_recipe(Path(name)) if is_recipe_file(name) else RECIPES[name]()
    changes: dict[str, Any] = {"data.name": options.data} if options.data else {}
    changes |= pairs(options.set)
    shorter = _warmups(recipe, changes)
    changed = with_overrides(recipe, changes | shorter)
    for path, epochs in shorter.items():
        section = path.partition(".")[0]
        print(
            f"livt: note: {path} is {epochs:g}, shortened with {section}.epochs from {_of(recipe, path):g}; "
            f"--set {path}=... sets another",
            file=sys.stderr,
        )
    return changed


def pairs(items: Sequence[str]) -> dict[str, str]:
    """Return what ``--set`` options say, by path."""
    found = {}
    for item in items:
        path, separator, value = item.partition("=")
        if not separator:
            raise ValueError(f"--set {item}: expected SECTION.FIELD=VALUE")
        found[path] = value
    return found


def _warmups(recipe: Recipe, changes: dict[str, Any]) -> dict[str, float]:
    """Return the warm-ups that the user did not set and that new numbers of epochs leave no room for, shortened."""
    shorter = {}
    for stage in STAGES:
        settings, path = getattr(recipe, stage), f"{stage}.warmup_epochs"
        text = str(changes.get(f"{stage}.epochs", ""))
        if settings is None or path in changes or not (text.isascii() and text.isdigit() and len(text) < 10):
            continue  # what is no number of epochs is refused with the recipe
        if 1 <= int(text) <= settings.warmup_epochs:
            shorter[path] = round(settings.warmup_epochs * int(text) / settings.epochs, 6)
    return shorter


def _of(recipe: Recipe, path: str) -> float:
    section, _, field = path.partition(".")
    return getattr(getattr(recipe, section), field)


def engine_of(options: argparse.Namespace) -> Engine:
    """Return how to train."""
    return Engine(workers=options.workers, compile=options.compile, checkpointing=options.checkpointing)


def seeds_of(text: str) -> list[int]:
    """Return the seeds of a comma-separated list."""
    try:
        seeds = [int(seed) for seed in text.split(",")]
    except ValueError:
        raise ValueError(f"--seeds {text[:40]}: expected whole numbers such as 0,1,2") from None
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"--seeds {text}: a seed appears twice")
    for seed in seeds:
        replace(RECIPES["smoke"](), seed=seed)  # which says what is wrong with it
    return seeds


def new_file(option: str, name: str, suffixes: Sequence[str] = ()) -> Path:
    """Return the path of a file to write, or raise ValueError at once: where it cannot be written, or has no such name.

    That is tried, as no permission tells it of every file system.
    """
    path = Path(name)
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"{option} {name}: the name must end in {', '.join(suffixes)}")
    try:
        if path.is_dir():
            raise OSError
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError:
        raise ValueError(f"{option} {name}: cannot write a file there") from None
    return path
