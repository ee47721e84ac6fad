"""How well objects are outlined, each by itself: panoptic quality and counts.

An object found and a true one belong together if their intersection over union is above one half:
then neither can belong to another (Kirillov et al., CVPR 2019). Definitions, over all cases:

- panoptic_quality: sum of the overlaps of pairs / (pairs + half of all that are in none).
- segmentation_quality: mean overlap of pairs.
- recognition_quality: pairs / (pairs + half of all that are in none), which is F1 of objects.
- count_error: mean over cases of |objects found - true objects|.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetric.errors import ConfigError, GeometryError
from volumetric.metrics.ranking import divided
from volumetric.metrics.resampling import USUAL, Resampling
from volumetric.metrics.scoring import ALL, Statistic, score_statistic
from volumetric.metrics.statistics import Interval

Instances = NDArray[np.integer[Any]]
_Array = NDArray[np.float64]

MASK_METRICS = ("ap@0.5", "ar@0.5")
"""Of the metrics of detection, those asked of masks in place of boxes."""

SAME = 0.5  # overlap above which an object found is a true one
_METRICS = ("panoptic_quality", "segmentation_quality", "recognition_quality", "count_error")


@dataclass(frozen=True)
class Outlined:
    """How the objects of one case were outlined.

    Attributes:
        overlap: sum of intersection over union of pairs.
        n_pairs: objects found that belong to a true one.
        n_found: objects found.
        n_true: true objects.
    """

    overlap: float
    n_pairs: int
    n_found: int
    n_true: int


def overlap_instances(found: Instances, truth: Instances) -> _Array:
    """Intersection over union (n_found, n_true) of objects, in the order of their numbers.

    Both are integers of one shape: 0 is background, any other number an object.

    Raises:
        GeometryError: shapes differ, or negative numbers.
    """
    if found.shape != truth.shape:
        raise GeometryError(
            "other-grid",
            f"objects found on a grid {found.shape}, true ones on {truth.shape}",
            "Bring both to one grid",
        )
    if min(found.min(initial=0), truth.min(initial=0)) < 0:
        raise GeometryError("bad-instances", "negative numbers of objects", "Use 0 for none")
    own, own_rows = np.unique(found, return_inverse=True)
    other, other_rows = np.unique(truth, return_inverse=True)
    pairs = own_rows.ravel() * len(other) + other_rows.ravel()
    shared = np.bincount(pairs, minlength=len(own) * len(other)).reshape(len(own), len(other))
    sizes = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0, keepdims=True)
    overlaps: _Array = (shared / np.maximum(sizes - shared, 1))[own != 0][:, other != 0]
    return overlaps


def match_instances(found: Instances, truth: Instances) -> Outlined:
    """How the objects of one case were outlined; see `overlap_instances` for what it takes."""
    return sum_up_overlaps(overlap_instances(found, truth))


def sum_up_overlaps(overlaps: _Array) -> Outlined:
    """The same, of overlaps (n_found, n_true) as `overlap_instances` gives them."""
    pairs = overlaps[overlaps > SAME]
    return Outlined(float(pairs.sum()), len(pairs), *overlaps.shape)


def score_instances(
    cases: Sequence[Outlined],
    *,
    subjects: Sequence[str] | None = None,
    resampling: Resampling = USUAL,
) -> dict[str, Interval]:
    """Metric -> value with its interval, whole subjects resampled; metrics stand at the top.

    `n` is the number of true objects, of count_error of cases. What is not defined is None with a
    reason, as a quality where nothing is and nothing was found.

    Raises:
        ConfigError: no case, or `subjects` of another length.
    """
    scores = score_statistic(
        instances_statistic(cases), len(cases), subjects=subjects, resampling=resampling
    )
    return {name: of_all[ALL] for name, of_all in scores.items()}


def instances_statistic(cases: Sequence[Outlined]) -> Statistic:
    """What `score_instances` scores, to be drawn anew.

    Raises:
        ConfigError: no case.
    """
    if not cases:
        raise ConfigError("no-cases", "no case to score", "Give at least one")
    table = np.array([(one.overlap, one.n_pairs, one.n_found, one.n_true) for one in cases])
    off = np.abs(table[:, 2] - table[:, 3])

    def measure(weights: _Array) -> _Array:
        overlap, n_pairs, n_found, n_true = (weights @ table).T
        half = (n_found + n_true) / 2  # pairs, and half of all that are in none
        columns = [divided(overlap, half), divided(overlap, n_pairs), divided(n_pairs, half)]
        return np.stack([*columns, weights @ off / weights.sum(axis=1)], axis=1)

    counts = {(name, ALL): int(table[:, 3].sum()) for name in _METRICS if name != "count_error"}
    keys = tuple((name, ALL) for name in _METRICS)
    return Statistic(keys, measure, counts, _why_undefined)


def _why_undefined(_metric: str, _name: str, n: int) -> str:
    return "no object was found where one is" if n else "the truth holds no object"
