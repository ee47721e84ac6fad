"""Cases and the manifests that list them."""

from __future__ import annotations

import csv
import io
import os
import re
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from volumetric.errors import ManifestError, UnreadableFileError


@dataclass(frozen=True)
class Case:
    """One row of a manifest: what to read, and on which side of which fold it stands.

    Attributes:
        id: unique name, also the stem of every file made from it.
        subject: the person (or video group) it comes from; never on both sides of a fold.
        fold: the fold in which it is held out; None if it has none.
        image: path of the scan or clip.
        mask: path of the voxel labels; None where there are none.
        label: class of the whole case; None where there is none.
        series: which volume of a DICOM folder, as `read_volume` takes it; None for the only one.
        boxes: path of a CSV of boxes, see `volumetric.io.boxes`; None where there is none.
    """

    id: str
    subject: str
    fold: int | None
    image: Path
    mask: Path | None = None
    label: str | None = None
    series: str | None = None
    boxes: Path | None = None


_LARGEST_MANIFEST = 1 << 26  # bytes: a million rows
_COLUMNS = tuple(field.name for field in fields(Case))


def read_cases(path: Path, *, root: Path) -> list[Case]:
    """Cases of a manifest's CSV, in its order, with paths under `root`.

    Columns: id, image (required); subject (default: id), fold, mask, label, series, boxes. Unknown
    columns are refused, so that a misspelt one is never silently dropped.

    Raises:
        ManifestError: empty, unknown or missing column, duplicate or unsafe id, bad fold,
            a path outside `root`, or a subject in two folds.
    """
    cases, refused = read_rows(path, root=root)
    for error in refused:
        raise error
    check_cases(cases, path=path)
    return cases


def read_rows(path: Path, *, root: Path) -> tuple[list[Case], list[ManifestError]]:
    """The same, each row proven by itself only, and what is wrong with the others."""
    reader = csv.DictReader(io.StringIO(read_manifest(path).removeprefix("\ufeff"), newline=""))
    cases: list[Case] = []
    refused: list[ManifestError] = []
    try:
        _check_columns(path, reader.fieldnames or [])
        for row in reader:
            try:
                cases.append(_case(path, reader.line_num, row, root))
            except ManifestError as error:
                refused.append(error)
    except csv.Error as error:  # a quote that is never closed, most often
        raise ManifestError(
            "unreadable-manifest",
            f"is no readable CSV ({error})",
            "Look for a quote that is not closed",
            path=f"{path}:{reader.line_num}",
        ) from error
    return cases, refused


def read_manifest(path: Path) -> str:
    """The text of a manifest's CSV or YAML.

    Raises:
        UnreadableFileError: missing, too large, no text in UTF-8, or a pipe, which might never end.
    """
    try:
        # Without O_NONBLOCK a pipe that nobody writes to would be waited for, for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError("a folder, pipe or device")
            content = file.read(_LARGEST_MANIFEST + 1)
        if len(content) > _LARGEST_MANIFEST:
            raise OSError("more than 64 MiB")
        return content.decode()
    except UnicodeDecodeError as error:
        raise UnreadableFileError(
            "unreadable-manifest",
            f"is no text in UTF-8 (byte {error.start:,})",
            "Save it as UTF-8",
            path=path,
        ) from error
    except (OSError, ValueError) as error:
        raise UnreadableFileError(
            "unreadable-manifest", f"cannot be read ({error})", "Check the path", path=path
        ) from error


