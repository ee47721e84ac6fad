"""Headers made of lines, as NRRD and MetaImage have: bounded, and numbers that are numbers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from volumetric.errors import GeometryError, UnreadableFileError, UnsupportedError
from volumetric.io.formats.voxels import Compression, is_gzip, read_head

_LARGEST_BYTES = 1 << 20
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_LARGEST = 1e9  # beyond all millimetres, and its square is a number still
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
# Python also reads "1_0", "nan" and digits of other scripts.
_NUMBER = re.compile(r"[+-]?([0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?")


def header_lines(path: Path) -> Iterator[tuple[str, int]]:
    """Lines of the first mebibyte without their ends, and where in the file each next begins."""
    if is_gzip(path):  # neither format has this; where its lines end would say nothing
        refuse_encoding("gzip of the whole file", path=path)
    head = read_head(path, _LARGEST_BYTES)
    at = 0
    while at < len(head):
        end = head.find(b"\n", at)
        end = len(head) if end < 0 else end
        # Not latin-1: Python would take its no-break space for a space.
        line = head[at:end].decode("ascii", "surrogateescape").removesuffix("\r")
        if _CONTROL.search(line):  # one bit turns a minus into a carriage return, which is space
            refuse_header(f"has a control character in {line[:60]!r}", path=path)
        yield line, end + 1
        at = end + 1


def as_fields(
    pairs: Iterable[tuple[str, str]], *, required: Sequence[str], path: Path
) -> dict[str, str]:
    """Fields by their names, none missing, none given twice with different values."""
    fields: dict[str, str] = {}
    for name, value in pairs:
        if fields.get(name, value) != value:
            refuse_header(f"states {name!r} twice, and differently", path=path)
        fields[name] = value
    missing = [name for name in required if name not in fields]
    if missing:
        refuse_header(f"lacks {', '.join(missing)}", path=path)
    return fields


def whole_numbers(text: str, *, path: Path) -> list[int]:
    """The integers in a line."""
    if not all(_WHOLE.fullmatch(word) for word in text.split()):
        refuse_header(f"has {text[:60]!r} where whole numbers should be", path=path)
    return [int(word) for word in text.split()]


def decimals(text: str, *, count: int, path: Path) -> list[float]:
    """The numbers in a line, as many as asked for; where voxels lie depends on them."""
    words = text.split()
    numbers = [float(word) for word in words if _NUMBER.fullmatch(word)]
    if not (len(words) == len(numbers) == count and all(abs(x) < _LARGEST for x in numbers)):
        raise GeometryError(
            "bad-affine",
            f"has {text[:60]!r} where {count} numbers should be",
            "Repair the header's orientation and spacing",
            path=path,
        )
    return numbers


def detached_voxels(
    path: Path, name: str, *, skip: str, compression: Compression
) -> tuple[Path, int | None]:
    """The file that a header names, and where in it the voxels begin; None: they end it.

    Raises:
        UnreadableFileError: bytes to skip that are no number.
        UnsupportedError: as `_neighbour`; bytes to skip before compressed data.
    """
    n_bytes = whole_numbers(skip, path=path)
    if len(n_bytes) != 1 or n_bytes[0] < -1:
        refuse_header(f"skips {skip[:60]!r} bytes", path=path)
    if n_bytes != [0] and compression != "none":
        refuse_encoding(f"compressed, behind {n_bytes[0]} bytes", path=path)
    return _neighbour(path, name), None if n_bytes == [-1] else n_bytes[0]


def _neighbour(path: Path, name: str) -> Path:
    """The file of that name beside a header: never one elsewhere, and never several.

    Raises:
        UnsupportedError: a list of files, a pattern, or a path.
    """
    name = name.removeprefix("./")
    words = name.split()
    if not words or words[0].upper() == "LIST" or "%" in name:
        raise UnsupportedError(
            "several-files",
            f"has its voxels in more files than one ({name[:60]!r})",
            "Convert it to a single file",
            path=path,
        )
    if "/" in name or "\\" in name or name in (".", "..") or "\0" in name:
        raise UnsupportedError(
            "path-outside-folder",
            f"has its voxels in another folder ({name[:60]!r})",
            "Put both files into one folder, and name only the file in the header",
            path=path,
        )
    return path.with_name(os.fsdecode(name.encode("ascii", "surrogateescape")))


def refuse_header(reason: str, *, path: Path) -> NoReturn:
    """Refuse a header that contradicts its format."""
    raise UnreadableFileError("bad-header", reason, "Copy or export the file again", path=path)


def refuse_encoding(name: str, *, path: Path) -> NoReturn:
    """Refuse voxels that are neither raw nor deflated."""
    raise UnsupportedError(
        "encoding",
        f"stores its voxels as {name[:60]!r}",
        "Store them raw or with gzip",
        path=path,
    )
