"""The claims ledger: a verdict follows from records alone, and the limits from the published tables alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from scipy import stats

from livt.companion.claims import claims
from livt.companion.frames import judge, ledger, with_limits
from livt.companion.ledger import CHAPTERS, at_length, beside, contrasts, counted, rulings, signed, summary
from livt.companion.published import published
from livt.companion.report import number
from livt.companion.statistics import VERDICTS
from livt.config import with_overrides
from livt.lab.results import COLUMNS, METRICS, RARE
from livt.lab.suites import SUITES

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SIZES = ("femto", "pico", "micro")
CLAIMS = {claim.id: claim for claim in claims(SIZES)}
TESTED = sorted(id for id, claim in CLAIMS.items() if claim.contrasts)
UNPUBLISHED = [name for name in TESTED if CLAIMS[name].contrasts[0].threshold is None]
CHANCE = 1.0


def frame(values, seeds=(0, 1, 2), accuracy=60.0):
    """Return rows as from ``results``: ``values`` gives each arm's metrics, one number or one per seed."""
    rows = []
    for arm, metrics in values.items():
        for i, seed in enumerate(seeds):
            row = dict.fromkeys(METRICS, accuracy) | {
                name: value[i] if isinstance(value, list) else value for name, value in metrics.items()
            }
            loss = arm.rpartition("/")[2]
            rows.append({"arm": arm, "loss": loss, "size": "", "seed": seed, **row, "part": "", "run": f"{arm}-{seed}"})
    return pd.DataFrame(rows, columns=[*COLUMNS, *RARE])


def rows_for(claim, values, seeds=(0, 1, 2), accuracy=60.0):
    """Return rows in which the claim's first contrast (for C12: each) has ``values``, one per seed."""
    arms = dict.fromkeys((arm for c in claim.contrasts for arm in c.weights), None)
    if claim.id == "C12":  # each step of size gains the value
        level = {arm: i for i, arm in enumerate(f"{size}/bal_bce" for size in SIZES)}
        return frame({a: {"accuracy": [30 + level[a] * v for v in values]} for a in level}, seeds)
    contrast = claim.contrasts[0]
    first, weight = next(iter(contrast.weights.items()))
    metrics = {arm: {contrast.metric: [30.0] * len(values)} for arm in arms}
    others = sum(w for arm, w in contrast.weights.items() if arm != first)
    metrics[first] = {contrast.metric: [(v - others * 30.0) / weight for v in values]}
    return frame(metrics, seeds, accuracy)


def rows_meeting(claim, values):
    """Return rows in which each contrast of a claim has ``values``, one per seed."""
    arms = list(dict.fromkeys(arm for c in claim.contrasts for arm in c.weights))
    scores = {arm: {} for arm in arms}
    for metric in {c.metric for c in claim.contrasts}:
        weights = np.array([[c.weights.get(arm, 0) for arm in arms] for c in claim.contrasts if c.metric == metric])
        levels = 30 * np.ones((len(arms), 1)) + np.linalg.pinv(weights) @ np.ones((len(weights), 1)) * values
        levels -= np.linalg.pinv(weights) @ weights @ (30 * np.ones((len(arms), 1)))  # a sum of weights that is not 0
        for about, level in zip(scores.values(), levels, strict=True):
            about[metric] = level.tolist()
    return frame(scores)


def found(claim, rows, *, chance=CHANCE):
    return ledger({claim.experiment: rows}, SIZES, chance=chance)[claim.id]


# ------------------------------------------------------------------------------------------------ the ledger itself


def test_the_papers_claims_and_the_neighbours_have_pages_and_limits_in_order():
    assert [claim.id for claim in claims()][:12] == [f"C{i}" for i in range(1, 13)]
    assert all(claim.id.startswith("D") for claim in claims()[12:])
    for claim in claims():
        assert (NOTEBOOKS / f"{claim.chapter}.ipynb").exists(), claim.chapter
        assert bool(claim.contrasts) == bool(claim.experiment) == (not claim.reason)
        assert claim.evidence
        assert claim.limit
        for contrast in claim.contrasts:
            if contrast.published:
                assert contrast.floor < contrast.threshold
                assert contrast.threshold in contrast.published


def test_nothing_measured_is_not_run():
    for verdict, judged in ledger({}, SIZES, chance=CHANCE).values():
        assert verdict == "not run"
        if len(judged):
            assert set(judged.verdict) == {"not run"}
            assert set(judged["n"]) == {0}


