"""Which cases are unlike the others: robustly, and with floors, so that few alarms are false."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetric.cases import Case
from volumetric.check.traits import Traits
from volumetric.errors import printable
from volumetric.findings import Finding

Seen = Sequence[tuple[Case, Traits]]
_Measured = tuple[Seen, NDArray[np.float64], NDArray[np.bool_]]  # (n,), (n, axes), (n,)

_FEWEST = 8  # cases: with less, one cannot say which is unlike the others
_SIGMAS = 6.0  # of 260 cases drawn from a normal distribution none lies so far out
# The smallest deviation that counts, however alike the others are.
_SPACING_FACTOR = 2.0
_EXTENT_FACTOR = 1.6  # half a scan is found; heads, hips and hippocampi differ by less
_VOLUME_FACTOR = 5.0  # organs differ by 3, lesions by far more, and then spread says so
_LISTED = 3  # ids; in full they are in the manifest or the folder
_LONGEST = 48  # letters of an id that is a path
_SHIFT_HU = 300.0  # a lost offset is 1000 or 1024


def find_outliers(seen: Seen, *, classes: Mapping[int, str]) -> list[Finding]:
    """Cases whose spacing, extent, labelled volume or CT values lie far from the median.

    Far is beyond 6 times the median absolute deviation scaled to a normal distribution's sigma,
    and beyond a floor, so that a homogeneous set raises nothing; lengths and volumes are compared
    as logarithms. Where more than a tenth of the cases lies far out the set is a mixture, which
    is said once. Intensity is compared in CT only: elsewhere its scale is arbitrary. A single case
    whose spacing is odd is compared no further: its lengths and volumes would be odd as well.
    In a mixture they are not, and all are compared.
    """
    if len(seen) < _FEWEST:
        return []
    spacings = np.array([traits.spacing_mm for _, traits in seen])
    strange = _unlike(np.log(spacings), np.log(_SPACING_FACTOR))
    mixed = _is_mixture(strange)
    others = [one for one, odd in zip(seen, strange, strict=True) if mixed or not odd]
    found = list(_check_spacings(seen, spacings, strange))
    if len(others) < _FEWEST:
        return found
    return [
        *found,
        *_check_extents(others),
        *_check_label_volumes(others, classes),
        *_check_intensity(others),
    ]


def list_ids(ids: Sequence[str]) -> str:
    """The first three ids, the ends of long ones, and how many more there are."""
    more = f" and {len(ids) - _LISTED} more" if len(ids) > _LISTED else ""
    short = [name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}" for name in ids]
    return ", ".join(short[:_LISTED]) + more


def _check_spacings(
    seen: Seen, spacings: NDArray[np.float64], strange: NDArray[np.bool_]
) -> Iterator[Finding]:
    if _is_mixture(strange):
        yield _mixture(
            "mixed-spacing",
            "have voxels of {} mm",
            "Check the spacing in their headers; it is meant, if they come from several scanners",
            (seen, spacings, strange),
        )
        return
    usual = np.median(spacings, axis=0)
    for (case, _), spacing, odd in zip(seen, spacings, strange, strict=True):
        if odd:
            yield _outlier(
                case,
                "spacing-outlier",
                f"has voxels of {_triple(spacing)} mm, the median is {_triple(usual)}",
                "Check the spacing in its header",
            )


def _check_extents(seen: Seen) -> Iterator[Finding]:
    extents = np.array([np.multiply(traits.grid, traits.spacing_mm) for _, traits in seen])
    usual = np.median(extents, axis=0)
    strange = _unlike(np.log(extents), np.log(_EXTENT_FACTOR))
    if _is_mixture(strange):
        yield _mixture(
            "mixed-extent",
            "cover {} mm (D, H, W)",
            "Check that the exports are whole, and of one region",
            (seen, extents, strange),
        )
        return
    for (case, _), extent, odd in zip(seen, extents, strange, strict=True):
        if odd:
            yield _outlier(
                case,
                "size-outlier",
                f"covers {_triple(extent)} mm (D, H, W), the median is {_triple(usual)}",
                "Check that the export is whole, and of the same region",
            )


def _check_label_volumes(seen: Seen, classes: Mapping[int, str]) -> Iterator[Finding]:
    for label, name in classes.items():
        holders = [(c, t, t.labels[label]) for c, t in seen if t.labels and t.labels.get(label)]
        if len(holders) < _FEWEST:
            continue
        volumes = np.array([n * np.prod(t.spacing_mm) / 1000 for _, t, n in holders])
        usual = float(np.median(volumes))
        strange = _unlike(np.log(volumes)[:, None], np.log(_VOLUME_FACTOR))
        if _is_mixture(strange):
            yield _mixture(
                "mixed-label-volume",
                f"hold {{}} ml of {name!r} ({label})",
                "Check that the outlines are whole, and their labels not swapped",
                ([(case, traits) for case, traits, _ in holders], volumes[:, None], strange),
            )
            continue
        for (case, _, _), volume, odd in zip(holders, volumes, strange, strict=True):
            if odd:
                yield _outlier(
                    case,
                    "label-volume-outlier",
                    f"mask holds {volume:.3g} ml of {name!r} ({label}), the median is {usual:.3g}",
                    "Check that the outline is whole, and its labels not swapped",
                )


def _check_intensity(seen: Seen) -> Iterator[Finding]:
    """Of CT: cases whose low, middle and high values are all shifted the same way."""
    cts = [(case, traits.levels_hu) for case, traits in seen if traits.levels_hu]
    if len(cts) < _FEWEST:
        return
    levels = np.array([found for _, found in cts])
    usual = np.median(levels, axis=0)
    far = np.abs(levels - usual) > _limits(levels, _SHIFT_HU)
    same_way = np.abs(np.sign(levels - usual).sum(1)) == levels.shape[1]
    strange = np.asarray(far.all(axis=1) & same_way)
    if _is_mixture(strange):
        held = [one for one in seen if one[1].levels_hu]
        yield _mixture(
            "mixed-intensity",
            "have {} as 1st, 50th and 99th percentiles",
            "Check that all are in Hounsfield units, the rescale intercept applied once",
            (held, levels, strange),
        )
        return
    for (case, _), found, odd in zip(cts, levels, strange, strict=True):
        if odd:
            yield _outlier(
                case,
                "intensity-outlier",
                f"its 1st, 50th and 99th percentiles are {_triple(found)}, the medians "
                f"{_triple(usual)}",
                "Check that it is in Hounsfield units, its rescale intercept applied once",
            )


def _unlike(values: NDArray[np.float64], floor: float) -> NDArray[np.bool_]:
    """Which rows of (n, axes) lie far from the median along any axis."""
    far = np.abs(values - np.median(values, axis=0)) > _limits(values, floor)
    return np.asarray(far.any(axis=1))


def _limits(values: NDArray[np.float64], floor: float) -> NDArray[np.float64]:
    # 1.4826 makes the median absolute deviation that of a normal distribution's sigma.
    deviation = 1.4826 * np.median(np.abs(values - np.median(values, axis=0)), axis=0)
    return np.maximum(_SIGMAS * deviation, floor + 1e-9)


def _is_mixture(strange: NDArray[np.bool_]) -> bool:
    return bool(strange.sum() > max(2, len(strange) / 10))


def _mixture(code: str, said: str, remedy: str, found: _Measured) -> Finding:
    """Once for the set: what is usual, what the others have in the median, and who they are."""
    seen, values, strange = found
    groups = [
        f"{int(among.sum())} cases {said.format(_triple(np.median(values[among], axis=0)))}"
        for among in (~strange, strange)
    ]
    ids = [case.id for (case, _), odd in zip(seen, strange, strict=True) if odd]
    return Finding(code, "warning", f"{'; '.join(groups)} (medians): {list_ids(ids)}", remedy)


def _outlier(case: Case, code: str, reason: str, remedy: str) -> Finding:
    path = case.mask if code == "label-volume-outlier" else case.image
    return Finding(code, "warning", reason, remedy, printable(str(path)), case.id)


def _triple(values: Sequence[float] | NDArray[Any]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
