"""Metrics from logits on cases small enough to work out by hand."""

import dataclasses
import math

import numpy as np
import pytest

from livt.metrics import evaluate_logits


def logits_with_confidence(confidence, predicted, classes):
    """Logits whose softmax puts `confidence` on `predicted` and shares the rest equally."""
    logits = np.full(classes, np.log((1 - confidence) / (classes - 1)))
    logits[predicted] = np.log(confidence)
    return logits


def by_hand(logits, labels, counts, bins):
    """Every metric, sample by sample and bin by bin, in plain Python."""
    hits, confidences = [], []
    for row, label in zip(np.asarray(logits, dtype=np.float64), labels, strict=True):
        share = np.exp(row - row.max())
        confidences.append(float((share / share.sum()).max()))
        hits.append(float(int(row.argmax()) == label))
    per_class = []
    for c in range(len(counts)):
        own = [hit for hit, label in zip(hits, labels, strict=True) if label == c]
        per_class.append(100 * sum(own) / len(own) if own else float("nan"))
    groups = {"many": [], "medium": [], "few": []}
    for value, n in zip(per_class, counts, strict=True):
        if not math.isnan(value):
            groups["many" if n > 100 else "few" if n < 20 else "medium"].append(value)
    result = {name: sum(v) / len(v) if v else float("nan") for name, v in groups.items()}
    gaps, weights = [], []
    for b in range(bins):
        inside = [i for i, p in enumerate(confidences) if b / bins < p <= (b + 1) / bins]
        if inside:
            gaps.append(abs(sum(hits[i] for i in inside) - sum(confidences[i] for i in inside)) / len(inside))
            weights.append(len(inside) / len(hits))
    result["ece"] = 100 * sum(w * g for w, g in zip(weights, gaps, strict=True))
    result["mce"] = 100 * max(gaps)
    result["accuracy"] = 100 * sum(hits) / len(hits)
    result["per_class"] = per_class
    return result


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bins", [1, 5, 15])
def test_every_field_matches_a_sample_by_sample_computation(seed, bins):
    rng = np.random.default_rng(seed)
    counts = np.array([900, 300, 101, 100, 60, 20, 19, 7, 1])
    logits = 2 * rng.normal(size=(257, 9))
    labels = np.where(rng.random(257) < 0.6, logits.argmax(axis=1), rng.integers(0, 9, 257))
    result = evaluate_logits(logits, labels, counts, bins=bins)
    for name, value in by_hand(logits, labels, counts, bins).items():
        np.testing.assert_allclose(getattr(result, name), value, rtol=1e-10, err_msg=name)


def test_groups_average_classes_while_accuracy_counts_images():
    # Class 0: 1 of 1 right; class 1: 1 of 3; class 2: 0 of 1. Both many-shot classes weigh the same.
    logits = 5 * np.eye(3)[[0, 1, 0, 0, 1]]
    result = evaluate_logits(logits, np.array([0, 1, 1, 1, 2]), [500, 200, 5])
    np.testing.assert_allclose(result.per_class, [100, 100 / 3, 0])
    assert result.accuracy == pytest.approx(40)
    assert result.many == pytest.approx((100 + 100 / 3) / 2)
    assert result.few == 0
    assert np.isnan(result.medium)


def test_shot_thresholds():
    counts = [101, 100, 20, 19]
    labels = np.arange(4)
    result = evaluate_logits(np.eye(4)[[0, 1, 0, 0]], labels, counts)  # classes 0 and 1 are right
    assert (result.many, result.medium, result.few) == (100, 50, 0)


def test_a_class_absent_from_the_labels_is_nan_and_leaves_its_group():
    logits = np.eye(4)[[0, 1, 3]]
    result = evaluate_logits(logits, np.array([0, 1, 3]), [500, 50, 50, 5])
    np.testing.assert_array_equal(np.isnan(result.per_class), [False, False, True, False])
    assert result.medium == 100
    # A group whose classes are all absent has nothing to average.
    assert np.isnan(evaluate_logits(logits[:2], np.array([0, 1]), [500, 50, 50, 5]).few)


def test_calibration_by_hand():
    # Four samples at 0.87, three of them right (gap 0.12), and one at 0.63, wrong (gap 0.63).
    rows = [logits_with_confidence(0.87, 0, 3)] * 4 + [logits_with_confidence(0.63, 1, 3)]
    result = evaluate_logits(np.array(rows), np.array([0, 0, 0, 2, 0]), [10, 10, 10], bins=10)
    assert result.ece == pytest.approx(100 * (0.8 * 0.12 + 0.2 * 0.63))
    assert result.mce == pytest.approx(63)  # one sample is enough for a bin to count


