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
    assert len(notebook.cells) <= 25
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
    call = next(
        n
        for n in ast.walk(ast.parse(cells[1].source))
        if getattr(n, "func", None) and "check_parameters" in ast.unparse(n.func)
    )
    assert {keyword.arg for keyword in call.keywords} == names


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


def test_figures_have_alternative_text(notebook):
    for cell in code(notebook):
        if re.search(r"\bplots\.(?!use_style|COLOURS)|plt\.(subplots|figure)", cell.source):
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt) > 30, cell.source


def test_nothing_of_a_machine_is_stored(notebook):
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert "/home/" not in nbformat.writes(notebook)
    for cell in notebook.cells:
        assert "execution" not in cell.metadata
        assert "papermill" not in cell.metadata
