"""The header of a NIfTI file: parsed by nibabel, and believed only where the standard allows.

nibabel repairs what it finds wrong, and says so in a log; here each fault is an error. "The
standard" is nifti1.h and nifti2.h of the NIfTI DFWG, with nifti1_io.c where those are silent.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, NoReturn

import nibabel as nib
import numpy as np

from volumetric.errors import IntensityError, UnreadableFileError, UnsupportedError
from volumetric.io.formats.grid import refuse_type, refuse_units
from volumetric.io.formats.voxels import read_head

_CLASSES = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_LARGEST_HEADER = 540
_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")
# 4 bytes that say whether extensions follow stand between the header and the voxels.
_EXTENDER = 4
# Extensions hold DICOM headers or XML, kilobytes of it; none was seen that needs more.
_LARGEST_EXTENSIONS = 1 << 26
_TYPES = {
    **{2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8"},
    **{256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"},
}
_REFUSED_TYPES = {
    **{1: "one-bit", 32: "complex64", 128: "RGB", 1536: "float128"},
    **{1792: "complex128", 2048: "complex256", 2304: "RGBA"},
}


def read_header(path: Path, *, is_pair: bool) -> nib.Nifti1Header:
    """The header of a NIfTI-1 or NIfTI-2 file, of either byte order, each field as stored.

    `is_pair`: the voxels lie in a second file, and the header must say so.

    Raises:
        UnreadableFileError: no NIfTI, or fields that contradict each other.
        UnsupportedError: Analyze 7.5, or a unit other than mm.
    """
    block = read_head(path, _LARGEST_HEADER)
    sizes = {int.from_bytes(block[:4], order): order for order in _ORDERS}
    size = next((size for size in _CLASSES if size in sizes), None)
    if size is None or len(block) < size:
        _refuse("unreadable-nifti", f"cannot be NIfTI: it begins with {block[:4]!r}", path)
    header = _CLASSES[size](block[:size], endianness=sizes[size], check=False)
    _check_magic(header, path, is_pair=is_pair)
    if not 1 <= int(header["dim"][0]) <= 7:
        _refuse("bad-dimensions", f"claims {int(header['dim'][0])} axes", path)
    # Other codes in these three bits mean nothing; 0 is unknown, which everyone reads as mm.
    unit = {1: "metres", 3: "micrometres"}.get(int(header["xyzt_units"]) & 7)
    if unit:
        refuse_units(unit, path=path)
    return header


def stored_type(header: nib.Nifti1Header, path: Path) -> np.dtype[np.generic]:
    """The type of a voxel in the file, byte order included.

    Raises:
        UnreadableFileError: no such type, or its bits disagree with it.
        UnsupportedError: complex, colour, one bit or 128.
    """
    code = int(header["datatype"])
    if code in _REFUSED_TYPES:
        refuse_type(_REFUSED_TYPES[code], path=path)
    if code not in _TYPES:
        _refuse("bad-datatype", f"claims voxels of type {code}, which NIfTI does not know", path)
    dtype: np.dtype[np.generic] = np.dtype(_TYPES[code]).newbyteorder(header.endianness)
    if int(header["bitpix"]) != 8 * dtype.itemsize:
        reason = f"claims {dtype.name} voxels of {int(header['bitpix'])} bits"
        _refuse("bad-bitpix", reason, path)
    return dtype


def voxel_offset(header: nib.Nifti1Header, path: Path, *, is_pair: bool) -> int:
    """Bytes before the first voxel: a float in NIfTI-1, so it may be anything.

    Raises:
        UnreadableFileError: no whole number, within the header, or further than any extension.
    """
    offset = float(header["vox_offset"])
    lowest = 0 if is_pair else int(header["sizeof_hdr"]) + _EXTENDER
    if not (offset.is_integer() and lowest <= offset <= _LARGEST_EXTENSIONS):
        reason = f"claims that its voxels begin at byte {offset:g}, not {lowest} or later"
        _refuse("bad-vox-offset", reason, path)
    return int(offset)


def scaling(header: nib.Nifti1Header, path: Path) -> tuple[float, float] | None:
    """Slope and intercept that make values of what is stored; None where nothing is scaled.

    A slope of 0 means none (standard). So does NaN: nifti1_io.c takes it for 0, and nibabel
    leaves it in headers it has not filled in.

    Raises:
        IntensityError: infinite, or an intercept that is no number.
    """
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope) or (slope, intercept) == (1, 0):
        return None
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise IntensityError(
            "bad-rescale",
            f"has slope {slope:g} and intercept {intercept:g}",
            "Export it again",
            path=path,
        )
    return slope, intercept


def _check_magic(header: nib.Nifti1Header, path: Path, *, is_pair: bool) -> None:
    magic, version = header["magic"].item(), 1 if int(header["sizeof_hdr"]) == 348 else 2
    if is_pair and version == 1 and not magic.startswith(b"n"):
        raise UnsupportedError(
            "analyze",
            "is Analyze 7.5, not NIfTI: it does not say which side is left",
            "Export it as NIfTI from its source, where the orientation is known",
            path=path,
        )
    right = (b"ni%d" if is_pair else b"n+%d") % version
    if magic != right:
        where = "in a second file" if is_pair else "behind its header"
        _refuse("bad-magic", f"has magic {magic!r}, not {right!r}, as voxels {where} need", path)
    # Broken where a transfer as text has changed line ends, and with them voxels; 0: not filled in.
    if version == 2 and header["eol_check"].tobytes() not in (b"\r\n\x1a\n", bytes(4)):
        _refuse("bad-magic", "was changed in transfer as if it were text", path)


def _refuse(code: str, reason: str, path: Path) -> NoReturn:
    raise UnreadableFileError(code, reason, "Copy or export the file again", path=path)
