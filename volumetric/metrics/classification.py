"""How often the class of a clip or scan is found, and how well probabilities rank the cases.

All of it works on cases, whatever a case is: the views of a clip, clips, or whole videos. For
scores at video level, average the probabilities of each video's views (`average_views`) and score
the means: only then are numbers comparable with those of papers. Definitions:

- top1, top5: fraction of cases whose class is the most probable, or among the five most probable;
  of equally probable ones the class listed first goes first.
- recall, precision: of a class, TP / (TP + FN) and TP / (TP + FP).
- f1: of a class, 2 TP / (2 TP + FP + FN); "all" is their mean (macro-F1).
- balanced_accuracy: mean recall over classes (mean class accuracy).
- auroc: of a class against the rest (Hanley & McNeil, Radiology 1982); "all" is their mean.
- average_precision: of a class, without interpolation; "all" is their mean (mAP).

Means over classes are over those that occur in the truth. In a resample that holds no case of a
class, they are over the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from volumetric.errors import ConfigError, LabelError
from volumetric.metrics.ranking import Ranking, divided, rank_auroc, rank_cases, rank_precision
from volumetric.metrics.resampling import USUAL, Resampling, bootstrap_statistic
from volumetric.metrics.statistics import Interval, check_lengths

_Array = NDArray[np.float64]
_Labels = NDArray[np.integer[Any]]
_Key = tuple[str, str]  # metric, class

ALL = "all"
_SUM_SLACK = 1e-2  # half precision over hundreds of classes; logits miss by far more


@dataclass(frozen=True, eq=False)
class Confusion:
    """Which class was taken for which.

    Attributes:
        classes: names of rows (true) and columns (predicted).
        counts: integers (n_classes, n_classes).
        ids: (true, predicted) -> ids of the cases, for each pair that occurs.
    """

    classes: tuple[str, ...]
    counts: NDArray[np.int64]
    ids: Mapping[tuple[str, str], tuple[str, ...]]


def score_classification(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    classes: Sequence[str],
    subjects: Sequence[str] | None = None,
    resampling: Resampling = USUAL,
) -> dict[str, dict[str, Interval]]:
    """Metric -> class name or "all" -> value with its interval, whole subjects resampled.

    `probabilities` (n_cases, n_classes) sum to 1 in each row and `labels` (n_cases,) are numbers
    of columns; or, for several labels a case, each probability is one of its own and `labels`
    (n_cases, n_classes) are 0 or 1. `classes` names the columns; `subjects` says whose each case
    is. Metrics, defined at the top of this module: top1, top5, balanced_accuracy, recall,
    precision, f1 and auroc; for several labels a case, average_precision and auroc.

    `n` is the number of cases behind a value: all of them, those of the class, or for precision
    those predicted as it. What is not defined is None with a reason, as recall of a class that
    the truth lacks.

    Raises:
        ConfigError: no case, lengths or shapes that disagree, probabilities that are none, or
            classes of one name or named "all".
        LabelError: labels that name no column, or that are neither 0 nor 1.
    """
    scores, truth = check_probabilities(probabilities, labels)
    _check_classes(classes, scores.shape[1])
    if truth.ndim == 2:
        return _score_many(scores, truth.astype(bool), classes, subjects, resampling)
    return _score_one(scores, truth, classes, subjects, resampling)


def average_views(probabilities: ArrayLike, videos: Sequence[str]) -> dict[str, _Array]:
    """The mean probabilities (n_classes,) of each video, in the order of first mention.

    `probabilities` are (n_views, n_classes), `videos` says of which video each view is.

    Raises:
        ConfigError: `videos` of another length.
    """
    views = np.asarray(probabilities, dtype=np.float64)
    check_lengths("videos", videos, len(views))
    rows: dict[str, list[int]] = {}
    for row, video in enumerate(videos):
        rows.setdefault(video, []).append(row)
    return {video: views[own].mean(axis=0) for video, own in rows.items()}


def count_confusion(
    probabilities: ArrayLike, labels: ArrayLike, *, classes: Sequence[str], ids: Sequence[str]
) -> Confusion:
    """How many cases of each true class were taken for each, and which those are.

    Raises:
        ConfigError, LabelError: as `score_classification`; several labels a case have none.
    """
    scores, truth = check_probabilities(probabilities, labels)
    _check_classes(classes, scores.shape[1])
    check_lengths("ids", ids, len(scores))
    if truth.ndim == 2:
        raise ConfigError(
            "bad-probabilities",
            "cases of several labels have no confusion matrix",
            "Give one label a case",
        )
    counts = np.zeros((len(classes), len(classes)), np.int64)
    where: dict[tuple[str, str], list[str]] = {}
    for case, true, found in zip(ids, truth.tolist(), scores.argmax(axis=1).tolist(), strict=True):
        counts[true, found] += 1
        where.setdefault((classes[true], classes[found]), []).append(case)
    return Confusion(tuple(classes), counts, {pair: tuple(found) for pair, found in where.items()})


def top_hits(scores: _Array, truth: _Labels, k: int) -> _Array:
    """1 for each case whose class is among its k most probable, else 0: (n_cases,)."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    hits: _Array = (best == truth[:, None]).any(axis=1).astype(np.float64)
    return hits


