"""What a data set's fingerprint says about preparing it and about the network for it.

The rules are nnU-Net's (Isensee 2021, supplement; ExperimentPlanner), with the memory
budget given in voxels instead of being estimated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Triple = tuple[int, int, int]

_ANISOTROPIC = 3.0
_SMALLEST_MAP = 4  # voxels along an axis of the coarsest feature map
_DATA_FRACTION = 0.05  # a batch shall not hold more of the data set than this


def choose_spacing(fingerprint: Mapping[str, Any]) -> tuple[tuple[float, float, float], str]:
    """Target spacing (mm along D, H, W) and why.

    The median; along an axis more than three times coarser than the finest, the tenth
    percentile, so that thick-slice sets do not blur their thinner members.
    """
    median = np.array(fingerprint["spacing_mm"]["median"])
    # What is one voxel thick has no spacing along that axis.
    long = np.array(fingerprint.get("shape", {}).get("max", [2, 2, 2])) > 1
    known = np.where(long, median, 0) if long.any() else median
    coarse = int(known.argmax())
    why = "median spacing of the cases"
    if known[coarse] / median[long | ~long.any()].min() > _ANISOTROPIC:
        finer = fingerprint["spacing_mm"]["percentile_10"][coarse]
        others = [median[axis] for axis in range(3) if axis != coarse and long[axis]]
        median[coarse] = max(finer, *others)
        why = f"median spacing, and along the coarse axis {'DHW'[coarse]} the tenth percentile"
    d, h, w = (round(float(value), 6) for value in median)
    return (d, h, w), why


def choose_slice_axis(shape: Sequence[float], spacing: Sequence[float]) -> int:
    """What slices lie across (0 D, 1 H, 2 W): an axis of one voxel, else the coarsest spacing."""
    flat = [axis for axis, n in enumerate(shape) if n <= 1]
    return flat[0] if flat else int(np.argmax(spacing))


def choose_intensity(fingerprint: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Intensity scheme and why.

    CT, and PET of which every case is known in SUV, are absolute: windowed and scaled by the
    data set; others by the image.
    """
    modality, in_suv = fingerprint["modality"], fingerprint.get("unit") == "SUV"
    if modality != "CT" and not (modality == "PET" and in_suv):
        why = (
            f"{modality} has no absolute scale" if modality != "PET" else "SUV is not known of all"
        )
        return {"kind": "zscore"}, f"{why}: each image by its own mean and spread"
    found = fingerprint["intensity"]
    scheme = {
        "kind": "window",
        "low": found["percentile_00_5"],
        "high": found["percentile_99_5"],
        "mean": found["mean"],
        "std": found["std"],
    }
    what = "PET in SUV" if in_suv else "CT"
    return (
        scheme | ({"unit": "SUV"} if in_suv else {}),
        f"{what} is absolute: clipped to the foreground's 0.5 to 99.5 percentiles, then scaled",
    )


def choose_patch(
    shape: Sequence[float], spacing: Sequence[float], *, budget_voxels: int, max_stages: int = 6
) -> tuple[Triple, list[Triple], list[Triple]]:
    """Patch size, and stride and kernel of each stage, for a median shape (D, H, W) at a spacing.

    The patch is as near to a cube in mm as the shape allows, at most half the budget (two make
    the smallest batch), and divisible by the strides. Along an axis of one voxel it has one, and
    so have its kernels: such images are slices.
    """
    long = np.array(shape) > 1
    step = np.array(spacing, dtype=np.float64)
    if long.any():
        step[~long] = step[long].min()  # it says nothing of how fine a slice is
    relative = step / step.min()
    patch = grow_cube(shape, relative, limit=budget_voxels / 2)
    smallest = np.where(long, _SMALLEST_MAP, 1)
    patch = np.maximum(smallest, np.round(patch)).astype(int)
    strides, kernels = _stages(patch, relative, max_stages)
    divisor = np.prod(strides, axis=0)
    padded = np.ceil(patch / divisor).astype(int) * divisor
    padded = shrink_to(padded, relative, divisor=divisor, limit=budget_voxels / 2)
    if (padded != patch).any():
        strides, kernels = _stages(padded, relative, max_stages)
    d, h, w = (int(n) for n in padded)
    return (d, h, w), strides, kernels


