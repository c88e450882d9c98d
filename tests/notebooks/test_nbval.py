"""Rerun the source notebooks with nbval, and through papermill as a user would."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

SOURCES = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
# Strict: every cell's outputs are compared, marked or not.
MODES = {"logit_bias_derivation": "--nbval"}
# Of the others, tests/browser/test_book.py compares the stored outputs with those of the book that it builds.
AT_ONCE = ("logit_bias_derivation",)


@pytest.fixture
def environment(tmp_path, smoke_runs):
    return os.environ | {"LIVT_RUNS": str(smoke_runs), "LIVT_DATA": str(tmp_path / "data")}


def nbval(path: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        MODES.get(path.stem, "--nbval-lax"),
        "--nbval-current-env",
    ]
    return subprocess.run(
        [*command, "-c", os.devnull, "--rootdir", path.parent, path], capture_output=True, text=True, env=environment
    )


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem, marks=() if p.stem in AT_ONCE else pytest.mark.slow) for p in SOURCES]
)
def test_a_notebook_reruns_to_its_stored_outputs(path, environment):
    result = nbval(path, environment)
    cells = sum(c.cell_type == "code" for c in nbformat.read(path, as_version=4).cells)
    assert result.returncode == 0, result.stdout[-3000:]
    assert f"{cells} passed" in result.stdout


def test_the_derivation_is_checked_in_every_cell_that_shows_something():
    path = next(p for p in SOURCES if p.stem == "logit_bias_derivation")
    notebook = nbformat.read(path, as_version=4)
    printing = [c for c in notebook.cells if c.cell_type == "code" and ("print(" in c.source or "assert " in c.source)]
    assert len(printing) >= 6
    assert all(c.source.startswith("# NBVAL_CHECK_OUTPUT") for c in printing)


def test_a_changed_output_fails(tmp_path, environment):
    """The check above can fail: one digit of a stored output makes nbval object."""
    path = next(p for p in SOURCES if p.stem == "logit_bias_derivation")
    notebook = nbformat.read(path, as_version=4)
    cell = next(c for c in notebook.cells if c.cell_type == "code" and c.outputs and "text" in c.outputs[0])
    cell.outputs[0]["text"] = cell.outputs[0]["text"].rstrip() + "1\n"
    changed = tmp_path / path.name
    nbformat.write(notebook, changed)
    result = nbval(changed, environment)
    assert result.returncode == 1
    assert "1 failed" in result.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_papermill_describes_each_parameter(path):
    parameters = papermill.inspect_notebook(str(path))
    assert parameters
    assert all(p["help"] for p in parameters.values())


def test_a_wrong_parameter_stops_papermill_before_training(tmp_path, monkeypatch):
    monkeypatch.setenv("LIVT_RUNS", str(tmp_path / "runs"))
    path = next(p for p in SOURCES if p.stem == "loss_ablation")
    message = "unknown parameter sedes; this notebook takes suite, seeds, device, jobs"
    with pytest.raises(papermill.PapermillExecutionError, match=message):
        papermill.execute_notebook(
            path, tmp_path / "out.ipynb", {"sedes": "[0, 1]"}, kernel_name="python3", progress_bar=False
        )
    assert not (tmp_path / "runs").exists()
