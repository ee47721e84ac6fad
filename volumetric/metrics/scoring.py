"""Numbers of each metric and class that can be drawn again and again, and their intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from volumetric.errors import ConfigError
from volumetric.metrics.ranking import divided
from volumetric.metrics.resampling import USUAL, Resampling, bootstrap_statistic
from volumetric.metrics.statistics import Interval, known_width

_Array = NDArray[np.float64]

ALL = "all"


def undefined_reason(metric: str, name: str, n: int) -> str:
    """Why a metric of a class with `n` cases behind it is not defined."""
    if name == ALL:
        return "no class has a value"
    if metric == "precision":
        return "never predicted"
    if metric == "specificity":
        return "no case without this class in the truth"
    return "no case without this class in the truth" if n else "absent from truth"


@dataclass(frozen=True, eq=False)
class Statistic:
    """Scores of cases that can be drawn again and again, see `bootstrap_statistic`.

    Attributes:
        keys: (metric, class name or "all") of each number.
        measure: weights (rows, n_cases) -> numbers (rows, n_keys), NaN where not defined.
        counts: how many cases are behind the number of a key; those not named, behind all.
        why: (metric, class name or "all", count) -> why that is not defined.
    """

    keys: tuple[tuple[str, str], ...]
    measure: Callable[[_Array], _Array]
    counts: Mapping[tuple[str, str], int]
    why: Callable[[str, str, int], str] = undefined_reason


def score_statistic(
    statistic: Statistic,
    n_cases: int,
    *,
    subjects: Sequence[str] | None = None,
    resampling: Resampling = USUAL,
) -> dict[str, dict[str, Interval]]:
    """Metric -> class name or "all" -> value with its interval, `n` and a reason for None.

    Raises:
        ConfigError: `subjects` of another length.
    """
    intervals = bootstrap_statistic(
        statistic.measure, n_cases, subjects=subjects, resampling=resampling
    )
    scores: dict[str, dict[str, Interval]] = {}
    for (metric, name), interval in zip(statistic.keys, intervals, strict=True):
        n = statistic.counts.get((metric, name), n_cases)
        interval = known_width(interval)
        reason = interval.reason
        if interval.mean is None:
            reason = statistic.why(metric, name, n)
        scores.setdefault(metric, {})[name] = replace(interval, n=n, reason=reason)
    return scores


def mean_statistic(statistics: Sequence[Statistic]) -> Statistic:
    """The mean of what several models score on the same cases, as of one trained from many seeds.

    Raises:
        ConfigError: no statistic, or statistics of other metrics or classes.
    """
    if len({one.keys for one in statistics}) != 1:
        raise ConfigError(
            "bad-classes", "no statistics, or of other metrics or classes", "Average like with like"
        )

    def measure(weights: _Array) -> _Array:
        found: _Array = np.stack([one.measure(weights) for one in statistics]).mean(axis=0)
        return found

    return replace(statistics[0], measure=measure)


def known_mean(values: _Array) -> _Array:
    """The mean (rows, 1) of the values (rows, n) that are not NaN, NaN where all are."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=1, keepdims=True)
    return divided(total, known.sum(axis=1, keepdims=True).astype(np.float64))
