"""Which scans lie in a folder: one of each volume file, and of each folder of DICOM files."""

from __future__ import annotations

import os
from pathlib import Path

from volumetric.cases import Case
from volumetric.errors import UnreadableFileError, VolumetricError, printable
from volumetric.io.reader import is_volume_file

_DICOM = (".dcm", ".dicom", ".ima")


def find_scans(path: Path) -> tuple[list[Case], list[VolumetricError]]:
    """A case for every scan at or below `path`, and what could not be searched.

    A scan is a file whose name says NIfTI, NRRD, MetaImage or MGH, or a folder that holds DICOM
    files itself. Links to folders are not followed, hidden files passed over. A case's id is
    its path below `path`; a file that is named itself is taken whatever its name.

    Raises:
        UnreadableFileError: nothing is there, or nothing that is a scan.
    """
    if path.is_file():
        return [_case(path, path.parent)], []
    if not path.is_dir():
        raise UnreadableFileError(
            "missing-file", "is neither a file nor a folder", "Check the path", path=path
        )
    refused: list[VolumetricError] = []
    walk = os.walk(path, onerror=lambda error: refused.append(_unsearched(error)))
    found: list[Path] = []
    for name, folders, names in walk:
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        files = [Path(name) / one for one in sorted(names) if not one.startswith(".")]
        volumes = [one for one in files if is_volume_file(one) and one.is_file()]
        found += volumes
        if any(_is_dicom(one) for one in files if one not in volumes):
            found.append(Path(name))
    if not found and not refused:
        raise UnreadableFileError(
            "nothing-to-check",
            "holds no NIfTI, NRRD, MHA, MGZ or DICOM file",
            "Name the folder that holds the scans, or a manifest",
            path=path,
        )
    return [_case(one, path) for one in found], refused


def _case(scan: Path, folder: Path) -> Case:
    name = printable(scan.name if scan == folder else scan.relative_to(folder).as_posix())
    return Case(name, name, None, scan)


def _is_dicom(file: Path) -> bool:
    # A link is not read as a slice either; DICOMDIR is an index of other files.
    if file.is_symlink() or not file.is_file() or file.name.upper() == "DICOMDIR":
        return False
    if file.suffix.lower() in _DICOM:
        return True
    try:
        with file.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False  # by its name it is no scan, and what it holds cannot be told


def _unsearched(error: OSError) -> UnreadableFileError:
    return UnreadableFileError(
        "unreadable-file",
        f"cannot be searched ({error.strerror})",
        "Check its permissions",
        path=error.filename,
    )
