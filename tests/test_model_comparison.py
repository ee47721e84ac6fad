"""Two models on the same cases: differences, their intervals, and DeLong's test."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from volumetric.errors import ConfigError
from volumetric.metrics import (
    AreaDifference,
    Resampling,
    compare_classification,
    compare_statistics,
    delong_difference,
    paired_difference,
    score_calibration,
    score_classification,
    threshold_statistic,
)

FEW = Resampling(n_resamples=200)
NAMES = ["a", "b", "c"]


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def two_models(n: int = 150, *, seed: int = 0, gain: float = 0.8):
    """Probabilities of two models that find the same cases hard, labels, and subjects of two."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, n)
    shared = generator.normal(size=(n, 3))
    logits = [shared + 0.4 * generator.normal(size=(n, 3)) for _ in range(2)]
    for scores, skill in zip(logits, (1.0, 1.0 + gain), strict=True):
        scores[np.arange(n), labels] += skill
    return softmax(logits[0]), softmax(logits[1]), labels, [f"s{row // 2}" for row in range(n)]


# Paired by drawing


def test_both_values_are_those_of_each_model_and_the_difference_is_second_less_first():
    first, second, labels, subjects = two_models()
    how = {"classes": NAMES, "subjects": subjects, "resampling": FEW}
    got = compare_classification(first, second, labels, **how)
    sides = []
    for scores in (first, second):
        own = score_classification(scores, labels, **how)
        sides.append(own | score_calibration(scores, labels, subjects=subjects, resampling=FEW))
    assert set(got) == set(sides[0]) - {"top5"}
    for metric, row in got.items():
        assert set(row) == set(sides[0][metric])
        for name, found in row.items():
            one, other = (side[metric][name].mean for side in sides)
            assert (found.first, found.second) == pytest.approx((one, other))
            difference = found.difference
            assert difference.mean == pytest.approx(other - one)
            if metric.startswith("ece"):
                assert difference.ci_low is None
                assert "biased" in difference.reason
            else:
                assert difference.ci_low <= difference.mean <= difference.ci_high


def test_means_over_cases_have_the_interval_and_p_of_a_paired_difference():
    first, second, labels, subjects = two_models()
    got = compare_classification(
        first, second, labels, classes=NAMES, subjects=subjects, resampling=FEW
    )
    rows = np.arange(len(labels))
    squares = [((p - np.eye(3)[labels]) ** 2).sum(axis=1) for p in (first, second)]
    values = {
        "top1": [(p.argmax(axis=1) == labels).astype(float) for p in (first, second)],
        "nll": [-np.log(p[rows, labels]) for p in (first, second)],
        "brier": squares,
    }
    for metric, (one, other) in values.items():
        expected = paired_difference(
            one.tolist(), other.tolist(), subjects=subjects, n_resamples=200
        )
        found = got[metric]["all"].difference
        assert (found.mean, found.ci_low, found.ci_high, found.p) == pytest.approx(
            (expected.mean, expected.ci_low, expected.ci_high, expected.p)
        )
    assert got["auroc"]["all"].difference.p is None


def test_pairing_makes_the_interval_narrower_than_either_models_own():
    first, second, labels, subjects = two_models(300, gain=0.3)
    how = {"classes": NAMES, "subjects": subjects, "resampling": FEW}
    got = compare_classification(first, second, labels, **how)["auroc"]["all"].difference
    own = score_classification(first, labels, **how)["auroc"]["all"]
    assert got.ci_high - got.ci_low < 0.8 * (own.ci_high - own.ci_low)


def test_a_model_does_not_differ_from_itself():
    first, _, labels, subjects = two_models()
    got = compare_classification(
        first, first, labels, classes=NAMES, subjects=subjects, resampling=FEW
    )
    for row in got.values():
        for found in row.values():
            assert found.difference.mean == 0
            assert found.difference.ci_low in (0, None)
            assert found.difference.ci_high in (0, None)
    assert got["top1"]["all"].difference.p == 1


def test_intervals_of_no_difference_hold_it():
    covered = 0
    for seed in range(80):
        first, second, labels, subjects = two_models(120, seed=seed, gain=0.0)
        found = compare_classification(
            first, second, labels, classes=NAMES, subjects=subjects, resampling=FEW
        )["auroc"]["all"].difference
        covered += found.ci_low <= 0 <= found.ci_high
    assert 0.88 <= covered / 80 <= 0.99


