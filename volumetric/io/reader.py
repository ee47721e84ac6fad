"""One way in: what a path holds decides how it is read."""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from volumetric.errors import ConfigError, UnreadableFileError, UnsupportedError
from volumetric.io.formats.metaimage import read_metaimage
from volumetric.io.formats.mgh import read_mgh
from volumetric.io.formats.nifti import read_nifti
from volumetric.io.formats.nrrd import read_nrrd
from volumetric.io.video.names import is_video_file
from volumetric.volume import Volume

_READERS: dict[str, Callable[[Path], Volume]] = {
    **dict.fromkeys([".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz"], read_nifti),
    **dict.fromkeys([".mgh", ".mgh.gz", ".mgz"], read_mgh),
    **dict.fromkeys([".nrrd", ".nhdr"], read_nrrd),
    **dict.fromkeys([".mha", ".mhd"], read_metaimage),
}


def volume_suffix(path: Path) -> str:
    """The part of a file's name that says it is a volume: ".nii.gz", ".mha", …; "" if none."""
    name = path.name.lower()
    return max((suffix for suffix in _READERS if name.endswith(suffix)), key=len, default="")


def is_volume_file(path: Path) -> bool:
    """Whether a name says that it is a volume; of a pair only the header's, for both."""
    return volume_suffix(path) not in ("", ".img", ".img.gz")


def read_volume(
    path: Path | str | Sequence[Path | str],
    *,
    series_uid: str | None = None,
    resample_irregular: bool = False,
) -> Volume:
    """The scan in a NIfTI, MGH, NRRD, MetaImage or DICOM file or series' folder, or a video's clip.

    Returns a Volume (C, D, H, W) in the stored dtype with its affine to mm in RAS+; of a video
    all frames at its own rate, uint8 (3, T, H, W) with its affine to (seconds, px, px).
    Several paths at once are the DICOM files of one scan. `series_uid` chooses one series where
    there are several; `resample_irregular` allows that a DICOM stack with irregular or tilted
    slices be resampled onto a regular grid.

    Raises:
        UnreadableFileError: missing, truncated or damaged; a pipe or device.
        UnsupportedError: sound, but of a kind that is not read.
        GeometryError: where its voxels lie cannot be proven.
        AmbiguousSeriesError: several series and none chosen.
        ConfigError: a series was chosen of what is no DICOM.
    """
    path, *others = _list_paths(path)
    if others:
        return _read_files([path, *others], series_uid, resample_irregular=resample_irregular)
    is_folder = _is_folder(path)
    suffix = volume_suffix(path)
    # Old archives name their slices .img, too.
    if not is_folder and suffix and not (suffix == ".img" and is_dicom_file(path)):
        _refuse_choice(path, series_uid)
        return _READERS[suffix](path)
    if not is_folder and is_video_file(path):
        _refuse_choice(path, series_uid)
        from volumetric.io.video import read_clip

        return read_clip(path)
    if is_folder or is_dicom_file(path):
        from volumetric.io.dicom.scan import read_dicom

        return read_dicom(path, series_uid=series_uid, resample_irregular=resample_irregular)
    raise UnsupportedError(
        "unknown-format",
        f"is neither NIfTI, MGH, NRRD, MetaImage, DICOM nor video ({path.suffix or 'no suffix'})",
        "Convert it to .nii.gz, or name a folder of DICOM files",
        path=path,
    )


def _list_paths(path: Path | str | Sequence[Path | str]) -> list[Path]:
    several = [path] if isinstance(path, Path | str) else path
    if not several or "" in several:  # as a path, an empty name is the folder one is in
        raise UnreadableFileError("missing-file", "no path was given", "Name a file or folder")
    return [Path(one) for one in several]


def _read_files(paths: list[Path], series_uid: str | None, *, resample_irregular: bool) -> Volume:
    from volumetric.io.dicom.scan import read_dicom

    for path in paths:
        named = volume_suffix(path) not in ("", ".img")
        if _is_folder(path) or named or is_video_file(path) or not is_dicom_file(path):
            raise UnsupportedError(
                "several-files",
                "is one of several paths, and no DICOM file",
                "Name one volume, or only the DICOM files of one scan",
                path=path,
            )
    return read_dicom(paths, series_uid=series_uid, resample_irregular=resample_irregular)


def _refuse_choice(path: Path, series_uid: str | None) -> None:
    if series_uid is not None:
        raise ConfigError(
            "series-of-no-dicom",
            f"is one volume, of which no series {series_uid!r} can be chosen",
            "Leave series_uid= (in a manifest, the column `series`) out: it is for DICOM",
            path=path,
        )


def _is_folder(path: Path) -> bool:
    """Whether it is a folder, not a file; refused where it is neither."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UnreadableFileError(
            "missing-file",
            "does not exist",
            "Check the path, and --root if it is relative",
            path=path,
        ) from error
    except (OSError, ValueError) as error:  # a loop of links, a name no file can have
        raise UnreadableFileError(
            "unreadable-file",
            f"cannot be found ({getattr(error, 'strerror', error)})",
            "Check its name, its links and permissions",
            path=path,
        ) from error
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        # A pipe is waited for and a device may have no end.
        raise UnreadableFileError(
            "not-a-file", "is a pipe, socket or device", "Name a file", path=path
        )
    return stat.S_ISDIR(mode)


def is_dicom_file(path: Path) -> bool:
    """Whether a file begins as DICOM does, suffix or none, preamble or none.

    Raises:
        UnreadableFileError: it cannot be opened, or only its name says that it is DICOM.
    """
    from volumetric.io.dicom.files import claims_dicom  # pydicom loads only where it is needed

    return claims_dicom(path)
