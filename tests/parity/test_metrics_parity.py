"""Metrics against scikit-learn and a second way of writing the calibration errors."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import accuracy_score, recall_score

from livt.metrics import evaluate_logits


def problem(seed, n=600, classes=12):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=rng.uniform(0.5, 4), size=(n, classes))
    labels = np.where(rng.random(n) < 0.5, logits.argmax(axis=1), rng.integers(0, classes, n))
    counts = np.sort(rng.integers(1, 400, classes))[::-1].copy()
    return logits, labels, counts


@pytest.mark.parametrize("seed", range(6))
def test_accuracies_against_scikit_learn(seed):
    logits, labels, counts = problem(seed)
    predicted = logits.argmax(axis=1)
    result = evaluate_logits(logits, labels, counts)
    assert result.accuracy == pytest.approx(100 * accuracy_score(labels, predicted))
    classes = np.arange(len(counts))
    recall = recall_score(labels, predicted, labels=classes, average=None)
    np.testing.assert_allclose(result.per_class, 100 * recall)
    for value, members in [
        (result.many, classes[counts > 100]),
        (result.medium, classes[(counts >= 20) & (counts <= 100)]),
        (result.few, classes[counts < 20]),
    ]:
        if len(members):
            macro = recall_score(labels, predicted, labels=members, average="macro")
            assert value == pytest.approx(100 * macro)
        else:
            assert np.isnan(value)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("bins", [7, 15, 40])
def test_calibration_against_histograms(seed, bins):
    """ECE is the sum over bins of |sum of (hit - confidence)| / N: no bin means, no bin weights."""
    logits, labels, counts = problem(seed)
    confidence = softmax(logits, axis=1).max(axis=1)
    excess = (logits.argmax(axis=1) == labels) - confidence
    which = np.ceil(confidence * bins).astype(int) - 1  # (lo, hi]
    total = np.bincount(which, weights=excess, minlength=bins)
    size = np.bincount(which, minlength=bins)
    result = evaluate_logits(logits, labels, counts, bins=bins)
    assert result.ece == pytest.approx(100 * np.abs(total).sum() / len(labels), rel=1e-9)
    assert result.mce == pytest.approx(100 * np.max(np.abs(total[size > 0]) / size[size > 0]), rel=1e-9)
    assert 0 <= result.ece <= result.mce <= 100


def test_ece_vanishes_for_labels_drawn_from_the_softmax():
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2, size=(40000, 3))
    shares = softmax(logits, axis=1)
    labels = (shares.cumsum(axis=1) < rng.random((40000, 1))).sum(axis=1)
    assert evaluate_logits(logits, labels, [200, 50, 5]).ece < 1.5
