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
- average_precision: of a class against the rest, without interpolation; "all" is their mean (mAP).

What needs a threshold, as sensitivity and specificity do, is in `volumetric.metrics.thresholds`.
Means over classes are over those that occur in the truth. In a resample that holds no case of a
class, they are over the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from volumetric.errors import ConfigError, LabelError
from volumetric.metrics.ranking import Ranking, divided, rank_auroc, rank_cases, rank_precision
from volumetric.metrics.resampling import USUAL, Resampling
from volumetric.metrics.scoring import ALL, Statistic, known_mean, score_statistic
from volumetric.metrics.statistics import Interval, check_lengths

_Array = NDArray[np.float64]
_Labels = NDArray[np.integer[Any]]

_MOST_TOP5 = 5  # classes: with so few, or fewer, the true one is always among five
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
    precision, f1, average_precision and auroc; for several labels a case, the last two.

    `n` is the number of cases behind a value: all of them, those of the class, or for precision
    those predicted as it. What is not defined is None with a reason, as recall of a class that
    the truth lacks.

    Raises:
        ConfigError: no case, lengths or shapes that disagree, probabilities that are none, or
            classes of one name or named "all".
        LabelError: labels that name no column, or that are neither 0 nor 1.
    """
    found = classification_statistic(probabilities, labels, classes=classes)
    n_cases = len(np.asarray(labels))
    scores = score_statistic(found, n_cases, subjects=subjects, resampling=resampling)
    if np.ndim(labels) == 1 and len(classes) <= _MOST_TOP5:
        reason = f"among five of {len(classes)} classes the true one always is"
        scores["top5"] = {ALL: Interval(None, None, None, n_cases, reason)}
    return scores


def classification_statistic(
    probabilities: ArrayLike, labels: ArrayLike, *, classes: Sequence[str]
) -> Statistic:
    """What `score_classification` scores, to be drawn anew.

    Raises:
        ConfigError, LabelError: as `score_classification`.
    """
    scores, truth = check_probabilities(probabilities, labels)
    check_classes(classes, scores.shape[1])
    return (_statistic_many if truth.ndim == 2 else _statistic_one)(scores, truth, classes)


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
    check_classes(classes, scores.shape[1])
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


def check_classes(classes: Sequence[str], n_columns: int) -> Sequence[str]:
    """The names, once they are proven to name each column once; else a ConfigError."""
    if len(classes) != n_columns or len(set(classes)) < n_columns or ALL in classes:
        raise ConfigError(
            "bad-classes",
            f"{len(classes)} classes, {len(set(classes))} of them different, for {n_columns} "
            f"columns{', one of them named all' if ALL in classes else ''}",
            'Name each column once, none of them "all"',
        )
    return classes


def _statistic_one(scores: _Array, truth: NDArray[np.int64], classes: Sequence[str]) -> Statistic:
    n_classes = len(classes)
    own = np.eye(n_classes)[truth]
    found = np.eye(n_classes)[scores.argmax(axis=1)]
    hits = np.stack([top_hits(scores, truth, 1), top_hits(scores, truth, 5)], axis=1)
    ranked = _statistic_many(scores, own > 0, classes)

    def measure(weights: _Array) -> _Array:
        n_own, n_found, n_both = weights @ own, weights @ found, weights @ (own * found)
        recall = divided(n_both, n_own)
        f1 = np.where(n_own > 0, divided(2 * n_both, n_own + n_found), np.nan)
        tops = weights @ hits / weights.sum(axis=1, keepdims=True)
        columns = tops, known_mean(recall), recall, divided(n_both, n_found)
        return np.concatenate([*columns, f1, known_mean(f1), ranked.measure(weights)], axis=1)

    keys = [("top1", ALL), ("top5", ALL), ("balanced_accuracy", ALL)]
    keys += [(metric, name) for metric in ("recall", "precision") for name in classes]
    keys += [("f1", name) for name in (*classes, ALL)]
    counts = count_keys(keys, own, classes)
    counts |= count_keys([key for key in keys if key[0] == "precision"], found, classes)
    return Statistic((*keys, *ranked.keys), measure, {**counts, **ranked.counts})


def _statistic_many(scores: _Array, truth: NDArray[Any], classes: Sequence[str]) -> Statistic:
    is_member = truth.astype(bool)
    rankings = [rank_cases(*columns) for columns in zip(scores.T, is_member.T, strict=True)]

    def measure(weights: _Array) -> _Array:
        precision = _by_class(rank_precision, weights, rankings)
        auroc = _by_class(rank_auroc, weights, rankings)
        columns = precision, known_mean(precision), auroc, known_mean(auroc)
        return np.concatenate(columns, axis=1)

    keys = [(m, name) for m in ("average_precision", "auroc") for name in (*classes, ALL)]
    return Statistic(tuple(keys), measure, count_keys(keys, is_member, classes))


def _by_class(
    rank: Callable[[_Array, Ranking], _Array], weights: _Array, rankings: Sequence[Ranking]
) -> _Array:
    return np.stack([rank(weights, ranking) for ranking in rankings], axis=1)


def count_keys(
    keys: Sequence[tuple[str, str]], is_member: NDArray[Any], classes: Sequence[str]
) -> dict[tuple[str, str], int]:
    """For each key of a class, how many cases (n_cases, n_classes) are of that class."""
    counts = dict(zip(classes, is_member.sum(axis=0).astype(int).tolist(), strict=True))
    return {key: counts[key[1]] for key in keys if key[1] != ALL}
