from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from livt.companion.claims import claims
from livt.companion.contrasts import Contrast
from livt.companion.published import LOSS_NAMES, TABLES, published
from livt.companion.statistics import VERDICTS, estimate, holm, learnt_above, overall, p_value, sign, verdict


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_read_and_hold_percentages(name):
    table = published(name)
    assert len(table)
    for column in {"many", "medium", "few", "accuracy", "ece", "mce"} & set(table.columns):
        assert table[column].dropna().between(0, 100).all()


def test_an_unknown_table_names_the_known():
    with pytest.raises(ValueError, match="unknown table 'table9'; choose from .*table5_loss_by_model_size"):
        published("table9")


def test_class_counts_agree_with_the_dataset_table():
    sizes = published("datasets").drop_duplicates("dataset", keep="first").set_index("dataset")
    for name in ("imagenet_lt", "inat18", "places_lt"):
        counts = published(f"class_counts/{name}").n_train
        row = sizes.loc[name]
        assert (counts.sum(), len(counts), counts.max(), counts.min()) == (
            row.training_images,
            row.classes,
            row.max_images_per_class,
            row.min_images_per_class,
        )


def test_claims_restate_the_papers_numbers():
    """The evidence as the paper's text and tables give it, for Tiny, Small, Base and Large."""
    expected = {"C4": [15.4, 9.7, 2.1, 4.0], "C5": [19.2, 14.3, 8.5, 9.2], "C6": [-0.6, 0.1, 0.8, 0.5]}
    for claim in claims():
        if claim.id in expected:
            assert list(claim.contrasts[0].published) == pytest.approx(expected[claim.id], abs=0.11)


def test_thresholds_are_the_smallest_published_numbers_above_the_floor():
    found = {claim.id: [contrast.threshold for contrast in claim.contrasts] for claim in claims()}
    assert found["C4"] == [2.1]
    assert found["C5"] == [8.5]
    assert found["C6"] == [-0.6]
    assert found["C8"] == [0.9]
    assert found["C9"][1:] == [None, None], "no published run compares the convergence of two losses"
    every = [contrast for claim in claims() for contrast in claim.contrasts]
    assert all(contrast.floor < contrast.threshold for contrast in every if contrast.published)


def test_upper_limits_lie_one_published_range_above_the_largest_number():
    def ceiling(*published):
        return Contrast(label="", metric="ece", weights={"a": 1}, floor=0, published=published).ceiling

    assert ceiling(8.5, 19.2, 9.0) == pytest.approx(19.2 + 10.7)
    assert ceiling(-0.2, 3.2) == pytest.approx(6.6)
    assert ceiling(4.1) is None, "one number has no range"
    assert ceiling() is None
    found = {claim.id: claim.contrasts[0].ceiling for claim in claims() if claim.contrasts}
    expected = {"C4": 28.7, "C5": 29.9, "C6": 2.2, "C7": 27.5, "C8": 6.6}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["C2"] is None


def test_controls_take_the_place_of_the_plain_losses():
    contrast = Contrast(label="", metric="many", weights={"bal_bce": 1, "bce": -1, "ce": 2}, floor=0, published=())
    assert {name: dict(control.weights) for name, control in contrast.controls().items()} == {
        "BCE from 1/C": {"bal_bce": 1, "bce, uniform start": -1, "ce": 2},
        "BCE from the prior": {"bal_bce": 1, "bce, prior start": -1, "ce": 2},
        "BCE and CE from the prior": {"bal_bce": 1, "bce, prior start": -1, "ce, prior start": 2},
    }
    having = {claim.id for claim in claims() for contrast in claim.contrasts if contrast.controls()}
    assert having == {"C4", "C5", "C7", "C8"}


def test_a_claim_is_paired_within_seeds():
    runs = pd.DataFrame(
        {
            "seed": [0, 1, 2, 0, 1],
            "arm": ["bal_bce"] * 3 + ["bce"] * 2,
            "accuracy": [50.0, 60.0, 70.0, 45.0, 50.0],
        }
    )
    weights = {"bal_bce": 1, "bce": -1}
    contrast = Contrast(label="X", metric="accuracy", weights=weights, floor=0, published=(1.0,))
    assert contrast.measured(runs).to_dict() == {0: 5.0, 1: 10.0}
    assert contrast.measured(runs[runs.arm == "bce"]).empty


