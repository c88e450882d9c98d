"""The fair search: what is declared, its draws, its arms, the choice from records, and the section of the page."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256

import pytest
from finished import finished

from livt import rivals  # noqa: F401  its methods are part of the tables
from livt.companion import search as page
from livt.companion.chapter import Panel, open_chapter
from livt.companion.plan import validation_runs
from livt.companion.report import plain
from livt.config import Recipe, with_overrides
from livt.data.sets import check_fit, load_dataset
from livt.lab import search as lab
from livt.lab.experiments import CHOOSING, COUNTED, EXPERIMENTS, ON_DEMAND, arms, recipes, seeds_of, shown, trained
from livt.lab.failures import RunError
from livt.lab.files import flat
from livt.lab.find import find
from livt.lab.leaderboard import NAMES, methods
from livt.lab.promoted import promote
from livt.lab.ranges import NO_RANGE, NOTHING_TO_SEARCH, RANGES, SEARCHED, SEED, TRIALS, WITHOUT_RATE, ranges_of, trials
from livt.lab.runs import RunStore
from livt.lab.search import ARMS, choose, chosen, main, search, searched
from livt.lab.suites import SUITES
from livt.lab.train import train_all
from livt.losses import LOSSES
from livt.rivals.methods import METHODS

SMOKE = SUITES["smoke"]
DEFAULTS = methods(SMOKE)


def differing(recipe: Recipe, other: Recipe) -> dict[str, object]:
    """Return the settings of a recipe that another lacks or has otherwise, by dotted path."""
    own, base = (dict(flat(r.to_dict())) for r in (recipe, other))
    return {path: value for path, value in own.items() if path not in base or base[path] != value}


def default_of(path: str, recipe: Recipe) -> float:
    """Return what a method's default has at a dotted path; options as its entry in the tables has them."""
    stage, _, name = path.partition(".options.")
    if not name:
        return float(dict(flat(recipe.to_dict()))[path])
    entry = LOSSES[recipe.finetune.loss] if stage == "finetune" else METHODS[recipe.second.method]
    return entry.options[name]


# ---------------------------------------------------------------- what is declared


def test_every_method_with_something_to_search_has_ranges():
    assert tuple(RANGES) == SEARCHED == tuple(name for name in NAMES if name not in NOTHING_TO_SEARCH)
    for name in NOTHING_TO_SEARCH:
        assert METHODS[name].create is None
        assert not METHODS[name].options
    competing = {recipe.second.method for recipe in DEFAULTS.values() if recipe.second}
    unlearned = {name for name in competing if METHODS[name].create is None}
    assert set(WITHOUT_RATE) == unlearned - set(NOTHING_TO_SEARCH)


@pytest.mark.parametrize("name", SEARCHED)
def test_a_range_is_of_a_setting_that_the_method_has_and_names_its_source(name):
    first, *others = ranges_of(name, DEFAULTS[name])
    stage = "second" if DEFAULTS[name].second and name not in ("tau_norm", "sade, aggregated") else "finetune"
    assert first.path == f"{stage}.base_lr"
    assert (first.low, first.high, first.log, first.times) == (0.5, 2.0, True, True)
    for own in (first, *others):
        assert own.source
        value = default_of(own.path, DEFAULTS[name])
        if own.choices:
            assert value in own.choices
            continue
        low, high = (bound * (value if own.times else 1) for bound in (own.low, own.high))
        assert low <= value <= high, f"{own.path}: the default {value} is not within {own}"
        assert not own.log or low > 0
        if NO_RANGE in own.source:
            assert (low, high) == (value / 2, 2 * value)
    kept = {"experts", "own_blocks", "heads", "dim", "queue", "passes"}
    assert not kept & {own.path.rpartition(".")[2] for own in others}, "a trial costs what the default costs"


