"""DICOM that lies, bloats, nests or leads astray: a typed error, soon, in little memory.

Each case is read by a process of its own, forked from one that has imported everything. What it
took of time and memory, every word it said and every file it opened come back.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest

IMPLICIT, EXPLICIT, BIG_ENDIAN = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2"))
DEFLATED, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
JPEG = "1.2.840.10008.1.2.4."
NATIVE = (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)
UNDEFINED = 0xFFFFFFFF
CHARSET, IMAGE_TYPE, SOP_CLASS, MODALITY = 0x00080005, 0x00080008, 0x00080016, 0x00080060
DESCRIPTION, THICKNESS, ECHO_TIME, SERIES_UID = 0x0008103E, 0x00180050, 0x00180081, 0x0020000E
POSITION, ORIENTATION, PLANE_POSITION = 0x00200032, 0x00200037, 0x00209113
PHOTOMETRIC, N_FRAMES, ROWS, COLUMNS = 0x00280004, 0x00280008, 0x00280010, 0x00280011
SPACING, INTERCEPT, SLOPE, RESCALE_TYPE = 0x00280030, 0x00281052, 0x00281053, 0x00281054
PRIVATE, PER_FRAME, PIXELS = 0x00091001, 0x52009230, 0x7FE00010

# What must never be said, of everyone in this file.
PERSON = ("Zzyzx^Secretperson", "PID-48151623", "19030417", "4 Hidden Lane")
_TELLTALES = ("Secretperson", "48151623", "19030417", "Hidden")
_LONGEST_TEXT = 5000
_LARGE = 200_000_000

Fields = Mapping[int, tuple[str, int | str | bytes] | None]
Make = Callable[[Path], Path]
Case = tuple[str, Make, str]  # name, what writes it and returns the path to read, what comes of it


# Files byte by byte: no writer would write these

_LONG_VRS = ("OB", "OW", "SQ", "UN", "UT")
_IMAGE: Fields = {
    IMAGE_TYPE: ("CS", "ORIGINAL\\PRIMARY"),
    SOP_CLASS: ("UI", "1.2.840.10008.5.1.4.1.1.2"),
    0x00080018: ("UI", "1.2.3.4"),
    MODALITY: ("CS", "CT"),
    DESCRIPTION: ("LO", "scan"),
    0x00100010: ("PN", PERSON[0]),
    0x00100020: ("LO", PERSON[1]),
    0x00100030: ("DA", PERSON[2]),
    0x00101040: ("LO", PERSON[3]),
    THICKNESS: ("DS", "2"),
    0x0020000D: ("UI", "1.2.5"),
    SERIES_UID: ("UI", "1.2.6"),
    POSITION: ("DS", "0\\0\\0"),
    ORIENTATION: ("DS", "1\\0\\0\\0\\1\\0"),
    0x00200052: ("UI", "1.2.7"),
    0x00280002: ("US", 1),
    PHOTOMETRIC: ("CS", "MONOCHROME2"),
    ROWS: ("US", 48),
    COLUMNS: ("US", 40),
    SPACING: ("DS", "1\\1"),
    0x00280100: ("US", 8),
    0x00280101: ("US", 8),
    0x00280102: ("US", 7),
    0x00280103: ("US", 0),
}
_ENHANCED: Fields = {
    **_IMAGE,
    SOP_CLASS: ("UI", "1.2.840.10008.5.1.4.1.1.2.1"),
    POSITION: None,
}


def element(
    tag: int, vr: str, value: int | str | bytes, *, length: int | None = None, syntax: str = ""
) -> bytes:
    """One element; `length` is what it says of itself, where that is not so."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    if isinstance(value, int):
        value = struct.pack(f"{order}H", value)
    elif isinstance(value, str):
        value = value.encode("latin-1")
    if len(value) % 2:
        value += b"\0" if vr in ("UI", "OB") else b" "
    told = len(value) if length is None else length
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT:
        return head + struct.pack("<L", told) + value
    if vr in _LONG_VRS:
        return head + vr.encode() + bytes(2) + struct.pack(f"{order}L", told) + value
    return head + vr.encode() + struct.pack(f"{order}H", told) + value


def item(content: bytes = b"", *, closed: bool = True) -> bytes:
    if closed:
        return b"\xfe\xff\x00\xe0" + struct.pack("<L", len(content)) + content
    return b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + content + b"\xfe\xff\x0d\xe0\0\0\0\0"


def sequence(tag: int, items: bytes, *, closed: bool = True, vr: str = "SQ") -> bytes:
    if closed:
        return element(tag, vr, items)
    return element(tag, vr, items + b"\xfe\xff\xdd\xe0\0\0\0\0", length=UNDEFINED)


