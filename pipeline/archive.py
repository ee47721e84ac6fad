"""Archives: a .tar, .tar.gz or .zip unpacked safely, or refused."""

from __future__ import annotations

import lzma
import stat
import tarfile
import zipfile
import zlib
from gzip import BadGzipFile
from pathlib import Path, PurePosixPath, PureWindowsPath

from volumetric.errors import DownloadError

_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,  # what zipfile raises for an encrypted member or an unknown compression
)


def unpack(archive: Path, into: Path) -> None:
    """Put the archive's members under the folder `into`; macOS's resource forks are left out.

    Raises:
        DownloadError: broken, or a member is a link, a device, or leads outside.
    """
    try:
        _extract(archive, into)
    except tarfile.FilterError as error:
        raise _unsafe_member(error.tarinfo.name, archive) from error
    except _BROKEN as error:
        raise DownloadError(
            "bad-archive",
            f"cannot be unpacked ({error})",
            "Name a .tar, .tar.gz or .zip archive in the manifest",
            path=archive,
        ) from error


def _extract(archive: Path, into: Path) -> None:
    # A tar may hold a zip at its end and so look like one; a zip never looks like a tar.
    if not tarfile.is_tarfile(archive):
        _extract_zip(archive, into)
        return

    def keep(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
        _check_member(member.name, archive, is_link=member.issym() or member.islnk())
        return None if _is_debris(member.name) else tarfile.data_filter(member, folder)

    with tarfile.open(archive) as tar:
        tar.extractall(into, filter=keep)


def _extract_zip(archive: Path, into: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            is_link = stat.S_ISLNK(member.external_attr >> 16)
            _check_member(member.orig_filename, archive, is_link=is_link)
            if not _is_debris(member.filename):
                file.extract(member, into)


def _check_member(name: str, archive: Path, *, is_link: bool) -> None:
    path = PureWindowsPath(name)  # it knows the separators and drives of every system
    if is_link or path.anchor or ".." in path.parts:
        raise _unsafe_member(name, archive)


def _unsafe_member(name: str, archive: Path) -> DownloadError:
    return DownloadError(
        "unsafe-archive",
        f"its member {name!r} is a link, a device or leads outside the folder",
        "Do not unpack it; ask its publisher for a clean one",
        path=archive,
    )


def _is_debris(name: str) -> bool:
    """Whether it is a resource fork that macOS adds beside each file."""
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or (bool(parts) and parts[-1].startswith("._"))
