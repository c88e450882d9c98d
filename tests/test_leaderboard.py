"""The leaderboard's arms: every method that competes, each paying for what it computes."""

import pytest

from livt import rivals  # noqa: F401  its methods are part of the tables
from livt.config import with_overrides
from livt.data.sets import classes_of
from livt.lab.cost import flops_of
from livt.lab.experiments import COUNTED, ON_DEMAND, arms, equal_compute_epochs, everything
from livt.lab.leaderboard import FIRST, HARD, ONE_STAGE, PAPER, PIXELS, methods
from livt.lab.suites import SUITES
from livt.losses import LOSSES, PAPER_LOSSES
from livt.rivals.methods import METHODS, method_of


@pytest.fixture(scope="module")
def board():
    return arms("leaderboard", "smoke")


def test_all_who_compete_are_in_the_tables():
    assert PAPER == PAPER_LOSSES
    losses = {*PAPER, *ONE_STAGE}
    assert losses <= LOSSES.keys()
    assert set(HARD) == {name for name in losses if not LOSSES[name].soft}
    used = {recipe.second.method for recipe in methods(SUITES["smoke"]).values() if recipe.second}
    probes = {recipe.second.method for recipe in arms("probes", "smoke").values()}
    assert set(FIRST) <= used == set(METHODS) - probes, "of second stages the probes alone have another experiment"


def test_a_suite_can_give_the_leaderboard_a_smaller_recipe():
    photos = SUITES["photos"]
    assert photos.leaderboard is not None
    for recipe in methods(photos).values():
        assert (recipe.model.size, recipe.data) == (photos.sizes[1], photos.main.data)
    assert methods(photos)["ce"] == arms("model_size", "photos")["nano/ce"], "its runs are shared with the model sizes"
    for suite in SUITES.values():
        if suite.leaderboard is None:
            assert methods(suite)["ce"] == with_overrides(suite.main, {"finetune.loss": "ce"})


def test_no_two_arms_are_one_recipe_and_each_can_train(board):
    assert len(set(board.values())) == len(board)
    for recipe in board.values():
        if recipe.second:
            method_of(recipe.second)
    kept = {(r.data, r.model, r.pretrain, r.seed) for name, r in board.items() if not name.startswith("scratch/")}
    assert len(kept) == 1, "the same images, model, pretraining and seed"
    alone = {name.removeprefix("scratch/"): r for name, r in board.items() if name.startswith("scratch/")}
    assert all(recipe.pretrain is None for recipe in alone.values())
    assert {name.removeprefix("mgp/") for name in board if name.startswith("mgp/")} - alone.keys() == {PIXELS}
    assert all(bool(recipe.second) == bool(board[f"mgp/{name}"].second) for name, recipe in alone.items())


def test_at_equal_compute_all_cost_the_same_to_an_epoch():
    found = arms("leaderboard", "digits")
    ce = found["mgp/ce"]
    classes = classes_of(ce.data)
    step = flops_of("finetune", ce, classes)
    for name, recipe in found.items():
        way = name.partition("/")[0]
        own = flops_of("finetune", recipe, classes)
        cost = recipe.finetune.epochs * own
        if recipe.second:
            cost += recipe.second.epochs * flops_of("second", recipe, classes)
        budget = {"equal compute": ce.finetune.epochs, "scratch": equal_compute_epochs(ce)}.get(way)
        if budget and recipe.finetune.epochs > int(ce.finetune.warmup_epochs) + 1:
            assert abs(cost - budget * step) <= own / 2 + 1, name
        if way == "mgp":
            assert recipe.finetune.epochs == ce.finetune.epochs
            dearer = cost > (ce.finetune.epochs + 0.5) * step
            assert not dearer or name.replace("mgp", "equal compute") in found, name


def test_a_build_trains_it_only_where_a_suite_names_it():
    assert set(COUNTED) == {"leaderboard", "rivals", "deit_lt", "probes"} < set(ON_DEMAND)
    assert not any(recipe.second or recipe.finetune.loss in ONE_STAGE for recipe in everything("smoke"))
