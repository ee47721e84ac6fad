"""Moving and scaling voxels: every function takes a Volume and returns a new one.

Whatever moves voxels moves the affine in the same function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from volumetric.intensity import fill_padding, scale_intensity
from volumetric.interpolate import sample_axis, sample_grid, sample_oblique
from volumetric.volume import Affine, Volume, closest_axes

_EXACT = 1e-4  # voxels: closer than this to whole numbers, a grid needs no interpolation
_STRAIGHT = 1e-2  # voxels: what strays by less over a whole grid is taken along the old axes


def orient(volume: Volume) -> Volume:
    """The same voxels along canonical axes: D to superior, H to anterior, W to right.

    Axes are permuted and flipped, never interpolated; an oblique scan stays oblique.
    """
    axes = closest_axes(volume.affine)
    order = [
        next(v for v, (world, _) in enumerate(axes) if world == target) for target in (2, 1, 0)
    ]
    data = volume.data.permute(0, *(1 + v for v in order))
    affine = volume.affine[:, [*order, 3]].copy()
    flipped = [v for v, old in enumerate(order) if axes[old][1] < 0]
    for v in flipped:
        affine[:3, 3] += affine[:3, v] * (data.shape[1 + v] - 1)
        affine[:3, v] *= -1
    return replace(volume, data=data.flip([1 + v for v in flipped]).contiguous(), affine=affine)


def crop(volume: Volume, start: tuple[int, int, int], size: tuple[int, int, int]) -> Volume:
    """The box of `size` voxels that begins at voxel `start`; what lies outside is 0."""
    low = [max(0, a) for a in start]
    high = [min(a + n, full) for a, n, full in zip(start, size, volume.shape, strict=True)]
    data = volume.data.new_zeros((volume.data.shape[0], *size))
    if all(h > b for b, h in zip(low, high, strict=True)):
        source = tuple(slice(b, h) for b, h in zip(low, high, strict=True))
        target = tuple(slice(b - a, h - a) for b, h, a in zip(low, high, start, strict=True))
        data[(slice(None), *target)] = volume.data[(slice(None), *source)]
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array(start, dtype=np.float64)
    return replace(volume, data=data, affine=affine)


def fit_box(volume: Volume, size: tuple[int, int, int]) -> Volume:
    """The middle `size` voxels of a volume; where it is smaller, its lowest value surrounds it."""
    start = [(have - want) // 2 for have, want in zip(volume.shape, size, strict=True)]
    lowest = volume.data.amin()
    lifted = volume.with_data(volume.data - lowest)
    boxed = crop(lifted, (start[0], start[1], start[2]), size)
    return boxed.with_data(boxed.data + lowest)


def resample(
    volume: Volume, spacing: tuple[float, float, float], *, labels: bool = False
) -> Volume:
    """The volume at another spacing (mm along D, H, W), its field of view centred where it was.

    Images are interpolated by separable cubic convolution (Keys 1981), widened when the grid
    becomes coarser so that nothing aliases; labels by the largest linear weight, which never
    makes a new one. Returns float32 where it interpolates, else the stored dtype.
    """
    step = np.asarray(spacing, dtype=np.float64) / volume.spacing
    # Rounded up: the new grid covers the old one's border voxels, or they could not come back.
    shape = np.maximum(1, np.ceil(np.array(volume.shape) / step - 0.01)).astype(int)
    # Outer edges stay centred: the half-voxel shift of align_corners=False, kept in the affine.
    offset = 0.5 * (np.array(volume.shape) - 1) - 0.5 * (shape - 1) * step
    depth, height, width = (int(n) for n in shape)
    return _sample(volume, (depth, height, width), np.diag(step), offset, labels=labels)


def resample_like(volume: Volume, grid: Volume, *, labels: bool = False) -> Volume:
    """The volume on the grid of another: same shape, same affine bit for bit.

    Where the grids differ by whole voxels, flips and axis order only, voxels are copied
    exactly. Beyond the volume's edge the value is 0. Interpolation is as in `resample`; where
    the grids are turned against each other, it is linear in place of cubic, and widened likewise
    where the new grid is the coarser one. A turn that moves no voxel by a hundredth is ignored.
    """
    mapping = np.linalg.inv(volume.affine) @ grid.affine
    linear, offset = mapping[:3, :3], mapping[:3, 3]
    sampled = _sample(volume, grid.shape, linear, offset, labels=labels)
    return replace(sampled, affine=grid.affine)


def foreground_box(data: torch.Tensor) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Start and size of the smallest box holding every voxel above the minimum of (C, D, H, W)."""
    found = (data != data.amin()).any(0)
    starts, sizes = [], []
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        index = found.any(others[1]).any(others[0]).nonzero()
        starts.append(int(index[0]) if len(index) else 0)
        sizes.append(int(index[-1] - index[0] + 1) if len(index) else data.shape[1 + axis])
    return (starts[0], starts[1], starts[2]), (sizes[0], sizes[1], sizes[2])


