"""Compressed bytes in, a piece at a time, each stream read to its end and verified."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from volumetric.errors import UnreadableFileError

GZIP_MAGIC = b"\x1f\x8b"

# zlib's numbers for what surrounds the deflated data: gzip (CRC-32 and length behind it), or
# whichever of gzip and zlib (Adler-32) the data begins as. zlib itself verifies them.
GZIP = 31
GZIP_OR_ZLIB = 47

_READ_BYTES = 1 << 17  # with these two, faster than the gzip module's own 8 KiB
_PIECE_BYTES = 1 << 18
# A file may be several gzip members behind one another: bgzip makes one every 64 KiB. Each costs
# a call and a copy of what was read ahead, so a million members of nothing would take hours; and
# so might one that spends more bytes than it delivers, which deflate never needs to.
_FREE_MEMBERS = 1000
_BYTES_PER_MEMBER = 4096
_FREE_BYTES = 1 << 20


def inflate(file: FileIO, *, path: Path, wrapper: int = GZIP) -> Iterator[bytes]:
    """Pieces of what the rest of a file inflates to, at most 256 KiB each, to its very end.

    Only zero padding may follow the last member, as for GNU gzip and Python.

    Raises:
        UnreadableFileError: truncated, damaged (by its checksum or length), or made of more
            bytes or members than what it holds accounts for.
    """
    ahead = file.read(_READ_BYTES)
    n_read, n_members, n_bytes = len(ahead), 0, 0
    while ahead:
        member = zlib.decompressobj(wrapper)
        while not member.eof:
            piece = _inflate_piece(member, ahead, path)
            n_bytes += len(piece)
            yield piece
            if member.eof:
                break
            ahead = member.unconsumed_tail or file.read(_READ_BYTES)
            n_read += 0 if member.unconsumed_tail else len(ahead)
            _refuse_nothing(n_read, n_members, n_bytes, path=path)
            if not (piece or ahead):
                raise UnreadableFileError(
                    "truncated-file",
                    f"its compressed data breaks off after {n_bytes:,} bytes",
                    "Copy or export the file again",
                    path=path,
                )
        n_members += 1
        ahead = member.unused_data.lstrip(b"\0")
        while not ahead and (more := file.read(_READ_BYTES)):
            n_read += len(more)
            _refuse_nothing(n_read, n_members, n_bytes, path=path)
            ahead = more.lstrip(b"\0")
        _refuse_nothing(n_read, n_members, n_bytes, path=path)


def _inflate_piece(member: zlib._Decompress, ahead: bytes, path: Path) -> bytes:
    try:
        return member.decompress(ahead, _PIECE_BYTES)
    except zlib.error as error:
        raise UnreadableFileError(
            "damaged-compression",
            f"its compressed data is damaged ({str(error).rpartition(': ')[2]})",
            "Copy or export the file again",
            path=path,
        ) from error


def _refuse_nothing(n_read: int, n_members: int, n_bytes: int, *, path: Path) -> None:
    if (
        n_read > _FREE_BYTES + 2 * n_bytes
        or n_members > _FREE_MEMBERS + n_bytes // _BYTES_PER_MEMBER
    ):
        raise UnreadableFileError(
            "decompression-bomb",
            f"spends {n_read:,} compressed bytes in {n_members} streams on {n_bytes:,} bytes",
            "Compress it again with gzip, if you trust where it comes from",
            path=path,
        )
