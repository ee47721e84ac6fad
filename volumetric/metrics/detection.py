"""How well objects are found: FROC, average precision and recall, and how many are counted.

Matching, of each class for itself: the boxes found in a case are taken from the surest on, at most
100 of them, and each is given the object it overlaps most among those not taken yet, if their
intersection over union is at least the threshold (Lin et al., ECCV 2014, and its cocoapi). A second
box on an object that has been found is a false positive. Definitions:

- froc@x: sensitivity where there are x false positives a case, linearly between neighbouring
  thresholds of the score; beyond the last threshold as there. froc: its mean over 1/8, 1/4, 1/2, 1,
  2, 4 and 8 (Setio et al., Med Image Anal 2017). Matched at an overlap of .1, as nnDetection does.
- ap@t: mean of the precision at 101 recalls from 0 to 1, where precision is the best at that recall
  or a higher one, matched at an overlap of t. ar@t: recall of all boxes found.
- count_error: mean over cases of |boxes found with a score of at least .5 - objects|.

"all" is the mean over the classes that the truth has, in a resample over those drawn; of
count_error over all classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volumetric.boxes import Objects, overlap_boxes
from volumetric.errors import ConfigError
from volumetric.metrics.ranking import divided
from volumetric.metrics.resampling import USUAL, Resampling
from volumetric.metrics.scoring import ALL, Statistic, known_mean, score_statistic
from volumetric.metrics.statistics import Interval, check_lengths

_Array = NDArray[np.float64]

FALSE_POSITIVES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # a case
OVERLAPS = (0.1, 0.3, 0.5)
MOST = 100  # boxes of a class in a case
SURE = 0.5
_NAMES = (
    "froc",
    *(f"froc@{x:g}" for x in FALSE_POSITIVES),
    *(f"{kind}@{overlap:g}" for overlap in OVERLAPS for kind in ("ap", "ar")),
    "count_error",
)
_RECALLS = np.linspace(0, 1, 101) - 1e-9  # 7 of 10 reach .7, however it is rounded
_CHUNK = 2**22  # numbers at a time


def match_boxes(
    found: Objects, truth: Objects, *, overlap: float, most: int = MOST
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which boxes are looked at, the surest first, and the object each is given, or -1.

    Of one class; the rule stands at the top of this module.
    """
    order, (given,) = _match(found, truth, overlaps=[overlap], most=most)
    return order, given


def score_detection(
    found: Sequence[Objects],
    truth: Sequence[Objects],
    *,
    classes: Sequence[str],
    pairs: Sequence[_Array] | None = None,
    subjects: Sequence[str] | None = None,
    resampling: Resampling = USUAL,
) -> dict[str, dict[str, Interval]]:
    """Metric -> class name or "all" -> value with its interval, whole subjects resampled.

    Metrics, matching and thresholds stand at the top of this module. `found` and `truth` are of the
    cases in one order; a case may hold no object. `pairs` says how far each thing found (rows)
    overlaps each true one, of each case, where their boxes do not tell: of masks, all of which are
    looked at. `n` is the number of objects, of count_error of cases. What is not defined, as of a
    class that the truth lacks, is None with a reason.

    Raises:
        ConfigError: no case, lists of different lengths, boxes without scores, or labels that
            name no class.
    """
    statistic = detection_statistic(found, truth, classes=classes, pairs=pairs)
    return score_statistic(statistic, len(truth), subjects=subjects, resampling=resampling)


def detection_statistic(
    found: Sequence[Objects],
    truth: Sequence[Objects],
    *,
    classes: Sequence[str],
    pairs: Sequence[_Array] | None = None,
) -> Statistic:
    """What `score_detection` scores, to be drawn anew.

    Raises:
        ConfigError: as `score_detection`.
    """
    _check(found, truth, classes)
    tables = [
        _tabulate(found, truth, number, OVERLAPS, pairs=pairs) for number in range(len(classes))
    ]
    totals = [int(table.n_objects.sum()) for table in tables]
    is_there = np.array(totals) > 0
    counts = {
        (name, owner): n
        for owner, n in [*zip(classes, totals, strict=True), (ALL, sum(totals))]
        for name in _NAMES
        if name != "count_error"
    }

    def measure(weights: _Array) -> _Array:
        each = np.stack([table.measure(weights) for table in tables], axis=-1)
        counted = np.array([name == "count_error" for name in _NAMES])[:, None]
        known = np.where(is_there | counted, each, np.nan)
        means = [known_mean(known[:, column]) for column in range(len(_NAMES))]
        return np.concatenate([*np.moveaxis(each, -1, 0), *means], axis=1)

    keys = tuple((name, owner) for owner in (*classes, ALL) for name in _NAMES)
    return Statistic(keys, measure, counts, lambda *_: "the truth holds no such object")


