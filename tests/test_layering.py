"""The package's floors: a module imports only from floors below its own, and light modules stay light."""

import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import pytest
from house import imports, module_file, modules

# Lowest first. A module is on the floor of the longest name here that it is or is in.
FLOORS = (
    (
        "livt",
        "livt.config",
        "livt.distributed",
        "livt.longtail",
        "livt.losses",
        "livt.mae",
        "livt.metrics",
        "livt.models",
        "livt.optim",
        "livt.resnets",
        "livt.rival_sections",
        "livt.run",
        "livt.sections",
    ),
    ("livt.data",),
    ("livt.evaluate", "livt.finetune", "livt.pretrain", "livt.probes"),
    ("livt.clustering", "livt.rivals"),
    ("livt.lab",),
    ("livt.companion",),
    ("livt.__main__", "livt.cli"),
)
PAPER = [name for number in (0, 2) for name in FLOORS[number]]
# What the notebooks extra brings, beside what it only runs.
EXTRA = {"IPython", "bs4", "matplotlib", "nbformat", "papermill", "plotly", "seaborn", "sympy"}
LIGHT = (
    "livt",
    "livt.config",
    "livt.longtail",
    "livt.metrics",
    "livt.lab.recipes",
    "livt.lab.suites",
    "livt.lab.experiments",
    "livt.companion.published",
    "livt.__main__",
)


def floor(name: str) -> int:
    """Return the number of a module's floor."""
    floors = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    while name not in floors:
        name = name.rpartition(".")[0]
    return floors[name]


def own(name: str) -> set[str]:
    """Return the modules of this package that a module imports; ``livt`` itself is a name, not code."""
    return imports(name) & set(modules()) - {"livt"}


def test_every_module_of_the_paper_has_a_floor():
    """A new file beside them is refused: ``livt`` itself would be taken for its floor."""
    beside = {name for name in modules() if name.count(".") == 1 and module_file(name).name != "__init__.py"}
    assert beside == {room for rooms in FLOORS for room in rooms if module_file(room).is_file()} - {
        name for name in modules() if module_file(name).name == "__init__.py"
    }


def test_nothing_imports_upward():
    upward = [f"{name} imports {other}" for name in modules() for other in own(name) if floor(other) > floor(name)]
    assert not upward


def test_no_module_imports_itself_by_way_of_others():
    try:
        list(TopologicalSorter({name: own(name) for name in modules()}).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' imports '.join(reversed(error.args[1]))}")


def test_only_the_companion_needs_the_notebooks_extra():
    for name in modules():
        needed = {other.partition(".")[0] for other in imports(name)} & EXTRA
        assert name.startswith("livt.companion") or not needed, f"{name} imports {', '.join(sorted(needed))}"


def test_the_base_install_imports_everything_outside_the_companion():
    brought = sorted(EXTRA - {"sympy"})  # torch itself needs that one
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in brought)
    outside = [name for name in modules() if not name.startswith("livt.companion")]
    code = f"import sys\n{blocked}import {', '.join(outside)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_command_line_and_the_names_of_recipes_start_without_torch():
    code = f"import sys, {', '.join(LIGHT)}; print([name for name in ('torch', 'timm') if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_the_loops_know_no_store():
    """They are given an open run and the encoder's weights."""
    for name in FLOORS[2]:
        assert not [other for other in own(name) if other.startswith("livt.lab")]
        assert "RunStore" not in module_file(name).read_text()


def test_no_room_is_for_odds_and_ends():
    """A module is named for its one idea."""
    words = {"utils", "util", "helpers", "common", "misc", "tools"}
    assert not [name for name in modules() if words & set(name.split("."))]


def test_the_paper_can_be_read():
    """What a newcomer reads is about 2,000 lines, and no module of it is long."""
    # What connects processes, what a ViT is compared with, and settings of stages that no result of the paper has: they
    # lie this low only because a recipe holds them.
    beside = {"livt.distributed", "livt.resnets", "livt.rival_sections"}
    lines = {name: len(module_file(name).read_text().splitlines()) for name in PAPER if name not in beside}
    assert sum(lines.values()) < 2250, lines
    assert max(count for name, count in lines.items() if name != "livt.sections") < 300, lines
