"""What a chapter begins with: its parameters, checked; its runs, trained or found; and all suites that it can show."""

import ast
import contextlib
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from livt.companion import plots
from livt.companion.report import in_seeds
from livt.config import Recipe
from livt.data.sets import Dataset, load_dataset
from livt.lab import experiments
from livt.lab.find import data_sets, find, starts
from livt.lab.leaderboard import NAMES, PAPER
from livt.lab.results import curves, results
from livt.lab.runs import Record, RunStore
from livt.lab.suites import RENAMED, SUITES, Suite
from livt.lab.train import train_all

UNSHOWN = ("smoke",)  # suites that learn nothing: shown only where they are what was asked for
PHOTOGRAPHS = ("photos", "photos_tiny", "photos_10")  # what the first page and the ledger lead with


def photographs_first(panels: Iterable["Panel"]) -> list["Panel"]:
    """Return panels in their order, but those of photographs before all others."""
    return sorted(panels, key=lambda panel: (*PHOTOGRAPHS, panel.name).index(panel.name))


@dataclass(frozen=True)
class Panel:
    """One experiment on one suite, as a chapter shows it.

    name: of the suite. arms: recipes at seed 0. records: of the fine-tuning runs, in the order of arms and seeds.
    """

    name: str
    arms: Mapping[str, Recipe]
    records: tuple[Record, ...]
    store: RunStore

    @property
    def suite(self) -> Suite:
        return SUITES[self.name]

    @property
    def title(self) -> str:
        """The data, and how many seeds: what stands above a panel, a column, or a tab."""
        return f"{self.suite.title}, {in_seeds(self.measured.seed.nunique())}"

    @cached_property
    def measured(self) -> pd.DataFrame:
        """A row per run and arm, as from ``livt.lab.results.results``."""
        return results(self.records, self.arms)

    @property
    def compares(self) -> bool:
        """Whether two arms have runs."""
        return len({replace(record.recipe, seed=0) for record in self.records}) > 1

    @cached_property
    def curves(self) -> pd.DataFrame:
        """A row per run and epoch."""
        return curves(self.records)

    @cached_property
    def starts(self) -> list[Record]:
        """The pretraining runs that these runs start from."""
        return [run for run in starts(self.records, self.store) if run.stage == "pretrain"]

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """Training images of each class, [C], as the first run had them."""
        return np.array(self.records[0].result["class_counts"])

    @property
    def chance(self) -> float:
        """Accuracy of guessing, percent."""
        return 100 / len(self.class_counts)


@dataclass(frozen=True)
class Chapter:
    """An open chapter: what it was told, and where its runs are. ``parameters`` holds all that it was told."""

    parameters: SimpleNamespace
    suite: str
    seeds: tuple[int, ...]
    device: str
    store: RunStore

    def recipes(self, experiment: str) -> list[Recipe]:
        """Return the recipes of an experiment on the suite that this chapter trains."""
        return experiments.recipes(experiment, self.suite, self.seeds or None)

    def data(self, experiment: str) -> Dataset:
        """Return the images of an experiment's first arm on the suite that this chapter trains."""
        return load_dataset(self.recipes(experiment)[0].data)

    def train(self, *names: str) -> None:
        """Train what the run store lacks of some experiments, of those that a build trains on the suite."""
        own = experiments.trained(self.suite)
        wanted = [recipe for name in names if name in own for recipe in self.recipes(name)]
        train_all(wanted, self.store, jobs=self.parameters.jobs or None, device=self.device)

    def panel(self, *names: str) -> Panel:
        """Return the experiments on the suite that this chapter trains, as one."""
        return self._panel(self.suite, names)

    def panels(self, *names: str) -> list[Panel]:
        """Return the experiments on every suite that has records of them, this chapter's own suite first.

        Of another suite there must be two arms: one alone, as a part of another experiment, compares nothing.
        """
        there = data_sets(self.store)  # what an experiment would cost is not worked out where there is nothing
        others = [s for s in SUITES if s not in (self.suite, *UNSHOWN) and SUITES[s].main.data.name in there]
        own = self._panel(self.suite, names)
        compared = [panel for panel in (self._panel(name, names) for name in others) if panel.compares]
        return [own, *compared] if own.records else compared

    def shows(self, experiment: str, suite: str) -> bool:
        """Return whether pages show an experiment on a suite.

        Where costs are counted for it, only if it has a run; the four losses on another suite than the chapter's, if
        each has one.
        """
        if experiment not in experiments.shown(suite):
            return False
        if experiment == "loss_ablation" and suite != self.suite:
            wanted = experiments.recipes(experiment, suite)
            return {recipe.finetune.loss for recipe in find(wanted, self.store)} == set(experiments.PAPER_LOSSES)
        return experiment not in experiments.COUNTED or self._has(experiment, suite)

    @cached_property
    def _raced(self) -> frozenset[str]:
        """Suites that have a run of the leaderboard beside the paper's losses: of others, its costs are not counted."""
        rivals = [f"mgp/{name}" for name in NAMES if name not in PAPER]
        wanted = {suite: experiments.recipes("rivals", suite, only=rivals) for suite in SUITES}
        return frozenset(suite for suite, recipes in wanted.items() if find(recipes, self.store))

    def _has(self, experiment: str, suite: str) -> bool:
        """Whether a suite has a run of an experiment for whose arms costs are counted: they are not, for that."""
        if experiment not in experiments.SOUGHT_BY:
            return suite in self._raced
        arms = experiments.SOUGHT_BY[experiment](SUITES[suite]).values()
        return bool(
            find(
                [replace(arm, seed=seed) for arm in arms for seed in experiments.seeds_of(experiment, suite)],
                self.store,
            )
        )

    def _panel(self, suite: str, names: Iterable[str]) -> Panel:
        arms: dict[str, Recipe] = {}
        wanted: list[Recipe] = []
        for name in names:
            if self.shows(name, suite):
                arms |= experiments.arms(name, suite)
                trains = suite == self.suite and name in experiments.trained(suite)
                own = self.seeds if trains else ()  # what the chapter does not train, it shows whole
                wanted += experiments.recipes(name, suite, own or None)
        return Panel(suite, arms, tuple(find(dict.fromkeys(wanted), self.store).values()), self.store)


