"""Was a mask drawn on this image, and on all of its slices?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from volumetric.findings import Finding
from volumetric.volume import Volume

_AIR_HU = -900.0  # tissue and most of a lung are brighter, noise of air reaches there seldom
_OPEN_AIR_HU = -950.0  # the median of a lung is about -850
_MOST = 0.99
_FEWEST_SLICES = 5  # fewer lie at equal distances by chance
_ORDINALS = {2: "second", 3: "third", 4: "fourth", 5: "fifth"}


def check_drawing(image: Volume, mask: Volume, *, is_ct: bool) -> Iterator[Finding]:
    """What is odd about where labels lie, of a mask that fits its image and is not empty."""
    yield from _check_signal(image, mask, is_ct)
    yield from _check_slices(mask)


def _check_signal(image: Volume, mask: Volume, is_ct: bool) -> Iterator[Finding]:
    """Labels that lie where the image holds nothing were drawn on another."""
    values = image.data[0][mask.data[0] > 0]
    empty = values == image.data[0].amin()
    if image.about.padding is not None:
        low, high = image.about.padding
        empty |= (values >= low) & (values <= high)
    share = float(empty.to(torch.float32).mean())
    what = "the image holds only background"
    if is_ct and share <= _MOST:
        share = float((values < _AIR_HU).to(torch.float32).mean())
        if float(values.to(torch.float32).median()) >= _OPEN_AIR_HU:  # a lung
            return
        what = f"the image holds air, below {_AIR_HU:g} HU"
    if share > _MOST:
        yield Finding(
            "mask-off-image",
            "warning",
            f"{share:.1%} of the labelled voxels lie where {what}",
            "Check that the mask was drawn on this image",
        )


def _check_slices(mask: Volume) -> Iterator[Finding]:
    """Labels on every second or third slice, and none between: the rest was left out."""
    labelled = mask.data[0] > 0
    for axis in range(3):
        others = [one for one in range(3) if one != axis]
        numbers = labelled.any(others[1]).any(others[0]).nonzero()[:, 0].numpy()
        steps = np.unique(np.diff(numbers))
        if len(numbers) >= _FEWEST_SLICES and len(steps) == 1 and int(steps[0]) in _ORDINALS:
            yield Finding(
                "skipped-slices",
                "warning",
                f"mask is drawn on every {_ORDINALS[int(steps[0])]} slice only, {len(numbers)} "
                "in all",
                "Outline the slices between: they would be learned and scored as background",
            )
            return
