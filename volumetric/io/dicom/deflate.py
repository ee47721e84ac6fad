"""Deflated DICOM: the file as it would be had it never been deflated."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import BinaryIO

from volumetric.errors import UnreadableFileError

DEFLATED = "1.2.840.10008.1.2.1.99"
_EXPLICIT = b"1.2.840.10008.1.2.1\0\0\0"  # as long as the UID it stands in for
LONG_VRS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT")
_LARGEST_META = 2**16
# Deflate can gain 1032 to 1: headers gain 5, pixels 2 to 4, an image blank throughout all of it.
# So nothing is refused below 64 MiB, which no blank slice reaches, nor below 100 to 1.
_FREE_BYTES = 64 * 2**20
_LARGEST_RATIO = 100
_PIECE_BYTES = 2**16


def inflate(path: Path) -> bytes:
    """A deflated file (PS3.5 A.5) as the bytes of an explicit little-endian one.

    They begin as the file does; offsets in them count from there. They name the explicit
    little-endian transfer syntax, so that a parser does not inflate them again.

    Raises:
        UnreadableFileError: cut or damaged ("bad-header"), or out of all proportion to the
            file ("decompression-bomb").
    """
    try:
        with path.open("rb") as stream:
            # Wherever it is named: it may stand where it means nothing, too.
            meta = _read_meta(stream).replace(DEFLATED.encode(), _EXPLICIT)
            return meta + _inflate_stream(stream, path)
    except OSError as error:
        raise UnreadableFileError(
            "unreadable-file",
            f"cannot be read ({error.strerror})",
            "Check its permissions",
            path=path,
        ) from error


def is_deflated(stream: BinaryIO) -> bool:
    """Whether a file, open at its first byte, says that it is deflated."""
    _, _, named = _read_meta(stream).rpartition(b"\x02\x00\x10\x00UI")
    length = int.from_bytes(named[:2], "little")
    return named[2 : 2 + length].rstrip(b"\0 ") == DEFLATED.encode()


def largest_inflated(n_bytes: int) -> int:
    """The most bytes that a deflated file of `n_bytes` is let inflate to."""
    return max(_FREE_BYTES, _LARGEST_RATIO * n_bytes)


def _inflate_stream(stream: BinaryIO, path: Path) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = bytearray()
    n_taken = 0
    try:
        while not inflater.eof and (piece := stream.read(_PIECE_BYTES)):
            n_taken += len(piece)
            while piece:
                inflated += inflater.decompress(piece, 16 * _PIECE_BYTES)
                piece = inflater.unconsumed_tail
                # Against what it took so far: a bomb is refused at its first 64 MiB.
                _refuse_bomb(len(inflated), n_taken, path)
        inflated += inflater.flush()
    except zlib.error as error:
        raise UnreadableFileError(
            "bad-header", "its deflated data set is damaged", "Copy it again", path=path
        ) from error
    if not inflater.eof:
        raise UnreadableFileError(
            "bad-header", "its deflated data set is cut", "Copy it again", path=path
        )
    return bytes(inflated)


def _refuse_bomb(n_inflated: int, n_deflated: int, path: Path) -> None:
    if n_inflated > largest_inflated(n_deflated):
        raise UnreadableFileError(
            "decompression-bomb",
            f"its first {n_deflated:,} deflated bytes hold {n_inflated:,} and more",
            "Remove it, or export it uncompressed",
            path=path,
        )


def _read_meta(stream: BinaryIO) -> bytes:
    """Preamble and file meta information (group 2, always explicit little endian), verbatim."""
    meta = stream.read(132)
    if meta[128:] != b"DICM":  # a data set without preamble may still begin with group 2
        meta = b""
        stream.seek(0)
    while True:
        element = stream.read(8)
        length = int.from_bytes(element[6:8], "little")
        if element[4:6] in LONG_VRS:
            element += stream.read(4)
            length = int.from_bytes(element[8:12], "little")
        if element[:2] != b"\x02\x00":
            break
        if len(meta) + length > _LARGEST_META:
            raise ValueError("file meta information of absurd size")
        meta += element + stream.read(length)
    stream.seek(len(meta))
    return meta
