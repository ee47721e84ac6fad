"""Bounds of a DICOM header: what no sound one holds is not handed to a parser, which would."""

from __future__ import annotations

import io
import math
import struct
from typing import BinaryIO

from pydicom.datadict import DicomDictionary

from volumetric.io.dicom.deflate import LONG_VRS

UNDEFINED = 0xFFFFFFFF
# An item takes a parser 20 us and 1 KiB, an element a fifth of it. The functional groups of a
# frame are 3 to 25 items of 30 bytes and more each: those of 10,000 frames pass.
_FREE_ITEMS, _MOST_ITEMS, _SMALLEST_ITEM = 2**14, 2**18, 32
_MOST_ELEMENTS = 2**20
_DEEPEST = 32
_ITEMS = {b"\xfe\xff\x00\xe0": "<", b"\xff\xfe\xe0\x00": ">"}
_LONGEST_VALUE = 2**16  # as long as a value with a short length can be
_MOST_BYTES = 2**27


class HeaderStream(io.BufferedReader):
    """A file of which no more is read than a header needs: a parser believes every length.

    Nor is it ever read to its end at once, as pydicom does to inflate it.
    """

    name = ""  # nor, later, by it
    n_left = _MOST_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes; a ValueError where they are too many."""
        self.n_left -= size if size is not None and size >= 0 else _MOST_BYTES + 1
        if self.n_left < 0:
            raise ValueError("a header of absurd size")
        return super().read(size)


def is_vast(stream: BinaryIO, tag: int, vr: str | None, length: int) -> bool:
    """Whether the value at which a stream stands is more than an image's header holds.

    That is a text of more than 64 KiB; or a sequence of more items than its size warrants, of
    too many elements, or of items of undefined length too deep in each other. Without `vr` the
    data set is implicit.
    """
    if length <= _LONGEST_VALUE or (length == UNDEFINED and vr in ("OB", "OW")):
        return False
    if length != UNDEFINED and vr not in ("SQ", "UN") and not _is_sequence(tag):
        return True
    start = stream.tell()
    sound = _is_sound(stream, length, explicit=vr is not None)
    stream.seek(start)
    return not sound


def _is_sound(stream: BinaryIO, length: int, *, explicit: bool) -> bool:
    start = stream.tell()
    end = math.inf if length == UNDEFINED else start + length
    order = _ITEMS.get(stream.read(4))
    if order is None:
        return False
    stream.seek(start)
    head_of, short, long = (struct.Struct(order + code) for code in ("HHL", "H", "L"))
    n_items, depth = 0, 1
    for _ in range(_MOST_ELEMENTS):
        head = stream.read(8)
        if len(head) < 8 or not depth or stream.tell() > end:
            return n_items <= max(_FREE_ITEMS, (stream.tell() - start) // _SMALLEST_ITEM)
        group, element, n_bytes = head_of.unpack(head)
        if group == 0xFFFE:  # an item begins, or what is of undefined length ends
            n_items += element == 0xE000
            depth += (n_bytes == UNDEFINED) if element == 0xE000 else -1
            if n_items > _MOST_ITEMS or depth > _DEEPEST:
                return False
            continue
        vr = head[4:6] if explicit and head[4:6].isupper() else b""  # some lack it within others
        if vr in LONG_VRS:
            (n_bytes,) = long.unpack(stream.read(4))
        elif vr:
            (n_bytes,) = short.unpack_from(head, 6)
        if n_bytes == UNDEFINED:
            depth += 1
        elif vr != b"SQ" and not (vr in (b"", b"UN") and _is_sequence(group << 16 | element)):
            stream.seek(n_bytes, io.SEEK_CUR)
    return False


def _is_sequence(tag: int) -> bool:
    return bool(DicomDictionary.get(tag, ("",))[0] == "SQ")
