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
_AIR_HU = -200.0  # fat is -100: what lies below is air, lung, or bowel gas
_FILL_VALUES = 3  # a scanner's circle, and a border that was padded on the way


def _is_fill(below: NDArray[np.float64]) -> bool:
    """Whether values are a few over and over; between them and air, resampling leaves others."""
    counts = np.sort(np.unique(below, return_counts=True)[1])
    return bool(counts[-_FILL_VALUES:].sum() > below.size / 2)


def check_hounsfield(image: Volume, stats: ImageStats) -> Iterator[Finding]:
    """Whether a CT's values can be Hounsfield units."""
    values = stats.values_hu
    below = stats.values[stats.values <= BELOW_AIR_HU]
    lowest = float(values.min()) if values.size else stats.low
    brightest = float(np.percentile(values, 99)) if values.size else stats.low
    many_below = below.size > 0.01 * stats.values.size
    shifted = brightest < _AIR_HU or (many_below and not _is_fill(below))
    if stats.low > BELOW_AIR_HU and image.about.padding is None:
        lowest = stats.low  # exact, where no fill value hides it
    elif many_below and not shifted:
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
            f"its values run from {stats.low:g} to a 99th percentile of {brightest:g}, below air "
            "or without tissue: the offset of -1024 was applied twice",
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