# Values for which a claim's first contrast has each outcome: above its threshold, between floor and threshold, below
# the floor, on both sides of the floor.
OUTCOMES = {
    "reproduced": lambda c: [c.threshold + x for x in (0.1, 0.2, 0.3)],
    "direction holds": lambda c: [c.floor + (c.threshold - c.floor) * x for x in (0.5, 0.51, 0.52)],
    "not reproduced": lambda c: [c.floor - x for x in (1.0, 1.1, 1.2)],
    "inconclusive": lambda c: [c.floor + x for x in (-1.0, 5.0, 0.5)],
}


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("name", [name for name in TESTED if name not in (*UNPUBLISHED, "C9")])
def test_each_outcome_of_each_claim(name, outcome):
    claim = CLAIMS[name]
    rows = rows_for(claim, OUTCOMES[outcome](claim.contrasts[0]))
    verdict, judged = found(claim, rows)
    assert verdict == outcome
    assert (judged.verdict == outcome).all()
    assert (judged["n"] == 3).all()


@pytest.mark.parametrize("name", UNPUBLISHED)
@pytest.mark.parametrize(
    ("gap", "outcome"), [(5.0, "direction holds"), (-5.0, "not reproduced"), (0.0, "inconclusive")]
)
def test_without_a_published_number_nothing_is_reproduced(name, gap, outcome):
    """The paper has no CNN on balanced images, no rival on its own network, and neighbours have others: no size."""
    verdict, judged = found(CLAIMS[name], rows_meeting(CLAIMS[name], [gap + x for x in (-0.1, 0.1, 0.2)]))
    assert verdict == outcome
    assert set(judged.paper) == {"none"}


# Shares of training, percent: of Bal-BCE, CE and Bal-CE.
SHARES = {
    "reproduced": (47.0, 60.0, 60.0),
    "larger than published": (20.0, 60.0, 60.0),
    "direction holds": (80.0, 90.0, 90.0),
    "not reproduced": (99.0, 99.9, 99.9),
}


@pytest.mark.parametrize("outcome", SHARES)
def test_each_outcome_of_early_convergence(outcome):
    shares = zip(("bal_bce", "ce", "bal_ce"), SHARES[outcome], strict=True)
    rows = frame({arm: {"share_to_95": [share, share + 0.1, share - 0.1]} for arm, share in shares})
    verdict, judged = found(CLAIMS["C9"], rows)
    assert judged.verdict.tolist() == [outcome, "direction holds", "direction holds"]
    assert verdict == ("not reproduced" if outcome == "not reproduced" else "direction holds")
    assert judged.paper.tolist()[1:] == judged.threshold.tolist()[1:] == ["none", "none"]


def test_a_claim_of_several_contrasts_has_the_weakest_verdict():
    """One up and one down is not reproduced, whatever the order; what is missing makes the whole inconclusive."""
    steps = {"femto/bal_bce": [30.0, 30.1, 30.2], "pico/bal_bce": [50.0, 50.2, 50.3], "micro/bal_bce": [40, 40, 40.1]}
    rows = frame({arm: {"accuracy": values} for arm, values in steps.items()})
    verdict, judged = found(CLAIMS["C12"], rows)
    assert judged.verdict.tolist() == ["reproduced", "not reproduced"]
    assert verdict == "not reproduced"
    verdict, judged = found(CLAIMS["C12"], rows[rows.arm != "micro/bal_bce"])
    assert judged.verdict.tolist() == ["reproduced", "not run"]
    assert verdict == "inconclusive"

    shares = {"bal_bce": [20.0, 20.1, 20.2], "ce": [60.0, 60.1, 60.2], "bal_ce": [10.0, 10.1, 10.2]}
    rows = frame({arm: {"share_to_95": values} for arm, values in shares.items()})
    verdict, judged = found(CLAIMS["C9"], rows)
    assert judged.verdict.tolist() == ["larger than published", "direction holds", "not reproduced"]
    assert verdict == "not reproduced"


@pytest.mark.parametrize("name", TESTED)
def test_a_missing_arm_is_not_run(name):
    claim = CLAIMS[name]
    rows = rows_for(claim, [90.0, 90.1, 90.2])
    arm = next(iter(claim.contrasts[0].weights))
    verdict, judged = found(claim, rows[rows.arm != arm])
    assert judged.verdict.iloc[0] == "not run"
    assert verdict in ("not run", "inconclusive")
    assert judged.measured.iloc[0].endswith(">-</span>")


@pytest.mark.parametrize("name", TESTED)
def test_two_seeds_are_inconclusive(name):
    claim = CLAIMS[name]
    verdict, judged = found(claim, rows_for(claim, [90.0, 90.1], seeds=(0, 1)))
    assert verdict == "inconclusive"
    assert (judged["n"] <= 2).all()


