"""The measured leaderboard: comparisons against SciPy and against sums by hand, and a page without any run."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from scipy import stats
from sklearn.neighbors import KNeighborsClassifier

from livt.companion import rivals
from livt.companion.chapter import Panel, open_chapter
from livt.companion.claims import claims
from livt.companion.frames import ledger
from livt.companion.leaderboards import TITLES, leaderboard, published_gains
from livt.companion.methods import ADJUSTED, FAMILIES, OWN, PRINTED, family, title
from livt.companion.plots.benchmarks import intervals
from livt.companion.published import published
from livt.companion.report import plain
from livt.companion.statistics import rank_correlation, two_sided
from livt.data.sets import load_dataset
from livt.lab import experiments
from livt.lab.leaderboard import HARD, NAMES
from livt.lab.results import METRICS
from livt.lab.runs import RunStore
from livt.lab.suites import SUITES
from livt.losses import LOSSES


def frame(values, seeds=5, part=""):
    """Return rows as from ``results``: each arm with an accuracy for each seed, its other metrics alike."""
    return pd.DataFrame(
        [
            {"arm": arm, "seed": seed, **dict.fromkeys(METRICS, own[seed]), "part": part, "run": f"{arm}-{seed}"}
            for arm, own in values.items()
            for seed in range(min(seeds, len(own)))
        ]
    )


NOISE = np.array([-0.2, -0.1, 0.0, 0.1, 0.2])
OTHER = np.array([0.1, -0.3, 0.2, 0.2, -0.2])
MEASURED = frame(
    {
        "mgp/ce": 80 + OTHER,
        "mgp/bal_ce": 90 + NOISE,
        "mgp/bal_bce": 90.05 + OTHER,
        "mgp/ride": 92 + OTHER[::-1],
        "mgp/focal": 79 + NOISE[::-1],
        "mgp/crt": (91 + OTHER)[:2],
        "scratch/ce": 70 + NOISE,
    }
)


# ------------------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("values", [[1.0, 2.0, 2.5], [-3.0, 1.0, 0.5, -2.0], [4.0, -4.0]])
def test_two_sided_is_scipys(values):
    assert two_sided(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_two_sided_of_equal_values_and_of_none():
    assert (two_sided([1.0, 1.0]), two_sided([-1.0, -1.0]), two_sided([0.0, 0.0])) == (0.0, 0.0, 1.0)
    assert np.isnan(two_sided([1.0]))


def pairs(x, y):
    """Kendall's tau-b by its definition, one pair after the other."""
    both = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i in range(len(x)) for j in range(i)]
    size = np.sqrt(sum(a != 0 for a, _ in both) * sum(b != 0 for _, b in both))
    return sum(a * b for a, b in both) / size if size else np.nan


@pytest.mark.parametrize(
    ("x", "y"), [([1, 2, 3, 4], [1, 3, 2, 4]), ([5, 1, 1, 2, 9], [1, 2, 2, 7, 3]), ([1, 2, 3, 4], [4, 3, 2, 1])]
)
def test_rank_correlation_is_taus_definition_and_scipys(x, y):
    found = rank_correlation(x, y)
    assert found.tau == pytest.approx(pairs(x, y))
    assert found.p == pytest.approx(stats.kendalltau(x, y).pvalue)
    assert -1 <= found.low <= found.high <= 1
    assert rank_correlation(x, y) == found, "the same numbers give the same interval"


def test_the_bootstrap_interval_is_that_of_all_resamples():
    """Of four pairs there are 256 draws: the interval is near the quantiles of all of them."""
    x, y = [1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0]
    every = [pairs([x[i] for i in draw], [y[i] for i in draw]) for draw in product(range(4), repeat=4)]
    low, high = np.nanquantile(every, (0.025, 0.975))
    found = rank_correlation(x, y)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05)


def test_few_pairs_have_no_interval():
    assert np.isnan(rank_correlation([1.0], [2.0]).tau)
    three = rank_correlation([1, 2, 3], [1, 2, 3])
    assert three.tau == 1.0
    assert np.isnan(three.low)
    assert "too few" in rivals.agreement(three)


@pytest.mark.parametrize(
    ("y", "said"),
    [(range(12), "the orders agree"), (range(12)[::-1], "the orders disagree"), ([0, 1] * 6, "unrelated")],
)
def test_a_rank_correlation_in_words(y, said):
    assert said in rivals.agreement(rank_correlation(range(12), list(y)))


# ------------------------------------------------------------------------------------------------------ comparisons


