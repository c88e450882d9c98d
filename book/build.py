"""Build the book: run every notebook with papermill at one profile, then render the pages.

Executed notebooks go to ``book/notebooks/``, each under a temporary name until it has run to its end. What they train
stays in the run store, so a second build trains nothing.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill

from livt.__main__ import PROFILE_NAMES
from livt.runs import RunError, read_promoted, write_atomically

BOOK = Path(__file__).resolve().parent
SOURCES = BOOK.parent / "notebooks"


def run_notebook(source: Path, target: Path, profile: str) -> None:
    """Execute ``source`` and write it to ``target``, without the paths and times that papermill adds."""
    known = papermill.inspect_notebook(str(source))
    parameters = {"profile": profile} if "profile" in known else {}
    temporary = target.with_name(f".{target.name}.tmp.ipynb")
    try:
        papermill.execute_notebook(
            source,
            temporary,
            parameters,
            kernel_name="python3",
            cwd=BOOK.parent,
            progress_bar=False,
            stderr_file=sys.stderr,  # the training's own progress bars
        )
        notebook = nbformat.read(temporary, as_version=4)
    finally:
        temporary.unlink(missing_ok=True)
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        for added in ("papermill", "execution"):
            cell.metadata.pop(added, None)
    write_atomically(target, nbformat.writes(notebook).encode())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", choices=PROFILE_NAMES, default="cpu")
    profile = parser.parse_args().profile
    os.environ.setdefault("LIVT_RUNS", str(BOOK.parent / "runs"))
    os.environ.setdefault("LIVT_DATA", str(BOOK.parent / "data"))

    try:
        promoted = read_promoted(BOOK / "results")
    except RunError as error:
        print(f"book: error: {error}", file=sys.stderr)
        return 2
    print(f"book: {len(promoted)} promoted records agree with their configurations", flush=True)

    executed = BOOK / "notebooks"
    executed.mkdir(exist_ok=True)
    for source in sorted(SOURCES.glob("*.ipynb")):
        print(f"book: running {source.name} at profile {profile}", flush=True)
        try:
            run_notebook(source, executed / source.name, profile)
        except papermill.PapermillExecutionError as error:
            print(f"book: error: {source.name}: {error.ename}: {error.evalue}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nbook: interrupted; the same command goes on where it stopped", file=sys.stderr, flush=True)
            os._exit(130)  # a clean exit would print the tracebacks of the notebook client's own tasks

    print("book: rendering the pages", flush=True)
    program = Path(sys.executable).with_name("jupyter-book")
    status = subprocess.run([program, "build", BOOK, "-n", "-W", "--keep-going", "-q"]).returncode
    if status == 0:
        print(f"book: open {(BOOK / '_build' / 'html' / 'index.html').as_uri()}")
    return status


if __name__ == "__main__":
    sys.exit(main())
