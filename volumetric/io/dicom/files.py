"""DICOM files: which files of a folder are DICOM, and their headers without pixels."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from volumetric.errors import UnreadableFileError
from volumetric.io.dicom.bounds import UNDEFINED, HeaderStream, is_vast
from volumetric.io.dicom.deflate import inflate, is_deflated

_SHORTEST_BYTES = 132  # of a preamble with its mark
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_PIXEL_DATA = (0x7FE0, 0x0010)
_ENDS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})  # pixels: real or whole numbers
_CHARSET = 0x00080005  # which pydicom keeps, asked to or not
# How a data set without preamble begins: group 2 or 8, little or big endian.
_BARE_STARTS = tuple(
    struct.pack(f"{order}HH", group, element)
    for order in "<>"
    for group, element in ((2, 0), (8, 0), (8, 5), (8, 8), (8, 0x16))
)


def list_files(path: Path) -> tuple[list[Path], tuple[Path, ...]]:
    """The files at or below a path in the order of their names, and the links not followed.

    Raises:
        UnreadableFileError: there is nothing, or a folder may not be searched.
    """
    if path.is_file():
        return [path], ()
    if not path.is_dir():
        raise UnreadableFileError(
            "missing-file", "is neither a file nor a folder", "Check the path", path=path
        )
    # A link may leave the folder, close a loop, or count a slice twice; a pipe blocks for ever.
    # Names with a leading dot are the system's own, such as the "._*" twins macOS leaves.
    files, links, folders = [], [], [path]
    while folders:  # os.walk calls itself in Python 3.11, and breaks off a thousand folders deep
        for entry in _list_folder(folders.pop()):
            one = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                folders.append(one)
            elif entry.is_symlink() and not entry.name.startswith(".") and not one.is_dir():
                links.append(one)
            elif entry.is_file(follow_symlinks=False) and not entry.name.startswith("."):
                files.append(one)
    return sorted(files), tuple(sorted(links))


def _list_folder(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:  # passed over, its slices would be lost
        raise UnreadableFileError(
            "unreadable-file",
            f"cannot be searched ({error.strerror})",
            "Check its permissions",
            path=folder,
        ) from error


def claims_dicom(file: Path, *, asked_for: bool = False) -> bool:
    """Whether a file begins as DICOM does; refused where only its name, or the caller, says so.

    A data set without the preamble of PS3.10, as old archives keep, counts too.
    """
    start = _read_start(file)
    is_dicom = start[128:] == b"DICM" or (
        len(start) == _SHORTEST_BYTES and start.startswith(_BARE_STARTS)
    )
    # By its name it is a slice: to pass over it would silently shorten the scan.
    if not is_dicom and (asked_for or file.suffix.lower() in _DICOM_SUFFIXES):
        _refuse_empty(file, start)
        raise UnreadableFileError(
            "not-dicom",
            "does not begin as a DICOM file does (no 'DICM' after 128 bytes)",
            "Copy it again, or remove it if it is no slice",
            path=file,
        )
    return is_dicom


def refuse_stump(file: Path) -> None:
    """Refuse a file, named as the slices beside it, that is too short to be one, or only zeros.

    Zeros of the right length are what a copy that broke off leaves.
    """
    start = _read_start(file)
    if len(start) == _SHORTEST_BYTES and any(start):
        return
    _refuse_empty(file, start)
    raise UnreadableFileError(
        "not-dicom",
        "is cut: it is named as the slices beside it, and has no header",
        "Copy it again, or remove it if it is no slice",
        path=file,
    )


def _read_start(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(_SHORTEST_BYTES)
    except OSError as error:
        raise UnreadableFileError(
            "unreadable-file",
            f"cannot be opened ({error.strerror})",
            "Check its permissions",
            path=file,
        ) from error


def _refuse_empty(file: Path, start: bytes) -> None:
    if not start:
        raise UnreadableFileError(
            "empty-file", "is empty", "Copy it again, or remove it if it is no slice", path=file
        )


@cache
def _as_tags(tags: tuple[str | int, ...]) -> frozenset[BaseTag]:
    return frozenset(map(Tag, (*tags, _CHARSET)))


def read_header(
    file: Path, tags: Sequence[str | int]
) -> tuple[Dataset, int | None, int | None, bool]:
    """The data set up to its pixels, of which only `tags` are kept, and where these pixels lie.

    Returns the data set; the byte at which the value of PixelData begins (None without one; in
    the inflated stream if the file is deflated), and its length (None if encapsulated); and
    whether it ends before the pixels, at more than an image's header holds.
    """
    kept = _as_tags(tuple(tags))
    cut = False
    with HeaderStream(io.FileIO(file)) as stream:
        deflated = is_deflated(stream)
        stream.seek(0)
        source = HeaderStream(io.BytesIO(inflate(file))) if deflated else stream

        def stop(tag: int, vr: str | None, length: int) -> bool:
            nonlocal cut
            if tag in _ENDS:
                return True
            # Parsed is what is kept, and what has to be followed to find its end.
            cut = (tag in kept or length == UNDEFINED) and is_vast(source, tag, vr, length)
            return cut

        dataset = read_partial(source, stop, force=True, specific_tags=list(kept))
        if deflated:
            dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        return dataset, *((None, None) if cut else _find_pixels(source, dataset)), cut


def transfer_syntax(dataset: Dataset, length: int | None) -> str | None:
    """UID of the encoding of the pixels; None if neither file nor data set tells.

    A data set without file meta is as its own bytes prove it to be, if its pixels are native.
    """
    named = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if named:
        return str(named)
    if length is None:
        return None
    implicit, little = dataset.original_encoding
    if implicit:
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRLittleEndian if little else ExplicitVRBigEndian)


def _find_pixels(stream: BinaryIO, dataset: Dataset) -> tuple[int | None, int | None]:
    """Where the value of PixelData begins and how long it is; the stream stands at its tag."""
    _, little = dataset.original_encoding
    order = "<" if little else ">"
    head = stream.read(12)
    if len(head) < 12 or struct.unpack(f"{order}HH", head[:4]) != _PIXEL_DATA:
        return None, None
    # By the element itself: some files are written otherwise than their meta header says. Read
    # as an implicit length, these letters are an odd number, which no length is.
    if head[4:6] in (b"OB", b"OW", b"UN") and head[6:8] == b"\0\0":
        length = struct.unpack(f"{order}L", head[8:])[0]
    else:
        stream.seek(-4, io.SEEK_CUR)
        length = struct.unpack(f"{order}L", head[4:8])[0]
        if length % 2 and length != UNDEFINED:
            raise ValueError("pixels of an unknown kind or of an odd length")
    return stream.tell(), None if length == UNDEFINED else length
