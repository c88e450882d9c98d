"""The chapter on clustering without labels: how its clusters fill, and what it shows of the runs that there are."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from livt.clustering.methods import METHODS
from livt.companion import clustering as page
from livt.companion.chapter import Panel
from livt.companion.claims import claims
from livt.companion.ledger import declared, ruled
from livt.companion.plots.sp2ot import sizes
from livt.lab.experiments import arms
from livt.lab.runs import RunStore
from livt.lab.stages import train

CHOSEN = ("k_means", "balanced", "uot")


@pytest.fixture(scope="module")
def filled():
    return page.fill(page.filling_problem())


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    """Three methods of five, one seed."""
    store = RunStore(tmp_path_factory.mktemp("runs"))
    found = arms("clustering", "smoke")
    train("pretrain", found["k_means"], store, progress=False)
    records = [train("cluster", found[method], store, progress=False) for method in CHOSEN]
    return Panel("smoke", found, tuple(records), store)


def test_clusters_fill_as_the_mass_grows(filled):
    images = sum(page.SIZES)
    for name, plans in filled.items():
        assert [plan.sum() for plan in plans] == pytest.approx(page.STOPS, abs=2e-3), name
        for plan in plans:
            assert plan.min() >= 0
            assert plan.sum(1).max() <= 1 / images + 1e-9, "no image has more than one label"


def test_balanced_clusters_are_as_large_and_others_come_near_the_groups(filled):
    for plan, mass in zip(filled["balanced OT"], page.STOPS, strict=True):
        assert plan.sum(0) == pytest.approx(mass / 4, abs=1e-2)
    problem, groups = page.filling_problem(), np.array(page.SIZES) / sum(page.SIZES)
    right = {name: (plans[-1].argmax(1) == problem.groups).mean() for name, plans in filled.items()}
    assert right["balanced OT"] < min(right["P2OT"], right["SP2OT"])
    for name in ("P2OT", "SP2OT"):
        assert np.abs(filled[name][-1].sum(0) - groups).max() < 0.05 < np.abs(0.25 - groups).max()


def test_the_table_has_a_row_for_each_method_with_runs(panel):
    rows = BeautifulSoup(page.tables([panel]), "html.parser").tbody.find_all("tr")
    found = {row.th.get_text(): [cell.get_text() for cell in row.find_all("td")] for row in rows}
    assert list(found) == [METHODS[method].title for method in CHOSEN]
    for record in panel.records:
        values = [record.result[name] for name in page.SCORES]
        assert found[page.name_of(record)] == ["-" if value is None else f"{value:.1f}" for value in values]


def test_what_is_lacking_is_not_run_and_one_seed_decides_nothing(panel):
    assert page.tables([]) == page.NOT_RUN
    assert "no records" in page.sources([])
    ruling = BeautifulSoup(ruled(panel, "D4"), "html.parser")
    assert "inconclusive" in ruling.strong.get_text()
    parts = [row.td.get_text() for row in ruling.tbody.find_all("tr")]
    assert parts == ["not run", "not run", "inconclusive", "not run"]
    assert all(record.id in page.sources([panel]) for record in panel.records)


def test_sizes_are_drawn_beside_those_of_the_classes(panel):
    figure = sizes({page.name_of(record): record for record in panel.records})
    drawn = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    counts = panel.records[0].result["class_counts"]
    assert list(drawn) == ["classes", *(METHODS[method].title for method in CHOSEN)]
    assert all(sum(line) == sum(counts) and (np.diff(line) <= 0).all() for line in drawn.values())
    plt.close("all")


@pytest.mark.parametrize("claim", [claim for claim in claims() if claim.id.startswith("D")], ids=lambda claim: claim.id)
def test_a_neighbours_claim_is_judged_by_its_weakest_part(claim, panel):
    """One part below its floor decides, however far above theirs the others lie."""
    assert claim.statement in " ".join(declared(claim.id).split())
    assert max(map(len, declared(claim.id).splitlines())) <= 74, "a page's column"
    assert declared(claim.id).count("\n- ") == len(claim.contrasts)
    *others, last = claim.contrasts
    names = sorted({arm for contrast in claim.contrasts for arm in contrast.weights})
    metrics = sorted({contrast.metric for contrast in claim.contrasts} | {"accuracy"})
    # Values that give each part a chosen size: a solution of all contrasts together.
    places = {key: i for i, key in enumerate((arm, metric) for arm in names for metric in metrics)}
    design = np.zeros((len(claim.contrasts), len(places)))
    for row, contrast in zip(design, claim.contrasts, strict=True):
        for arm, weight in contrast.weights.items():
            row[places[arm, contrast.metric]] = weight
    for size, expected in ((5.0, "direction holds"), (-5.0, "not reproduced")):
        values = 60 + np.linalg.lstsq(design, np.array([5.0] * len(others) + [size]))[0]
        rows = [
            {"arm": arm, "seed": seed, "part": "", "run": f"{arm}-{seed}"}
            | {metric: values[places[arm, metric]] for metric in metrics}
            for arm in names
            for seed in range(3)
        ]
        own = Panel("smoke", {}, panel.records, panel.store)
        vars(own)["measured"] = pd.DataFrame(rows)
        ruling = BeautifulSoup(ruled(own, claim.id), "html.parser")
        assert expected in ruling.strong.get_text()
        assert [r.find_all("td")[0].get_text() for r in ruling.tbody.find_all("tr")].count("not reproduced") == (
            size < 0
        )
        assert last.floor == 0


def test_a_claim_that_there_is_not_is_named():
    with pytest.raises(ValueError, match="no claim 'D9'; choose from C1, .*D4"):
        declared("D9")
