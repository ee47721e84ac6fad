"""DICOM choices: how volumes are listed for a person, and named when one is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from volumetric.errors import AmbiguousSeriesError
from volumetric.io.dicom.groups import Group
from volumetric.io.dicom.slices import Slice

LISTED = 12
CHOOSE = "Choose one with series_uid= (in a manifest, its column `series`)"
_KINDS = {
    "several-volumes": "volumes in one series",
    "mixed-contrast": "contrasts in one stack",
}

Prefix = tuple[str, str]
"""SeriesInstanceUID, and what was chosen by beside it: "EchoTime=4.92;TriggerTime=80"."""


def describe(slices: Sequence[Slice]) -> str:
    """Description, count and size of the images of a series, for a person to choose by."""
    first = slices[0]
    rows, columns = first.encoding.size
    count = f"{len(slices)} image{'s' if len(slices) > 1 else ''} of {columns}x{rows}"
    return f"{first.description!r}, {count}"


def list_lines(groups: Sequence[Group], prefix: Prefix) -> list[tuple[str, str]]:
    """Each group as it can be chosen, and what it is."""
    uid, filters = prefix
    return [
        (f"{uid}[{';'.join(part for part in (filters, key) if part)}]", describe(members))
        for key, members in groups
    ]


def join_lines(lines: Sequence[tuple[str, str]]) -> str:
    """What can be chosen, in one sentence; of many the first."""
    shown = "; ".join(f"{choice or '(no UID)'} {text}" for choice, text in lines[:LISTED])
    more = f"; and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
    return shown + more


def ambiguous(
    path: Path, code: str, groups: Sequence[Group], prefix: Prefix
) -> AmbiguousSeriesError:
    """The refusal, by a code of `_KINDS`, of what must be told apart, which lists it."""
    lines = list_lines(groups, prefix)
    return AmbiguousSeriesError(
        code,
        f"holds {len(groups)} {_KINDS[code]}: {join_lines(lines)}",
        f"{CHOOSE}; time, echoes or b-values are no depth",
        path=path,
        choices=tuple(choice for choice, _ in lines),
    )
