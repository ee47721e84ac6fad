"""DICOM series: which slices of what was found make the one volume that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from volumetric.errors import AmbiguousSeriesError, UnreadableFileError, VolumetricError
from volumetric.findings import Finding
from volumetric.io.dicom.choices import CHOOSE, Prefix, ambiguous, describe, join_lines
from volumetric.io.dicom.folder import Found, count_apart, set_apart
from volumetric.io.dicom.groups import filter_slices, split_repeats
from volumetric.io.dicom.losses import check_numbers, check_parts, check_sisters
from volumetric.io.dicom.mixtures import check_contrast, check_plane
from volumetric.io.dicom.slices import Slice


def choose_volume(
    path: Path, found: Found, choice: str | None
) -> tuple[list[Slice], list[Finding]]:
    """The slices of one volume, in no particular order, and what was set aside to get there.

    `choice` is a SeriesInstanceUID, or one with what else to choose by: "1.2.3[EchoTime=4.92]",
    as the refusal of an ambiguous folder lists it.

    Raises:
        UnreadableFileError: there is no image series.
        AmbiguousSeriesError: several volumes and none chosen, or the one chosen is not there.
        GeometryError: the slices of one series have several sizes, orientations, spacings or
            frames of reference; or some are known to be missing.
    """
    if not found.series:
        raise _no_series(path, found)
    uid, _, filters = (choice or "").partition("[")
    parts = filters.removesuffix("]").split(";") if filters else []
    series = _choose_series(path, found.series, uid if choice is not None else None)
    if not series:
        raise _no_such_series(path, found.series, str(choice))
    findings = [
        *set_apart(path, found, series),
        *check_parts(path, series),
        *check_numbers(path, series),
    ]
    slices = series
    for part in parts:
        slices = filter_slices(slices, part, path)
        if not slices:
            raise _no_such_volume(path, series, str(choice))
    doubts = _check_volume(path, slices, (series[0].series_uid, ";".join(parts)))
    if parts:
        check_sisters(path, slices, series, [part.partition("=")[0] for part in parts])
    return slices, [*findings, *doubts]


def _check_volume(path: Path, slices: Sequence[Slice], prefix: Prefix) -> list[Finding]:
    """Doubts about slices as one volume; refused where they are several, or none."""
    check_plane(path, slices, prefix)
    groups = split_repeats(slices, path)
    if groups:
        raise ambiguous(path, "several-volumes", groups, prefix)
    return check_contrast(path, slices, prefix)


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
    lines = _list_series(series)
    raise AmbiguousSeriesError(
        "several-series",
        f"holds {len(series)} series: {join_lines(lines)}",
        f"{CHOOSE}, or name a folder that holds only one",
        path=path,
        choices=tuple(one for one, _ in lines),
    )


def _is_usable(one: Slice) -> bool:
    """Whether an image can be a slice of a scan at all: a place, and one value a pixel."""
    placed = one.position and one.orientation and one.pixel_spacing_mm
    return bool(placed) and _is_grey(one)


def _is_grey(one: Slice) -> bool:
    return one.encoding.photometric.startswith("MONOCHROME")


def _list_series(series: dict[str, list[Slice]]) -> list[tuple[str, str]]:
    return [(one, describe(slices)) for one, slices in sorted(series.items())]


def _no_series(path: Path, found: Found) -> UnreadableFileError:
    remedy = "Name the file or folder with the slices themselves; links inside it are not followed"
    if found.apart and all("Secondary Capture" in kind for kind in found.apart):
        remedy = (
            "Secondary captures are pictures of a screen, grey or colour, without places or "
            "units: fetch the scan that they show"
        )
    return UnreadableFileError(
        "no-image-series",
        f"holds no DICOM image series ({found.n_files} files; set apart: {count_apart(found)})",
        remedy,
        path=path,
    )


def _no_such_series(
    path: Path, series: dict[str, list[Slice]], choice: str
) -> AmbiguousSeriesError:
    lines = _list_series(series)
    return AmbiguousSeriesError(
        "series-not-found",
        f"holds no series {choice!r}, only: {join_lines(lines)}",
        CHOOSE,
        path=path,
        choices=tuple(one for one, _ in lines),
    )


def _no_such_volume(path: Path, series: Sequence[Slice], choice: str) -> AmbiguousSeriesError:
    """What is said where the series is there, but not the volume of it: which volumes are."""
    uid = series[0].series_uid
    said = f"that series is one volume: {uid} {describe(series)}"
    choices: tuple[str, ...] = ()
    try:
        _check_volume(path, series, (uid, ""))
    except VolumetricError as error:
        said, choices = f"that series {error.reason}", error.choices
    return AmbiguousSeriesError(
        "series-not-found",
        f"holds no {choice!r}: {said}",
        CHOOSE,
        path=path,
        choices=choices or (uid,),
    )
