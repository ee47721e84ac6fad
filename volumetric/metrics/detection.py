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

"all" is the mean over the classes that the truth has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from volumetric.boxes import Objects, overlap_boxes
from volumetric.errors import ConfigError
from volumetric.metrics.resampling import USUAL, Resampling, bootstrap_statistic
from volumetric.metrics.statistics import Interval, check_lengths, known_width

Array = NDArray[np.float64]

ALL = "all"
FALSE_POSITIVES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # a case
OVERLAPS = (0.1, 0.3, 0.5)
MOST = 100  # boxes of a class in a case
SURE = 0.5
_RECALLS = np.linspace(0, 1, 101) - 1e-9  # 7 of 10 reach .7, however it is rounded
_CHUNK = 2**22  # numbers at a time


def match_boxes(
    found: Objects, truth: Objects, *, overlap: float, most: int = MOST
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which boxes are looked at, the surest first, and the object each is given, or -1.

    Of one class; the rule stands at the top of this module.
    """
    order = np.argsort(-found.known_scores(), kind="stable")[:most]
    overlaps = overlap_boxes(found.boxes[order], truth.boxes)
    given = np.full(len(order), -1, dtype=np.intp)
    for row, values in enumerate(overlaps):
        if values.size and values.max() >= overlap:
            given[row] = values.argmax()
            overlaps[:, given[row]] = -1
    return order, given


def score_detection(
    found: Sequence[Objects],
    truth: Sequence[Objects],
    *,
    classes: Sequence[str],
    subjects: Sequence[str] | None = None,
    resampling: Resampling = USUAL,
) -> dict[str, dict[str, Interval]]:
    """Metric -> class name or "all" -> value with its interval, whole subjects resampled.

    Metrics, matching and thresholds stand at the top of this module. `found` and `truth` are of the
    cases in one order; a case may hold no object. `n` is the number of objects, of count_error of
    cases. What is not defined, as of a class that the truth lacks, is None with a reason.

    Raises:
        ConfigError: no case, lists of different lengths, boxes without scores, or labels that
            name no class.
    """
    _check(found, truth, classes)
    tables = [_tabulate(found, truth, number) for number in range(len(classes))]
    present = [number for number, table in enumerate(tables) if table.n_objects.any()]
    names = [name for table in tables[:1] for name in table.names]

    def measure(weights: Array) -> Array:
        each = np.stack([table.measure(weights) for table in tables])
        mean = each[present].mean(axis=0) if present else np.full_like(each[0], np.nan)
        return np.concatenate([*each, mean], axis=1)

    intervals = bootstrap_statistic(measure, len(truth), subjects=subjects, resampling=resampling)
    totals = [int(table.n_objects.sum()) for table in tables]
    keys = [
        (name, owner, n)
        for owner, n in [*zip(classes, totals, strict=True), (ALL, sum(totals))]
        for name in names
    ]
    scores: dict[str, dict[str, Interval]] = {}
    for (name, owner, n), interval in zip(keys, intervals, strict=True):
        own = replace(known_width(interval), n=len(truth) if name == "count_error" else n)
        if own.mean is None:
            own = replace(own, reason="the truth holds no such object")
        scores.setdefault(name, {})[owner] = own
    return scores


def trace_froc(
    found: Sequence[Objects], truth: Sequence[Objects], *, number: int, overlap: float = OVERLAPS[0]
) -> tuple[Array, Array]:
    """False positives a case and sensitivity, from the highest threshold to the lowest.

    Of the class of that number; begins at (0, 0).
    """
    ranked = _rank(found, truth, number, overlap)
    right, wrong = (block[0] for block in ranked.cumulate(np.ones((1, len(truth)))))
    n_objects = sum(len(one.of_class(number).boxes) for one in truth)
    return wrong / len(truth), right / n_objects if n_objects else np.full_like(right, np.nan)


@dataclass(frozen=True, eq=False)
class _Ranked:
    """Boxes of all cases, the surest first.

    Attributes:
        cases: number of the case of each.
        is_right: whether it was given an object.
        last: numbers of those after which the score falls.
    """

    cases: NDArray[np.intp]
    is_right: Array
    last: NDArray[np.intp]

    def cumulate(self, weights: Array) -> tuple[Array, Array]:
        """Boxes right and wrong (rows, 1 + steps) at each threshold, nothing first."""
        drawn = weights[:, self.cases]
        right = np.cumsum(drawn * self.is_right, axis=1)[:, self.last]
        wrong = np.cumsum(drawn, axis=1)[:, self.last] - right
        none = np.zeros((len(weights), 1))
        return np.concatenate([none, right], axis=1), np.concatenate([none, wrong], axis=1)


@dataclass(frozen=True, eq=False)
class _Table:
    """What is known of one class.

    Attributes:
        ranked: of each overlap.
        n_objects: in each case.
        off: difference of counts in each case.
    """

    ranked: Sequence[_Ranked]
    n_objects: Array
    off: Array

    @property
    def names(self) -> list[str]:
        """Of the numbers, in order."""
        points = [f"froc@{x:g}" for x in FALSE_POSITIVES]
        each = [f"{kind}@{overlap:g}" for overlap in OVERLAPS for kind in ("ap", "ar")]
        return ["froc", *points, *each, "count_error"]

    def measure(self, weights: Array) -> Array:
        """Numbers (rows, n_names) of cases that count so often, NaN where not defined."""
        return np.concatenate([self._measure(rows) for rows in self._split(weights)])

    def _split(self, weights: Array) -> Iterator[Array]:
        widest = max(1, *(len(one.cases) for one in self.ranked))
        size = max(1, _CHUNK // widest)
        return (weights[start : start + size] for start in range(0, len(weights), size))

    def _measure(self, weights: Array) -> Array:
        total = (weights @ self.n_objects)[:, None]
        n_cases = weights.sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = [one.cumulate(weights) for one in self.ranked]
            right, wrong = found[0]
            points = _read_at(wrong / n_cases, right / total, FALSE_POSITIVES)
            columns = [points.mean(axis=1, keepdims=True), points]
            for right, wrong in found:
                columns += [_average_precision(right, wrong, total), right[:, -1:] / total]
        columns.append((weights @ self.off)[:, None] / n_cases)
        table = np.concatenate(columns, axis=1)
        table[total[:, 0] == 0, :-1] = np.nan
        return table


def _tabulate(found: Sequence[Objects], truth: Sequence[Objects], number: int) -> _Table:
    own = [one.of_class(number) for one in truth]
    n_objects = np.array([len(one.boxes) for one in own], dtype=np.float64)
    n_sure = [(one.of_class(number).known_scores() >= SURE).sum() for one in found]
    ranked = [_rank(found, truth, number, overlap) for overlap in OVERLAPS]
    return _Table(ranked, n_objects, np.abs(np.array(n_sure) - n_objects))


def _rank(
    found: Sequence[Objects], truth: Sequence[Objects], number: int, overlap: float
) -> _Ranked:
    scores, cases, right = [], [], []
    for case, (one, there) in enumerate(zip(found, truth, strict=True)):
        own = one.of_class(number)
        order, given = match_boxes(own, there.of_class(number), overlap=overlap)
        scores.append(own.known_scores()[order])
        cases.append(np.full(len(order), case))
        right.append(given >= 0)
    all_scores = np.concatenate(scores)
    order = np.argsort(-all_scores, kind="stable")
    ordered = all_scores[order]
    last = np.flatnonzero(np.append(ordered[1:] < ordered[:-1], True)[: len(ordered)])
    is_right = np.concatenate(right)[order].astype(np.float64)
    return _Ranked(np.concatenate(cases)[order].astype(np.intp), is_right, last)


def _read_at(x: Array, y: Array, points: Sequence[float]) -> Array:
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


def _average_precision(right: Array, wrong: Array, total: Array) -> Array:
    """Mean of the best precision from each of 101 recalls on (rows, 1)."""
    recall, n_found = right / total, right + wrong
    precision = np.divide(right, n_found, out=np.zeros_like(right), where=n_found > 0)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = np.searchsorted(_RECALLS, recall, side="right")
    fresh = np.diff(reached, axis=1, prepend=0)
    area: Array = (fresh * best).sum(axis=1, keepdims=True) / len(_RECALLS)
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
