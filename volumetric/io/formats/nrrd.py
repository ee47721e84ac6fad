"""NRRD in (.nrrd, .nhdr), with voxels and affine in the order (D, H, W).

Fields as in "Definition of NRRD File Format" (teem.sourceforge.net/nrrd/format.html).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from volumetric.errors import GeometryError
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
from volumetric.io.formats.voxels import Compression, read_voxels
from volumetric.volume import About, Affine, Volume

_MAGIC = re.compile(r"NRRD000[1-5]")
_SYNONYMS = {
    **{"datafile": "data file", "byteskip": "byte skip", "lineskip": "line skip"},
    **{"blocksize": "block size", "oldmin": "old min", "oldmax": "old max"},
    **{"sampleunits": "sample units", "axismins": "axis mins", "axismaxs": "axis maxs"},
    **{"centerings": "centers"},
}
_TYPES = {
    **dict.fromkeys(["signed char", "int8", "int8_t"], "i1"),
    **dict.fromkeys(["uchar", "unsigned char", "uint8", "uint8_t"], "u1"),
    **dict.fromkeys(["short", "short int", "signed short", "signed short int"], "i2"),
    **dict.fromkeys(["ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"], "u2"),
    **dict.fromkeys(["int16", "int16_t"], "i2"),
    **dict.fromkeys(["int", "signed int", "int32", "int32_t"], "i4"),
    **dict.fromkeys(["uint", "unsigned int", "uint32", "uint32_t"], "u4"),
    **dict.fromkeys(["longlong", "long long", "long long int", "int64", "int64_t"], "i8"),
    **dict.fromkeys(["signed long long", "signed long long int"], "i8"),
    **dict.fromkeys(["ulonglong", "unsigned long long", "unsigned long long int"], "u8"),
    **dict.fromkeys(["uint64", "uint64_t"], "u8"),
    **{"float": "f4", "double": "f8"},
}
_SPACES = {
    **dict.fromkeys(["right-anterior-superior", "ras"], np.eye(4)),
    **dict.fromkeys(["left-anterior-superior", "las"], np.diag([-1.0, 1, 1, 1])),
    **dict.fromkeys(["left-posterior-superior", "lps"], LPS_TO_RAS),
}
_REQUIRED = ("type", "dimension", "sizes", "encoding")
_OPTIONAL = (
    *("data file", "endian", "byte skip", "line skip", "space", "space dimension"),
    *("space directions", "space origin", "space units", "kinds", "block size", "content"),
    *("number", "min", "max", "old min", "old max", "sample units", "measurement frame"),
    *("spacings", "thicknesses", "axis mins", "axis maxs", "centers", "labels", "units"),
)
_OWN = re.compile(r"[^:]+:=")  # a key and its value, which mean something to their writer
_ORDERS: dict[str, Literal["<", ">"]] = {"little": "<", "big": ">"}
_SPATIAL_KINDS = ("domain", "space", "???", "none")
_QUOTED = re.compile(r'"([^"]*)"')
_SPACING_TOLERANCE = 1e-3  # of a spacing: half a voxel in 500
_VECTOR = re.compile(r"\(\s*([^(),\s]+)\s*,\s*([^(),\s]+)\s*,\s*([^(),\s]+)\s*\)|none")


def read_nrrd(path: Path) -> Volume:
    """The scan in a .nrrd, or a .nhdr with its data file: data (1, D, H, W), affine to mm in RAS+.

    Raises:
        UnreadableFileError: missing, truncated, damaged, or no NRRD.
        UnsupportedError: 2-D, 4-D, blocks, an encoding other than raw and gzip, units other than
            mm, voxels in several files or in another folder.
        GeometryError: no anatomical space, directions or origin, ones that cannot be right, or
            spacings that contradict them.
    """
    fields, end = _read_fields(path)
    sizes = whole_numbers(fields["sizes"], path=path)
    if whole_numbers(fields["dimension"], path=path) != [len(sizes)]:
        refuse_header(f"has dimension {fields['dimension'][:60]!r}, sizes {sizes[:8]}", path=path)
    if len(sizes) < 3 or sum(size != 1 for size in sizes) > 3:
        grid_shape(sizes, path=path)  # refuses it: directions are no longer of interest
    axes, affine = _place(fields, len(sizes), path)
    others = [size for axis, size in enumerate(sizes) if axis not in axes]
    shape = grid_shape([*(sizes[axis] for axis in axes), *others], path=path)
    affine, findings = grid_affine(affine, path=path)
    file, offset, compression = _where(fields, end, path)
    voxels = read_voxels(
        file,
        shape=shape,
        dtype=_stored_type(fields, path),
        offset=offset,
        compression=compression,
    )
    return Volume(grid_tensor(voxels, path=path), affine, about=About(findings=findings))


def _read_fields(path: Path) -> tuple[Mapping[str, str], int]:
    """Fields by their names in lower case, and the byte behind the header."""
    lines = header_lines(path)
    magic, end = next(lines)
    if not _MAGIC.fullmatch(magic):
        refuse_header(f"begins with {magic[:60]!r}, not as NRRD does", path=path)
    pairs, is_closed = [], False
    for line, end in lines:  # noqa: B007 # the last one is where the voxels begin
        if not line:
            is_closed = True
            break
        if line.startswith("#") or _OWN.match(line):
            continue
        name, separator, value = line.partition(": ")
        name = _SYNONYMS.get(name.lower(), name.lower())
        # One misspelt would be left out, and with it the unit or what to skip.
        if not separator or name not in (*_REQUIRED, *_OPTIONAL):
            refuse_header(f"has the line {line[:60]!r}", path=path)
        pairs.append((name, value.strip()))
    fields = as_fields(pairs, required=_REQUIRED, path=path)
    if not (is_closed or "data file" in fields):
        refuse_header("has no end", path=path)
    return fields, end


def _stored_type(fields: Mapping[str, str], path: Path) -> np.dtype[np.generic]:
    name, order = " ".join(fields["type"].lower().split()), fields.get("endian", "").lower()
    if name == "block":
        refuse_type("block", path=path)
    if name not in _TYPES or order not in ("", *_ORDERS):
        refuse_header(f"has type {name[:60]!r} and endian {order[:60]!r}", path=path)
    dtype: np.dtype[np.generic] = np.dtype(_TYPES[name])
    if dtype.itemsize > 1 and not order:
        refuse_header("does not state the order of its bytes", path=path)
    return dtype.newbyteorder(_ORDERS[order or "little"])


def _place(fields: Mapping[str, str], n_axes: int, path: Path) -> tuple[list[int], Affine]:
    """Which axes lie in space, and their affine to RAS+; the origin is the first voxel's centre."""
    world = _SPACES.get(fields.get("space", "").lower())
    stated = fields.get("space directions", "")
    vectors = [match.groups() for match in _VECTOR.finditer(stated)]
    origin = _VECTOR.fullmatch(fields.get("space origin", ""))
    axes = [axis for axis, vector in enumerate(vectors) if vector[0]]
    if (
        world is None or origin is None or origin[1] is None or _VECTOR.sub("", stated).strip()
    ) or (len(vectors) != n_axes or len(axes) != 3):
        raise GeometryError(
            "no-orientation",
            f"has space {fields.get('space', '')[:60]!r}, directions {stated[:60]!r} and origin "
            f"{fields.get('space origin', '')[:60]!r}, so left and right cannot be told apart",
            "Export it again with space, space directions and space origin",
            path=path,
        )
    kinds = fields.get("kinds", "none " * n_axes).lower().split()
    if len(kinds) != n_axes or any(kinds[axis] not in _SPATIAL_KINDS for axis in axes):
        refuse_header(f"has kinds {fields['kinds'][:60]!r} along axes in space", path=path)
    affine = np.eye(4)
    for column, vector in enumerate([*(vectors[axis] for axis in axes), origin.groups()]):
        affine[:3, column] = decimals(" ".join(vector), count=3, path=path)
    _check_units(fields, axes, n_axes, path)
    _check_spacings(fields.get("spacings", "nan " * n_axes), axes, affine, path)
    return axes, world @ affine