@pytest.mark.parametrize("name", SEARCHED)
def test_draws_lie_within_their_ranges_one_in_each_quarter(name):
    drawn = trials(name, DEFAULTS[name])
    assert len(drawn) == TRIALS == 4
    for own in ranges_of(name, DEFAULTS[name]):
        values = sorted(trial[own.path] for trial in drawn)
        if own.choices:
            assert values == sorted(own.choices), "each once"
        else:
            assert values == [float(f"{value:.3g}") for value in values], "as a recipe prints them"
            unit = default_of(own.path, DEFAULTS[name]) if own.times else 1
            edges = [own.draw(quarter / TRIALS, DEFAULTS[name]) for quarter in range(TRIALS + 1)]
            assert (edges[0], edges[-1]) == pytest.approx((own.low * unit, own.high * unit), rel=0.01)
            assert all(a <= value <= b for a, value, b in zip(edges, values, edges[1:], strict=False))


def test_draws_are_the_same_in_another_process_and_differ_between_methods():
    code = "import json; from livt.lab.leaderboard import methods; from livt.lab.ranges import *; "
    code += "from livt.lab.suites import SUITES; m = methods(SUITES['smoke']); "
    code += "print(json.dumps({name: trials(name, m[name]) for name in SEARCHED}))"
    about = os.environ | {"PYTHONHASHSEED": "5"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=about).stdout
    found = json.loads(out)
    assert found == {name: trials(name, DEFAULTS[name]) for name in SEARCHED}
    assert len({str(drawn) for drawn in found.values()}) == len(SEARCHED)


def test_draws_are_those_that_were_declared():
    """Literals: other draws, once there are runs, would be another search."""
    assert [list(trial.values()) for trial in trials("tau_norm", DEFAULTS["tau_norm"])] == [
        [0.00428, 0.687],
        [0.00206, 0.0687],
        [0.00725, 1.78],
        [0.00285, 1.1],
    ]
    every = {name: trials(name, default) for name, default in methods(SUITES["digits"]).items() if name in SEARCHED}
    assert sha256(json.dumps(every).encode()).hexdigest()[:12] == "6d1e00e8dbad"


# ---------------------------------------------------------------- the arms


@pytest.mark.parametrize("suite", SUITES)
def test_trials_differ_from_the_default_in_what_they_draw_alone(suite):
    found, defaults = search(SUITES[suite]), methods(SUITES[suite])
    assert list(found) == [f"{name}/{arm}" for name in SEARCHED for arm in ARMS]
    assert len(set(found.values())) == len(found) == len(SEARCHED) * (1 + TRIALS)
    apart = {"data.evaluation", "data.validation_images", "data.max_count"}
    for name in SEARCHED:
        default = found[f"{name}/default"]
        assert set(differing(default, defaults[name])) <= apart
        assert default.data.evaluation == "validation"
        for drawn, arm in zip(trials(name, defaults[name]), ARMS[1:], strict=True):
            own = found[f"{name}/{arm}"]
            assert own == with_overrides(default, drawn)
            # One of several choices may be what the default has, and then it is no change.
            assert differing(own, default).items() <= drawn.items()
            assert own.stage("pretrain") == default.stage("pretrain")


def test_every_trial_can_train():
    for recipe in search(SMOKE).values():
        check_fit(recipe)
        if recipe.second and METHODS[recipe.second.method].create:
            METHODS[recipe.second.method].create(
                (5, 1), **METHODS[recipe.second.method].options | recipe.second.options
            )


@pytest.mark.parametrize("suite", ["smoke", "digits"])
def test_validation_images_are_as_many_of_each_class_and_train_nothing(suite):
    trial, result = search(SUITES[suite])["ce/trial 1"], methods(SUITES[suite])["ce"]
    tried, told = load_dataset(trial.data), load_dataset(result.data)
    assert len(set(tried.evaluation.labels.bincount().tolist())) == 1
    assert tried.train.images.equal(told.train.images)
    assert not tried.evaluation.images.equal(told.evaluation.images)


def test_the_search_is_no_result_and_no_build_trains_it():
    assert {"search", "searched"} <= set(ON_DEMAND)
    for suite in SUITES:
        assert seeds_of("search", suite) == (SEED,) == CHOOSING["search"]
        assert seeds_of("searched", suite) == seeds_of("leaderboard", suite)
        assert SEED not in seeds_of("leaderboard", suite)
        assert not {"search", "searched"} & set(trained(suite))
        assert "search" not in shown(suite)
    others = EXPERIMENTS.keys() - {"search", *COUNTED} | {"rivals"}  # costs, of what is counted, take their time
    assert not {recipe for name in others for recipe in arms(name, "smoke").values()} & set(search(SMOKE).values())