def test_only_seeds_that_all_arms_have_count():
    claim = CLAIMS["C5"]
    rows = rows_for(claim, [20.0, 20.1, 20.2])
    assert found(claim, rows)[0] == "reproduced"
    mixed = rows.assign(seed=rows.seed.where(rows.arm != "bce", rows.seed + 1))  # 0, 1, 2 against 1, 2, 3
    verdict, judged = found(claim, mixed)
    assert (verdict, judged["n"].iloc[0]) == ("inconclusive", 2)
    apart = rows.assign(seed=rows.seed.where(rows.arm != "bce", rows.seed + 10))
    verdict, judged = found(claim, apart)
    assert (verdict, judged["n"].iloc[0]) == ("not run", 0)


def test_nothing_learnt_is_inconclusive():
    """Every arm of the contrast must have learnt; what others have learnt counts for nothing."""
    claim = CLAIMS["C8"]  # judged by ECE, so accuracy is free
    values = [5.0, 5.1, 5.2]
    assert found(claim, rows_for(claim, values, accuracy=5 * CHANCE))[0] == "inconclusive"
    assert found(claim, rows_for(claim, values, accuracy=5 * CHANCE + 0.1))[0] == "reproduced"
    assert found(claim, rows_for(claim, values, accuracy=5 * CHANCE), chance=None)[0] == "reproduced"
    for arm in ("bce", "bal_bce"):
        rows = rows_for(claim, values)
        rows.loc[rows.arm == arm, "accuracy"] = 5 * CHANCE
        verdict, judged = found(claim, rows)
        assert verdict == "inconclusive"
        assert judged.p.isna().all()
    rows = rows_for(claim, values, accuracy=CHANCE)
    rows = pd.concat([rows, frame({"ce": {}}, accuracy=90.0)])  # an arm that the contrast does not compare
    assert found(claim, rows)[0] == "inconclusive"
    assert found(claim, rows_for(claim, values, accuracy=20.1), chance=10)[0] == "reproduced"
    assert found(claim, rows_for(claim, values, accuracy=20.0), chance=10)[0] == "inconclusive"


# ------------------------------------------------------------------ larger than published, controls, other lengths


def with_control(bce, prior=None, uniform=None, accuracy=90.0):
    """Return rows in which Bal-BCE has ``accuracy``, and BCE and its controls lie so many points below it."""
    arms = {"bce": bce, "bce, prior start": prior, "bce, uniform start": uniform}
    spread = np.array([-0.1, 0.0, 0.1])
    values = {arm: {"accuracy": list(accuracy - gap + spread)} for arm, gap in arms.items() if gap is not None}
    return frame({"bal_bce": {"accuracy": [accuracy] * 3}} | values)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (with_control(72), "larger than published"),
        (with_control(72, uniform=14), "larger than published"),  # the other control explains nothing
        (with_control(72, prior=5.6), "larger, by another mechanism"),
        (with_control(72, prior=-3), "larger, by another mechanism"),
        (with_control(72, prior=19.1), "larger, by another mechanism"),
        (with_control(72, prior=19.3), "larger than published"),
        (with_control(15, prior=5.6), "reproduced"),
        (with_control(72, prior=5.6).query("arm != 'bce, prior start' or seed < 2"), "larger than published"),
    ],
)
def test_an_effect_above_the_published_range_asks_its_control(rows, expected):
    assert found(CLAIMS["C5"], rows)[0] == expected


def test_a_control_that_learnt_nothing_explains_nothing():
    claim = CLAIMS["C8"]
    rows = pd.concat([rows_for(claim, [9.0, 9.1, 9.2]), frame({"bce, prior start": {"ece": 30.0}})])
    assert found(claim, rows)[0] == "larger, by another mechanism"
    rows.loc[rows.arm == "bce, prior start", "accuracy"] = 5 * CHANCE
    assert found(claim, rows)[0] == "larger than published"


class FakePanel:
    """What ``rulings`` reads of a panel: rows of the loss ablation, and of ``anatomy`` by their names there."""

    chance, title, arms, records = CHANCE, "digit pairs, 3 seeds", {}, ()

    def __init__(self, main, *, suite=SUITES["digits"], **lengths):
        self.suite = suite
        rows = [main]
        for epochs, own in lengths.items():
            start = own.arm.where(own.arm.str.contains(", "), own.arm + ", zero start")
            rows.append(own.assign(arm=f"pico/{epochs[1:]}/" + start, run=own.run + epochs))
        self.measured = pd.concat(rows, ignore_index=True)


