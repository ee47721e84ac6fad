"""Where a NIfTI header places its voxels: sform before qform, and what to say of the other."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.quaternions import quat2mat

from volumetric.errors import GeometryError, printable
from volumetric.findings import Finding
from volumetric.io.formats.grid import grid_affine
from volumetric.io.formats.voxels import Shape
from volumetric.volume import Affine

_MEANINGS = ("unknown", "scanner", "aligned", "Talairach", "MNI", "template")
# Of the smallest spacing: float32 and rounded quaternions stay far below, and no voxel is missed
# by as much.
_CONFLICT = 0.1
# What float32 rounding can add to a squared norm, with room for writers that rounded before.
_NORM_ROUNDING = 1e-6
_REMEDY = "Export it again, or set the sform once you know it"


@np.errstate(all="ignore")  # NaN and infinity are looked for, and refused
def nifti_affine(
    header: nib.Nifti1Header, shape: Shape, *, path: Path
) -> tuple[Affine, tuple[Finding, ...]]:
    """The affine from (d, h, w) to mm in RAS+, and what should be known about it.

    The sform is used where its code is set, else the qform (standard, method 3 before 2). Method
    1, neither set, is refused: it leaves open which side is left.

    Raises:
        GeometryError: neither is set, a code without meaning, or the one to use is damaged.
    """
    codes = [int(header["sform_code"]), int(header["qform_code"])]
    if not all(0 <= code < len(_MEANINGS) for code in codes):
        raise GeometryError(
            "bad-orientation-code",
            f"says by codes {codes} what its sform and qform are, and one of them means nothing",
            "Export it again from its source",
            path=path,
        )
    if codes == [0, 0]:
        raise GeometryError(
            "no-orientation",
            "sets neither sform nor qform, so left and right cannot be told apart",
            "Export it again from its source, or set the sform once you know the orientation",
            path=path,
        )
    if codes[0] == 0:
        return grid_affine(_qform(header, path), path=path)
    affine, findings = grid_affine(np.asarray(header.get_sform(), np.float64), path=path)
    told = _compare(affine, header, shape, path=path) if codes[1] > 0 else ()
    return affine, findings + (told or _compare_spacing(affine, header, shape, path=path))


def _compare(
    affine: Affine, header: nib.Nifti1Header, shape: Shape, *, path: Path
) -> tuple[Finding, ...]:
    """A warning where the qform would place a voxel elsewhere, or is damaged."""
    where, remedy = printable(str(path)), "Check that the sform, which is used, is the right one"
    try:
        other, _ = grid_affine(_qform(header, path), path=path)
    except GeometryError as error:
        return (Finding(error.code, "warning", f"its qform {error.reason}", remedy, where),)
    # The difference is linear in the index: it is largest at a corner.
    corners = np.array([(*c, 1) for c in itertools.product(*((0, n - 1) for n in shape))])
    distances = np.linalg.norm((corners @ (affine - other).T)[:, :3], axis=1)
    worst = int(distances.argmax())
    if distances[worst] <= _CONFLICT * np.linalg.norm(affine[:3, :3], axis=0).min():
        return ()
    meanings = [_MEANINGS[int(header[f"{form}_code"])] for form in ("sform", "qform")]
    reason = (
        f"its sform ({meanings[0]}) and qform ({meanings[1]}) place voxels up to "
        f"{distances[worst]:.2f} mm apart, most at voxel {tuple(corners[worst, :3].tolist())} "
        "(d, h, w)"
    )
    return (Finding("sform-qform-conflict", "warning", reason, remedy, where),)


def _compare_spacing(
    affine: Affine, header: nib.Nifti1Header, shape: Shape, *, path: Path
) -> tuple[Finding, ...]:
    """A warning where pixdim contradicts the sform: other readers, ITK among them, use pixdim.

    Along an axis of one voxel nothing is placed by it. Its sign is ignored, as all readers do.
    """
    ours = np.linalg.norm(affine[:3, :3], axis=0)
    theirs = np.abs(np.asarray(header["pixdim"][3:0:-1], np.float64))
    alike = np.abs(theirs - ours) <= _CONFLICT * ours  # false for NaN, and for 0
    if (alike | (np.array(shape) == 1)).all():
        return ()
    said = [" x ".join(f"{length:.4g}" for length in one) for one in (ours, theirs)]
    return (
        Finding(
            "sform-pixdim-conflict",
            "warning",
            f"its sform places voxels {said[0]} mm apart (d, h, w), its pixdim says {said[1]}",
            "Check which is right, and export it again: the sform is used",
            printable(str(path)),
        ),
    )


def _qform(header: nib.Nifti1Header, path: Path) -> Affine:
    """Method 2: a rotation by a unit quaternion (a, b, c, d), a >= 0 left out; pixdim; an offset.

    qfac, in pixdim[0], is -1 where the third axis is reversed; 0, not filled in, means 1.
    """
    qfac, *spacing = (float(value) for value in header["pixdim"][:4])
    quaternion = [float(header[f"quatern_{letter}"]) for letter in "bcd"]
    squared = sum(value * value for value in quaternion)
    # NaN fails each of these.
    if not all(value > 0 for value in spacing):
        raise GeometryError("bad-pixdim", f"has spacing {spacing}", _REMEDY, path=path)
    if qfac not in (-1, 0, 1):
        reason = f"has pixdim[0] {qfac:g}, neither 1 nor -1"
        raise GeometryError("bad-qfac", reason, _REMEDY, path=path)
    if not squared <= 1 + _NORM_ROUNDING:
        reason = f"has quaternion {quaternion}, longer than 1"
        raise GeometryError("bad-quaternion", reason, _REMEDY, path=path)
    affine = np.eye(4)
    rotation = quat2mat([math.sqrt(max(0.0, 1 - squared)), *quaternion])
    affine[:3, :3] = rotation * (*spacing[:2], spacing[2] * (qfac or 1))
    affine[:3, 3] = [float(header[f"qoffset_{letter}"]) for letter in "xyz"]
    return affine
