"""DICOM series: which slices of a file or folder make the one volume that was asked for."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.config import disable_value_validation

from volumetric.errors import AmbiguousSeriesError, GeometryError, UnreadableFileError
from volumetric.findings import Finding
from volumetric.io.dicom.files import claims_dicom, list_files
from volumetric.io.dicom.geometry import runs_of_one_place
from volumetric.io.dicom.headers import read_slices
from volumetric.io.dicom.slices import CONTRASTS, LABELS, Slice

logger = logging.getLogger(__name__)

_LISTED = 12
# Slices of one stack repeat the same rounded numbers; 1e-4 is 0.03 mm across a 300 mm slice.
_EQUAL_TOLERANCE = 1e-4
_NUMERIC = ("ImageOrientationPatient", "PixelSpacing", "EchoTime", "EffectiveEchoTime")

Group = tuple[str, list[Slice]]
"""Slices, and what all of them share that the others lack: "EchoTime=4.92"."""


@dataclass(frozen=True)
class Found:
    """What a file or folder holds.

    Attributes:
        series: slices of each series, by SeriesInstanceUID.
        apart: how many objects of each kind are no slices of a scan.
        n_files: files looked at.
    """

    series: dict[str, list[Slice]]
    apart: Counter[str]
    n_files: int


def find_series(path: Path) -> Found:
    """Every image series at or below a path, from headers alone, each read once.

    Raises:
        UnreadableFileError: nothing is there, or a file that should be DICOM is damaged.
    """
    files = list_files(path)
    series: dict[str, list[Slice]] = {}
    apart: Counter[str] = Counter()
    with disable_value_validation():  # its warnings would quote the header's values
        for file in files:
            if not claims_dicom(file, asked_for=file == path):
                continue
            slices, kinds = read_slices(file)
            apart.update(kinds)
            for one in slices:
                series.setdefault(one.series_uid, []).append(one)
    return Found(series, apart, len(files))


def choose_volume(
    path: Path, found: Found, choice: str | None
) -> tuple[list[Slice], list[Finding]]:
    """The slices of one volume, in no particular order, and what was set aside to get there.

    `choice` is a SeriesInstanceUID, or one with what else to choose by: "1.2.3[EchoTime=4.92]",
    exactly as the refusal of an ambiguous folder lists it.

    Raises:
        UnreadableFileError: there is no image series.
        AmbiguousSeriesError: several volumes and none chosen, or the one chosen is not there.
        GeometryError: the slices of one series have several sizes, orientations, spacings or
            frames of reference.
    """
    if not found.series:
        raise UnreadableFileError(
            "no-image-series",
            f"holds no DICOM image series ({found.n_files} files; set apart: "
            f"{_counts(found.apart)})",
            "Name the file or folder with the slices themselves; links inside it are not followed",
            path=path,
        )
    findings = _set_apart(path, found)
    uid, _, filters = (choice or "").partition("[")
    slices = _choose_series(path, found.series, uid if choice is not None else None)
    for part in filters.removesuffix("]").split(";") if filters else []:
        keyword, _, value = part.partition("=")
        slices = _filter(slices, keyword, value)
    if not slices:
        raise _not_found(path, found.series, str(choice))
    prefix = slices[0].series_uid, filters.removesuffix("]")
    _check_plane(path, slices, prefix)
    groups = split_repeats(slices, path)
    if groups:
        raise _ambiguous(path, "several-volumes", groups, prefix)
    _check_contrast(path, slices, prefix)
    return slices, findings


def _set_apart(path: Path, found: Found) -> list[Finding]:
    if not found.apart:
        return []
    return [
        Finding(
            "set-apart",
            "note",
            f"set apart what is no slice of a scan: {_counts(found.apart)}",
            "Nothing to do",
            str(path),
        )
    ]


def _choose_series(path: Path, series: dict[str, list[Slice]], uid: str | None) -> list[Slice]:
    if uid is not None:
        return series.get(uid, [])
    usable = {one: slices for one, slices in series.items() if any(map(_is_usable, slices))}
    if len(usable or series) == 1:
        return next(iter((usable or series).values()))
    lines = [(one, describe(slices)) for one, slices in sorted(series.items())]
    raise AmbiguousSeriesError(
        "several-series",
        f"holds {len(series)} series: {_listing(lines)}",
        "Choose one with series_uid=, or name a folder that holds only one",
        path=path,
        choices=tuple(one for one, _ in lines),
    )


def _is_usable(one: Slice) -> bool:
    """Whether an image can be a slice of a scan at all: a place, and one value a pixel."""
    placed = one.position and one.orientation and one.pixel_spacing_mm
    return bool(placed) and one.encoding.photometric.startswith("MONOCHROME")


def _not_found(path: Path, series: dict[str, list[Slice]], choice: str) -> AmbiguousSeriesError:
    lines = [(one, describe(slices)) for one, slices in sorted(series.items())]
    return AmbiguousSeriesError(
        "series-not-found",
        f"holds no series {choice!r}, only: {_listing(lines)}",
        "Choose one of these with series_uid=",
        path=path,
        choices=tuple(one for one, _ in lines),
    )


def _facet(one: Slice, keyword: str) -> str:
    """What a slice says under a keyword, as a choice spells it; "" if nothing."""
    if keyword == "Size":
        return f"{one.encoding.size[1]}x{one.encoding.size[0]}"
    special = {
        "ImageOrientationPatient": one.orientation,
        "PixelSpacing": one.pixel_spacing_mm,
        "FrameOfReferenceUID": one.frame_of_reference,
        "StudyInstanceUID": one.study_uid,
    }
    value = special.get(keyword, one.labels.get(keyword, ""))
    return "\\".join(f"{n:.6g}" for n in value) if isinstance(value, tuple) else str(value or "")


def _same(keyword: str, first: str, second: str) -> bool:
    if keyword not in _NUMERIC or not (first and second):
        return first == second
    try:
        a, b = (np.array([float(n) for n in text.split("\\")]) for text in (first, second))
    except ValueError:
        return first == second
    # Echo times wander by a few microseconds from slice to slice on some scanners.
    scale = {"ImageOrientationPatient": np.ones_like(b), "PixelSpacing": b}.get(keyword, 100 * b)
    return a.shape == b.shape and bool((np.abs(a - b) <= _EQUAL_TOLERANCE * np.abs(scale)).all())


def _filter(slices: Sequence[Slice], keyword: str, value: str) -> list[Slice]:
    return [one for one in slices if _same(keyword, _facet(one, keyword), value)]


def _group(slices: Sequence[Slice], keyword: str) -> list[Group]:
    groups: dict[str, list[Slice]] = {}
    for one in slices:
        value = _facet(one, keyword)
        if value not in groups and keyword in _NUMERIC:
            value = next((known for known in groups if _same(keyword, known, value)), value)
        groups.setdefault(value, []).append(one)
    return [(f"{keyword}={value}", members) for value, members in groups.items()]


def _check_plane(path: Path, slices: Sequence[Slice], prefix: tuple[str, str]) -> None:
    """One size, orientation, pixel spacing and frame of reference."""
    for one in slices:
        spacing = one.pixel_spacing_mm
        if not (one.position and one.orientation and spacing and min(spacing) > 0):
            raise GeometryError(
                "no-geometry",
                f"position {one.position}, orientation {one.orientation}, pixel spacing {spacing}",
                "Export it with its geometry; a picture without one is no scan",
                path=one.path,
            )
    for code, keyword, what in (
        ("mixed-size", "Size", "sizes (columns x rows)"),
        ("mixed-orientation", "ImageOrientationPatient", "orientations"),
        ("mixed-pixel-spacing", "PixelSpacing", "pixel spacings (mm)"),
        ("mixed-frame-of-reference", "FrameOfReferenceUID", "frames of reference"),
        ("mixed-study", "StudyInstanceUID", "studies"),
    ):
        groups = _group(slices, keyword)
        if len(groups) > 1:
            lines = [(_choice(prefix, key), describe(members)) for key, members in groups]
            raise GeometryError(
                code,
                f"its slices have {len(groups)} {what}: {_listing(lines)}",
                "Choose one with series_uid=, or keep one a folder",
                path=path,
                choices=tuple(choice for choice, _ in lines),
            )


def split_repeats(slices: Sequence[Slice], path: Path) -> list[Group]:
    """Volumes of which several slices lie in one place; none if nothing repeats or tells apart.

    Labels are taken one by one, the likeliest first, as long as they make no more groups than
    the most slices at one place: so a time that differs in every slice splits nothing.
    """
    n_repeats = _most_at_one_place(slices, path)
    if n_repeats < 2:
        return []
    groups: list[Group] = [("", list(slices))]
    for keyword in [*LABELS, *sorted({key for one in slices for key in one.labels} - {*LABELS})]:
        finer = [
            (f"{key};{value}".strip(";"), members)
            for key, held in groups
            for value, members in _group(held, keyword)
        ]
        if len(groups) < len(finer) <= n_repeats:
            groups = finer
    apart = all(_most_at_one_place(members, path) == 1 for _, members in groups)
    return groups if apart else []


def _most_at_one_place(slices: Sequence[Slice], path: Path) -> int:
    return max(map(len, runs_of_one_place(slices, path)))


def _check_contrast(path: Path, slices: Sequence[Slice], prefix: tuple[str, str]) -> None:
    """No two kinds of values in one stack, even where every slice has its own place."""
    kinds = {(one.modality, one.unit, one.rescale is not None) for one in slices}
    if len(kinds) > 1:
        raise AmbiguousSeriesError(
            "mixed-units",
            "its slices do not agree on (modality, unit, whether values are rescaled): "
            f"{sorted(kinds)}",
            "Export the series again, in one unit",
            path=path,
        )
    for keyword in CONTRASTS:
        groups = _group(slices, keyword)
        if len(groups) > 1:
            raise _ambiguous(path, "mixed-contrast", groups, prefix)


def _ambiguous(
    path: Path, code: str, groups: Sequence[Group], prefix: tuple[str, str]
) -> AmbiguousSeriesError:
    lines = [(_choice(prefix, key), describe(members)) for key, members in groups]
    return AmbiguousSeriesError(
        code,
        f"holds {len(groups)} volumes in one series: {_listing(lines)}",
        "Choose one with series_uid=; time, echoes or b-values are no depth",
        path=path,
        choices=tuple(choice for choice, _ in lines),
    )


def _choice(prefix: tuple[str, str], key: str) -> str:
    uid, filters = prefix
    return f"{uid}[{';'.join(part for part in (filters, key) if part)}]"


def describe(slices: Sequence[Slice]) -> str:
    """Description, count and size of the images of a series, for a person to choose by."""
    first = slices[0]
    rows, columns = first.encoding.size
    count = f"{len(slices)} image{'s' if len(slices) > 1 else ''} of {columns}x{rows}"
    return f"{first.description!r}, {count}"


def _listing(lines: Sequence[tuple[str, str]]) -> str:
    shown = "; ".join(f"{choice or '(no UID)'} {text}" for choice, text in lines[:_LISTED])
    more = f"; and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
    return shown + more


def _counts(apart: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(apart.items())) or "nothing"
