"""Compressed images of DICOM: one codestream to its numbers, proven whole before and after."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.integer[Any]]

RLE = "1.2.840.10008.1.2.5"
_SOI, _EOI, _SOC, _SOT, _EOC = b"\xff\xd8", b"\xff\xd9", b"\xff\x4f", b"\xff\x90", b"\xff\xd9"
_MOST_PADDING = 8  # bytes behind an RLE segment; the standard asks for an even length
_MOST_SEGMENTS = 2**12  # of a header, with the fill bytes between them
_SPARE_BYTES = 16  # of coded data, below which a whole image may hang on any byte
_SOD, _SIZ, _COD, _COC, _SOS, _SOF_LS = 0x93, 0x51, 0x52, 0x53, 0xDA, 0xF7
# Huffman coded: baseline, extended sequential, lossless. Progressive and arithmetic are not DICOM.
_SOF = frozenset({0xC0, 0xC1, 0xC3})
_OTHER_SOF = frozenset({0xC2, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)})
_MOST_BITS = 24  # exact in a round trip through OpenJPEG; 26 are not
# What a small stream may ask a JPEG 2000 decoder to allocate, far above what encoders write:
# tiles of 64 and precincts of 128 or more pixels a side, and a few dozen layers.
_MOST_TILES, _MOST_PARTS, _MOST_LAYERS, _SMALLEST_PRECINCT = 4096, 65536, 1024, 4


class DamagedStreamError(Exception):
    """A codestream is cut, damaged, or not of the image that was announced."""


@dataclass(frozen=True)
class Codestream:
    """What a codestream says of its image.

    Attributes:
        size: (rows, columns).
        n_components: numbers a pixel.
        precision: bits a number.
        signed: whether the numbers themselves have a sign.
        data: the stream without what surrounds it, its end marker included.
    """

    size: tuple[int, int]
    n_components: int
    precision: int
    signed: bool
    data: bytes


def read_jpeg(stream: bytes) -> Codestream:
    """Header of a JPEG or JPEG-LS stream (ITU T.81 B.2, T.87 C.2) that has its end marker."""
    # Behind the end marker come only what makes the length even and what the encoder left.
    end = stream.rfind(_EOI)
    if stream[:2] != _SOI or end < 0 or stream[end + 2 :].strip(b"\0\xff"):
        raise DamagedStreamError("a JPEG stream lacks its begin or end")
    frames = []
    for code, segment in _segments(stream, 2):
        if code in _OTHER_SOF:
            raise DamagedStreamError(f"a JPEG stream of kind FF{code:X}, which DICOM has not")
        if code in _SOF or code == _SOF_LS:
            frames.append(struct.unpack_from(">BHHB", segment))
        if code == _SOS:
            break
    if len(frames) != 1:
        raise DamagedStreamError(f"a JPEG stream with {len(frames)} image headers")
    precision, rows, columns, n_components = frames[0]
    return Codestream((rows, columns), n_components, precision, False, stream[: end + 2])


def read_jpeg2000(stream: bytes) -> Codestream:
    """Header of a JPEG 2000 or HTJ2K stream (ITU T.800 A) that has all its tiles and its end.

    What a JP2 file wraps around the codestream is left out.
    """
    start = stream.find(_SOC + b"\xff\x51")
    if start < 0:
        raise DamagedStreamError("no JPEG 2000 stream begins")
    stream = stream[start:]
    header = None
    position = 2
    for code, segment in _segments(stream, 2, stop=_SOT[1]):
        if code == _SIZ:
            header, n_tiles = _read_siz(segment)
        _check_coding(code, segment)
        position += 4 + len(segment)
    if header is None:
        raise DamagedStreamError("a JPEG 2000 stream without image size")
    end = _walk_tiles(stream, position, n_tiles)
    return Codestream(*header, stream[:end])


def _segments(stream: bytes, position: int, *, stop: int = -1) -> Iterator[tuple[int, bytes]]:
    """(code, payload) of the marker segments from a position, up to the marker `stop`."""
    for _ in range(_MOST_SEGMENTS):
        if stream[position : position + 2] == b"\xff\xff":  # a fill byte
            position += 1
            continue
        marker, code, length = struct.unpack_from(">BBH", stream, position)
        if marker != 0xFF or (code != stop and length < 2):
            raise DamagedStreamError("a codestream with a damaged header")
        if code == stop:
            return
        yield code, stream[position + 4 : position + 2 + length]
        position += 2 + length
    raise DamagedStreamError("a codestream whose header does not end")


def _read_siz(segment: bytes) -> tuple[tuple[tuple[int, int], int, int, bool], int]:
    fields = struct.unpack_from(">H8IHBBB", segment)
    columns, rows, *offsets = fields[1:5]
    tile_columns, tile_rows, *tile_offsets = fields[5:9]
    n_components, depth, *steps = fields[9:]
    if any((*offsets, *tile_offsets)) or steps != [1, 1] or 0 in (tile_columns, tile_rows):
        raise DamagedStreamError("a JPEG 2000 stream of an image that is offset or subsampled")
    n_tiles = -(-columns // tile_columns) * -(-rows // tile_rows)
    if n_tiles > _MOST_TILES:
        raise DamagedStreamError(f"a JPEG 2000 stream with {n_tiles} tiles")
    precision = (depth & 0x7F) + 1
    if precision > _MOST_BITS:
        raise DamagedStreamError(f"a JPEG 2000 stream of {precision} bits, of which some get lost")
    return ((rows, columns), n_components, precision, depth >= 0x80), n_tiles


def _check_coding(code: int, segment: bytes) -> None:
    if code not in (_COD, _COC):
        return
    if code == _COD and struct.unpack_from(">H", segment, 2)[0] > _MOST_LAYERS:
        raise DamagedStreamError("a JPEG 2000 stream of too many layers")
    style, precincts = (segment[0], segment[10:]) if code == _COD else (segment[1], segment[7:])
    if style & 1 and any(min(one & 15, one >> 4) < _SMALLEST_PRECINCT for one in precincts):
        raise DamagedStreamError("a JPEG 2000 stream of too small precincts")


def _walk_tiles(stream: bytes, position: int, n_tiles: int) -> int:
    """Byte behind the end marker, to which the lengths of the tile-parts must lead."""
    tiles, n_segments = set(), 0
    for _ in range(_MOST_PARTS):
        if stream[position : position + 2] != _SOT:
            break
        tile, length = struct.unpack_from(">HI", stream, position + 4)
        for code, segment in _segments(stream, position + 12, stop=_SOD):
            _check_coding(code, segment)
            n_segments += 1
        if n_segments > _MOST_PARTS:
            break
        tiles.add(tile)
        # A length of zero: up to the end.
        position = position + max(length, 14) if length else stream.rfind(_EOC)
    if stream[position : position + 2] != _EOC or tiles != set(range(n_tiles)):
        raise DamagedStreamError("a JPEG 2000 stream that is cut or lacks tiles")
    return position + 2


def decode_jpeg(stream: Codestream) -> Array:
    """Numbers (H, W) of a Huffman-coded JPEG: 8 or 12 bits, or lossless of 2 to 16.

    libjpeg makes up what a stream lacks and passes over what it has too much, and says so in
    warnings that do not reach us. So: with more data behind its own a whole stream gives the
    same image, and with its last bytes changed another.
    """
    values = imagecodecs.jpeg8_decode(stream.data)
    coded = stream.data[:-2].rstrip(b"\xff")
    more = imagecodecs.jpeg8_decode(coded + b"\xb6\xdb\x6d\xb6" * 16 + _EOI)
    if not np.array_equal(values, more):
        raise DamagedStreamError("a JPEG stream that ends before its image")
    # In an image all of one value no byte may make a difference: its code table has but one code.
    if len(coded) - _jpeg_header(coded) < _SPARE_BYTES or values.min() == values.max():
        return values
    n_last = 3 if coded[-5] == 0xFF else 4  # never between the two bytes of a marker
    for flip in (0xA5, 0x5A, 0x3C):
        last = bytes(byte ^ flip if byte ^ flip != 0xFF else 0x7E for byte in coded[-n_last:])
        changed = imagecodecs.jpeg8_decode(coded[:-n_last] + last + _EOI)
        if not np.array_equal(values, changed):
            return values
    raise DamagedStreamError("a JPEG stream that goes on behind its image")


def _jpeg_header(stream: bytes) -> int:
    """Bytes before the coded data."""
    n_bytes = 2
    for code, segment in _segments(stream, 2):
        n_bytes += 4 + len(segment)
        if code == _SOS:
            break
    return n_bytes


def decode_jpegls(stream: Codestream) -> Array:
    """Numbers (H, W) of a JPEG-LS stream; its end marker must be there, or CharLS never ends."""
    return imagecodecs.jpegls_decode(stream.data)


def decode_jpeg2000(stream: Codestream) -> Array:
    """Numbers (H, W) of a JPEG 2000 or HTJ2K stream.

    OpenJPEG for both: of damaged HTJ2K streams it notices a third, OpenJPH one in fifty.
    """
    return imagecodecs.jpeg2k_decode(stream.data)


def decode_rle(stream: bytes, size: tuple[int, int], n_bytes: int) -> Array:
    """Numbers (H, W) of `n_bytes` each, of an RLE frame (PS3.5 G): one segment a byte, high first.

    A segment may end in a few bytes of padding.
    """
    n_segments, *offsets = struct.unpack_from("<16I", stream)
    starts = [*offsets[:n_segments], len(stream)]
    if n_segments != n_bytes or starts[0] != 64 or starts != sorted(starts):
        raise DamagedStreamError(f"an RLE header of {n_segments} segments that makes no sense")
    planes = np.empty((*size, n_bytes), np.uint8)
    for index, (start, stop) in enumerate(pairwise(starts)):
        plane = _unpack(stream[start:stop], size[0] * size[1])
        planes[..., n_bytes - 1 - index] = np.frombuffer(plane, np.uint8).reshape(size)
    return planes.view(f"<u{n_bytes}")[..., 0]


def _unpack(segment: bytes, n_bytes: int) -> bytes:
    """A segment's bytes; behind them a few of padding, 0 or 128 (which says nothing), may stand."""
    for n_padding in range(_MOST_PADDING + 1):
        end = len(segment) - n_padding
        if segment[end:].strip(b"\0\x80"):
            break
        try:
            # No more than that many: two bytes can stand for 128.
            unpacked = bytes(imagecodecs.packbits_decode(segment[:end], out=n_bytes))
        except imagecodecs.PackbitsError:
            continue
        if len(unpacked) == n_bytes:
            return unpacked
    raise DamagedStreamError(f"an RLE segment that does not hold {n_bytes} bytes")