def fragments(*streams: bytes, table: bytes = b"", closed: bool = True) -> bytes:
    """PixelData in fragments, the first of which is the basic offset table."""
    held = b"".join(item(stream + bytes(len(stream) % 2)) for stream in (table, *streams))
    end = b"\xfe\xff\xdd\xe0\0\0\0\0" if closed else b""
    return element(PIXELS, "OB", held + end, length=UNDEFINED)


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def file_head(syntax: str, *, meta: bytes = b"") -> bytes:
    """Preamble and file meta information, in which `meta` precedes the syntax."""
    meta += element(0x00020010, "UI", syntax)
    return bytes(128) + b"DICM" + element(0x00020000, "UL", struct.pack("<L", len(meta))) + meta


def image(
    changes: Fields | None = None,
    *,
    base: Fields = _IMAGE,
    syntax: str = EXPLICIT,
    more: bytes | Callable[[], bytes] = b"",
    meta: bytes = b"",
) -> bytes:
    """A sound image (48, 40) of 8 bits but for what is changed, and an element that is added."""
    fields = {tag: field for tag, field in {**base, **(changes or {})}.items() if field}
    elements = {tag: element(tag, *field, syntax=syntax) for tag, field in fields.items()}
    if added := more() if callable(more) else more:
        group, number = struct.unpack("<HH", added[:4])
        elements[group << 16 | number] = added
    elements.setdefault(PIXELS, element(PIXELS, "OB", bytes(48 * 40), syntax=syntax))
    body = b"".join(elements[tag] for tag in sorted(elements))
    return file_head(syntax, meta=meta) + (deflate(body) if syntax == DEFLATED else body)


def write(folder: Path, content: bytes, name: str = "x.dcm") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def saved(*args: Any, **options: Any) -> Make:
    """Writes an `image` of these options, made when it is asked for."""
    return lambda folder: write(folder, image(*args, **options))


def write_scan(
    folder: Path, *, n_slices: int = 3, changes: Callable[[int], Fields] = lambda _: {}
) -> Path:
    """A folder of slices 2 mm apart, each of which may be changed."""
    for index in range(n_slices):
        place: Fields = {POSITION: ("DS", f"0\\0\\{2 * index}")}
        write(folder, image({**place, **changes(index)}), f"{index}.dcm")
    return folder


def scan(changes: Fields, *, n_slices: int = 3) -> Make:
    return partial(write_scan, n_slices=n_slices, changes=lambda _: changes)


# Codestreams


def _encode_rle(picture: np.ndarray) -> bytes:
    return struct.pack("<16I", 1, 64, *([0] * 14)) + imagecodecs.packbits_encode(picture)


ENCODERS: dict[str, Callable[[np.ndarray], bytes]] = {
    RLE: _encode_rle,
    JPEG + "50": partial(imagecodecs.jpeg8_encode, level=95),
    JPEG + "57": partial(imagecodecs.jpeg8_encode, lossless=True, predictor=6),
    JPEG + "70": partial(imagecodecs.jpeg8_encode, lossless=True, predictor=1),
    JPEG + "80": imagecodecs.jpegls_encode,
    JPEG + "81": partial(imagecodecs.jpegls_encode, level=3),
    JPEG + "90": partial(imagecodecs.jpeg2k_encode, codecformat="J2K", reversible=True),
    JPEG + "91": partial(imagecodecs.jpeg2k_encode, level=80, codecformat="J2K", reversible=False),
    JPEG + "201": partial(imagecodecs.htj2k_encode, reversible=True),
}
_PICTURE = (np.add.outer(np.arange(48), 3 * np.arange(40)) % 251).astype(np.uint8)
STREAMS = {syntax: encode(_PICTURE) for syntax, encode in ENCODERS.items()}


def claim_size(stream: bytes, side: int) -> bytes:
    """The codestream with another size in its own header; RLE has none there."""
    if stream.startswith(b"\xff\x4f"):
        size = struct.pack(">II", side, side)  # of the image, and of its only tile
        return stream[:8] + size + stream[16:24] + size + stream[32:]
    for code in (0xC0, 0xC1, 0xC3, 0xF7) if stream.startswith(b"\xff\xd8") else ():
        at = stream[:400].find(bytes((0xFF, code)))
        if at > 0:
            return stream[: at + 5] + struct.pack(">HH", side, side) + stream[at + 9 :]
    return stream


def of_side(side: int) -> Fields:
    return {ROWS: ("US", side), COLUMNS: ("US", side)}


# The cases


