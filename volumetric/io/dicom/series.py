"""DICOM series: which slices of a file or folder make the one volume that was asked for."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.config import disable_value_validation

from volumetric.errors import AmbiguousSeriesError, GeometryError, UnreadableFileError
from volumetric.findings import Finding
from volumetric.io.dicom.files import SHORTEST_BYTES, claims_dicom, list_files
from volumetric.io.dicom.groups import Group, group_slices, split_repeats
from volumetric.io.dicom.headers import read_slices
from volumetric.io.dicom.labels import CONTRASTS, image_kind
from volumetric.io.dicom.slices import Slice

logger = logging.getLogger(__name__)

_LISTED = 12
_MOST_PARTS = 10_000  # of a cut object, looked for one by one


@dataclass(frozen=True)
class Found:
    """What a file or folder holds.

    Attributes:
        series: slices of each series, by SeriesInstanceUID.
        apart: how many objects of each kind are no slices of a scan.
        links: what was not followed.
        n_files: files looked at.
    """

    series: dict[str, list[Slice]]
    apart: Counter[str]
    links: tuple[Path, ...]
    n_files: int


def find_series(path: Path) -> Found:
    """Every image series at or below a path, from headers alone, each read once.

    Raises:
        UnreadableFileError: nothing is there, or a file that should be DICOM is damaged.
    """
    files, links = list_files(path)
    series: dict[str, list[Slice]] = {}
    apart: Counter[str] = Counter()
    foreign: list[Path] = []
    with disable_value_validation():  # its warnings would quote the header's values
        for file in files:
            if not claims_dicom(file, asked_for=file == path):
                foreign.append(file)
                continue
            slices, kinds = read_slices(file)
            apart.update(kinds)
            for one in slices:
                series.setdefault(one.series_uid, []).append(one)
    _refuse_stumps(foreign, {one.path for slices in series.values() for one in slices})
    apart.update(["not DICOM"] * len(foreign))
    return Found(series, apart, links, len(files))


def _refuse_stumps(foreign: Sequence[Path], slices: set[Path]) -> None:
    """Refuse files named as the slices beside them, and too short to be anything."""
    names = {_name_kind(file) for file in slices}
    for file in foreign:
        if _name_kind(file) in names and file.stat().st_size < SHORTEST_BYTES:
            raise UnreadableFileError(
                "not-dicom",
                "is cut: it is named as the slices beside it, and has no header",
                "Copy it again, or remove it if it is no slice",
                path=file,
            )


def _name_kind(file: Path) -> tuple[Path, str]:
    """Folder and suffix; numbers behind a dot are no suffix."""
    return file.parent, "" if file.suffix[1:].isdigit() else file.suffix.lower()


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
    uid, _, filters = (choice or "").partition("[")
    slices = _choose_series(path, found.series, uid if choice is not None else None)
    findings = _set_apart(path, found, slices)
    _check_parts(path, slices)
    for part in filters.removesuffix("]").split(";") if filters else []:
        keyword, _, value = part.partition("=")
        slices = dict(group_slices(slices, keyword)).get(f"{keyword}={value}", [])
    if not slices:
        raise _not_found(path, found.series, str(choice))
    prefix = slices[0].series_uid, filters.removesuffix("]")
    _check_plane(path, slices, prefix)
    groups = split_repeats(slices, path)
    if groups:
        raise _ambiguous(path, "several-volumes", groups, prefix)
    return slices, [*findings, *_check_contrast(path, slices, prefix)]


def _set_apart(path: Path, found: Found, chosen: Sequence[Slice]) -> list[Finding]:
    """What lies beside the slices, and was not read with them."""
    others = [
        describe(slices) for slices in found.series.values() if slices and slices[0] not in chosen
    ]
    beside = [_counts(found.apart)] * bool(found.apart) + others[:_LISTED]
    findings = []
    if beside:
        said = f"set apart what is no slice of the scan: {'; '.join(beside)}"
        findings.append(Finding("set-apart", "note", said, "Nothing to do", str(path)))
    if found.links:
        said = f"{len(found.links)} links were not followed, such as {found.links[0].name}"
        remedy = "If they are slices, the scan lacks them: put the files themselves there"
        findings.append(Finding("links-not-followed", "warning", said, remedy, str(path)))
    return findings


def _choose_series(path: Path, series: dict[str, list[Slice]], uid: str | None) -> list[Slice]:
    if uid is not None:
        return series.get(uid, [])
    usable = {one: slices for one, slices in series.items() if any(map(_is_usable, slices))}
    # A series of the same kind without places may be the better half of the scan.
    kinds = {slices[0].modality for slices in usable.values()}
    alike = [
        one for one, (first, *_) in series.items() if _is_grey(first) and first.modality in kinds
    ]
    if len(usable or series) == 1 and len(alike) < 2:
        return next(iter((usable or series).values()))
    lines = [(one, describe(slices)) for one, slices in sorted(series.items())]
    raise AmbiguousSeriesError(
        "several-series",
        f"holds {len(series)} series: {_listing(lines)}",
        "Choose one with series_uid= (in a manifest, its column `series`), or name a folder that "
        "holds only one",
        path=path,
        choices=tuple(one for one, _ in lines),
    )


def _is_usable(one: Slice) -> bool:
    """Whether an image can be a slice of a scan at all: a place, and one value a pixel."""
    placed = one.position and one.orientation and one.pixel_spacing_mm
    return bool(placed) and _is_grey(one)


def _is_grey(one: Slice) -> bool:
    return one.encoding.photometric.startswith("MONOCHROME")


def _not_found(path: Path, series: dict[str, list[Slice]], choice: str) -> AmbiguousSeriesError:
    lines = [(one, describe(slices)) for one, slices in sorted(series.items())]
    return AmbiguousSeriesError(
        "series-not-found",
        f"holds no series {choice!r}, only: {_listing(lines)}",
        "Choose one of these with series_uid=",
        path=path,
        choices=tuple(one for one, _ in lines),
    )


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
        groups = group_slices(slices, keyword)
        if len(groups) > 1:
            lines = [(_choice(prefix, key), describe(members)) for key, members in groups]
            raise GeometryError(
                code,
                f"its slices have {len(groups)} {what}: {_listing(lines)}",
                "Choose one with series_uid=, or keep one a folder",
                path=path,
                choices=tuple(choice for choice, _ in lines),
            )


def _check_contrast(path: Path, slices: Sequence[Slice], prefix: tuple[str, str]) -> list[Finding]:
    """No two kinds of values in one stack, even where every slice has its own place."""
    kinds = {
        (one.modality, one.unit, one.rescale is not None, one.encoding.photometric)
        + ((one.encoding.bits, one.encoding.signed) if _is_inverted(one) else ())
        for one in slices
    }
    if len(kinds) > 1:
        raise AmbiguousSeriesError(
            "mixed-units",
            "its slices do not agree on (modality, unit, whether values are rescaled, grey scale): "
            f"{sorted(map(str, kinds))[:_LISTED]}",
            "Export the series again, in one unit",
            path=path,
        )
    varying = []
    for keyword in CONTRASTS:
        groups = group_slices(slices, keyword)
        if keyword == "ImageType" and len({image_kind(one.image_type) for one in slices}) == 1:
            continue
        if len(groups) == len(slices) > 1:
            varying.append(keyword)  # of each slice its own: no volumes that were mixed
        elif len(groups) > 1:
            raise _ambiguous(path, "mixed-contrast", groups, prefix)
    return [
        Finding(
            "contrast-varies",
            "warning",
            f"{keyword} differs in every slice",
            "Check that one volume may be made of them",
            str(path),
        )
        for keyword in varying
    ]


def _is_inverted(one: Slice) -> bool:
    return one.encoding.photometric == "MONOCHROME1"


def _check_parts(path: Path, slices: Sequence[Slice]) -> None:
    """All files of an enhanced object that was cut into several (PS3.3 C.7.6.16.2.2.4)."""
    parts = {one.part for one in slices if one.part is not None}
    missing = {number for _, total in parts for number in range(1, total + 1)[:_MOST_PARTS]}
    missing -= {number for number, _ in parts}
    if missing:
        raise GeometryError(
            "missing-part",
            f"of an object cut into {max(total for _, total in parts)} files some are missing: "
            f"number {', '.join(map(str, sorted(missing)[:_LISTED]))}",
            "Fetch the series again, whole",
            path=path,
        )


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
