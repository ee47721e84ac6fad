"""MetaImage in (.mha, .mhd), with voxels and affine in the order (D, H, W).

Fields as in MetaIO's documentation, read as ITK's MetaImageIO reads them: its world is LPS+, the
i-th three numbers of TransformMatrix are the direction of the i-th axis, and Offset is the centre
of the first voxel.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from volumetric.errors import GeometryError, UnsupportedError, printable
from volumetric.findings import Finding
from volumetric.io.formats.grid import (
    LPS_TO_RAS,
    grid_affine,
    grid_shape,
    grid_tensor,
    refuse_type,
    refuse_units,
)
from volumetric.io.formats.text_header import (
    as_fields,
    decimals,
    detached_voxels,
    header_lines,
    refuse_encoding,
    refuse_header,
    whole_numbers,
)
from volumetric.io.formats.voxels import Compression, ends_in_padding, file_size, read_voxels
from volumetric.volume import About, Affine, Volume

_TYPES = {
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2"},
    **{"MET_INT": "i4", "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4"},
    **{"MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
}
_SYNONYMS = {
    **dict.fromkeys(["Position", "Origin"], "Offset"),
    **dict.fromkeys(["Rotation", "Orientation"], "TransformMatrix"),
    **{"ElementByteOrderMSB": "BinaryDataByteOrderMSB"},
}
_REQUIRED = ("NDims", "DimSize", "ElementType", "ElementDataFile")
_MODALITIES = {"MET_MOD_CT": "CT", "MET_MOD_MR": "MR", "MET_MOD_NM": "NM", "MET_MOD_US": "US"}
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_COSINE_TOLERANCE = 1e-3
# The side an axis comes from: the axis of RAS+ that it runs along, and which way.
_COMES_FROM = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "I": (2, 1), "S": (2, -1)}
_ALONG = 0.1  # the cosine of 84 degrees: an oblique axis may be named after either neighbour


def read_metaimage(path: Path) -> Volume:
    """The scan in a .mha, or a .mhd with its data file: data (1, D, H, W), affine to mm in RAS+.

    Raises:
        UnreadableFileError: missing, truncated, damaged, or no MetaImage.
        UnsupportedError: 2-D, 4-D, several channels, text, units other than mm, voxels in several
            files or in another folder.
        GeometryError: no directions, spacing or origin, or ones that cannot be right.
    """
    fields, end = _read_fields(path)
    sizes = whole_numbers(fields["DimSize"], path=path)
    if whole_numbers(fields["NDims"], path=path) != [len(sizes)]:
        refuse_header(f"has NDims {fields['NDims'][:60]!r} and DimSize {sizes[:8]}", path=path)
    channels = whole_numbers(fields.get("ElementNumberOfChannels", "1"), path=path)
    if channels != [1]:
        raise UnsupportedError(
            "several-channels", f"has {channels[:8]} values a voxel", "Choose one", path=path
        )
    shape = grid_shape(sizes, path=path)
    affine, findings = grid_affine(_affine(fields, path), path=path)
    file, offset, compression = _where(fields, end, path)
    voxels = read_voxels(
        file,
        shape=shape,
        dtype=_stored_type(fields, path),
        offset=offset,
        compression=compression,
    )
    findings += _check_letters(fields, affine, path)
    about = About(modality=_MODALITIES.get(fields.get("Modality", "")), findings=findings)
    return Volume(grid_tensor(voxels, path=path), affine, about=about)


def _read_fields(path: Path) -> tuple[Mapping[str, str], int]:
    """Fields by their names, and the byte behind the header, which ends with ElementDataFile."""
    pairs, end = [], 0
    for line, end in header_lines(path):  # noqa: B007 # the last one is where the voxels begin
        name, separator, value = (part.strip() for part in line.partition("="))
        if not separator:
            refuse_header(f"has the line {line[:60]!r}, not as MetaImage does", path=path)
        pairs.append((_SYNONYMS.get(name, name), value))
        if name == "ElementDataFile":
            break
    fields = as_fields(pairs, required=_REQUIRED, path=path)
    if fields.get("ObjectType", "Image") != "Image":
        refuse_header("holds no image", path=path)
    slope, intercept = (
        decimals(fields.get(f"ElementToIntensityFunction{name}", default), count=1, path=path)
        for name, default in (("Slope", "1"), ("Offset", "0"))
    )
    if (slope, intercept) != ([1], [0]):  # which readers disagree about applying
        refuse_type(f"scaled (slope {slope[0]:g}, intercept {intercept[0]:g})", path=path)
    return fields, end


def _stored_type(fields: Mapping[str, str], path: Path) -> np.dtype[np.generic]:
    name = fields["ElementType"]
    if name not in _TYPES:
        refuse_type(repr(name[:60]), path=path)
    dtype: np.dtype[np.generic] = np.dtype(_TYPES[name])
    if dtype.itemsize > 1 and "BinaryDataByteOrderMSB" not in fields:
        refuse_header("does not state the order of its bytes", path=path)
    return dtype.newbyteorder(">" if _flag(fields, "BinaryDataByteOrderMSB", path) else "<")


def _flag(fields: Mapping[str, str], name: str, path: Path) -> bool:
    value = fields.get(name, "False").lower()
    if value not in _BOOLEANS:
        refuse_header(f"has {name} {value[:60]!r}", path=path)
    return _BOOLEANS[value]


def _affine(fields: Mapping[str, str], path: Path) -> Affine:
    # ITK takes an identity, 1 mm and an origin of 0 for what is missing: that is a guess.
    names = ("TransformMatrix", "ElementSpacing", "Offset")
    n_axes = len(whole_numbers(fields["DimSize"], path=path))
    missing = [name for name in names if name not in fields]
    if missing:
        raise GeometryError(
            "no-orientation",
            f"lacks {', '.join(missing)}: its place in space is not known",
            "Export it again with all of TransformMatrix, ElementSpacing and Offset",
            path=path,
        )
    if fields.get("DistanceUnits", "mm").lower() not in ("mm", "?", ""):
        refuse_units(fields["DistanceUnits"][:60], path=path)
    matrix, spacing, origin = (
        np.array(decimals(fields[name], count=count, path=path))
        for name, count in zip(names, (n_axes**2, n_axes, n_axes), strict=True)
    )
    # Axes behind the third have one voxel each, as the shape was refused otherwise: what they
    # say places none.
    matrix, spacing, origin = matrix.reshape(n_axes, n_axes)[:3, :3], spacing[:3], origin[:3]
    lengths = np.linalg.norm(matrix, axis=1)
    if not ((spacing > 0).all() and (np.abs(lengths - 1) <= _COSINE_TOLERANCE).all()):
        raise GeometryError(
            "bad-direction",
            f"has spacing {spacing.tolist()} along axes of length {lengths.tolist()}",
            "Export it again",
            path=path,
        )
    affine = np.eye(4)
    affine[:3, :3] = matrix.T * spacing
    affine[:3, 3] = origin
    return LPS_TO_RAS @ affine


def _check_letters(fields: Mapping[str, str], affine: Affine, path: Path) -> tuple[Finding, ...]:
    """A warning where AnatomicalOrientation contradicts the directions, which are used.

    As ITK writes it, each letter names the side that an axis comes from: "RAI" is LPS+.
    """
    letters = fields.get("AnatomicalOrientation", "").upper()[:3]
    if len(letters) < 3 or not set(letters) <= set(_COMES_FROM):
        return ()  # "???": not said
    cosines = affine[:3, [2, 1, 0]] / np.linalg.norm(affine[:3, [2, 1, 0]], axis=0)
    along = [
        sign * cosines[world, axis]
        for axis, (world, sign) in enumerate(_COMES_FROM[letter] for letter in letters)
    ]
    if min(along) > _ALONG:
        return ()
    return (
        Finding(
            "stated-orientation-differs",
            "warning",
            f"states AnatomicalOrientation {letters}, which its TransformMatrix contradicts",
            "Check which side is left, and export it again: TransformMatrix is used",
            printable(str(path)),
        ),
    )


def _where(fields: Mapping[str, str], end: int, path: Path) -> tuple[Path, int | None, Compression]:
    """The file that holds the voxels, where in it they begin, and how they are compressed."""
    if "BinaryData" in fields and not _flag(fields, "BinaryData", path):
        refuse_encoding("text", path=path)
    compression: Compression = "voxels" if _flag(fields, "CompressedData", path) else "none"
    name = fields["ElementDataFile"]
    skip = fields.get("HeaderSize", "0")
    file: tuple[Path, int | None]
    if name in ("LOCAL", "Local", "local"):
        file = path, _local_start(skip, end, path)
    else:
        file = detached_voxels(path, name, skip=skip, compression=compression)
    if compression != "none" and "CompressedDataSize" in fields:
        n_held = file_size(file[0]) - (file[1] or 0)
        stated = whole_numbers(fields["CompressedDataSize"], path=path)
        if len(stated) != 1 or not ends_in_padding(file[0], n_held - stated[0]):
            said = fields["CompressedDataSize"][:60]
            refuse_header(f"claims {said} bytes of compressed voxels and has {n_held}", path=path)
    return *file, compression


def _local_start(skip: str, end: int, path: Path) -> int:
    """Where voxels behind their own header begin: HeaderSize counts from the start of the file."""
    stated = whole_numbers(skip, path=path)
    if stated in ([0], [-1]):  # -1: its last bytes, which they are
        return end
    if len(stated) != 1 or stated[0] < end:
        refuse_header(f"has HeaderSize {skip[:60]!r} and a header of {end} bytes", path=path)
    return stated[0]