def lies() -> Iterator[Case]:
    """Sizes and numbers of images that are not there, in each encoding."""
    frames: Fields = {**of_side(65535), N_FRAMES: ("IS", str(2**31 - 1))}
    for syntax in (*NATIVE, *STREAMS):
        stream = STREAMS.get(syntax)
        size_code = "decompression-bomb" if stream else "bad-pixels"
        for name, changes, base, code in (
            ("frames", frames, _IMAGE, "multi-frame"),
            ("enhanced", frames, _ENHANCED, "no-geometry"),
            ("size", of_side(65535), _IMAGE, size_code),
        ):
            more = fragments(stream) if stream else b""
            make = saved(changes, base=base, syntax=syntax, more=more)
            yield f"claims-{name}-{syntax}", make, code
    for syntax, stream in STREAMS.items():
        # 5792 is just let through to the decoder.
        for side, code in ((60000, "decompression-bomb"), (5792, "bad-pixels")):
            claim = fragments(claim_size(stream, side))
            both = saved(of_side(side), syntax=syntax, more=claim)
            yield f"claims-{side}-twice-{syntax}", both, code
            if syntax != RLE:
                alone = saved(syntax=syntax, more=claim)
                yield f"claims-{side}-in-stream-{syntax}", alone, "bad-pixels"
    for length in (0xFFFFFFFE, 2):
        more = element(PIXELS, "OB", bytes(2000), length=length)
        yield f"pixels-of-length-{length}", saved(more=more), "bad-pixels"
    for number in (str(2**31), "9" * 1000, "9" * 6000, "-1", "0", "nan", "1e308", "x"):
        make = saved({N_FRAMES: ("IS", number)}, syntax=RLE, more=fragments(STREAMS[RLE]))
        yield f"frames-{number[:9]}-{len(number)}", make, "bad-header"