def check_probabilities(
    probabilities: ArrayLike, labels: ArrayLike
) -> tuple[_Array, NDArray[np.int64]]:
    """Both as arrays, float64 and int64, once they are proven to go together."""
    scores, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    one_each = truth.ndim == 1
    if scores.ndim != 2 or not scores.size or truth.shape not in (scores.shape[:1], scores.shape):
        raise ConfigError(
            "bad-probabilities",
            f"probabilities of shape {scores.shape} and labels of shape {truth.shape} do not match",
            "Give (cases, classes) and (cases,), or (cases, classes) twice, and at least one case",
        )
    sums = scores.sum(axis=1)
    if not ((scores >= 0) & (scores <= 1 + _SUM_SLACK)).all() or (
        one_each and (np.abs(sums - 1) > _SUM_SLACK).any()
    ):
        raise ConfigError(
            "bad-probabilities",
            f"values from {scores.min():g} to {scores.max():g}, rows that sum to "
            f"{sums.min():g} to {sums.max():g}, are no probabilities",
            "Put the network's logits through a softmax, or a sigmoid for several labels a case",
        )
    largest = scores.shape[1] - 1 if one_each else 1
    whole = truth.dtype.kind in "iub"
    if not whole or truth.min() < 0 or truth.max() > largest:
        raise LabelError(
            "bad-label",
            f"labels of type {truth.dtype} from {truth.min()} to {truth.max()}",
            f"Give integers from 0 to {largest}",
        )
    return scores, truth.astype(np.int64)


def _check_classes(classes: Sequence[str], n_columns: int) -> None:
    if len(classes) != n_columns or len(set(classes)) < n_columns or ALL in classes:
        raise ConfigError(
            "bad-classes",
            f"{len(classes)} classes, {len(set(classes))} of them different, for {n_columns} "
            f"columns{', one of them named all' if ALL in classes else ''}",
            'Name each column once, none of them "all"',
        )