def _sample(
    volume: Volume,
    shape: tuple[int, int, int],
    linear: NDArray[np.float64],
    offset: NDArray[np.float64],
    *,
    labels: bool,
) -> Volume:
    """Values at old index `linear @ i + offset` for every new index i, with the new affine."""
    step = np.eye(4)
    step[:3, :3], step[:3, 3] = linear, offset
    affine: Affine = volume.affine @ step
    order, straight = _axis_order(linear, shape)
    if not straight:
        if labels:
            data = sample_grid(volume.data, shape, linear, offset, labels=True)
        else:
            data = sample_oblique(volume.data, shape, linear, offset)
        return _blended(volume, data, affine)
    # New axis v runs along old axis order[v]: bring the old axes into the new order first.
    data = volume.data.permute(0, *(1 + old for old in order))
    scales = [float(linear[old, v]) for v, old in enumerate(order)]
    starts = [float(offset[old]) for old in order]
    whole = _whole(step, order, shape)
    if not whole and not labels:
        data = data.to(torch.float32)
    data = sample_axis(
        data, shape, scales, starts, mode="copy" if whole else "labels" if labels else "cubic"
    )
    if whole or labels:
        return replace(volume, data=data.contiguous(), affine=affine)
    return _blended(volume, data.contiguous(), affine)


def _blended(volume: Volume, data: torch.Tensor, affine: Affine) -> Volume:
    """Interpolated voxels: none of them is padding any more, and nothing else is said anew."""
    return replace(volume, data=data, affine=affine, about=replace(volume.about, padding=None))


def _axis_order(linear: NDArray[np.float64], shape: tuple[int, int, int]) -> tuple[list[int], bool]:
    """Which old axis each new axis runs along, and whether it does so over the whole grid."""
    order = [int(old) for old in np.abs(linear).argmax(0)]
    rest = linear.copy()
    for v, old in enumerate(order):
        rest[old, v] = 0
    strays = np.abs(rest) @ (np.array(shape) - 1)
    return order, len(set(order)) == 3 and bool(strays.max() < _STRAIGHT)


def prepare(
    image: Volume,
    mask: Volume | None,
    *,
    spacing: tuple[float, float, float],
    intensity: Mapping[str, Any],
) -> tuple[Volume, Volume | None]:
    """Image and mask as the network takes them: canonical axes, cropped, scaled, resampled.

    Cropped is what surrounds the image at its minimum (air, padding). `intensity` is
    {"kind": "zscore"}, {"kind": "range"}, or {"kind": "window", "low", "high", "mean", "std"}, in
    SUV if it says {"unit": "SUV"}.

    Raises:
        IntensityError: SUV is asked for, and the image does not allow it.
    """
    image = orient(image)
    start, size = foreground_box(fill_padding(image).data)
    image = resample(scale_intensity(crop(image, start, size), intensity), spacing)
    if mask is not None:
        mask = resample(crop(orient(mask), start, size), spacing, labels=True)
    return image, mask


def prepare_whole(
    image: Volume,
    *,
    spacing: tuple[float, float, float],
    intensity: Mapping[str, Any],
    shape: tuple[int, int, int],
) -> Volume:
    """A scan as a network that labels it takes it, float16 (C, *shape).

    As `prepare`; then its middle, with its lowest value around it where it
    is smaller.

    Raises:
        IntensityError: SUV is asked for, and the image does not allow it.
    """
    prepared, _ = prepare(image, None, spacing=spacing, intensity=intensity)
    boxed = fit_box(prepared, shape)
    return boxed.with_data(boxed.data.to(torch.float16))


def labels_on_grid(logits: Volume, grid: Volume) -> Volume:
    """The most probable class of every voxel of another grid, uint8 (1, D, H, W).

    Where the grids differ by whole voxels, flips and axis order the classes are copied;
    otherwise logits are interpolated as images are, a class at a time, and then compared, so that
    the largest array held is one class on the grid. Outside the logits' field of view it is 0.
    """
    classes = logits.with_data(logits.data.argmax(0, keepdim=True).to(torch.uint8))
    mapping = np.linalg.inv(logits.affine) @ grid.affine
    order, straight = _axis_order(mapping[:3, :3], grid.shape)
    if straight and _whole(mapping, order, grid.shape):
        return resample_like(classes, grid, labels=True)
    inside = resample_like(logits.with_data(torch.ones_like(classes.data)), grid, labels=True)
    best = torch.full((1, *grid.shape), -torch.inf)
    result = torch.zeros((1, *grid.shape), dtype=torch.uint8)
    for label in range(logits.data.shape[0]):
        one = resample_like(logits.with_data(logits.data[label : label + 1]), grid).data
        closer = one > best
        result[closer] = label
        best = torch.maximum(best, one)
    return Volume(result * inside.data, grid.affine, grid.kind)


def _whole(mapping: Affine, order: list[int], shape: tuple[int, int, int]) -> bool:
    """Whether a straight mapping meets only voxel centres."""
    return all(
        abs(abs(mapping[old, v]) - 1) * shape[v] < _EXACT
        and abs(mapping[old, 3] - round(mapping[old, 3])) < _EXACT
        for v, old in enumerate(order)
    )