def test_controls_are_judged_by_the_same_rule():
    ruling = rulings(FakePanel(with_control(72, prior=5.6, uniform=40)))["C5"]
    assert ruling.verdict == "larger, by another mechanism"
    assert {name: rows.verdict.tolist() for name, rows in ruling.controls.items()} == {
        "BCE from 1/C": ["larger than published"],
        "BCE from the prior": ["direction holds"],
    }
    shown = BeautifulSoup(contrasts(ruling), "html.parser")
    assert [row.td.get_text()[2:] for row in shown.select("tbody tr")] == [
        "larger, by another mechanism",
        "larger than published",
        "direction holds",
    ]
    assert {cell["data-label"] for cell in shown.select("td")} >= {"verdict", "measured", "p (Holm)"}
    assert rulings(FakePanel(with_control(72)))["C5"].controls["BCE from the prior"].verdict.tolist() == ["not run"]


def test_a_claim_is_judged_at_each_length():
    at_8, at_15 = with_control(15), with_control(72, prior=5.0)
    panel = FakePanel(with_control(15, prior=5.6), _8=at_8, _15=at_15)
    ruling = rulings(panel)["C5"]
    assert ruling.verdict == "reproduced"
    assert ruling.lengths == {8: "reproduced", 15: "larger, by another mechanism"}
    assert sorted(at_length(panel, 15).arm.unique()) == ["bal_bce", "bce", "bce, prior start"]
    said = " ".join(BeautifulSoup("; ".join(beside(ruling)), "html.parser").get_text().split())
    assert "after 15 epochs: △ larger, by another mechanism" in said
    assert "8" not in said.replace("1/C", ""), "a length that changes nothing is not listed"
    assert rulings(FakePanel(with_control(15)))["C5"].lengths == {}


def test_lengths_of_another_network_name_it():
    digits = SUITES["digits"]
    main = with_overrides(digits.main, {"model.size": "micro"})
    assert digits.sweep.model.size == "pico"
    at_30 = with_control(72, prior=5.0)
    ruling = rulings(FakePanel(with_control(15, prior=5.6), suite=replace(digits, main=main), _30=at_30))["C5"]
    assert main.finetune.epochs == 30, "the length of the verdict is shown too"
    assert ruling.lengths == {30: "larger, by another mechanism"}
    said, shown = (
        BeautifulSoup(html, "html.parser").get_text() for html in ("; ".join(beside(ruling)), contrasts(ruling))
    )
    assert "after 30 epochs of a ViT pico: " in said
    assert "By length of fine-tuning, ViT pico: 30 epochs: " in shown


def test_holm_counts_the_contrasts_that_were_judged():
    rows = frame(
        {
            "ce": {"accuracy": [70.0, 71.0, 72.5]},
            "bce": {"accuracy": [60.0, 60.0, 60.5], "ece": [5.0, 6.0, 8.0]},
            "bal_ce": {"accuracy": [75.0, 76.5, 77.0]},
            "bal_bce": {"accuracy": [75.0, 76.0, 78.0], "ece": [3.0, 4.0, 3.0]},
        }
    )
    rows.loc[rows.arm == "bal_ce", "accuracy"] = CHANCE  # C6 and C9 compare what did not learn
    judged = pd.concat([rows for _, rows in ledger({"loss_ablation": rows}, SIZES, chance=CHANCE).values()])
    p = judged.p.dropna()
    assert set(p.index) == {
        "CE minus BCE",
        "Bal-BCE minus BCE",
        "ECE of BCE minus Bal-BCE",
        "minus the share of training to 95 % of the final accuracy",
        "share to 95 %: CE minus Bal-BCE",
    }
    first = stats.ttest_1samp([10.0, 11.0, 12.0], 0, alternative="greater").pvalue
    assert p["CE minus BCE"] == pytest.approx(first)
    smallest = p.idxmin()
    assert judged.Holm[smallest] == pytest.approx(len(p) * p[smallest])
    assert judged.Holm.isna().equals(judged.p.isna())


def test_the_summary_is_a_table_and_cards():
    """Each cell has its column's name for a narrow screen; what was not run is one line."""
    found = {"digit pairs": rulings(FakePanel(with_control(72, prior=5.6), _15=with_control(15)))}
    page = BeautifulSoup(summary(found, ["Tiny-ImageNet-LT, 64 px (suite gpu)"]), "html.parser")
    assert [head.get_text() for head in page.select("thead th")] == ["claim", "statement", "digit pairs"]
    assert page.p.get_text() == "Not run: Tiny-ImageNet-LT, 64 px (suite gpu)."
    for claim, row in zip(claims(), page.select("tbody tr"), strict=True):
        statement, cell = row.select("td")
        assert row.th.a["href"] == f"claims.html#claim-{claim.id}"
        assert statement.get_text().startswith(claim.statement)
        assert statement.a["href"] == f"{claim.chapter}.html"
        assert (statement["data-label"], cell["data-label"]) == ("statement", "digit pairs")
        assert cell.span.get_text()[2:] == found["digit pairs"][claim.id].verdict
    items = [item.get_text() for item in page.select("tr:nth-of-type(5) li")]
    assert items == [
        "BCE from 1/C: – not run",
        "BCE from the prior: ◐ direction holds",
        "after 15 epochs: ● reproduced",
    ]