# ---------------------------------------------------------------- the choice


@pytest.fixture
def file(tmp_path, monkeypatch):
    """An empty file of choices in the place of the repository's."""
    path = tmp_path / "searched.json"
    path.write_text("{}\n")
    monkeypatch.setattr(lab, "FILE", path)
    return path


@pytest.fixture(scope="module")
def scores():
    """Accuracies by arm: the default of most is best; a trial of three is; one has a tie, one two equal trials."""
    found = {f"{name}/{arm}": 40.0 if arm == "default" else 30.0 for name in SEARCHED for arm in ARMS}
    return found | {
        "focal/trial 3": 41.0,
        "crt/trial 1": 55.5,
        "bal_ce/trial 2": 40.0,
        "tau_norm/trial 2": 60.0,
        "tau_norm/trial 4": 60.0,
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory, scores):
    store = RunStore(tmp_path_factory.mktemp("runs"))
    for arm, recipe in search(SMOKE).items():
        finished(replace(recipe, seed=SEED), store, stage=recipe.last_stage, score=scores[arm])
    return store


CHOSEN = {"focal": 3, "crt": 1, "tau_norm": 2}


def test_the_best_trial_is_chosen_and_the_default_where_none_is_better(store, file, capsys):
    assert main(["--suite", "smoke", "--runs", str(store.root)]) == 0
    found = json.loads(file.read_text())
    assert list(found) == ["smoke"]
    assert found["smoke"].keys() == set(SEARCHED)
    for name in SEARCHED:
        number = CHOSEN.get(name)
        assert found["smoke"][name] == (trials(name, DEFAULTS[name])[number - 1] if number else {})
    said = capsys.readouterr().out
    assert f"crt: second.base_lr = {found['smoke']['crt']['second.base_lr']:g}\n" in said
    assert "bal_ce: default\n" in said


def test_what_was_chosen_is_trained_on_the_test_images_and_the_default_not_anew(store, file):
    assert searched(SMOKE) == {}
    file.write_text(json.dumps({"smoke": choose("smoke", store)}))
    found = searched(SMOKE)
    assert set(found) == {f"searched/{name}" for name in SEARCHED}
    leaderboard = arms("rivals", "smoke")
    for name in SEARCHED:
        recipe = found[f"searched/{name}"]
        assert recipe.data.evaluation == "test"
        assert (recipe == leaderboard[f"mgp/{name}"]) == (name not in CHOSEN)
    assert {r.seed for r in recipes("searched", "smoke")} == set(SMOKE.seeds)
    assert searched(SUITES["digits"]) == {}


def test_without_all_records_nothing_is_chosen(store, file, capsys, tmp_path):
    some = RunStore(tmp_path / "runs")
    assert main(["--suite", "smoke", "--runs", str(some.root)]) == 2
    runs = len(SEARCHED) * len(ARMS)
    assert f"livt: error: {runs} of {runs} validation runs of suite smoke have no record (ce/default, ce/trial 1, " in (
        capsys.readouterr().err
    )
    shutil.copytree(store.root, some.root)
    for arm in ("lws/trial 4", "bce/default"):
        recipe = replace(search(SMOKE)[arm], seed=SEED)
        shutil.rmtree(some.root / find([recipe], some)[recipe].id)
    with pytest.raises(
        RunError, match=r"2 of 145 .* have no record \(bce/default, lws/trial 4\): `python -m livt repr"
    ):
        choose("smoke", some)
    assert file.read_text() == "{}\n"


def test_the_file_holds_what_the_promoted_records_chose():
    for suite in SUITES:
        found = find(recipes("search", suite), None)
        assert bool(found) == (suite in chosen()), "promote the trials, and choose by `python -m livt.lab.search`"
        if found:
            assert choose(suite, None) == chosen()[suite]


@pytest.mark.slow
def test_a_trial_of_each_kind_trains(tmp_path):
    names = ("bal_bce", "focal", "sade", "paco", "ce, mixup", "mislas", "tau_norm", "sade, aggregated")
    wanted = [replace(search(SMOKE)[f"{name}/trial 2"], seed=SEED) for name in names]
    store = RunStore(tmp_path)
    train_all(wanted, store, jobs=1, progress=False)
    records = find(wanted, store)
    assert [records[recipe].recipe.last_stage for recipe in wanted] == [recipe.last_stage for recipe in wanted]
    assert all(0 <= records[recipe].result["accuracy"] <= 100 for recipe in wanted)


