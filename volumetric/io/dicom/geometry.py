"""Where the slices of a DICOM series lie: proven from their headers, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from volumetric.errors import GeometryError
from volumetric.findings import Finding
from volumetric.io.dicom.places import (
    COSINE_TOLERANCE,
    plane_axes,
    runs_of_one_place,
    stated_spacing_mm,
)
from volumetric.io.dicom.slices import Slice
from volumetric.volume import Affine

_Vector = NDArray[np.float64]

# The first two rows flip: DICOM's world is LPS+, ours RAS+.
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_WIDEST_GAP = 1.95  # usual ones: beyond, a slice may be missing, and is not made up


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices in the order of their positions along the normal.

    Attributes:
        slices: from the first position to the last.
        affine: index (d, h, w) to mm in RAS+; exact if `fault` is None, else that of the first
            slice, with the usual gap as spacing and the normal as direction of D.
        along_mm: distance of each slice from the first along the normal.
        sideways_mm: (n, 2) shift of each slice from the first down its columns, along its rows.
        fault: why the stack is no regular grid; None if it is one.
        loss: why it cannot be made one: slices are missing, or so far apart that they may be.
        findings: what a person should know of it all the same.
    """

    slices: list[Slice]
    affine: Affine
    along_mm: _Vector
    sideways_mm: _Vector
    fault: GeometryError | None
    loss: GeometryError | None
    findings: tuple[Finding, ...]


def stack_slices(slices: Sequence[Slice], path: Path) -> Stack:
    """Slices of one plane and distinct places in order, and the affine of their stack.

    The index (d, h, w) lies at position[0] + d step + h column_axis spacing[0] + w row_axis
    spacing[1] (PS3.3 equation C.7.6.2.1-1), where step runs from the first slice's position to
    the last's: InstanceNumber is an order of acquisition or display and proves nothing.

    Raises:
        GeometryError: the orientation is no rotation, or the depth of few slices is not known.
    """
    spacing = slices[0].pixel_spacing_mm or (0.0, 0.0)
    row_axis, column_axis, normal = plane_axes(slices[0], path)
    slices = [one for run in runs_of_one_place(slices, path) for one in run]
    positions = np.array([one.position for one in slices], dtype=np.float64)
    offsets = positions - positions[0]
    along = offsets @ normal
    sideways = offsets - along[:, None] * normal
    fault = loss = None
    findings: tuple[Finding, ...] = ()
    if len(slices) == 1:
        step = _stated_spacing(slices[0], path) * normal
    else:
        loss = _loss(np.diff(along), path)
        fault = _fault(along, sideways, slices, path, loss)
        step = offsets[-1] / (len(slices) - 1) if fault is None else _usual_gap(along) * normal
        findings = _doubts(slices, float(np.linalg.norm(step)), path)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = column_axis * spacing[0]
    affine[:3, 2] = row_axis * spacing[1]
    affine[:3, 3] = positions[0]
    in_plane = np.stack([sideways @ column_axis, sideways @ row_axis], axis=1)
    return Stack(slices, _LPS_TO_RAS @ affine, along, in_plane, fault, loss, findings)


def _stated_spacing(one: Slice, path: Path) -> float:
    for spacing in (one.slice_spacing_mm, one.thickness_mm):
        if spacing is not None and spacing > 0:
            return spacing
    raise GeometryError(
        "unproven-spacing",
        "one slice without SpacingBetweenSlices or SliceThickness has no known depth",
        "Name the folder with the whole series, or export it with one of them",
        path=path,
    )