def test_gaps_are_paired_by_seed_and_corrected_over_methods():
    table = rivals.gaps(MEASURED, "bal_ce").set_index("method")
    assert table.index.tolist() == ["ride", "crt", "bal_bce", "ce", "focal"], "best first, the base left out"
    values = {
        "ride": 2 + OTHER[::-1] - NOISE,
        "bal_bce": 0.05 + OTHER - NOISE,
        "ce": -10 + OTHER - NOISE,
        "focal": -11 + NOISE[::-1] - NOISE,
    }
    p = {}
    for method, own in values.items():
        test = stats.ttest_1samp(own, 0)
        p[method] = test.pvalue
        assert table["mean"][method] == pytest.approx(own.mean())
        low, high = test.confidence_interval(0.95)
        assert (table.low[method], table.high[method]) == pytest.approx((low, high))
        assert table.p[method] == pytest.approx(test.pvalue)
    smallest = min(p, key=p.get)
    assert table.Holm[smallest] == pytest.approx(4 * p[smallest]), "two seeds of cRT are no test"
    assert table.Holm.bal_bce == pytest.approx(p["bal_bce"])
    assert table.told.to_dict() == {"ride": 1, "crt": 0, "bal_bce": 0, "ce": -1, "focal": -1}
    said = rivals.counted(table.reset_index(), "bal_ce")
    assert said == "1 is ahead of Bal-CE (RIDE), 2 behind, 2 not told apart"


def test_at_equal_compute_the_bases_are_those_of_equal_epochs():
    """They cost what CE does, so that they have no other run."""
    dearer = frame({"equal compute/ride": 89 + OTHER, "equal compute/crt": 90 + NOISE[::-1]})
    table = rivals.gaps(pd.concat([MEASURED, dearer]), "bal_ce", way="equal compute").set_index("method")
    assert table["mean"].to_dict() == pytest.approx({"crt": 0.0, "ride": -1.0})
    assert table.p.ride == pytest.approx(stats.ttest_1samp(-1 + OTHER - NOISE, 0).pvalue)
    said = rivals.counted(table.reset_index(), "bal_ce")
    assert said == "none is ahead of Bal-CE, 1 behind, 1 not told apart"


def test_a_gap_to_what_was_not_run_is_none():
    assert rivals.gaps(MEASURED, "bal_ce", way="scratch").empty
    assert rivals.gaps(MEASURED[MEASURED.arm != "mgp/bal_bce"], "bal_bce").empty


def test_gains_are_over_ce_and_only_of_what_has_both():
    found = rivals.gains(MEASURED)
    small = found[found.data == "CIFAR-100-LT"].set_index("method")
    assert small.gain.to_dict() == pytest.approx({"bal_ce": 4.7, "crt": 2.0, "focal": -1.1})
    assert small.measured.bal_ce == pytest.approx(10.0)
    assert small.measured.crt == pytest.approx(11.0), "over the seeds that both have"
    assert found[found.data == "Places-LT"].set_index("method").gain.to_dict() == pytest.approx(
        {"bal_ce": 38.6 - 30.2, "focal": 34.6 - 30.2}
    )
    large = found[found.data == "ImageNet-LT"].set_index("method")
    assert large.equal.to_dict() == {"ride": False, "bal_ce": True, "crt": True}
    assert large.network.ride == "ResNeXt-50"


def test_published_gains_name_methods_of_the_leaderboard():
    table = published("cifar100_lt_rivals")
    assert set(table.method) - set(NAMES) == {"mdcs"}
    assert table[table.source.str.contains("BagofTricks")].shape[0] == 9
    assert table.set_index("method").accuracy.ce == 38.3
    found = published_gains()
    assert set(found.method) <= set(NAMES)
    assert not found.duplicated(["data", "method"]).any()
    assert set(PRINTED) <= {name for key in TITLES for name in leaderboard(key).method}
    assert found.groupby("data").size().to_dict() == {
        "CIFAR-100-LT": 9,
        "ImageNet-LT": 13,
        "Places-LT": 10,
        "iNaturalist 2018": 13,
    }


def test_the_orders_of_the_published_tables_among_themselves():
    small, large = (leaderboard(key).set_index("method").accuracy for key in ("imagenet_lt", "inat18"))
    both = [name for name in PRINTED if name in small and name in large]
    found = rivals.between_tables()
    assert f"{len(both) + 1} methods" in found, "those of one name, and logit adjustment by two"
    both = [*both, "Logit Adj."]
    large["Logit Adj."] = large["BS"]
    expected = stats.kendalltau(small[both], large[both]).statistic
    assert f"{expected:.2f} (" in found.partition("; ImageNet-LT and iNaturalist 2018")[0].rpartition("of ")[2]


