"""The pages of provenance: every run is there once, with what made it; the ledger's summary says what it is given."""

from base64 import b64decode
from dataclasses import replace

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from livt.companion import provenance, report
from livt.companion.report import download, number
from livt.config import with_overrides
from livt.lab import experiments
from livt.lab.results import records, results
from livt.lab.runs import RunStore
from livt.lab.suites import SUITES
from livt.lab.train import train_all

MAIN = SUITES["smoke"].main


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two losses after one pretraining, and one from scratch: the records, with the pretraining last."""
    store = RunStore(tmp_path_factory.mktemp("runs"))
    changes = [{"finetune.loss": "ce"}, {}, {"finetune.loss": "ce", "pretrain": None}]
    recipes = [with_overrides(MAIN, change) for change in changes]
    train_all(recipes, store, jobs=1, progress=False)
    tuned = records(recipes, store)
    return [*tuned, store.load(tuned[0].result["pretrain_run"])]


@pytest.fixture(scope="module")
def arms():
    from_scratch = with_overrides(MAIN, {"finetune.loss": "ce", "pretrain": None})
    ce = with_overrides(MAIN, {"finetune.loss": "ce"})
    return {"losses": {"ce": ce, "bal_bce": MAIN}, "starts": {"scratch/ce": from_scratch, "mgp/ce": ce}}


def soup(html):
    return BeautifulSoup(html, "html.parser")


def numbers(records):
    table = results([run for run in records if run.stage == "finetune"])
    found = {row.run.iloc[0]: number(row, row.arm.iloc[0], "accuracy") for _, row in table.groupby("run")}
    return found | {run.id: "0.5" for run in records if run.stage == "pretrain"}


# -------------------------------------------------------------------------------------------------------- recipes


def test_differences_name_the_settings_by_their_path():
    assert provenance.differences(MAIN, MAIN) == ""
    assert provenance.differences(replace(MAIN, seed=7), MAIN) == "", "the seed has a column of its own"
    changed = with_overrides(MAIN, {"finetune.loss": "bce", "finetune.start": "prior", "model.size": "femto"})
    text = provenance.differences(changed, MAIN)
    assert set(text.split(", ")) == {"finetune.loss = bce", "finetune.start = prior", "model.size = femto"}
    assert provenance.differences(changed, MAIN, "pretrain") == "model.size = femto"
    scratch = with_overrides(MAIN, {"pretrain": None, "data.balanced": True})
    assert set(provenance.differences(scratch, MAIN).split(", ")) == {"pretrain = none", "data.balanced = true"}


@pytest.mark.parametrize("suite", SUITES)
def test_every_run_of_every_experiment_differs_from_every_other(suite):
    """The table would not tell two runs apart whose recipes it writes alike."""
    main = SUITES[suite].main
    recipes = {replace(recipe, seed=0) for recipe in experiments.everything(suite)}
    assert len({provenance.differences(recipe, main) for recipe in recipes}) == len(recipes)


def test_a_run_has_every_arm_it_belongs_to(trained, arms):
    frame = provenance.runs_frame(trained, arms, MAIN).set_index("run")
    ce, bal_bce, scratch, mgp = (run.id for run in trained)
    assert frame.loc[ce, "used by"] == "losses: ce; starts: mgp/ce"
    assert frame.loc[bal_bce, "used by"] == "losses: bal_bce"
    assert frame.loc[scratch, "used by"] == "starts: scratch/ce"
    assert frame.loc[mgp, "used by"] == "losses: start of 2; starts: start of 1"
    assert frame.loc[ce, "pretrained by"] == mgp
    assert pd.isna(frame.loc[scratch, "pretrained by"])


# ------------------------------------------------------------------------------------------------- the table of runs


def test_the_table_has_each_run_once_with_its_anchor(trained, arms):
    frame = provenance.runs_frame(trained, arms, MAIN)
    page = soup(provenance.runs_table(trained, frame, numbers(trained)))
    rows = page.select("tbody tr")
    assert [row["id"] for row in rows] == [run.id for run in trained]
    ids = [element["id"] for element in page.select("[id]")]
    assert len(set(ids)) == len(ids)
    for link in page.select("a"):
        assert link["href"].removeprefix("#") in ids
    heads = [head.get_text() for head in page.select("thead th")]
    assert all(len(row.find_all(["th", "td"])) == len(heads) for row in rows)
    for run, row in zip(trained, rows, strict=True):
        assert row.svg["aria-label"]
        cells = dict(zip(heads, row.find_all(["th", "td"]), strict=True))
        score = cells["accuracy [%]"].get_text()
        assert score == (f"{run.result['accuracy']:.1f}" if run.stage == "finetune" else "-")
        assert cells["seconds"].get_text() == f"{run.environment['wall_time_s']:.1f}"


def test_what_all_runs_share_is_said_once(trained, arms):
    frame = provenance.runs_frame(trained, arms, MAIN)
    shared = provenance.shared_settings(frame)
    assert shared["torch"] == trained[0].environment["packages"]["torch"]
    assert shared["data digest"] == trained[0].environment["data_digest"]
    heads = [head.get_text() for head in soup(provenance.runs_table(trained, frame, numbers(trained))).select("th")]
    assert "torch" not in heads
    other = replace_environment(trained[0], packages=trained[0].environment["packages"] | {"torch": "0.1"})
    mixed = [other, *trained[1:]]
    frame = provenance.runs_frame(mixed, arms, MAIN)
    assert "torch" not in provenance.shared_settings(frame)
    table = soup(provenance.runs_table(mixed, frame, numbers(trained)))
    assert "torch" in [head.get_text() for head in table.select("thead th")]
    assert table.select_one("tbody tr").get_text().count("0.1")


def replace_environment(run, **changes):
    return replace(run, environment=run.environment | changes)


def test_a_changed_checkout_is_said(trained, arms):
    dirty = replace_environment(trained[0], commit="0123456789abcdef", dirty=True)
    frame = provenance.runs_frame([dirty], arms, MAIN)
    assert frame.commit.item() == "0123456789, changed"
    unknown = replace_environment(trained[0], commit=None, dirty=None)
    assert provenance.runs_frame([unknown], arms, MAIN).commit.item() == ""


def test_curves_hold_every_epoch(trained):
    frame = provenance.curves_frame(trained)
    assert len(frame) == sum(len(run.metrics) for run in trained)
    for run in trained:
        rows = frame[frame.run == run.id]
        assert rows.epoch.tolist() == [row["epoch"] for row in run.metrics]
        assert rows.train_loss.tolist() == [round(row["train_loss"], 3) for row in run.metrics]
    assert frame[frame.run == trained[-1].id].accuracy.isna().all()
    assert provenance.curves_frame([]).empty


def test_a_sparkline_runs_from_zero_to_its_top():
    svg = soup(provenance.sparkline([0.0, 50.0, 100.0], "accuracy <of> a run", top=100.0)).svg
    points = [tuple(map(int, point.split(","))) for point in svg.polyline["points"].split()]
    width, height = int(svg["width"]), int(svg["height"])
    assert points == [(0, height), (width // 2, height // 2), (width, 0)]
    assert (svg["role"], svg["aria-label"]) == ("img", "accuracy <of> a run")
    assert soup(provenance.sparkline([0.0], "one epoch", top=0.0)).polyline["points"] == f"0,{height}"


def test_downloads_give_the_frames_back(trained, arms, tmp_path):
    curves = provenance.curves_frame(trained)
    many = pd.concat([curves] * (1 + report.LARGE // len(curves.to_csv(index=False, header=False))))
    for frame in (provenance.runs_frame(trained, arms, MAIN), curves, many):
        link = soup(download(frame, "runs")).a
        (tmp_path / link["download"]).write_bytes(b64decode(link["href"].partition("base64,")[2]))
        back = pd.read_csv(tmp_path / link["download"])
        assert link["download"] == ("runs.csv.gz" if frame is many else "runs.csv")
        assert back.run.tolist() == frame.run.tolist()
        assert back.columns.tolist() == frame.columns.tolist()


# ------------------------------------------------------------------------------------------------------ reproduction


def test_reproduction_compares_runs_of_one_name(trained):
    ce, bal_bce, scratch, _ = trained
    other = replace_environment(ce, finished="2020-01-01T00:00:00+00:00", device="another")
    other = replace(other, result=ce.result | {"accuracy": ce.result["accuracy"] - 2.5})
    again = replace_environment(bal_bce, finished="2020-01-01T00:00:00+00:00")
    promoted = {run.id: run for run in (other, again)} | {scratch.id: scratch, "finetune-other": ce}
    frame = provenance.reproduction(trained, promoted).set_index("run")
    assert frame.index[0] == ce.id, "the largest difference comes first"
    assert set(frame.index) == {ce.id, bal_bce.id, scratch.id}
    assert frame.difference[ce.id] == pytest.approx(2.5)
    assert frame.difference[bal_bce.id] == 0
    assert frame["trained anew"].to_dict() == {ce.id: True, bal_bce.id: True, scratch.id: False}
    assert frame["hardware promoted"][ce.id] == "another"
    assert provenance.reproduction(trained, {}).empty
