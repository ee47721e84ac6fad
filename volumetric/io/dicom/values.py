"""DICOM values: stored numbers to the modality's own, and what these mean."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetric.findings import Finding
from volumetric.io.dicom.slices import Slice
from volumetric.volume import About

_UNITS = {"HU": "HU", "BQML": "Bq/ml", "GML": "SUV"}


def rescale(stored: Sequence[NDArray[np.integer]], slices: Sequence[Slice]) -> NDArray[Any]:
    """Output values (D, H, W): stored ones times slope plus intercept, of each slice its own.

    int16 where every slope is 1 and every intercept whole (int32 or int64 where they do not
    fit), else float32. MONOCHROME1 is inverted first, within the range of the bits stored
    (lowest + highest - value), so that bright is high in every case; as GDCM does.
    """
    stored = [_invert(values, one) for values, one in zip(stored, slices, strict=True)]
    rescales = [one.rescale or (1.0, 0.0) for one in slices]
    whole = all(slope == 1 and intercept.is_integer() for slope, intercept in rescales)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ranges = list(pool.map(_range, stored, rescales)) if whole else []
        dtype = _whole_dtype(ranges) if whole else np.dtype(np.float32)
        voxels = np.empty((len(stored), *stored[0].shape), dtype)
        list(pool.map(_rescale_slice, stored, rescales, voxels))
    return voxels


def _rescale_slice(
    stored: NDArray[np.integer], rescale: tuple[float, float], out: NDArray[Any]
) -> None:
    slope, intercept = rescale
    if out.dtype.kind == "f":
        out[:] = stored * slope + intercept  # in float64
    elif intercept == 0:
        out[:] = stored
    else:
        # Wider inside: a stored value may only fit once the intercept is added.
        wide = np.int32 if out.dtype == np.int16 and stored.itemsize < 4 else np.int64
        np.add(stored, int(intercept), out=out, dtype=wide, casting="unsafe")


def _range(stored: NDArray[np.integer], rescale: tuple[float, float]) -> tuple[int, int]:
    offset = int(rescale[1])
    return int(stored.min()) + offset, int(stored.max()) + offset


def _invert(stored: NDArray[np.integer], one: Slice) -> NDArray[np.integer]:
    if one.encoding.photometric != "MONOCHROME1":
        return stored
    inverted: NDArray[np.integer] = stored.dtype.type(_both_ends(one)) - stored
    return inverted


def _both_ends(one: Slice) -> int:
    """Lowest plus highest value that the bits stored can hold."""
    return -1 if one.encoding.signed else 2 ** one.encoding.bits[1] - 1


def _whole_dtype(ranges: Sequence[tuple[int, int]]) -> np.dtype[np.generic]:
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    for kind in (np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.dtype(kind)
    return np.dtype(np.int64)


def describe_values(slices: Sequence[Slice], path: Path) -> About:
    """Modality, unit and padding of the slices of one volume, and what is doubtful of them."""
    first, notes = slices[0], []
    padding = _padding(slices)
    rescales = Counter(one.rescale for one in slices)
    (_, n_usual), *others = rescales.most_common()
    if first.modality == "CT" and others:
        said = (
            f"{len(slices) - n_usual} of {len(slices)} slices of this CT have another rescale "
            f"slope or intercept than the others"
        )
        remedy = "Look at them: where their values jump, these were edited"
        notes.append(Finding("rescale-varies", "warning", said, remedy, str(path)))
    if padding is None and any(one.padding is not None for one in slices):
        said = "slices state different padding values, or some none: no value counts as padding"
        remedy = "Mask what lies outside the scanned circle, or its values count as measured"
        notes.append(Finding("padding-varies", "warning", said, remedy, str(path)))
    if first.unit.startswith("GML ("):
        said = f"SUV is not by body weight: {first.unit}"
        remedy = "Do not compare its values with SUV by body weight"
        notes.append(Finding("no-suv", "note", said, remedy, str(path)))
    if any(one.lossy for one in slices):
        said = "was once compressed with loss"
        remedy = "Small detail may be gone: compare with the original if it matters"
        notes.append(Finding("lossy", "note", said, remedy, str(first.path)))
    return About(
        modality=first.modality or None,
        unit=_unit(first),
        padding=padding,
        findings=tuple(notes),
    )


def _unit(one: Slice) -> str | None:
    if one.modality == "CT" and one.unit == "" and one.rescale is not None:
        return "HU"  # PS3.3 C.11.1.1.2: so it is where a CT does not say
    return _UNITS.get(one.unit)


def _padding(slices: Sequence[Slice]) -> tuple[float, float] | None:
    """The range of output values that mean nothing; None where slices do not agree on one."""
    ranges = set()
    for one in slices:
        if one.padding is None:
            return None
        slope, intercept = one.rescale or (1.0, 0.0)
        inverted = one.encoding.photometric == "MONOCHROME1"
        ends = [_both_ends(one) - end if inverted else end for end in one.padding]
        ranges.add(tuple(sorted(end * slope + intercept for end in ends)))
    if len(ranges) > 1:
        return None
    low, high = ranges.pop()
    return low, high
