"""Recipes as files: what is written is read as the same recipe, and what is no recipe is one line."""

import dataclasses
import json

import pytest
import yaml

from livt import __main__ as cli
from livt.cli.parser import build_parser
from livt.config import DataConfig, Recipe, with_overrides
from livt.lab.deit_lt import distilled
from livt.lab.recipe_files import FIELDS, read_recipe, write_recipe
from livt.lab.recipes import RECIPES
from livt.lab.runs import RunStore
from livt.lab.stages import run_id
from livt.lab.suites import SUITES


def fields(section) -> set[str]:
    found = set()
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        found |= {field.name} | (fields(value) if dataclasses.is_dataclass(value) else set())
    return found


def test_every_field_has_its_meaning_and_no_other_name_has_one():
    every = [with_overrides(RECIPES["smoke"](), {"second.method": "crt"}), distilled(SUITES["smoke"])["deit_lt"]]
    others = ({"cluster.method": "sp2ot"}, {"meta.concentration": 1})
    every += [with_overrides(RECIPES["smoke"](), change) for change in others]
    assert {name for name in FIELDS if "." not in name} == set.union(*map(fields, every))
    assert {name for name in FIELDS if "." in name} == {
        "cluster.method",
        "pretrain.data",
        "pretrain.seed",
        "second.options",
        "teacher.size",
    }
    texts = "".join(map(write_recipe, every))
    own = {name for name in FIELDS if name != "pretrain.data"}  # which these recipes have not
    assert all(f"  # {FIELDS[name]}" in texts for name in own)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_comes_back_from_its_file(tmp_path, name):
    recipe = RECIPES[name]()
    (tmp_path / "r.yaml").write_text(write_recipe(recipe))
    (tmp_path / "r.json").write_text(json.dumps(recipe.to_dict()))
    assert read_recipe(tmp_path / "r.yaml") == read_recipe(tmp_path / "r.json") == recipe
    assert Recipe.from_dict(yaml.safe_load((tmp_path / "r.yaml").read_text())) == recipe, "for any reader of YAML"


@pytest.mark.parametrize("text", ["#", "a: b", "ä", "null", "1e3", "~/x y", "line\nbreak", "'", '"', "- x", "true"])
def test_every_name_comes_back(tmp_path, text):
    recipe = dataclasses.replace(RECIPES["smoke"](), data=DataConfig(name=text, image_size=8))
    (tmp_path / "r.yaml").write_text(write_recipe(recipe), encoding="utf-8")
    assert read_recipe(tmp_path / "r.yaml") == recipe


def test_the_printed_file_trains_the_same_run(tmp_path, capsys):
    assert cli.main(["recipe", "show", "smoke", "--set", "seed=3"]) == 0
    path = tmp_path / "My.YML"
    path.write_text(capsys.readouterr().out)
    named = with_overrides(RECIPES["smoke"](), {"seed": "3"})
    store = RunStore(tmp_path)
    assert run_id("finetune", read_recipe(path), store) == run_id("finetune", named, store)
    options = ["--runs", str(tmp_path / "runs"), "--device", "cpu", "--quiet"]
    assert cli.main(["pretrain", str(path), *options, "--set", "pretrain.epochs=1", "--set", "seed=4"]) == 0
    changed = with_overrides(named, {"seed": 4, "pretrain.epochs": 1, "pretrain.warmup_epochs": 0.5})
    assert RunStore(tmp_path / "runs").ids() == [run_id("pretrain", changed, store)]


def test_what_a_file_leaves_out_stands_at_its_default_and_powers_are_numbers(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "data: {name: digits, max_count: 100, imbalance_factor: 10}\n"
        "model: {size: pico, patch_size: 4}\npretrain: null\n"
        "finetune: {loss: ce, epochs: 2, warmup_epochs: 0, batch_size: 32, base_lr: 1e-3, min_lr: 1E-6}\n"
    )
    recipe = read_recipe(path)
    assert (recipe.finetune.base_lr, recipe.finetune.min_lr, recipe.finetune.tau) == (0.001, 1e-6, 1.0)


BOMB = "a: &a [1, 2]\nb: [*a, *a]\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.yaml", BOMB, "it has an alias (*name): write the value out"),
        ("r.yaml", "seed: 1\nseed: 2\n", "the key 'seed' is there twice"),
        ("r.yaml", "[" * 5000, "nested too deeply"),
        ("r.json", "[" * 5000, "nested too deeply"),
        ("r.yaml", "x: [", "is not a recipe: while parsing a flow"),
        ("r.yaml", "!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("r.yaml", "- 1", "it does not have the sections data, model, pretrain and finetune"),
        ("r.yaml", "seed: 1", "Recipe lacks data, model, pretrain, finetune"),
        ("r.yaml", "x" * 2**21, "more than 1,048,576 bytes"),
        ("r.json", "{", "Expecting property name"),
        ("r.yaml", b"\xff\xfe\x00", "r.yaml is not a recipe"),
        ("r.yaml", None, "r.yaml cannot be read (No such file or directory)"),
        ("r.yaml", "data: 2026-01-01", "data must be DataConfig"),
    ],
)
def test_what_is_no_recipe_is_one_line(tmp_path, capsys, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if message.startswith("data must"):
        text = write_recipe(RECIPES["smoke"]()).split("model:", 1)[1]
        (tmp_path / name).write_text(f"data: 2026-01-01\nmodel:{text}")
    assert cli.main(["finetune", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    ("changes", "warmup", "said"),
    [
        (["pretrain.epochs=1"], 0.05, True),
        (["pretrain.epochs=40"], 2, True),
        (["pretrain.epochs=41"], 40, False),
        (["pretrain.epochs=1", "pretrain.warmup_epochs=0"], 0, False),
    ],
)
def test_a_warm_up_that_nobody_set_is_shortened_and_that_is_said(capsys, changes, warmup, said):
    from livt.cli.inputs import recipe_of

    arguments = ["finetune", "cifar10_lt_100", *(part for change in changes for part in ("--set", change))]
    assert recipe_of(build_parser().parse_args(arguments)).pretrain.warmup_epochs == warmup
    note = f"livt: note: pretrain.warmup_epochs is {warmup:g}, shortened with pretrain.epochs from 40; "
    assert capsys.readouterr().err.startswith(note) == said
