"""Build the book: train what the run store lacks of one suite, run the notebooks, check their numbers, render.

Executed notebooks go to ``book/notebooks/``, each only when it has run to its end. What was trained stays in the run
store, so a second build trains nothing.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
import papermill
import torch
from check import check_html, check_notebooks, compare_promoted, reader

from livt.companion import landing
from livt.companion.chapter import open_chapter
from livt.lab.experiments import everything
from livt.lab.failures import RunError
from livt.lab.files import write_atomically
from livt.lab.promoted import read_promoted
from livt.lab.runs import RunStore
from livt.lab.suites import SUITES
from livt.lab.train import train_all

BOOK = Path(__file__).resolve().parent
SOURCES = BOOK.parent / "notebooks"
# Of MathJax, the pages load this program, its fonts, rare TeX packages and the spoken English of its menu.
MATHJAX_KEPT = (
    "tex-chtml.js",
    "output/chtml/fonts/woff-v2",
    "input/tex/extensions",
    "a11y",
    "sre/mathmaps/base.json",
    "sre/mathmaps/en.json",
    "sre/mathmaps/nemeth.json",
)
MATHJAX_REST = ("input/tex/extensions/all-packages.js",)
# What marks a cell for nbval is of no use to a reader.
CHECKED = "# NBVAL_CHECK_OUTPUT\n"
# The HTML that a cell with this tag displays stands on a page above the notebooks too, which reads it from this file.
SHARED = {"ledger-summary": "ledger_summary.html"}
# What the build itself writes of the first page: what it begins with, and three classes.
RESULT_BOX, CLASSES = "result_box.html", "three_classes.html"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", choices=SUITES, default="digits")
    suite = parser.parse_args().suite
    os.environ.setdefault("LIVT_RUNS", str(BOOK.parent / "runs"))
    os.environ.setdefault("LIVT_DATA", str(BOOK.parent / "data"))
    os.chdir(BOOK.parent)
    store = RunStore()
    try:
        promoted = read_promoted(BOOK / "results")
        print(f"book: {len(promoted)} promoted records agree with their configurations", flush=True)
        train(suite, store)
        run_notebooks(sorted(SOURCES.glob("*.ipynb")), BOOK / "notebooks", suite)
        executed = sorted((BOOK / "notebooks").glob("*.ipynb"))
        load, known = reader(store, promoted), list(promoted.values())
        checked, problems = check_notebooks(executed, load, known)
        for name, html in first_page(suite).items():
            found, wrong = check_html(html, load, known)
            checked, problems = checked + found, problems + [f"{name}: {problem}" for problem in wrong]
            write_atomically(BOOK / "notebooks" / name, html.encode())
    except (BookError, RunError, FloatingPointError, ValueError, OSError) as error:
        return fail(str(error))
    except KeyboardInterrupt:
        print("\nbook: interrupted; the same command goes on where it stopped", file=sys.stderr, flush=True)
        os._exit(130)  # a clean exit would wait for the notebooks that still run
    for problem in problems:
        print(f"book: error: {problem}", file=sys.stderr)
    if problems:
        return fail(f"{len(problems)} of {checked} displayed numbers differ from their records")
    if suite == "digits" and checked == 0:
        return fail("no displayed number names its runs, so none could be checked")
    print(f"book: {checked} displayed numbers agree with the records of their runs", flush=True)
    print(f"book: {compare_promoted(promoted, store)}", flush=True)
    return render("html", BOOK / "_build" / "html" / "index.html")


class BookError(RuntimeError):
    """The book cannot be built; the message names the page."""


def fail(message: str) -> int:
    print(f"book: error: {message}", file=sys.stderr)
    return 1


def train(suite: str, store: RunStore) -> None:
    """Train everything that the notebooks show, in one pool; they only read the run store then."""
    recipes = everything(suite)
    print(f"book: training what {store.root} lacks of {len(recipes)} runs of suite {suite}", flush=True)
    train_all(recipes, store, device="cuda" if torch.cuda.is_available() else "cpu")


def first_page(suite: str) -> dict[str, str]:
    """Return the HTML that the first page reads, by file."""
    chapter = open_chapter({"suite": suite})
    box = landing.result_box(chapter.panels(*landing.EXPERIMENTS))
    return {RESULT_BOX: box, CLASSES: landing.three_classes(chapter.panels("loss_ablation"))}


def run_notebooks(sources: Sequence[Path], folder: Path, suite: str) -> None:
    """Execute the notebooks into ``folder``, several at a time. The first failure is raised; what has run stays."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.ipynb"):
        if old.name not in {source.name for source in sources}:
            old.unlink()
    side_by_side = min(4, os.cpu_count() or 1)
    if side_by_side > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # the kernels would contend for the cores
    print(f"book: running {len(sources)} notebooks, {side_by_side} at a time", flush=True)
    pool = ThreadPoolExecutor(side_by_side)
    running = {pool.submit(run_notebook, source, folder / source.name, suite): source.name for source in sources}
    try:
        for future in as_completed(running):
            print(f"book: {running[future]} took {future.result():.0f} s", flush=True)
    except papermill.PapermillExecutionError as error:
        raise BookError(f"{running[future]}: {error.ename}: {error.evalue}") from None
    except KeyboardInterrupt:
        raise
    except Exception as error:  # a kernel that died or did not start
        raise BookError(f"{running[future]}: {error}") from error
    finally:
        pool.shutdown(wait=sys.exc_info()[0] is not KeyboardInterrupt, cancel_futures=True)


