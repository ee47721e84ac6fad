"""Whether two models' areas under the ROC curve differ on the same cases, by DeLong's test.

The area is the mean over pairs of a member and another case of psi = 1, 1/2 or 0, as the member's
score is above, level or below (Mann & Whitney, 1947). Its variance, and the covariance of two such
areas, follow from how psi varies over members and over others (DeLong et al., Biometrics 1988).
Ranks give both without going through the pairs (Sun & Xu, IEEE Signal Process Lett 2014).

Cases must be independent: one a subject.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from volumetric.errors import ConfigError
from volumetric.metrics.statistics import check_settings

_Array = NDArray[np.float64]
_NORMAL = NormalDist()

_FEW = "fewer than two cases on one side: nothing says how others vary"
_SURE = "the difference does not vary between cases: there is no test"


@dataclass(frozen=True)
class AreaDifference:
    """The difference second - first of two areas under the ROC curve.

    Attributes:
        first: area of the first scores; None without both sides.
        second: area of the second ones; None without both sides.
        difference: second - first; None without both sides.
        ci_low: lower end of its normal interval; None where nothing says how it varies.
        ci_high: upper end; likewise.
        p: two-sided, of no difference; likewise.
        n_members: number of cases of the class.
        n_others: number of the others.
        reason: why a number is None; None when none is.
    """

    first: float | None
    second: float | None
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    p: float | None
    n_members: int
    n_others: int
    reason: str | None = None


def delong_difference(
    first: ArrayLike, second: ArrayLike, is_member: ArrayLike, *, confidence: float = 0.95
) -> AreaDifference:
    """The areas of two scores (n_cases,) of the same cases, their difference and DeLong's test.

    `is_member` (n_cases,) says which cases are of the class. Where both scores rank all cases
    alike the difference is 0 and p is 1.

    Raises:
        ConfigError: shapes that disagree, scores that are no finite numbers, or a confidence not
            between 0 and 1.
    """
    check_settings(1, confidence)
    scores = _check(first, second, is_member)
    own = np.asarray(is_member, dtype=bool)
    counts = n_members, n_others = int(own.sum()), int((~own).sum())
    if not n_members or not n_others:
        side = "absent from truth" if not n_members else "no case without this class in the truth"
        return AreaDifference(None, None, None, None, None, None, *counts, side)
    of_members, of_others = _placements(scores, own)
    areas = of_members.mean(axis=1)
    difference = float(areas[1] - areas[0])
    found = (float(areas[0]), float(areas[1]), difference)
    if min(n_members, n_others) < 2:
        return AreaDifference(*found, None, None, None, *counts, _FEW)
    covariance = np.cov(of_members) / n_members + np.cov(of_others) / n_others
    contrast = np.array([-1.0, 1.0])
    variance = float(contrast @ covariance @ contrast)
    if variance <= 1e-12 * float(np.trace(covariance)) or variance == 0:
        if abs(difference) < 1e-12:
            return AreaDifference(*found, 0.0, 0.0, 1.0, *counts)
        return AreaDifference(*found, None, None, None, *counts, _SURE)
    spread = variance**0.5
    reach = _NORMAL.inv_cdf((1 + confidence) / 2) * spread
    p = 2 * _NORMAL.cdf(-abs(difference) / spread)
    return AreaDifference(*found, difference - reach, difference + reach, p, *counts)


def _placements(scores: _Array, own: NDArray[np.bool_]) -> tuple[_Array, _Array]:
    """For each score the mean of psi of each member (2, n_members) and other (2, n_others)."""
    members, others = scores[:, own], scores[:, ~own]
    among_all = rankdata(scores, axis=1)
    below = among_all[:, own] - rankdata(members, axis=1)  # others below, level ones as halves
    above = members.shape[1] - (among_all[:, ~own] - rankdata(others, axis=1))
    return below / others.shape[1], above / members.shape[1]


def _check(first: ArrayLike, second: ArrayLike, is_member: ArrayLike) -> _Array:
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    own = np.asarray(is_member)
    if one.ndim != 1 or not one.shape == other.shape == own.shape:
        raise ConfigError(
            "lengths-differ",
            f"scores of shapes {one.shape} and {other.shape}, members of shape {own.shape}",
            "Give one score of each model and one truth a case",
        )
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise ConfigError(
            "not-finite", "a score is infinite or no number", "Leave cases without a score out"
        )
    return np.stack([one, other])
