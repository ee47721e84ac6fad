"""NIfTI in and out, with voxels and affine in the order (D, H, W)."""

from __future__ import annotations

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, HeaderTypeError, ImageDataError
from numpy.typing import NDArray

from volumetric.errors import GeometryError, OutputError, UnreadableFileError, UnsupportedError
from volumetric.volume import Affine, Volume

_SUFFIXES = (".nii", ".nii.gz")

_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    MemoryError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
    HeaderTypeError,
    ImageDataError,
)

# torch lacks or barely supports the left ones: widen, never narrow.
_WIDER = {"uint16": "int32", "uint32": "int64", "float16": "float32"}
_KEPT = {"uint8", "int8", "int16", "int32", "int64", "float32", "float64"}


def is_nifti(path: Path) -> bool:
    """Whether a file's name says NIfTI."""
    return path.name.lower().endswith(_SUFFIXES)


def read_nifti(path: Path) -> Volume:
    """The scan in a .nii or .nii.gz file: data (1, D, H, W), affine to mm in RAS+.

    NIfTI stores (x, y, z); the data is transposed to (z, y, x) and the affine's columns with
    it. The sform is used where its code is set, else the qform (NIfTI-1 standard, method 3
    before 2). Data is as stored unless the header scales it, which gives float32.

    Raises:
        UnreadableFileError: missing, truncated or damaged.
        UnsupportedError: 4-D, complex, RGB or another type without one number a voxel.
        GeometryError: neither sform nor qform is set, or the affine is singular.
    """
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Pair):
            raise UnsupportedError(
                "no-volume",
                f"holds {type(image).__name__}, not voxels on a grid",
                "Export it as a volume",
                path=path,
            )
        header = image.header
        _refuse_kind(path, image.shape, header.get_data_dtype())
        _refuse_units(path, int(header["xyzt_units"]))
        data = np.asanyarray(image.dataobj)
    except _DAMAGE as error:
        raise UnreadableFileError(
            "unreadable-nifti",
            f"cannot be read as NIfTI ({error})",
            "Copy or export the file again",
            path=path,
        ) from error
    return Volume(_as_tensor(data, stored=header.get_data_dtype()), _affine(path, image))


def write_nifti(volume: Volume, path: Path | str) -> None:
    """Write a one-channel Volume as .nii or .nii.gz, whole or not at all.

    Raises:
        OutputError: the folder cannot be written.
        UnsupportedError: more than one channel.
    """
    path = Path(path)
    if volume.data.shape[0] != 1:
        raise UnsupportedError(
            "several-channels", f"has {volume.data.shape[0]} channels", "Write one each", path=path
        )
    array = volume.data[0].cpu().numpy()
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


def _refuse_kind(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) > 3 and any(size != 1 for size in shape[3:]):
        raise UnsupportedError(
            "four-dimensional",
            f"has shape {shape}: time points or channels beside the three axes",
            "Split it into files of three axes, e.g. with fslsplit, and choose one",
            path=path,
        )
    if dtype.name not in _KEPT | set(_WIDER):
        raise UnsupportedError(
            "voxel-type",
            f"stores {'RGB' if dtype.fields else dtype.name} voxels",
            "Convert it to one integer or float a voxel",
            path=path,
        )


def _refuse_units(path: Path, code: int) -> None:
    """mm, or unknown, which everyone reads as mm; not metres or micrometres (NIfTI-1 standard)."""
    unit = {1: "metres", 3: "micrometres"}.get(code & 7)
    if unit is not None:
        raise UnsupportedError(
            "odd-units",
            f"states its spacing in {unit}",
            "Convert it to mm, which all else here is in",
            path=path,
        )


def _as_tensor(data: NDArray[np.generic], *, stored: np.dtype) -> torch.Tensor:
    spatial = (*data.shape, 1, 1, 1)[:3]
    scaled = data.dtype == np.float64 and stored.name != "float64"
    name = "float32" if scaled else _WIDER.get(data.dtype.name, data.dtype.name)
    array = data.reshape(spatial).transpose(2, 1, 0)
    return torch.from_numpy(np.array(array, dtype=name, order="C"))[None]


def _affine(path: Path, image: nib.Nifti1Image) -> Affine:
    header = image.header
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        raise GeometryError(
            "no-orientation",
            "sets neither sform nor qform, so left and right cannot be told apart",
            "Export it again from its source, or set the sform once you know the orientation",
            path=path,
        )
    affine = np.asarray(image.affine, dtype=np.float64)
    try:
        return Volume(torch.zeros(1, 1, 1, 1), affine[:, [2, 1, 0, 3]]).affine
    except GeometryError as error:
        raise GeometryError(error.code, error.reason, error.remedy, path=path) from error


def _is_rigid(affine: Affine) -> bool:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :3] / spacing
    return bool(np.abs(cosines.T @ cosines - np.eye(3)).max() < 1e-4)