def test_verdicts_differ_without_colour_and_are_counted():
    texts = [BeautifulSoup(signed(verdict), "html.parser").get_text() for verdict in VERDICTS]
    assert len({text[0] for text in texts}) == len(VERDICTS)
    assert [text[2:] for text in texts] == list(VERDICTS)
    assert counted(["not run", "reproduced", "not run"]) == "1 reproduced; 2 not run"
    assert counted([]) == "no claims"
    assert {claim.chapter for claim in claims()} == set(CHAPTERS)


def test_a_seed_without_a_value_drops():
    claim = CLAIMS["C7"]
    rows = rows_for(claim, [8.0, 8.1, 8.2])
    rows.loc[(rows.arm == "ce") & (rows.seed == 1), "many"] = np.nan
    verdict, judged = found(claim, rows)
    assert (verdict, judged["n"].iloc[0]) == ("inconclusive", 2)


def test_two_rows_of_one_arm_and_seed_are_refused():
    """Which of the two would decide is nothing that a ledger may choose."""
    rows = rows_for(CLAIMS["C5"], [20.0, 20.1, 20.2])
    twice = pd.concat([rows, rows[rows.seed == 0].assign(run="another", accuracy=1.0)])
    with pytest.raises(ValueError, match="two runs of one arm and seed"):
        found(CLAIMS["C5"], twice)


def test_rows_of_another_experiment_change_nothing():
    rows = rows_for(CLAIMS["C5"], [20.0, 20.1, 20.2])
    assert ledger({"ablations": rows}, SIZES, chance=CHANCE)["C5"][0] == "not run"
    assert ledger({"loss_ablation": rows}, SIZES, chance=CHANCE)["C12"][0] == "not run"


def test_claims_without_an_experiment_stay_not_run():
    everything = {name: rows_for(CLAIMS["C5"], [20.0] * 3) for name in ("loss_ablation", "benchmarks", "", "C1")}
    for name in ("C1", "C10", "C11"):
        assert ledger(everything, SIZES)[name][0] == "not run"


def test_the_verdict_follows_the_record():
    """One number of one run decides between two verdicts."""
    rows = rows_for(CLAIMS["C6"], [0.5, 0.6, 0.7])
    assert found(CLAIMS["C6"], rows)[0] == "reproduced"
    rows.loc[(rows.arm == "bal_bce") & (rows.seed == 2), "accuracy"] -= 30.0
    verdict = found(CLAIMS["C6"], rows)[0]
    assert verdict == "inconclusive"
    assert verdict in VERDICTS


# ------------------------------------------------------------------------- the limits, from the tables of the paper

TABLE5 = published("table5_loss_by_model_size").set_index(["model", "loss"])
MODELS = ("ViT-Tiny", "ViT-Small", "ViT-Base", "ViT-Large")


def table5(metric, formula):
    """Evaluate a formula of the four losses' rows at each size, smallest first, rounded as the table is."""
    return [
        round(formula(*(TABLE5.loc[(m, x), metric] for x in ("CE", "Bal-CE", "BCE", "Bal-BCE"))), 1) for m in MODELS
    ]


def score(table, method, resolution=224, column="accuracy"):
    rows = published(table)
    return rows[(rows.method == method) & (rows.resolution == resolution)][column].item()


def test_limits_between_losses_are_table_5s():
    expected = {
        "C4": (0.0, table5("accuracy", lambda ce, bal_ce, bce, bal_bce: ce - bce)),
        "C5": (0.0, table5("accuracy", lambda ce, bal_ce, bce, bal_bce: bal_bce - bce)),
        "C6": (-1.0, table5("accuracy", lambda ce, bal_ce, bce, bal_bce: bal_bce - bal_ce)),
        "C7": (0.0, table5("many", lambda ce, bal_ce, bce, bal_bce: (bal_bce - bce) - (bal_ce - ce))),
        "C8": (0.0, table5("ece", lambda ce, bal_ce, bce, bal_bce: bce - bal_bce)),
    }
    assert {name: numbers for name, (_, numbers) in expected.items()} == {
        "C4": [15.4, 9.7, 2.1, 4.0],
        "C5": [19.2, 14.3, 8.5, 9.2],
        "C6": [-0.6, 0.1, 0.8, 0.5],
        "C7": [15.8, 9.6, 4.1, 5.2],
        "C8": [-0.2, 0.9, 3.2, 1.8],
    }
    for name, (floor, numbers) in expected.items():
        (contrast,) = CLAIMS[name].contrasts
        assert contrast.floor == floor
        assert contrast.published == pytest.approx(numbers)
        assert contrast.threshold == pytest.approx(min(n for n in numbers if n > floor))
    thresholds = {"C4": 2.1, "C5": 8.5, "C6": -0.6, "C7": 4.1, "C8": 0.9}
    assert {name: CLAIMS[name].contrasts[0].threshold for name in thresholds} == pytest.approx(thresholds)


