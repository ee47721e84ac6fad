"""DICOM losses: slices that a series lacks, though what is left of it is a regular stack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from volumetric.errors import GeometryError
from volumetric.findings import Finding
from volumetric.io.dicom.choices import LISTED
from volumetric.io.dicom.groups import group_slices
from volumetric.io.dicom.labels import image_kind
from volumetric.io.dicom.mixtures import PLANES
from volumetric.io.dicom.places import plane_axes, same_place_mm
from volumetric.io.dicom.slices import Slice

_Vector = NDArray[np.float64]

_MOST_PARTS = 10_000  # of a cut object, looked for one by one
_SAME_PLACE_GAPS = 0.1  # how far from each other slices of two volumes may lie that correspond
_FETCH = "Fetch the series again, whole"


def check_parts(path: Path, slices: Sequence[Slice]) -> list[Finding]:
    """A doubt where an enhanced object was cut into files, and not how many (C.7.6.16.2.2.4).

    Raises:
        GeometryError: files of it are missing ("missing-part").
    """
    objects: dict[str, list[tuple[int, int | None]]] = {}
    for one in slices:
        if one.part is not None:
            objects.setdefault(one.part[0], []).append(one.part[1:])
    missing: set[int] = set()
    n_unstated, largest = 0, 0
    for parts in objects.values():
        numbers = {number for number, _ in parts}
        totals = {total for _, total in parts if total is not None}
        last = max(numbers | totals)
        missing |= set(range(1, last + 1)[:_MOST_PARTS]) - numbers
        n_unstated, largest = n_unstated + (not totals), max(largest, last)
    if missing:
        raise GeometryError(
            "missing-part",
            f"of an object cut into {largest} files or more some are missing: "
            f"number {', '.join(map(str, sorted(missing)[:LISTED]))}",
            _FETCH,
            path=path,
        )
    if not n_unstated:
        return []
    said = f"does not say into how many files an object was cut, of which {largest} are there"
    remedy = "Check that the last of them was not lost"
    return [Finding("parts-not-counted", "warning", said, remedy, str(path))]


def check_numbers(path: Path, slices: Sequence[Slice]) -> list[Finding]:
    """Signs in the InstanceNumbers of a whole series that some of its images were lost."""
    numbers = {one.instance_number for one in slices}
    known = sorted(number for number in numbers if number is not None)
    if len(known) < max(2, len(numbers)) or any(one.enhanced for one in slices):
        return []
    findings = []
    if known[-1] - known[0] >= len(known):
        said = f"{len(known)} images are numbered {known[0]} to {known[-1]}, with gaps"
        remedy = "Positions were used; check that the series is whole, e.g. not every second slice"
        findings.append(Finding("instance-number-gap", "warning", said, remedy, str(path)))
    if known[0] > 1:
        said = f"its images are numbered from {known[0]} on"
        remedy = "Check that the first of them were not lost; some scanners number so"
        findings.append(Finding("instance-number-start", "note", said, remedy, str(path)))
    return findings


def check_sisters(
    path: Path, chosen: Sequence[Slice], series: Sequence[Slice], keywords: Sequence[str]
) -> None:
    """Refuse one of several volumes of a series that lacks a place where another has a slice.

    `keywords` are what it was chosen by. Another volume is compared with it if it lies in the
    same plane, and where at least half of its slices do; so no stack beside it is.

    Raises:
        GeometryError: "missing-slice".
    """
    first = chosen[0]
    groups = [[one for one in series if one.position and one.orientation]]
    for keyword in PLANES:
        groups = [_mates(first, groups[0], keyword)]
    for keyword in keywords:
        groups = [held for group in groups for _, held in group_slices(group, keyword)]
    *_, normal = plane_axes(first, path)
    held = _sort(chosen, normal)
    for sister in groups:
        if any(one is first for one in sister):
            continue
        places = _sort(sister, normal)
        gaps = [_usual_gap(one @ normal, same_place_mm(chosen)) for one in (held, places)]
        alike = image_kind(first.image_type) == image_kind(sister[0].image_type)
        if not alike and all(gaps) and abs(gaps[0] - gaps[1]) > _SAME_PLACE_GAPS * max(gaps):
            continue  # a projection or a reformat through thicker slabs
        near = max(_SAME_PLACE_GAPS * (gaps[0] or gaps[1]), same_place_mm(chosen))
        lacking = places[_distances(places, held, normal) > near]
        if len(lacking) and (_distances(held, places, normal) <= near).mean() >= 0.5:
            raise GeometryError(
                "missing-slice",
                f"has no slice at {len(lacking)} of the places where others of the same series "
                f"do, such as {lacking[0].round(3).tolist()}",
                f"{_FETCH}, or choose another volume of it",
                path=path,
            )


def _mates(first: Slice, slices: Sequence[Slice], keyword: str) -> list[Slice]:
    return next(
        members
        for _, members in group_slices(slices, keyword)
        if any(one is first for one in members)
    )


def _sort(slices: Sequence[Slice], normal: _Vector) -> _Vector:
    """Positions (n, 3) in the order of their places along the normal."""
    positions = np.array([one.position for one in slices], dtype=np.float64)
    sorted_positions: _Vector = positions[np.argsort(positions @ normal, kind="stable")]
    return sorted_positions


def _usual_gap(along: _Vector, same: float) -> float:
    """The median distance from one place to the next; 0 where there is but one."""
    gaps = np.diff(along)
    gaps = gaps[gaps >= same]
    return float(np.median(gaps)) if gaps.size else 0.0


def _distances(places: _Vector, others: _Vector, normal: _Vector) -> _Vector:
    """From each place to the nearer of the two others next to it along the normal."""
    above = np.searchsorted(others @ normal, places @ normal)
    both = [others[index.clip(0, len(others) - 1)] for index in (above - 1, above)]
    nearest: _Vector = np.linalg.norm(np.stack(both) - places, axis=2).min(axis=0)
    return nearest