def write_cases(path: Path, cases: Sequence[Case], *, root: Path) -> None:
    """Write a manifest's CSV that `read_cases` returns unchanged; paths relative to `root`."""
    used = [
        name
        for name in _COLUMNS
        if name in ("id", "image") or any(getattr(case, name) is not None for case in cases)
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(used)
        for case in cases:
            writer.writerow([_cell(getattr(case, name), root) for name in used])


def check_cases(cases: Sequence[Case], *, path: Path) -> None:
    """Refuse a list that is empty, repeats an id, or puts a subject in two folds."""
    if not cases:
        raise ManifestError("empty-manifest", "lists no case", "Add at least one row", path=path)
    ids: set[str] = set()
    fold_of: dict[str, int | None] = {}
    for case in cases:
        if case.id in ids:
            raise ManifestError(
                "duplicate-id", f"id {case.id!r} appears twice", "Give each case its own", path=path
            )
        ids.add(case.id)
        if fold_of.setdefault(case.subject, case.fold) != case.fold:
            raise ManifestError(
                "subject-in-two-folds",
                f"subject {case.subject!r} is in folds {fold_of[case.subject]} and {case.fold}",
                "Keep all cases of a subject in one fold, or what is learned leaks into the score",
                path=path,
            )


def _check_columns(path: Path, names: Sequence[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ManifestError(
            "bad-columns",
            f"appear twice: {', '.join(map(repr, twice))}",
            "Leave one of each",
            path=path,
        )
    unknown = [name for name in names if name not in _COLUMNS]
    missing = [name for name in ("id", "image") if name not in names]
    if unknown or missing:
        faults = [
            f"{what} column{'s' * (len(names_) > 1)}: {', '.join(map(repr, names_))}"
            for what, names_ in (("unknown", unknown), ("missing", missing))
            if names_
        ]
        cause = ""
        if any(";" in name or "\t" in name for name in names):
            cause = "; it is separated by something else than commas"
        elif {name.strip().lower() for name in unknown} & set(_COLUMNS):
            cause = "; names are written without spaces, in small letters"
        raise ManifestError(
            "bad-columns",
            f"{'; '.join(faults)}{cause}",
            f"Use only {', '.join(_COLUMNS)}, with commas between; id and image are required",
            path=path,
        )


def _case(path: Path, number: int, row: Mapping[str, str | None], root: Path) -> Case:
    where = f"{path}:{number}"
    cells = {name: (row.get(name) or "").strip() or None for name in _COLUMNS}
    name, image, fold = cells["id"], cells["image"], cells["fold"]
    if None in row or None in row.values():  # its cells would stand under other columns' names
        many = "many" if None in row else "few"
        raise ManifestError(
            "bad-row",
            f"has cells too {many}",
            "Write one cell for each column, with commas between even where it is empty",
            path=where,
        )
    if name is None or image is None:
        raise ManifestError("bad-row", "id or image is empty", "Complete the row", path=where)
    if not all(letter.isalnum() or letter in "-_." for letter in name) or name.startswith("."):
        raise ManifestError(
            "unsafe-id",
            f"id {name!r} cannot name a file",
            "Use letters, digits, '-', '_' and '.' only",
            path=where,
        )
    if fold is not None and not re.fullmatch("[0-9]{1,4}", fold):
        raise ManifestError(
            "bad-fold",
            f"fold {fold[:20]!r} is no number up to 9999",
            "Use 0, 1, 2, … or leave it empty",
            path=where,
        )
    mask, boxes = cells["mask"], cells["boxes"]
    return Case(
        id=name,
        subject=cells["subject"] or name,
        fold=None if fold is None else int(fold),
        image=_inside(root, image, where),
        mask=None if mask is None else _inside(root, mask, where),
        label=cells["label"],
        series=cells["series"],
        boxes=None if boxes is None else _inside(root, boxes, where),
    )


def _inside(root: Path, cell: str, where: str) -> Path:
    if Path(cell).is_absolute() or ".." in Path(cell).parts:
        raise ManifestError(
            "path-outside-root",
            f"path {cell!r} leaves the data folder",
            "Write paths relative to the data folder and name that with --root",
            path=where,
        )
    return root / cell


def _cell(value: object, root: Path) -> object:
    if value is None:
        return ""
    return value.relative_to(root).as_posix() if isinstance(value, Path) else value
