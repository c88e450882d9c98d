"""What models say of their own certainty, against loops and the binomial distribution."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from livt.companion.confidence import at_equal_accuracy, bins_of, calibration_of, mean_gaps, noise
from livt.longtail import GROUPS
from livt.metrics import evaluate_logits, softmax

COUNTS = np.array([500, 120, 60, 30, 10, 5])


@pytest.fixture
def logits():
    rng = np.random.default_rng(1)
    return 2 * rng.normal(size=(400, 6)), rng.integers(0, 6, 400)


def bins(size, accuracy, confidence):
    return pd.DataFrame({"size": size, "accuracy": accuracy, "confidence": confidence}, dtype=float)


def test_noise_is_that_of_a_binomial():
    """One bin of n images: the mean of |k / n - p| and its quantile follow from the probabilities of k."""
    n, p = 40, 0.7
    found = noise(bins([0, n], [np.nan, 0.5], [np.nan, p]))
    k = np.arange(n + 1)
    gaps, weights = 100 * np.abs(k / n - p), binom.pmf(k, n, p)
    assert found["ece ideal"] == pytest.approx(gaps @ weights, rel=0.05)
    order = np.argsort(gaps)
    assert found["mce high"] == pytest.approx(gaps[order][np.cumsum(weights[order]).searchsorted(0.95)], abs=2.6)
    assert (found.images, found.total) == (n, n)
    assert found.ece == found.mce == pytest.approx(20)


def test_the_bin_behind_the_mce_is_named():
    found = noise(bins([30, 10], [0.5, 0.2], [0.6, 0.9]))
    assert (found.images, found.total) == (10, 40)
    assert found.ece == pytest.approx((30 * 10 + 10 * 70) / 40)


def test_gaps_come_from_the_bins_of_each_run():
    def record(seed, run, confidence):
        recipe = SimpleNamespace(finetune=SimpleNamespace(loss="ce"), seed=seed)
        about = {"size": [3, 0, 1], "accuracy": [0.5, None, 1.0], "confidence": [confidence, None, 0.8]}
        return SimpleNamespace(result={"reliability": about}, recipe=recipe, id=run)

    found = bins_of([record(1, "b", 0.7), record(0, "a", 0.5)])
    assert found.run.tolist() == ["b"] * 3 + ["a"] * 3
    gaps = mean_gaps(found)
    assert gaps["ce", 0] == pytest.approx(100 * (1 * -0.2) / 4)
    assert gaps["ce", 1] == pytest.approx(100 * (3 * 0.2 + 1 * -0.2) / 4)


def test_calibration_is_that_of_the_metrics_and_of_a_loop(logits):
    z, labels = logits
    p, decided = softmax(z), z.argmax(1)
    found = calibration_of(p, decided, labels, COUNTS)
    assert found["ECE"] == pytest.approx(evaluate_logits(z, labels, COUNTS).ece)
    assert found["sum"] == pytest.approx(1)
    group_of = ["many", "many", "medium", "medium", "few", "few"]  # more than 100, at least 20, fewer
    for by, classes in (("by true class", labels), ("by class decided for", decided)):
        for group in GROUPS:
            gaps = [p[i, decided[i]] - (decided[i] == labels[i]) for i in range(400) if group_of[classes[i]] == group]
            assert found[f"{by}, {group}"] == pytest.approx(100 * sum(gaps) / len(gaps))


def test_the_stated_confidence_is_of_the_class_decided_for(logits):
    """Not of the class that the stated form itself would have chosen."""
    z, labels = logits
    other = softmax(z + np.array([0, 0, 0, 0, 0, 50.0]))
    stated = [row[decided] for row, decided in zip(other, z.argmax(1), strict=True)]
    gap = 100 * (np.mean(stated) - np.mean(z.argmax(1) == labels))
    assert calibration_of(other, z.argmax(1), labels, COUNTS)["gap"] == pytest.approx(gap)
    assert calibration_of(other, other.argmax(1), labels, COUNTS)["gap"] > gap + 10


def test_a_group_without_images_has_no_gap(logits):
    z, labels = logits
    found = calibration_of(softmax(z), z.argmax(1), np.minimum(labels, 3), COUNTS)
    assert np.isnan(found["by true class, few"])


def test_equal_accuracy_is_the_first_epoch_with_the_end_of_the_other():
    def run(loss, accuracy):
        return pd.DataFrame({"loss": loss, "seed": 0, "epoch": [1, 2, 3], "accuracy": accuracy, "ece": [9.0, 8.0, 7.0]})

    curves = pd.concat([run("bce", [10, 40, 30]), run("bal_bce", [20, 35, 50]), run("ce", [1, 2, 3])])
    found = at_equal_accuracy(curves)
    assert found.loc["bal_bce", 0].tolist() == [2, 35, 8]
    assert found.loc["bce", 0].tolist() == [3, 30, 7]
    assert "ce" not in found.index.unique("loss")
