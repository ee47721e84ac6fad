"""DICOM series in: slices to voxels whose place is proven from their headers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.pixels import get_decoder

from volumetric.errors import IntensityError, UnreadableFileError, UnsupportedError
from volumetric.io.dicom_geometry import stack_slices
from volumetric.io.dicom_headers import SliceHeader, read_series
from volumetric.volume import Volume

# Physical units lie far below; float32 and int64 hold everything beneath it.
_LARGEST_RESCALE = 1e15
# Only what makes pixels is loaded: no name, no date.
_PIXEL_TAGS = [
    "BitsAllocated",
    "BitsStored",
    "Columns",
    "HighBit",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PixelData",
    "PixelRepresentation",
    "PlanarConfiguration",
    "Rows",
    "SamplesPerPixel",
]
_N_DECODERS = 4


def read_dicom(path: Path, *, series_uid: str | None = None) -> Volume:
    """The scan in a DICOM file, or in a folder that holds the slices of one series.

    Returns a Volume (1, D, H, W): D along the normal of the slices, H down the rows, W along
    the columns; affine to mm in RAS+ (PS3.3 C.7.6.2.1.1). Values are rescaled: int16 where the
    slope is 1 and the intercept whole (int32 or int64 where they do not fit), else float32.
    `series_uid` chooses one series where a folder holds several.

    Raises:
        UnreadableFileError: missing, damaged, or without any image series.
        AmbiguousSeriesError: several series and none chosen.
        UnsupportedError: multi-frame, colour, mosaic, or an encoding that cannot be decoded.
        GeometryError: the slices do not form one regular, complete, untilted stack.
        IntensityError: a rescale slope or intercept that no scanner writes.
    """
    headers = read_series(path, series_uid=series_uid)
    for header in headers:
        _check_supported(header)
    headers, affine = stack_slices(headers, path)
    return Volume(torch.from_numpy(_read_voxels(headers))[None], affine)


def _check_supported(header: SliceHeader) -> None:
    enhanced = "Enhanced" in header.sop_class
    refusals = {
        "multi-frame": (header.n_frames > 1 or enhanced, f"holds {header.n_frames} frames"),
        "color": (
            header.n_samples != 1 or not header.photometric.startswith("MONOCHROME"),
            f"holds {header.photometric} pixels, not one value each",
        ),
        "mosaic": ("MOSAIC" in header.image_type, "holds many slices tiled into one image"),
        "modality-lut": (header.has_lut, "gives its values by a lookup table"),
        "pixel-layout": (
            header.bits[1] != header.bits[0] - 1,
            f"stores {header.bits[0]} bits below bit {header.bits[1]}",
        ),
        # MONOCHROME1 asks that low values be shown bright. Where values have a unit (HU, Bq/ml)
        # to invert them would falsify it, and not to invert would make bright dark: no guess.
        "inverted-units": (
            header.photometric == "MONOCHROME1"
            and (header.rescale is not None or header.modality in ("CT", "PT")),
            "is MONOCHROME1 though its values have a unit",
        ),
    }
    for code, (refused, reason) in refusals.items():
        if refused:
            raise UnsupportedError(
                code, reason, "Convert it to NIfTI or to single-frame DICOM", path=header.path
            )
    _check_decoder(header)
    if header.rescale is not None:
        slope, intercept = header.rescale
        if not (0 < abs(slope) < _LARGEST_RESCALE and abs(intercept) < _LARGEST_RESCALE):
            raise IntensityError(
                "bad-rescale",
                f"has rescale slope {slope:g} and intercept {intercept:g}",
                "Export the series again",
                path=header.path,
            )


def _check_decoder(header: SliceHeader) -> None:
    if header.transfer_syntax is None:
        raise UnreadableFileError(
            "bad-header", "names no transfer syntax", "Export it again", path=header.path
        )
    try:
        available = get_decoder(header.transfer_syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise UnsupportedError(
            "no-decoder",
            f"is encoded as {header.transfer_syntax}, for which no decoder is installed",
            "Install pylibjpeg with its plugins, or export it uncompressed",
            path=header.path,
        )


def _read_voxels(headers: Sequence[SliceHeader]) -> NDArray[np.generic]:
    with ThreadPoolExecutor(_N_DECODERS) as pool:
        stored = list(pool.map(_read_stored, headers))
    rescales = [header.rescale or (1.0, 0.0) for header in headers]
    whole = all(slope == 1 and intercept.is_integer() for slope, intercept in rescales)
    dtype = _whole_dtype(stored, rescales) if whole else np.dtype(np.float32)
    voxels = np.empty((len(stored), *stored[0].shape), dtype)
    for index, (slope, intercept) in enumerate(rescales):
        # int64 and float64 inside: a stored value may only fit once the intercept is added.
        voxels[index] = (
            stored[index].astype(np.int64) + int(intercept)
            if whole
            else stored[index] * slope + intercept
        )
    return voxels


def _whole_dtype(
    stored: Sequence[NDArray[np.integer]], rescales: Sequence[tuple[float, float]]
) -> np.dtype[np.generic]:
    pairs = list(zip(stored, rescales, strict=True))
    low = min(int(values.min()) + int(intercept) for values, (_, intercept) in pairs)
    high = max(int(values.max()) + int(intercept) for values, (_, intercept) in pairs)
    for kind in (np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.dtype(kind)
    return np.dtype(np.int64)


def _read_stored(header: SliceHeader) -> NDArray[np.integer]:
    """Stored values (H, W), unused high bits cleared or sign-extended by pydicom.

    MONOCHROME1 is inverted within the range of the bits stored (lowest + highest - value), so
    that bright is high in every case; the range of the values themselves differs by slice.
    """
    try:
        dataset = dcmread(header.path, specific_tags=_PIXEL_TAGS)
        stored: NDArray[np.integer] = dataset.pixel_array
    except Exception as error:  # a damaged stream makes decoders raise whatever they like
        raise UnreadableFileError(
            "bad-pixels",
            f"its pixels cannot be decoded ({type(error).__name__})",
            "Copy or export it again",
            path=header.path,
        ) from error
    if stored.shape != header.size or stored.dtype.kind not in "iu":
        raise UnreadableFileError(
            "bad-pixels",
            f"its pixels are {stored.dtype} {stored.shape}, its header says {header.size}",
            "Copy or export it again",
            path=header.path,
        )
    if header.photometric != "MONOCHROME1":
        return stored
    both_ends = -1 if header.signed else 2 ** header.bits[0] - 1
    return stored.dtype.type(both_ends) - stored
