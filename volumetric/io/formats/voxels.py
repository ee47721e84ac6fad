"""The voxels in a file, read once it is proven to hold exactly what its header claims."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from volumetric.errors import UnreadableFileError
from volumetric.io.formats.inflate import GZIP, GZIP_MAGIC, GZIP_OR_ZLIB, inflate

Shape = tuple[int, int, int]
# Nothing; the whole file, header and all (.nii.gz, .mgz); or only its voxels (.nrrd, .mha).
Compression = Literal["none", "file", "voxels"]

# Deflate spends two bits at least on 258 bytes (RFC 1951): whoever claims more than 1032 bytes
# for one lies. An empty mask comes close to it, so a ratio alone convicts nobody: scans compress
# 2:1, masks 30:1 to 1000:1. Size alone does not either. Above 200:1 we therefore ask by size:
# - up to 256 MiB it is read: no more memory than that can be lost;
# - up to 384 MiB (an empty uint8 mask of 512x512x1500 takes 375) the stream is verified to its
#   end first, which takes a second but no memory;
# - beyond, it is refused: an empty float64 mask is, and can be stored as uint8.
# What is claimed to be thicker is given up where it still is that thin after 256 MiB. Nothing
# rests on the length that gzip notes in its last bytes: whoever lies in the header lies there.
_LARGEST_RATIO = 1032
_USUAL_RATIO = 200
_HARMLESS_BYTES = 1 << 28
_LARGEST_MASK_BYTES = 3 << 27
_LARGEST_PADDING = 4096 + 1
# What is downloaded or sent in place of a volume, by how it begins.
_OTHER_KINDS = {
    b"PK\x03\x04": ("a zip archive", "Unpack it, and name what it holds"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "Unpack it, and name what it holds"),
    b"Rar!": ("a RAR archive", "Unpack it, and name what it holds"),
    b"%PDF": ("a PDF", "Name the scan itself"),
    b"<!doctype html": ("a web page", "Download it again: a page came in place of the file"),
    b"<html": ("a web page", "Download it again: a page came in place of the file"),
}


@contextmanager
def open_regular(path: Path) -> Iterator[FileIO]:
    """A file to read from, unbuffered; whatever the system refuses meanwhile is a typed error.

    Raises:
        UnreadableFileError: missing, not permitted, a loop of links, an impossible name; a
            folder, a pipe, a socket or a device, which may have no end; too large for memory.
    """
    try:
        with os.fdopen(_open_descriptor(path), "rb", buffering=0) as file:
            yield file
    except FileNotFoundError as error:
        raise UnreadableFileError(
            "missing-file", "does not exist", "Check the path", path=path
        ) from error
    except IsADirectoryError as error:
        raise UnreadableFileError(
            "not-a-file", "is a folder, pipe or device", "Name a file", path=path
        ) from error
    except OSError as error:
        raise UnreadableFileError(
            "unreadable-file",
            f"cannot be opened or read ({error.strerror})",
            "Check its name and permissions, and the disk",
            path=path,
        ) from error
    except MemoryError as error:
        raise UnreadableFileError(
            "too-large", "does not fit into memory", "Crop it, or use another machine", path=path
        ) from error


def _open_descriptor(path: Path) -> int:
    # Without O_NONBLOCK a pipe that nobody writes to would be waited for, for ever.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except ValueError as error:  # a null character, or one this system has no bytes for
        raise OSError(0, "no file can have this name") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IsADirectoryError
    return descriptor


def file_size(path: Path) -> int:
    """How many bytes a file holds."""
    with open_regular(path) as file:
        return os.fstat(file.fileno()).st_size


def is_gzip(path: Path) -> bool:
    """Whether a file begins as gzip does, whatever its name says."""
    with open_regular(path) as file:
        return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def ends_in_padding(path: Path, n_bytes: int) -> bool:
    """Whether the last bytes of a file are zeros, and few enough to fill up a block."""
    if not 0 <= n_bytes < _LARGEST_PADDING:
        return False
    with open_regular(path) as file:
        file.seek(os.fstat(file.fileno()).st_size - n_bytes)
        return not any(file.read(n_bytes))


def read_head(path: Path, n_bytes: int) -> bytes:
    """The first bytes of a file, inflated if it is gzip; fewer where it ends before.

    Raises:
        UnreadableFileError: as `open_regular`; empty; damaged compression; an archive, a PDF or
            a web page.
    """
    head = _read_head(path, n_bytes)
    start = head[:200].lstrip().lower()
    for magic, (kind, remedy) in _OTHER_KINDS.items():
        if start.startswith(magic.lower()):
            raise UnreadableFileError(
                "other-format", f"is {kind}, whatever its name says", remedy, path=path
            )
    return head


def _read_head(path: Path, n_bytes: int) -> bytes:
    compressed = is_gzip(path)
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise UnreadableFileError("empty-file", "is empty", "Copy it again", path=path)
        if not compressed:
            return file.read(n_bytes)
        head = b""
        for piece in inflate(file, path=path):
            head += piece
            if len(head) >= n_bytes:
                break
        return head[:n_bytes]


def read_voxels(
    path: Path,
    *,
    shape: Shape,
    dtype: np.dtype[np.generic],
    offset: int | None,
    compression: Compression = "none",
    n_behind: int = 0,
) -> NDArray[np.generic]:
    """Voxels (D, H, W), W running fastest in the file, in the byte order of this machine.

    `offset` is where they begin in the file, before compression where the whole file is
    compressed; None: they are its last bytes. Compressed data is read to its end and verified.
    Up to `n_behind` bytes may follow the voxels: any more means that the header is wrong.

    Raises:
        UnreadableFileError: as `open_regular`; the file holds fewer or more bytes than claimed
            or is damaged; or it is a decompression bomb.
    """
    n_bytes = math.prod(shape) * dtype.itemsize
    with open_regular(path) as file:
        n_held = os.fstat(file.fileno()).st_size
        if compression == "none":
            begin = max(0, n_held - n_bytes) if offset is None else offset
            n_behind = max(n_behind, _zero_padding(file, begin + n_bytes, shape, dtype))
            _check_length(max(0, n_held - begin), n_bytes, n_behind, path=path)
            flat = np.fromfile(file, dtype, math.prod(shape), offset=begin)
            _check_length(flat.nbytes, n_bytes, n_behind, path=path)
        else:
            start, skip = (0, offset or 0) if compression == "file" else (offset or 0, 0)
            stream = _Stream(file, start, GZIP if compression == "file" else GZIP_OR_ZLIB)
            span = range(skip, skip + n_bytes)
            flat = _inflate_span(stream, span, n_behind=n_behind, path=path).view(dtype)
    if not flat.dtype.isnative:
        flat = flat.byteswap(inplace=True).view(flat.dtype.newbyteorder("="))
    return flat.reshape(shape)


class _Stream(NamedTuple):
    file: FileIO
    start: int
    wrapper: int


def _inflate_span(stream: _Stream, span: range, *, n_behind: int, path: Path) -> NDArray[np.uint8]:
    """The bytes of `span`, counted in what the stream inflates to."""
    n_held = max(0, os.fstat(stream.file.fileno()).st_size - stream.start)
    if span.stop > _LARGEST_RATIO * n_held:
        _check_length(n_held, span.stop, n_behind, path=path)
    is_thin = len(span) > max(_HARMLESS_BYTES, _USUAL_RATIO * n_held)
    if is_thin:
        if len(span) > _LARGEST_MASK_BYTES:
            raise _bomb(len(span), n_held, path)
        for _ in _pieces(stream, span, n_behind=n_behind, path=path):
            pass  # verified
    voxels = np.empty(len(span), np.uint8)
    for at, piece in _pieces(stream, span, n_behind=n_behind, path=path):
        n_spent = stream.file.tell() - stream.start
        if not is_thin and at > max(_HARMLESS_BYTES, _USUAL_RATIO * n_spent):
            raise _bomb(at, n_spent, path)
        voxels.data[at : at + len(piece)] = piece
    return voxels


def _pieces(
    stream: _Stream, span: range, *, n_behind: int, path: Path
) -> Iterator[tuple[int, bytes]]:
    """Where in `span` each inflated piece lies, and the piece."""
    stream.file.seek(stream.start)
    n_delivered = 0
    for piece in inflate(stream.file, path=path, wrapper=stream.wrapper):
        first, n_delivered = n_delivered, n_delivered + len(piece)
        if n_delivered > span.stop + n_behind:
            break
        inside = piece[max(0, span.start - first) : max(0, span.stop - first)]
        if inside:
            yield max(first, span.start) - span.start, inside
    _check_length(n_delivered, span.stop, n_behind, path=path)


def _zero_padding(file: FileIO, end: int, shape: Shape, dtype: np.dtype[np.generic]) -> int:
    """Bytes behind raw voxels that fill up a block of the disk or tape: zeros, of less a slice."""
    n_extra = os.fstat(file.fileno()).st_size - end
    if not 0 < n_extra < min(_LARGEST_PADDING, shape[1] * shape[2] * dtype.itemsize):
        return 0
    file.seek(end)
    extra = file.read(n_extra)
    file.seek(0)
    return 0 if any(extra) else n_extra


def _check_length(n_held: int, n_claimed: int, n_behind: int, *, path: Path) -> None:
    if n_held < n_claimed:
        raise UnreadableFileError(
            "truncated-file",
            f"holds {n_held:,} of the {n_claimed:,} bytes that its header claims",
            "Copy or export the file again",
            path=path,
        )
    if n_held > n_claimed + n_behind:
        raise UnreadableFileError(
            "trailing-bytes",
            f"holds {n_held:,} bytes or more, and its header claims {n_claimed:,}: its size or "
            "type of voxel may be wrong",
            "Export the file again",
            path=path,
        )


def _bomb(n_bytes: int, n_held: int, path: Path) -> UnreadableFileError:
    return UnreadableFileError(
        "decompression-bomb",
        f"claims {n_bytes:,} bytes of voxels from {n_held:,}, as no scan compresses",
        "If you trust where it comes from, store it uncompressed or as uint8",
        path=path,
    )
