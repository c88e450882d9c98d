"""Imbalance profiles, priors, shot groups and subsets, against the published dataset facts."""

import csv
from fractions import Fraction
from importlib.resources import files

import numpy as np
import pytest

from livt.longtail import (
    check_class_counts,
    class_priors,
    exponential_counts,
    gini,
    imbalance_factor,
    shot_groups,
    subset_indices,
)


def published_counts(name):
    path = files("livt") / "companion" / "tables" / "class_counts" / f"{name}.csv"
    with path.open() as lines:
        return np.array([int(row["n_train"]) for row in csv.DictReader(lines)])


def gini_by_pairs(counts):
    """Mean absolute difference over all pairs, divided by twice the mean."""
    counts = np.asarray(counts, dtype=np.float64)
    return np.abs(counts[:, None] - counts[None, :]).mean() / (2 * counts.mean())


# ---------------------------------------------------------------------------------------------- profiles


@pytest.mark.parametrize(
    ("max_count", "factor", "classes", "total", "largest", "smallest"),
    [
        (500, 100, 100, 10847, 500, 5),
        (500, 10, 100, 19573, 500, 50),
        (5000, 100, 10, 12406, 5000, 50),
        (5000, 10, 10, 20431, 5000, 500),
    ],
)
def test_exponential_counts_give_the_published_cifar_sizes(max_count, factor, classes, total, largest, smallest):
    counts = exponential_counts(max_count, factor, classes)
    assert counts.shape == (classes,)
    assert np.issubdtype(counts.dtype, np.integer)
    assert (counts.sum(), counts.max(), counts.min()) == (total, largest, smallest)


def exact_count(max_count, factor, c, classes):
    """int(max * (1/factor)^(c/(C-1))), exactly: the largest n with n^(C-1) * factor^c <= max^(C-1)."""
    steps, factor = classes - 1, Fraction(factor)
    low, high = 0, max_count
    while low < high:
        n = (low + high + 1) // 2
        fits = n**steps * factor.numerator**c <= max_count**steps * factor.denominator**c
        low, high = (n, high) if fits else (low, n - 1)
    return low


@pytest.mark.parametrize("max_count", [201, 500, 1280])
@pytest.mark.parametrize("factor", [1, 3, 50, 100, 200.5])
@pytest.mark.parametrize("classes", [2, 3, 10, 101])
def test_exponential_counts_follow_the_formula(max_count, factor, classes):
    expected = [exact_count(max_count, factor, c, classes) for c in range(classes)]
    assert exponential_counts(max_count, factor, classes).tolist() == expected


@pytest.mark.parametrize("max_count", range(2, 120))
def test_exact_quotients_are_not_truncated_by_rounding(max_count):
    """49 * (1 / 49) is 0.9999999999999999 in floating point: the smallest class has 1 image, not 0."""
    assert exponential_counts(max_count, max_count, 2).tolist() == [max_count, 1]
    assert exponential_counts(max_count**2, max_count**2, 3).tolist() == [max_count**2, max_count, 1]


def test_exponential_counts_decrease_and_truncate_rather_than_round():
    counts = exponential_counts(500, 200, 100)
    assert (np.diff(counts) <= 0).all()
    assert counts[-1] == 2  # 500 / 200 = 2.5
    assert exponential_counts(300, 1, 7).tolist() == [300] * 7


# ------------------------------------------------------------------------------------ published statistics


@pytest.mark.parametrize(
    ("name", "classes", "images", "largest", "smallest", "split", "expected_gini"),
    [
        ("imagenet_lt", 1000, 115846, 1280, 5, (385, 479, 136), 0.524),
        ("inat18", 8142, 437513, 1000, 2, (842, 4076, 3224), 0.620),
        ("places_lt", 365, 62500, 4980, 5, (131, 163, 71), 0.672),
    ],
)
def test_real_class_counts(name, classes, images, largest, smallest, split, expected_gini):
    counts = published_counts(name)
    assert (len(counts), counts.sum(), counts.max(), counts.min()) == (classes, images, largest, smallest)
    groups = shot_groups(counts)
    assert tuple(int((groups == group).sum()) for group in ("many", "medium", "few")) == split
    assert gini(counts) == pytest.approx(expected_gini, abs=5e-4)
    assert imbalance_factor(counts) == pytest.approx(largest / smallest)


def test_cifar_shot_splits():
    groups = shot_groups(exponential_counts(500, 100, 100))
    assert [int((groups == g).sum()) for g in ("many", "medium", "few")] == [35, 35, 30]
    for factor in (10, 50, 100):  # the smallest CIFAR-10-LT class has 50 images: no few-shot class at all
        assert "few" not in shot_groups(exponential_counts(5000, factor, 10))


def test_shot_groups_at_the_thresholds_keep_the_class_order():
    groups = shot_groups([101, 1, 100, 20, 19, 5000])
    assert list(groups) == ["many", "few", "medium", "medium", "few", "many"]


