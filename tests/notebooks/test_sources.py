"""The source notebooks keep the rules that the book relies on; nbval reruns them (tests/notebooks/test_nbval.py)."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

SOURCES = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
CHECKED = "# NBVAL_CHECK_OUTPUT"


@pytest.fixture(params=SOURCES, ids=lambda path: path.stem)
def notebook(request):
    found = nbformat.read(request.param, as_version=4)
    nbformat.validate(found)
    return found


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert {"loss_ablation", "logit_bias_derivation"} <= {path.stem for path in SOURCES}


def test_size_and_title(notebook):
    assert len(notebook.cells) <= 27
    assert notebook.cells[0].source.startswith("# ")
    titles = [line for c in notebook.cells if c.cell_type == "markdown" for line in c.source.splitlines()]
    assert sum(line.startswith("# ") for line in titles) == 1


def test_parameters_are_commented_literals_checked_in_the_next_cell(notebook):
    cells = code(notebook)
    assert [i for i, c in enumerate(cells) if "parameters" in c.metadata.get("tags", [])] == [0]
    for line in cells[0].source.splitlines():
        assert re.fullmatch(r"\w+ = .+  # .+", line), line
    tree = ast.parse(cells[0].source)
    assert all(ast.literal_eval(node.value) is not ... for node in tree.body)
    names = {target.id for node in tree.body for target in node.targets}
    opened = [n for n in ast.walk(ast.parse(cells[1].source)) if isinstance(n, ast.Call)]
    call = next(n for n in opened if ast.unparse(n.func) in ("open_chapter", "check_parameters"))
    every = {"suite", "seeds", "device", "jobs"} if ast.unparse(call.func) == "open_chapter" else set()
    own = {keyword.arg for keyword in call.keywords}
    assert own <= names <= own | every


def test_checked_cells_have_outputs_and_others_have_none(notebook):
    """nbval passes a marked cell without outputs whatever it prints: such a check would check nothing."""
    checked = [c for c in code(notebook) if c.source.startswith(CHECKED)]
    assert checked
    for cell in code(notebook):
        has_output = any(o.get("text", "").strip() or o.get("data") for o in cell.outputs)
        assert has_output == cell.source.startswith(CHECKED), cell.source


def test_no_training_code_and_no_class(notebook):
    for cell in code(notebook):
        tree = ast.parse(cell.source)
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
        called = {ast.unparse(n.func).rpartition(".")[2] for n in ast.walk(tree) if isinstance(n, ast.Call)}
        assert not called & {"step", "zero_grad", "AdamW", "SGD"}, cell.source


def test_figures_have_a_caption_and_an_alternative_text(notebook):
    """``plots.shown`` asks for both: no other way leads a figure onto a page."""
    for cell in code(notebook):
        assert not re.search(r"plt\.(subplots|figure|show)\b|import matplotlib|savefig", cell.source), cell.source


def test_hidden_cells_say_what_they_do(notebook):
    for cell in code(notebook):
        if "hide-input" in cell.metadata.get("tags", []):
            assert cell.metadata.get("mystnb", {}).get("code_prompt_show", "").startswith("Code: "), cell.source


def test_chapters_are_short(notebook):
    lengths = [len(cell.source.splitlines()) for cell in code(notebook)]
    assert sum(lengths) <= 220
    assert max(lengths) <= 40


def test_no_helper_is_in_two_chapters():
    found = {}
    for path in SOURCES:
        for cell in code(nbformat.read(path, as_version=4)):
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.FunctionDef):
                    assert found.setdefault(ast.unparse(node), path.stem) == path.stem, node.name


def test_nothing_of_a_machine_is_stored(notebook):
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert "/home/" not in nbformat.writes(notebook)
    for cell in notebook.cells:
        assert "execution" not in cell.metadata
        assert "papermill" not in cell.metadata