# ---------------------------------------------------------------- the pages


def test_the_page_says_what_was_declared_where_nothing_was_run(file, tmp_path, monkeypatch):
    monkeypatch.setenv("LIVT_RUNS", str(tmp_path))
    text = page.added(open_chapter({"suite": "smoke"}))
    assert page.NOT_RUN in text
    assert f"{len(SEARCHED)} methods, each with its default and {TRIALS} trials, seed {SEED}" in text
    assert text.count("<code>") == sum(1 + len(own) for own in RANGES.values())
    assert "0.5 to 5, logarithmic" in text


def test_the_page_shows_default_and_searched_with_their_difference(store, file, tmp_path):
    file.write_text(json.dumps({"smoke": choose("smoke", store)}))
    names = ("focal", "bal_ce", "ce", "crt", "bal_bce")
    every = arms("rivals", "smoke") | searched(SMOKE)
    run = RunStore(tmp_path / "runs")
    for number, name in enumerate(names, 1):
        for seed in (0, 1, 2):
            default = replace(every[f"mgp/{name}"], seed=seed)
            finished(default, run, stage=default.last_stage, score=48.0 + number + seed)
            if name in CHOSEN:
                own = replace(every[f"searched/{name}"], seed=seed)
                finished(own, run, stage=own.last_stage, score=58.0 + 2 * number + seed)
    wanted = [*recipes("rivals", "smoke"), *recipes("searched", "smoke")]
    panel = Panel("smoke", every, tuple(find(dict.fromkeys(wanted), run).values()), run)
    text = page.before_and_after(panel, page.validation("smoke", store))
    assert "3 of 5 keep their default. Before and after" in text
    assert "2 are ahead of Bal-BCE (cRT; Focal), 2 behind, 0 not told apart" in text
    assert "cRT minus Bal-BCE: +13.0 (+13.0 to +13.0) points of test accuracy." in plain(text)
    changed = [record for record in panel.records if record.recipe.finetune.loss == "focal"]
    less = tuple(
        r for r in panel.records if r not in changed or r.recipe == replace(every["mgp/focal"], seed=r.recipe.seed)
    )
    text_of_less = page.before_and_after(replace(panel, records=less), page.validation("smoke", store))
    assert "3 of 5 keep their default; of 1 what was chosen has no runs yet." in text_of_less
    rows = {row.partition("<th>")[2].partition("<")[0]: row for row in text.split("<tr>")}
    assert list(rows)[-5:] == ["cRT", "Focal", "Bal-BCE", "CE", "Bal-CE"], "best searched one first"
    for value in (">40.0<", ">41.0<", ">50.0 ± 1.0<", ">61.0 ± 1.0<", ">+11.0<", ">+11.0 to +11.0<", "gamma "):
        assert value in rows["Focal"]
    assert "same runs" in rows["Bal-CE"]
    assert "the default" in rows["Bal-CE"]


def test_trials_that_are_promoted_are_shown_as_runs_that_chose_settings(tmp_path, monkeypatch):
    """First and second stages, each run once, though one is both a trial and what another starts from."""
    folder, store = tmp_path / "results", RunStore(tmp_path / "runs")
    found = search(SUITES["digits"])
    for arm in ("ce/default", "lws/trial 1"):
        recipe = replace(found[arm], seed=SEED)
        record = finished(recipe, store, stage=recipe.last_stage, score=33.0)
        promote(store, record.id, folder)
    result = replace(methods(SUITES["digits"])["ce"], seed=0)
    promote(store, finished(result, store).id, folder)
    monkeypatch.setenv("LIVT_RESULTS", str(folder))
    assert {run.recipe.last_stage for run in validation_runs(store)} == {"finetune", "second"}
    records, rows = page.runs_that_chose(store)
    assert [run.id for run in records] == rows.run.tolist()
    assert set(rows["used by"]) == {"search: ce/default", "search: lws/trial 1"}
    assert set(rows.data) == {"digit pairs"}
    assert all("data.evaluation = validation" in differs for differs in rows.differs)
