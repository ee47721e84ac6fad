"""Every metric of two runs on the cases both scored, with the paired difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.comparison.pairing import TOLERANCE, Pair, Side
from pipeline.report.wording import known
from volumetric.metrics.comparison import Compared, compare_classification, compare_statistics
from volumetric.metrics.delong import delong_difference
from volumetric.metrics.instances import MASK_METRICS
from volumetric.metrics.resampling import Resampling
from volumetric.metrics.statistics import paired_difference
from volumetric.metrics.thresholds import call_classes, threshold_statistic

_ERROR = "volume_error_ml"
_CLUSTERED = "some subjects have several cases, which DeLong's test takes for independent"

Rows = dict[str, dict[str, "Row"]]
"""Metric -> class -> what is said of both runs."""


@dataclass(frozen=True)
class Row:
    """A metric of a class in both runs, over the cases where both have it.

    Attributes:
        a: value of A; None where it is not defined.
        b: value of B; likewise.
        difference: B - A.
        ci_low: lower end of its interval.
        ci_high: upper end of its interval.
        p: two-sided, of no difference; None where there is no such test.
        n: number of cases behind the difference; of objects, where those are found.
        n_only_a: number of cases where only A has a value, so that they are left out.
        n_only_b: likewise for B.
        reason: why a number is None; None when none is but p.
    """

    a: float | None
    b: float | None
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    p: float | None
    n: int
    n_only_a: int = 0
    n_only_b: int = 0
    reason: str | None = None


def score_pair(pair: Pair, resampling: Resampling) -> Rows:
    """Metric -> class -> both values and their difference, whole subjects resampled."""
    if pair.task == "classify":
        return _classification(pair, resampling)
    if pair.task in ("detect", "instances"):
        return _objects(pair, resampling)
    return _segmentation(pair, resampling)


def _objects(pair: Pair, resampling: Resampling) -> Rows:
    # Other tasks' runs are compared without what boxes need.
    from pipeline.comparison.objects import detection_statistics, instances_statistics

    how: dict[str, Any] = {"subjects": pair.subjects, "resampling": resampling}
    if pair.task == "detect":
        return _rows(compare_statistics(*detection_statistics(pair), len(pair.ids), **how))
    outlined, ranked = (
        _rows(compare_statistics(*both, len(pair.ids), **how))
        for both in instances_statistics(pair)
    )
    return outlined | {name: {"all": ranked[name]["all"]} for name in MASK_METRICS}


def compare_areas(pair: Pair, confidence: float) -> dict[str, Any] | None:
    """DeLong's test of each class's AUROC, or why there is none; None where runs have no AUROC."""
    if pair.task != "classify":
        return None
    if len(set(pair.subjects)) < len(pair.ids):
        return {"reason": _CLUSTERED, "classes": {}}
    first, second = (probabilities(pair, side) for side in pair.sides)
    truth = _members(pair)
    classes = {
        name: asdict(
            delong_difference(first[:, k], second[:, k], truth[:, k], confidence=confidence)
        )
        for k, name in enumerate(pair.classes)
    }
    return {"reason": None, "classes": classes}


def case_scores(pair: Pair, metric: str, name: str) -> list[tuple[float | None, float | None]]:
    """A metric of each case in A and in B; classification has a case's mean true probability."""
    first, second = (
        [_case_score(side.cases[case], metric, name) for case in pair.ids] for side in pair.sides
    )
    return list(zip(first, second, strict=True))


def _case_score(case: Mapping[str, Any], metric: str, name: str) -> float | None:
    scores = case.get("scores") or {}
    if metric == _ERROR:
        signed = known((scores.get("volume_difference_ml") or {}).get(name))
        return None if signed is None else abs(signed)
    found = scores.get(metric)
    return known(found.get(name)) if isinstance(found, Mapping) else known(found)


def _segmentation(pair: Pair, resampling: Resampling) -> Rows:
    tables = [side.results.get("metrics") or {} for side in pair.sides]
    metrics = {m: tables[0][m] for m in tables[0] if m in tables[1] and not m.startswith("volume_")}
    if all("volume_difference_ml" in table for table in tables):
        metrics[_ERROR] = tables[0]["volume_difference_ml"]
    tolerances = [side.results.get(TOLERANCE) for side in pair.sides]
    if tolerances[0] != tolerances[1]:
        metrics.pop("nsd", None)
    return {
        metric: {name: _paired(pair, metric, name, resampling) for name in by_class}
        for metric, by_class in metrics.items()
    }


def _paired(pair: Pair, metric: str, name: str, resampling: Resampling) -> Row:
    values = case_scores(pair, metric, name)
    found = paired_difference(
        [a for a, _ in values],
        [b for _, b in values],
        subjects=pair.subjects,
        n_resamples=resampling.n_resamples,
        seed=resampling.seed,
        confidence=resampling.confidence,
    )
    both = np.array([(a, b) for a, b in values if a is not None and b is not None])
    a, b = both.mean(axis=0).tolist() if both.size else (None, None)
    return Row(
        a,
        b,
        found.mean,
        found.ci_low,
        found.ci_high,
        found.p,
        found.n,
        sum(one is not None and other is None for one, other in values),
        sum(one is None and other is not None for one, other in values),
        found.reason,
    )


def _classification(pair: Pair, resampling: Resampling) -> Rows:
    first, second = (probabilities(pair, side) for side in pair.sides)
    truth = targets(pair)
    how: dict[str, Any] = {"subjects": pair.subjects, "resampling": resampling}
    found = compare_classification(first, second, truth, classes=pair.classes, **how)
    calls = [_calls(pair, side) for side in pair.sides]
    if calls[0] is not None and calls[1] is not None:
        ours, theirs = (
            threshold_statistic(called, truth, classes=pair.classes)
            for called in calls
            if called is not None
        )
        found |= compare_statistics(ours, theirs, len(truth), **how)
    return _rows(found)


def _rows(found: Mapping[str, Mapping[str, Compared]]) -> Rows:
    return {
        metric: {name: _row(compared) for name, compared in by_class.items()}
        for metric, by_class in found.items()
    }


def _row(found: Compared) -> Row:
    one = found.difference
    reason = one.reason and one.reason.replace("first:", "A:").replace("second:", "B:")
    return Row(
        found.first, found.second, one.mean, one.ci_low, one.ci_high, one.p, one.n, reason=reason
    )


def probabilities(pair: Pair, side: Side) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What one of the runs gives each class of each case, (n_cases, n_classes)."""
    tables = [side.cases[case]["probabilities"] for case in pair.ids]
    return np.array([[table[name] for name in pair.classes] for table in tables], dtype=np.float64)


def targets(pair: Pair) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The number of each case's class; of several labels a case, (n_cases, n_classes) 0 or 1."""
    members = _members(pair)
    return members if pair.first.results.get("multi_label") else members.argmax(axis=1)


def _members(pair: Pair) -> np.ndarray[Any, np.dtype[np.int64]]:
    truths: Sequence[Sequence[str]] = [pair.first.cases[case]["truth"] for case in pair.ids]
    return np.array([[name in truth for name in pair.classes] for truth in truths], dtype=np.int64)


def _calls(pair: Pair, side: Side) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """What a run called of each class, by the thresholds of its folds; None where it has none."""
    chosen = side.results.get("thresholds")
    if not chosen:
        return None
    folds = [side.cases[case].get("fold") for case in pair.ids]
    limits = {
        fold: [chosen[str(fold)][name]["value"] for name in pair.classes] for fold in set(folds)
    }
    return call_classes(probabilities(pair, side), folds=folds, thresholds=limits)
