"""NIfTI in and out, with voxels and affine in the order (D, H, W)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from volumetric.errors import IntensityError, OutputError, UnreadableFileError, UnsupportedError
from volumetric.io.formats.grid import grid_shape, grid_tensor, refuse_type
from volumetric.io.formats.nifti_affine import nifti_affine
from volumetric.io.formats.nifti_header import read_header, scaling, stored_type, voxel_offset
from volumetric.io.formats.voxels import is_gzip, read_voxels
from volumetric.volume import About, Affine, Volume

_PAIR = {".hdr": ".img", ".img": ".hdr"}


def read_nifti(path: Path) -> Volume:
    """The scan in a .nii, a .hdr/.img pair, or either with .gz, of NIfTI-1 or NIfTI-2.

    Returns data (1, D, H, W) and the affine to mm in RAS+: NIfTI stores (x, y, z), x fastest,
    which is (D, H, W) as it lies. The sform is used where its code is set, else the qform; where
    they disagree, `about.findings` says by how much. Data is as stored unless the header scales
    it, which gives float32, or float64 where float32 cannot tell neighbouring values apart.

    Raises:
        UnreadableFileError: missing, truncated, damaged, or fields that contradict each other.
        UnsupportedError: 2-D, 4-D, complex, RGB or another type without one number a voxel;
            Analyze.
        GeometryError: neither sform nor qform is set, or the affine is no such thing.
        IntensityError: a slope or intercept that makes no values.
    """
    header_file, voxel_file = _files(path)
    is_pair = header_file != voxel_file
    header = read_header(header_file, is_pair=is_pair)
    dtype, scale = stored_type(header, header_file), scaling(header, header_file)
    offset = voxel_offset(header, header_file, is_pair=is_pair)
    sizes = [int(size) for size in header["dim"][1 : 1 + int(header["dim"][0])]]
    shape = grid_shape(sizes, path=header_file)
    affine, findings = nifti_affine(header, shape, path=header_file)
    # A .nii begins with a known number, so what it holds tells whether it is compressed; voxels
    # alone may begin as gzip does.
    compressed = voxel_file.suffix.lower() == ".gz" if is_pair else is_gzip(voxel_file)
    voxels = read_voxels(
        voxel_file,
        shape=shape,
        dtype=dtype,
        offset=offset,
        compression="file" if compressed else "none",
    )
    if scale:
        voxels = _scale(voxels, *scale, path=path)
    return Volume(grid_tensor(voxels, path=path), affine, about=About(findings=findings))


def write_nifti(volume: Volume, path: Path | str) -> None:
    """Write a one-channel Volume as .nii or .nii.gz, whole or not at all.

    Half precision is widened to float32, which NIfTI has.

    Raises:
        OutputError: the folder cannot be written.
        UnsupportedError: another suffix, more than one channel, or complex voxels.
    """
    path = Path(path)
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise UnsupportedError(
            "unknown-format",
            f"ends in {path.suffix or 'no suffix'!r}, and only NIfTI is written",
            "Give it a name that ends in .nii.gz or .nii",
            path=path,
        )
    if volume.data.shape[0] != 1:
        raise UnsupportedError(
            "several-channels", f"has {volume.data.shape[0]} channels", "Write one each", path=path
        )
    if volume.data.is_complex():
        refuse_type("complex", path=path)
    is_half = volume.data.dtype in (torch.float16, torch.bfloat16)
    array = (volume.data[0].float() if is_half else volume.data[0]).cpu().numpy()
    array = array.astype(np.uint8) if array.dtype == bool else array
    affine = volume.affine[:, [2, 1, 0, 3]]
    image = nib.Nifti1Image(array.transpose(2, 1, 0), affine, dtype=array.dtype)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1 if _is_rigid(affine) else 0, strip_shears=True)
    image.header.set_xyzt_units("mm")
    partial = path.with_name(f".partial-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, partial)
        partial.replace(path)
    except OSError as error:
        raise OutputError(
            "unwritable",
            f"cannot be written ({error.strerror})",
            "Check folder and space",
            path=path,
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _files(path: Path) -> tuple[Path, Path]:
    """The files that hold header and voxels: the same one, or a .hdr and the .img beside it."""
    is_zipped = path.suffix.lower() == ".gz"
    bare = path.with_suffix("") if is_zipped else path
    if bare.suffix.lower() not in _PAIR:
        return path, path
    other = _PAIR[bare.suffix.lower()]
    twin = bare.with_suffix(other.upper() if bare.suffix.isupper() else other)
    zipped = twin.with_name(f"{twin.name}{path.suffix if is_zipped else '.gz'}")
    for candidate in (zipped, twin) if is_zipped else (twin, zipped):
        if _exists(candidate):
            return (candidate, path) if other == ".hdr" else (path, candidate)
    raise UnreadableFileError(
        "missing-twin",
        f"is half of a pair, and {twin.name} is not beside it",
        "Put .hdr and .img into one folder, under one name",
        path=path,
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # .gz may make a name too long
        return False


def _scale(
    voxels: NDArray[np.generic], slope: float, intercept: float, *, path: Path
) -> NDArray[np.generic]:
    scaled = np.empty(voxels.shape, _scaled_type(voxels.dtype, slope, intercept))
    try:
        with np.errstate(over="raise"):
            for result, plane in zip(scaled, voxels, strict=True):  # no whole float64 copy
                result[...] = plane * np.float64(slope) + np.float64(intercept)
    except FloatingPointError as error:
        raise IntensityError(
            "bad-rescale",
            f"has slope {slope:g} and intercept {intercept:g}, too large for its values",
            "Export it again",
            path=path,
        ) from error
    return scaled


def _scaled_type(stored: np.dtype[np.generic], slope: float, intercept: float) -> str:
    """float32 where it keeps neighbouring stored values apart, and within its range."""
    if stored.kind == "f":
        return "float64" if stored.itemsize == 8 else "float32"
    info = np.iinfo(stored)  # type: ignore[type-var]
    largest = max(-info.min, info.max) * abs(slope) + abs(intercept)
    coarsest = largest * float(np.finfo(np.float32).eps)
    return "float32" if coarsest <= abs(slope) and 1e-30 < largest < 1e38 else "float64"


def _is_rigid(affine: Affine) -> bool:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :3] / spacing
    return bool(np.abs(cosines.T @ cosines - np.eye(3)).max() < 1e-4)
