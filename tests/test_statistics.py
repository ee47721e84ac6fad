"""Intervals that cover what they claim to, and p-values that are as rare as they claim to be."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from volumetric.errors import ConfigError
from volumetric.metrics import Interval, PairedDifference, bootstrap_mean, paired_difference


def skewed(n: int, *, seed: int = 0) -> list[float]:
    """Scores as Dice has them: most near 1, a tail to the left, true mean 0.9."""
    return np.random.default_rng(seed).beta(9, 1, n).tolist()


@pytest.mark.parametrize(
    ("alpha", "beta"), [(9, 1), (2, 0.3)], ids=["a good model", "one that fails at times"]
)
def test_intervals_of_fifty_skewed_scores_cover_the_truth(alpha, beta):
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        interval = bootstrap_mean(generator.beta(alpha, beta, 50).tolist(), n_resamples=1000)
        covered += interval.ci_low <= alpha / (alpha + beta) <= interval.ci_high
    assert 0.915 <= covered / 1000 <= 0.975


def clustered(generator, n_subjects: int = 40):
    """Scores of true mean 0 whose subjects differ more than the one to five scans of each."""
    n_cases = generator.integers(1, 6, n_subjects)
    owners = np.repeat(np.arange(n_subjects), n_cases)
    values = generator.normal(size=n_subjects)[owners] + 0.3 * generator.normal(size=owners.size)
    return values.tolist(), [f"subject-{owner}" for owner in owners]


def test_intervals_cover_the_truth_only_when_whole_subjects_are_drawn():
    generator = np.random.default_rng(2)
    by_subject = by_case = 0
    for _ in range(400):
        values, subjects = clustered(generator)
        whole = bootstrap_mean(values, subjects=subjects, n_resamples=1000)
        loose = bootstrap_mean(values, n_resamples=1000)
        by_subject += whole.ci_low <= 0 <= whole.ci_high
        by_case += loose.ci_low <= 0 <= loose.ci_high
    assert 0.91 <= by_subject / 400 <= 0.98
    assert by_case / 400 < 0.8


@pytest.mark.parametrize("n", [5, 12, 50])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_interval_equals_scipy_bca(n, confidence):
    # Multiples of 1/1024 add without rounding, so that SciPy too sees which resamples tie.
    values = [round(value * 1024) / 1024 for value in skewed(n, seed=n)]
    got = bootstrap_mean(values, n_resamples=40_000, confidence=confidence)
    expected = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=40_000,
        confidence_level=confidence,
        method="BCa",
        random_state=np.random.default_rng(3),
    ).confidence_interval
    noise = 0.03 * (expected.high - expected.low)
    assert got.mean == pytest.approx(np.mean(values), rel=1e-12)
    assert got.ci_low == pytest.approx(expected.low, abs=noise)
    assert got.ci_high == pytest.approx(expected.high, abs=noise)


def test_interval_of_unequal_clusters_equals_scipy_bca_of_a_ratio():
    # Two subjects with many poor scans, eight with few good ones: the skew is the clusters' own.
    n_cases = np.array([20, 3, 1, 2, 1, 1, 2, 1, 1, 2])
    sums = n_cases * np.array([16, 24, 60, 58, 63, 61, 59, 62, 57, 60]) / 64
    got = bootstrap_mean(
        np.repeat(sums / n_cases, n_cases).tolist(),
        subjects=np.repeat(list("abcdefghij"), n_cases).tolist(),
        n_resamples=400_000,
    )
    expected = stats.bootstrap(
        (sums, n_cases),
        lambda total, n, axis: total.sum(axis=axis) / n.sum(axis=axis),
        paired=True,
        n_resamples=400_000,
        batch=40_000,
        method="BCa",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    assert got.mean == pytest.approx(sums.sum() / n_cases.sum())
    assert got.ci_low == pytest.approx(expected.low, abs=1e-3)
    assert got.ci_high == pytest.approx(expected.high, abs=1e-3)


def test_interval_of_means_of_equal_clusters_is_that_of_their_means():
    generator = np.random.default_rng(4)
    scores = generator.beta(9, 1, (15, 4))
    subjects = [f"s{row}" for row in range(15) for _ in range(4)]
    whole = bootstrap_mean(scores.ravel().tolist(), subjects=subjects)
    means = bootstrap_mean(scores.mean(axis=1).tolist())
    assert (whole.n, means.n) == (60, 15)
    assert whole.mean == pytest.approx(means.mean)
    assert whole.ci_low == pytest.approx(means.ci_low)
    assert whole.ci_high == pytest.approx(means.ci_high)


def test_repeating_each_case_of_a_subject_adds_no_certainty():
    values = skewed(20)
    once = bootstrap_mean(values)
    subjects = [f"s{row}" for row in range(20)] * 5
    kept = bootstrap_mean(values * 5, subjects=subjects)
    fooled = bootstrap_mean(values * 5)
    assert kept.ci_high - kept.ci_low == pytest.approx(once.ci_high - once.ci_low)
    assert fooled.ci_high - fooled.ci_low < 0.6 * (once.ci_high - once.ci_low)


def test_the_order_of_subjects_names_and_cases_decides_nothing_but_the_draw():
    values, subjects = clustered(np.random.default_rng(6))
    first = bootstrap_mean(values, subjects=subjects)
    renamed = bootstrap_mean(values, subjects=[name[::-1] for name in subjects])
    turned = bootstrap_mean(values[::-1], subjects=subjects[::-1])
    assert renamed == first
    assert turned.ci_low == pytest.approx(first.ci_low, abs=0.02)
    assert turned.ci_high == pytest.approx(first.ci_high, abs=0.02)


def test_equal_seeds_give_equal_intervals():
    values = skewed(30)
    assert bootstrap_mean(values, seed=7) == bootstrap_mean(values, seed=7)
    assert bootstrap_mean(values, seed=7) != bootstrap_mean(values, seed=8)
    pair = values, skewed(30, seed=9)
    assert paired_difference(*pair, seed=7) == paired_difference(*pair, seed=7)
    assert paired_difference(*pair, seed=7) != paired_difference(*pair, seed=8)


def test_the_global_random_state_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the state that must not change
    paired_difference(skewed(9), skewed(9, seed=1))
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_nulls_are_dropped_with_their_subjects():
    values = [0.9, None, 0.8, 0.7, None]
    subjects = ["a", "b", "c", "a", "c"]
    assert bootstrap_mean(values, subjects=subjects) == bootstrap_mean(
        [0.9, 0.8, 0.7], subjects=["a", "c", "a"]
    )
    assert bootstrap_mean(values).n == 3


@pytest.mark.parametrize(
    ("values", "subjects", "mean", "n", "reason"),
    [
        ([], None, None, 0, "no case has a value"),
        ([None, None], None, None, 0, "no case has a value"),
        ([0.5], None, 0.5, 1, "one subject only: nothing says how others vary"),
        ([0.5, None], None, 0.5, 1, "one subject only: nothing says how others vary"),
        ([0.5, 0.7], ["a", "a"], 0.6, 2, "one subject only: nothing says how others vary"),
    ],
)
def test_fewer_than_two_subjects_have_no_interval(values, subjects, mean, n, reason):
    expected = pytest.approx(mean) if mean is not None else None
    interval = bootstrap_mean(values, subjects=subjects)
    assert interval == Interval(interval.mean, None, None, n, reason)
    assert interval.mean == expected
    difference = paired_difference([0.0] * len(values), values, subjects=subjects)
    assert difference == PairedDifference(interval.mean, None, None, None, n, reason)


def test_equal_values_have_an_interval_of_no_width():
    interval = bootstrap_mean([0.1] * 7)
    assert interval.ci_low == pytest.approx(0.1)
    assert interval.ci_high == pytest.approx(0.1)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.none() | st.floats(-1e6, 1e6), st.sampled_from("abcdefgh")), max_size=40),
    st.sampled_from([1, 10, 200]),
)
def test_the_interval_contains_the_mean_and_stays_among_the_values(rows, n_resamples):
    values, subjects = [value for value, _ in rows], [subject for _, subject in rows]
    known = [value for value in values if value is not None]
    interval = bootstrap_mean(values, subjects=subjects, n_resamples=n_resamples)
    assert interval.n == len(known)
    assert (interval.mean is None) == (not known)
    if interval.reason is None:
        slack = 1e-9 * max(map(abs, known))
        assert interval.ci_low <= interval.mean <= interval.ci_high
        assert min(known) - slack <= interval.ci_low
        assert interval.ci_high <= max(known) + slack


def test_ten_thousand_cases_fit_in_little_memory():
    values = skewed(10_000)
    tracemalloc.start()
    interval = bootstrap_mean(values, n_resamples=2_000)
    paired_difference(values, values[::-1], n_resamples=2_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64e6  # all draws at once would take 160 MB
    assert interval.ci_high - interval.ci_low == pytest.approx(
        2 * 1.96 * np.std(values) / 100, rel=0.1
    )


def test_difference_is_second_less_first_where_both_are_known():
    first = [0.5, 0.6, None, 0.7, 0.1, 0.4]
    second = [0.6, 0.8, 0.9, None, 0.4, 0.8]
    got = paired_difference(first, second)
    interval = bootstrap_mean([0.1, 0.2, 0.3, 0.4])
    assert got.n == 4
    assert got.mean == pytest.approx(0.25)
    assert (got.ci_low, got.ci_high) == pytest.approx((interval.ci_low, interval.ci_high))


def test_p_equals_that_of_all_sign_flips():
    generator = np.random.default_rng(10)
    for _ in range(5):
        differences = generator.normal(0.5, 1, 9)
        flips = np.array(list(itertools.product([-1, 1], repeat=9)))
        as_far = np.abs(flips @ differences) >= abs(differences.sum()) - 1e-12
        got = paired_difference([0.0] * 9, differences.tolist(), n_resamples=40_000)
        assert got.p == pytest.approx(as_far.mean(), abs=0.01)


def test_five_subjects_can_never_show_p_below_five_percent():
    # The data and their mirror image are 2 of 2^5 flips, however rounding moves their sums.
    for seed in range(5):
        got = paired_difference([0.0] * 5, skewed(5, seed=seed))
        assert got.p == pytest.approx(2 / 32, abs=0.01)


def test_p_is_small_but_never_zero_for_what_differs():
    first = skewed(40)
    second = [value + 0.1 for value in first]
    assert paired_difference(first, second, n_resamples=999).p == 1 / 1000
    assert paired_difference(first, first).p == 1


def test_p_is_the_same_both_ways():
    first, second = skewed(25), skewed(25, seed=11)
    there, back = paired_difference(first, second), paired_difference(second, first)
    assert there.p == back.p
    assert there.mean == pytest.approx(-back.mean)


def test_p_below_five_percent_is_that_rare_only_when_whole_subjects_flip():
    generator = np.random.default_rng(12)
    by_subject = by_case = 0
    for _ in range(500):
        values, subjects = clustered(generator, 15)
        zeros = [0.0] * len(values)
        whole = paired_difference(zeros, values, subjects=subjects, n_resamples=500)
        loose = paired_difference(zeros, values, n_resamples=500)
        by_subject += whole.p <= 0.05
        by_case += loose.p <= 0.05
    assert 0.025 <= by_subject / 500 <= 0.075
    assert by_case / 500 > 0.15


@pytest.mark.parametrize(
    ("code", "call"),
    [
        ("not-finite", lambda: bootstrap_mean([0.5, math.nan])),
        ("not-finite", lambda: bootstrap_mean([0.5, math.inf])),
        ("lengths-differ", lambda: bootstrap_mean([0.5, 0.6], subjects=["a"])),
        ("lengths-differ", lambda: paired_difference([0.5, 0.6], [0.5])),
        ("lengths-differ", lambda: paired_difference([0.5], [0.6], subjects=["a", "b"])),
        ("bad-statistics", lambda: bootstrap_mean([0.5, 0.6], n_resamples=0)),
        ("bad-statistics", lambda: bootstrap_mean([0.5, 0.6], confidence=1.0)),
        ("bad-statistics", lambda: bootstrap_mean([0.5, 0.6], confidence=math.nan)),
    ],
)
def test_what_gives_no_interval_is_refused(code, call):
    with pytest.raises(ConfigError) as caught:
        call()
    assert caught.value.code == code
