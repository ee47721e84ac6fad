"""Which scans lie in a folder: one of each volume file, and of each folder of DICOM files."""

from __future__ import annotations

import os
from pathlib import Path

from volumetric.cases import Case
from volumetric.errors import UnreadableFileError, printable
from volumetric.findings import Finding, as_finding
from volumetric.io.reader import is_dicom_file, is_volume_file, volume_suffix

_DICOM = (".dcm", ".dicom", ".ima")
_VOXELS = (".raw", ".zraw", ".gz")  # of a header beside them
_LISTED = 3


def find_scans(path: Path) -> tuple[list[Case], list[Finding]]:
    """A case for every scan at or below `path`, and what could not be searched or was passed over.

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
    noticed: list[Finding] = []
    walk = os.walk(path, onerror=lambda error: noticed.append(as_finding(_unsearched(error))))
    found: list[Path] = []
    others: list[Path] = []
    for name, folders, names in walk:
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        files = [Path(name) / one for one in sorted(names) if not one.startswith(".")]
        # A link to nothing or a pipe is no scan, but named as one: its reader says so.
        volumes = [one for one in files if is_volume_file(one)]
        found += volumes
        rest = [one for one in files if one not in volumes]
        if any(_is_dicom(one) for one in rest):
            found.append(Path(name))  # whose reader says what of it is no slice
        else:
            headers = any(volume_suffix(one) in (".mhd", ".nhdr") for one in volumes)
            others += [
                one
                for one in rest
                if not (volume_suffix(one) or (headers and one.suffix.lower() in _VOXELS))
            ]
    if not found and not noticed:
        raise UnreadableFileError(
            "nothing-to-check",
            "holds no NIfTI, NRRD, MHA, MGZ or DICOM file",
            "Name the folder that holds the scans, or a manifest",
            path=path,
        )
    if others:
        noticed.append(_passed_over(others, path))
    return [_case(one, path) for one in found], noticed


def _case(scan: Path, folder: Path) -> Case:
    name = printable(scan.name if scan == folder else scan.relative_to(folder).as_posix())
    return Case(name, name, None, scan)


def _passed_over(files: list[Path], folder: Path) -> Finding:
    names = ", ".join(one.relative_to(folder).as_posix() for one in files[:_LISTED])
    many = len(files) > 1
    return Finding(
        "not-looked-at",
        "note",
        printable(
            f"{len(files)} file{'s are' if many else ' is'} of no kind that is read: {names}"
            + (" and others" if len(files) > _LISTED else "")
        ),
        "Nothing to do, if none is a scan; unpack an archive, and finish a download",
        printable(str(folder)),
    )


def _is_dicom(file: Path) -> bool:
    # A link is not read as a slice either; DICOMDIR is an index of other files.
    if file.is_symlink() or not file.is_file() or file.name.upper() == "DICOMDIR":
        return False
    try:
        return is_dicom_file(file)
    except UnreadableFileError:  # where its name says DICOM, the reader tells what is wrong
        return file.suffix.lower() in _DICOM


def _unsearched(error: OSError) -> UnreadableFileError:
    return UnreadableFileError(
        "unreadable-file",
        f"cannot be searched ({error.strerror})",
        "Check its permissions",
        path=error.filename,
    )
