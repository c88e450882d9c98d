"""One CPU thread for each test process and what it starts: results repeat, and tests side by side do not contend.

And one run store for all tests that only read what the smoke suite trains: it is trained once.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

if TYPE_CHECKING:
    from livt.companion.chapter import Panel


torch.set_num_threads(1)


@pytest.fixture(scope="session")
def smoke_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run store that the test processes share; what it lacks is trained by whoever asks first."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "smoke_runs"


@pytest.fixture(scope="session")
def panel_of(tmp_path_factory: pytest.TempPathFactory) -> "Callable[..., Panel]":
    """Return the panel of experiments on digit pairs, three seeds, of promoted records alone."""
    # The speed tests, which this file serves too, run where the companion's packages are not installed.
    from livt.companion.chapter import Panel
    from livt.lab import experiments
    from livt.lab.find import find
    from livt.lab.runs import RunStore

    def panel_of(*names: str) -> Panel:
        arms = {arm: recipe for name in names for arm, recipe in experiments.arms(name, "digits").items()}
        wanted = [replace(recipe, seed=seed) for recipe in arms.values() for seed in (0, 1, 2)]
        store = RunStore(tmp_path_factory.mktemp("runs"))
        return Panel("digits", arms, tuple(find(dict.fromkeys(wanted), store).values()), store)

    return panel_of
