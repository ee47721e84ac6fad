"""Growth: the objects of one subject at two dates, out of two masks."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from volumetric.check.mask import whole_numbers
from volumetric.errors import GeometryError, LabelError
from volumetric.growth import Change, compare_dates
from volumetric.instances import Instance, split_components
from volumetric.io import read_volume
from volumetric.volume import Volume

_MOST = 2**31 - 1
_COLUMNS = (
    *("fate", "before", "after", "volume_before_mm3", "volume_after_mm3", "volume_ratio"),
    *("doubling_days", "longest_before_mm", "longest_after_mm", "longest_change_mm"),
    *("perpendicular_before_mm", "perpendicular_after_mm", "x_mm", "y_mm", "z_mm"),
)


def follow_objects(
    before: Path,
    after: Path,
    *,
    days: float,
    label: int | None = None,
    most_apart_mm: float = 10.0,
    registered: bool = False,
) -> list[Change]:
    """Every object of the two masks, paired where it is the same one; see `compare_dates`.

    Each value of a mask is an object, as `volumetric segment` writes them with a model that tells
    objects apart; with a `label` each 26-connected component of that value is.

    Raises:
        UnreadableFileError, UnsupportedError: a file is missing, damaged or of another kind.
        LabelError: values that are no numbers of objects, or no such label in either.
        GeometryError, ConfigError: see `compare_dates`.
    """
    if label is not None and label < 1:
        raise LabelError("bad-label", f"label {label} is no class", "Give one from 1 on")
    ones, others = (_read(path, label) for path in (before, after))
    if label is not None and not (ones.data.any() or others.data.any()):
        raise LabelError(
            "no-such-label", f"label {label} is in neither mask", "Check the label", path=before
        )
    return compare_dates(
        ones, others, days=days, most_apart_mm=most_apart_mm, registered=registered
    )


def write_growth(path: Path, changes: Sequence[Change]) -> None:
    """A row for each object: its fate, numbers, sizes at both dates, and where it is in the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(_row(one) for one in changes)


def show_growth(changes: Sequence[Change]) -> Iterator[str]:
    """Lines of a table to read."""
    counts = {fate: sum(_fate(one) == fate for one in changes) for fate in ("same", "gone", "new")}
    yield f"{counts['same']} at both dates, {counts['gone']} gone, {counts['new']} new"
    if not changes:
        return
    yield f"  {'object':<12}{'volume, mm³':<20}{'change':>8}{'doubles in':>13}   longest, mm"
    for one in changes:
        numbers = _arrow(one, lambda side: f"{side.number}")
        volume = _arrow(one, lambda side: f"{side.volume_mm3:.4g}")
        longest = _arrow(one, lambda side: f"{side.longest_mm:.1f}")
        ratio, days = one.volume_ratio, one.doubling_days
        change = _fate(one) if ratio is None else f"{100 * (ratio - 1):+.0f} %"
        doubling = "" if days is None else f"{days:.0f} days" if days > 0 else "shrinks"
        yield f"  {numbers:<12}{volume:<20}{change:>8}{doubling:>13}   {longest}"


def _read(path: Path, label: int | None) -> Volume:
    mask = read_volume(path)
    if mask.kind != "scan" or mask.data.shape[0] != 1:
        raise GeometryError(
            "bad-channels", "is no mask of a scan with one channel", "Name a mask", path=path
        )
    data = whole_numbers(mask.data, path) if mask.data.is_floating_point() else mask.data
    low, high = int(data.min()), int(data.max())
    if low < 0 or high > _MOST:
        raise LabelError(
            "bad-number",
            f"holds {low if low < 0 else high}, and objects are numbered from 1 to {_MOST}",
            "Name the mask, not the image",
            path=path,
        )
    mask = mask.with_data(data.to(torch.int32))
    if label is None:
        return mask
    return split_components(mask, label)


def _fate(change: Change) -> str:
    if change.before and change.after:
        return "same"
    return "gone" if change.before else "new"


def _arrow(change: Change, say: Callable[[Instance], str]) -> str:
    return " → ".join(say(side) if side else "-" for side in (change.before, change.after))


def _row(change: Change) -> list[object]:
    sides = (change.before, change.after)
    last = change.after or change.before
    assert last is not None
    values = [
        _fate(change),
        *(side and side.number for side in sides),
        *(side and side.volume_mm3 for side in sides),
        change.volume_ratio,
        change.doubling_days,
        *(side and side.longest_mm for side in sides),
        change.longest_mm,
        *(side and side.perpendicular_mm for side in sides),
        *last.centre_mm,
    ]
    return [round(value, 4) if isinstance(value, float) else value for value in values]
