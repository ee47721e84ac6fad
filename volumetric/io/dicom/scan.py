"""DICOM series in: slices to voxels whose place is proven from their headers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from volumetric.errors import GeometryError, IntensityError, UnsupportedError
from volumetric.findings import Finding
from volumetric.io.dicom.encoding import check_encoding
from volumetric.io.dicom.folder import find_series
from volumetric.io.dicom.geometry import Stack, stack_slices
from volumetric.io.dicom.pet import suv_factor
from volumetric.io.dicom.pixels import read_stored
from volumetric.io.dicom.places import runs_of_one_place, same_place_mm
from volumetric.io.dicom.regular import regularise
from volumetric.io.dicom.series import choose_volume
from volumetric.io.dicom.slices import Slice
from volumetric.io.dicom.values import describe_values, rescale
from volumetric.volume import About, Volume

logger = logging.getLogger(__name__)

# Physical units lie far below; float32 and int64 hold everything beneath it.
_LARGEST_RESCALE = 1e15


def read_dicom(
    path: Path | Sequence[Path], *, series_uid: str | None = None, resample_irregular: bool = False
) -> Volume:
    """The scan in a DICOM file, in several, or in a folder that holds the slices of one series.

    Returns a Volume (1, D, H, W): D along the normal of the slices, H down the rows, W along
    the columns; affine to mm in RAS+ (PS3.3 C.7.6.2.1.1). Values are rescaled: int16 where the
    slope is 1 and the intercept whole (int32 or int64 where they do not fit), else float32.
    `series_uid` chooses one volume where there are several: a SeriesInstanceUID, or one of the
    choices that the refusal lists. `resample_irregular` moves a tilted or irregular stack onto
    a regular grid, in float32, and says so among the findings; missing slices it fills in never.

    Raises:
        UnreadableFileError: missing, damaged, or without any image series.
        AmbiguousSeriesError: several series, echoes, times or b-values, and none chosen.
        UnsupportedError: multi-frame without places, colour, mosaic, or an unknown encoding.
        GeometryError: the slices do not form one regular, complete, untilted stack.
        IntensityError: a rescale slope or intercept that no scanner writes.
    """
    files = None if isinstance(path, Path) else list(dict.fromkeys(path))
    path = path if isinstance(path, Path) else path[0].parent
    slices, findings = choose_volume(path, find_series(path, files), series_uid)
    for one in slices:
        _check_values(one)
    for one in {one.path: one for one in slices}.values():
        check_encoding(one)
    slices, copies = _drop_copies(slices, path)
    stack = stack_slices(slices, path)
    if stack.fault is not None and (stack.loss is not None or not resample_irregular):
        raise stack.loss if stack.loss is not None and resample_irregular else stack.fault
    voxels = rescale(read_stored(stack.slices), stack.slices)
    about = describe_values(stack.slices, path)
    volume = _assemble(voxels, stack, path, about)
    notes = (*findings, *copies, *stack.findings, *volume.about.findings)
    for note in notes:
        logger.info("%s", note)
    return replace(volume, about=replace(volume.about, findings=notes))


def _check_values(one: Slice) -> None:
    refusals = {
        "multi-frame": (
            not one.enhanced and (one.encoding.n_frames > 1 or "Enhanced" in one.sop_class),
            f"holds {one.encoding.n_frames} frames and does not say where they lie",
        ),
        "mosaic": (
            bool({"MOSAIC", "VFRAME"}.intersection(one.image_type)),
            "holds many slices tiled into one image",
        ),
        "modality-lut": (one.has_lut, "gives its values by a lookup table"),
        # MONOCHROME1 asks that low values be shown bright. Where values have a unit (HU, Bq/ml)
        # to invert them would falsify it, and not to invert would make bright dark: no guess.
        "inverted-units": (
            one.encoding.photometric == "MONOCHROME1"
            and (one.modality in ("CT", "PT") or one.unit not in ("", "US")),
            "is MONOCHROME1 though its values have a unit",
        ),
    }
    for code, (refused, reason) in refusals.items():
        if refused:
            raise UnsupportedError(
                code, reason, "Convert it to NIfTI or to single-frame DICOM", path=one.path
            )
    if one.rescale is not None:
        slope, intercept = one.rescale
        if not (0 < abs(slope) < _LARGEST_RESCALE and abs(intercept) < _LARGEST_RESCALE):
            raise IntensityError(
                "bad-rescale",
                f"has rescale slope {slope:g} and intercept {intercept:g} (nan: not stated)",
                "Export the series again",
                path=one.path,
            )


def _drop_copies(slices: Sequence[Slice], path: Path) -> tuple[list[Slice], list[Finding]]:
    """One slice a place: of identical ones the first; refused where they differ."""
    runs = runs_of_one_place(slices, path)
    copies = [(first, other) for first, *others in runs for other in others]
    if not copies:
        return list(slices), []
    near = same_place_mm(slices)
    unlike = [pair for pair in copies if not _is_one_place(*pair, near)]
    if not unlike:  # only then are pixels worth reading
        twins = read_stored([one for pair in copies for one in pair])
        equal = [np.array_equal(*pair) for pair in zip(twins[::2], twins[1::2], strict=True)]
        unlike = [pair for pair, same in zip(copies, equal, strict=True) if not same]
    if unlike:
        first, other = unlike[0]
        raise GeometryError(
            "duplicate-position",
            f"{len(copies)} of {len(slices)} slices lie where another one does, or all but; they "
            f"are not the same: {first.path.name} and {other.path.name}",
            "Keep one of each; if it is 4-D (times, echoes, b-values), export each as a series",
            path=path,
        )
    return [run[0] for run in runs], [
        Finding(
            "duplicate-slice",
            "note",
            f"slices that are there twice, pixel for pixel: {len(copies)}; each was read once",
            f"Remove the copies, such as {copies[0][1].path.name}",
            str(path),
        )
    ]


def _is_one_place(first: Slice, other: Slice, near: float) -> bool:
    apart_mm = np.abs(np.subtract(first.position or (), other.position or ())).max()
    return bool(apart_mm < near) and first.rescale == other.rescale


def _assemble(voxels: NDArray[Any], stack: Stack, path: Path, about: About) -> Volume:
    if about.unit == "Bq/ml":
        factor, why = suv_factor(list(dict.fromkeys(one.path for one in stack.slices)))
        note = Finding("no-suv", "note", f"SUV is not known: {why}", "Values are Bq/ml", str(path))
        notes = about.findings if factor else (*about.findings, note)
        about = replace(about, suv_factor=factor, findings=notes)
    if stack.fault is None:
        return Volume(torch.from_numpy(voxels)[None], stack.affine, about=about)
    fill = float(voxels.min())
    if about.padding is not None:
        low, high = about.padding
        outside = (voxels >= low) & (voxels <= high)
        fill = float(voxels[~outside].min()) if not outside.all() else fill
        voxels = np.where(outside, fill, voxels)  # or it would be blended into what was measured
    data, affine, finding = regularise(voxels, stack, str(path), fill=fill)
    about = replace(about, padding=None, findings=(*about.findings, finding))
    return Volume(data[None], affine, about=about)
