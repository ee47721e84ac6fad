"""Are a CT's values Hounsfield units: air at -1000, tissue around 0?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from volumetric.findings import Finding
from volumetric.volume import Volume

if TYPE_CHECKING:
    from volumetric.check.image import ImageStats

BELOW_AIR_HU = -1100.0  # air is -1000, and noise reaches some way below
_FAR_BELOW_HU = -1500.0  # air whose offset was subtracted twice is about -2000
_NO_TISSUE_HU = -500.0  # where 99 % are darker there is air only, or tissue shifted by 1000
_BIN_HU = 100.0  # noise of air is spread over a few, a fill is in one
_LUNG_HU = -900.0
_AIR_HU = -200.0  # fat is -100: what lies below is air, lung, or bowel gas
_REPEATED = 0.1  # of the values are one: a fill, or where a scan was cut
_FILL_VALUES = 3  # a scanner's circle, and a border that was padded on the way


def _is_fill(below: NDArray[np.float64]) -> bool:
    """Whether values are a few over and over; between them and air, resampling leaves others."""
    counts = np.sort(np.unique(below, return_counts=True)[1])
    return bool(counts[-_FILL_VALUES:].sum() > below.size / 2)


def _has_fill(values: NDArray[np.float64]) -> bool:
    """Whether there is more below air than the noise of air."""
    below = values[values <= BELOW_AIR_HU]
    far = values[values < _FAR_BELOW_HU]
    share = 0.01 * values.size
    return far.size > share or (below.size > share and _is_fill(below))


def _is_shifted(values: NDArray[np.float64]) -> bool:
    """Whether tissue lies near -1000, and air near -2000 if it was not cut: an offset twice.

    Noisy air, a fill of any value, what interpolation leaves between a fill and air, a limb in a
    wide field of air, and a lung cut out of its scan are no such thing.
    """
    far, rest = values[values < _FAR_BELOW_HU], values[values >= _FAR_BELOW_HU]
    if not rest.size:
        return True
    found, counts = np.unique(rest, return_counts=True)
    fill = found[counts.argmax()] if counts.max() > _REPEATED * rest.size else np.nan
    seen = rest[rest != fill]
    # A lung's own values have a median of about -850, those of shifted tissue of -1000.
    if not seen.size or np.median(seen) >= _LUNG_HU:
        return False
    if seen.max() < _AIR_HU:
        return True
    if np.percentile(seen, 99) >= _NO_TISSUE_HU or far.size <= 0.01 * values.size:
        return False
    bins, sizes = np.unique(np.floor(values / _BIN_HU), return_counts=True)
    commonest = float(bins[sizes.argmax()]) * _BIN_HU
    return commonest < _FAR_BELOW_HU or not _is_fill(far)


def check_hounsfield(image: Volume, stats: ImageStats) -> Iterator[Finding]:
    """Whether a CT's values can be Hounsfield units."""
    values = stats.values_hu
    lowest = float(values.min()) if values.size else stats.low
    shifted = _is_shifted(stats.values)
    if stats.low > BELOW_AIR_HU and image.about.padding is None:
        lowest = stats.low  # exact, where no fill value hides it
    elif not shifted and _has_fill(stats.values):
        yield Finding(
            "fill-value",
            "note",
            f"holds values down to {stats.low:g} HU, below air: a fill outside the scanned circle",
            "Nothing to do: it is cropped where it surrounds the image",
        )
    if image.data.dtype in (torch.uint8, torch.int8):
        yield Finding(
            "ct-8-bit",
            "warning",
            f"is stored in 8 bits ({stats.low:g} to {stats.high:g})",
            "Hounsfield units do not fit: export it again from its source",
        )
    elif shifted:
        yield Finding(
            "ct-not-hu",
            "warning",
            f"its values run from {stats.low:g} to a 99th percentile of "
            f"{np.percentile(stats.values, 99):g}, as if the offset of -1024 was applied twice",
            "Export it again in Hounsfield units, if it was not cut out of a lung",
        )
    elif lowest > _AIR_HU:
        yield Finding(
            "ct-not-hu",
            "warning",
            f"its lowest value is {lowest:g}, so it shows no air: the offset of -1024 is missing, "
            "or it was windowed",
            "Export it again in Hounsfield units, if it was not cut out of a body",
        )
