"""What names a run, and which code made it: promoted ids stay, a later field at its default renames nothing."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, make_dataclass, replace
from functools import partial
from hashlib import sha256

import pytest
from house import PACKAGE, module_file

from livt.config import Recipe, digest, since, with_overrides
from livt.lab import environment
from livt.lab.check import recipe_of
from livt.lab.environment import code_of
from livt.lab.experiments import ON_DEMAND, everything, recipes
from livt.lab.promoted import promoted_folder, read_promoted
from livt.lab.recipes import smoke
from livt.lab.runs import Record, RunStore
from livt.lab.stages import STAGES
from livt.lab.train import plan
from livt.losses import LOSSES, Loss
from livt.sections import Section


@pytest.fixture(scope="module")
def promoted() -> list[Record]:
    return list(read_promoted(promoted_folder()).values())


def name_of(stage: str, recipe: Recipe, record: Record) -> str:
    return f"{stage}-{digest(recipe.stage(stage), record.environment['data_digest'])}"


# ---------------------------------------------------------------- ids


def test_every_promoted_id_follows_from_its_own_configuration(promoted):
    assert len(promoted) >= 168
    for record in promoted:
        recipe = recipe_of(record.stage, record.config)
        assert recipe.stage(record.stage) == record.config
        assert name_of(record.stage, recipe, record) == record.id


def test_the_suite_of_digits_is_what_is_promoted_of_it(promoted, tmp_path):
    """From recipes and images alone; the digest of the names is a literal, as no record may ever change its name."""
    ids = {r.id for r in promoted if r.config["data"]["name"] == "digit_pairs"}
    built = set(plan(everything("digits"), RunStore(tmp_path)).stages)
    asked_for = [recipe for name in ON_DEMAND for recipe in recipes(name, "digits")]
    assert ids - built <= set(plan(asked_for, RunStore(tmp_path)).stages)
    first = sorted(r.id for r in promoted if r.id in ids & built and r.config["seed"] < 3)
    assert len(first) == 174
    assert sha256("\n".join(first).encode()).hexdigest()[:12] == "d59515bb5910"


def with_field(recipe: Recipe, path: str, field: object, **values: object) -> Recipe:
    """Return the recipe with a section (``""``: the recipe itself) of a class that has one field more, ``later``."""

    def extended(section: Section) -> Section:
        more = make_dataclass("More", [("later", float, field)], bases=(type(section),), frozen=True, kw_only=True)
        return more(**{f.name: getattr(section, f.name) for f in fields(section)}, **values)

    def changed(section: Section, names: list[str]) -> Section:
        if not names:
            return extended(section)
        return replace(section, **{names[0]: changed(getattr(section, names[0]), names[1:])})

    return changed(recipe, path.split(".") if path else [])


PATHS = ("", "data", "model", "pretrain", "pretrain.augment", "finetune", "finetune.augment")


@pytest.mark.parametrize("path", PATHS)
def test_a_later_field_renames_no_run_at_its_default_and_each_run_of_its_stage_elsewhere(promoted, path):
    kinds = {(r.stage, *r.config, r.config["data"]["name"], r.recipe.finetune.loss): r for r in promoted}
    assert len(kinds) > 30
    for record in kinds.values():
        recipe = recipe_of(record.stage, record.config)
        if recipe.pretrain is None and path.startswith("pretrain"):
            continue
        stage = record.stage
        assert name_of(stage, with_field(recipe, path, since(2, 1.0)), record) == record.id
        other = with_field(recipe, path, since(2, 1.0), later=2.0)
        section = path.partition(".")[0]
        concerned = section not in STAGES or section in recipe.up_to(stage)
        assert (name_of(stage, other, record) != record.id) == concerned


def test_a_field_without_its_format_would_rename_every_run(promoted):
    for record in promoted[::20]:
        assert (
            name_of(record.stage, with_field(recipe_of(record.stage, record.config), "model", 1.0), record) != record.id
        )


def test_a_later_field_off_its_default_survives_the_record():
    changed = with_overrides(smoke(), {"data.draw": 3})
    assert smoke().stage("finetune")["data"].keys() == changed.stage("finetune")["data"].keys() - {"draw"}
    values = {key: value for key, value in changed.stage("finetune").items() if key not in ("format", "stage")}
    assert Recipe.from_dict(values) == changed


# ---------------------------------------------------------------- code


@pytest.fixture
def edit(monkeypatch) -> Callable[..., None]:
    """A function that changes the text of modules, as ``code_of`` reads them, by functions; each call starts anew."""
    texts: dict[str, str] = {}

    def tree(name: str) -> ast.Module:
        return ast.parse(texts.get(name) or module_file(name).read_text())

    monkeypatch.setattr(environment, "_tree", tree)
    for name in ("_imports", "_meaning"):
        monkeypatch.setattr(environment, name, getattr(environment, name).__wrapped__)  # without its cache

    def changed(**changes: Callable[[str], str]) -> None:
        texts.clear()
        for name, change in changes.items():
            name = f"livt.{name.replace('__', '.')}"
            before = module_file(name).read_text() if module_file(name).is_file() else ""
            texts[name] = change(before)
            assert texts[name] != before, f"{name} is not changed"

    return changed


def more(text: str) -> str:
    return f"{text}\n_MORE = 1\n"


def put(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "\n# one more comment\n",
        lambda text: ast.unparse(ast.parse(text)),
        put("\n\n\n", "\n\n\n\n\n"),
        put('"""The four losses', '"""Some losses'),
        put('    """Softmax cross-entropy, mean over the batch."""\n', ""),
        put("def forward(self, logits: Tensor, targets: Tensor) -> Tensor:", "def forward(self, logits, targets):"),
        put("_cached: Tensor | None = None", "_cached: object = None"),
    ],
    ids=["comment", "formatting", "blank lines", "docstring", "no docstring", "annotations", "annotated value"],
)
def test_what_cannot_change_a_result_does_not_change_the_code(edit, change):
    before = code_of("livt.finetune")
    edit(losses=change)
    assert code_of("livt.finetune") == before


CHANGES = {
    "formula": ("losses", put("counts.log() - counts.sum().log()", "counts.log()")),
    "sign": ("losses", put("return -terms.sum() / len(logits)", "return terms.sum() / len(logits)")),
    "default": ("losses", put("tau: float = 1.0", "tau: float = 1.5")),
    "operator": ("losses", put("tau * bias", "tau + bias")),
    "a text": ("models", put('global_pool: str = "avg"', 'global_pool: str = "token"')),
    "a small number": ("models", put("std=2e-5", "std=2e-4")),
    "order": ("optim", lambda text: text.replace("def ", "_ORDER = 1\n\n\ndef ", 1)),
    "the loop": ("finetune", put("net.train()", "net.eval()")),
    "augmentation": ("data__augment", more),
    "evaluation": ("metrics", more),
}


@pytest.mark.parametrize(("module", "change"), CHANGES.values(), ids=CHANGES)
def test_what_can_change_a_result_changes_the_code(edit, module, change):
    before = code_of("livt.finetune")
    edit(**{module: change})
    assert code_of("livt.finetune") != before


@pytest.mark.parametrize(
    "module",
    ["config", "sections", "rival_sections", "run", "distributed", "data__sets", "lab__runs", "lab__experiments"],
)
def test_a_module_that_trains_nothing_does_not_count(edit, module):
    before = code_of("livt.pretrain"), code_of("livt.finetune")
    edit(**{module: more})
    assert (code_of("livt.pretrain"), code_of("livt.finetune")) == before


@pytest.mark.parametrize(("module", "counts"), [("finetune", (False, True)), ("mae", (True, False))])
def test_each_stage_counts_its_own_code(edit, module, counts):
    before = code_of("livt.pretrain"), code_of("livt.finetune")
    edit(**{module: more})
    after = code_of("livt.pretrain"), code_of("livt.finetune")
    assert tuple(new != old for old, new in zip(before, after, strict=True)) == counts


def create(class_counts, tau, gamma=1.0): ...


create.__module__ = "livt.rivals.focal"


@pytest.mark.parametrize("create", [create, partial(create, gamma=2.0)], ids=["function", "partial"])
def test_the_module_of_a_loss_counts_for_the_runs_that_use_it(edit, monkeypatch, create):
    monkeypatch.setitem(LOSSES, "focal", Loss(name="focal", title="", create=create, reads="sigmoid", source=""))
    codes = {}
    for text in ("GAMMA = 2", "GAMMA = 3"):
        edit(rivals__focal=lambda _, text=text: text)
        for loss in ("focal", "bal_bce"):
            codes[loss, text] = STAGES["finetune"].code(with_overrides(smoke(), {"finetune.loss": loss}))
    assert codes["focal", "GAMMA = 2"] != codes["focal", "GAMMA = 3"]
    assert codes["bal_bce", "GAMMA = 2"] == codes["bal_bce", "GAMMA = 3"]


def test_the_digest_is_the_same_from_another_folder_and_in_another_process(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "livt", ignore=shutil.ignore_patterns("__pycache__", "tables"))
    losses = tmp_path / "livt" / "losses.py"
    losses.write_text(f"{ast.unparse(ast.parse(losses.read_text()))}\n# formatted by another tool\n")
    code = "from livt.lab.environment import code_of; print(code_of('livt.finetune'))"
    about = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONHASHSEED": "7"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=about, cwd=tmp_path)
    assert out.stdout.strip() == code_of("livt.finetune"), out.stderr
