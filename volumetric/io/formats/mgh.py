"""FreeSurfer's MGH and MGZ in, with voxels and affine in the order (D, H, W)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader

from volumetric.errors import GeometryError, UnreadableFileError
from volumetric.io.formats.grid import grid_affine, grid_shape, grid_tensor, refuse_type
from volumetric.io.formats.voxels import is_gzip, read_head, read_voxels
from volumetric.volume import About, Affine, Volume

_HEADER_BYTES = 284
_TYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}
_REFUSED_TYPES = {2: "long", 5: "bitmap", 6: "tensor", 7: "complex", 8: "complex", 9: "RGB"}
# Echo times, a colour table (70 KB for all of FreeSurfer's labels) and the commands run stand
# behind the voxels. As few as can be are allowed, for voxels that a header leaves out lie there.
_USUAL_FOOTER = 1 << 17
_LARGEST_FOOTER = 1 << 20
_COSINE_TOLERANCE = 1e-3


def read_mgh(path: Path) -> Volume:
    """The scan in an .mgh or .mgz: data (1, D, H, W) as stored, affine to mm in RAS+.

    Raises:
        UnreadableFileError: missing, truncated, damaged, or no MGH.
        UnsupportedError: several frames, or a type without one number a voxel.
        GeometryError: its header says that its orientation is not known, or cannot be right.
    """
    block = read_head(path, _HEADER_BYTES)
    if len(block) < _HEADER_BYTES or block[:4] != b"\0\0\0\1":
        raise UnreadableFileError(
            "bad-magic", "does not begin as MGH does", "Export the file again", path=path
        )
    # The bare fields: nibabel's own class fills in an orientation where the file has none.
    header = np.frombuffer(block, MGHHeader._hdrdtype, count=1)[0]
    shape = grid_shape([int(size) for size in header["dims"]], path=path)
    code = int(header["type"])
    if code in _REFUSED_TYPES:
        refuse_type(_REFUSED_TYPES[code], path=path)
    if code not in _TYPES:
        raise UnreadableFileError(
            "bad-datatype",
            f"claims voxels of type {code}, which MGH does not know",
            "Export the file again",
            path=path,
        )
    affine, findings = grid_affine(_affine(header, path), path=path)
    dtype = np.dtype(_TYPES[code])
    voxels = read_voxels(
        path,
        shape=shape,
        dtype=dtype,
        offset=_HEADER_BYTES,
        compression="file" if is_gzip(path) else "none",
        n_behind=min(_LARGEST_FOOTER, _USUAL_FOOTER + math.prod(shape) * dtype.itemsize // 8),
    )
    return Volume(grid_tensor(voxels, path=path), affine, about=About(findings=findings))


@np.errstate(all="ignore")  # NaN and infinity are looked for, and refused
def _affine(header: np.void, path: Path) -> Affine:
    """From (x, y, z): axes are the rows of Mdc times the spacing; c_ras is voxel size / 2."""
    if int(header["goodRASFlag"]) != 1:
        raise GeometryError(
            "no-orientation",
            f"says that its orientation is not known (good RAS flag {int(header['goodRASFlag'])})",
            "Export it again from its source, or set it once you know it",
            path=path,
        )
    axes, spacing = header["Mdc"].astype(np.float64), header["delta"].astype(np.float64)
    lengths = np.sqrt((axes**2).sum(axis=1))
    if not ((spacing > 0).all() and (np.abs(lengths - 1) <= _COSINE_TOLERANCE).all()):
        raise GeometryError(
            "bad-direction",
            f"has spacing {spacing.tolist()} along axes of length {lengths.tolist()}",
            "Export it again",
            path=path,
        )
    affine = np.eye(4)
    affine[:3, :3] = axes.T * spacing
    affine[:3, 3] = header["Pxyz_c"] - affine[:3, :3] @ header["dims"][:3] / 2
    return affine