def trace_froc(
    found: Sequence[Objects], truth: Sequence[Objects], *, number: int, overlap: float = OVERLAPS[0]
) -> tuple[_Array, _Array]:
    """False positives a case and sensitivity, from the highest threshold to the lowest.

    Of the class of that number; begins at (0, 0).
    """
    table = _tabulate(found, truth, number, [overlap])
    (right,), counted = table.cumulate(np.ones((1, len(truth))))
    total = np.full_like(right[0], table.n_objects.sum())
    return (counted - right)[0] / len(truth), divided(right[0], total)


def trace_precision(
    found: Sequence[Objects], truth: Sequence[Objects], *, number: int, overlap: float = OVERLAPS[0]
) -> tuple[_Array, _Array]:
    """Recall and precision, from the highest threshold to the lowest.

    Of the class of that number; begins with the surest boxes.
    """
    table = _tabulate(found, truth, number, [overlap])
    (right,), counted = table.cumulate(np.ones((1, len(truth))))
    total = np.full_like(right[0], table.n_objects.sum())
    return divided(right[0], total)[1:], divided(right[0], counted[0])[1:]


def average_precision(
    found: Sequence[Objects], truth: Sequence[Objects], *, n_classes: int, overlap: float
) -> float | None:
    """AP at an overlap, the mean over the classes that the truth has; None where it has none."""
    column = _NAMES.index(f"ap@{overlap:g}")
    values = [
        table.measure(np.ones((1, len(truth))))[0, column]
        for number in range(n_classes)
        for table in [_tabulate(found, truth, number, OVERLAPS)]
        if table.n_objects.sum()
    ]
    return float(np.mean(values)) if values else None


