"""Which scans and clips lie in a folder: one of each file, and of each folder of DICOM files."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from volumetric.cases import Case
from volumetric.errors import UnreadableFileError, printable
from volumetric.findings import Finding, as_finding
from volumetric.io.reader import is_dicom_file, is_volume_file, volume_suffix
from volumetric.io.video import is_video_file

_DICOM = (".dcm", ".dicom", ".ima")
_VOXELS = (".raw", ".zraw", ".gz")  # of a header beside them
_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.xz", ".7z", ".rar")
_PAIRED = {"imagestr": ("labelstr",), "images": ("labels", "masks")}  # nnU-Net's names, and others
_LISTED = 3


@dataclass(frozen=True)
class _Walk:
    """What was met on the way through a folder."""

    scans: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)
    empty: list[Path] = field(default_factory=list)
    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    refused: list[Finding] = field(default_factory=list)


def find_scans(path: Path) -> tuple[list[Case], list[Finding]]:
    """A case for every scan at or below `path`, and what could not be searched or was passed over.

    A scan is a file whose name says NIfTI, NRRD, MetaImage, MGH or video, or a folder that holds
    DICOM files itself. Links to folders are not followed, hidden files passed over. A case's id is
    its path below `path`; a file that is named itself is taken whatever its name.

    Raises:
        UnreadableFileError: nothing is there, or nothing that is a scan.
    """
    if not is_folder(path):
        return [_case(path, path.parent)], []
    met = _walk(path)
    if not met.scans and not met.refused:
        raise _nothing(met, path)
    return [_case(one, path) for one in met.scans], [*met.refused, *_notes(met, path)]


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, and not a file.

    Raises:
        UnreadableFileError: it is neither, or cannot be asked.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
            return stat.S_ISDIR(mode)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # a loop of links, a name no file can have
        raise UnreadableFileError(
            "unreadable-file",
            f"cannot be found ({getattr(error, 'strerror', error)})",
            "Check its name, its links and permissions",
            path=path,
        ) from error
    raise UnreadableFileError(
        "missing-file", "is neither a file nor a folder", "Check the path", path=path
    )


def _walk(path: Path) -> _Walk:
    met = _Walk()
    left = [path]
    while left:  # os.walk calls itself in Python 3.11, and breaks off a thousand folders deep
        here = left.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda one: one.name)
        except OSError as error:
            met.refused.append(as_finding(_unsearched(error, here)))
            continue
        seen = [one for one in entries if not one.name.startswith(".")]
        folders = [one for one in seen if _leads_to_folder(one)]
        met.links.extend(Path(one.path) for one in folders if one.is_symlink())
        left += [Path(one.path) for one in reversed(folders) if not one.is_symlink()]
        met.pairs.extend(_pairs(here, [one.name for one in folders]))
        if not entries:
            met.empty.append(here)
        _sort_files(met, here, [Path(one.path) for one in seen if one not in folders])
    return met


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _sort_files(met: _Walk, here: Path, files: Sequence[Path]) -> None:
    # A link to nothing or a pipe is no scan, but named as one: its reader says so.
    volumes = [one for one in files if is_volume_file(one) or is_video_file(one)]
    met.scans.extend(volumes)
    rest = [one for one in files if one not in volumes and one.name.upper() != "DICOMDIR"]
    slices = {one for one in rest if _is_dicom(one)}
    if slices:
        met.scans.append(here)
        rest = [one for one in rest if not one.is_symlink()]  # of which its reader tells
    met.others.extend(one for one in rest if one not in slices and not _is_part(one, volumes))


def _pairs(here: Path, folders: Sequence[str]) -> list[tuple[Path, Path]]:
    by_name = {one.lower(): here / one for one in folders}
    return [
        (by_name[images], by_name[masks])
        for images, names in _PAIRED.items()
        for masks in names
        if images in by_name and masks in by_name
    ]


def _is_part(file: Path, volumes: Sequence[Path]) -> bool:
    """Whether it holds the voxels of a header beside it."""
    suffix = volume_suffix(file)
    if suffix:  # an .img
        stem = file.name.lower()[: -len(suffix)]
        return any(one.name.lower() in (f"{stem}.hdr", f"{stem}.hdr.gz") for one in volumes)
    detached = any(volume_suffix(one) in (".mhd", ".nhdr") for one in volumes)
    return detached and file.suffix.lower() in _VOXELS


def _case(scan: Path, folder: Path) -> Case:
    name = printable(scan.name if scan == folder else scan.relative_to(folder).as_posix())
    return Case(name, name, None, scan)


def _notes(met: _Walk, folder: Path) -> list[Finding]:
    notes: list[Finding] = []
    if met.others:
        many = len(met.others) > 1
        said = f"{len(met.others)} file{'s are' if many else ' is'} of no kind that is read: "
        notes.append(
            _note("not-looked-at", said + _names(met.others, folder), _advice(met.others), folder)
        )
    if met.links:
        said = f"{len(met.links)} link{'s' * (len(met.links) > 1)} to folders: "
        advice = "Name the folders themselves, if they hold scans"
        notes.append(_note("links-not-followed", said + _names(met.links, folder), advice, folder))
    if met.empty:
        many = len(met.empty) > 1
        said = f"{len(met.empty)} folder{'s hold' if many else ' holds'} no file: "
        advice = "Copy it again, if scans should be there"
        notes.append(_note("empty-folder", said + _names(met.empty, folder), advice, folder))
    for images, masks in met.pairs:
        said = f"{masks.name} lies beside {images.name}, and is not compared with it"
        advice = "Write a manifest that names each image with its mask, and check that"
        notes.append(_note("no-manifest", said, advice, images.parent))
    return notes


def _note(code: str, reason: str, remedy: str, folder: Path) -> Finding:
    return Finding(code, "note", printable(reason), printable(remedy), printable(str(folder)))


def _nothing(met: _Walk, path: Path) -> UnreadableFileError:
    reason = "holds no NIfTI, NRRD, MHA, MGZ, DICOM or video file"
    if met.others:
        count = len(met.others)
        reason += f", but {count} other{'s' * (count > 1)}: {_names(met.others, path)}"
    if met.links:
        reason += f"; links to folders are not followed: {_names(met.links, path)}"
    advice = "Name the folder that holds the scans, or a manifest"
    packed = [one for one in met.others if _is_archive(one)]
    return UnreadableFileError(
        "nothing-to-check", reason, _advice(packed) if packed else advice, path=path
    )


def _advice(files: Sequence[Path]) -> str:
    packed = [one.name for one in files if _is_archive(one)]
    if packed:
        return f"Unpack {packed[0]}: an archive is likely to hold scans"
    return "Nothing to do, if none is a scan; finish a download"


def _is_archive(file: Path) -> bool:
    return file.name.lower().endswith(_ARCHIVES)


def _names(files: Sequence[Path], folder: Path) -> str:
    """The first three, archives before others."""
    ordered = sorted(files, key=lambda one: not _is_archive(one))
    names = ", ".join(_below(one, folder) for one in ordered[:_LISTED])
    return names + (" and others" if len(files) > _LISTED else "")


def _below(path: Path, folder: Path) -> str:
    return path.name if path == folder else path.relative_to(folder).as_posix()


def _is_dicom(file: Path) -> bool:
    if file.is_symlink() or not file.is_file():  # a link is not read as a slice either
        return False
    try:
        return is_dicom_file(file)
    except UnreadableFileError:  # where its name says DICOM, the reader tells what is wrong
        return file.suffix.lower() in _DICOM


def _unsearched(error: OSError, folder: Path) -> UnreadableFileError:
    return UnreadableFileError(
        "unreadable-file",
        f"cannot be searched ({error.strerror})",
        "Check its permissions",
        path=folder,
    )
