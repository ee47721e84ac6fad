"""Pictures of a case: its files read, the slices worth showing found and drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.report.drawing import Frame, Mask, Panel, draw_panel, gutter_mm
from volumetric.cases import Case
from volumetric.check import read_case
from volumetric.errors import GeometryError, OutputError
from volumetric.figures import (
    PLANES,
    Box,
    Plane,
    cut_plane,
    field_of_view,
    find_slice,
    grey_limits,
    plane_spacing,
)
from volumetric.io import read_volume
from volumetric.preprocess import orient
from volumetric.volume import Affine, Volume, same_grid


@dataclass(frozen=True)
class Picture:
    """The planes of a case, the CSS columns that give them one scale, and what to know of them."""

    panels: tuple[Panel, ...]
    columns: str
    note: str


@dataclass(frozen=True)
class _Scan:
    """A case on canonical axes, as arrays (D, H, W)."""

    image: NDArray[np.generic]
    truth: Mask | None
    prediction: Mask
    spacing: tuple[float, float, float]
    note: str


def draw_case(
    case: Case,
    prediction: Path,
    *,
    classes: Mapping[int, str],
    modality: str | None = None,
    key: str,
) -> Picture:
    """The pictures of a case; `key` is unique on the page and names its images there.

    Raises:
        OutputError: there is no prediction.
        GeometryError: image and masks do not lie on one grid.
        VolumetricError: a file cannot be read.
    """
    if not prediction.exists():
        raise OutputError("no-prediction", "there is no prediction", "Run the predict stage")
    scan = _read_scan(case, prediction, classes)
    labelled = scan.prediction > 0
    if scan.truth is not None:
        labelled |= scan.truth > 0
    box = field_of_view(labelled, scan.spacing)
    # A prediction astray in the air must not drag the greys there with it.
    organ = labelled if scan.truth is None or not scan.truth.any() else scan.truth > 0
    limits = grey_limits(scan.image[box], organ[box], modality=modality)
    frames = [_frame(scan, plane, box) for plane in PLANES]
    # All three planes share one scale, so letters, bars and gutters are in mm of the whole row.
    total = sum(frame.size_mm[1] for frame in frames)
    panels = tuple(
        draw_panel(frame, limits, total, classes=classes, key=f"{key}-{frame.plane}")
        for frame in frames
    )
    gutter = 2 * gutter_mm(total)
    columns = " ".join(f"{frame.size_mm[1] + gutter:.1f}fr" for frame in frames)
    shown, whole = _extent(scan.prediction[box], scan), _extent(scan.prediction, scan)
    black, white = (f"{limit:.4g}".replace("-", "\N{MINUS SIGN}") for limit in limits)
    note = (
        f"{scan.note}Grey from {black} (black) to {white} (white). Shown are {shown} mm "
        f"(left-right, front-back, head-foot){'' if shown == whole else f' of {whole} mm'}."
    )
    return Picture(panels, columns, note)


def _read_scan(case: Case, prediction: Path, classes: Mapping[int, str]) -> _Scan:
    volume, mask = read_case(case, classes=classes)
    image = orient(volume)
    truth = None if mask is None else orient(mask).data[0].numpy()
    notes = []
    if image.data.shape[0] > 1:
        notes.append(f"Channel 1 of {image.data.shape[0]} is shown. ")
    tilt = _tilt_degrees(image.affine)
    if tilt > 5:
        notes.append(
            f"The scan is tilted by {tilt:.0f}° against the body's axes: "
            "letters give the nearest direction. "
        )
    return _Scan(
        image=image.data[0].numpy(),
        truth=truth,
        prediction=_labels(prediction, image),
        spacing=image.spacing,
        note="".join(notes),
    )


def _labels(path: Path, image: Volume) -> Mask:
    mask = orient(read_volume(path))
    if not same_grid(mask, image, within=0.01):
        raise GeometryError(
            "other-grid",
            f"{mask.shape} voxels of the mask do not lie on the {image.shape} of the image",
            "Make the mask on the image's own grid",
        )
    labels = mask.data[0].numpy()
    # Some tools store labels as floats; integers keep their small type.
    return labels if labels.dtype.kind in "iu" else np.rint(labels).astype(np.int16)


def _tilt_degrees(affine: Affine) -> float:
    cosines = np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).max(axis=0)
    return math.degrees(math.acos(min(1.0, float(cosines.min()))))


def _extent(voxels: Mask, scan: _Scan) -> str:
    """Size in mm: left-right, front-back, head-foot."""
    sides = zip(voxels.shape[::-1], scan.spacing[::-1], strict=True)
    return " \N{MULTIPLICATION SIGN} ".join(f"{n * step:.0f}" for n, step in sides)


def _frame(scan: _Scan, plane: Plane, box: Box) -> Frame:
    index, n_differing = find_slice(scan.truth, scan.prediction, plane)
    axis = PLANES.index(plane)
    start = box[axis].start or 0
    return Frame(
        plane=plane,
        index=index,
        n_slices=scan.prediction.shape[axis],
        n_differing=n_differing,
        grey=cut_plane(scan.image[box], plane, index - start),
        truth=None if scan.truth is None else cut_plane(scan.truth[box], plane, index - start),
        prediction=cut_plane(scan.prediction[box], plane, index - start),
        pixel_mm=plane_spacing(scan.spacing, plane),
    )
