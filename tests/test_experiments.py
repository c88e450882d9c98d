import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest

from livt import losses
from livt.companion import frames
from livt.companion.chapter import check_parameters
from livt.companion.claims import claims
from livt.companion.frames import comparison, first_epoch_above, per_run, provenance, published_panels, verdict_sentence
from livt.companion.published import LOSS_NAMES
from livt.config import with_overrides
from livt.lab.experiments import (
    EXPERIMENTS,
    ON_DEMAND,
    PAPER_LOSSES,
    arms,
    equal_compute_epochs,
    everything,
    recipes,
    seeds_of,
)
from livt.lab.failures import RunError
from livt.lab.results import COLUMNS, METRICS, curves, records, reproduce, results
from livt.lab.runs import RunStore
from livt.lab.search import chosen
from livt.lab.suites import RENAMED, SUITES, with_parts
from livt.lab.train import train_all


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    """The smoke ablation, trained by two processes side by side."""
    store = RunStore(tmp_path_factory.mktemp("runs"))
    table = reproduce("loss_ablation", "smoke", store, [0, 1], jobs=2, progress=False)
    return store, table


@pytest.mark.parametrize("suite", SUITES)
def test_the_ablation_differs_in_loss_and_seed_alone(suite):
    found = recipes("loss_ablation", suite, [3, 5])
    assert [(r.finetune.loss, r.seed) for r in found] == [(loss, seed) for loss in PAPER_LOSSES for seed in (3, 5)]
    assert len({str(r.stage("pretrain")) for r in found}) == 2, "one pretraining per seed"


@pytest.mark.parametrize(
    ("experiment", "suite"),
    [
        # Arms at equal compute have their costs counted, two dozen of them on the leaderboard.
        pytest.param(e, s, marks=() if s == "photos" or (s == "digits" and e != "leaderboard") else pytest.mark.slow)
        for e in EXPERIMENTS
        for s in SUITES
    ],
)
def test_arms_differ_and_have_one_seed(experiment, suite):
    found = arms(experiment, suite)
    if experiment == "resolution" and SUITES[suite].finer is None:
        assert found == {}, "its images have no detail to add"
        return
    if experiment == "ancestors" and SUITES[suite].sweep.data.name != "tiny_imagenet":
        assert found == {}, "WordNet's groups are those of Tiny-ImageNet's classes"
        return
    if experiment == "variance" and suite == "paper":
        assert found == {}, "its images are used whole"
        return
    if experiment == "searched" and suite not in chosen():
        assert found == {}, "nothing was chosen"
        return
    assert {recipe.seed for recipe in found.values()} == {0}
    assert len(set(found.values())) == len(found), "two arms are one recipe"
    assert {replace(r, seed=0) for r in recipes(experiment, suite, [4, 7])} == set(found.values())


def test_the_losses_of_the_paper_are_one_list_and_have_one_name_each():
    """It is written twice, as the command line must not load PyTorch."""
    assert PAPER_LOSSES == losses.PAPER_LOSSES
    assert set(PAPER_LOSSES) <= set(losses.LOSSES)
    assert {name: losses.LOSSES[name].title for name in PAPER_LOSSES} == LOSS_NAMES


# ---------------------------------------------------------------- suites


def test_a_suite_names_its_data_and_not_a_machine():
    titles = [suite.title for suite in SUITES.values()]
    assert len(set(titles)) == len(titles)
    for name, suite in SUITES.items():
        assert {suite.main.data.name, suite.sweep.data.name} == {suite.main.data.name}, f"{name} has one data set"
        assert suite.sweep.model.size in suite.sizes
        assert suite.sweep.finetune.epochs in suite.lengths
        assert suite.part_of in ("", *SUITES)
        assert set(suite.experiments or ()) | set(suite.seeds_of) <= set(EXPERIMENTS)


def test_the_old_words_have_new_ones():
    assert RENAMED["cpu"] in SUITES
    assert not set(RENAMED) & set(SUITES)


def test_a_suite_is_trained_with_its_parts_and_an_experiment_with_its_seeds(monkeypatch):
    """As a data set with two resolutions: the larger one has an experiment and seeds of its own."""
    part = replace(
        SUITES["smoke"],
        main=with_overrides(SUITES["smoke"].main, {"data.image_size": 16}),
        sweep=with_overrides(SUITES["smoke"].sweep, {"data.image_size": 16}),
        part_of="smoke",
        experiments=("loss_ablation", "controls"),
        seeds=(4, 5),
        seeds_of={"controls": (6,)},
    )
    whole = everything("smoke")
    monkeypatch.setitem(SUITES, "larger", part)
    assert with_parts("smoke") == ["smoke", "larger"]
    assert with_parts("larger") == ["larger"]
    assert (seeds_of("loss_ablation", "larger"), seeds_of("controls", "larger")) == ((4, 5), (6,))
    assert seeds_of("controls", "smoke") == (0, 1, 2)
    assert {r.seed for r in recipes("controls", "larger")} == {6}
    assert {r.seed for r in recipes("controls", "larger", [9])} == {9}, "what is asked for comes first"
    added = [*recipes("loss_ablation", "larger"), *recipes("controls", "larger")]
    assert everything("smoke") == [*whole, *added]
    assert everything("larger") == added


