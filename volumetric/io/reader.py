"""One way in: what a path holds decides how it is read."""

from __future__ import annotations

from pathlib import Path

from volumetric.errors import UnreadableFileError, UnsupportedError
from volumetric.io.nifti import is_nifti, read_nifti
from volumetric.volume import Volume

_DICOM_MAGIC_AT = 128


def read_volume(path: Path | str, *, series_uid: str | None = None) -> Volume:
    """The scan in a NIfTI file, a DICOM file, or a folder holding a DICOM series.

    Returns a Volume (C, D, H, W) in the stored dtype with its affine to mm in RAS+.
    `series_uid` chooses one series where a folder holds several.

    Raises:
        UnreadableFileError: missing, truncated or damaged.
        UnsupportedError: sound, but of a kind that is not read.
        GeometryError: where its voxels lie cannot be proven.
        AmbiguousSeriesError: several series and none chosen.
    """
    path = Path(path)
    if not path.exists():
        raise UnreadableFileError(
            "missing-file",
            "does not exist",
            "Check the path, and --root if it is relative",
            path=path,
        )
    if path.is_file() and is_nifti(path):
        return read_nifti(path)
    if path.is_dir() or _is_dicom(path):
        from volumetric.io.dicom import read_dicom

        return read_dicom(path, series_uid=series_uid)
    raise UnsupportedError(
        "unknown-format",
        f"is neither NIfTI nor DICOM ({path.suffix or 'no suffix'})",
        "Convert it to .nii.gz, or name a folder of DICOM files",
        path=path,
    )


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(_DICOM_MAGIC_AT)
            return file.read(4) == b"DICM"
    except OSError as error:
        raise UnreadableFileError(
            "unreadable-file",
            f"cannot be opened ({error.strerror})",
            "Check its permissions",
            path=path,
        ) from error
