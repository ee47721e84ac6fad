"""What readers of voxel grids share: claims of a header checked, voxels to a Volume's data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from volumetric.errors import GeometryError, UnreadableFileError, UnsupportedError, printable
from volumetric.findings import Finding
from volumetric.io.formats.voxels import Shape
from volumetric.volume import Affine, Volume

# World axes to RAS+.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
LPS_TO_RAS.setflags(write=False)

# torch lacks or barely supports the left ones: widen, never narrow.
_WIDER = {"uint16": "int32", "uint32": "int64", "float16": "float32"}
# A kilometre: no body is as far from its scanner, and squares still fit into float64.
_LARGEST_MM = 1e6
# The sine of the angle between two axes: 0.06 degrees, well above float32's rounding.
_SHEAR = 1e-3


def grid_shape(sizes: Sequence[int], *, path: Path) -> Shape:
    """(D, H, W) of a grid whose sizes a header gives fastest axis first.

    Raises:
        UnreadableFileError: no axis, or one without a voxel.
        UnsupportedError: fewer than three axes, or more than three longer than one voxel.
    """
    if not sizes or min(sizes) < 1:
        raise UnreadableFileError(
            "bad-dimensions",
            f"claims {list(sizes[:8])} voxels along its axes",
            "Export the file again",
            path=path,
        )
    if len(sizes) < 3:  # a third one of one voxel would need a thickness, which nobody stated
        raise UnsupportedError(
            "two-dimensional",
            f"has shape {tuple(sizes)}: a picture, not a volume",
            "Put the slices into one file with three axes",
            path=path,
        )
    if any(size != 1 for size in sizes[3:]):
        raise UnsupportedError(
            "four-dimensional",
            f"has shape {tuple(sizes[:8])}: time points or channels beside the three axes",
            "Split it into files of three axes, e.g. with fslsplit or nibabel.four_to_three, and "
            "choose one",
            path=path,
        )
    width, height, depth = sizes[:3]
    return depth, height, width


def grid_affine(affine: Affine, *, path: Path) -> tuple[Affine, tuple[Finding, ...]]:
    """The affine from (d, h, w) of one from (w, h, d), proven usable; a note where it is sheared.

    Raises:
        GeometryError: not finite, singular, or further away than a kilometre.
    """
    affine = affine[:, [2, 1, 0, 3]]
    if not (np.abs(affine) < _LARGEST_MM).all():  # false for NaN too
        raise GeometryError(
            "bad-affine",
            f"places its voxels by numbers that cannot be: {affine.tolist()}",
            "Repair the header's orientation and spacing",
            path=path,
        )
    try:
        affine = Volume(torch.zeros(1, 1, 1, 1), affine).affine
    except GeometryError as error:
        raise GeometryError(error.code, error.reason, error.remedy, path=path) from error
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    shear = float(np.abs(cosines.T @ cosines - np.eye(3)).max())
    if shear <= _SHEAR:
        return affine, ()
    note = Finding(
        "sheared-affine",
        "note",
        f"its axes meet at {np.degrees(np.arccos(shear)):.1f} degrees, not 90: a tilted gantry, or "
        "an affine registration",
        "Nothing need be done: it is used as it is",
        printable(str(path)),
    )
    return affine, (note,)


def grid_tensor(voxels: NDArray[np.generic], *, path: Path) -> torch.Tensor:
    """Data (1, D, H, W) of voxels (D, H, W), widened where torch has no such type.

    Raises:
        UnsupportedError: unsigned 64-bit values that no signed ones can hold.
    """
    if voxels.dtype == np.uint64:
        if int(voxels.max()) > np.iinfo(np.int64).max:
            raise UnsupportedError(
                "voxel-type",
                f"stores uint64 voxels up to {voxels.max()}, beyond int64",
                "Convert it to int32 or float",
                path=path,
            )
        return torch.from_numpy(voxels.view(np.int64))[None]
    name = _WIDER.get(voxels.dtype.name, voxels.dtype.name)
    return torch.from_numpy(voxels.astype(name, copy=False))[None]


def refuse_units(unit: str, *, path: Path) -> None:
    """Refuse a spacing in anything but millimetres."""
    raise UnsupportedError(
        "odd-units",
        f"states its spacing in {unit}",
        "Convert it to mm, which all else here is in",
        path=path,
    )


def refuse_type(name: str, *, path: Path) -> None:
    """Refuse voxels that are not one integer or float each."""
    raise UnsupportedError(
        "voxel-type",
        f"stores {name} voxels",
        "Convert it to one integer or float a voxel",
        path=path,
    )
