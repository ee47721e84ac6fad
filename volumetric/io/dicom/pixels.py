"""DICOM pixels: stored values of slices, decoded in parallel; nothing is taken on trust."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetric.io.dicom.codecs import CODECS, RLE, Codestream, DamagedStreamError, decode_rle
from volumetric.io.dicom.deflate import DEFLATED, inflate
from volumetric.io.dicom.encoding import (
    BIG_ENDIAN,
    LARGEST_FRAME,
    NATIVE,
    bad_pixels,
    check_encoding,
    check_proportion,
    image_bytes,
    reading,
)
from volumetric.io.dicom.fragments import Span, find_frames
from volumetric.io.dicom.slices import Encoding, Slice

Array = NDArray[np.integer[Any]]

_LARGEST_HEADER = 2**16  # of a codestream


@dataclass(frozen=True)
class _Source:
    """Where the frames of one file lie, each in one span or more; `inflated` if it is deflated."""

    frames: Sequence[tuple[Span, ...]]
    inflated: bytes | None


def read_stored(slices: Sequence[Slice]) -> list[Array]:
    """Stored values (H, W) of each slice, in their order: uint8, int16, … as their file says.

    Unused high bits are cleared, or filled with the sign; neither rescaled nor inverted. Each
    file is opened and searched for its frames once; these are decoded on all cores.

    Raises:
        UnreadableFileError: cut, damaged, or other than its header says.
        UnsupportedError: what `check_encoding` refuses.
    """
    files = {one.path: one for one in slices}
    for one in files.values():
        check_encoding(one)
    check_proportion(slices)
    # Few large images at a time: a decoder takes several times the memory of its image.
    largest = max((image_bytes(one.encoding) for one in slices), default=1)
    n_workers = max(1, min(os.cpu_count() or 1, LARGEST_FRAME // largest))
    with ThreadPoolExecutor(n_workers) as pool:
        sources = dict(zip(files, pool.map(_find_frames, files.values()), strict=True))
        return list(pool.map(_read_slice, slices, (sources[one.path] for one in slices)))


def _find_frames(one: Slice) -> _Source:
    encoding = one.encoding
    offset, n_bytes = encoding.offset or 0, image_bytes(encoding)
    with reading(one), one.path.open("rb", buffering=0) as stream:
        if encoding.transfer_syntax not in NATIVE:
            return _Source(find_frames(stream, encoding), None)
    inflated = inflate(one.path) if encoding.transfer_syntax == DEFLATED else None
    spans = [((offset + index * n_bytes, n_bytes),) for index in range(encoding.n_frames)]
    return _Source(spans, inflated)


def _read_slice(one: Slice, source: _Source) -> Array:
    if not 0 <= one.frame < len(source.frames):
        raise bad_pixels(one, f"has no image {one.frame}")
    spans, n_frame = source.frames[one.frame], image_bytes(one.encoding)
    if sum(n_bytes for _, n_bytes in spans) > 4 * n_frame + _LARGEST_HEADER:
        raise bad_pixels(one, f"compresses an image of {n_frame:,} bytes into many more")
    with reading(one), _open(one.path, source) as stream:
        if one.encoding.transfer_syntax in NATIVE:
            return _read_native(stream, spans[0], one.encoding)
        return _decode(b"".join(_read_span(stream, span) for span in spans), one.encoding)


def _open(path: Path, source: _Source) -> FileIO | BytesIO:
    return FileIO(path) if source.inflated is None else BytesIO(source.inflated)


def _read_span(stream: FileIO | BytesIO, span: Span) -> bytes:
    stream.seek(span[0])
    return stream.read(span[1])


def _read_native(stream: FileIO | BytesIO, span: Span, encoding: Encoding) -> Array:
    stored = np.empty(encoding.size, _dtype(encoding))
    n_read, view = 0, memoryview(stored.data).cast("B")
    stream.seek(span[0])
    while n_read < span[1] and (n_more := stream.readinto(view[n_read:])):
        n_read += n_more
    if n_read != span[1]:
        raise DamagedStreamError(f"{span[1] - n_read} bytes too few for its pixels")
    if encoding.transfer_syntax == BIG_ENDIAN:
        stored.byteswap(inplace=True)
    _drop_unused(stored, encoding.bits[1])
    return stored


def _drop_unused(stored: Array, n_bits: int) -> None:
    """Clear bits from `n_bits` on, or fill them with the sign, in place."""
    unused = 8 * stored.itemsize - n_bits
    if unused:
        np.left_shift(stored, unused, out=stored)
        np.right_shift(stored, unused, out=stored)  # of signed integers keeps the sign


def _decode(data: bytes, encoding: Encoding) -> Array:
    dtype = _dtype(encoding)
    if encoding.transfer_syntax == RLE:
        stored = decode_rle(data, encoding.size, dtype.itemsize).astype(dtype)
        _drop_unused(stored, encoding.bits[1])
        return stored
    codec = CODECS[encoding.transfer_syntax or ""]
    stream = codec.read(data)
    if stream.size != encoding.size or stream.n_components != 1:
        raise DamagedStreamError(
            f"{stream.n_components} x {stream.size} pixels where the header says {encoding.size}"
        )
    if stream.precision > encoding.bits[0]:
        raise DamagedStreamError(
            f"numbers of {stream.precision} bits where the header says {encoding.bits[0]}"
        )
    values = codec.decode(stream)
    if values.shape != encoding.size:
        raise DamagedStreamError(f"{values.shape} pixels where its own header says {stream.size}")
    if stream.signed == encoding.signed:
        return _as_numbers(values, encoding, lossless=codec.lossless)
    return _as_bits(values, encoding, stream, lossless=codec.lossless)


def _as_numbers(values: Array, encoding: Encoding, *, lossless: bool) -> Array:
    """Values of a stream whose sign is the header's, in the bits that the header says.

    Lossy ones may overshoot, and then belong at the end of the range: bits dropped would put
    them at its other end.
    """
    stored = values.astype(_dtype(encoding))
    if lossless:
        _drop_unused(stored, encoding.bits[1])
        return stored
    return np.clip(stored, *_stored_range(encoding), out=stored)


def _as_bits(values: Array, encoding: Encoding, stream: Codestream, *, lossless: bool) -> Array:
    """Bits of a stream that knows no sign, or another, taken as the header means them.

    Refused where this could be meant in two ways: where the stream has fewer bits than the
    header, and uses the highest; where a lossy one has more, and uses them.
    """
    n_bits = min(stream.precision, encoding.bits[1])
    stored = values.astype(_dtype(encoding))
    wide = stored.copy()
    _drop_unused(stored, n_bits)
    _drop_unused(wide, stream.precision)
    doubtful = stream.precision < encoding.bits[1] and (
        bool((stored < 0).any()) if encoding.signed else bool((values < 0).any())
    )
    if doubtful or (not lossless and not np.array_equal(stored, wide)):
        raise DamagedStreamError(
            f"numbers of {stream.precision} bits where the header says {encoding.bits[1]}"
        )
    return stored


def _dtype(encoding: Encoding) -> np.dtype[np.integer[Any]]:
    return np.dtype(f"{'i' if encoding.signed else 'u'}{encoding.bits[0] // 8}")


def _stored_range(encoding: Encoding) -> tuple[int, int]:
    n_bits = encoding.bits[1]
    return (-(2 ** (n_bits - 1)), 2 ** (n_bits - 1) - 1) if encoding.signed else (0, 2**n_bits - 1)