def test_limits_of_the_recipes_are_table_1s_and_the_leaderboards():
    recipes = published("table1_recipes").set_index(["dataset", "recipe"]).accuracy
    drop = {name: recipes["imagenet_bal", name] - recipes["imagenet_lt", name] for name in ("ViT", "DeiT III", "MAE")}
    assert drop == pytest.approx({"ViT": 7.1, "DeiT III": 18.8, "MAE": 14.7})
    share = [round(100 * drop[name] / recipes["imagenet_bal", name]) for name in drop]
    assert share == [18, 28, 21]
    images = published("datasets").drop_duplicates("dataset").set_index("dataset").training_images
    assert round(100 * (images["imagenet_bal"] / images["imagenet_lt"] - 1)) == 38
    assert CLAIMS["C2"].contrasts[0].published == pytest.approx((drop["DeiT III"] - drop["MAE"],))
    gains = [
        score(table, "MAE") - score(table, "DeiT")
        for table in ("table2_imagenet_lt", "table3_inat18", "table4_places_lt")
    ]
    assert gains == pytest.approx([6.1, 8.4, -3.9])
    assert CLAIMS["C3"].contrasts[0].published == pytest.approx(gains)
    assert CLAIMS["C3"].contrasts[0].threshold == pytest.approx(6.1)
    assert recipes["imagenet_lt", "MAE"] == score("table2_imagenet_lt", "MAE") == 54.5


def test_limits_of_size_are_the_steps_of_table_5():
    accuracy = [TABLE5.loc[(model, "Bal-BCE"), "accuracy"] for model in MODELS]
    assert accuracy == [40.8, 54.1, 60.9, 62.6]
    for contrast in CLAIMS["C12"].contrasts:
        assert contrast.published == pytest.approx(np.diff(accuracy))
        assert (contrast.floor, contrast.threshold) == (0.0, 1.7)
    assert [list(c.weights) for c in CLAIMS["C12"].contrasts] == [
        ["pico/bal_bce", "femto/bal_bce"],
        ["micro/bal_bce", "pico/bal_bce"],
    ]


def test_limits_of_convergence_are_the_logs():
    shares = []
    for data in ("imagenet_lt", "inat18"):
        for size in (224, 384):
            accuracy = published(f"official_logs/finetune_{data}_vitb{size}").test_acc1.tolist()
            first = next(i for i, a in enumerate(accuracy, start=1) if a >= 0.95 * accuracy[-1])
            shares.append(100 * first / len(accuracy))
    own, *others = CLAIMS["C9"].contrasts
    assert own.published == pytest.approx([-s for s in shares])
    assert own.threshold == pytest.approx(-max(shares))
    assert own.weights == {"bal_bce": -1}
    assert [contrast.weights for contrast in others] == [{"ce": 1, "bal_bce": -1}, {"bal_ce": 1, "bal_bce": -1}]
    assert all(contrast.published == () for contrast in others), "the logs are of one loss"
    log = published("official_logs/finetune_imagenet_lt_vitb224").test_acc1
    named = ", ".join(f"{log[epoch - 1]:.1f}" for epoch in (5, 10, 20, 30, 50, 100))
    assert named in CLAIMS["C9"].evidence


