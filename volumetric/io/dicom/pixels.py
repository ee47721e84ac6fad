"""DICOM pixels: stored values of slices, decoded in parallel; nothing is taken on trust."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetric.errors import UnreadableFileError, UnsupportedError
from volumetric.io.dicom.codecs import CODECS, RLE, Codestream, DamagedStreamError, decode_rle
from volumetric.io.dicom.deflate import DEFLATED, inflate, largest_inflated
from volumetric.io.dicom.fragments import Span, find_frames
from volumetric.io.dicom.slices import Encoding, Slice

Array = NDArray[np.integer[Any]]

_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", _BIG_ENDIAN, DEFLATED})
_LARGEST_PADDING = 4096
_LARGEST_HEADER = 2**16  # of a codestream
# Of compressed images. No scanner makes frames of more than 32 MiB (a detector of 4096 x 4096);
# scans shrink 2 to 50 fold, and only images blank throughout several hundred fold. What may be
# free of that is what can be decoded, before the last image proves damaged, in 300 MB.
_LARGEST_FRAME = 32 * 2**20
_FREE_BYTES = 128 * 2**20
_LARGEST_RATIO = 256


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
    _check_proportion(slices)
    # Few large images at a time: a decoder takes several times the memory of its image.
    largest = max((_n_bytes(one.encoding) for one in slices), default=1)
    n_workers = max(1, min(os.cpu_count() or 1, _LARGEST_FRAME // largest))
    with ThreadPoolExecutor(n_workers) as pool:
        sources = dict(zip(files, pool.map(_find_frames, files.values()), strict=True))
        return list(pool.map(_read_slice, slices, (sources[one.path] for one in slices)))


def check_encoding(one: Slice) -> None:
    """Refuse, from headers and the size of the file alone, what will not be decoded.

    Raises:
        UnreadableFileError: no transfer syntax ("bad-header"), no pixels ("no-pixels"), a
            length that is not that of the image, or beyond the file ("bad-pixels"), or
            claims out of all proportion to the file ("decompression-bomb").
        UnsupportedError: "no-decoder", "color", "pixel-layout".
    """
    encoding = one.encoding
    if encoding.transfer_syntax is None:
        raise UnreadableFileError(
            "bad-header", "names no transfer syntax", "Export it again", path=one.path
        )
    allocated, n_bits, high = encoding.bits
    refusals = {
        "no-decoder": (
            encoding.transfer_syntax not in _NATIVE | CODECS.keys() | {RLE},
            f"is encoded as {encoding.transfer_syntax}, for which there is no decoder",
        ),
        "color": (
            encoding.n_samples != 1 or encoding.photometric not in ("MONOCHROME1", "MONOCHROME2"),
            f"holds {encoding.photometric} pixels of {encoding.n_samples} numbers, not grey ones",
        ),
        "pixel-layout": (
            allocated not in (8, 16, 32) or not 1 <= n_bits <= allocated or high != n_bits - 1,
            f"stores {n_bits} bits of {allocated} below bit {high}",
        ),
    }
    for code, (refused, reason) in refusals.items():
        if refused:
            raise UnsupportedError(
                code, reason, "Convert it to NIfTI or to uncompressed grey DICOM", path=one.path
            )
    if encoding.offset is None:
        raise UnreadableFileError(
            "no-pixels", "holds no PixelData", "Remove it, or export it again", path=one.path
        )
    if min(encoding.size) < 1 or not 0 <= one.frame < encoding.n_frames:
        raise _bad_pixels(one, f"has no image {one.frame} of {encoding.size}")
    if encoding.transfer_syntax in _NATIVE:
        _check_native(one, encoding.offset)
    else:
        _check_compressed(one)


def _check_native(one: Slice, offset: int) -> None:
    expected, length = _n_bytes(one.encoding) * one.encoding.n_frames, one.encoding.length
    if length is None or length < expected:
        raise _bad_pixels(one, f"has {length} bytes of pixels where its header says {expected}")
    if one.encoding.transfer_syntax == _BIG_ENDIAN and one.encoding.bits[0] == 8:
        _check_bytes(one, offset)
    n_file = _file_size(one.path)
    if one.encoding.transfer_syntax == DEFLATED:
        if offset + expected > largest_inflated(n_file):
            raise _bomb(one, n_file, offset + expected)
    elif offset + expected > n_file:
        raise _bad_pixels(one, f"ends after {n_file} of {offset + expected} bytes")
    elif length > expected + 1:
        _check_behind(one, offset + expected, length - expected)


def _check_behind(one: Slice, position: int, n_bytes: int) -> None:
    """Refuse pixels beyond what the header says, but for a little padding with zeros."""
    with _reading(one), one.path.open("rb") as stream:
        stream.seek(position)
        if n_bytes > _LARGEST_PADDING or stream.read(n_bytes) != bytes(n_bytes):
            raise _bad_pixels(one, f"has {n_bytes} bytes more of pixels than its header says")


def _check_bytes(one: Slice, offset: int) -> None:
    """Refuse bytes written as big-endian words (VR OW): their pairs are swapped, or not."""
    with _reading(one), one.path.open("rb") as stream:
        stream.seek(max(0, offset - 8))
        words = stream.read(2) == b"OW"
    if words:
        raise UnsupportedError(
            "pixel-layout",
            "stores bytes as big-endian words",
            "Convert it to NIfTI or to little-endian DICOM",
            path=one.path,
        )


def _check_compressed(one: Slice) -> None:
    if one.encoding.length is not None:
        raise _bad_pixels(one, "is compressed, yet not in fragments")
    n_frame, n_file = _n_bytes(one.encoding), _file_size(one.path)
    if n_frame > _LARGEST_FRAME:
        raise _bomb(one, n_file, n_frame)
    if n_frame * one.encoding.n_frames > max(_FREE_BYTES, _LARGEST_RATIO * n_file):
        raise _bomb(one, n_file, n_frame * one.encoding.n_frames)


def _check_proportion(slices: Sequence[Slice]) -> None:
    """Refuse compressed files that one by one may pass, but not all together."""
    compressed = [one for one in slices if one.encoding.transfer_syntax not in _NATIVE]
    claimed = sum(_n_bytes(one.encoding) for one in compressed)
    if claimed > _FREE_BYTES:
        n_files = sum(_file_size(path) for path in {one.path for one in compressed})
        if claimed > _LARGEST_RATIO * n_files:
            raise _bomb(compressed[0], n_files, claimed)


def _find_frames(one: Slice) -> _Source:
    encoding = one.encoding
    offset, n_bytes = encoding.offset or 0, _n_bytes(encoding)
    with _reading(one), one.path.open("rb", buffering=0) as stream:
        if encoding.transfer_syntax not in _NATIVE:
            return _Source(find_frames(stream, encoding), None)
    inflated = inflate(one.path) if encoding.transfer_syntax == DEFLATED else None
    spans = [((offset + index * n_bytes, n_bytes),) for index in range(encoding.n_frames)]
    return _Source(spans, inflated)


def _read_slice(one: Slice, source: _Source) -> Array:
    if not 0 <= one.frame < len(source.frames):
        raise _bad_pixels(one, f"has no image {one.frame}")
    spans, n_frame = source.frames[one.frame], _n_bytes(one.encoding)
    if sum(n_bytes for _, n_bytes in spans) > 4 * n_frame + _LARGEST_HEADER:
        raise _bad_pixels(one, f"compresses an image of {n_frame:,} bytes into many more")
    with _reading(one), _open(one.path, source) as stream:
        if one.encoding.transfer_syntax in _NATIVE:
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
    if encoding.transfer_syntax == _BIG_ENDIAN:
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


def _n_bytes(encoding: Encoding) -> int:
    return encoding.size[0] * encoding.size[1] * (encoding.bits[0] // 8)


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UnreadableFileError(
            "unreadable-file", f"cannot be read ({error.strerror})", "Check it is there", path=path
        ) from error


@contextmanager
def _reading(one: Slice) -> Iterator[None]:
    try:
        yield
    except UnreadableFileError:
        raise
    except DamagedStreamError as error:
        raise _bad_pixels(one, f"holds {error}") from error
    except OSError as error:
        raise UnreadableFileError(
            "unreadable-file",
            f"cannot be read ({error.strerror})",
            "Check its permissions",
            path=one.path,
        ) from error
    except Exception as error:  # a damaged stream makes decoders raise whatever they like
        raise _bad_pixels(one, f"its pixels cannot be decoded ({type(error).__name__})") from error


def _bad_pixels(one: Slice, reason: str) -> UnreadableFileError:
    return UnreadableFileError("bad-pixels", reason, "Copy or export it again", path=one.path)


def _bomb(one: Slice, n_bytes: int, claimed: int) -> UnreadableFileError:
    return UnreadableFileError(
        "decompression-bomb",
        f"claims {claimed:,} bytes of pixels in {n_bytes:,} bytes",
        "Remove it, or export it uncompressed",
        path=one.path,
    )
