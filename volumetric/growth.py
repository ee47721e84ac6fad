"""Growth: which object of a later scan is which of an earlier one, and how it changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from volumetric.errors import ConfigError, GeometryError
from volumetric.instances import Instance, measure_instances
from volumetric.preprocess import resample_like
from volumetric.volume import Volume, same_grid

_BESIDE, _FAR = 1e6, 1e9  # mm: a pair that does not overlap; no pair


@dataclass(frozen=True)
class Change:
    """One object at two dates, or at one of them.

    Attributes:
        before: at the earlier date; None where it is new.
        after: at the later date; None where it is gone.
        volume_ratio: later volume / earlier; None unless there are both, as all that follows.
        longest_mm: later longest diameter - earlier.
        doubling_days: days in which the volume doubles at this pace (Schwartz, Cancer 1961): days
            x ln 2 / ln(ratio), negative where it shrinks; None too where it stayed the same.
    """

    before: Instance | None
    after: Instance | None
    volume_ratio: float | None = None
    longest_mm: float | None = None
    doubling_days: float | None = None


def compare_dates(
    before: Volume,
    after: Volume,
    *,
    days: float,
    most_apart_mm: float = 10.0,
    registered: bool = False,
) -> list[Change]:
    """Every object of two volumes of instances, paired where it is the same one.

    A pair overlaps, or has its centres at most so far apart; as many are paired as can be, of all
    ways to do so with as many overlaps as can be, and of these that with the smallest sum of
    distances is taken. An object that became two is paired with one, and the other is new. The
    earlier scan's come first.

    Each is measured on its own grid. Whether they overlap is asked on the earlier's.

    Args:
        before: at the earlier date, as `measure_instances` takes it.
        after: at the later date, where the body lies as it did before.
        days: between the two.
        most_apart_mm: centres of one object, where the two do not overlap.
        registered: whether the body is known to lie alike although the grids differ.

    Raises:
        GeometryError: the grids are not one, and nobody says that the body lies alike.
        ConfigError: not at least a moment between the dates, or a distance below 0.
    """
    if not (math.isfinite(days) and days > 0):
        raise ConfigError(
            "bad-days", f"{days} days between the dates", "Give the earlier one first"
        )
    if not most_apart_mm >= 0:
        raise ConfigError("bad-distance", f"{most_apart_mm} mm between centres", "Give 0 or more")
    if not same_grid(before, after, within=1e-3):
        if not registered:
            raise GeometryError(
                "other-grid",
                f"the earlier has {before.shape} voxels, the later {after.shape}, or they lie "
                "apart: nothing says that the body lies alike in both",
                "Register the later scan to the earlier one; if it is, say so (`registered`)",
            )
        seen = resample_like(after, before, labels=True)
    else:
        seen = after
    earlier, later = measure_instances(before), measure_instances(after)
    pairs = _pair(earlier, later, _overlaps(earlier, later, before, seen), most_apart_mm)
    gone = [Change(one, None) for row, one in enumerate(earlier) if row not in pairs]
    new = [Change(None, one) for row, one in enumerate(later) if row not in set(pairs.values())]
    same = [_change(earlier[row], later[column], days) for row, column in sorted(pairs.items())]
    return [*same, *gone, *new]


def _overlaps(
    earlier: Sequence[Instance], later: Sequence[Instance], before: Volume, seen: Volume
) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Whether voxels of one hold the other, on one grid, where a small one may have none left."""
    ones, others = (volume.data[0].cpu().numpy().ravel() for volume in (before, seen))
    both = (ones > 0) & (others > 0)
    found = set(zip(ones[both].tolist(), others[both].tolist(), strict=True))
    rows = [[(one.number, other.number) in found for other in later] for one in earlier]
    return np.array(rows, dtype=np.bool_).reshape(len(earlier), len(later))


def _pair(
    earlier: Sequence[Instance],
    later: Sequence[Instance],
    overlaps: np.ndarray[tuple[int, int], np.dtype[np.bool_]],
    most_apart_mm: float,
) -> dict[int, int]:
    if not (earlier and later):
        return {}
    ones = np.array([one.centre_mm for one in earlier])
    others = np.array([one.centre_mm for one in later])
    apart = np.linalg.norm(ones[:, None] - others[None], axis=2)
    may_be = overlaps | (apart <= most_apart_mm)
    cost = np.where(overlaps, apart, np.where(may_be, apart + _BESIDE, _FAR))
    rows, columns = linear_sum_assignment(cost)
    return {
        int(row): int(column)
        for row, column in zip(rows, columns, strict=True)
        if may_be[row, column]
    }


def _change(before: Instance, after: Instance, days: float) -> Change:
    ratio = after.volume_mm3 / before.volume_mm3
    doubling = days * math.log(2) / math.log(ratio) if ratio != 1 else None
    return Change(before, after, ratio, after.longest_mm - before.longest_mm, doubling)