def test_the_estimate_is_students_interval():
    values = [1.0, 2.0, 4.0, 8.0]
    e = estimate(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (e.n, e.mean) == (4, 3.75)
    assert (e.low, e.high) == pytest.approx((low, high))
    assert e.std == pytest.approx(np.std(values, ddof=1))
    assert estimate([3.0]).mean == 3.0
    assert np.isnan(estimate([3.0]).low)
    assert estimate([]).n == 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], "not run"),
        ([20.0], "inconclusive"),
        ([20.0, 20.1], "inconclusive"),
        ([9.0, 10.0, 11.0], "reproduced"),
        ([3.0, 3.5, 4.0], "direction holds"),
        ([-3.0, -3.5, -4.0], "not reproduced"),
        ([-5.0, 1.0, 30.0], "inconclusive"),
        ([9.0, 10.0, float("nan")], "inconclusive"),
        ([49.0, 50.0, 51.0], "larger than published"),
        ([25.0, 35.0, 45.0], "reproduced"),  # the mean is above the upper limit, the interval not wholly
    ],
)
def test_verdicts(values, expected):
    assert verdict(values, floor=0.0, threshold=8.5, ceiling=29.9) == expected
    assert expected in VERDICTS
    other = verdict(values, floor=0.0, threshold=8.5, ceiling=29.9, explained=True)
    assert other == ("larger, by another mechanism" if expected == "larger than published" else expected)


def test_without_a_published_number_nothing_is_reproduced():
    assert verdict([49.0, 50.0, 51.0], floor=0.0, threshold=None) == "direction holds"
    assert verdict([-49.0, -50.0, -51.0], floor=0.0, threshold=None) == "not reproduced"


def test_the_weakest_verdict_counts():
    """From the strongest to the weakest, each against all before it; what is missing makes the whole inconclusive."""
    order = [*VERDICTS[:4], "inconclusive", "not reproduced"]
    for i, weaker in enumerate(order):
        for stronger in order[: i + 1]:
            assert overall([weaker, stronger]) == overall([stronger, weaker]) == weaker
    assert overall(["larger than published", "not run"]) == "inconclusive"
    assert overall(["not run", "not reproduced"]) == "not reproduced"


@pytest.mark.parametrize(
    ("classes", "level"), [(2, 60.0), (10, 20.0), (20, 15.0), (40, 12.5), (100, 5.0), (200, 2.5), (1000, 0.5)]
)
def test_learnt_is_five_times_chance_or_ten_points_more(classes, level):
    assert learnt_above(100 / classes) == pytest.approx(level)


@pytest.mark.parametrize("seed", range(10))
def test_the_p_value_is_the_t_tests(seed):
    random = np.random.default_rng(seed)
    values, floor = random.normal(1.0, 2.0, size=3 + seed % 4), random.normal()
    expected = stats.ttest_1samp(values, floor, alternative="greater").pvalue
    assert p_value(values, floor) == pytest.approx(expected, rel=1e-6, abs=1e-12)
    e = estimate(values)
    assert p_value(values, e.low - 1e-6) < 0.025 < p_value(values, e.low + 1e-6)
    assert (sign(e) == 1) == (e.low > 0)


def test_the_p_value_without_spread():
    assert p_value([2.0, 2.0, 2.0], 1.0) == 0.0
    assert p_value([2.0, 2.0, 2.0], 2.0) == 1.0
    assert np.isnan(p_value([2.0], 1.0))


@pytest.mark.parametrize("n", range(7))
@pytest.mark.parametrize("power", [1, 4])
def test_holm_is_the_closed_test_of_bonferroni(n, power):
    """A hypothesis falls where every set of hypotheses that contains it falls by Bonferroni: all sets are tried."""
    p = np.random.default_rng(n).random(n) ** power
    p = [*p, *p[:1]]  # a tie
    expected = []
    for i in range(len(p)):
        sets = [s for k in range(1, len(p) + 1) for s in combinations(range(len(p)), k) if i in s]
        expected.append(max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets))
    assert holm(p) == pytest.approx(expected)


def test_a_floor_below_zero_allows_that_much_loss():
    assert verdict([-0.4, -0.5, -0.6], floor=-1.0, threshold=-0.6) == "reproduced"
    assert verdict([-2.0, -2.1, -2.2], floor=-1.0, threshold=-0.6) == "not reproduced"


def test_the_official_logs_end_at_the_published_accuracies():
    """Last accuracy of each released log, beside the paper's: 60.9, 63.8, 76.1 and 81.0."""
    last = {
        "imagenet_lt_vitb224": 60.788,
        "imagenet_lt_vitb384": 63.512,
        "inat18_vitb224": 76.081,
        "inat18_vitb384": 80.951,
    }
    for name, accuracy in last.items():
        log = published(f"official_logs/finetune_{name}")
        assert log.epoch.tolist() == list(range(100))
        assert log.test_acc1.iloc[-1] == pytest.approx(accuracy, abs=6e-4)
    for name in ("pretrain_imagenet_lt_vitb224", "pretrain_inat18_vitb128"):
        assert published(f"official_logs/{name}").epoch.tolist() == list(range(800))


def test_every_loss_has_its_published_name():
    assert set(LOSS_NAMES.values()) == set(published("table5_loss_by_model_size").loss)
