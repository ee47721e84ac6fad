"""How sure a mean over cases is, and whether two sets of scores differ.

The unit that is drawn, or whose sign is flipped, is the subject, never the case: two scans of one
person are no two independent observations, and counting them as such makes intervals too narrow.

Intervals are BCa bootstraps (bias corrected and accelerated; Efron, JASA 1987). Scores such as
Dice are skewed, where percentile intervals sit too high: measured on 2000 cohorts from three beta
distributions, 95 % BCa intervals covered the true mean as often as percentile ones or more often
at every size (50 subjects: 93-94 % against 93 %; 20: 92-95 % against 89-93 %; 10: 87-93 % against
84-90 %; 5: 79-85 % against 75-82 %). Below about 20 subjects read them as too narrow.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from volumetric.errors import ConfigError

_Array = NDArray[np.float64]

_CHUNK = 2**20  # numbers drawn at a time: 8 MB, however many cases and resamples
_NORMAL = NormalDist()
_NO_CASE = "no case has a value"
ONE_SUBJECT = "one subject only: nothing says how others vary"
_ALL_ALIKE = "the same in every resample: nothing says how others vary"
_ROUNDING = 1e-12  # of a number that is the same in every resample


@dataclass(frozen=True)
class Interval:
    """A mean over cases with its confidence interval.

    Attributes:
        mean: None when no case has a value.
        ci_low: lower end; None with fewer than two subjects, or if nothing says how others vary.
        ci_high: upper end; likewise.
        n: number of cases that have a value.
        reason: why a number is None; None when none is.
    """

    mean: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    reason: str | None = None


@dataclass(frozen=True)
class PairedDifference:
    """The mean of second - first over cases that have both, with interval and p-value.

    Attributes:
        mean: None when no case has both values.
        ci_low: lower end; None with fewer than two subjects.
        ci_high: upper end; None with fewer than two subjects.
        p: two-sided, of no difference; never 0; None with fewer than two subjects.
        n: number of cases that have both values.
        reason: why a number is None; None when none is.
    """

    mean: float | None
    ci_low: float | None
    ci_high: float | None
    p: float | None
    n: int
    reason: str | None = None


def bootstrap_mean(
    values: Sequence[float | None],
    *,
    subjects: Sequence[str] | None = None,
    n_resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """The mean over cases with its BCa bootstrap interval, whole subjects resampled.

    `values` are one a case, None for unknown, which are dropped; `subjects` says whose each is
    (default: each its own). A resample draws as many subjects as there are, with replacement, and
    takes the mean over all their cases (cluster bootstrap; Davison & Hinkley 1997, section 3.8).
    Equal input and seed give equal output.

    Raises:
        ConfigError: a value not finite, subjects of another length, fewer than one resample, or
            a confidence not between 0 and 1.
    """
    check_settings(n_resamples, confidence)
    known, owners = _known(values, subjects)
    if not known.size:
        return Interval(None, None, None, 0, _NO_CASE)
    sums, counts = _by_subject(known, owners)
    mean = float(known.mean())
    if sums.size < 2:
        return Interval(mean, None, None, known.size, ONE_SUBJECT)
    excess = sums - mean * counts
    resampled = _resampled_offsets(excess, counts, n_resamples, seed)
    left_out = -excess / (counts.sum() - counts)
    low, high = bca_quantiles(resampled, left_out, confidence)
    # The mean lies inside but for rounding, which shows when all values are equal.
    return Interval(mean, mean + min(low, 0.0), mean + max(high, 0.0), known.size)


def known_width(interval: Interval) -> Interval:
    """The same, without its ends where they meet: all cases alike do not tell how others vary.

    For scores, as of cases that are all answered rightly: "1.000 to 1.000" would claim to be sure.
    """
    if interval.ci_low is None or interval.ci_high is None:
        return interval
    if interval.ci_high - interval.ci_low > _ROUNDING:
        return interval
    return replace(interval, ci_low=None, ci_high=None, reason=_ALL_ALIKE)


def paired_difference(
    first: Sequence[float | None],
    second: Sequence[float | None],
    *,
    subjects: Sequence[str] | None = None,
    n_resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> PairedDifference:
    """The mean of second - first over cases that have both, with interval and p-value.

    `first` and `second` are two scores of the same cases, in one order. The interval is that of
    `bootstrap_mean`. The p-value is of a two-sided permutation test that flips the sign of whole
    subjects: p = (b + 1) / (m + 1), for b of m random flips at least as far from 0 as the data
    (Phipson & Smyth, Stat Appl Genet Mol Biol 2010). With k subjects it hardly falls below
    2 / 2^k: five subjects or fewer can never show p < 0.05.

    Raises:
        ConfigError: as `bootstrap_mean`, or `first` and `second` of different lengths.
    """
    check_lengths("second", second, len(first))
    differences = [
        None if one is None or other is None else other - one
        for one, other in zip(first, second, strict=True)
    ]
    interval = bootstrap_mean(
        differences, subjects=subjects, n_resamples=n_resamples, seed=seed, confidence=confidence
    )
    p = None
    if interval.reason is None:
        sums, _ = _by_subject(*_known(differences, subjects))
        p = _sign_flip_p(sums, n_resamples, seed)
    return PairedDifference(
        interval.mean, interval.ci_low, interval.ci_high, p, interval.n, interval.reason
    )


def _known(
    values: Sequence[float | None], subjects: Sequence[str] | None
) -> tuple[_Array, NDArray[np.intp]]:
    """The values that are not None, and for each the number of its subject."""
    names = range(len(values)) if subjects is None else subjects
    check_lengths("subjects", names, len(values))
    pairs = [(value, name) for value, name in zip(values, names, strict=True) if value is not None]
    known = np.array([value for value, _ in pairs], dtype=np.float64)
    if not np.isfinite(known).all():
        raise ConfigError(
            "not-finite",
            f"{int((~np.isfinite(known)).sum())} of {known.size} values are infinite or no numbers",
            "Write None for a score that is unknown",
        )
    return known, number_subjects([name for _, name in pairs])


def number_subjects(names: Sequence[Hashable]) -> NDArray[np.intp]:
    """For each case the number of its subject, from 0 in the order of first mention."""
    number_of = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([number_of[name] for name in names], dtype=np.intp)


def _by_subject(known: _Array, owners: NDArray[np.intp]) -> tuple[_Array, _Array]:
    """The sum of each subject's values, and how many there are."""
    sums: _Array = np.bincount(owners, weights=known).astype(np.float64)
    return sums, np.bincount(owners).astype(np.float64)


