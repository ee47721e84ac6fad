"""Thresholds and temperatures that are chosen on other cases than those they serve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as oracle

from volumetric.errors import ConfigError
from volumetric.metrics import (
    Choice,
    Resampling,
    apply_temperature,
    bin_reliability,
    call_classes,
    choose_temperatures,
    choose_thresholds,
    fit_temperature,
    scale_probabilities,
    score_calibration,
    score_statistic,
    threshold_statistic,
    two_sided,
    youden_threshold,
)

FEW = Resampling(n_resamples=50)
NAMES = ["a", "b", "c"]


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def cohort(n: int = 240, *, seed: int = 0, n_folds: int = 4, factor: float = 1.0):
    """Probabilities, labels, folds and subjects (two cases each, in one fold)."""
    generator = np.random.default_rng(seed)
    logits = 1.5 * generator.normal(size=(n, 3))
    labels = (softmax(logits).cumsum(axis=1) < generator.random((n, 1))).sum(axis=1).clip(max=2)
    owners = np.arange(n) // 2
    subjects = [f"s{owner}" for owner in owners]
    return softmax(logits * factor), labels, (owners % n_folds).tolist(), subjects


def values(chosen):
    return {fold: [one.value for one in found] for fold, found in chosen.items()}


@given(
    arrays(np.int64, st.integers(1, 30), elements=st.integers(0, 8)).flatmap(
        lambda scores: st.tuples(st.just(scores / 8), arrays(np.bool_, scores.shape))
    )
)
def test_no_threshold_has_a_larger_j_than_the_one_found(pair):
    scores, own = pair
    found = youden_threshold(scores, own)
    if own.all() or not own.any():
        assert found is None
        return
    false, true, _ = oracle.roc_curve(own, scores, drop_intermediate=False)
    best = (true - false).max()
    if found is None:
        assert best == pytest.approx(0, abs=1e-12)
        return
    called = scores >= found
    assert called[own].mean() - called[~own].mean() == pytest.approx(best)
    assert found not in scores  # between two of them: neither is called by a hair


def test_of_equally_good_thresholds_the_most_sensitive_is_chosen():
    # Yes from 0.8 on: 1/2 and 2/2; yes from 0.4 on: 2/2 and 1/2.
    assert youden_threshold([0.8, 0.6, 0.4, 0.2], [True, False, True, False]) == pytest.approx(0.3)


def test_the_cases_of_a_fold_have_no_say_in_their_own_choice():
    probabilities, labels, folds, subjects = cohort()
    how = {"folds": folds, "subjects": subjects}
    inside = np.array(folds) == 2
    other_labels = np.where(inside, (labels + 1) % 3, labels)
    other = np.where(inside[:, None], probabilities[:, [1, 2, 0]], probabilities)
    for choose in (choose_thresholds, choose_temperatures):
        first, second = choose(probabilities, labels, **how), choose(other, other_labels, **how)
        assert first[2] == second[2]
        assert all(first[fold] != second[fold] for fold in (0, 1, 3))
        assert all(one.reason is None and one.n == 180 for one in first[2])
    elsewhere = ~inside
    assert choose_thresholds(probabilities, labels, **how)[2][1].value == youden_threshold(
        probabilities[elsewhere, 1], labels[elsewhere] == 1
    )
    assert choose_temperatures(probabilities, labels, **how)[2][0].value == fit_temperature(
        probabilities[elsewhere], labels[elsewhere]
    )


def test_nor_has_a_case_of_another_fold_that_shares_their_subject():
    probabilities, labels, folds, subjects = cohort()
    subjects[0] = subjects[-1]
    assert folds[0] != folds[-1]
    for choose in (choose_thresholds, choose_temperatures):
        found = choose(probabilities, labels, folds=folds, subjects=subjects)
        assert [found[fold][0].n for fold in (0, 1, 2, 3)] == [178, 180, 180, 179]


def test_with_one_fold_nothing_is_chosen():
    probabilities, labels, _, subjects = cohort()
    how = {"folds": [1] * len(labels), "subjects": subjects}
    (found,) = choose_thresholds(probabilities, labels, **how).values()
    assert found == (Choice(0.5, 0, "no case of another fold to choose it on"),) * 3
    (found,) = choose_temperatures(probabilities, labels, **how).values()
    assert found == (Choice(1.0, 0, "no case of another fold to choose it on"),)


def test_what_cannot_be_chosen_says_why():
    probabilities, labels, folds, subjects = cohort()
    how = {"folds": folds, "subjects": subjects}
    one_sided = np.where((labels == 2) & (np.array(folds) != 0), 0, labels)
    found = choose_thresholds(probabilities, one_sided, **how)
    assert found[0][2].value == 0.5
    assert "no case of this class" in found[0][2].reason
    assert found[1][2].reason is None
    blind = choose_thresholds(np.full((240, 3), 1 / 3), labels, **how)
    assert "chance" in blind[0][0].reason
    right = np.eye(3)[labels] * 0.7 + 0.1
    for guesses, reason in ((right, "is right"), (right[:, [1, 2, 0]], "mislead")):
        (found,) = choose_temperatures(guesses, labels, **how)[0]
        assert (found.value, found.n) == (1, 0)
        assert reason in found.reason


@pytest.mark.parametrize("seed", range(3))
def test_scores_at_thresholds_equal_those_of_scikit_learn(seed):
    probabilities, labels, folds, subjects = cohort(seed=seed)
    chosen = values(choose_thresholds(probabilities, labels, folds=folds, subjects=subjects))
    called = call_classes(probabilities, folds=folds, thresholds=chosen)
    got = score_statistic(threshold_statistic(called, labels, classes=NAMES), 240, resampling=FEW)
    assert list(got) == ["sensitivity", "specificity"]
    for number, name in enumerate(NAMES):
        limits = np.array([chosen[fold][number] for fold in folds])
        own, yes = labels == number, probabilities[:, number] >= limits
        sensitivity, specificity = got["sensitivity"][name], got["specificity"][name]
        assert sensitivity.mean == pytest.approx(oracle.recall_score(own, yes))
        assert specificity.mean == pytest.approx(oracle.recall_score(~own, ~yes))
        assert (sensitivity.n, specificity.n) == (own.sum(), (~own).sum())
        assert sensitivity.ci_low < sensitivity.mean < sensitivity.ci_high
    means = [got["sensitivity"][name].mean for name in NAMES]
    assert got["sensitivity"]["all"].mean == pytest.approx(np.mean(means))


def test_several_labels_a_case_are_called_class_by_class():
    generator = np.random.default_rng(7)
    labels = (generator.random((150, 3)) < 0.3).astype(int)
    called = generator.random((150, 3)) < 0.2 + 0.5 * labels
    got = score_statistic(threshold_statistic(called, labels, classes=NAMES), 150, resampling=FEW)
    for number, name in enumerate(NAMES):
        pair = labels[:, number], called[:, number]
        for metric, score in (
            ("accuracy", oracle.accuracy_score),
            ("balanced_accuracy", oracle.balanced_accuracy_score),
            ("precision", oracle.precision_score),
            ("f1", oracle.f1_score),
        ):
            assert got[metric][name].mean == pytest.approx(score(*pair))
    assert got["f1"]["all"].mean == pytest.approx(oracle.f1_score(labels, called, average="macro"))


def test_what_is_not_defined_at_a_threshold_is_none_with_its_reason():
    labels = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 1]])
    called = np.array([[1, 0, 0], [0, 0, 0], [1, 0, 0]], dtype=bool)
    got = score_statistic(threshold_statistic(called, labels, classes=NAMES), 3, resampling=FEW)
    absent, everywhere = "absent from truth", "no case without this class in the truth"
    assert (got["sensitivity"]["b"].mean, got["sensitivity"]["b"].reason) == (None, absent)
    assert (got["specificity"]["a"].mean, got["specificity"]["a"].reason) == (None, everywhere)
    assert got["f1"]["b"].reason == got["balanced_accuracy"]["b"].reason == absent
    assert got["balanced_accuracy"]["a"].reason == everywhere
    assert got["precision"]["b"].reason == "never predicted"
    assert got["f1"]["c"].mean == got["sensitivity"]["c"].mean == 0  # known, and bad
    assert got["sensitivity"]["all"].mean == pytest.approx(np.mean([2 / 3, 0]))
    for row in got.values():
        for found in row.values():
            assert (found.reason is not None) == (found.mean is None or found.ci_low is None)


# Temperature


def test_temperatures_of_other_folds_mend_calibration():
    probabilities, labels, folds, subjects = cohort(2000, factor=2.5)
    chosen = choose_temperatures(probabilities, labels, folds=folds, subjects=subjects)
    for (one,) in chosen.values():
        assert one.value == pytest.approx(2.5, rel=0.1)
    scaled = scale_probabilities(probabilities, folds=folds, temperatures=values(chosen))
    before, after = (score_calibration(p, labels, resampling=FEW) for p in (probabilities, scaled))
    for metric in ("nll", "brier", "ece_mass", "ece_width"):
        assert after[metric]["all"].mean < before[metric]["all"].mean
    assert (scaled.argmax(axis=1) == probabilities.argmax(axis=1)).all()
    rows = np.array(folds) == 3
    assert scaled[rows] == pytest.approx(apply_temperature(probabilities[rows], chosen[3][0].value))


def test_several_labels_a_case_have_a_temperature_a_class():
    generator = np.random.default_rng(3)
    logits = 1.5 * generator.normal(size=(3000, 2))
    labels = (generator.random((3000, 2)) < 1 / (1 + np.exp(-logits))).astype(int)
    factors = np.array([0.5, 3.0])
    sure = 1 / (1 + np.exp(-logits * factors))
    how = {"folds": [row % 3 for row in range(3000)], "subjects": [str(r) for r in range(3000)]}
    chosen = choose_temperatures(sure, labels, **how)
    for found in chosen.values():
        assert [one.value for one in found] == pytest.approx(factors, rel=0.12)
    scaled = scale_probabilities(sure, folds=how["folds"], temperatures=values(chosen))
    assert scaled == pytest.approx(1 / (1 + np.exp(-logits)), abs=0.05)


def test_calibration_of_several_labels_is_that_of_each_class():
    generator = np.random.default_rng(4)
    labels = (generator.random((120, 3)) < 0.4).astype(int)
    scores = np.clip(0.4 * labels + 0.6 * generator.random((120, 3)), 0, 1)
    got = score_calibration(scores, labels, classes=NAMES, n_bins=6, resampling=FEW)
    for number, name in enumerate(NAMES):
        pair = labels[:, number], scores[:, number]
        assert got["nll"][name].mean == pytest.approx(oracle.log_loss(*pair))
        assert got["brier"][name].mean == pytest.approx(oracle.brier_score_loss(*pair))
        bins = bin_reliability(scores[:, [number]], labels[:, [number]], n_bins=6)
        gaps = [found.n * abs(found.accuracy - found.confidence) for found in bins if found.n]
        assert got["ece_mass"][name].mean == pytest.approx(sum(gaps) / 120)
        assert sum(found.n * found.accuracy for found in bins) == pytest.approx(pair[0].sum())
    for row in got.values():
        assert row["all"].mean == pytest.approx(np.mean([row[name].mean for name in NAMES]))


def test_two_sided_probabilities_are_of_both_sides():
    assert two_sided([0.2, 1.0]) == pytest.approx(np.array([[0.8, 0.2], [0, 1]]))


# What is refused


@pytest.mark.parametrize("choose", [choose_thresholds, choose_temperatures])
def test_lengths_that_disagree_are_refused(choose):
    probabilities, labels, folds, subjects = cohort(20)
    for how in ({"folds": folds[1:], "subjects": subjects}, {"folds": folds, "subjects": ["a"]}):
        with pytest.raises(ConfigError) as caught:
            choose(probabilities, labels, **how)
        assert caught.value.code == "lengths-differ"


def test_calls_and_truths_that_do_not_match_are_refused():
    with pytest.raises(ConfigError) as caught:
        threshold_statistic(np.ones((4, 3), dtype=bool), np.zeros(5, dtype=int), classes=NAMES)
    assert caught.value.code == "bad-probabilities"


def test_bins_of_several_classes_at_once_are_refused():
    with pytest.raises(ConfigError) as caught:
        bin_reliability(np.full((4, 2), 0.5), np.ones((4, 2), dtype=int))
    assert caught.value.code == "bad-calibration"
