import numpy as np
import pandas as pd
import pytest
from scipy import stats

from livt.companion.claims import Contrast, claims
from livt.companion.published import LOSS_NAMES, TABLES, published
from livt.companion.statistics import VERDICTS, estimate, verdict


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
    assert all(contrast.floor < contrast.threshold for claim in claims() for contrast in claim.contrasts)


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
    ],
)
def test_verdicts(values, expected):
    assert verdict(values, floor=0.0, threshold=8.5) == expected
    assert expected in VERDICTS


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
