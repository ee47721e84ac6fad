"""Probabilities made honest by one number, the temperature their logits are divided by.

Guo et al., ICML 2017, section 4.2. In a run of several folds, the cases of a fold are scaled by the
temperature that fits the held-out cases of all other folds, of other subjects; see
`volumetric.metrics.thresholds` for what that leaves unseen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from volumetric.errors import ConfigError
from volumetric.metrics.classification import check_probabilities
from volumetric.metrics.thresholds import ONE_FOLD, Choice, rows_elsewhere

_Array = NDArray[np.float64]

_LEAST = 1e-12  # of a probability, whose logarithm is taken
_HOTTEST = 100.0  # temperatures are sought between its inverse and it
_SURE = "every case of the other folds is right: they fit ever better as it falls; left at 1"
_BLIND = "the other folds fit ever better as it grows, as where guesses mislead; left at 1"


def fit_temperature(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """The temperature that makes held-out probabilities fit their labels best, by nll.

    One number for all classes, which leaves the predicted class as it is (Guo et al., ICML 2017,
    section 4.2). Above 1 the model was too sure of itself. Fit it on cases that neither trained
    the model nor serve to score it. Sought between 0.01 and 100: where all cases are right, the
    lower end comes back.

    Raises:
        ConfigError, LabelError: as `score_classification`, or several labels a case.
    """
    scores, truth = check_probabilities(probabilities, labels)
    if truth.ndim == 2:
        raise ConfigError(
            "bad-calibration",
            f"labels of shape {truth.shape}: several labels a case",
            "Give one class at a time, its probabilities as the columns of `two_sided`",
        )
    logits = np.log(np.maximum(scores, _LEAST))

    def loss(log_inverse: float) -> float:
        scaled = log_softmax(logits * np.exp(log_inverse), axis=1)
        return -float(np.take_along_axis(scaled, truth[:, None], axis=1).mean())

    # nll is convex in the inverse temperature, hence with one minimum in its logarithm too.
    bound = np.log(_HOTTEST)
    best = minimize_scalar(loss, bounds=(-bound, bound), method="bounded")
    return float(np.exp(-best.x))


def apply_temperature(probabilities: ArrayLike, temperature: float) -> _Array:
    """Probabilities (n_cases, n_classes) whose logits were divided by `temperature`.

    Raises:
        ConfigError: the temperature is not above 0.
    """
    if not 0 < temperature < np.inf:
        raise ConfigError(
            "bad-temperature",
            f"a temperature of {temperature} divides no logits",
            "Give one above 0, as `fit_temperature` finds it",
        )
    logits = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), _LEAST))
    scaled: _Array = softmax(logits / temperature, axis=1)
    return scaled


def two_sided(probabilities: ArrayLike) -> _Array:
    """The probabilities (n_cases,) of one class as the columns (n_cases, 2) "not it" and "it"."""
    values = np.asarray(probabilities, dtype=np.float64)
    return np.stack([1 - values, values], axis=1)


def choose_temperatures(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    folds: Sequence[int | None],
    subjects: Sequence[str],
) -> dict[int | None, tuple[Choice, ...]]:
    """For the cases of each fold, the temperature fitted on the other folds.

    One for all classes; of several labels a case, one a class. Where there is nothing to fit on,
    or no best one, as where all those cases are right, it is 1, which changes nothing, and says
    why.

    Raises:
        ConfigError, LabelError: as `score_classification`, or lengths that disagree.
    """
    scores, truth = check_probabilities(probabilities, labels)
    found = {}
    for fold, rows in rows_elsewhere(folds, subjects, len(scores)).items():
        parts = [(scores[rows], truth[rows])]
        if truth.ndim == 2:
            columns = zip(scores[rows].T, truth[rows].T, strict=True)
            parts = [(two_sided(column), own) for column, own in columns]
        found[fold] = tuple(_choose(*part) for part in parts)
    return found


def scale_probabilities(
    probabilities: ArrayLike,
    *,
    folds: Sequence[int | None],
    temperatures: Mapping[int | None, Sequence[float]],
) -> _Array:
    """Probabilities (n_cases, n_classes) by the temperatures of each case's fold.

    One temperature a fold scales all classes together; one a class, each by itself.

    Raises:
        ConfigError: a temperature that is not above 0.
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    scaled = np.empty_like(scores)
    for fold in dict.fromkeys(folds):
        rows = np.array([one == fold for one in folds])
        chosen = temperatures[fold]
        if len(chosen) == 1 < scores.shape[1]:
            scaled[rows] = apply_temperature(scores[rows], chosen[0])
            continue
        for column, value in enumerate(chosen):
            scaled[rows, column] = apply_temperature(two_sided(scores[rows, column]), value)[:, 1]
    return scaled


def _choose(scores: _Array, truth: NDArray[np.int64]) -> Choice:
    if not truth.size:
        return Choice(1.0, 0, ONE_FOLD)
    if (np.take_along_axis(scores, truth[:, None], axis=1)[:, 0] == scores.max(axis=1)).all():
        return Choice(1.0, 0, _SURE)
    found = fit_temperature(scores, truth)
    if found > _HOTTEST / 1.01:
        return Choice(1.0, 0, _BLIND)
    return Choice(found, truth.size)