def evidence_numbers():
    """Return the numbers that each claim's evidence and limit must give, by arithmetic on the tables."""
    few = table5("few", lambda ce, bal_ce, bce, bal_bce: bal_bce - bce)
    high = {
        t: score(t, "LiVT", 384) - score(t, "LiVT") for t in ("table2_imagenet_lt", "table3_inat18", "table4_places_lt")
    }
    best = {t: (score(t, "LiVT"), score(t, "LiVT", 384)) for t in high}
    resnet = {c: score("table2_imagenet_lt", "CE", column=c) for c in ("many", "few", "accuracy")}
    vit = {c: score("table2_imagenet_lt", "ViT", column=c) for c in ("many", "few", "accuracy")}
    places = published("table4_places_lt")
    scratch = published("vit_from_scratch_cifar_lt").set_index("method").cifar100_if100
    taught = {loss: scratch[f"DeiT-LT ({loss}+SAM teacher)"] for loss in ("LDAM", "PaCo")}
    ahead = (places[places.method != "LiVT"].accuracy > score("table4_places_lt", "LiVT")).sum()
    calibration = table5("ece", lambda ce, bal_ce, bce, bal_bce: bal_bce - bce)
    base = {loss: TABLE5.loc[("ViT-Base", loss), "many"] for loss in ("CE", "Bal-CE", "BCE", "Bal-BCE")}
    assert min(few) > 20
    assert max(few) < 25.5
    assert ahead == 4
    return {
        "C1": [
            f"{vit['accuracy']} against ResNet-50 {resnet['accuracy']}",
            f"many-shot {vit['many']} against {resnet['many']}, few-shot {vit['few']} against {resnet['few']}",
        ],
        "C3": [
            "54.5 against 48.4",
            *(f"{score(t, 'MAE')} against {score(t, 'DeiT')}" for t in ("table3_inat18", "table4_places_lt")),
        ],
        "C7": [f"{base['Bal-BCE'] - base['BCE']:+.1f} from BCE", f"{base['Bal-CE'] - base['CE']:+.1f} from CE"],
        "C8": ["{:+.1f}, {:+.1f}, {:+.1f} and {:+.1f}".format(*calibration)],
        "C10": ["{:+.1f} on ImageNet-LT, {:+.1f} on iNat18, {:+.1f} on Places-LT".format(*high.values())],
        "C11": [
            f"{name} {a} and {b}" for name, (a, b) in zip(("LT", "iNat18", "Places-LT"), best.values(), strict=True)
        ]
        + ["at 224 px on Places-LT four methods are ahead"],
        "C12": ["40.8, 54.1, 60.9 and 62.6"],
        "C2": ["ViT -7.1, DeiT III -18.8, MAE -14.7", "18, 28 and 21 %", "38 % more images"],
        "C4": ["15.4, 9.7, 2.1 and 4.0"],
        "C5": ["19.2, 14.3, 8.5 and 9.2", "20 to 25 on few-shot"],
        "C6": ["-0.6, +0.1, +0.8 and +0.5"],
        "D1": [
            f"{taught['LDAM']} (LDAM teacher) and {taught['PaCo']} (PaCo) on CIFAR-100-LT, factor 100",
            f"a ViT from scratch {scratch['ViT']}",
        ],
    }


def test_evidence_and_limits_restate_the_tables():
    for name, texts in evidence_numbers().items():
        said = f"{CLAIMS[name].evidence}; {CLAIMS[name].limit}"
        for text in texts:
            assert text in said, f"{name}: {text!r} is not in {said!r}"


def test_what_the_limits_say_holds_in_the_tables():
    for model in MODELS:
        rows = TABLE5.loc[model]
        assert rows.loc["Bal-BCE", "few"] < rows.loc["Bal-CE", "few"]  # C6
        assert (rows.loc["Bal-BCE", "ece"] < rows.loc["Bal-CE", "ece"]) == (model == "ViT-Base")  # C8
    counts = published("class_counts/imagenet_lt").n_train
    groups = [(counts > 100).sum(), counts.between(20, 100).sum(), (counts < 20).sum()]
    off = {}
    for model in MODELS:
        rows = TABLE5.loc[model]
        weighted = rows[["many", "medium", "few"]].to_numpy() @ groups / sum(groups)
        off[model] = np.abs(weighted - rows.accuracy).max()
    assert off["ViT-Base"] > 0.1  # C7: its rows do not give their own overall accuracy


# ----------------------------------------------------------------------------------------- numbers that name their runs


def shown(html):
    element = BeautifulSoup(html, "html.parser").span
    return element.get_text(), json.loads(element["data-terms"]), element


MEASURED = frame({"a": {"accuracy": [10.0, 12.0, 17.0]}, "b": {"accuracy": [3.0, 4.0, 6.0]}})
DIFFERENCE = np.array([7.0, 8.0, 11.0])


def recomputed(terms, rows=MEASURED):
    by_run = rows.set_index("run").accuracy
    return np.array([sum(w * by_run[runs[i]] for w, _, runs in terms) for i in range(len(terms[0][2]))])


@pytest.mark.parametrize("show", ["mean", "spread", "interval"])
def test_a_number_is_what_its_runs_give(show):
    text, terms, element = shown(number(MEASURED, {"a": 1, "b": -1}, "accuracy", show=show))
    assert terms == [[1, "accuracy", ["a-0", "a-1", "a-2"]], [-1, "accuracy", ["b-0", "b-1", "b-2"]]]
    assert element["data-show"] == show
    values = recomputed(terms)
    assert values.tolist() == DIFFERENCE.tolist()
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    expected = {"mean": "8.7", "spread": f"8.7 ± {np.std(values, ddof=1):.1f}", "interval": f"{low:.1f} to {high:.1f}"}
    assert text == expected[show]