@dataclass(frozen=True, eq=False)
class _Table:
    """What is known of one class: its boxes in all cases, the surest first.

    Attributes:
        cases: number of the case of each box.
        is_right: whether it was given an object, by overlap (n_overlaps, n).
        last: numbers of those after which the score falls.
        n_objects: in each case.
        off: difference of counts in each case.
    """

    cases: NDArray[np.intp]
    is_right: _Array
    last: NDArray[np.intp]
    n_objects: _Array
    off: _Array

    def cumulate(self, weights: _Array) -> tuple[list[_Array], _Array]:
        """Boxes right, by overlap, and boxes in all (rows, 1 + steps), none of them first."""
        drawn = weights[:, self.cases]

        def count(boxes: _Array) -> _Array:
            found: _Array = np.pad(np.cumsum(boxes, axis=1)[:, self.last], ((0, 0), (1, 0)))
            return found

        return [count(drawn * own) for own in self.is_right], count(drawn)

    def measure(self, weights: _Array) -> _Array:
        """Numbers (rows, n_names) of cases that count so often, NaN where not defined."""
        size = max(1, _CHUNK // max(1, len(self.cases)))
        parts = [weights[start : start + size] for start in range(0, len(weights), size)]
        return np.concatenate([self._measure(rows) for rows in parts])

    def _measure(self, weights: _Array) -> _Array:
        total = (weights @ self.n_objects)[:, None]
        n_cases = weights.sum(axis=1, keepdims=True)
        each, counted = self.cumulate(weights)
        with np.errstate(invalid="ignore", divide="ignore"):
            points = _read_at((counted - each[0]) / n_cases, each[0] / total, FALSE_POSITIVES)
            columns = [points.mean(axis=1, keepdims=True), points]
            for right in each:
                columns += [_average_precision(right, counted, total), right[:, -1:] / total]
        columns.append((weights @ self.off)[:, None] / n_cases)
        table = np.concatenate(columns, axis=1)
        table[total[:, 0] == 0, :-1] = np.nan
        return table


def _tabulate(
    found: Sequence[Objects],
    truth: Sequence[Objects],
    number: int,
    overlaps: Sequence[float],
    *,
    pairs: Sequence[_Array] | None = None,
) -> _Table:
    ours = [one.of_class(number) for one in found]
    theirs = [one.of_class(number) for one in truth]
    known: Sequence[_Array | None] = [None] * len(truth)
    if pairs is not None:
        known = [
            table[np.ix_(one.labels == number, other.labels == number)]
            for table, one, other in zip(pairs, found, truth, strict=True)
        ]
    matches = [
        _match(one, other, overlaps=overlaps, pairs=table, most=MOST if pairs is None else None)
        for one, other, table in zip(ours, theirs, known, strict=True)
    ]
    scores = np.concatenate(
        [one.known_scores()[order] for one, (order, _) in zip(ours, matches, strict=True)]
    )
    cases = np.repeat(np.arange(len(ours)), [len(order) for order, _ in matches])
    is_right = np.concatenate([given >= 0 for _, given in matches], axis=1)
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    last = np.flatnonzero(np.append(scores[1:] < scores[:-1], True)[: len(scores)])
    n_objects = np.array([len(one.boxes) for one in theirs], dtype=np.float64)
    n_sure = np.array([(one.known_scores() >= SURE).sum() for one in ours])
    right = is_right[:, order].astype(np.float64)
    return _Table(cases[order], right, last, n_objects, np.abs(n_sure - n_objects))


def _match(
    found: Objects,
    truth: Objects,
    *,
    overlaps: Sequence[float],
    most: int | None = MOST,
    pairs: _Array | None = None,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """As `match_boxes`, at several overlaps: what each box is given is (n_overlaps, n)."""
    order = np.argsort(-found.known_scores(), kind="stable")[:most]
    if pairs is None:
        pairs = overlap_boxes(found.boxes, truth.boxes)
    pairs = pairs[order]
    given = np.full((len(overlaps), len(order)), -1, dtype=np.intp)
    for own, least in zip(given, overlaps, strict=True):
        free = pairs.copy()
        for row, values in enumerate(free):
            if values.size and values.max() >= least:
                own[row] = values.argmax()
                free[:, own[row]] = -1
    return order, given


def _read_at(x: _Array, y: _Array, points: Sequence[float]) -> _Array:
    """The lines through (x, y) (rows, steps), x rising, at each point; beyond the end as there."""
    rows = np.arange(len(x))
    read = []
    for point in points:
        below = (x <= point).sum(axis=1) - 1
        above = np.minimum(below + 1, x.shape[1] - 1)
        gap = x[rows, above] - x[rows, below]
        share = np.where(gap > 0, (point - x[rows, below]) / np.where(gap > 0, gap, 1), 0.0)
        read.append(y[rows, below] + share * (y[rows, above] - y[rows, below]))
    return np.stack(read, axis=1)


def _average_precision(right: _Array, counted: _Array, total: _Array) -> _Array:
    """Mean of the best precision from each of 101 recalls on (rows, 1)."""
    precision = np.nan_to_num(divided(right, counted))  # before the first box
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = np.searchsorted(_RECALLS, right / total, side="right")
    fresh = np.diff(reached, axis=1, prepend=0)
    area: _Array = (fresh * best).sum(axis=1, keepdims=True) / len(_RECALLS)
    return area


def _check(found: Sequence[Objects], truth: Sequence[Objects], classes: Sequence[str]) -> None:
    check_lengths("found", found, len(truth))
    if not truth:
        raise ConfigError("no-cases", "no case to score", "Give at least one")
    labels = np.concatenate([one.labels for one in [*found, *truth]])
    if labels.size and not (labels.min() >= 0 and labels.max() < len(classes)):
        raise ConfigError(
            "no-such-class",
            f"labels from {labels.min()} to {labels.max()}, of {len(classes)} classes",
            f"Use numbers from 0 to {len(classes) - 1}",
        )
