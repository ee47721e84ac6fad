"""Where to say yes, chosen on other cases than those it is used on, and how good that is.

A threshold that is chosen and scored on the same cases looks better than it is. Here the cases of
a fold get the one chosen on the held-out predictions of all other folds, of other subjects. (The
networks behind those did learn from this fold's cases: what is not seen is this fold's scores.)

- threshold: of a class, the probability where Youden's J = sensitivity + specificity - 1 is
  largest (Youden, Cancer 1950); midway between the neighbouring scores, and of several equally
  good ones the lowest, which is the most sensitive. A case is called of the class from it on.
- sensitivity: of a class, the part of its cases that are called so, TP / (TP + FN).
- specificity: of a class, the part of the other cases that are not, TN / (TN + FP).
- for several labels a case, where nothing else says what is predicted, also of each class:
  accuracy, (TP + TN) / n; balanced_accuracy, the mean of sensitivity and specificity;
  precision, TP / (TP + FP); f1, 2 TP / (2 TP + FP + FN).

"all" is the mean over the classes that have a value. Intervals take the thresholds as given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from volumetric.errors import ConfigError
from volumetric.metrics.classification import check_classes, check_probabilities, count_keys
from volumetric.metrics.ranking import divided
from volumetric.metrics.scoring import ALL, Statistic, known_mean
from volumetric.metrics.statistics import check_lengths

_Array = NDArray[np.float64]
_Rows = NDArray[np.bool_]

DEFAULT = 0.5
ONE_FOLD = "no case of another fold to choose it on"
_ONE_SIDED = "the other folds hold no case of this class, or no other"
_BLIND = "no threshold does better than chance on the other folds"


@dataclass(frozen=True)
class Choice:
    """A number chosen on cases that it is not used on.

    Attributes:
        value: the number.
        n: on how many cases it was chosen; 0 where it was not.
        reason: why it was not chosen but is the default; None where it was.
    """

    value: float
    n: int
    reason: str | None = None


def youden_threshold(scores: ArrayLike, is_member: ArrayLike) -> float | None:
    """The threshold of largest J for `scores` (n_cases,); None where none is better than chance.

    `is_member` (n_cases,) says which cases are of the class.
    """
    values, own = np.asarray(scores, dtype=np.float64), np.asarray(is_member, dtype=bool)
    if own.all() or not own.any():
        return None
    order = np.argsort(-values, kind="stable")
    falling, member = values[order], own[order]
    lasts = np.flatnonzero(np.diff(falling, append=-np.inf) < 0)  # of each run of equal scores
    n_hits = np.cumsum(member)[lasts]
    n_false = lasts + 1 - n_hits
    # J as whole numbers, or rounding would decide between equally good ones.
    advantage = n_hits * int((~own).sum()) - n_false * int(own.sum())
    best = int(advantage.max())
    if best <= 0:
        return None
    at = int(np.flatnonzero(advantage == best)[-1])
    return float((falling[lasts[at]] + falling[lasts[at] + 1]) / 2)


def choose_thresholds(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    folds: Sequence[int | None],
    subjects: Sequence[str],
) -> dict[int | None, tuple[Choice, ...]]:
    """For the cases of each fold, a threshold a class, chosen on the other folds.

    `probabilities` and `labels` are those of `score_classification`; `folds` says where each case
    was held out. Where there is nothing to choose on, the threshold is 0.5, and says why.

    Raises:
        ConfigError, LabelError: as `score_classification`, or lengths that disagree.
    """
    scores, truth = check_probabilities(probabilities, labels)
    own = _members(truth, scores.shape[1])
    return {
        fold: tuple(_choose(scores[rows, k], own[rows, k]) for k in range(scores.shape[1]))
        for fold, rows in rows_elsewhere(folds, subjects, len(scores)).items()
    }


def rows_elsewhere(
    folds: Sequence[int | None], subjects: Sequence[str], n_cases: int
) -> dict[int | None, _Rows]:
    """For each fold the cases (n_cases,) of other folds whose subjects it does not hold either.

    Raises:
        ConfigError: lengths that disagree.
    """
    check_lengths("folds", folds, n_cases)
    check_lengths("subjects", subjects, n_cases)
    found = {}
    for fold in dict.fromkeys(folds):
        inside = {name for name, one in zip(subjects, folds, strict=True) if one == fold}
        found[fold] = np.array([name not in inside for name in subjects], dtype=bool)
    return found


def call_classes(
    probabilities: ArrayLike,
    *,
    folds: Sequence[int | None],
    thresholds: Mapping[int | None, Sequence[float]],
) -> _Rows:
    """Whether each case is called of each class (n_cases, n_classes), by its fold's thresholds."""
    limits = np.array([thresholds[fold] for fold in folds])
    called: _Rows = np.asarray(probabilities, dtype=np.float64) >= limits
    return called


def threshold_statistic(called: _Rows, labels: ArrayLike, *, classes: Sequence[str]) -> Statistic:
    """The scores defined above of what was called, to be drawn anew by `score_statistic`.

    Raises:
        ConfigError: shapes that disagree, or classes as `score_classification` refuses them.
    """
    truth = np.asarray(labels)
    check_classes(classes, called.shape[1])
    own = _members(truth, len(classes)).astype(np.float64)
    if own.shape != called.shape:
        raise ConfigError(
            "bad-probabilities",
            f"{called.shape} calls and {own.shape} truths do not match",
            "Give one row a case and one column a class",
        )
    several = truth.ndim == 2
    names = ["sensitivity", "specificity"]
    if several:
        names += ["accuracy", "balanced_accuracy", "precision", "f1"]
    yes, both = called.astype(np.float64), called * own

    def measure(weights: _Array) -> _Array:
        n_own, n_yes, n_both = weights @ own, weights @ yes, weights @ both
        n = np.broadcast_to(weights.sum(axis=1, keepdims=True), n_own.shape)
        n_neither = n - n_own - n_yes + n_both
        tables = [divided(n_both, n_own), divided(n_neither, n - n_own)]
        if several:
            tables += [divided(n_both + n_neither, n), (tables[0] + tables[1]) / 2]
            f1 = np.where(n_own > 0, divided(2 * n_both, n_own + n_yes), np.nan)
            tables += [divided(n_both, n_yes), f1]
        return np.concatenate([c for table in tables for c in (table, known_mean(table))], axis=1)

    keys = [(metric, name) for metric in names for name in (*classes, ALL)]
    counts: dict[tuple[str, str], int] = {}
    behind = {"specificity": 1 - own, "precision": yes}
    for metric in names:
        if metric != "accuracy":
            of_metric = [key for key in keys if key[0] == metric]
            counts |= count_keys(of_metric, behind.get(metric, own), classes)
    return Statistic(tuple(keys), measure, counts)


def _members(truth: NDArray[np.int64], n_classes: int) -> _Rows:
    """Which cases are of which class: (n_cases, n_classes)."""
    members: _Rows = truth.astype(bool) if truth.ndim == 2 else np.eye(n_classes)[truth] > 0
    return members


def _choose(scores: _Array, own: _Rows) -> Choice:
    if not own.size:
        return Choice(DEFAULT, 0, ONE_FOLD)
    if own.all() or not own.any():
        return Choice(DEFAULT, 0, _ONE_SIDED)
    found = youden_threshold(scores, own)
    return Choice(DEFAULT, 0, _BLIND) if found is None else Choice(found, own.size)
