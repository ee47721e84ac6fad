"""Encapsulated pixels: where in a DICOM file each compressed image lies, in one piece or more."""

from __future__ import annotations

import os
from io import FileIO

from volumetric.io.dicom.codecs import CODECS, RLE, DamagedStreamError
from volumetric.io.dicom.slices import Encoding

Span = tuple[int, int]  # first byte, number of bytes

_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_MOST_FRAGMENTS = 2**18


def find_frames(stream: FileIO, encoding: Encoding) -> list[tuple[Span, ...]]:
    """Spans of the fragments of each frame (PS3.5 A.4), in order.

    A fragment that begins as a codestream does begins a frame; of RLE each is one. So neither
    a basic nor an extended offset table is needed, and none can mislead.

    Raises:
        DamagedStreamError: cut, or not as many images as announced.
    """
    syntax = encoding.transfer_syntax or ""
    starts = (b"",) if syntax == RLE else CODECS[syntax].starts
    frames: list[list[Span]] = []
    for span, head in _walk_fragments(stream, encoding.offset or 0):
        if head.startswith(starts):
            frames.append([])
        if not frames:
            raise DamagedStreamError(f"a first fragment that begins no image of {syntax}")
        frames[-1].append(span)
    if len(frames) != encoding.n_frames:
        raise DamagedStreamError(f"{len(frames)} images where the header says {encoding.n_frames}")
    return [tuple(spans) for spans in frames]


def _walk_fragments(stream: FileIO, position: int) -> list[tuple[Span, bytes]]:
    """(span, first bytes) of the fragments that hold something."""
    n_file = stream.seek(0, os.SEEK_END)
    fragments: list[tuple[Span, bytes]] = []
    for index in range(_MOST_FRAGMENTS):
        stream.seek(position)
        head = stream.read(16)
        length = int.from_bytes(head[4:8], "little")
        position += 8
        # Some writers leave the delimiter out; a cut fragment or a missing one is found all the
        # same, since each frame must be whole.
        if not head or head[:4] == _DELIMITER:
            return fragments
        if head[:4] != _ITEM or position + length > n_file:
            raise DamagedStreamError(f"pixels that break off in fragment {index}")
        if index and length:  # the first item is the offset table
            fragments.append(((position, length), head[8 : 8 + length]))
        position += length
    raise DamagedStreamError(f"more than {_MOST_FRAGMENTS} fragments of pixels")
