"""A tilted or irregular stack of slices moved onto an untilted, regular grid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from volumetric.findings import Finding
from volumetric.interpolate import sample_axis
from volumetric.io.dicom.geometry import Stack
from volumetric.volume import Affine

_MOST_SLICES = 4  # times as many as there were: one tiny gap must not blow the volume up
_MOST_PIXELS = 9  # times as many a slice: where slices shift further, they are no one stack


def regularise(
    voxels: NDArray[Any], stack: Stack, path: str, *, fill: float
) -> tuple[torch.Tensor, Affine, Finding]:
    """Values (D, H, W) float32 on a regular grid along the normal, its affine, and what was done.

    Slices that shift sideways are moved within their plane by cubic convolution, into a field of
    view that holds all of them (what none covers is `fill`); then, where gaps differ, slices are
    interpolated linearly along the normal, at the smallest gap that occurs.

    Raises:
        GeometryError: the stack's own fault, where slices shift too far for one field of view.
    """
    data = torch.from_numpy(np.ascontiguousarray(voxels, dtype=np.float32))
    data, affine = _untilt(data, stack, fill)
    data, affine = _even_out(data, stack, affine)
    gaps = np.diff(stack.along_mm)
    finding = Finding(
        "resampled",
        "warning",
        f"was resampled from {len(gaps) + 1} slices {gaps.min():.3f} to {gaps.max():.3f} mm apart, "
        f"shifted sideways by up to {np.linalg.norm(stack.sideways_mm, axis=1).max():.2f} mm, to "
        f"{data.shape[0]} slices {np.linalg.norm(affine[:3, 0]):.3f} mm apart",
        "Look at the result: between distant slices values are interpolated",
        path,
    )
    return data, affine, finding


def _untilt(data: torch.Tensor, stack: Stack, fill: float) -> tuple[torch.Tensor, Affine]:
    spacing = np.linalg.norm(stack.affine[:3, 1:3], axis=0)
    shifts = stack.sideways_mm / spacing
    low = np.floor(shifts.min(0) + 1e-6)
    high = np.ceil(shifts.max(0) - 1e-6)
    wanted = np.array(data.shape[1:]) + high - low
    if stack.fault is not None and wanted.prod() > _MOST_PIXELS * data[0].numel():
        raise stack.fault
    size = [int(n) for n in wanted]
    moved = torch.full((data.shape[0], *size), fill, dtype=torch.float32)
    for index, (one, shift) in enumerate(zip(data, shifts, strict=True)):
        starts = (0.0, *(low - shift))
        sampled = sample_axis(
            one[None, None] - fill, (1, *size), (1.0, 1.0, 1.0), starts, mode="cubic"
        )
        # Cubic convolution overshoots beside edges; no value outside the slice's own is made.
        moved[index] = (sampled[0, 0] + fill).clamp(
            min(fill, float(one.min())), max(fill, float(one.max()))
        )
    affine = stack.affine.copy()
    affine[:3, 3] += affine[:3, 1:3] @ low
    return moved, affine


def _even_out(data: torch.Tensor, stack: Stack, affine: Affine) -> tuple[torch.Tensor, Affine]:
    along = stack.along_mm
    n_slices = min(
        math.ceil(along[-1] / np.diff(along).min() - 0.05) + 1, _MOST_SLICES * len(along)
    )
    wanted = np.linspace(0, along[-1], n_slices)
    above = np.searchsorted(along, wanted, side="right").clip(1, len(along) - 1)
    weight = (wanted - along[above - 1]) / (along[above] - along[above - 1])
    upper = torch.from_numpy(weight.astype(np.float32))[:, None, None]
    even = torch.lerp(data[above - 1], data[above], upper)
    affine = affine.copy()
    affine[:3, 0] *= wanted[1] / np.linalg.norm(affine[:3, 0])
    return even, affine
