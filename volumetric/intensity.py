"""What voxels are worth: windowed, standardised, in SUV; padding kept out of it.

Every function takes a Volume and returns a new one, of the same grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from volumetric.errors import IntensityError
from volumetric.volume import Volume


def window(volume: Volume, low: float, high: float) -> Volume:
    """Intensities clipped to [low, high], in float32; padding becomes the lowest measured one."""
    filled = fill_padding(volume)
    return filled.with_data(filled.data.to(torch.float32).clamp(low, high))


def zscore(volume: Volume, *, mean: float | None = None, std: float | None = None) -> Volume:
    """Intensities with the mean subtracted, divided by the standard deviation, in float32.

    Without given values each channel's own are used, of what was measured: padding takes no
    part, and becomes the lowest of the rest. A constant channel becomes 0.
    """
    filled = fill_padding(volume)
    if mean is None or std is None:
        own = torch.stack([_mean_and_std(volume, c) for c in range(volume.data.shape[0])])
        centre, spread = own[:, 0].reshape(-1, 1, 1, 1), own[:, 1].reshape(-1, 1, 1, 1)
    centre = centre if mean is None else torch.tensor(float(mean))
    spread = spread if std is None else torch.tensor(float(std))
    data = (filled.data.to(torch.float64) - centre) / spread.clamp_min(1e-8)
    return filled.with_data(data.to(torch.float32))


def unit_range(volume: Volume) -> Volume:
    """Intensities from 0, each channel's lowest, to 1, its highest, in float32.

    Padding takes no part, and becomes 0. A constant channel becomes 0.
    """
    filled = fill_padding(volume)
    data = filled.data.to(torch.float64)
    low, high = data.amin((1, 2, 3), keepdim=True), data.amax((1, 2, 3), keepdim=True)
    return filled.with_data(((data - low) / (high - low).clamp_min(1e-8)).to(torch.float32))


def _mean_and_std(volume: Volume, channel: int) -> torch.Tensor:
    values = volume.data[channel].to(torch.float64)
    if volume.about.padding is not None:
        values = values[measured(volume)[channel]]
    return torch.stack([values.mean(), values.std(correction=0)])


def measured(volume: Volume) -> torch.Tensor:
    """Which voxels (C, D, H, W) hold a measurement: all but the padding.

    They are compared in their own dtype: torch would round int32 to float32, and wrap numbers
    that int16 does not hold.
    """
    if volume.about.padding is None:
        return torch.ones_like(volume.data, dtype=torch.bool)
    low, high = volume.about.padding
    dtype = volume.data.dtype
    if dtype.is_floating_point:
        low, high = torch.tensor([low, high], dtype=torch.float64).to(dtype).tolist()
    else:
        bounds = torch.iinfo(dtype)
        low, high = math.ceil(max(low, bounds.min)), math.floor(min(high, bounds.max))
        if low > high:
            return torch.ones_like(volume.data, dtype=torch.bool)
    return (volume.data < low) | (volume.data > high)


def fill_padding(volume: Volume) -> Volume:
    """The volume with its padding, if any, at the lowest value that was measured.

    What lies outside a scanner's circle is often marked far below all measurements; left so, it
    would be counted by every mean and blended into its neighbours.
    """
    inside = measured(volume)
    if inside.all() or not inside.any():
        return volume
    lowest = volume.data[inside].amin()
    about = replace(volume.about, padding=None)
    return replace(volume, data=torch.where(inside, volume.data, lowest), about=about)


def to_suv(volume: Volume) -> Volume:
    """A PET scan in SUV by body weight, float32; unchanged if it is in SUV already.

    Raises:
        IntensityError: its header does not allow it.
    """
    about = volume.about
    if about.unit == "SUV":
        return volume
    if about.suv_factor is None:
        raise IntensityError(
            "no-suv",
            f"its values ({about.unit or 'unit unknown'}) cannot be turned into SUV",
            "Convert it with the scanner's own tools, or use intensities of another kind",
        )
    padding = about.padding
    if padding is not None:  # rounded as the voxels are, or none of them would equal it any more
        ends = torch.tensor(padding, dtype=torch.float64).to(torch.float32) * about.suv_factor
        padding = float(ends[0]), float(ends[1])
    data = volume.data.to(torch.float32) * about.suv_factor
    about = replace(about, unit="SUV", suv_factor=1.0, padding=padding)
    return replace(volume, data=data, about=about)


def scale_intensity(volume: Volume, intensity: Mapping[str, Any]) -> Volume:
    """Values as a network takes them, by a scheme as `volumetric.preprocess.prepare` has it.

    Raises:
        IntensityError: SUV is asked for, and the image does not allow it.
    """
    if intensity.get("unit") == "SUV":
        volume = to_suv(volume)
    if intensity["kind"] == "zscore":
        return zscore(volume)
    if intensity["kind"] == "range":
        return unit_range(volume)
    clipped = window(volume, intensity["low"], intensity["high"])
    return zscore(clipped, mean=intensity["mean"], std=intensity["std"])