def test_the_gains_of_another_network_than_ces_are_marked():
    wide = pd.concat([MEASURED, frame({"mgp/bcl": 85 + NOISE, "mgp/ncl": 88 + OTHER})])
    shown = BeautifulSoup(rivals.gain_table(SimpleNamespace(measured=wide)), "html.parser")
    names = [cell.get_text() for cell in shown.select("thead tr:first-child th")][1:]
    rows = {
        row.th.get_text(): dict(zip(names, (cell.get_text() for cell in row.select("td")), strict=True))
        for row in shown.select("tbody tr")
    }
    assert list(rows) == ["RIDE", "cRT", "Bal-CE", "NCL", "BCL", "Focal"], "the largest measured gain first"
    assert (rows["BCL"]["ImageNet-LT"], rows["BCL"]["iNaturalist 2018"]) == ("+15.6*", "+8.7")
    assert (rows["NCL"]["ImageNet-LT"], rows["BCL"]["Places-LT"]) == ("+16.1", "-")
    assert [item.get_text().partition(":")[0] for item in shown.select("li")] == list(dict.fromkeys(names[1:]))


def test_the_best_of_each_family_and_whom_it_is_told_apart_from():
    best = rivals.best_of_families(MEASURED[MEASURED.arm != "mgp/crt"], "accuracy").set_index("family")
    assert best.method.to_dict() == {
        "several experts": "ride",
        "class priors": "bal_bce",
        "no balancing": "ce",
        "weights and margins": "focal",
    }
    assert best.told.tolist() == [False, True, True, True]
    assert rivals.best_of_families(MEASURED, "ece").family.iloc[0] == "weights and margins", "less ECE is better"
    empty = MEASURED.assign(few=np.nan)
    assert rivals.best_of_families(empty, "few").empty


def test_the_figure_has_a_row_for_each_method_in_two_panels():
    found = {base: rivals.gaps(MEASURED, base) for base in rivals.BASES}
    names = {f"mgp/{method}": title(method) for method in rivals.methods(MEASURED, "mgp")}
    figure = intervals(found, names)
    first, second = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == list(names.values())
    assert len(first.lines) == len(second.lines) == 1 + 2 * 5, "zero, and each interval with its mean"


# ------------------------------------------------------------------------------------------------ names, C11, no runs


def test_each_method_has_one_family_and_a_title():
    listed = [method for members in FAMILIES.values() for method in members]
    assert sorted(listed) == sorted((*NAMES, ADJUSTED))
    assert len({title(method) for method in NAMES}) == len(NAMES)
    assert (title("nearest_pixels"), title("gcl, balanced head")) == ("1-NN, pixels", "GCL, balanced head")
    assert family("one of tomorrow") == "other"


def test_methods_without_mixing_are_those_that_take_no_soft_targets():
    assert {name for name, loss in LOSSES.items() if not loss.soft and name in NAMES} == set(HARD)


def test_c11_is_against_every_rival_and_a_family_of_its_own():
    (claim,) = (claim for claim in claims() if claim.id == "C11")
    against = {arm for contrast in claim.contrasts for arm, weight in contrast.weights.items() if weight < 0}
    assert against == {f"mgp/{name}" for name in (*NAMES, ADJUSTED) if name not in OWN}
    assert all(contrast.floor == 0 and not contrast.published for contrast in claim.contrasts)
    assert [c.id for c in claims() if c.many] == ["C11", "D1", "D2", "D3", "D4"]


def test_c11_holds_only_ahead_of_all_and_changes_no_other_p_value():
    ahead = {f"mgp/{name}": 80 + NOISE for name in (*NAMES, ADJUSTED)} | {"mgp/bal_bce": 90 + OTHER}
    rows = frame(ahead)
    of_losses = frame({"ce": 80 + NOISE, "bce": 75 + OTHER, "bal_ce": 85 + OTHER, "bal_bce": 86 + NOISE})
    alone = ledger({"loss_ablation": of_losses}, ("tiny", "base"))
    both = ledger({"loss_ablation": of_losses, "rivals": rows}, ("tiny", "base"))
    verdict, judged = both["C11"]
    assert verdict == "direction holds"
    assert judged.Holm.min() == pytest.approx(len(judged) * judged.p.min())
    pd.testing.assert_frame_equal(both["C5"][1], alone["C5"][1])
    for level, expected in ((90, "inconclusive"), (95, "not reproduced")):
        found = ledger({"rivals": frame(ahead | {"mgp/ride": level + NOISE})}, ("tiny", "base"))
        assert found["C11"][0] == expected
    assert ledger({"rivals": rows[rows.arm != "mgp/ride"]}, ("tiny", "base"))["C11"][0] == "inconclusive"