def test_controls_are_the_plain_losses_of_the_claims_from_other_starts():
    """So that a sweep can train them before the notebooks do."""
    for suite in ("digits", "gpu"):
        starts = (("bce", "uniform"), ("bce", "prior"), ("ce", "prior"))
        assert set(recipes("controls", suite, [0])) == {
            with_overrides(SUITES[suite].main, {"finetune.loss": loss, "finetune.start": start})
            for loss, start in starts
        }


def test_everything_has_each_recipe_once_and_shares_pretraining():
    all_recipes = everything("digits")
    assert len(set(all_recipes)) == len(all_recipes)
    asked = [name for name in EXPERIMENTS if name not in ON_DEMAND]
    assert set(all_recipes) == {recipe for name in asked for recipe in recipes(name, "digits")}
    assert len({str(r.stage("pretrain")) for r in all_recipes if r.pretrain}) < len(all_recipes) / 5


def test_equal_compute_counts_both_stages():
    """A decoder as wide and deep as the encoder, that sees all patches, makes pretraining dearer than fine-tuning."""
    sweep = SUITES["digits"].sweep
    more = with_overrides(sweep, {"pretrain.decoder_depth": 4})
    assert sweep.finetune.epochs < equal_compute_epochs(sweep) < equal_compute_epochs(more)
    # By hand, per image: 4 of 8 patches and a class token pass the encoder, 9 tokens the decoder, forward and backward.
    longer = with_overrides(sweep, {"pretrain.epochs": 50})
    twice = equal_compute_epochs(longer) - longer.finetune.epochs
    assert twice == pytest.approx(2 * (equal_compute_epochs(sweep) - sweep.finetune.epochs), abs=1)
    with pytest.raises(ValueError, match="needs a recipe with a pretraining stage"):
        equal_compute_epochs(replace(sweep, pretrain=None))


def test_results_follow_the_arms(ablation):
    store, _ = ablation
    runs = records(recipes("loss_ablation", "smoke", [0, 1]), store)
    named = results(runs, arms("loss_ablation", "smoke"))
    assert named.arm.tolist() == [loss for loss in PAPER_LOSSES for _ in range(2)]
    some = {"the plain one": arms("loss_ablation", "smoke")["bce"], "again": arms("loss_ablation", "smoke")["bce"]}
    assert results(runs, some).arm.tolist() == ["the plain one"] * 2 + ["again"] * 2
    other = with_overrides(some["again"], {"finetune.tau": 1.0, "finetune.epochs": 7})
    assert results(runs, {"another": other}).empty


def test_one_tidy_row_per_run(ablation):
    store, table = ablation
    assert table.columns.tolist() == COLUMNS
    assert len(table) == 8
    assert len(store.ids()) == 8 + 2
    assert table[["many", "medium", "few", "accuracy"]].apply(lambda column: column.between(0, 100)).all(axis=None)
    for run_id, group in table.groupby("run"):
        record = store.load(run_id)
        assert record.result["accuracy"] == group.accuracy.item()
        assert record.recipe.finetune.loss == group.loss.item()
        assert record.result["pretrain_run"] in store.ids()


def test_a_second_call_reads_what_is_there(ablation, monkeypatch):
    store, table = ablation
    monkeypatch.setattr("livt.lab.local.train", None)  # calling it would fail
    pd.testing.assert_frame_equal(reproduce("loss_ablation", "smoke", store, [0, 1], progress=False), table)


def test_one_process_gives_the_same_numbers_as_two(ablation, tmp_path):
    store = RunStore(tmp_path)
    some = recipes("loss_ablation", "smoke", [1])[::3]
    train_all(some, store, jobs=1, progress=False)
    alone = results(records(some, store))
    together = ablation[1].set_index("run").loc[alone.run].reset_index()[COLUMNS]
    pd.testing.assert_frame_equal(alone, together)


def test_missing_and_damaged_runs_are_errors_not_gaps(ablation, tmp_path):
    with pytest.raises(RunError, match="no run of digits, ce, seed 0 in "):
        records(recipes("loss_ablation", "smoke", [0]), RunStore(tmp_path))