def truncated() -> Iterator[Case]:
    def write_cut(folder: Path, syntax: str) -> Path:
        stream = STREAMS.get(syntax)
        whole = image(syntax=syntax, more=fragments(stream) if stream else b"")
        return write(folder, whole[:-30])

    for syntax in NATIVE:
        # The encoding's name may also stand where it names nothing.
        decoy = element(0x00020003, "UI", DEFLATED)
        yield f"whole-{syntax}", saved(syntax=syntax, meta=decoy), "read"
        code = "bad-header" if syntax == DEFLATED else "bad-pixels"
        yield f"cut-{syntax}", partial(write_cut, syntax=syntax), code
    for syntax, stream in STREAMS.items():
        for name, more, code in (
            ("whole", fragments(stream), "read"),
            ("half", fragments(stream[: len(stream) // 2]), "bad-pixels"),
            ("without-end", fragments(stream, closed=False), "read"),
        ):
            yield f"{name}-{syntax}", saved(syntax=syntax, more=more), code
        yield f"cut-{syntax}", partial(write_cut, syntax=syntax), "bad-pixels"


ONE_FRAME: Fields = {N_FRAMES: ("IS", "1")}


def _items(one: bytes, count: int, *, tag: int, closed: bool) -> bytes:
    held = sequence(tag, one * count, closed=closed)
    if tag != PLANE_POSITION:
        return held
    return sequence(PER_FRAME, item(held, closed=closed), closed=closed)


def items() -> Iterator[Case]:
    """Items by the million: each costs a parser a thousand times its eight bytes."""
    for kind, one in (
        ("empty", item()),
        ("open", item(closed=False)),
        ("junk", item(element(PRIVATE, "UN", bytes(8)))),
    ):
        for count, closed in product((100_000, 1_000_000), (True, False)):
            more = partial(_items, one, count, tag=PER_FRAME, closed=closed)
            for told in (1,) if count == 1_000_000 else (1, count):
                make = saved({N_FRAMES: ("IS", str(told))}, base=_ENHANCED, more=more)
                end = "closed" if closed else "open"
                yield f"items-{count}-{kind}-in-{end}-told-{told}", make, "bad-header"
    more = _items(item(), 1, tag=PER_FRAME, closed=True)
    make = saved({N_FRAMES: ("IS", "1000000")}, base=_ENHANCED, more=more)
    yield "items-told-a-million", make, "bad-header"
    for tag, closed in product((0x00091010, 0x00081140, PLANE_POSITION), (True, False)):
        more = partial(_items, item(), 1_000_000, tag=tag, closed=closed)
        # What is not looked into is passed over, where its length is told.
        code = "no-geometry" if closed and tag != PLANE_POSITION else "bad-header"
        make = saved(ONE_FRAME, base=_ENHANCED, more=more)
        yield f"items-of-{tag:08x}-{'closed' if closed else 'open'}", make, code
    # As many as a parser is trusted with, and none of them says where it lies
    content = element(0x00209056, "SH", "1") + element(0x00209157, "UL", bytes(24))
    frame = item(sequence(0x00209111, item(content)))
    more = partial(_items, frame, 30_000, tag=PER_FRAME, closed=True)
    make = saved({N_FRAMES: ("IS", "30000")}, base=_ENHANCED, more=more)
    yield "frames-without-place", make, "no-geometry"
    # Zeros: elements, each of which has no length
    more = partial(element, PER_FRAME, "SQ", item(bytes(20_000_000)))
    yield "items-of-nothing", saved(base=_ENHANCED, more=more), "bad-header"


def _nest(tag: int, depth: int, *, closed: bool, core: bytes = b"") -> bytes:
    """Sequences in each other; where they tell their length, found from the inside out."""
    if not closed:
        start = element(tag, "SQ", b"", length=UNDEFINED) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
        return start * depth + core + b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * depth
    starts = [
        element(tag, "SQ", b"", length=size + 8) + b"\xfe\xff\x00\xe0" + struct.pack("<L", size)
        for size in range(len(core) + 20 * (depth - 1), len(core) - 1, -20)
    ]
    return b"".join(starts) + core


def nests() -> Iterator[Case]:
    for tag, closed in product(
        (PER_FRAME, PLANE_POSITION, 0x00091010, 0x00081140, 0x00283000), (True, False)
    ):
        more = _nest(tag, 10_000, closed=closed)
        if tag == PLANE_POSITION:
            more = sequence(PER_FRAME, item(more, closed=closed), closed=closed)
        make = saved(ONE_FRAME, base=_ENHANCED, more=more)
        code = "no-geometry" if closed else "bad-header"
        yield f"nested-{tag:08x}-{'closed' if closed else 'open'}", make, code

    def large() -> bytes:
        # Whoever descends copies 40 MB at each level.
        core = element(PRIVATE, "UN", bytes(40_000_000))
        return sequence(PER_FRAME, item(_nest(PLANE_POSITION, 250, closed=True, core=core)))

    yield "nested-and-large", saved(ONE_FRAME, base=_ENHANCED, more=large), "no-geometry"


def sizes() -> Iterator[Case]:
    """Elements that claim 4 GB, or do hold 200 MB."""
    for name, tag, vr in (
        ("private", PRIVATE, "UN"),
        ("groups", PER_FRAME, "SQ"),
        ("shared", 0x52009229, "SQ"),
        ("text", DESCRIPTION, "UT"),
        ("charset", CHARSET, "UT"),
        ("uid", SERIES_UID, "UN"),
    ):
        more = element(tag, vr, b"abcd", length=0xFFFFFFF0)
        yield f"4gb-{name}", saved(more=more), "bad-header"

    def large(tag: int, vr: str) -> bytes:
        return element(tag, vr, bytes(_LARGE))

    for name, tag, vr, code in (
        ("private", PRIVATE, "UN", "read"),
        ("text", DESCRIPTION, "UT", "bad-header"),
        ("charset", CHARSET, "UT", "bad-header"),
        ("groups", PER_FRAME, "SQ", "bad-header"),
    ):
        yield f"200mb-{name}", saved(more=partial(large, tag, vr)), code
    yield "200mb-meta", lambda at: write(at, image(meta=large(0x00020102, "OB"))), "bad-header"

    def undefined() -> bytes:
        return sequence(PRIVATE, item(bytes(_LARGE)), closed=False, vr="OB")

    yield "200mb-undefined", saved(more=undefined), "bad-header"
    for tag in (SERIES_UID, IMAGE_TYPE, MODALITY, RESCALE_TYPE, PHOTOMETRIC, 0x00209056):
        for count in (300, 60_000, 10_000_000):
            more = partial(element, tag, "UT", b"9" * count, syntax=IMPLICIT)
            yield f"{count}-letters-in-{tag:08x}", saved(syntax=IMPLICIT, more=more), "bad-header"


def bombs() -> Iterator[Case]:
    """Little that inflates to much."""

    def write_bomb(folder: Path, *, tag: int, meta: bytes = b"", twice: bool = False) -> Path:
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        start = element(0x00080001, "UN", b"") + element(tag, "OB", b"", length=0xFFFFFFF0)
        packed = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
        piece = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
        packed += piece * (10 * 2**30 // 2**24) + packer.flush()
        assert len(packed) < 12 * 2**20
        packed = deflate(packed) if twice else packed
        return write(folder, file_head(DEFLATED, meta=meta) + packed)

    code = "decompression-bomb"
    yield "bomb-of-pixels", partial(write_bomb, tag=PIXELS), code
    yield "bomb-of-header", partial(write_bomb, tag=DESCRIPTION), code
    far = element(0x00020003, "UI", "1" * 4000)
    yield "bomb-named-late", partial(write_bomb, tag=PIXELS, meta=far), code
    decoy = element(0x00020003, "UI", DEFLATED)
    twice = partial(write_bomb, tag=PIXELS, meta=decoy, twice=True)
    yield "bomb-in-deflated", twice, "bad-header"
    # File meta information without VRs, which pydicom forgives: it would inflate by itself.
    meta = element(0x00020010, "", DEFLATED + "\0\0", syntax=IMPLICIT)
    content = bytes(128) + b"DICM" + meta + deflate(bytes(10**7))
    yield "bomb-of-implicit-meta", partial(write, content=content), "bad-header"

    def write_sparse(folder: Path, content: bytes, n_bytes: int) -> Path:
        path = write(folder, content)
        os.truncate(path, n_bytes)
        return path

    short = image(more=element(PIXELS, "OB", bytes(2000), length=0xFFFFFFF0))
    yield "sparse-pixels", partial(write_sparse, content=short, n_bytes=5 * 2**30), "bad-pixels"
    zeros = partial(write_sparse, content=file_head(DEFLATED), n_bytes=20 * 2**30)
    yield "sparse-deflated", zeros, "bad-header"
    for side in (48, 4000):
        stream = struct.pack("<16I", 1, 64, *([0] * 14)) + b"\x81\x00" * 10_000_000
        make = saved(of_side(side), syntax=RLE, more=partial(fragments, stream))
        yield f"rle-expands-{side}", make, "bad-pixels"


def long_streams() -> Iterator[Case]:
    """Codestreams that take long to be seen through."""

    def fill(stream: bytes, one: bytes) -> bytes:
        return fragments(stream[:2] + one * (40_000_000 // len(one)) + stream[2:])

    for syntax in (JPEG + "50", JPEG + "70", JPEG + "80", JPEG + "90"):
        stream = STREAMS[syntax]
        for name, one in (("fill", b"\xff"), ("comments", b"\xff\xfe\x00\x02")):
            for side in (40, 5600):  # too long for such an image, and not
                more = partial(fill, stream, one)
                make = saved(of_side(side), syntax=syntax, more=more)
                yield f"{name}-{side}-{syntax}", make, "bad-pixels"
        more = partial(lambda stream: fragments(stream + bytes(60_000_000)), stream)
        yield f"trailing-{syntax}", saved(syntax=syntax, more=more), "bad-pixels"

    def tile_parts(inner: bytes) -> bytes:
        stream = STREAMS[JPEG + "90"]
        part = b"\xff\x90\x00\x0a\x00\x00" + struct.pack(">I", 14 + len(inner)) + b"\x00\x00"
        parts = (part + inner + b"\xff\x93") * (40_000_000 // (14 + len(inner)))
        head = claim_size(stream[: stream.index(b"\xff\x90")], 5600)
        return fragments(head + parts + b"\xff\xd9")

    for name, inner in (("", b""), ("-of-comments", b"\xff\x64\x00\x02" * 400)):
        make = saved(of_side(5600), syntax=JPEG + "90", more=partial(tile_parts, inner))
        yield f"tile-parts{name}", make, "bad-pixels"


def many_fragments() -> Iterator[Case]:
    """Fragments by the hundred thousand, and tables of them that make no sense."""
    end = b"\xfe\xff\xdd\xe0\0\0\0\0"
    for syntax in (RLE, JPEG + "50", JPEG + "90"):
        stream = STREAMS[syntax] + bytes(len(STREAMS[syntax]) % 2)
        lone = item(stream)
        for name, held, code in (
            ("before", item() + item() * 100_000 + lone, "read"),
            ("behind", item() + lone + item() * 100_000, "read"),
            ("million", item() + item() * 1_000_000 + lone, "bad-pixels"),
            # Of RLE each is an image; of the others they are padding.
            (
                "zeros",
                item() + lone + item(b"\0\0") * 30_000,
                "bad-pixels" if syntax == RLE else "read",
            ),
            ("table-4gb", b"\xfe\xff\x00\xe0\xf0\xff\xff\xff" + lone, "bad-pixels"),
            ("table-zeros", item(bytes(4_000_000)) + lone, "read"),
            ("table-ones", item(b"\xff" * 4_000_000) + lone, "read"),
        ):
            more = element(PIXELS, "OB", held + end, length=UNDEFINED)
            yield f"fragments-{name}-{syntax}", saved(syntax=syntax, more=more), code
        for name, offsets in (("huge", b"\xff" * 800), ("odd", b"\x7f" * 12), ("none", b"")):
            # Written as one element: they precede the pixels.
            tables = element(0x7FE00001, "UN", offsets) + element(0x7FE00002, "UN", offsets)
            more = tables + fragments(stream)
            make = saved({PIXELS: None}, syntax=syntax, more=more)
            yield f"extended-{name}-{syntax}", make, "read"


def indices() -> Iterator[Case]:
    """A DICOMDIR that refers to what lies elsewhere, by itself and beside a scan."""

    def write_index(folder: Path, target: str, *, beside: bool) -> Path:
        write_scan(folder / "secret")
        record = element(0x00041400, "UL", bytes(4)) + element(0x00041430, "CS", "IMAGE")
        record = item(record + element(0x00041500, "CS", target))
        content = file_head(EXPLICIT, meta=element(0x00020002, "UI", "1.2.840.10008.1.3.10"))
        content += element(SOP_CLASS, "UI", "1.2.840.10008.1.3.10") + sequence(0x00041220, record)
        index = write(folder / "disc", content, "DICOMDIR")
        return write_scan(folder / "disc") if beside else index

    for number, target in enumerate(
        (
            "..\\..\\etc\\passwd",
            "..\\secret\\0.dcm",
            "/etc/passwd",
            "..\\" * 20 + "etc\\passwd",
            "SCAN\\..\\..\\secret\\0.dcm",
        )
    ):
        alone = partial(write_index, target=target, beside=False)
        yield f"dicomdir-{number}", alone, "no-image-series"
        yield f"dicomdir-{number}-beside", partial(write_index, target=target, beside=True), "read"


def no_files() -> Iterator[Case]:
    """Links, pipes, names that cannot be shown."""

    def write_links(folder: Path, *, beside: bool) -> Path:
        write_scan(folder / "secret")
        links = write_scan(folder / "scan") if beside else folder / "scan"
        links.mkdir(exist_ok=True)
        (links / "9.dcm").symlink_to(folder / "secret" / "0.dcm")
        (links / "all").symlink_to(folder / "secret")
        (links / "loop").symlink_to(links)
        (links / "self.dcm").symlink_to("self.dcm")
        return links

    yield "links-beside", partial(write_links, beside=True), "read"
    yield "links-only", partial(write_links, beside=False), "no-image-series"

    def write_odd(folder: Path, kind: str, *, beside: bool) -> Path:
        folder.mkdir(parents=True)
        path = folder / "x.dcm"
        make: dict[str, Callable[[], object]] = {
            "pipe": partial(os.mkfifo, path),
            "loop": partial(path.symlink_to, "x.dcm"),
            "empty": path.touch,
        }
        make[kind]()
        return write_scan(folder) if beside else path

    for kind, code, beside in (
        ("pipe", "not-a-file", "read"),
        ("loop", "unreadable-file", "read"),
        ("empty", "empty-file", "empty-file"),
    ):
        yield kind, partial(write_odd, kind=kind, beside=False), code
        yield f"{kind}-beside", partial(write_odd, kind=kind, beside=True), beside

    def write_names(folder: Path, name: bytes, *, sound: bool) -> Path:
        named = folder / os.fsdecode(name)
        write_scan(named)
        for one in sorted(named.iterdir()):
            one.rename(named / os.fsdecode(name + os.fsencode(one.name)))
        if not sound:
            write(named, b"no DICOM", os.fsdecode(name + b".dcm"))
        return named

    for number, name in enumerate(
        (b"line\nbreak", b"\xff\xfe \xe9", b"\x1b[31mred\x07", "\u202egnp".encode())
    ):
        yield f"name-{number}", partial(write_names, name=name, sound=True), "read"
        yield f"name-{number}-refused", partial(write_names, name=name, sound=False), "not-dicom"


def large_folders() -> Iterator[Case]:
    def write_many(folder: Path) -> Path:
        folder.mkdir(parents=True)
        for number in range(20_000):
            (folder / f"{number}.txt").write_bytes(b"no scan")
        return folder

    yield "20000-files", write_many, "no-image-series"

    def write_deep(folder: Path, name: str, depth: int) -> Path:
        folder.mkdir(parents=True)
        before = Path.cwd()
        try:
            os.chdir(folder)
            for _ in range(depth):
                Path(name).mkdir()
                os.chdir(name)
            write_scan(Path())
        finally:
            os.chdir(before)
        return folder

    yield "deep", partial(write_deep, name="a", depth=500), "read"
    yield "deeper-than-calls-go", partial(write_deep, name="a", depth=1100), "read"
    yield "deeper-than-paths-go", partial(write_deep, name="a" * 9, depth=500), "unreadable-file"

    def series(index: int) -> Fields:
        return {SERIES_UID: ("UI", f"1.2.{index}." + "7" * 50), DESCRIPTION: ("LO", "long " * 12)}

    def turn(index: int) -> Fields:
        cosine, sine = np.cos(index / 1000), np.sin(index / 1000)
        return {ORIENTATION: ("DS", f"{cosine:.6f}\\{sine:.6f}\\0\\{-sine:.6f}\\{cosine:.6f}\\0")}

    for name, changes, code in (
        ("series", series, "several-series"),
        ("orientations", turn, "mixed-orientation"),
    ):
        make = partial(write_scan, n_slices=1000, changes=changes)
        yield f"1000-{name}", make, code


def copies() -> Iterator[Case]:
    """A thousand frames in one place: to compare them, each is decoded once."""
    place = item(element(POSITION, "DS", "0\\0\\0"))
    groups = sequence(PER_FRAME, item(sequence(PLANE_POSITION, place)) * 1000)
    for syntax in (EXPLICIT, DEFLATED, RLE, JPEG + "90"):
        stream = STREAMS.get(syntax)
        native = element(PIXELS, "OB", bytes(48 * 40 * 1000))
        more = groups + (fragments(*[stream] * 1000) if stream else native)
        fields: Fields = {N_FRAMES: ("IS", "1000"), PIXELS: None}
        make = saved(fields, base=_ENHANCED, syntax=syntax, more=more)
        yield f"1000-copies-{syntax}", make, "read"


def spoilt() -> Iterator[Case]:
    """Blank frames as large and as many as are let through, of which only the last is damaged."""

    def frames(syntax: str, side: int, count: int) -> bytes:
        stream = ENCODERS[syntax](np.zeros((side, side), np.uint8))
        last = stream[: len(stream) * 2 // 3] + (b"" if syntax == RLE else stream[-2:])
        heights = [element(POSITION, "DS", f"0\\0\\{2 * index}") for index in range(count)]
        groups = [item(sequence(PLANE_POSITION, item(height))) for height in heights]
        frames = fragments(*[stream] * (count - 1), last)
        return sequence(PER_FRAME, b"".join(groups)) + frames

    for syntax in (RLE, JPEG + "70", JPEG + "90"):
        for side, count in ((5600, 4), (1024, 120)):
            fields: Fields = {**of_side(side), N_FRAMES: ("IS", str(count)), PIXELS: None}
            more = partial(frames, syntax, side, count)
            make = saved(fields, base=_ENHANCED, syntax=syntax, more=more)
            yield f"last-of-{count}-{syntax}", make, "bad-pixels"


def numbers() -> Iterator[Case]:
    """Numbers that are none, or of nothing on Earth."""
    no_numbers = ("x", "0x10", "1_0", "--1", "1\\2")
    beyond = ("1e308", "-1e308", "9" * 10_000, "nan", "inf", "-inf")
    places = {
        "position": (POSITION, "0\\{}\\0"),
        "height": (POSITION, "0\\0\\{}"),
        "orientation": (ORIENTATION, "{}\\0\\0\\0\\1\\0"),
        "spacing": (SPACING, "{}\\1"),
        "slope": (SLOPE, "{}"),
        "intercept": (INTERCEPT, "{}"),
    }
    both: Fields = {SLOPE: ("DS", "1"), INTERCEPT: ("DS", "0")}
    for number, (name, (tag, template)) in product((*no_numbers, *beyond), places.items()):
        beyond_code = "bad-rescale" if tag in (SLOPE, INTERCEPT) else "no-geometry"
        code = "bad-header" if number in no_numbers else beyond_code
        if number == "1\\2" and tag not in (SLOPE, INTERCEPT):
            code = "no-geometry"  # a number too many
        yield f"{name}-{number[:6]}", scan({**both, tag: ("DS", template.format(number))}), code
    for spacing in ("-1\\1", "0\\1", "1\\0", "-1\\-1", "1\\1\\1"):
        yield f"spacing-of-{spacing}", scan({SPACING: ("DS", spacing)}), "no-geometry"
    yield "spacing-of-1", scan({SPACING: ("DS", "1")}), "bad-header"


def texts() -> Iterator[Case]:
    """Texts that are too long, or would do harm where they are shown."""
    for name, text in (
        ("markup", "<script>alert(1)</script>"),
        ("lines", "line\nbreak\r\n\x1b[31mred\x07\0end"),
        ("long", "x" * 60_000),
        ("format", "{0}%s%n"),
    ):
        one: Fields = {DESCRIPTION: ("LO", text)}
        two: Fields = {**one, SERIES_UID: ("UI", "1.2.99")}
        make = partial(write_scan, changes=lambda index, both=(one, two): both[index > 0])
        yield f"description-{name}", make, "several-series"
        yield f"class-{name}", saved({SOP_CLASS: ("UI", text)}), "no-image-series"
        yield (
            f"uid-{name}",
            scan({SERIES_UID: ("UI", text)}),
            "read" if name != "long" else "bad-header",
        )
        named = image().replace(
            element(0x00020010, "UI", EXPLICIT), element(0x00020010, "UI", text)
        )
        code = "bad-header" if name == "long" else "no-decoder"
        yield f"syntax-{name}", partial(write, content=named), code
    sets = ("nonsense", "ISO_IR 999", "\\" * 99, "ISO 2022 IR 87\\..\\..\\x", "utf_32\\rot13")
    for charset in (*sets, PERSON[0], "x" * 60_000):
        fields: Fields = {CHARSET: ("CS", charset), DESCRIPTION: ("LO", "\x1b$B\xff\xfe")}
        yield f"charset-{charset[:9]}", saved(fields), "read"


def pets() -> Iterator[Case]:
    """A person's weight, and dates, are looked at for SUV: they must not be spoken of."""
    pet: Fields = {
        SOP_CLASS: ("UI", "1.2.840.10008.5.1.4.1.1.128"),
        MODALITY: ("CS", "PT"),
        SLOPE: ("DS", "1"),
        INTERCEPT: ("DS", "0"),
        0x00541001: ("CS", "BQML"),
        0x00280051: ("CS", "ATTN\\DECY"),
        0x00541102: ("CS", "START"),
        0x00101030: ("DS", "70"),
        **dict.fromkeys((0x00080021, 0x00080022), ("DA", "20200101")),
        **dict.fromkeys((0x00080031, 0x00080032), ("TM", "120000")),
    }
    drug = element(0x00181072, "TM", "110000") + element(0x00181074, "DS", "1e8")
    drug = sequence(0x00540016, item(drug + element(0x00181075, "DS", "6586")))
    changed: dict[str, Fields] = {
        "sound": {},
        "date": {0x00080021: ("DA", PERSON[1])},
        "time": {0x00080032: ("TM", "99")},
        "weight": {0x00101030: ("DS", PERSON[1])},
        "weight-inf": {0x00101030: ("DS", "inf")},
        "weights": {0x00101030: ("DS", "1\\2")},
        "correction": {0x00541102: ("CS", PERSON[0])},
    }
    for name, changes in changed.items():
        yield f"pet-{name}", saved({**pet, **changes}, more=drug), "read"


CASES = [
    *(*lies(), *truncated(), *items(), *nests(), *sizes(), *bombs(), *long_streams()),
    *(*many_fragments(), *indices(), *no_files(), *large_folders(), *copies(), *spoilt()),
    *(*numbers(), *texts(), *pets()),
]


# The measurement

_READER = """
import gc, json, logging, os, resource, signal, sys, time, warnings
from pathlib import Path
import volumetric.io.dicom.scan
from volumetric import VolumetricError, read_volume

root, asked, opened, said = os.environ["HOSTILE_ROOT"], "", [], []

def watch(event, args):
    if asked and event == "open" and isinstance(args[0], (str, bytes)):
        path = os.fsdecode(args[0])
        inside = path == asked or path.startswith(asked + "/")
        if "passwd" in path or (path.startswith(root) and not inside):
            opened.append(path)

class Keep(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())

def attempt(path):
    try:
        volume = read_volume(Path(path))
        return {"code": "read", "texts": [str(one) for one in volume.about.findings]}
    except VolumetricError as error:
        return {"code": error.code, "texts": [str(error), error.reason, error.remedy]}
    except BaseException as error:
        return {"code": f"untyped {type(error).__name__}: {error}", "texts": []}

gc.freeze()
sys.addaudithook(watch)
logging.captureWarnings(True)
warnings.simplefilter("always")
logging.getLogger().addHandler(Keep())
logging.getLogger().setLevel(logging.DEBUG)
for line in sys.stdin.buffer:
    path = os.fsdecode(bytes.fromhex(line.decode()))
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(10)
        asked = path
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start, start_cpu = time.perf_counter(), time.process_time()
        found = attempt(path)
        # Of the two the lesser: on a busy machine one waits, with several threads one counts twice.
        found["seconds"] = min(time.perf_counter() - start, time.process_time() - start_cpu)
        found["mib"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        found["said"], found["opened"] = said, opened
        with os.fdopen(writer, "w") as stream:
            json.dump(found, stream)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    signal_number = os.waitpid(child, 0)[1]
    print(text or json.dumps({"code": f"died of signal {signal_number}"}), flush=True)
"""

Attempt = Callable[[Make], dict[str, Any]]


@pytest.fixture(scope="module")
def attempt() -> Iterator[Attempt]:
    """Writes a case, has it read by a process of its own, and tells what came of it."""
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    root = Path(tempfile.mkdtemp()).resolve()
    reader = subprocess.Popen(
        [sys.executable, "-c", _READER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "HOSTILE_ROOT": str(root)},
        cwd=Path(__file__).parents[1],
    )

    def ask(make: Make) -> dict[str, Any]:
        path = make(root / "case")
        assert reader.stdin
        assert reader.stdout
        reader.stdin.write(os.fsencode(path).hex().encode() + b"\n")
        reader.stdin.flush()
        found = json.loads(reader.stdout.readline())
        if path.is_dir():  # maybe too deep for Python's own
            subprocess.run(["rm", "-rf", str(root / "case")], check=True)
        else:
            shutil.rmtree(root / "case")
        return found

    with reader:
        yield ask
        assert reader.stdin
        reader.stdin.close()
    root.rmdir()


def test_the_measurement_sees_what_it_must(attempt: Attempt) -> None:
    """64 MB that are read, and the time this takes; and that no case stands for another."""
    pixels = partial(element, PIXELS, "OB", b"\1" * 8000**2)
    found = attempt(saved(of_side(8000), more=pixels))
    assert found["code"] == "read"
    assert 100 < found["mib"] < 400
    assert found["seconds"] > 0.01
    assert len({name for name, *_ in CASES}) == len(CASES) > 300


@pytest.mark.parametrize(("make", "code"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
def test_what_is_hostile_is_refused_soon_and_in_little_memory(
    attempt: Attempt, make: Make, code: str
) -> None:
    found = attempt(make)
    assert found["code"] == code, found
    assert found["seconds"] <= 2, found
    assert found["mib"] <= 300, found
    assert found["opened"] == []
    for text in found["texts"]:
        assert text.isprintable()
        assert len(text) <= _LONGEST_TEXT
    for text in (*found["texts"], *found["said"]):
        assert not any(telltale in text for telltale in _TELLTALES)
    assert not any("Warning" in text for text in found["said"])