def test_digits_and_sign_are_shown_and_named():
    text, _, element = shown(number(MEASURED, {"a": 1, "b": -1}, "accuracy", show="mean", digits=3, signed=True))
    assert text == "+8.667"
    assert (element["data-digits"], element["data-signed"]) == ("3", "true")
    text, _, _ = shown(number(MEASURED, {"a": -1, "b": 1}, "accuracy", show="interval", signed=True))
    low, high = stats.ttest_1samp(-DIFFERENCE, 0).confidence_interval(0.95)
    assert text == f"{low:+.1f} to {high:+.1f}"


@pytest.mark.parametrize("show", ["mean", "spread", "interval"])
def test_a_missing_arm_shows_a_dash(show):
    text, terms, _ = shown(number(MEASURED, {"a": 1, "nothing": -1}, "accuracy", show=show))
    assert text == "-"
    assert all(runs == [] for _, _, runs in terms)
    assert shown(number(MEASURED.iloc[:0], "a", "accuracy", show=show))[0] == "-"


def test_a_seed_without_a_value_drops_from_a_number():
    rows = MEASURED.copy()
    rows.loc[rows.run == "a-2", "accuracy"] = np.nan
    text, terms, _ = shown(number(rows, {"a": 1, "b": -1}, "accuracy"))
    values = recomputed(terms, rows)
    values = values[~np.isnan(values)]
    assert values.tolist() == [7.0, 8.0]
    assert text == "7.5 ± 0.7"
    one = rows[rows.seed == 0]
    assert shown(number(one, "a", "accuracy"))[0] == "10.0"
    assert shown(number(one, "a", "accuracy", show="interval"))[0] == "-"
    assert shown(number(rows[rows.run == "a-2"], "a", "accuracy"))[0] == "-"


def test_a_changed_record_changes_the_number():
    rows = MEASURED.assign(accuracy=MEASURED.accuracy.where(MEASURED.run != "a-1", 99.0))
    for show in ("mean", "spread", "interval"):
        assert number(rows, "a", "accuracy", show=show) != number(MEASURED, "a", "accuracy", show=show)
        assert (
            shown(number(rows, "b", "accuracy", show=show))[0] == shown(number(MEASURED, "b", "accuracy", show=show))[0]
        )


def test_metrics_after_adjustment_are_named_by_their_path():
    posthoc = MEASURED.assign(part="posthoc")
    assert shown(number(posthoc, "a", "few"))[1][0][1] == "posthoc.few"


def test_two_rows_of_one_arm_and_seed_are_no_number():
    twice = pd.concat([MEASURED, MEASURED[MEASURED.run == "a-0"].assign(run="another", accuracy=50.0)])
    with pytest.raises(ValueError, match="two runs of one arm and seed"):
        number(twice, "a", "accuracy")


@pytest.mark.parametrize(
    ("claim", "values", "size"),
    [
        ("C4", [-0.5, 0.0, 0.5], "no effect larger than 2 points"),  # inconclusive, and small for certain
        ("C4", [-1.3, -1.2, -1.1], "no effect larger than 2 points"),  # not reproduced: it goes the other way, a little
        ("C4", [-5.0, 0.0, 5.0], ""),  # the seeds differ too much to say
        ("C4", [-9.1, -9.0, -8.9], ""),
        ("C4", [0.9, 1.0, 1.1], ""),  # its direction holds: an effect, if a small one
        ("C9", [-0.1, 0.0, 0.1], ""),  # in shares of training, for which no margin was declared
    ],
)
def test_an_interval_within_the_margin_says_that_there_is_no_effect_larger(claim, values, size):
    rows = rows_for(CLAIMS[claim], values)
    judged = judge(rows, CLAIMS[claim].contrasts[:1], chance=CHANCE)
    assert judged["size"].tolist() == [size]
    shown_as = with_limits(judged).verdict.iloc[0]
    assert shown_as == "; ".join(filter(None, (judged.verdict.iloc[0], size)))
    unlearnt = judge(rows_for(CLAIMS[claim], values, accuracy=CHANCE), CLAIMS[claim].contrasts[:1], chance=99.0)
    assert unlearnt["size"].tolist() == [""], "what has not learnt shows nothing, also not that there is no effect"


def test_the_judged_number_is_the_contrasts():
    rows = rows_for(CLAIMS["C5"], [20.0, 20.1, 20.3])
    judged = judge(rows, CLAIMS["C5"].contrasts, chance=CHANCE).iloc[0]
    text, terms, _ = shown(judged.measured)
    values = recomputed(terms, rows)
    assert values == pytest.approx([20.0, 20.1, 20.3])
    assert text == f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert shown(judged["95 % interval"])[0] == f"{low:.1f} to {high:.1f}"
    limits = (judged.floor, judged.threshold, judged["upper limit"])
    assert (judged.paper, limits) == ("8.5 to 19.2", ("0.0", "8.5", "29.9"))