def test_the_verdict_in_words():
    suite = SimpleNamespace(sizes=("pico",))
    panel = SimpleNamespace(measured=MEASURED, suite=suite, chance=1.0, arms={}, records=())
    said = rivals.verdict(panel)
    assert "C11: " in said
    assert "behind 1 (RIDE)" in said
    assert "ahead of 2 (CE; Focal)" in said


def test_which_method_is_first_depends_on_the_start():
    started = {name: (f"mgp/{name}", f"scratch/{name}") for name in ("ce", "ride")}
    rows = {"mgp/ce": 80 + NOISE, "mgp/ride": 86 + NOISE, "mgp/crt": 99 + NOISE}
    said = rivals.first_of(frame(rows | {"scratch/ce": 70 + NOISE, "scratch/ride": 67 + NOISE}), started)
    assert plain(said) == (
        "First with MGP is RIDE, first from scratch CE. CE minus RIDE is -6.0 (-6.0 to -6.0) points with MGP and "
        "+3.0 (+3.0 to +3.0) from scratch."
    )
    said = rivals.first_of(frame(rows | {"scratch/ce": 70 + NOISE, "scratch/ride": 77 + NOISE}), started)
    assert said == "RIDE is first with MGP and from scratch."


def test_with_mgp_and_from_scratch_a_method_costs_the_same():
    rows = {"mgp/ce": 80 + NOISE, "mgp/crt": 99 + NOISE, "equal compute/crt": 85 + NOISE}
    rows |= {"scratch/ce": 70 + NOISE, "scratch/crt": 72 + NOISE, "scratch/bcl": 71 + NOISE}
    arms = experiments.arms("leaderboard", "digits")
    html = rivals.crossings(SimpleNamespace(measured=frame(rows), arms=arms, records=()))
    said = " ".join(BeautifulSoup(html, "html.parser").get_text(" ").split())
    assert "cRT 72.0 ± 0.2 85.0 ± 0.2 +13.0" in said
    assert "CE 70.0 ± 0.2 80.0 ± 0.2 +10.0" in said
    assert "BCL" not in said, "it has no run that pays for its views"


def test_the_baselines_of_a_panel_are_the_leaderboards_runs_and_name_its_vit_where_it_is_another(tmp_path):
    store = RunStore(tmp_path)
    found = rivals.baselines(Panel("digits", {}, (), store))
    data = load_dataset(SUITES["digits"].main.data)
    train, test = (part.images.flatten(1).numpy() for part in (data.train, data.evaluation))
    nearest = KNeighborsClassifier(1).fit(train, data.train.labels).predict(test)
    own = found[found.arm == "1-NN, pixels"]
    assert own.seed.tolist() == [0, 1, 2, 3, 4]
    assert own.accuracy.tolist() == pytest.approx([100 * (nearest == data.evaluation.labels.numpy()).mean()] * 5)
    assert found.arm.unique().tolist() == ["Nearest class mean", "1-NN, pixels"]
    photos = rivals.baselines(Panel("photos", {}, (), store))
    assert photos.arm.unique().tolist() == ["Nearest class mean, ViT nano", "1-NN, pixels"]
    assert rivals.baselines(Panel("photos_tiny", {}, (), store)).empty


def test_without_a_run_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("LIVT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LIVT_RESULTS", str(tmp_path / "results"))
    panels = open_chapter({"suite": "smoke"}).panels("leaderboard")
    assert panels == []
    for show in (rivals.tables, rivals.ahead, rivals.gain_table, rivals.family_table, rivals.crossings):
        assert rivals.each(panels, show) == rivals.NOT_RUN
    assert plain(rivals.NOT_RUN).count(".") == 1


def test_what_is_on_demand_is_never_trained_by_a_chapter(tmp_path, monkeypatch):
    monkeypatch.setenv("LIVT_RUNS", str(tmp_path / "runs"))
    trained = []
    monkeypatch.setattr("livt.companion.chapter.train_all", lambda wanted, *args, **how: trained.extend(wanted))
    open_chapter({"suite": "smoke"}).train("rivals", "leaderboard", "loss_ablation")
    assert {recipe.finetune.loss for recipe in trained} == {"ce", "bal_ce", "bce", "bal_bce"}
