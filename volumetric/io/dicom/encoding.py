"""DICOM encodings: what will be decoded, told from headers and the size of the file alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from volumetric.errors import UnreadableFileError, UnsupportedError
from volumetric.io.dicom.codecs import CODECS, RLE, DamagedStreamError
from volumetric.io.dicom.deflate import DEFLATED, largest_inflated
from volumetric.io.dicom.slices import Encoding, Slice

BIG_ENDIAN = "1.2.840.10008.1.2.2"
NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", BIG_ENDIAN, DEFLATED})
_LARGEST_PADDING = 4096
# Of compressed images. No scanner makes frames of more than 32 MiB (a detector of 4096 x 4096);
# scans shrink 2 to 50 fold, and only images blank throughout several hundred fold. What may be
# free of that is what can be decoded, before the last image proves damaged, in 300 MB.
LARGEST_FRAME = 32 * 2**20
_FREE_BYTES = 128 * 2**20
_LARGEST_RATIO = 256


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
            encoding.transfer_syntax not in NATIVE | CODECS.keys() | {RLE},
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
        raise bad_pixels(one, f"has no image {one.frame} of {encoding.size}")
    if encoding.transfer_syntax in NATIVE:
        _check_native(one, encoding.offset)
    else:
        _check_compressed(one)


def _check_native(one: Slice, offset: int) -> None:
    expected, length = image_bytes(one.encoding) * one.encoding.n_frames, one.encoding.length
    if length is None or length < expected:
        raise bad_pixels(one, f"has {length} bytes of pixels where its header says {expected}")
    if one.encoding.transfer_syntax == BIG_ENDIAN and one.encoding.bits[0] == 8:
        _check_bytes(one, offset)
    n_file = file_size(one.path)
    if one.encoding.transfer_syntax == DEFLATED:
        if offset + expected > largest_inflated(n_file):
            raise bomb(one, n_file, offset + expected)
    elif offset + expected > n_file:
        raise bad_pixels(one, f"ends after {n_file} of {offset + expected} bytes")
    elif length > expected + 1:
        _check_behind(one, offset + expected, length - expected)


def _check_behind(one: Slice, position: int, n_bytes: int) -> None:
    """Refuse pixels beyond what the header says, but for a little padding with zeros."""
    with reading(one), one.path.open("rb") as stream:
        stream.seek(position)
        if n_bytes > _LARGEST_PADDING or stream.read(n_bytes) != bytes(n_bytes):
            raise bad_pixels(one, f"has {n_bytes} bytes more of pixels than its header says")


def _check_bytes(one: Slice, offset: int) -> None:
    """Refuse bytes written as big-endian words (VR OW): their pairs are swapped, or not."""
    with reading(one), one.path.open("rb") as stream:
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
        raise bad_pixels(one, "is compressed, yet not in fragments")
    n_frame, n_file = image_bytes(one.encoding), file_size(one.path)
    if n_frame > LARGEST_FRAME:
        raise bomb(one, n_file, n_frame)
    if n_frame * one.encoding.n_frames > max(_FREE_BYTES, _LARGEST_RATIO * n_file):
        raise bomb(one, n_file, n_frame * one.encoding.n_frames)


def check_proportion(slices: Sequence[Slice]) -> None:
    """Refuse compressed files that one by one may pass, but not all together."""
    compressed = [one for one in slices if one.encoding.transfer_syntax not in NATIVE]
    claimed = sum(image_bytes(one.encoding) for one in compressed)
    if claimed > _FREE_BYTES:
        n_files = sum(file_size(path) for path in {one.path for one in compressed})
        if claimed > _LARGEST_RATIO * n_files:
            raise bomb(compressed[0], n_files, claimed)


def image_bytes(encoding: Encoding) -> int:
    """Bytes of one image, decoded."""
    return encoding.size[0] * encoding.size[1] * (encoding.bits[0] // 8)


def file_size(path: Path) -> int:
    """Bytes of a file.

    Raises:
        UnreadableFileError: it is not there any more.
    """
    try:
        return path.stat().st_size
    except OSError as error:
        raise UnreadableFileError(
            "unreadable-file", f"cannot be read ({error.strerror})", "Check it is there", path=path
        ) from error


@contextmanager
def reading(one: Slice) -> Iterator[None]:
    """Within it, whatever a damaged stream makes a decoder raise is a typed error."""
    try:
        yield
    except UnreadableFileError:
        raise
    except DamagedStreamError as error:
        raise bad_pixels(one, f"holds {error}") from error
    except OSError as error:
        raise UnreadableFileError(
            "unreadable-file",
            f"cannot be read ({error.strerror})",
            "Check its permissions",
            path=one.path,
        ) from error
    except Exception as error:  # a damaged stream makes decoders raise whatever they like
        raise bad_pixels(one, f"its pixels cannot be decoded ({type(error).__name__})") from error


def bad_pixels(one: Slice, reason: str) -> UnreadableFileError:
    """The refusal of pixels that are not what the header says."""
    return UnreadableFileError("bad-pixels", reason, "Copy or export it again", path=one.path)


def bomb(one: Slice, n_bytes: int, claimed: int) -> UnreadableFileError:
    """The refusal of pixels out of all proportion to their file."""
    return UnreadableFileError(
        "decompression-bomb",
        f"claims {claimed:,} bytes of pixels in {n_bytes:,} bytes",
        "Remove it, or export it uncompressed",
        path=one.path,
    )
