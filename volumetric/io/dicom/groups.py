"""DICOM groups: slices by what they share, and volumes of which several lie in one place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from volumetric.io.dicom.geometry import runs_of_one_place
from volumetric.io.dicom.labels import LABELS
from volumetric.io.dicom.slices import Slice

# Slices of one stack repeat the same rounded numbers; 1e-4 is 0.03 mm across a 300 mm slice.
_EQUAL_TOLERANCE = 1e-4
_NUMERIC = ("ImageOrientationPatient", "PixelSpacing", "EchoTime", "EffectiveEchoTime")

Group = tuple[str, list[Slice]]
"""Slices, and what all of them share that the others lack: "EchoTime=4.92"."""


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


def group_slices(slices: Sequence[Slice], keyword: str) -> list[Group]:
    """Slices by what they say under a keyword, numbers that differ by rounding taken as one."""
    values = [_facet(one, keyword) for one in slices]
    merged = {value: value for value in values}
    if keyword in _NUMERIC:
        merged = _merge(list(merged), keyword)
    groups: dict[str, list[Slice]] = {}
    for one, value in zip(slices, values, strict=True):
        groups.setdefault(merged[value], []).append(one)
    return [(f"{keyword}={value}", members) for value, members in groups.items()]


def _merge(values: Sequence[str], keyword: str) -> dict[str, str]:
    """For each text of numbers the first one that equals it but for rounding."""
    merged: dict[str, str] = {}
    rows: dict[int, list[tuple[str, NDArray[np.float64]]]] = {}
    for value in values:
        try:
            numbers = np.array([float(n) for n in value.split("\\")])
        except ValueError:
            merged[value] = value
            continue
        alike = rows.setdefault(len(numbers), [])
        if alike:
            # Echo times wander by a few microseconds from slice to slice on some scanners.
            scale = 100 * numbers if "EchoTime" in keyword else numbers
            if keyword == "ImageOrientationPatient":
                scale = np.ones_like(numbers)
            apart = np.abs(np.stack([one for _, one in alike]) - numbers)
            same = (apart <= _EQUAL_TOLERANCE * np.abs(scale)).all(1)
            if same.any():
                merged[value] = alike[int(same.argmax())][0]
                continue
        merged[value] = value
        alike.append((value, numbers))
    return merged


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
            for value, members in group_slices(held, keyword)
        ]
        if len(groups) < len(finer) <= n_repeats:
            groups = finer
    apart = all(_most_at_one_place(members, path) == 1 for _, members in groups)
    return groups if apart else []


def _most_at_one_place(slices: Sequence[Slice], path: Path) -> int:
    return max(map(len, runs_of_one_place(slices, path)))