def run_notebook(source: Path, target: Path, suite: str) -> float:
    """Execute ``source`` and write it to ``target``, without what papermill adds; return the seconds it took."""
    start = time.monotonic()
    known = papermill.inspect_notebook(str(source))
    given = {"suite": suite, "seeds": []}
    parameters = {name: value for name, value in given.items() if name in known}
    notebook = papermill.execute_notebook(
        source,
        None,
        parameters,
        kernel_name="python3",
        progress_bar=False,
        extra_arguments=["--IPKernelApp.log_level=50"],  # the kernel's own remarks at start and end
    )
    notebook.metadata.pop("papermill", None)
    defaults, injected = (tagged(notebook, tag) for tag in ("parameters", "injected-parameters"))
    if injected:  # papermill sets values in a second cell, which contradicts the first
        defaults[0].source = with_values(defaults[0].source, parameters)
        notebook.cells.remove(injected[0])
    for cell in notebook.cells:
        cell.source = cell.source.removeprefix(CHECKED)
        for added in ("papermill", "execution"):
            cell.metadata.pop(added, None)
        for tag in SHARED.keys() & set(cell.metadata.get("tags", [])):
            content = "".join(output.data["text/html"] for output in cell.outputs)
            content = re.sub(r'href="(?=[\w-]+\.html)', f'href="{target.parent.name}/', content)
            write_atomically(target.with_name(SHARED[tag]), content.encode())
    write_atomically(target, nbformat.writes(notebook).encode())
    return time.monotonic() - start


def tagged(notebook: nbformat.NotebookNode, tag: str) -> list[nbformat.NotebookNode]:
    """Return the cells of a notebook that have a tag."""
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def with_values(source: str, values: Mapping[str, object]) -> str:
    """Return the text of a parameters cell with other values, each with its comment."""
    for name, value in values.items():
        source = re.sub(rf"(?m)^{name} = .*?(?=  #)", lambda _: f"{name} = {value!r}", source)  # noqa: B023
    return source


def render(builder: str, page: Path) -> int:
    """Render the executed notebooks and the chapters with a builder of Sphinx; return its exit status."""
    print("book: rendering the pages", flush=True)
    program = Path(sys.executable).with_name("jupyter-book")
    command = [program, "build", BOOK, "--builder", builder, "-n", "-W", "--keep-going", "-q"]
    status = subprocess.run(command, stdout=subprocess.DEVNULL).returncode  # its warnings are on stderr
    if status == 0:
        trim_mathjax(page.parent / "_static" / "mathjax")
        strip_outputs(page.parent / "_sources" / "notebooks")
        print(f"book: open {page.as_uri()}")
    else:  # a page read with a warning would be taken as read, without the warning, by the next build
        shutil.rmtree(BOOK / "_build" / ".doctrees", ignore_errors=True)
    return status


def strip_outputs(folder: Path) -> None:
    """Delete the outputs of the notebooks that a reader downloads: the pages show them, and they are half of a book."""
    for path in folder.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        write_atomically(path, nbformat.writes(notebook).encode())


def trim_mathjax(folder: Path) -> None:
    """Delete the files of MathJax which no page loads: other programs, output formats and spoken languages."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        kept = any(name == entry or name.startswith(f"{entry}/") for entry in MATHJAX_KEPT)
        if path.is_file() and (not kept or name in MATHJAX_REST):
            path.unlink()


if __name__ == "__main__":
    sys.exit(main())
