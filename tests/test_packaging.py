"""What a user installs and reads is in step with the code."""

import doctest
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest
import yaml
from house import module_file, modules

import livt
from livt.lab import experiments
from livt.lab.experiments import PAPER_LOSSES
from livt.lab.find import find
from livt.lab.results import results
from livt.lab.suites import SUITES

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# The same package under conda's name and pip's.
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


def requirements() -> set[str]:
    """Everything that `pip install '.[dev]'` asks for, without this package itself."""
    project = PYPROJECT["project"]
    extras = {name: extra for name, extra in project["optional-dependencies"].items() if name != "bench"}
    listed = [*project["dependencies"], *(r for extra in extras.values() for r in extra)]
    return {r for r in listed if not r.startswith("livt")}


def test_the_conda_environment_equals_pyproject():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    conda = [entry for entry in listed if isinstance(entry, str)]
    assert f"python{PYPROJECT['project']['requires-python']}" in conda
    assert "--editable ." in pip
    names = {re.sub(r"^[a-z-]+", lambda m: CONDA_NAMES.get(m[0], m[0]), r) for r in [*conda, *pip]}
    assert {n for n in names if not n.startswith(("python>", "pip", "--"))} == requirements()


EXTRAS = {"notebooks", "book", "cluster", "tensorboard", "test", "bench", "dev"}


def test_extras_are_those_documented():
    assert set(PYPROJECT["project"]["optional-dependencies"]) == EXTRAS
    assert not [r for r in requirements() if "==" in r], "no exact pins"


@pytest.mark.parametrize("name", [name for name in modules() if name != "livt.__main__"])
def test_examples_in_docstrings(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_there_are_examples_to_test():
    finder = doctest.DocTestFinder()
    with_examples = [importlib.import_module(f"livt.{name}") for name in ("longtail", "losses", "optim", "lab.files")]
    assert sum(len(t.examples) for m in with_examples for t in finder.find(m)) >= 8


def test_public_functions_have_docstrings_and_types():
    import ast

    for name in modules():
        path = module_file(name)
        for node in ast.parse(path.read_text()).body:
            if (
                isinstance(node, ast.FunctionDef | ast.ClassDef)
                and not node.name.startswith("_")
                and path.stem != "__main__"
            ):
                assert ast.get_docstring(node) or node.name in {"sha256"}, f"{path.stem}.{node.name}"
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                arguments = [*node.args.args, *node.args.kwonlyargs]
                assert node.returns is not None, f"{path.stem}.{node.name}"
                assert all(a.annotation is not None for a in arguments), f"{path.stem}.{node.name}"


def test_the_wheel_holds_the_code_and_the_published_tables(tmp_path):
    source = tmp_path / "source"  # a copy: an older build folder would lend its files
    shutil.copytree(ROOT / "livt", source / "livt", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path, source]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("livt-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for expected in (
        "livt/losses.py",
        "livt/companion/tables/table5_loss_by_model_size.csv",
        "livt/companion/tables/class_counts/inat18.csv",
    ):
        assert expected in names
    assert not [n for n in names if not n.startswith(("livt/", f"livt-{livt.__version__}.dist-info/"))]


def test_the_readmes_loss_example_runs():
    readme = (ROOT / "README.md").read_text()
    block = next(b for b in re.findall(r"```python\n(.*?)```", readme, re.S) if "BalancedBinaryCrossEntropy" in b)
    assert len(block.strip().splitlines()) == 6
    import torch

    namespace = {
        "class_counts": [100, 10, 1],
        "model": torch.nn.Linear(4, 3),
        "images": torch.randn(5, 4),
        "labels": torch.tensor([0, 1, 2, 0, 0]),
    }
    namespace["optimizer"] = torch.optim.SGD(namespace["model"].parameters(), lr=0.1)
    before = namespace["model"].weight.detach().clone()
    exec(block, namespace)
    assert not torch.equal(before, namespace["model"].weight)


def test_readme_and_first_page_show_the_promoted_records():
    """Their figures and the caption are those that `book/figure.py` draws from book/results."""
    figure = figure_module()
    ablations = figure.shown()
    runs = [run for found in ablations.values() for run in found]
    assert {(r.recipe.finetune.loss, r.recipe.seed) for r in runs} >= {
        (loss, s) for loss in PAPER_LOSSES for s in range(3)
    }
    assert all(r.environment["dirty"] is False for r in runs), "promoted from committed code"
    assert figure.caption(ablations) in (ROOT / "README.md").read_text()
    drawn = {"loss_ablation": runs, "losses": runs, "steps": [*chain(*figure.taken_apart().values())]}
    for name, own in drawn.items():
        assert figure.fingerprint(own) in (ROOT / "book" / "_static" / f"{name}.svg").read_text()


def test_the_steps_are_as_the_first_page_says():
    """Of what Bal-BCE adds to BCE, at every length."""
    said = "on photographs nearly all of it is the removal at test, on digit pairs most is the start"
    assert said in (ROOT / "book" / "intro.md").read_text()
    figure = figure_module()
    removed = {}
    for suite, runs in figure.taken_apart().items():
        plain, posthoc = (
            results(runs, figure.plain_bce(suite), part).groupby("arm").accuracy.mean() for part in ("", "posthoc")
        )
        removed[suite] = [
            (posthoc[prior] - plain[prior]) / (posthoc[prior] - plain[zero])
            for zero, _, prior in figure.bars(suite).values()
        ]
    assert min(removed["photos"]) > 0.8
    assert max(removed["digits"]) < 0.5


def test_the_anatomy_is_as_its_summary_says():
    """At every length; the removal leaves "most" on digit pairs, as above."""
    chapter = ROOT / "notebooks" / "bal_bce_anatomy.ipynb"
    said = (
        "On digit pairs the start, the plateau above all, is most of what BCE gains; "
        "on CIFAR-10-LT the plateau is one or two points, and BCE gains less than CE does."
    )
    assert said in re.sub(r"\s+", " ", "".join(json.loads(chapter.read_text())["cells"][-2]["source"]))
    for suite in ("digits", "photos"):
        runs = find(experiments.recipes("anatomy", suite), None).values()
        plain, posthoc = (
            results(runs, experiments.arms("anatomy", suite), part).groupby("arm").accuracy.mean()
            for part in ("", "posthoc")
        )
        for epochs in SUITES[suite].lengths:
            arm = f"{SUITES[suite].sweep.model.size}/{epochs}/"
            zero, uniform, prior = (plain[f"{arm}bce, {start} start"] for start in ("zero", "uniform", "prior"))
            if suite == "digits":
                assert uniform - zero > prior - uniform
            else:
                assert 0.5 < uniform - zero < 2.5
                ce = posthoc[f"{arm}ce, prior start"] - plain[f"{arm}ce, zero start"]
                assert posthoc[f"{arm}bce, prior start"] - zero < ce


def figure_module():
    """Return `book/figure.py`, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("figure", ROOT / "book" / "figure.py")
    figure = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figure)
    return figure


def test_the_readme_lists_every_module_of_the_paper_and_every_room_around_it():
    """Its reading list is for a newcomer: it stops at the doors of the other floors."""
    readme = (ROOT / "README.md").read_text()
    for path in (ROOT / "livt").iterdir():
        if path.suffix == ".py" and path.stem != "__init__":
            assert f"livt/{path.name}" in readme, path.name
        elif (path / "__init__.py").is_file():
            assert f"livt/{path.name}/" in readme, path.name