def _fault(
    along: _Vector,
    shifts: _Vector,
    slices: Sequence[Slice],
    path: Path,
    loss: GeometryError | None,
) -> GeometryError | None:
    """What keeps slices at distinct places from being an untilted, regular stack.

    Tilt is told before gaps: to fetch a lost slice of a tilted stack helps nobody.
    """
    gaps = np.diff(along)
    # Positions rounded to 0.01 mm wander by as much from a line between two of them; 1% of the
    # spacing is far below what a network or a volume can tell; 5% keeps micro-CT honest.
    mean_gap = along[-1] / len(gaps)
    tolerance = min(max(0.01 * mean_gap, 0.01), 0.05 * mean_gap)
    tolerance = max(tolerance, min(_rounding_mm(slices), 0.15 * mean_gap)) + 1e-9
    sideways = np.linalg.norm(shifts, axis=1)
    line = np.outer(np.arange(len(along)) / len(gaps), shifts[-1])
    astray = np.linalg.norm(shifts - line, axis=1)
    if (sideways > tolerance + COSINE_TOLERANCE * along).any() or astray.max() > tolerance:
        angle = np.degrees(np.arctan2(sideways, along).max())
        return GeometryError(
            "gantry-tilt",
            f"slices shift sideways by up to {sideways.max():.2f} mm ({angle:.1f} degrees), "
            f"{astray.max():.2f} mm off a straight line",
            "Read it with resample_irregular=True, which moves it onto an untilted grid"
            if loss is None
            else "Fetch it again, whole, and untilted: slices are missing, too",
            path=path,
        )
    if np.abs(along - np.arange(len(along)) * mean_gap).max() > tolerance:
        return loss or GeometryError(
            "irregular-spacing",
            f"slices lie {gaps.min():.3f} to {gaps.max():.3f} mm apart",
            "Fetch it again, whole, or read it with resample_irregular=True",
            path=path,
        )
    if len(gaps) == 1:
        _check_only_gap(float(gaps[0]), tolerance, slices, path)
    return None


def _rounding_mm(slices: Sequence[Slice]) -> float:
    """How far rounding to the decimals that occur may have moved a position, along any axis."""
    positions = np.array([one.position for one in slices], dtype=np.float64)
    for n_decimals in range(1, 4):
        scaled = positions * 10**n_decimals
        if np.abs(scaled - scaled.round()).max() < 1e-6:
            return float(np.sqrt(3) / 2 * 10.0**-n_decimals)
    return 0.0


def _usual_gap(along: _Vector) -> float:
    gaps = np.sort(np.diff(along))
    return float(gaps[(len(gaps) - 1) // 2])  # the lower median is a gap that exists


def _doubts(slices: Sequence[Slice], gap: float, path: Path) -> tuple[Finding, ...]:
    """A sign that every second slice was lost: positions do not show it."""
    stated = stated_spacing_mm(slices)
    if stated is None or abs(stated - gap) <= 0.05 * gap:
        return ()
    said = f"slices lie {gap:.3f} mm apart, SpacingBetweenSlices says {stated:.3f} mm"
    remedy = "Positions were used; check that the series is whole, e.g. not every second slice"
    return (Finding("stated-spacing-differs", "warning", said, remedy, str(path)),)


def _loss(gaps: _Vector, path: Path) -> GeometryError | None:
    """Gaps that slices are missing from, or may be: nothing measured can fill them."""
    usual = _usual_gap(np.concatenate([[0.0], np.cumsum(gaps)]))
    widest, multiples = int(gaps.argmax()), np.round(gaps / usual)
    place = (
        f"slices {widest + 1} and {widest + 2} of the stack lie {gaps[widest]:.3f} mm apart, "
        f"most {usual:.3f} mm"
    )
    remedy = "Fetch the series again, whole; no resampling can fill in what is lost"
    if multiples.min() >= 1 and np.abs(gaps / usual - multiples).max() < 0.05:
        lost = int((multiples - 1).sum())
        if lost:
            return GeometryError("missing-slice", f"{lost} missing: {place}", remedy, path=path)
    elif gaps[widest] > _WIDEST_GAP * usual:
        return GeometryError(
            "irregular-spacing",
            f"slices lie {gaps.min():.3f} to {gaps.max():.3f} mm apart: {place}",
            remedy,
            path=path,
        )
    return None


def _check_only_gap(gap: float, tolerance: float, slices: Sequence[Slice], path: Path) -> None:
    # One gap is regular whatever was lost inside it: something else must say how wide it is.
    stated = [one.slice_spacing_mm or one.thickness_mm for one in slices]
    if not all(spacing is not None and abs(spacing - gap) <= tolerance for spacing in stated):
        raise GeometryError(
            "unproven-spacing",
            f"its two slices lie {gap:.3f} mm apart, and their headers do not say that none is "
            "missing between them",
            "Name the folder with the whole series",
            path=path,
        )
