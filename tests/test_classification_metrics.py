"""Scores of classes and probabilities against scikit-learn and plain sums."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as oracle

from volumetric.errors import ConfigError, LabelError
from volumetric.metrics import (
    Resampling,
    apply_temperature,
    average_views,
    bin_reliability,
    bootstrap_mean,
    bootstrap_statistic,
    count_confusion,
    fit_temperature,
    score_calibration,
    score_classification,
)

NAMES = [f"class {number}" for number in range(9)]
FEW = Resampling(n_resamples=50)


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def guesses(n: int = 200, *, n_classes: int = 9, seed: int = 0, skill: float = 1.5):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, n_classes, n)
    logits = generator.normal(size=(n, n_classes))
    logits[np.arange(n), labels] += skill
    return softmax(logits), labels


def means(scores):
    return {(m, name): found.mean for m, row in scores.items() for name, found in row.items()}


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_those_of_scikit_learn(seed):
    probabilities, labels = guesses(seed=seed)
    found = probabilities.argmax(axis=1)
    got = score_classification(probabilities, labels, classes=NAMES, resampling=FEW)
    recall, precision, f1 = (
        score(labels, found, average=None)
        for score in (oracle.recall_score, oracle.precision_score, oracle.f1_score)
    )
    expected = {
        ("top1", "all"): oracle.accuracy_score(labels, found),
        ("top5", "all"): oracle.top_k_accuracy_score(labels, probabilities, k=5),
        ("balanced_accuracy", "all"): oracle.balanced_accuracy_score(labels, found),
        ("f1", "all"): oracle.f1_score(labels, found, average="macro"),
        ("auroc", "all"): oracle.roc_auc_score(labels, probabilities, multi_class="ovr"),
    }
    for number, name in enumerate(NAMES):
        expected["recall", name] = recall[number]
        expected["precision", name] = precision[number]
        expected["f1", name] = f1[number]
        own = labels == number, probabilities[:, number]
        expected["auroc", name] = oracle.roc_auc_score(*own)
        expected["average_precision", name] = oracle.average_precision_score(*own)
    areas = [expected["average_precision", name] for name in NAMES]
    expected["average_precision", "all"] = np.mean(areas)
    assert means(got) == pytest.approx(expected, abs=1e-12)
    assert got["recall"]["class 2"].n == (labels == 2).sum()
    assert got["precision"]["class 2"].n == (found == 2).sum()


@given(
    arrays(np.int64, (12, 3), elements=st.integers(0, 4)),
    arrays(np.bool_, (12, 3)),
    arrays(np.int64, 12, elements=st.integers(0, 3)),
)
def test_ranks_with_ties_and_weights_equal_those_of_scikit_learn(scores, labels, weights):
    from volumetric.metrics.ranking import rank_auroc, rank_cases, rank_precision

    for score, own in zip(scores.T / 4, labels.T, strict=True):
        ranking, weight = rank_cases(score, own), weights[None].astype(float)
        auroc, precision = rank_auroc(weight, ranking)[0], rank_precision(weight, ranking)[0]
        drawn = own[weights > 0]
        assert math.isnan(precision) == (not drawn.any())
        assert math.isnan(auroc) == (not drawn.any() or drawn.all())
        if drawn.any():
            expected = oracle.average_precision_score(own, score, sample_weight=weights)
            assert precision == pytest.approx(expected)
        if drawn.any() and not drawn.all():
            expected = oracle.roc_auc_score(own, score, sample_weight=weights)
            assert auroc == pytest.approx(expected)


def test_scores_of_several_labels_a_case_equal_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    labels = (generator.random((150, 9)) < 0.2).astype(int)
    scores = np.clip(0.3 * labels + 0.7 * generator.random((150, 9)), 0, 1).round(2)
    got = score_classification(scores, labels, classes=NAMES, resampling=FEW)
    assert list(got) == ["average_precision", "auroc"]
    for metric, score in (
        ("average_precision", oracle.average_precision_score),
        ("auroc", oracle.roc_auc_score),
    ):
        assert got[metric]["all"].mean == pytest.approx(score(labels, scores, average="macro"))
        for name, value in zip(NAMES, score(labels, scores, average=None), strict=True):
            assert got[metric][name].mean == pytest.approx(value)


def test_what_is_not_defined_is_none_with_its_reason():
    probabilities, labels = guesses(40, n_classes=4, skill=0.5)
    probabilities[:, 3] = 0
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    kept = labels < 2
    got = score_classification(
        probabilities[kept], labels[kept], classes=["a", "b", "c", "d"], resampling=FEW
    )
    assert got["recall"]["c"].reason == got["f1"]["c"].reason == "absent from truth"
    assert got["auroc"]["c"].mean is None
    assert got["precision"]["c"].mean == 0  # predicted, and never right
    assert got["precision"]["d"].reason == "never predicted"
    assert got["top5"]["all"].mean is None
    assert "4 classes" in got["top5"]["all"].reason
    recalls = [got["recall"][name].mean for name in "ab"]
    assert got["balanced_accuracy"]["all"].mean == pytest.approx(np.mean(recalls))
    for row in got.values():
        for found in row.values():
            assert (found.reason is not None) == (found.mean is None or found.ci_low is None)
            assert not any(
                value is not None and math.isnan(value)
                for value in (found.mean, found.ci_low, found.ci_high)
            )


def test_one_class_alone_has_no_auroc():
    probabilities, labels = guesses(20, n_classes=3)
    got = score_classification(probabilities, 0 * labels, classes=["a", "b", "c"], resampling=FEW)
    assert got["auroc"]["a"].reason == "no case without this class in the truth"
    assert got["auroc"]["all"].reason == "no class has a value"


def test_a_class_of_one_subject_has_a_value_but_no_interval():
    probabilities, labels = guesses(30, n_classes=3)
    subjects = ["only" if label == 1 else f"s{row}" for row, label in enumerate(labels)]
    got = score_classification(probabilities, labels, classes=list("abc"), subjects=subjects)
    assert got["recall"]["b"].mean is not None
    assert got["recall"]["b"].ci_low is None
    assert "one of the subjects" in got["recall"]["b"].reason
    assert got["recall"]["a"].ci_low is not None
    assert got["balanced_accuracy"]["all"].ci_low is not None


def test_the_order_of_cases_and_classes_decides_no_value():
    probabilities, labels = guesses(60, n_classes=6)
    first = score_classification(probabilities, labels, classes=list("abcdef"), resampling=FEW)
    rows, columns = np.random.default_rng(1).permutation(60), [3, 1, 5, 0, 2, 4]
    turned = score_classification(
        probabilities[rows][:, columns],
        np.argsort(columns)[labels[rows]],
        classes=["abcdef"[column] for column in columns],
        resampling=FEW,
    )
    assert means(turned) == pytest.approx(means(first))


def test_views_averaged_are_scored_as_videos():
    probabilities, labels = guesses(30, n_classes=3)
    videos = [f"v{row % 10}" for row in range(30)]
    means = average_views(probabilities, videos)
    assert list(means) == [f"v{row}" for row in range(10)]
    assert np.stack(list(means.values())) == pytest.approx(
        probabilities.reshape(3, 10, 3).mean(axis=0)
    )
    got = score_classification(
        list(means.values()), labels[:10], classes=list("abc"), resampling=FEW
    )
    assert got["top1"]["all"].n == 10


def test_confusion_counts_and_finds_the_cases():
    probabilities, labels = guesses(80)
    ids = [f"clip-{row}" for row in range(80)]
    got = count_confusion(probabilities, labels, classes=NAMES, ids=ids)
    found = probabilities.argmax(axis=1)
    assert (got.counts == oracle.confusion_matrix(labels, found, labels=range(9))).all()
    for (true, predicted), cases in got.ids.items():
        rows = [ids.index(case) for case in cases]
        assert {NAMES[labels[row]] for row in rows} == {true}
        assert {NAMES[found[row]] for row in rows} == {predicted}
        assert len(cases) == got.counts[NAMES.index(true), NAMES.index(predicted)]
    assert sum(map(len, got.ids.values())) == 80


# How sure


def test_the_statistic_that_is_the_mean_has_the_interval_of_the_mean():
    generator = np.random.default_rng(3)
    values = generator.beta(9, 1, 70)
    subjects = [f"s{number}" for number in generator.integers(0, 25, 70)]

    def mean(weights):
        return (weights @ values / weights.sum(axis=1))[:, None]

    for owners in (None, subjects):
        [got] = bootstrap_statistic(mean, 70, subjects=owners)
        expected = bootstrap_mean(values.tolist(), subjects=owners)
        assert (got.n, got.reason) == (expected.n, expected.reason)
        assert (got.mean, got.ci_low, got.ci_high) == pytest.approx(
            (expected.mean, expected.ci_low, expected.ci_high)
        )


def test_intervals_of_balanced_accuracy_cover_the_truth_when_subjects_are_drawn():
    # Subjects differ in how hard they are: right in 95 % of half of them, 45 % of the others.
    generator = np.random.default_rng(4)
    by_subject = by_case = 0
    subjects = [f"s{number}" for number in range(40) for _ in range(6)]
    for _ in range(150):
        right = (
            generator.random((40, 6)) < np.where(generator.random(40) < 0.5, 0.95, 0.45)[:, None]
        )
        labels = generator.integers(0, 2, 240)
        found = np.eye(2)[np.where(right.ravel(), labels, 1 - labels)]
        kwargs = {"classes": ["a", "b"], "resampling": Resampling(n_resamples=400)}
        whole = score_classification(found, labels, subjects=subjects, **kwargs)
        loose = score_classification(found, labels, **kwargs)
        whole, loose = whole["balanced_accuracy"]["all"], loose["balanced_accuracy"]["all"]
        by_subject += whole.ci_low <= 0.7 <= whole.ci_high
        by_case += loose.ci_low <= 0.7 <= loose.ci_high
    assert by_subject / 150 >= 0.89
    assert by_case < by_subject - 10


def test_an_interval_holds_its_value_and_narrows_with_cases():
    widths = []
    for n in (50, 800):
        probabilities, labels = guesses(n)
        got = score_classification(
            probabilities, labels, classes=NAMES, resampling=Resampling(n_resamples=500)
        )
        for row in got.values():
            for found in row.values():
                if found.ci_low is not None:
                    assert 0 <= found.ci_low <= found.mean <= found.ci_high <= 1
        macro = got["f1"]["all"]
        widths.append(macro.ci_high - macro.ci_low)
    assert 2.5 < widths[0] / widths[1] < 6  # four, were macro-F1 a mean


def test_ten_thousand_resamples_of_three_hundred_cases_take_seconds():
    probabilities, labels = guesses(300)
    start = time.process_time()
    score_classification(probabilities, labels, classes=NAMES)
    assert time.process_time() - start < 15  # one, on a quiet machine


# Calibration


def test_losses_equal_those_of_scikit_learn():
    probabilities, labels = guesses()
    got = score_calibration(probabilities, labels, resampling=FEW)
    assert got["nll"]["all"].mean == pytest.approx(oracle.log_loss(labels, probabilities))
    squares = ((probabilities - np.eye(9)[labels]) ** 2).sum(axis=1).mean()
    assert got["brier"]["all"].mean == pytest.approx(squares)


@pytest.mark.parametrize("equal", ["mass", "width"])
def test_calibration_error_is_the_mean_gap_of_the_bins(equal):
    probabilities, labels = guesses(210)
    bins = bin_reliability(probabilities, labels, n_bins=7, equal=equal)
    assert sum(found.n for found in bins) == 210
    if equal == "mass":
        assert {found.n for found in bins} == {30}
    gaps = [found.n * abs(found.accuracy - found.confidence) for found in bins if found.n]
    got = score_calibration(probabilities, labels, n_bins=7, resampling=FEW)
    assert got["nll"]["all"].ci_low < got["nll"]["all"].mean < got["nll"]["all"].ci_high
    assert got[f"ece_{equal}"]["all"].ci_low is None
    assert "biased" in got[f"ece_{equal}"]["all"].reason
    assert got[f"ece_{equal}"]["all"].mean == pytest.approx(sum(gaps) / 210)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    for found in bins:
        inside = (confidence > found.low) & (confidence <= found.high)
        if equal == "mass" and found is bins[0]:
            inside |= confidence == found.low
        assert found.n == inside.sum()
        if found.n:
            assert found.accuracy == pytest.approx(right[inside].mean())
            assert found.low <= found.confidence <= found.high
        else:
            assert (found.confidence, found.accuracy) == (None, None)


def test_a_case_on_an_edge_belongs_to_the_bin_below():
    probabilities = [[0.5, 0.5], [0.75, 0.25], [0.75, 0.25], [1, 0]]
    width = bin_reliability(probabilities, [0, 0, 1, 0], n_bins=4, equal="width")
    assert [found.n for found in width] == [0, 1, 2, 1]
    assert [found.accuracy for found in width] == [None, 1, 0.5, 1]
    mass = bin_reliability(probabilities, [0, 0, 1, 0], n_bins=4, equal="mass")
    assert [found.n for found in mass] == [1, 2, 0, 1]  # equal ones stay together


@given(st.integers(1, 60), st.integers(1, 20))
def test_bins_of_equal_mass_differ_by_one_case_at_most(n, n_bins):
    sizes = {found.n for found in bin_reliability(*guesses(n), n_bins=n_bins, equal="mass")}
    assert max(sizes) - min(sizes) <= 1


def test_sure_mistakes_cost_much_but_not_infinitely():
    got = score_calibration(np.eye(2)[[0, 0, 0]], [1, 1, 1], resampling=FEW)
    assert got["nll"]["all"].mean == pytest.approx(12 * math.log(10))
    assert got["brier"]["all"].mean == 2
    assert got["ece_mass"]["all"].mean == got["ece_width"]["all"].mean == 1


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_temperature_undoes_what_made_a_model_too_sure(factor):
    generator = np.random.default_rng(5)
    logits = 1.5 * generator.normal(size=(4000, 4))
    honest = softmax(logits)
    labels = (honest.cumsum(axis=1) < generator.random((4000, 1))).sum(axis=1).clip(max=3)
    sure = softmax(logits * factor)
    temperature = fit_temperature(sure, labels)
    assert temperature == pytest.approx(factor, rel=0.08)
    mended = apply_temperature(sure, temperature)
    assert (mended.argmax(axis=1) == sure.argmax(axis=1)).all()
    before, after = (score_calibration(p, labels, resampling=FEW) for p in (sure, mended))
    assert after["nll"]["all"].mean <= before["nll"]["all"].mean + 1e-9
    assert after["ece_mass"]["all"].mean < 0.03


# What is refused

GOOD = guesses(10, n_classes=3)


@pytest.mark.parametrize(
    ("error", "code", "probabilities", "labels", "classes"),
    [
        (ConfigError, "bad-probabilities", GOOD[0] * 5 - 1, GOOD[1], "abc"),
        (ConfigError, "bad-probabilities", GOOD[0] * 0.9, GOOD[1], "abc"),
        (ConfigError, "bad-probabilities", np.full((10, 3), np.nan), GOOD[1], "abc"),
        (ConfigError, "bad-probabilities", GOOD[0], GOOD[1][:9], "abc"),
        (ConfigError, "bad-probabilities", np.zeros((0, 3)), np.zeros(0, int), "abc"),
        (ConfigError, "bad-classes", *GOOD, "ab"),
        (ConfigError, "bad-classes", *GOOD, "aba"),
        (ConfigError, "bad-classes", *GOOD, ["a", "b", "all"]),
        (LabelError, "bad-label", GOOD[0], GOOD[1] + 1, "abc"),
        (LabelError, "bad-label", GOOD[0], GOOD[1] - 1, "abc"),
        (LabelError, "bad-label", GOOD[0], GOOD[1] / 2, "abc"),
        (LabelError, "bad-label", GOOD[0], 2 * np.ones((10, 3), int), "abc"),
    ],
)
def test_what_gives_no_score_is_refused(error, code, probabilities, labels, classes):
    with pytest.raises(error) as caught:
        score_classification(probabilities, labels, classes=classes)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("code", "call"),
    [
        ("lengths-differ", lambda: score_classification(*GOOD, classes="abc", subjects=["a"])),
        ("lengths-differ", lambda: average_views(GOOD[0], ["a"])),
        ("lengths-differ", lambda: count_confusion(*GOOD, classes="abc", ids=["a"])),
        ("bad-calibration", lambda: score_calibration(*GOOD, n_bins=0)),
        ("bad-calibration", lambda: fit_temperature(GOOD[0], np.eye(3, dtype=int)[GOOD[1]])),
        ("bad-temperature", lambda: apply_temperature(GOOD[0], 0)),
        ("bad-statistics", lambda: Resampling(n_resamples=0)),
    ],
)
def test_settings_without_sense_are_refused(code, call):
    with pytest.raises(ConfigError) as caught:
        call()
    assert caught.value.code == code


def test_what_is_the_same_in_every_resample_has_no_interval():
    sure = np.eye(3)[[0, 1, 2] * 4] * 0.8 + 0.05
    scores = score_classification(sure / sure.sum(1, keepdims=True), [0, 1, 2] * 4, classes="abc")
    for metric in ("top1", "balanced_accuracy", "auroc"):
        found = scores[metric]["all"]
        assert found.mean == 1
        assert found.ci_low is found.ci_high is None
        assert "nothing says how others vary" in found.reason
    wrong = score_classification(sure[::-1] / sure.sum(1)[:, None], [0, 1, 2] * 4, classes="abc")
    assert wrong["top1"]["all"].ci_low < wrong["top1"]["all"].mean < wrong["top1"]["all"].ci_high
