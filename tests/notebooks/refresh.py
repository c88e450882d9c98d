"""Run the source notebooks at their default parameters and store the outputs of checked cells, and of no others."""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

SOURCES = Path(__file__).parents[2] / "notebooks"
CHECKED = "# NBVAL_CHECK_OUTPUT"


def refresh(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as runs:
        os.environ["LIVT_RUNS"] = runs
        client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": runs}})
        client.coalesce_streams = True  # of a busy machine, output comes in pieces
        client.execute()
    for number, cell in enumerate(c for c in notebook.cells if c.cell_type == "code"):
        checked = cell.source.startswith(CHECKED)
        cell.outputs = cell.outputs if checked else []
        cell.execution_count = number + 1 if checked else None
        cell.metadata.pop("execution", None)
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = cell.execution_count
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(SOURCES.glob("*.ipynb")):
        refresh(Path(name))
        print(name)
