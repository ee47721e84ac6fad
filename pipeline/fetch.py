"""Fetch a data set: the archive its manifest names, verified, unpacked and complete."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import yaml
from pydantic import BaseModel, ConfigDict
from pydantic import ValidationError as InvalidError

from pipeline.archive import unpack
from pipeline.manifest import Archive
from pipeline.medmnist import unpack_arrays
from volumetric.cases import read_cases
from volumetric.errors import DownloadError, ManifestError, OutputError, UnreadableFileError

_log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 18
_TIMEOUT_S = 30.0
_WAITS_S = (1.0, 2.0, 4.0)  # between attempts that brought nothing new; then it gives up
_TRY_LATER = (408, 425, 429)


def ignore(done_bytes: int, total_bytes: int | None) -> None:
    """Progress that nobody watches."""


def fetch(
    manifest: Path,
    *,
    to: Path,
    source: Path | None = None,
    progress: Callable[[int, int | None], None] = ignore,
) -> Path:
    """The folder that holds every image and mask of the data set a manifest's YAML names.

    A complete folder is returned as it is. Otherwise the archive is downloaded, resuming what an
    earlier attempt left, compared with its checksum, unpacked beside and moved into place whole.
    What was downloaded is removed once it is unpacked; a local `source` is never changed.

    Args:
        manifest: the YAML; its `cases` names the CSV beside it.
        to: where the archive's folder is put: the result is `to / archive.folder`.
        source: a local archive, used in place of the download, or a folder that holds the data
            already, which is returned where it lies.
        progress: called with (bytes done, bytes in all or None if unknown) while downloading.

    Raises:
        DownloadError: no archive, offline, refused, wrong checksum, unsafe or incomplete.
        ManifestError: the YAML or its CSV does not describe a data set.
        UnreadableFileError: the manifest or `source` cannot be read.
        OutputError: `to` cannot be written.
    """
    record = _read_record(manifest)
    cases, archive = manifest.parent / record.cases, record.archive
    if source is not None and source.is_dir():
        return _find_data(source, cases, archive)
    if archive is None:
        raise DownloadError(
            "no-archive",
            "the manifest names no archive to download",
            "Get the data as its description says and pass its folder with --from",
            path=manifest,
        )
    data = to / archive.folder
    if data.exists():
        _check_complete(data, cases, remedy="Move or remove this folder and fetch again")
        return data
    if source is not None and not archive.arrays:  # which are compared themselves
        _check_sum(source, archive.md5, remedy="Download it again: it is damaged or another one")
    try:
        to.mkdir(parents=True, exist_ok=True)
        if source is not None:
            _unpack(source, data, record, cases=cases)
            return data
        part = to / f"{PurePosixPath(archive.url.path or '').name or 'archive'}.part"
        _download(archive, part, progress)
        _unpack(part, data, record, cases=cases)
        part.unlink()
    except OSError as error:
        raise OutputError(
            "cannot-write", f"cannot be written ({error})", "Choose another with --to", path=to
        ) from error
    return data


class _Record(BaseModel):
    """The part of a manifest's YAML that fetching needs; the rest is the loader's to judge."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    cases: str
    labels: tuple[str, ...] = ()
    archive: Archive | None = None


