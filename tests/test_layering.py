"""The package's floors: a module imports only from floors below its own, and light modules stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import livt

FLOORS = {
    "config": 0,
    "distributed": 0,
    "longtail": 0,
    "metrics": 0,
    "paper": 0,
    "losses": 1,
    "optim": 1,
    "runs": 1,
    "recipes": 1,
    "augment": 1,
    "images": 1,
    "archive": 2,
    "batches": 2,
    "data": 2,
    "models": 2,
    "mae": 3,
    "evaluate": 3,
    "probes": 3,
    "pretrain": 4,
    "finetune": 4,
    "executors": 5,
    "experiments": 6,
    "report": 7,
    "plots": 7,
    "interactive": 7,
    "provenance": 7,
    "__main__": 7,
}
# Steps sideways: metrics speaks of shot groups, and what moves on a page has the colours of the figures.
SIDEWAYS = {("metrics", "longtail"), ("interactive", "plots")}
ROOT = Path(livt.__file__).parent


def imported_modules(path: Path) -> set[str]:
    """Names of livt modules that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "livt":
            found |= {alias.name for alias in node.names if alias.name in FLOORS}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("livt."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("livt.")}
    return found


def test_every_module_has_a_floor():
    assert {p.stem for p in ROOT.glob("*.py")} - {"__init__"} == set(FLOORS)


def test_modules_import_only_from_floors_below():
    wrong = [
        f"{path.stem} imports {name}"
        for path in ROOT.glob("*.py")
        for name in imported_modules(path)
        if path.stem in FLOORS and FLOORS[name] >= FLOORS[path.stem] and (path.stem, name) not in SIDEWAYS
    ]
    assert not wrong


def test_the_command_line_and_the_data_floor_start_without_torch():
    modules = "livt, livt.__main__, livt.config, livt.longtail, livt.metrics, livt.paper"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"
