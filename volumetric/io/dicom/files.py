"""DICOM files: which files of a folder are DICOM, and their headers without pixels."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from volumetric.errors import UnreadableFileError
from volumetric.io.dicom.deflate import inflate

_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_PIXEL_DATA = (0x7FE0, 0x0010)
_UNDEFINED = 0xFFFFFFFF
_META_BYTES = 2048  # where a file says how it is encoded
# How a data set without preamble begins: group 2 or 8, little or big endian.
_BARE_STARTS = tuple(
    struct.pack(f"{order}HH", group, element)
    for order in "<>"
    for group, element in ((2, 0), (8, 0), (8, 5), (8, 8), (8, 0x16))
)


def list_files(path: Path) -> list[Path]:
    """The files at or below a path, in the order of their names; links are not followed.

    Raises:
        UnreadableFileError: there is nothing, or a folder may not be searched.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UnreadableFileError(
            "missing-file", "is neither a file nor a folder", "Check the path", path=path
        )
    # A link may leave the folder, close a loop, or count a slice twice; a pipe blocks for ever.
    # Names with a leading dot are the system's own, such as the "._*" twins macOS leaves.
    files = [
        Path(folder) / name
        for folder, _, names in os.walk(path, onerror=_refuse_folder, followlinks=False)
        for name in names
        if not name.startswith(".")
    ]
    return sorted(file for file in files if file.is_file() and not file.is_symlink())


def _refuse_folder(error: OSError) -> None:
    # Left alone, os.walk passes over a folder it may not enter, and its slices with it.
    raise UnreadableFileError(
        "unreadable-file",
        f"cannot be searched ({error.strerror})",
        "Check its permissions",
        path=error.filename,
    ) from error


def claims_dicom(file: Path, *, asked_for: bool = False) -> bool:
    """Whether a file begins as DICOM does; refused where only its name, or the caller, says so.

    A data set without the preamble of PS3.10, as old archives keep, counts too.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(132)
    except OSError as error:
        raise UnreadableFileError(
            "unreadable-file",
            f"cannot be opened ({error.strerror})",
            "Check its permissions",
            path=file,
        ) from error
    is_dicom = start[128:] == b"DICM" or (len(start) == 132 and start.startswith(_BARE_STARTS))
    # By its name it is a slice: to pass over it would silently shorten the scan.
    if not is_dicom and (asked_for or file.suffix.lower() in _DICOM_SUFFIXES):
        raise UnreadableFileError(
            "not-dicom",
            "does not begin as a DICOM file does (no 'DICM' after 128 bytes)",
            "Copy it again, or remove it if it is no slice",
            path=file,
        )
    return is_dicom


@contextmanager
def parsing(file: Path) -> Iterator[None]:
    """Within it, whatever a damaged header makes the parser raise is a typed error."""
    try:
        yield
    except UnreadableFileError:
        raise
    except Exception as error:
        # An attribute is named by the standard; any other message may quote the header.
        lacking = getattr(error, "name", None) if isinstance(error, AttributeError) else None
        raise UnreadableFileError(
            "bad-header",
            "its header is cut, damaged or lacks a required value "
            f"({lacking or type(error).__name__})",
            "Copy or export it again",
            path=file,
        ) from error


def read_header(file: Path, tags: Sequence[str | int]) -> tuple[Dataset, int | None, int | None]:
    """The data set up to its pixels, of which only `tags` are kept, and where these pixels lie.

    Returns the data set, the byte at which the value of PixelData begins (None without one; in
    the inflated stream if the file is deflated), and its length (None if encapsulated).
    """
    with file.open("rb") as stream:
        meta = stream.read(_META_BYTES)
        stream.seek(0)
        deflated = DeflatedExplicitVRLittleEndian.encode() in meta
        source: BinaryIO = io.BytesIO(inflate(file)) if deflated else stream
        dataset = dcmread(source, stop_before_pixels=True, specific_tags=list(tags), force=True)
        if deflated:
            dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        return dataset, *_find_pixels(source, dataset)


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
    implicit, little = dataset.original_encoding
    order = "<" if little else ">"
    head = stream.read(12)
    if len(head) < 12 or struct.unpack(f"{order}HH", head[:4]) != _PIXEL_DATA:
        return None, None
    if implicit:
        stream.seek(-4, io.SEEK_CUR)
        length = struct.unpack(f"{order}L", head[4:8])[0]
    else:
        if head[4:6] not in (b"OB", b"OW", b"UN"):
            raise ValueError("pixels of an unknown kind")
        length = struct.unpack(f"{order}L", head[8:])[0]
    return stream.tell(), None if length == _UNDEFINED else length
