"""Overlap, surface distances and volumes of a predicted mask against the true one.

Which metrics, and what an empty mask means for each, follow Metrics Reloaded (Maier-Hein et
al., Nat Methods 2024) and its catalogue of pitfalls (Reinke et al., Nat Methods 2024). Public
tools differ by more than 100 mm in HD95 on the same masks, for want of one definition of a
surface; here it is MONAI's discrete one:

- Boundary: the foreground voxels with a background voxel among their six face neighbours. Beyond
  the volume's border all is background, so that a mask cut by the border is closed there.
- Directed distances: from the centre of each boundary voxel of one mask to the nearest centre of
  a boundary voxel of the other, in mm.
- Dice = 2 |P n T| / (|P| + |T|); IoU = |P n T| / |P u T|.
- HD95: the larger of the two directed 95th percentiles (linear interpolation between ranks).
- ASSD: the mean of all directed distances, both directions pooled.
- NSD: the fraction of the boundary voxels of both masks within the tolerance of the other
  boundary (Nikolov et al., arXiv:1809.04430; counted in voxels, not in surface area).
- Volume: the number of voxels times a voxel's volume.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from scipy.spatial import KDTree

from volumetric.errors import ConfigError, GeometryError, LabelError

if TYPE_CHECKING:  # only tensors' own methods are called: a report need not wait for torch
    import torch

_Labels = NDArray[np.integer[Any]]
_Mask = NDArray[np.bool_]
_Box = tuple[slice, slice, slice]
_Score = float | str  # a value, or why there is none

_AVERAGED = ("dice", "iou", "hd95_mm", "assd_mm", "nsd")
_METRICS = (*_AVERAGED, "volume_truth_ml", "volume_prediction_ml", "volume_difference_ml")
_MEAN = "mean"

# A spacing taken from a float32 header or a rotated affine is off by some 1e-7: without slack,
# one voxel away at 1.0000001 mm fails a tolerance of 1 mm, and NSD falls from 1 to 0.
_TOLERANCE_SLACK = 1e-5


@dataclass(frozen=True)
class CaseScores:
    """The scores of one case.

    Attributes:
        scores: metric -> class name -> value; None where the metric is not defined.
        reasons: metric -> class name -> why, for each None in `scores` and nothing else.
    """

    scores: dict[str, dict[str, float | None]]
    reasons: dict[str, dict[str, str]]


def score_masks(
    prediction: torch.Tensor,
    truth: torch.Tensor,
    *,
    spacing_mm: tuple[float, float, float],
    classes: Mapping[int, str],
    tolerance_mm: float = 1.0,
) -> CaseScores:
    """Scores of a predicted mask against the true one, for each class and their mean.

    `prediction` and `truth` are integer tensors (D, H, W) on one grid, `spacing_mm` the distance
    between voxels along (D, H, W), `classes` the labels to score and their names: list the
    background only to have it scored. Labels not in `classes` are ignored. The metrics, defined
    at the top of this module: dice, iou, nsd (fractions), hd95_mm, assd_mm, volume_truth_ml,
    volume_prediction_ml, volume_difference_ml (prediction - truth).

    A class absent from both masks has no score but its volumes. Absent from one, it has dice, iou
    and nsd 0 by their formulas, and no distance. "mean" is the mean of the first five over the
    classes that have a value; a missed class thus lowers the mean dice, but leaves the mean
    distance untouched: read both.

    Raises:
        GeometryError: the masks differ in shape or are not 3-D, or the spacing is not positive.
        LabelError: the masks are not of integers.
        ConfigError: no class, two of one name, one named "mean", or a tolerance below 0.
    """
    _check_masks(prediction, truth, spacing_mm)
    _check_classes(classes, tolerance_mm)
    predicted, true = prediction.detach().cpu().numpy(), truth.detach().cpu().numpy()
    predicted_boxes, true_boxes = _boxes(predicted, classes), _boxes(true, classes)
    columns: dict[str, dict[str, _Score]] = {}
    for label, name in classes.items():
        box = _union(predicted_boxes[label], true_boxes[label])
        columns[name] = _score_class(
            predicted[box] == label, true[box] == label, spacing_mm, tolerance_mm
        )
    columns[_MEAN] = _mean_scores(columns)
    return _collect(columns)


def dice_of_label(prediction: torch.Tensor, truth: torch.Tensor, label: int) -> float | None:
    """Dice of one label between integer tensors of one shape; None where neither has it."""
    found, true = prediction == label, truth == label
    total = int(found.sum() + true.sum())
    return 2 * int((found & true).sum()) / total if total else None


def _score_class(
    predicted: _Mask, true: _Mask, spacing_mm: tuple[float, float, float], tolerance_mm: float
) -> dict[str, _Score]:
    n_predicted, n_true = int(predicted.sum()), int(true.sum())
    voxel_ml = math.prod(spacing_mm) / 1000
    volumes: dict[str, _Score] = {
        "volume_truth_ml": n_true * voxel_ml,
        "volume_prediction_ml": n_predicted * voxel_ml,
        "volume_difference_ml": (n_predicted - n_true) * voxel_ml,
    }
    if not n_predicted and not n_true:
        return dict.fromkeys(_AVERAGED, "absent from truth and prediction") | volumes
    if not n_predicted or not n_true:
        reason = "absent from prediction" if n_true else "absent from truth"
        return volumes | {
            "dice": 0.0,
            "iou": 0.0,
            "hd95_mm": reason,
            "assd_mm": reason,
            "nsd": 0.0,
        }
    n_shared = int((predicted & true).sum())
    overlap: dict[str, _Score] = {
        "dice": 2 * n_shared / (n_predicted + n_true),
        "iou": n_shared / (n_predicted + n_true - n_shared),
    }
    return overlap | _score_surfaces(predicted, true, spacing_mm, tolerance_mm) | volumes


def _score_surfaces(
    predicted: _Mask, true: _Mask, spacing_mm: tuple[float, float, float], tolerance_mm: float
) -> dict[str, _Score]:
    # A tree of the boundary's voxels, not a distance transform of the box: one stray voxel makes
    # the box as large as the scan, where a transform takes twenty seconds and 4 GB.
    first, second = _boundary_mm(predicted, spacing_mm), _boundary_mm(true, spacing_mm)
    to_second, _ = KDTree(second).query(first)
    to_first, _ = KDTree(first).query(second)
    distances = np.concatenate([to_second, to_first])
    within = distances <= tolerance_mm * (1 + _TOLERANCE_SLACK)
    return {
        "hd95_mm": float(max(np.percentile(to_second, 95), np.percentile(to_first, 95))),
        "assd_mm": float(distances.mean()),
        "nsd": float(within.mean()),
    }


def _boundary_mm(mask: _Mask, spacing_mm: tuple[float, float, float]) -> NDArray[np.float64]:
    """Centres (N, 3) of the boundary voxels, in mm from the first voxel's centre."""
    padded = np.pad(mask, 1)
    inner = mask.copy()
    for axis in range(3):
        for start in (0, 2):
            window = [slice(1, -1)] * 3
            window[axis] = slice(start, start + mask.shape[axis])
            inner &= padded[tuple(window)]
    return np.argwhere(mask & ~inner).astype(np.float64) * np.asarray(spacing_mm, np.float64)