def open_chapter(namespace: MutableMapping[str, Any], **more: Any) -> Chapter:
    """Check a notebook's parameters and set the style of its figures; call it with ``globals()`` behind them.

    A chapter that trains takes ``suite``, ``seeds`` (empty: those of the suite), ``device`` and ``jobs``; one that does
    not may have ``suite`` alone. ``more`` gives the kinds of others, as for :func:`check_parameters`. Raises ValueError
    for a parameter that is unknown or ill-typed.
    """
    kinds = {"suite": tuple(SUITES), "seeds": list[int], "device": ("auto", "cpu", "cuda"), "jobs": int}
    parameters = check_parameters(namespace, **{k: v for k, v in kinds.items() if k in namespace}, **more)
    for name, value in {"seeds": [], "device": "auto", "jobs": 0}.items():
        vars(parameters).setdefault(name, value)
    plots.use_style()
    on_gpu = parameters.device == "cuda" or (parameters.device == "auto" and torch.cuda.is_available())
    device = "cuda" if on_gpu else "cpu"
    return Chapter(parameters, parameters.suite, tuple(parameters.seeds), device, RunStore())


def check_parameters(namespace: MutableMapping[str, Any], **allowed: Any) -> SimpleNamespace:
    """Return a notebook's parameters, checked; call it in the cell behind ``parameters`` with ``globals()``.

    ``allowed`` gives, for each parameter, a type (``int``, not negative; ``float``; ``str``), ``list[int]`` or a tuple
    of choices. A string is read as a literal where another type is asked for, as papermill's ``-p seeds '[0, 1]'``
    gives a string. Raises ValueError for a parameter that is unknown (a plain value in the namespace that is not
    allowed, when the cell first runs), ill-typed or not among the choices, naming what is allowed.
    """
    literals = (bool, int, float, str, list, tuple, dict, type(None))
    given = {k for k, v in namespace.items() if isinstance(v, literals) and not k.startswith("_")} - {"In", "Out"}
    unknown = sorted(given - allowed.keys()) if "_parameters_checked" not in namespace else []
    for name in unknown:
        if name in RENAMED:
            value = RENAMED.get(namespace[name], namespace[name])
            raise ValueError(f"parameter {name} is now {RENAMED[name]}: give {RENAMED[name]}={value}")
    if unknown:
        raise ValueError(f"unknown parameter {', '.join(unknown)}; this notebook takes {', '.join(allowed)}")
    namespace["_parameters_checked"] = True  # the cell may run again, when the notebook has values of its own
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
        fits = isinstance(value, list | tuple) and all(type(v) is int and v >= 0 for v in value)
        if not fits or len(set(value)) != len(value):
            raise ValueError(f"parameter {name} must be a list of different whole numbers, like [0, 1], not {value!r}")
        return list(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind or (kind is int and value < 0):
        raise ValueError(f"parameter {name} must be {kind.__name__}{' from 0' * (kind is int)}, not {value!r}")
    return value