def test_bins_are_closed_on_the_right():
    # Two equal logits: a confidence of exactly 0.5 belongs to (0, 0.5], away from the others in (0.5, 1].
    half, high = np.zeros(2), np.array([0.0, np.log(3.0)])  # 0.5 for class 0; 0.75 for class 1
    logits, labels = np.stack([half, half, high]), np.array([0, 0, 1])
    result = evaluate_logits(logits, labels, [10, 10], bins=2)
    assert result.mce == pytest.approx(50)
    assert result.ece == pytest.approx(100 * (2 / 3 * 0.5 + 1 / 3 * 0.25))
    together = evaluate_logits(np.stack([half, high]), np.array([1, 1]), [10, 10], bins=1)
    assert together.ece == pytest.approx(100 * abs(0.5 - 0.625))


@pytest.mark.parametrize(("classes", "bins"), [(2, 4), (3, 15), (5, 15), (15, 15), (10, 10)])
def test_uniform_confidence_on_a_bin_edge_belongs_below_it(classes, bins):
    """1 / C = k / bins: a right answer there must not share a bin with a wrong one just above."""
    above = logits_with_confidence(1 / classes + 0.5 / bins, 1, classes)
    logits = np.stack([np.zeros(classes), above])  # the first is right: a gap of 1 - 1 / C
    result = evaluate_logits(logits, np.array([0, 0]), [10] * classes, bins=bins)
    gaps = [1 - 1 / classes, 1 / classes + 0.5 / bins]
    assert result.mce == pytest.approx(100 * max(gaps))
    assert result.ece == pytest.approx(100 * sum(gaps) / 2)


def test_default_is_fifteen_bins():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 4)), rng.integers(0, 4, 200)
    counts = [200, 50, 20, 5]
    default = evaluate_logits(logits, labels, counts)
    assert default.ece == evaluate_logits(logits, labels, counts, bins=15).ece
    assert default.ece != evaluate_logits(logits, labels, counts, bins=14).ece


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_logits_stay_finite(dtype):
    logits = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 0], [1e4, 0, -1e4], [0, -1e4, 1e4]], dtype=dtype)
    with np.errstate(all="raise", under="ignore"):
        result = evaluate_logits(logits, np.array([0, 1, 2, 2]), [200, 50, 5])
    # Every confidence is 1, one answer of four is wrong.
    assert result.accuracy == 75
    assert (result.ece, result.mce) == (pytest.approx(25), pytest.approx(25))
    np.testing.assert_allclose(result.per_class, [100, 100, 50])


def test_a_perfect_confident_model_has_no_calibration_error():
    result = evaluate_logits(1e3 * np.eye(3), np.arange(3), [200, 50, 5])
    assert (result.accuracy, result.many, result.medium, result.few) == (100, 100, 100, 100)
    assert (result.ece, result.mce) == (pytest.approx(0, abs=1e-10), pytest.approx(0, abs=1e-10))


def test_shifting_a_row_changes_nothing():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 3)), rng.integers(0, 3, 50)
    plain = evaluate_logits(logits, labels, [200, 50, 5])
    shifted = evaluate_logits(logits + 100 * rng.normal(size=(50, 1)), labels, [200, 50, 5])
    for field in dataclasses.fields(plain):
        np.testing.assert_allclose(getattr(plain, field.name), getattr(shifted, field.name), rtol=1e-9)


def test_result_is_frozen_and_inputs_are_left_alone():
    logits, labels = np.eye(3), np.arange(3)
    result = evaluate_logits(logits, labels, [200, 50, 5])
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.accuracy = 0.0
    assert (logits == np.eye(3)).all()
    assert (labels == np.arange(3)).all()
    assert result.per_class.shape == (3,)


@pytest.mark.parametrize(
    ("logits", "labels", "counts", "message"),
    [
        (np.eye(3), np.arange(2), [3, 2, 1], r"(?i)shape|label|\b2\b"),
        (np.zeros(3), np.arange(3), [3, 2, 1], r"(?i)shape|dimension|2-d|\[N, C\]"),
        (np.eye(3), np.zeros((3, 1), dtype=int), [3, 2, 1], r"(?i)shape|label"),
        (np.eye(3), np.arange(3), [3, 2], r"3.*2|2.*3"),
        (np.eye(3), np.array([0, 1, 3]), [3, 2, 1], r"(?i)label.*3|3.*label"),
        (np.eye(3), np.array([0, 1, -1]), [3, 2, 1], r"(?i)label.*-1|-1.*label"),
        (np.array([[0.0, np.nan]]), np.array([0]), [3, 2], r"(?i)finite|nan"),
        (np.array([[0.0, np.inf]]), np.array([0]), [3, 2], r"(?i)finite|inf"),
    ],
)
def test_bad_input_is_named(logits, labels, counts, message):
    with pytest.raises(ValueError, match=message):
        evaluate_logits(logits, labels, counts)