def _boxes(labels: _Labels, classes: Mapping[int, str]) -> dict[int, _Box | None]:
    """The bounding box of each class, None where it is absent, found in one pass for all."""
    # find_objects knows labels from 1 and lists all up to the largest: others get the whole grid.
    found = find_objects(labels, max_label=min(max(*classes, 1), 2**16))
    depth, height, width = labels.shape
    whole = (slice(0, depth), slice(0, height), slice(0, width))
    return {label: found[label - 1] if 1 <= label <= len(found) else whole for label in classes}


def _union(first: _Box | None, second: _Box | None) -> _Box:
    if first is None or second is None:
        return first or second or (slice(0), slice(0), slice(0))
    d, h, w = (
        slice(min(a.start, b.start), max(a.stop, b.stop))
        for a, b in zip(first, second, strict=True)
    )
    return d, h, w


def _mean_scores(columns: Mapping[str, Mapping[str, _Score]]) -> dict[str, _Score]:
    means: dict[str, _Score] = {}
    for metric in _AVERAGED:
        values = [
            score for column in columns.values() if not isinstance(score := column[metric], str)
        ]
        means[metric] = math.fsum(values) / len(values) if values else "no class has a value"
    return means


def _collect(columns: Mapping[str, Mapping[str, _Score]]) -> CaseScores:
    scores: dict[str, dict[str, float | None]] = {metric: {} for metric in _METRICS}
    reasons: dict[str, dict[str, str]] = {}
    for name, column in columns.items():
        for metric, score in column.items():
            if isinstance(score, str):
                scores[metric][name] = None
                reasons.setdefault(metric, {})[name] = score
            else:
                scores[metric][name] = score
    return CaseScores(scores, reasons)


def _check_masks(
    prediction: torch.Tensor, truth: torch.Tensor, spacing_mm: tuple[float, float, float]
) -> None:
    if prediction.shape != truth.shape or truth.ndim != 3:
        raise GeometryError(
            "grids-differ",
            f"the prediction is {tuple(prediction.shape)}, the truth {tuple(truth.shape)}: "
            "both must be one (D, H, W)",
            "Bring the prediction back onto the truth's own grid before scoring",
        )
    if len(spacing_mm) != 3 or not all(0 < size < math.inf for size in spacing_mm):
        raise GeometryError(
            "bad-spacing",
            f"the spacing {spacing_mm} is not three positive lengths",
            "Give the distance between voxels along (D, H, W) in mm",
        )
    for name, mask in (("prediction", prediction), ("truth", truth)):
        if mask.is_floating_point() or mask.is_complex():
            raise LabelError(
                "not-integers",
                f"the {name} is of {mask.dtype}, which holds no labels",
                "Take the argmax of probabilities, or convert exact labels to integers",
            )


def _check_classes(classes: Mapping[int, str], tolerance_mm: float) -> None:
    names = list(classes.values())
    if not names or len(set(names)) < len(names) or _MEAN in names:
        raise ConfigError(
            "bad-classes",
            f"the classes {dict(classes)} are none, share a name, or use the name {_MEAN!r}",
            "Give each class its own name, other than that of the mean over them",
        )
    if not 0 <= tolerance_mm < math.inf:
        raise ConfigError(
            "bad-tolerance",
            f"the tolerance is {tolerance_mm} mm",
            "Give the deviation that does not matter, in mm: 0 or more",
        )
