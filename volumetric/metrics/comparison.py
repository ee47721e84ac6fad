"""Whether one model labels the same cases better than another, drawn together.

Both models are scored on each resample of subjects, so that what makes cases hard for both cancels
in the difference. Intervals are those of `bootstrap_statistic`. For what is a mean over cases
(top1, nll, brier) there is also the p-value of `paired_difference`. Intervals and p-values are of
one comparison each: nothing is corrected for looking at many.

The difference of calibration errors has no interval: see `volumetric.metrics.calibration`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from volumetric.errors import ConfigError
from volumetric.metrics.calibration import BIASED, calibration_errors, case_losses, loss_statistic
from volumetric.metrics.classification import (
    check_probabilities,
    classification_statistic,
    top_hits,
)
from volumetric.metrics.resampling import USUAL, Resampling, bootstrap_statistic
from volumetric.metrics.scoring import ALL, Statistic, undefined_reason
from volumetric.metrics.statistics import PairedDifference, paired_difference

_Array = NDArray[np.float64]
Comparisons = dict[str, dict[str, "Compared"]]


@dataclass(frozen=True)
class Compared:
    """A metric of two models on the same cases.

    Attributes:
        first: value of the first; None where it is not defined.
        second: value of the second; likewise.
        difference: second - first with its interval.
    """

    first: float | None
    second: float | None
    difference: PairedDifference


def compare_classification(
    first: ArrayLike,
    second: ArrayLike,
    labels: ArrayLike,
    *,
    classes: Sequence[str],
    subjects: Sequence[str] | None = None,
    resampling: Resampling = USUAL,
) -> Comparisons:
    """Metric -> class name or "all" -> both values and their difference, subjects resampled.

    `first` and `second` are two models' probabilities of the same cases; they, `labels`,
    `classes` and `subjects` are those of `score_classification`, and so are the metrics, with
    those of `score_calibration`. top5 is left out where there are five classes or fewer.

    Raises:
        ConfigError, LabelError: as `score_classification`, or shapes that differ.
    """
    one, truth = check_probabilities(first, labels)
    other, _ = check_probabilities(second, labels)
    if one.shape != other.shape:
        raise ConfigError(
            "bad-probabilities",
            f"probabilities of shapes {one.shape} and {other.shape}",
            "Give both models' probabilities of the same cases and classes",
        )
    found: Comparisons = {}
    for make in (classification_statistic, loss_statistic):
        ours, theirs = (make(scores, truth, classes=classes) for scores in (one, other))
        found |= compare_statistics(
            ours, theirs, len(truth), subjects=subjects, resampling=resampling
        )
    if truth.ndim == 1:
        if len(classes) <= 5:
            del found["top5"]
        for metric, values in _case_values(one, other, truth).items():
            found[metric][ALL] = _with_p(found[metric][ALL], values, subjects, resampling)
    return found | _compare_errors(one, other, truth, classes)


def compare_statistics(
    first: Statistic,
    second: Statistic,
    n_cases: int,
    *,
    subjects: Sequence[str] | None = None,
    resampling: Resampling = USUAL,
) -> Comparisons:
    """Metric -> class name or "all" -> both values and their difference, subjects resampled.

    Raises:
        ConfigError: `subjects` of another length, or statistics of other metrics or classes.
    """
    if first.keys != second.keys:
        raise ConfigError(
            "bad-classes", "two statistics of other metrics or classes", "Compare like with like"
        )

    def measure(weights: _Array) -> _Array:
        return second.measure(weights) - first.measure(weights)

    once = np.ones((1, n_cases))
    values = zip(first.measure(once)[0].tolist(), second.measure(once)[0].tolist(), strict=True)
    intervals = bootstrap_statistic(measure, n_cases, subjects=subjects, resampling=resampling)
    found: Comparisons = {}
    for key, ends, interval in zip(first.keys, values, intervals, strict=True):
        counts = [side.counts.get(key, n_cases) for side in (first, second)]
        reason = _reason(key, ends, counts) or interval.reason
        difference = PairedDifference(
            interval.mean, interval.ci_low, interval.ci_high, None, min(counts), reason
        )
        one, other = (None if np.isnan(value) else value for value in ends)
        found.setdefault(key[0], {})[key[1]] = Compared(one, other, difference)
    return found


def _reason(key: tuple[str, str], values: tuple[float, float], counts: Sequence[int]) -> str | None:
    """Why a difference is not known: which side has no value."""
    missing = [
        f"{side}: {undefined_reason(*key, count)}"
        for side, value, count in zip(("first", "second"), values, counts, strict=True)
        if np.isnan(value)
    ]
    return "; ".join(missing) or None


def _case_values(
    one: _Array, other: _Array, truth: NDArray[np.int64]
) -> Mapping[str, tuple[_Array, _Array]]:
    """What each case adds to the metrics that are means over cases, of both models."""
    hits = (top_hits(one, truth, 1), top_hits(other, truth, 1))
    losses = [case_losses(scores, truth) for scores in (one, other)]
    return {"top1": hits} | {m: (losses[0][m][:, 0], losses[1][m][:, 0]) for m in losses[0]}


def _with_p(
    compared: Compared,
    values: tuple[_Array, _Array],
    subjects: Sequence[str] | None,
    resampling: Resampling,
) -> Compared:
    p = paired_difference(
        values[0].tolist(),
        values[1].tolist(),
        subjects=subjects,
        n_resamples=resampling.n_resamples,
        seed=resampling.seed,
        confidence=resampling.confidence,
    ).p
    return replace(compared, difference=replace(compared.difference, p=p))


def _compare_errors(
    one: _Array, other: _Array, truth: NDArray[np.int64], classes: Sequence[str]
) -> Comparisons:
    found: Comparisons = {}
    ours, theirs = calibration_errors(one, truth), calibration_errors(other, truth)
    names = [ALL] if truth.ndim == 1 else [*classes, ALL]
    for metric in ours:
        for name, a, b in zip(names, ours[metric], theirs[metric], strict=True):
            difference = PairedDifference(b - a, None, None, None, len(truth), BIASED)
            found.setdefault(metric, {})[name] = Compared(a, b, difference)
    return found
