"""DICOM groups: slices by what they share, and volumes of which several lie in one place."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from volumetric.io.dicom.labels import LABELS
from volumetric.io.dicom.places import runs_of_one_place
from volumetric.io.dicom.slices import Slice

# Slices of one stack repeat the same rounded numbers; 1e-4 is 0.03 mm across a 300 mm slice.
_EQUAL_TOLERANCE = 1e-4
# Where numbers differ so often, no rounding is why: to compare all with all would take for ever.
_MOST_MERGED = 256
# What orders the images of one place in time, though each place has times of its own.
_PHASES = ("NominalCardiacTriggerDelayTime", "TriggerTime")
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


def rank_slices(slices: Sequence[Slice], keyword: str, path: Path) -> list[Group]:
    """Slices by the rank, from 1, of a time among those at one place; none if that is not clear.

    So the phases of a cine whose heart beat otherwise at each place are told apart. It is clear
    where all places have as many slices, of each a time of its own.
    """
    if not all(one.position and one.orientation for one in slices):
        return []
    ranks: dict[str, list[Slice]] = {}
    sizes = set()
    for run in runs_of_one_place(slices, path):
        try:
            times = {float(_facet(one, keyword)): one for one in run}
        except ValueError:  # not stated
            return []
        sizes.add((len(run), len(times)))
        for rank, time in enumerate(sorted(times), 1):
            ranks.setdefault(f"{keyword}#{rank}", []).append(times[time])
    return list(ranks.items()) if sizes == {(len(ranks), len(ranks))} else []


def filter_slices(slices: Sequence[Slice], part: str, path: Path) -> list[Slice]:
    """The group that a part of a choice names: "EchoTime=4.92", "TriggerTime#3"; none if none.

    A number is the same however it is written: "4.920".
    """
    if "=" not in part and "#" in part:
        return dict(rank_slices(slices, part.partition("#")[0], path)).get(part, [])
    groups = dict(group_slices(slices, part.partition("=")[0]))
    alike = [key for key in groups if _plain(key) == _plain(part)]
    return groups.get(part, groups[alike[0]] if len(alike) == 1 else [])


def _plain(choice: str) -> tuple[object, ...]:
    keyword, _, value = choice.partition("=")
    try:
        return keyword, *(f"{float(number):.6g}" for number in value.split("\\"))
    except ValueError:
        return keyword, value


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
        merged[value] = value
        if len(alike) == _MOST_MERGED:
            continue
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
        alike.append((value, numbers))
    return merged


def split_repeats(slices: Sequence[Slice], path: Path) -> list[Group]:
    """Volumes of which several slices lie in one place; none if nothing repeats or tells apart.

    Labels are taken one by one, the likeliest first, as long as they make no more groups than
    the most slices at one place: so a time that differs in every slice splits nothing. Where
    they do not suffice, the rank of a time among those of its place may.
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
    for volumes in chain([groups], (_rank_groups(groups, keyword, path) for keyword in _PHASES)):
        if volumes and all(_most_at_one_place(members, path) == 1 for _, members in volumes):
            return volumes
    return []


def _rank_groups(groups: Sequence[Group], keyword: str, path: Path) -> list[Group]:
    ranked = [(key, rank_slices(members, keyword, path)) for key, members in groups]
    if not all(ranks for _, ranks in ranked):
        return []
    return [
        (f"{key};{rank}".strip(";"), members) for key, ranks in ranked for rank, members in ranks
    ]


def _most_at_one_place(slices: Sequence[Slice], path: Path) -> int:
    return max(map(len, runs_of_one_place(slices, path)))