@dataclass(frozen=True)
class Codec:
    """How frames of one transfer syntax are found, read and decoded.

    Attributes:
        starts: what the first fragment of a frame begins with.
        read: header of a codestream.
        decode: numbers of a codestream.
        lossless: whether the syntax lets nothing but exact values through.
    """

    starts: tuple[bytes, ...]
    read: Callable[[bytes], Codestream]
    decode: Callable[[Codestream], Array]
    lossless: bool


_JPEG = (b"\xff\xd8\xff",)
_JPEG_2000 = (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")  # bare, or within a JP2 file
CODECS = {
    "1.2.840.10008.1.2.4.50": Codec(_JPEG, read_jpeg, decode_jpeg, False),
    "1.2.840.10008.1.2.4.51": Codec(_JPEG, read_jpeg, decode_jpeg, False),
    "1.2.840.10008.1.2.4.57": Codec(_JPEG, read_jpeg, decode_jpeg, True),
    "1.2.840.10008.1.2.4.70": Codec(_JPEG, read_jpeg, decode_jpeg, True),
    "1.2.840.10008.1.2.4.80": Codec(_JPEG, read_jpeg, decode_jpegls, True),
    "1.2.840.10008.1.2.4.81": Codec(_JPEG, read_jpeg, decode_jpegls, False),
    "1.2.840.10008.1.2.4.90": Codec(_JPEG_2000, read_jpeg2000, decode_jpeg2000, True),
    "1.2.840.10008.1.2.4.91": Codec(_JPEG_2000, read_jpeg2000, decode_jpeg2000, False),
    "1.2.840.10008.1.2.4.201": Codec(_JPEG_2000, read_jpeg2000, decode_jpeg2000, True),
    "1.2.840.10008.1.2.4.202": Codec(_JPEG_2000, read_jpeg2000, decode_jpeg2000, True),
    "1.2.840.10008.1.2.4.203": Codec(_JPEG_2000, read_jpeg2000, decode_jpeg2000, False),
}
