"""Boxes: rows of low corner, then high corner, in any one unit; of slices, volumes and clips."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from volumetric.errors import GeometryError

Boxes = NDArray[np.float64]


def check_boxes(boxes: ArrayLike, *, n_axes: int | None = None) -> Boxes:
    """The boxes as float64 (n, 2 * n_axes).

    Raises:
        GeometryError: not of that shape, not finite, or without size along an axis.
    """
    found = np.asarray(boxes, dtype=np.float64)
    if found.ndim != 2 or found.shape[1] % 2 or (n_axes and found.shape[1] != 2 * n_axes):
        axes = "2 x axes" if n_axes is None else str(2 * n_axes)
        raise GeometryError(
            "bad-boxes",
            f"boxes are ({axes}) numbers a row, not of shape {found.shape}",
            "Give the low corner, then the high corner, a box a row",
        )
    low, high = np.split(found, 2, axis=1)
    wrong = ~(np.isfinite(found).all(axis=1) & (high > low).all(axis=1))
    if wrong.any():
        number = int(wrong.argmax())
        raise GeometryError(
            "bad-boxes",
            f"box {number}, {found[number].tolist()}, has no size along an axis, is upside down, "
            "or is not finite",
            "Give the low corner, then the high corner",
        )
    return found


def overlap_boxes(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """Intersection over union of each pair (n, m) of boxes (n, 2 * axes) and (m, 2 * axes)."""
    first_low, first_high = np.split(first[:, None], 2, axis=2)
    second_low, second_high = np.split(second[None], 2, axis=2)
    sides = np.minimum(first_high, second_high) - np.maximum(first_low, second_low)
    shared = sides.clip(min=0).prod(axis=2)
    sizes = (first_high - first_low).prod(axis=2) + (second_high - second_low).prod(axis=2)
    found: NDArray[np.float64] = shared / (sizes - shared)
    return found
