"""The readers that geometry.py compares: each takes a folder to the grids found in it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tests.matrix import Grid

OURS, RESAMPLED = "volumetric", "volumetric, resample_irregular"
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_ours(path: Path, **options: bool) -> list[Grid]:
    from volumetric import read_volume

    volume = read_volume(path, **options)
    return [(channel.numpy(), volume.affine) for channel in volume.data]


def read_resampled(path: Path) -> list[Grid]:
    return read_ours(path, resample_irregular=True)


def read_monai(path: Path) -> list[Grid]:
    from monai.data import PydicomReader

    reader = PydicomReader()
    voxels, about = reader.get_data(reader.read(path))
    affine = np.asarray(about["affine"], dtype=np.float64)
    return _split(np.asarray(voxels), affine)


def read_simpleitk(path: Path) -> list[Grid]:
    import SimpleITK as sitk

    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path))
    if not names:
        raise FileNotFoundError("no series")
    if len(names) == 1:
        image = sitk.ReadImage(names[0])
    else:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(names)
        image = reader.Execute()
    n_axes = image.GetDimension()
    direction = np.array(image.GetDirection()).reshape(n_axes, n_axes)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * np.array(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    return _split(sitk.GetArrayFromImage(image).T, _LPS_TO_RAS @ affine)


def read_nifti(output: tuple[Path | None, str]) -> list[Grid]:
    import nibabel as nib

    path, error = output
    if path is None:
        raise RuntimeError(error)
    image = nib.load(path)
    return _split(np.asarray(image.dataobj), image.affine)


READERS: dict[str, Callable[[Path], list[Grid]]] = {
    OURS: read_ours,
    RESAMPLED: read_resampled,
    "MONAI PydicomReader": read_monai,
    "SimpleITK": read_simpleitk,
}

_CONVERT = """
import json, logging, sys, warnings
from pathlib import Path
import dicom2nifti
logging.disable(logging.CRITICAL)
warnings.simplefilter("ignore")
errors = {}
for folder, output in json.load(sys.stdin):
    try:
        dicom2nifti.dicom_series_to_nifti(folder, output)
    except Exception as error:
        errors[folder] = f"{type(error).__name__}: {error}"
Path(sys.argv[1]).write_text(json.dumps(errors))
"""


def convert_all(
    folders: Sequence[Path], target: Path, python: Path
) -> dict[str, tuple[Path | None, str]]:
    """By folder name: dicom2nifti's file, or None and its error."""
    target.mkdir()
    pairs = [(str(path), str(target / f"{path.name}.nii.gz")) for path in folders]
    done = subprocess.run(
        [python, "-c", _CONVERT, target / "errors.json"],
        input=json.dumps(pairs),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"dicom2nifti failed as a whole:\n{done.stderr[-2000:]}")
    errors = json.loads((target / "errors.json").read_text())
    return {
        Path(path).name: (None, errors[path]) if path in errors else (Path(output), "")
        for path, output in pairs
    }


def _split(voxels: np.ndarray, affine: np.ndarray) -> list[Grid]:
    """Volumes of an array whose fourth axis, if it has one, is time or the like."""
    if voxels.ndim == 4:
        return [(voxels[..., number], affine) for number in range(voxels.shape[3])]
    return [(voxels if voxels.ndim == 3 else np.atleast_3d(voxels), affine)]
