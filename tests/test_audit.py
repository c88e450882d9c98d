"""The arithmetic of reported accuracies, against loops over what it claims to decide."""

import itertools

import numpy as np
import pandas as pd
import pytest

from livt.companion.audit import Report, all_splits, fits, group_sizes, least_fall

COUNTS = [300, 200, 120, 90, 40, 40, 25, 15, 8, 3]


def test_a_split_has_the_classes_that_its_bounds_say():
    counts = np.array(COUNTS)
    found = all_splits(counts)
    for name, sizes in found.items():
        high, low = (int(part.split()[-1]) for part in name.split(","))
        assert sizes == ((counts > high).sum(), ((counts <= high) & (counts >= low)).sum(), (counts < low).sum())
        assert min(sizes) > 0
    every = {
        ((counts > high).sum(), ((counts <= high) & (counts >= low)).sum(), (counts < low).sum())
        for low, high in itertools.product(range(1, 301), repeat=2)
        if low <= high
    }
    assert set(found.values()) == {sizes for sizes in every if min(sizes) > 0}
    assert len(found) == len(set(found.values()))
    assert group_sizes(counts) == (3, 4, 3)


@pytest.mark.parametrize("half", [0.05, 0.5])
def test_a_report_fits_where_some_numbers_of_correct_images_round_to_it(half):
    rng = np.random.default_rng(0)
    sizes, per_class = np.array([2, 1, 1]), 7
    images = per_class * sizes
    answers = []
    for _ in range(60):
        right = rng.integers(0, images + 1)
        exact = [*(100 * right / images), 100 * right.sum() / images.sum()]
        exact[3] += rng.choice([0, 3 * half])
        report = Report(tuple(round(x / (2 * half)) * 2 * half for x in exact[:3]), exact[3], half)
        possible = any(
            all(abs(100 * c / n - g) <= half + 1e-9 for c, n, g in zip(correct, images, report.groups, strict=True))
            and abs(100 * sum(correct) / images.sum() - report.accuracy) <= half + 1e-9
            for correct in itertools.product(*(range(n + 1) for n in images))
        )
        answers.append(possible)
        assert fits(report, sizes[None], per_class)[0] == possible
    assert True in answers
    assert False in answers


def test_a_model_agrees_with_itself_under_any_two_splits():
    accuracy = np.array([80, 78, 70, 66, 60, 55, 50, 40, 30, 20.0])  # rises with the count: no fall

    def seen(sizes):
        parts = np.split(accuracy, np.cumsum(sizes)[:-1])
        return Report(tuple(part.mean() for part in parts), accuracy.mean(), 0.01)

    splits = [(3, 4, 3), (2, 3, 5)]
    assert least_fall([seen(s) for s in splits], splits) == pytest.approx(0, abs=1e-6)
    falling = Report((50.0, 80.0, 10.0), float(np.average([50, 80, 10], weights=(3, 4, 3))), 0.01)
    assert least_fall([falling], [(3, 4, 3)]) == pytest.approx(30, abs=0.05)
    assert least_fall([seen(splits[0]), Report((99.0, 99.0, 99.0), 99.0, 0.01)], splits) is None


def test_the_weighted_mean_of_a_row():
    row = pd.Series({"many": 80.0, "medium": 50.0, "few": 20.0, "accuracy": 56.0})
    assert Report.of(row).weighted([3, 1, 1]) == pytest.approx((3 * 80 + 50 + 20) / 5)