def _score_one(
    scores: _Array,
    truth: NDArray[np.int64],
    classes: Sequence[str],
    subjects: Sequence[str] | None,
    resampling: Resampling,
) -> dict[str, dict[str, Interval]]:
    n_classes = len(classes)
    own = np.eye(n_classes)[truth]
    found = np.eye(n_classes)[scores.argmax(axis=1)]
    hits = np.stack([top_hits(scores, truth, 1), top_hits(scores, truth, 5)], axis=1)
    rankings = _rankings(scores, own > 0)

    def measure(weights: _Array) -> _Array:
        n_own, n_found, n_both = weights @ own, weights @ found, weights @ (own * found)
        recall = divided(n_both, n_own)
        f1 = np.where(n_own > 0, divided(2 * n_both, n_own + n_found), np.nan)
        auroc = _by_class(rank_auroc, weights, rankings)
        tops = weights @ hits / weights.sum(axis=1, keepdims=True)
        columns = tops, known_mean(recall), recall, divided(n_both, n_found)
        return np.concatenate([*columns, f1, known_mean(f1), auroc, known_mean(auroc)], axis=1)

    keys = [("top1", ALL), ("top5", ALL), ("balanced_accuracy", ALL)]
    keys += [(metric, name) for metric in ("recall", "precision") for name in classes]
    keys += [(metric, name) for metric in ("f1", "auroc") for name in (*classes, ALL)]
    intervals = bootstrap_statistic(measure, len(truth), subjects=subjects, resampling=resampling)
    by_key = dict(zip(keys, intervals, strict=True))
    if n_classes <= 5:
        reason = f"among five of {n_classes} classes the true one always is"
        by_key["top5", ALL] = Interval(None, None, None, len(truth), reason)
    return _collect(by_key, _counts(own, classes), _counts(found, classes))


def _score_many(
    scores: _Array,
    truth: NDArray[np.bool_],
    classes: Sequence[str],
    subjects: Sequence[str] | None,
    resampling: Resampling,
) -> dict[str, dict[str, Interval]]:
    rankings = _rankings(scores, truth)

    def measure(weights: _Array) -> _Array:
        precision = _by_class(rank_precision, weights, rankings)
        auroc = _by_class(rank_auroc, weights, rankings)
        columns = precision, known_mean(precision), auroc, known_mean(auroc)
        return np.concatenate(columns, axis=1)

    metrics = "average_precision", "auroc"
    keys = [(metric, name) for metric in metrics for name in (*classes, ALL)]
    intervals = bootstrap_statistic(measure, len(truth), subjects=subjects, resampling=resampling)
    counts = _counts(truth, classes)
    return _collect(dict(zip(keys, intervals, strict=True)), counts, counts)


def known_mean(values: _Array) -> _Array:
    """The mean (rows, 1) of the values (rows, n) that are not NaN, NaN where all are."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=1, keepdims=True)
    return divided(total, known.sum(axis=1, keepdims=True).astype(np.float64))


def _rankings(scores: _Array, is_member: NDArray[np.bool_]) -> list[Ranking]:
    return [rank_cases(*columns) for columns in zip(scores.T, is_member.T, strict=True)]


def _by_class(
    rank: Callable[[_Array, Ranking], _Array], weights: _Array, rankings: Sequence[Ranking]
) -> _Array:
    return np.stack([rank(weights, ranking) for ranking in rankings], axis=1)


def _counts(is_member: NDArray[Any], classes: Sequence[str]) -> dict[str, int]:
    return dict(zip(classes, is_member.sum(axis=0).astype(int).tolist(), strict=True))


def _collect(
    by_key: Mapping[_Key, Interval], n_own: Mapping[str, int], n_found: Mapping[str, int]
) -> dict[str, dict[str, Interval]]:
    """Intervals by metric and class, each with the number of its cases and a reason for None."""
    scores: dict[str, dict[str, Interval]] = {}
    for (metric, name), interval in by_key.items():
        n = interval.n if name == ALL else (n_found if metric == "precision" else n_own)[name]
        reason = interval.reason
        if interval.mean is None and metric != "top5":
            reason = _reason(metric, name, n)
        scores.setdefault(metric, {})[name] = replace(interval, n=n, reason=reason)
    return scores


def _reason(metric: str, name: str, n: int) -> str:
    if name == ALL:
        return "no class has a value"
    if metric == "precision":
        return "never predicted"
    return "no case without this class in the truth" if n else "absent from truth"
