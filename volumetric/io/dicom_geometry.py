"""Where the slices of a DICOM series lie: proven from their headers, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from volumetric.errors import GeometryError
from volumetric.io.dicom_headers import SliceHeader
from volumetric.volume import Affine

_Vector = NDArray[np.float64]

# The first two rows flip: DICOM's world is LPS+, ours RAS+.
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Cosines are often rounded to three or four decimals: 1e-3 is 0.06 degrees.
_COSINE_TOLERANCE = 1e-3
# Slices of one stack repeat the same rounded numbers; 1e-4 is 0.03 mm across a 300 mm slice.
_EQUAL_TOLERANCE = 1e-4
# Positions closer than a micrometre are the same place in every scanner's header.
_SAME_PLACE_MM = 1e-3


def stack_slices(headers: Sequence[SliceHeader], path: Path) -> tuple[list[SliceHeader], Affine]:
    """Slices in the order of their positions along the normal, and the affine of their stack.

    The index (d, h, w) lies at position[0] + d step + h column_axis spacing[0] + w row_axis
    spacing[1] (PS3.3 equation C.7.6.2.1-1), where step runs from the first slice's position to
    the last's: InstanceNumber is an order of acquisition or display and proves nothing.
    """
    positions, orientation, spacing = _shared_plane(headers, path)
    row_axis, column_axis, normal = _axes(orientation, path)
    order = np.argsort(positions @ normal, kind="stable")
    headers, positions = [headers[index] for index in order], positions[order]
    affine = np.eye(4)
    affine[:3, 0] = (
        _stated_spacing(headers[0], path) * normal
        if len(headers) == 1
        else _step(positions, normal, headers, path)
    )
    affine[:3, 1] = column_axis * spacing[0]
    affine[:3, 2] = row_axis * spacing[1]
    affine[:3, 3] = positions[0]
    return headers, _LPS_TO_RAS @ affine


def _shared_plane(headers: Sequence[SliceHeader], path: Path) -> tuple[_Vector, _Vector, _Vector]:
    """Positions (n, 3) of all slices, and the orientation (6) and pixel spacing (2) they share."""
    sizes = sorted({header.size for header in headers})
    if len(sizes) > 1:
        raise GeometryError(
            "mixed-size",
            f"slices of {len(sizes)} sizes (rows, columns): {sizes[0]}, {sizes[1]}, …",
            "Keep one size a folder",
            path=path,
        )
    for header in headers:
        spacing = header.pixel_spacing_mm
        if not (header.position and header.orientation and spacing and min(spacing) > 0):
            raise GeometryError(
                "no-geometry",
                f"position {header.position}, orientation {header.orientation}, pixel spacing "
                f"{spacing}",
                "Export it with its geometry; a picture without one is no scan",
                path=header.path,
            )
    orientations = np.array([header.orientation for header in headers], dtype=np.float64)
    if np.abs(orientations - orientations[0]).max() > _EQUAL_TOLERANCE:
        raise GeometryError(
            "mixed-orientation",
            "its slices face in more than one direction",
            "Keep one orientation a folder: localizers and reformats are stacks of their own",
            path=path,
        )
    spacings = np.array([header.pixel_spacing_mm for header in headers], dtype=np.float64)
    if np.abs(spacings / spacings[0] - 1).max() > _EQUAL_TOLERANCE:
        raise GeometryError(
            "mixed-pixel-spacing",
            f"pixel spacing runs from {spacings.min():g} to {spacings.max():g} mm",
            "Keep one pixel spacing a folder",
            path=path,
        )
    positions = np.array([header.position for header in headers], dtype=np.float64)
    return positions, orientations[0], spacings[0]


def _axes(orientation: _Vector, path: Path) -> tuple[_Vector, _Vector, _Vector]:
    """Unit vectors along a row, down a column, and the normal that completes them, in LPS+."""
    row, column = orientation[:3], orientation[3:]
    gram = np.array([row @ row, column @ column, row @ column])
    if np.abs(gram - [1, 1, 0]).max() > 2 * _COSINE_TOLERANCE:
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


def _stated_spacing(header: SliceHeader, path: Path) -> float:
    for spacing in (header.slice_spacing_mm, header.thickness_mm):
        if spacing is not None and spacing > 0:
            return spacing
    raise GeometryError(
        "unproven-spacing",
        "one slice without SpacingBetweenSlices or SliceThickness has no known depth",
        "Name the folder with the whole series, or export it with one of them",
        path=path,
    )


def _step(
    positions: _Vector, normal: _Vector, headers: Sequence[SliceHeader], path: Path
) -> _Vector:
    """Vector from a slice to the next, once they are proven distinct, untilted and regular.

    Tilt is told before gaps: to fetch a lost slice of a tilted stack helps nobody.
    """
    offsets = positions - positions[0]
    along = offsets @ normal
    gaps = np.diff(along)
    if gaps.min() < _SAME_PLACE_MM:
        count = int((gaps < _SAME_PLACE_MM).sum())
        raise GeometryError(
            "duplicate-position",
            f"{count} of {len(positions)} slices lie where another one does",
            "Remove copied files; if it is 4-D (times, echoes, b-values), export each as a series",
            path=path,
        )
    # Positions rounded to 0.01 mm wander by as much from a line between two of them; 1% of the
    # spacing is far below what a network or a volume can tell; 5% keeps micro-CT honest.
    mean_gap = along[-1] / len(gaps)
    tolerance = min(max(0.01 * mean_gap, 0.01), 0.05 * mean_gap) + 1e-9
    sideways = np.linalg.norm(offsets - along[:, None] * normal, axis=1)
    if (sideways > tolerance + _COSINE_TOLERANCE * along).any():
        angle = np.degrees(np.arctan2(sideways, along).max())
        raise GeometryError(
            "gantry-tilt",
            f"slices shift sideways by up to {sideways.max():.2f} mm ({angle:.1f} degrees)",
            "Resample the series to an untilted grid first",
            path=path,
        )
    if np.abs(along - np.arange(len(along)) * mean_gap).max() > tolerance:
        raise _gap_error(gaps, path)
    if len(gaps) == 1:
        _check_only_gap(float(gaps[0]), tolerance, headers, path)
    step: _Vector = offsets[-1] / len(gaps)
    return step


def _gap_error(gaps: _Vector, path: Path) -> GeometryError:
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])  # the lower median is a gap that exists
    multiples = np.round(gaps / usual)
    if multiples.min() >= 1 and np.abs(gaps / usual - multiples).max() < 0.05:
        lost, widest = int((multiples - 1).sum()), int(gaps.argmax())
        if lost:
            return GeometryError(
                "missing-slice",
                f"{lost} missing: slices {widest + 1} and {widest + 2} of the stack "
                f"lie {gaps[widest]:.3f} mm apart, most {usual:.3f} mm",
                "Fetch the series again, whole",
                path=path,
            )
    return GeometryError(
        "irregular-spacing",
        f"slices lie {gaps.min():.3f} to {gaps.max():.3f} mm apart",
        "Resample the series to a regular grid first, or fetch it again, whole",
        path=path,
    )


def _check_only_gap(
    gap: float, tolerance: float, headers: Sequence[SliceHeader], path: Path
) -> None:
    # One gap is regular whatever was lost inside it: something else must say how wide it is.
    stated = [header.slice_spacing_mm or header.thickness_mm for header in headers]
    if not all(spacing is not None and abs(spacing - gap) <= tolerance for spacing in stated):
        raise GeometryError(
            "unproven-spacing",
            f"its two slices lie {gap:.3f} mm apart, and their headers do not say that none is "
            "missing between them",
            "Name the folder with the whole series",
            path=path,
        )