def _check_units(fields: Mapping[str, str], axes: list[int], n_axes: int, path: Path) -> None:
    """Refuse what is not in mm, whether it is said of the space or of its axes."""
    for name, count in (("space units", 3), ("units", n_axes)):
        if name not in fields:
            continue
        stated = _QUOTED.findall(fields[name])
        if len(stated) != count or _QUOTED.sub("", fields[name]).strip():
            refuse_header(f"has {name} {fields[name][:60]!r}, not {count} in quotes", path=path)
        in_space = stated if name == "space units" else [stated[axis] for axis in axes]
        if set(in_space) - {"mm", "", "none", "???"}:
            refuse_units(fields[name][:60], path=path)


def _check_spacings(stated: str, axes: list[int], affine: Affine, path: Path) -> None:
    """Refuse spacings other than the lengths of the directions; NaN says none (standard)."""
    words, lengths = stated.split(), np.linalg.norm(affine[:3, :3], axis=0)
    if len(words) <= max(axes):
        refuse_header(f"has spacings {stated[:60]!r}, fewer than axes", path=path)
    for axis, length in zip(axes, lengths, strict=True):
        if words[axis].lower() == "nan":
            continue
        (spacing,) = decimals(words[axis], count=1, path=path)
        if abs(spacing - length) > _SPACING_TOLERANCE * length:
            raise GeometryError(
                "spacings-conflict",
                f"has spacings {stated[:60]!r}, and directions {lengths.tolist()} long",
                "Remove the one that is wrong, or export it again",
                path=path,
            )


def _where(fields: Mapping[str, str], end: int, path: Path) -> tuple[Path, int | None, Compression]:
    """The file that holds the voxels, where in it they begin, and how they are compressed."""
    encoding = fields["encoding"].lower()
    if encoding not in ("raw", "gzip", "gz"):
        refuse_encoding(encoding, path=path)
    compression: Compression = "none" if encoding == "raw" else "voxels"
    if fields.get("line skip", "0") != "0":
        refuse_encoding(f"{encoding} behind {fields['line skip'][:60]} lines", path=path)
    skip = fields.get("byte skip", "0")
    if "data file" in fields:
        file = detached_voxels(path, fields["data file"], skip=skip, compression=compression)
        return *file, compression
    if skip not in ("0", "-1"):  # -1: its last bytes, which they are
        refuse_encoding(f"{encoding} behind {skip[:60]} bytes", path=path)
    return path, end, compression