def _read_record(manifest: Path) -> _Record:
    try:
        return _Record.model_validate(yaml.safe_load(manifest.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise UnreadableFileError(
            "unreadable-manifest", f"cannot be read ({error})", "Check the path", path=manifest
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(
            "bad-manifest", f"is not YAML ({error})", "Repair the file", path=manifest
        ) from error
    except InvalidError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ManifestError(
            "bad-manifest",
            f"{field}: {first['msg']}, got {first['input']!r}",
            "Write it as the README of data_manifests says",
            path=manifest,
        ) from error


def _missing(data: Path, cases: Path) -> list[str]:
    listed = read_cases(cases, root=data)
    paths = [path for case in listed for path in (case.image, case.mask, case.boxes)]
    return [p.relative_to(data).as_posix() for p in paths if p is not None and not p.is_file()]


def _check_complete(data: Path, cases: Path, *, remedy: str) -> None:
    if missing := _missing(data, cases):
        raise DownloadError(
            "incomplete-data",
            f"lacks {len(missing)} of the files {cases.name} lists, first {missing[0]}",
            remedy,
            path=data,
        )


def _find_data(source: Path, cases: Path, archive: Archive | None) -> Path:
    """`source`, or the archive's folder inside it: whichever holds every file."""
    if archive is not None and not _missing(source / archive.folder, cases):
        return source / archive.folder
    _check_complete(source, cases, remedy="Pass the folder the paths in the CSV start from")
    return source


def _md5(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise UnreadableFileError(
            "unreadable-archive", f"cannot be read ({error})", "Check the path", path=path
        ) from error


def _check_sum(path: Path, expected: str, *, remedy: str) -> None:
    found = _md5(path)
    if found != expected:
        raise DownloadError(
            "checksum-mismatch", f"its MD5 is {found}, expected {expected}", remedy, path=path
        )


def _unpack(archive: Path, data: Path, record: _Record, *, cases: Path) -> None:
    """Make `data` the archive's folder, whole or not at all."""
    assert record.archive is not None
    folder, arrays = record.archive.folder, record.archive.arrays
    data.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=data.parent, prefix=".fetch-") as scratch:
        if arrays:
            unpack_arrays(
                archive,
                Path(scratch, folder),
                arrays=arrays,
                spacing_mm=record.archive.spacing_mm or (1.0, 1.0, 1.0),
                labels=record.labels,
            )
        else:
            unpack(archive, Path(scratch))
        unpacked = Path(scratch, folder)
        if missing := _missing(unpacked, cases):
            raise DownloadError(
                "incomplete-data",
                f"lacks {len(missing)} of the files {cases.name} lists in folder {folder!r}, "
                f"first {missing[0]}",
                "Correct the manifest's archive.folder or its CSV",
                path=archive,
            )
        unpacked.rename(data)


class _InterruptedError(Exception):
    """The network failed in a way that may pass."""

    def __init__(self, reason: str, *, reached: bool):
        super().__init__(reason)
        self.reached = reached


def _download(archive: Archive, part: Path, progress: Callable[[int, int | None], None]) -> None:
    """Make `part` the archive, whatever an earlier attempt left of it."""
    if part.exists() and _md5(part) == archive.md5:
        return  # only the unpacking failed last time
    largest, waits = _size(part), iter(_WAITS_S)
    while True:
        try:
            _receive(str(archive.url), part, progress)
            break
        except _InterruptedError as error:
            if _size(part) > largest:  # a shaky line that still brings data is not given up
                largest, waits = _size(part), iter(_WAITS_S)
            wait_s = next(waits, None)
            if wait_s is None:
                raise DownloadError(
                    "download-interrupted" if error.reached else "offline",
                    f"cannot be downloaded ({error})",
                    "Fetch again, which resumes, or download it elsewhere and pass the file with "
                    "--from",
                    path=str(archive.url),
                ) from error
            _log.warning("%s: %s; next attempt in %.0f s", archive.url, error, wait_s)
            time.sleep(wait_s)
    try:
        _check_sum(part, archive.md5, remedy="It was removed: fetch again, or correct the manifest")
    except DownloadError:
        part.unlink()  # resuming it could never end well
        raise


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive(url: str, part: Path, progress: Callable[[int, int | None], None]) -> None:
    """Append to `part` what it lacks; start it again if the server knows no ranges."""
    done = _size(part)
    reply = _open(url, done)
    if reply is None:
        return
    with reply:
        resumes = reply.status == 206
        if resumes and not re.match(rf"bytes {done}-", reply.headers.get("Content-Range", "")):
            part.unlink(missing_ok=True)
            raise _InterruptedError("the server sent another range than asked", reached=True)
        done = done if resumes else 0
        total = None if reply.length is None else done + reply.length
        with part.open("ab" if resumes else "wb") as file:
            progress(done, total)
            for chunk in _chunks(reply):
                file.write(chunk)
                done += len(chunk)
                progress(done, total)
    # http.client does not complain when a body read in pieces ends early.
    if total is not None and done < total:
        raise _InterruptedError(f"the connection ended at {done} of {total} bytes", reached=True)


def _open(url: str, start: int) -> HTTPResponse | None:
    """The server's reply from byte `start` on; None if nothing lies beyond it."""
    headers = {"User-Agent": "volumetric"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        reply: HTTPResponse = urlopen(Request(url, headers=headers), timeout=_TIMEOUT_S)
        return reply
    except HTTPError as error:
        error.close()
        if error.code == 416 and start:
            return None
        reason = f"the server answered {error.code} {error.reason}"
        if error.code in _TRY_LATER or error.code >= 500:
            raise _InterruptedError(reason, reached=True) from error
        raise DownloadError(
            "download-refused",
            reason,
            "Check the address in the manifest, or download it elsewhere and pass it with --from",
            path=url,
        ) from error
    except URLError as error:  # no connection was made
        raise _InterruptedError(str(error.reason), reached=False) from error
    except (OSError, HTTPException) as error:
        raise _InterruptedError(f"the connection failed: {error}", reached=True) from error


def _chunks(reply: HTTPResponse) -> Iterator[bytes]:
    """The body in pieces; apart from the writing, whose OSErrors are not the network's."""
    try:
        while chunk := reply.read(_CHUNK_BYTES):
            yield chunk
    except (OSError, HTTPException) as error:
        raise _InterruptedError(f"the connection failed: {error}", reached=True) from error