def test_what_one_model_leaves_undefined_is_none_and_says_whose_fault_it_is():
    first, second, labels, subjects = two_models()
    first = softmax(np.log(first) - [0, 0, 30])  # never says c
    labels = np.where(labels == 1, 0, labels)
    got = compare_classification(
        first, second, labels, classes=NAMES, subjects=subjects, resampling=FEW
    )
    found = got["precision"]["c"]
    assert (found.first, found.difference.mean) == (None, None)
    assert found.second is not None
    assert found.difference.reason == "first: never predicted"
    recall = got["recall"]["b"].difference
    assert recall.reason == "first: absent from truth; second: absent from truth"
    assert got["recall"]["a"].difference.mean is not None


def test_several_labels_a_case_are_compared_class_by_class():
    generator = np.random.default_rng(5)
    labels = (generator.random((90, 3)) < 0.4).astype(int)
    first, second = (np.clip(k * labels + generator.random((90, 3)) / 2, 0, 1) for k in (0.1, 0.3))
    got = compare_classification(first, second, labels, classes=NAMES, resampling=FEW)
    assert set(got) == {"average_precision", "auroc", "nll", "brier", "ece_mass", "ece_width"}
    for row in got.values():
        assert set(row) == {*NAMES, "all"}
    assert got["auroc"]["all"].difference.ci_low > 0


def test_like_is_compared_with_like():
    labels = np.zeros(4, dtype=int)
    calls = np.ones((4, 2), dtype=bool)
    one, other = (threshold_statistic(calls, labels, classes=names) for names in ("ab", "ba"))
    with pytest.raises(ConfigError) as caught:
        compare_statistics(one, other, 4)
    assert caught.value.code == "bad-classes"
    first, _, labels, _ = two_models(9)
    with pytest.raises(ConfigError) as caught:
        compare_classification(first, np.full((9, 2), 0.5), labels % 2, classes=NAMES)
    assert caught.value.code == "bad-probabilities"


# DeLong


def slow(first, second, own):
    """Areas and the variance of their difference from all pairs, as DeLong et al. write them."""
    psi = []
    for scores in (first, second):
        pairs = scores[own][:, None] - scores[~own][None, :]
        psi.append((pairs > 0) + 0.5 * (pairs == 0))
    n_members, n_others = psi[0].shape
    areas = [one.mean() for one in psi]
    v10 = [one.mean(axis=1) for one in psi]
    v01 = [one.mean(axis=0) for one in psi]
    s = np.zeros((2, 2))
    for j, k in itertools.product(range(2), repeat=2):
        s10 = sum((v10[j][i] - areas[j]) * (v10[k][i] - areas[k]) for i in range(n_members)) / (
            n_members - 1
        )
        s01 = sum((v01[j][i] - areas[j]) * (v01[k][i] - areas[k]) for i in range(n_others)) / (
            n_others - 1
        )
        s[j, k] = s10 / n_members + s01 / n_others
    return areas, s[0, 0] + s[1, 1] - 2 * s[0, 1]


@given(
    arrays(np.int64, (2, 24), elements=st.integers(0, 9)),
    arrays(np.bool_, 24),
)
def test_the_fast_form_equals_all_pairs_ties_and_all(scores, own):
    if not 2 <= own.sum() <= 22:
        return
    first, second = scores / 9
    areas, variance = slow(first, second, own)
    got = delong_difference(first, second, own)
    assert (got.first, got.second) == pytest.approx(areas)
    if variance < 1e-9:
        return
    z = (areas[1] - areas[0]) / math.sqrt(variance)
    assert got.p == pytest.approx(2 * stats.norm.sf(abs(z)))
    reach = stats.norm.ppf(0.975) * math.sqrt(variance)
    assert got.ci_low == pytest.approx(areas[1] - areas[0] - reach)
    assert got.ci_high == pytest.approx(areas[1] - areas[0] + reach)


