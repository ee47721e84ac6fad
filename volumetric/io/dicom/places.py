"""DICOM places: the plane of slices, and which of them lie in one place along its normal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from volumetric.errors import GeometryError
from volumetric.io.dicom.slices import Slice

_Vector = NDArray[np.float64]

# Cosines are often rounded to three or four decimals: 1e-3 is 0.06 degrees.
COSINE_TOLERANCE = 1e-3
# Positions closer than a micrometre are the same place in every scanner's header.
_SAME_PLACE_MM = 1e-3
_SAME_PLACE_PIXELS = 1e-2  # for what is scanned in finer steps
# Slices of one stack never lie so close beside wider gaps: they are repeats that moved a little.
_NEAR = 0.05
_REPEAT_DEPTH = 0.25  # of a slice's depth: repeats lie closer than that, overlapping slices do not


def plane_axes(one: Slice, path: Path) -> tuple[_Vector, _Vector, _Vector]:
    """Unit vectors along a row, down a column, and the normal that completes them, in LPS+.

    Raises:
        GeometryError: they are not perpendicular.
    """
    orientation = np.array(one.orientation, dtype=np.float64)
    row, column = orientation[:3], orientation[3:]
    gram = np.array([row @ row, column @ column, row @ column])
    if np.abs(gram - [1, 1, 0]).max() > 2 * COSINE_TOLERANCE:
        raise GeometryError(
            "non-orthonormal-orientation",
            f"the axes of its rows and columns, {row.tolist()} and {column.tolist()}, are not "
            "perpendicular unit vectors",
            "Repair ImageOrientationPatient or export the series again",
            path=path,
        )
    row = row / np.linalg.norm(row)  # what is left is rounding: Gram-Schmidt takes it out
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    return row, column, np.cross(row, column)


def same_place_mm(slices: Sequence[Slice]) -> float:
    """How close two positions lie that are one."""
    finest = min(min(one.pixel_spacing_mm or (1.0,)) for one in slices)
    return min(_SAME_PLACE_MM, _SAME_PLACE_PIXELS * finest)


def stated_spacing_mm(slices: Sequence[Slice]) -> float | None:
    """The median of SpacingBetweenSlices; None where nothing states it."""
    stated = [abs(one.slice_spacing_mm) for one in slices if one.slice_spacing_mm]
    return float(np.median(stated)) if stated else None


def runs_of_one_place(slices: Sequence[Slice], path: Path) -> list[list[Slice]]:
    """Slices in the order of their places along the normal, those of one place together.

    Of one place are also repeats that lie a little apart, as after the table or the patient
    moved: by less than a twentieth of the distance between the others.
    """
    *_, normal = plane_axes(slices[0], path)
    along = np.array([one.position for one in slices], dtype=np.float64) @ normal
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    starts = np.flatnonzero(gaps >= _smallest_step(gaps, slices)) + 1
    return [[slices[index] for index in run] for run in np.split(order, starts)]


def _smallest_step(gaps: _Vector, slices: Sequence[Slice]) -> float:
    """The gap from which on slices lie in two places."""
    same = same_place_mm(slices)
    wide = np.sort(gaps[gaps >= same])
    if not wide.size:
        return same
    stated = stated_spacing_mm(slices)
    finest = min(slices[0].pixel_spacing_mm or (0.0,))
    if stated is not None and wide[-1] < _NEAR * min(stated, finest):
        return np.inf  # all of them in the place of one
    # For each gap the lower median of all wider ones; the widest that is near by it counts.
    middles = wide[(np.arange(wide.size) + wide.size) // 2]
    # What is near a slice's own depth is the step of a stack, of which a part may be lost.
    depths = [abs(one.thickness_mm) for one in slices if one.thickness_mm]
    deepest = _REPEAT_DEPTH * min([*depths, *([stated] if stated else [])], default=np.inf)
    near = np.flatnonzero(wide[:-1] < np.minimum(_NEAR * middles[:-1], deepest))
    if not near.size:
        return same
    step, middle = float(wide[near[-1] + 1]), float(middles[near[-1]])
    # Close together, though many, they are a stack of their own, and what is wide is a loss.
    ends = np.flatnonzero(gaps >= step)
    along = np.concatenate([[0.0], np.cumsum(gaps)])
    first, last = np.append(0, ends + 1), np.append(ends, len(along) - 1)
    return step if (along[last] - along[first]).max() < _NEAR * middle else same
