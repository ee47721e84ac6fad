"""Whether probabilities mean what they say: of cases given 0.8, do eight in ten hold?

For cases of one label each, confidence is the probability of the predicted class. Cases of several
labels are treated class by class: confidence is the probability of the class, and being right is
being of it; "all" is then the mean over classes. Definitions:

- nll: mean of -ln of what was given to the truth, which counts as 1e-12 at least: the true class's
  probability, or of a class by itself p where it holds and 1 - p where it does not.
- brier: mean over cases of the sum over classes of (probability - truth)^2 (Brier, Monthly
  Weather Review 1950), from 0 to 2; of a class by itself (p - truth)^2, from 0 to 1.
- ece_mass, ece_width: expected calibration error, the mean over bins, by their cases, of
  |accuracy - confidence| (Naeini et al., AAAI 2015), with bins of equal numbers of cases or of
  equal width. It is biased upwards, the more the fewer cases a bin has: a perfectly calibrated
  model does not reach 0. Compare it only at equal numbers of cases and bins. It has no interval:
  resampling adds to that bias instead of bracketing the truth (of 200 simulated cohorts of 60
  cases, no 95 % interval in 15 bins held it). Nor has the difference of two models: the bias is
  larger for the better calibrated one, so that it does not cancel (of 200 simulated pairs of 60
  to 200 cases each, 95 % intervals held it in 36 to 90 %).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from volumetric.errors import ConfigError
from volumetric.metrics.classification import check_classes, check_probabilities
from volumetric.metrics.resampling import USUAL, Resampling
from volumetric.metrics.scoring import ALL, Statistic, known_mean, score_statistic
from volumetric.metrics.statistics import Interval

Binning = Literal["mass", "width"]
_Array = NDArray[np.float64]
_Rows = NDArray[np.bool_]

_LEAST = 1e-12  # of a probability, or one sure mistake makes the mean infinite
_BINNINGS: tuple[Binning, ...] = ("mass", "width")
BIASED = "biased upwards by the number of cases: resampling does not bracket it"


@dataclass(frozen=True)
class ReliabilityBin:
    """The cases whose confidence lies together.

    Attributes:
        low: lower end of the bin.
        high: upper end of the bin.
        confidence: mean over its cases; None without any.
        accuracy: fraction of its cases that are right; None without any.
        n: number of its cases.
    """

    low: float
    high: float
    confidence: float | None
    accuracy: float | None
    n: int


def score_calibration(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    subjects: Sequence[str] | None = None,
    classes: Sequence[str] = (),
    n_bins: int = 15,
    resampling: Resampling = USUAL,
) -> dict[str, dict[str, Interval]]:
    """Metric -> "all" or class -> value with its interval, whole subjects resampled.

    `probabilities` and `labels` are those of `score_classification`; of several labels a case,
    each class that `classes` names has a value too. Metrics, defined at the top of this module:
    nll, brier, ece_mass, ece_width; the last two without an interval.

    Raises:
        ConfigError, LabelError: as `score_classification`, or no bin.
    """
    scores, truth = check_probabilities(probabilities, labels)
    names = [ALL] if truth.ndim == 1 else [*check_classes(classes, scores.shape[1]), ALL]
    found = score_statistic(
        loss_statistic(scores, truth, classes=classes),
        len(truth),
        subjects=subjects,
        resampling=resampling,
    )
    for metric, errors in calibration_errors(scores, truth, n_bins=n_bins).items():
        found[metric] = {
            name: Interval(error, None, None, len(truth), BIASED)
            for name, error in zip(names, errors, strict=True)
        }
    return found


def calibration_errors(
    probabilities: ArrayLike, labels: ArrayLike, *, n_bins: int = 15
) -> dict[str, list[float]]:
    """The values of ece_mass and ece_width; of several labels, a class each and their mean.

    Raises:
        ConfigError, LabelError: as `score_calibration`.
    """
    _check_bins(n_bins)
    scores, truth = check_probabilities(probabilities, labels)
    found = {}
    for equal in _BINNINGS:
        pairs = _confidences(scores, truth)
        errors = [_mean_gap(_reliability(*pair, n_bins, equal)) for pair in pairs]
        found[f"ece_{equal}"] = errors if truth.ndim == 1 else [*errors, float(np.mean(errors))]
    return found


def loss_statistic(
    probabilities: ArrayLike, labels: ArrayLike, *, classes: Sequence[str] = ()
) -> Statistic:
    """The metrics nll and brier, to be drawn anew; of several labels a case, by class too.

    Raises:
        ConfigError, LabelError: as `score_classification`.
    """
    scores, truth = check_probabilities(probabilities, labels)
    several = truth.ndim == 2
    losses = case_losses(scores, truth)

    def measure(weights: _Array) -> _Array:
        tables = [weights @ loss / weights.sum(axis=1, keepdims=True) for loss in losses.values()]
        if several:
            tables = [c for table in tables for c in (table, known_mean(table))]
        return np.concatenate(tables, axis=1)

    names = (*check_classes(classes, scores.shape[1]), ALL) if several else (ALL,)
    return Statistic(tuple((m, name) for m in losses for name in names), measure, {})


def case_losses(scores: _Array, truth: NDArray[np.int64]) -> dict[str, _Array]:
    """What each case adds to nll and brier: (n_cases, 1), or a column a class of several labels."""
    if truth.ndim == 2:
        own = np.where(truth > 0, scores, 1 - scores)
        squares = (1 - own) ** 2
    else:
        own = np.take_along_axis(scores, truth[:, None], axis=1)
        squares = (scores**2).sum(axis=1, keepdims=True) - 2 * own + 1
    return {"nll": -np.log(np.maximum(own, _LEAST)), "brier": squares}


def bin_reliability(
    probabilities: ArrayLike, labels: ArrayLike, *, n_bins: int = 15, equal: Binning = "mass"
) -> list[ReliabilityBin]:
    """Confidence against accuracy, a bin each, by rising confidence: the points of a diagram.

    Bins hold equal numbers of cases ("mass"; cases of one confidence stay together, so that bins
    may be uneven or empty) or are of equal "width" from 0 to 1.

    Raises:
        ConfigError, LabelError: as `score_calibration`, or several classes of cases with several
            labels: give one class at a time, both as (n_cases, 1).
    """
    _check_bins(n_bins)
    scores, truth = check_probabilities(probabilities, labels)
    pairs = _confidences(scores, truth)
    if len(pairs) > 1:
        raise ConfigError(
            "bad-calibration",
            f"labels of shape {truth.shape}: several labels a case",
            "Give one label a case, or one class at a time",
        )
    return _reliability(*pairs[0], n_bins, equal)


def _check_bins(n_bins: int) -> None:
    if n_bins < 1:
        raise ConfigError("bad-calibration", f"{n_bins} bins", "Ask for at least one bin")


def _confidences(scores: _Array, truth: NDArray[np.int64]) -> list[tuple[_Array, _Rows]]:
    """How sure, and whether right: of the predicted class, or of each class by itself."""
    if truth.ndim == 2:
        return list(zip(scores.T, truth.T > 0, strict=True))
    return [(scores.max(axis=1), scores.argmax(axis=1) == truth)]


def _reliability(
    confidence: _Array, hits: _Rows, n_bins: int, equal: Binning
) -> list[ReliabilityBin]:
    edges = _edges(confidence, n_bins, equal)
    bins = _bins(confidence, edges)
    found = []
    for number in range(n_bins):
        inside = bins == number
        ends = float(edges[number]), float(edges[number + 1])
        if not inside.any():
            found.append(ReliabilityBin(*ends, None, None, 0))
            continue
        means = float(confidence[inside].mean()), float(hits[inside].mean())
        found.append(ReliabilityBin(*ends, *means, int(inside.sum())))
    return found


def _mean_gap(bins: Sequence[ReliabilityBin]) -> float:
    gaps = [
        found.n * abs(found.accuracy - found.confidence)
        for found in bins
        if found.accuracy is not None and found.confidence is not None
    ]
    return sum(gaps) / sum(found.n for found in bins)


def _edges(confidence: _Array, n_bins: int, equal: Binning) -> _Array:
    if equal == "width":
        return np.linspace(0, 1, n_bins + 1)
    n = confidence.size
    lasts = -(-np.arange(1, n_bins + 1) * n // n_bins) - 1  # rounded up
    rising = np.sort(confidence)
    edges: _Array = np.concatenate([rising[:1], rising[lasts]])
    return edges


def _bins(confidence: _Array, edges: _Array) -> NDArray[np.intp]:
    """The bin of each case: above its lower end, up to its upper end."""
    inner = edges[1:-1]
    found: NDArray[np.intp] = np.searchsorted(inner, confidence, side="left")
    return found