def choose_box(
    extents_mm: Sequence[NDArray[np.float64]],
    spacing: Sequence[float],
    *,
    budget_voxels: int,
) -> tuple[Triple, float]:
    """The box (D, H, W) that holds every case, whose extents are given, and how much coarser.

    That is by which factor the spacing along every axis must grow for the box to keep within the
    budget; 1 where it does. The box is at that coarser spacing.
    """
    largest = np.max(extents_mm, axis=0) / np.asarray(spacing)
    factor = 1.0
    # Sides are rounded up, so that the first guess may be a little too large.
    while np.ceil(largest / factor - 0.01).clip(1).prod() > budget_voxels:
        factor *= max(1.001, (np.ceil(largest / factor).prod() / budget_voxels) ** (1 / 3))
    return _triple(np.ceil(largest / factor - 0.01).clip(1)), factor


def grow_cube(shape: Sequence[float], relative: np.ndarray, *, limit: float) -> np.ndarray:
    """The shape, or what a cube in mm as large as the limit (in voxels) allows has of it.

    The cube grows until it meets the shape on some axes; the others fill the limit. `relative` is
    each axis' spacing.
    """
    target = np.array(shape, dtype=np.float64)
    if target.prod() <= limit:
        return target
    low, high = 0.0, float((target * relative).max())
    for _ in range(40):
        middle = (low + high) / 2
        volume = np.minimum(target, middle / relative).prod()
        low, high = (middle, high) if volume <= limit else (low, middle)
    return np.minimum(target, low / relative)


def shrink_to(
    patch: np.ndarray, relative: np.ndarray, *, divisor: np.ndarray, limit: float
) -> np.ndarray:
    """The patch, its longest axis in mm cut by its divisor until it holds no more than the limit.

    No axis becomes shorter than its divisor, whatever the limit is.
    """
    patch = patch.copy()
    while patch.prod() > limit and (patch > divisor).any():
        axis = int(np.argmax(np.where(patch > divisor, patch * relative, 0)))
        patch[axis] -= divisor[axis]
    return patch


def choose_strides(
    shape: Sequence[int], spacing: Sequence[float], *, n_strides: int
) -> list[Triple]:
    """Strides along (D, H, W), one after the other, until every axis is short.

    Axes are halved while their spacing is within twice the finest, so that voxels become cubes
    and stay so, and while they are longer than one voxel.
    """
    size, step = np.array(shape, dtype=np.float64), np.array(spacing, dtype=np.float64)
    strides = []
    for _ in range(n_strides):
        long = size > 1
        fine = step < 2 * step[long].min() if long.any() else long
        stride = np.where(long & fine, 2, 1)
        size, step = np.ceil(size / stride), step * stride
        strides.append(_triple(stride))
    return strides


def choose_batch(patch: Triple, *, budget_voxels: int, total_voxels: int) -> int:
    """Patches a batch: what the budget holds, at most 5 % of the data set, at least 2."""
    n_voxels = int(np.prod(patch))
    return max(2, min(budget_voxels // n_voxels, int(_DATA_FRACTION * total_voxels) // n_voxels))


def choose_features(n_stages: int, *, base: int, largest: int) -> list[int]:
    """Channels of each stage: doubled from stage to stage, up to the largest."""
    return [min(largest, base * 2**stage) for stage in range(n_stages)]


def _stages(
    patch: np.ndarray, relative: np.ndarray, max_stages: int
) -> tuple[list[Triple], list[Triple]]:
    """Halve the axes that are fine and large enough until none is left."""
    size, spacing = patch.astype(float).copy(), relative.copy()
    strides: list[Triple] = [(1, 1, 1)]
    long = patch > 1 if (patch > 1).any() else patch > 0
    kernel = np.where((spacing / spacing[long].min() < 2) & (patch > 1), 3, 1)
    kernels: list[Triple] = [_triple(kernel)]
    while len(strides) < max_stages:
        large = size >= 2 * _SMALLEST_MAP
        if not large.any():
            break
        halve = large & (spacing / spacing[large].min() < 2)
        stride = np.where(halve, 2, 1)
        size, spacing = np.ceil(size / stride), spacing * stride
        fine = (spacing / spacing[long].min() < 2) | (kernel == 3)
        kernel = np.where(fine & (patch > 1), 3, 1)
        strides.append(_triple(stride))
        kernels.append(_triple(kernel))
    if len(strides) == 1:
        strides.append((1, 1, 1))
        kernels.append(_triple(kernel))
    return strides, kernels


def _triple(values: np.ndarray) -> Triple:
    d, h, w = (int(value) for value in values)
    return d, h, w