def test_the_first_failure_stops_the_rest_and_is_raised(tmp_path):
    """A pretraining that is sealed but damaged: its fine-tunings cannot start."""
    store = RunStore(tmp_path)
    four = recipes("loss_ablation", "smoke", [0])
    train_all(four[:1], store, jobs=1, progress=False)
    source = next(i for i in store.ids() if i.startswith("pretrain"))
    path = store.weights(source)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match=r"weights.safetensors does not match its checksum"):
        train_all(four, store, jobs=2, progress=False)


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes in /proc")


def wait_for_a_run(root):
    deadline = time.monotonic() + 600
    while not RunStore(root).ids():
        assert time.monotonic() < deadline, "no run has begun within ten minutes"
        time.sleep(0.05)


@needs_proc
def test_a_killed_worker_is_one_clear_error(tmp_path):
    command = [sys.executable, "-m", "livt", "reproduce", "loss_ablation", "--suite", "smoke"]
    command += ["--seeds", "0,1,2", "--runs", str(tmp_path), "--jobs", "2", "--device", "cpu", "--quiet"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for_a_run(tmp_path)
    workers = [int(pid) for pid in _members(process.pid) if int(pid) != process.pid and _is_worker(pid)]
    os.kill(workers[0], signal.SIGKILL)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 2
    assert "livt: error: a training process was killed, perhaps for lack of memory" in err, err
    assert "Traceback" not in err


def _is_worker(pid: str) -> bool:
    """Whether a process trains, rather than tracks the resources of those that do."""
    with open(f"/proc/{pid}/cmdline") as file:
        return "spawn_main" in file.read()


@needs_proc
@pytest.mark.parametrize("how", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL])
def test_an_interrupted_experiment_leaves_no_process_and_resumes(tmp_path, how):
    command = [sys.executable, "-m", "livt", "reproduce", "loss_ablation", "--suite", "smoke"]
    command += ["--seeds", "0", "--runs", str(tmp_path), "--jobs", "2", "--device", "cpu"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A shell's background job ignores the interrupt, and so would what it starts.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, **pipes, start_new_session=True, preexec_fn=heed)
    wait_for_a_run(tmp_path)
    process.send_signal(how)
    _, err = process.communicate(timeout=600)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "interrupted; the same command goes on" in err
    deadline = time.monotonic() + 300
    while _members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _members(process.pid), "workers outlived the command"
    again = subprocess.run([*command, "--quiet"], capture_output=True, text=True, check=True)
    assert again.stdout.count("finetune-") == 4


def _members(group: int) -> list[str]:
    """Living processes of a process group, from /proc."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                state, _, pgrp = file.read().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state != "Z":
            found.append(pid)
    return found


# ---------------------------------------------------------------- what notebooks show


def synthetic(**accuracy: list[float]) -> pd.DataFrame:
    rows = [
        {"arm": loss, "loss": loss, "size": "pico", "seed": seed, "run": f"finetune-{loss}{seed}", "part": ""}
        | dict.fromkeys(METRICS, value)
        for loss, values in accuracy.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_the_comparison_shows_mean_and_spread_beside_the_paper():
    table = comparison(synthetic(ce=[50.0, 60.0], bal_ce=[], bce=[1.0, 2.0], bal_bce=[float("nan"), 70.0]))
    assert ">55.0 ± 7.1<" in table.loc[("CE", "measured, 2 seeds"), "accuracy"]
    assert ">-<" in table.loc[("Bal-CE", "measured, 0 seeds"), "accuracy"]
    assert ">70.0<" in table.loc[("Bal-BCE", "measured, 2 seeds"), "few"]
    assert table.loc[("Bal-BCE", "paper, ViT-Base"), "accuracy"] == "60.9"
    assert table.loc[("BCE", "paper, ViT-Tiny"), "few"] == "0.9"


def test_verdicts_follow_the_runs():
    good = synthetic(ce=[70, 71, 72], bal_ce=[90, 91, 92], bce=[65, 66, 67], bal_bce=[90.1, 91.2, 92.1])
    bad = synthetic(ce=[70, 71, 72], bal_ce=[90, 91, 92], bce=[80, 81, 82], bal_bce=[60, 61, 62])
    tested = [contrast for claim in claims() if claim.id in ("C4", "C5", "C6") for contrast in claim.contrasts]

    def judge(runs, chance=None):
        return frames.judge(runs, tested, chance=chance)

    assert judge(good).verdict.tolist() == ["reproduced"] * 3
    assert set(judge(bad).verdict) == {"not reproduced"}
    assert set(judge(synthetic(ce=[70.0])).verdict) == {"not run"}
    assert set(judge(good[good.seed < 2]).verdict) == {"inconclusive"}
    untrained = synthetic(ce=[12, 13, 14], bal_ce=[12, 13, 14], bce=[1, 2, 3], bal_bce=[12.1, 13.1, 14.1])
    assert set(judge(untrained).verdict) == {"reproduced"}
    assert set(judge(untrained, chance=10).verdict) == {"inconclusive"}, "nothing was learnt that could be compared"
    assert set(judge(good, chance=1).verdict) == {"reproduced"}
    assert set(judge(synthetic(), chance=1).verdict) == {"not run"}
    assert set(judge(good)["size"]) == set(judge(bad)["size"]) == {""}
    assert [">70.0<" in text for text in per_run(good).accuracy][:2] == [True, False]
    assert "Over 3 seeds" in verdict_sentence(good, ("C5", "C6"))
    assert verdict_sentence(bad, ("C5", "C6")).count("**not reproduced**") == 2


def test_published_panels_speak_the_packages_names():
    (title, frame), *_ = published_panels(["ViT-Base"]).items()
    assert "ViT-Base" in title
    assert frame.set_index("loss").accuracy.to_dict() == {"ce": 54.5, "bal_ce": 60.1, "bce": 52.4, "bal_bce": 60.9}


def test_provenance_and_curves_follow_each_run(ablation):
    store, table = ablation
    runs = records(recipes("loss_ablation", "smoke", [0, 1]), store)
    common, rows = provenance(runs)
    assert rows.run.tolist() == table.run.tolist()
    assert set(rows["pretrained by"]) == {i for i in store.ids() if i.startswith("pretrain")}
    assert "threads: 1; torch: " in common
    assert f"data digest: {runs[0].environment['data_digest']}" in common
    epochs = curves(runs)
    assert len(epochs) == 8 * 2
    last = epochs[epochs.epoch == 2].set_index("run").accuracy
    assert last.loc[table.run].tolist() == pytest.approx(table.accuracy.tolist())


def test_the_first_epoch_above_a_level():
    rows = [("ce", 0, 1, 5.0), ("ce", 0, 2, 50.0), ("ce", 1, 1, 30.0), ("bce", 0, 2, 1.0), ("bce", 1, 2, 2.0)]
    table = first_epoch_above(pd.DataFrame(rows, columns=["loss", "seed", "epoch", "accuracy"]), 20)
    assert table.loc["CE"].tolist() == [2, 1]
    assert table.loc["BCE"].tolist() == ["-", "-"]
    assert table.columns.tolist() == ["seed 0", "seed 1"]


# ---------------------------------------------------------------- parameters of a notebook

KNOWN = {"suite": ("smoke", "digits"), "seeds": list[int], "jobs": int, "tau": float}
GIVEN = {"suite": "digits", "seeds": [0, 1], "jobs": 0, "tau": 1.0}


def test_parameters_come_back_checked():
    namespace = GIVEN | {"In": [], "Out": {}, "_private": 3, "__name__": "x", "function": print, "module": os}
    assert vars(check_parameters(namespace, **KNOWN)) == GIVEN
    namespace["recipes"] = []  # a later cell's own value: the checking cell may run again
    assert vars(check_parameters(namespace, **KNOWN)) == GIVEN
    assert check_parameters(GIVEN | {"tau": 2}, **KNOWN).tau == 2.0
    assert check_parameters(GIVEN | {"seeds": "[2, 3]"}, **KNOWN).seeds == [2, 3], "papermill's -p gives a string"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sedes": [1]}, "unknown parameter sedes; this notebook takes suite, seeds, jobs, tau"),
        ({"suite": "huge"}, "suite = 'huge' is not one of smoke, digits"),
        ({"profile": "cpu"}, "parameter profile is now suite: give suite=digits"),
        ({"seeds": "zero"}, r"seeds must be a list of different whole numbers, like \[0, 1\], not 'zero'"),
        ({"seeds": [0, 0]}, "seeds must be"),
        ({"seeds": [0.5]}, "seeds must be"),
        ({"seeds": [True]}, "seeds must be"),
        ({"jobs": "two"}, "jobs must be int from 0, not 'two'"),
        ({"jobs": 1.5}, "jobs must be int from 0, not 1.5"),
        ({"jobs": -1}, "jobs must be int from 0, not -1"),
        ({"tau": None}, "tau must be float, not None"),
    ],
)
def test_wrong_parameters_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        check_parameters(GIVEN | change, **KNOWN)
