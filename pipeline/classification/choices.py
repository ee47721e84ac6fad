"""What is chosen on held-out cases for other held-out cases: thresholds and temperatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetric.cases import Case
from volumetric.metrics.calibration import (
    ReliabilityBin,
    bin_reliability,
    score_calibration,
)
from volumetric.metrics.resampling import Resampling
from volumetric.metrics.scoring import ALL, score_statistic
from volumetric.metrics.statistics import Interval
from volumetric.metrics.temperature import choose_temperatures, scale_probabilities
from volumetric.metrics.thresholds import (
    Choice,
    call_classes,
    choose_thresholds,
    threshold_statistic,
)

Scores = dict[str, dict[str, Interval]]
_Chosen = Mapping[int | None, Sequence[Choice]]

_ONE_FOLD = "one fold only: no other held-out case to fit a temperature on"


@dataclass(frozen=True, eq=False)
class Judged:
    """Predicted cases beside their truth.

    Attributes:
        probabilities: (n_cases, n_labels).
        truth: (n_cases,) numbers of labels; or (n_cases, n_labels), 0 or 1, where a case may have
            several.
        labels: their names.
        cases: whose these are.
        resampling: how intervals are drawn.
    """

    probabilities: NDArray[np.float64]
    truth: NDArray[np.int64]
    labels: Sequence[str]
    cases: Sequence[Case]
    resampling: Resampling

    @property
    def subjects(self) -> list[str]:
        """Whose each case is."""
        return [case.subject for case in self.cases]

    @property
    def folds(self) -> list[int | None]:
        """Where each case was held out."""
        return [case.fold for case in self.cases]


def score_at_thresholds(judged: Judged) -> tuple[Scores, dict[str, Any]]:
    """Scores at each fold's thresholds, and what results.json says of those."""
    chosen = choose_thresholds(
        judged.probabilities, judged.truth, folds=judged.folds, subjects=judged.subjects
    )
    called = call_classes(judged.probabilities, folds=judged.folds, thresholds=_values(chosen))
    scores = score_statistic(
        threshold_statistic(called, judged.truth, classes=judged.labels),
        len(judged.cases),
        subjects=judged.subjects,
        resampling=judged.resampling,
    )
    return scores, _by_fold(chosen, judged.labels)


def score_scaled(judged: Judged) -> dict[str, Any]:
    """What results.json says of calibration once each fold is scaled by its temperature."""
    chosen = choose_temperatures(
        judged.probabilities, judged.truth, folds=judged.folds, subjects=judged.subjects
    )
    names = [ALL] if judged.truth.ndim == 1 else judged.labels
    if len(chosen) < 2:
        nothing = plain_scores(_nothing(names, len(judged.cases)))
        return {"folds": None, "reason": _ONE_FOLD, "metrics": nothing, "reliability": {}}
    scaled = scale_probabilities(
        judged.probabilities, folds=judged.folds, temperatures=_values(chosen)
    )
    return {
        "folds": _by_fold(chosen, names),
        "reason": None,
        "metrics": plain_scores(calibrate(judged, scaled)),
        "reliability": draw_bins(judged, scaled),
    }


def calibrate(judged: Judged, probabilities: NDArray[np.float64]) -> Scores:
    """How honest these probabilities are."""
    return score_calibration(
        probabilities,
        judged.truth,
        subjects=judged.subjects,
        classes=judged.labels,
        resampling=judged.resampling,
    )


def draw_bins(judged: Judged, probabilities: NDArray[np.float64]) -> dict[str, list[Any]]:
    """The bins of a reliability diagram: of "all", or of each label where a case may have several.

    About ten cases a bin, at most ten bins.
    """
    n_bins = min(10, max(1, len(judged.cases) // 10))
    if judged.truth.ndim == 1:
        return {ALL: _plain_bins(bin_reliability(probabilities, judged.truth, n_bins=n_bins))}
    return {
        name: _plain_bins(
            bin_reliability(probabilities[:, [k]], judged.truth[:, [k]], n_bins=n_bins)
        )
        for k, name in enumerate(judged.labels)
    }


def plain_scores(scores: Mapping[str, Mapping[str, Interval]]) -> dict[str, dict[str, Any]]:
    """Scores in plain values."""
    return {
        metric: {name: asdict(interval) for name, interval in by_class.items()}
        for metric, by_class in scores.items()
    }


def _plain_bins(bins: Sequence[ReliabilityBin]) -> list[dict[str, Any]]:
    return [asdict(one) for one in bins]


def _nothing(names: Sequence[str], n_cases: int) -> Scores:
    nothing = Interval(None, None, None, n_cases, _ONE_FOLD)
    return {
        metric: dict.fromkeys([*names, ALL], nothing)
        for metric in ("nll", "brier", "ece_mass", "ece_width")
    }


def _values(chosen: _Chosen) -> dict[int | None, list[float]]:
    return {fold: [one.value for one in found] for fold, found in chosen.items()}


def _by_fold(chosen: _Chosen, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {
        str(fold): {name: asdict(one) for name, one in zip(names, found, strict=True)}
        for fold, found in chosen.items()
    }