def _resampled_offsets(excess: _Array, counts: _Array, n_resamples: int, seed: int) -> _Array:
    """Means of resamples, less the mean of the data: `excess` is a subject's sum above it."""
    generator = np.random.default_rng(seed)
    offsets = []
    for rows in chunks(n_resamples, excess.size):
        drawn = generator.integers(0, excess.size, (rows, excess.size))
        offsets.append(excess[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(offsets)


def bca_quantiles(resampled: _Array, left_out: _Array, confidence: float) -> tuple[float, float]:
    """Ends of the BCa interval, from offsets of resamples and of the data less one subject."""
    tie = 1e-12 * float(np.abs(resampled).max())
    below = float((resampled < -tie).sum() + (np.abs(resampled) <= tie).sum() / 2)
    bias = _NORMAL.inv_cdf((below + 0.5) / (resampled.size + 1))
    influence = left_out.mean() - left_out
    scale = float(np.abs(influence).max()) or 1.0  # or its cube underflows for tiny values
    influence = influence / scale
    spread = float((influence**2).sum())
    skew = float((influence**3).sum()) / (6 * spread**1.5) if spread else 0.0
    normal = (_NORMAL.inv_cdf((1 - confidence) / 2), _NORMAL.inv_cdf((1 + confidence) / 2))
    # Extreme skew and confidence carry an end past infinity: it stays at the furthest resample.
    slopes = [max(1 - skew * (bias + z), 1e-9) for z in normal]
    ends = [_NORMAL.cdf(bias + (bias + z) / slope) for z, slope in zip(normal, slopes, strict=True)]
    low, high = np.quantile(resampled, ends)
    return float(low), float(high)


def _sign_flip_p(sums: _Array, n_resamples: int, seed: int) -> float:
    generator = np.random.default_rng([seed, 1])  # apart from the bootstrap's own stream
    total = float(sums.sum())
    # A flip that gives the data back must count as such, though rounding moves its sum.
    least = abs(total) - 1e-12 * float(np.abs(sums).sum())
    as_far = 0
    for rows in chunks(n_resamples, sums.size):
        flipped = generator.integers(0, 2, (rows, sums.size), dtype=np.int8)
        as_far += int((np.abs(total - 2 * (flipped @ sums)) >= least).sum())
    return (as_far + 1) / (n_resamples + 1)


def chunks(n_rows: int, width: int) -> Iterator[int]:
    """Numbers of rows that make `n_rows` in all, each few enough to draw at once."""
    most = max(1, _CHUNK // width)
    for start in range(0, n_rows, most):
        yield min(most, n_rows - start)


def check_settings(n_resamples: int, confidence: float) -> None:
    """Refuse, by a ConfigError, what gives no interval."""
    if n_resamples < 1 or not 0 < confidence < 1:
        raise ConfigError(
            "bad-statistics",
            f"{n_resamples} resamples at confidence {confidence} give no interval",
            "Ask for at least one resample and a confidence between 0 and 1, such as 0.95",
        )


def check_lengths(name: str, values: Sequence[object], n_cases: int) -> None:
    """Refuse, by a ConfigError, a list that has not one entry a case."""
    if len(values) != n_cases:
        raise ConfigError(
            "lengths-differ",
            f"{name} has {len(values)} entries for {n_cases} cases",
            "Give one entry a case, in one order",
        )