def binormal(generator, n: int, *, gains: tuple[float, float], rho: float = 0.6):
    own = np.arange(n) < n // 2
    scores = generator.multivariate_normal([0, 0], [[1, rho], [rho, 1]], n).T
    return scores + np.array(gains)[:, None] * own, own


def test_p_below_five_percent_is_that_rare_where_nothing_differs():
    generator = np.random.default_rng(1)
    rare = sum(
        delong_difference(*scores, own).p <= 0.05
        for scores, own in (binormal(generator, 100, gains=(1.0, 1.0)) for _ in range(2000))
    )
    assert 0.035 <= rare / 2000 <= 0.065


def test_a_true_difference_is_found_and_held_by_its_interval():
    generator = np.random.default_rng(2)
    truth = stats.norm.cdf(1.5 / math.sqrt(2)) - stats.norm.cdf(0.8 / math.sqrt(2))
    found = [
        delong_difference(*scores, own)
        for scores, own in (binormal(generator, 160, gains=(0.8, 1.5)) for _ in range(500))
    ]
    assert np.mean([one.ci_low <= truth <= one.ci_high for one in found]) == pytest.approx(
        0.95, abs=0.03
    )
    assert np.mean([one.p <= 0.05 for one in found]) > 0.7


def test_the_interval_agrees_with_that_of_drawing_cases_anew():
    generator = np.random.default_rng(3)
    scores, own = binormal(generator, 300, gains=(0.8, 1.4))
    chances = [np.stack([1 - p, p], axis=1) for p in stats.norm.cdf(scores)]
    drawn = compare_classification(
        *chances, own.astype(int), classes=["no", "yes"], resampling=Resampling(4000)
    )["auroc"]["yes"].difference
    got = delong_difference(*scores, own)
    assert got.difference == pytest.approx(drawn.mean)
    width = got.ci_high - got.ci_low
    assert (got.ci_low, got.ci_high) == pytest.approx(
        (drawn.ci_low, drawn.ci_high), abs=0.06 * width
    )


def test_a_monotone_change_of_scores_changes_nothing_and_the_sides_mirror():
    scores, own = binormal(np.random.default_rng(4), 60, gains=(0.5, 1.0))
    there = delong_difference(*scores, own)
    assert delong_difference(np.exp(scores[0]), scores[1] ** 3, own) == there
    back = delong_difference(scores[1], scores[0], own)
    assert (back.difference, back.p) == pytest.approx((-there.difference, there.p))


OWN = [True, True, False, False]


@pytest.mark.parametrize(
    ("first", "second", "own", "expected"),
    [
        ([4, 1, 3, 2], [8, 1, 4, 3], OWN, (0.5, 0.5, 0.0, 0.0, 0.0, 1.0, 2, 2)),
        ([4, 3, 2, 1], [1, 1, 1, 1], OWN, (1.0, 0.5, -0.5, None, None, None, 2, 2)),
        ([4, 3, 2, 1], [1, 2, 3, 4], [True] * 4, (None,) * 6 + (4, 0)),
        ([4, 3, 2, 1], [1, 2, 3, 4], [False] * 4, (None,) * 6 + (0, 4)),
        ([1, 3, 2, 0], [4, 2, 3, 4], [True, False, False, False], (1 / 3, 5 / 6, 0.5, None)),
    ],
    ids=["one order", "no spread", "no other", "no member", "one member"],
)
def test_where_there_is_no_test(first, second, own, expected):
    got = delong_difference(first, second, own)
    values = [getattr(got, name) for name in AreaDifference.__dataclass_fields__]
    for value, wanted in zip(values, expected, strict=False):
        assert value == (wanted if wanted is None else pytest.approx(wanted))
    assert (got.reason is None) == (got.p is not None)


@pytest.mark.parametrize(
    ("code", "call"),
    [
        ("lengths-differ", lambda: delong_difference([1, 2], [1, 2, 3], [True, False])),
        ("not-finite", lambda: delong_difference([1, math.nan], [1, 2], [True, False])),
        ("bad-statistics", lambda: delong_difference([1, 2], [1, 2], OWN[1:3], confidence=2)),
    ],
)
def test_what_is_no_comparison_is_refused(code, call):
    with pytest.raises(ConfigError) as caught:
        call()
    assert caught.value.code == code