# --------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("seed", range(5))
def test_gini_equals_the_mean_difference_over_pairs(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 3000, size=rng.integers(2, 200))
    assert gini(counts) == pytest.approx(gini_by_pairs(counts), rel=1e-12)
    assert gini(rng.permutation(counts)) == pytest.approx(gini(counts), rel=1e-12)
    assert gini(counts * 7) == pytest.approx(gini(counts), rel=1e-12)


def test_gini_of_known_vectors():
    assert gini([5, 5, 5, 5]) == pytest.approx(0, abs=1e-15)
    assert gini([1, 3]) == pytest.approx(0.25)  # |1 - 3| twice in four pairs: 1 / (2 * 2)


def test_imbalance_factor_ignores_the_order():
    assert imbalance_factor([5, 500, 50]) == 100
    assert imbalance_factor([4, 4]) == 1


@pytest.mark.parametrize("seed", range(3))
def test_priors_are_float64_shares(seed):
    counts = np.random.default_rng(seed).integers(1, 10**6, size=50)
    priors = class_priors(counts)
    assert priors.dtype == np.float64
    exact = [float(Fraction(int(n), int(counts.sum()))) for n in counts]
    np.testing.assert_allclose(priors, exact, rtol=1e-15)
    assert priors.sum() == pytest.approx(1, abs=1e-14)


# ------------------------------------------------------------------------------------------------ subsets


@pytest.mark.parametrize("seed", range(3))
def test_subset_has_exactly_the_counts_and_is_sorted(seed):
    labels = np.random.default_rng(100 + seed).permutation(np.repeat(np.arange(6), 40))
    counts = np.array([40, 21, 9, 4, 2, 1])
    picked = subset_indices(labels, counts, np.random.default_rng(seed))
    assert np.issubdtype(picked.dtype, np.integer)
    assert np.bincount(labels[picked], minlength=6).tolist() == counts.tolist()
    assert (np.diff(picked) > 0).all()  # sorted, and no image twice
    again = subset_indices(labels, counts, np.random.default_rng(seed))
    other = subset_indices(labels, counts, np.random.default_rng(seed + 1))
    assert (picked == again).all()
    assert not np.array_equal(picked, other)


def test_subset_uses_only_the_generator_it_is_given():
    labels = np.repeat([0, 1], 50)
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    first = subset_indices(labels, [10, 5], np.random.default_rng(3))
    assert (np.random.get_state()[1] == before).all()
    np.random.seed(1)
    assert (first == subset_indices(labels, [10, 5], np.random.default_rng(3))).all()


def test_subset_draws_each_image_equally_often():
    labels = np.array([1, 0, 1, 1, 0, 1])
    generator = np.random.default_rng(0)
    drawn = np.zeros(6)
    for _ in range(2000):
        drawn[subset_indices(labels, [1, 1], generator)] += 1
    # Standard errors are 0.011 and 0.010; five of them is a generous band.
    np.testing.assert_allclose(drawn / 2000, [0.25, 0.5, 0.25, 0.25, 0.5, 0.25], atol=0.055)


def test_subset_names_the_class_that_has_too_few_images():
    labels = np.repeat([0, 1, 2], [10, 10, 3])
    with pytest.raises(ValueError, match=r"(?i)class\D*2\b"):
        subset_indices(labels, [5, 5, 4], np.random.default_rng(0))


# ------------------------------------------------------------------------------------------------- checks


def test_check_class_counts_returns_float64_without_touching_its_input():
    given = np.array([3, 2, 1])
    checked = check_class_counts(given, num_classes=3)
    assert checked.dtype == np.float64
    assert checked.tolist() == [3.0, 2.0, 1.0]
    checked[0] = 99
    assert given.tolist() == [3, 2, 1]
    assert check_class_counts((4, 5)).tolist() == [4.0, 5.0]


@pytest.mark.parametrize(
    ("counts", "num_classes", "message"),
    [
        ([], None, r"(?i)empty|no class|at least one"),
        ([5, 4, -3, 2], None, r"(?i)class\D*2\b.*-3"),
        ([5, float("nan"), 3], None, r"(?i)class\D*1\b.*nan"),
        ([5, 4, 3, float("inf")], None, r"(?i)class\D*3\b.*inf"),
        ([5, 4, 3, 0], None, r"(?i)class\D*3\b"),
        ([5, 4, 3], 4, r"3.*4|4.*3"),
        ([5, 4, 3], 2, r"3.*2|2.*3"),
    ],
)
def test_check_class_counts_names_the_problem_and_the_class(counts, num_classes, message):
    with pytest.raises(ValueError, match=message):
        check_class_counts(counts, num_classes=num_classes)


@pytest.mark.parametrize("function", [class_priors, gini, imbalance_factor])
def test_statistics_refuse_a_class_without_images(function):
    with pytest.raises(ValueError, match=r"(?i)class\D*1\b"):
        function([5, 0, 3])
