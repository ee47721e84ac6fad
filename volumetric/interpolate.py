"""Interpolation on tensors: separable where axes are straight, a gather where they are oblique."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

Mode = Literal["copy", "linear", "cubic", "labels"]

_REACH = 2  # new voxels: how far the widened cubic kernel reaches
_SLAB = 16  # planes sampled at a time on an oblique grid, to bound memory


def sample_axis(
    data: torch.Tensor,
    shape: Sequence[int],
    scales: Sequence[float],
    starts: Sequence[float],
    *,
    mode: Mode,
) -> torch.Tensor:
    """(C, *shape): along axis v, value i is taken at old index `scales[v] * i + starts[v]`.

    Each axis is one matrix product with its interpolation weights. Beyond half a voxel
    outside the old grid the value is 0.
    """
    if mode == "labels":
        return _largest_weight(
            data, lambda one: sample_axis(one, shape, scales, starts, mode="linear")
        )
    for axis in range(3):
        n_old, n_new = data.shape[1 + axis], shape[axis]
        position = scales[axis] * np.arange(n_new, dtype=np.float64) + starts[axis]
        if mode == "copy":
            data = _copy(data, 1 + axis, np.round(position).astype(np.int64))
        else:
            weights = _weights(position, n_old, abs(scales[axis]), cubic=mode == "cubic")
            data = torch.tensordot(data, weights.to(data.device), dims=([1 + axis], [1])).movedim(
                -1, 1 + axis
            )
    return data


def sample_grid(
    data: torch.Tensor,
    shape: tuple[int, int, int],
    linear: NDArray[np.float64],
    offset: NDArray[np.float64],
    *,
    labels: bool,
) -> torch.Tensor:
    """(C, *shape): trilinear values at old index `linear @ i + offset`, 0 outside."""
    if labels:
        return _largest_weight(
            data, lambda one: sample_grid(one, shape, linear, offset, labels=False)
        )
    size = torch.tensor(data.shape[1:], dtype=torch.float64)
    matrix, shift = torch.from_numpy(linear), torch.from_numpy(offset)
    plane = torch.cartesian_prod(torch.arange(shape[1]), torch.arange(shape[2])).to(torch.float64)
    plane_part = plane @ matrix[:, 1:].T + shift
    source = data[None].to(torch.float32)
    slabs = []
    for first in range(0, shape[0], _SLAB):
        depth = torch.arange(first, min(first + _SLAB, shape[0]), dtype=torch.float64)
        index = depth[:, None, None] * matrix[:, 0] + plane_part
        grid = ((2 * index + 1) / size - 1).flip(-1).reshape(1, len(depth), *shape[1:], 3)
        grid = grid.to(source)
        slab = F.grid_sample(source, grid, padding_mode="border", align_corners=False)
        # Up to its outer faces a voxel has its value; beyond them lies nothing.
        slab = slab * (grid.abs().amax(-1) <= 1 + 1e-6)
        slabs.append(slab[0])
    return torch.cat(slabs, dim=1)


def sample_oblique(
    data: torch.Tensor,
    shape: tuple[int, int, int],
    linear: NDArray[np.float64],
    offset: NDArray[np.float64],
) -> torch.Tensor:
    """(C, *shape) as `sample_grid`, but averaged where a step is longer than an old voxel.

    There as many points are sampled to a step as leave none out, and brought together by the
    kernel of `resample`, along the new axes. What lies outside the volume takes no part.
    """
    n_points = np.maximum(1, np.ceil(np.linalg.norm(linear, axis=0) - 0.01)).astype(int)
    if n_points.max() == 1:
        return sample_grid(data, shape, linear, offset, labels=False)
    result = torch.zeros(data.shape[0], *shape, device=data.device)
    low, high = _covered(data.shape[1:], shape, linear, offset)
    if (low >= high).any():
        return result
    margin = np.where(n_points > 1, _REACH, 0)
    fine = _triple((high - 1 - low + 2 * margin) * n_points + 1)
    start = offset + linear @ (low - margin)
    size, starts = _triple(high - low), _triple(margin * n_points)
    ones = data.new_ones((1, *data.shape[1:]))
    average, share = (
        sample_axis(
            sample_grid(one, fine, linear / n_points, start, labels=False),
            size,
            _triple(n_points),
            starts,
            mode="cubic",
        )
        for one in (data, ones)
    )
    inside = sample_grid(ones, size, linear, offset + linear @ low, labels=False) > 0.5
    box = (slice(None), *(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)))
    result[box] = average / share.clamp_min(1e-3) * inside
    return result


def _covered(
    old: Sequence[int],
    new: tuple[int, int, int],
    linear: NDArray[np.float64],
    offset: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First voxel, and the one behind the last, of the part of a new grid that meets the old."""
    corners = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in old))))
    index = (corners - offset) @ np.linalg.inv(linear).T
    low = np.maximum(0, np.floor(index.min(0)))
    high = np.minimum(new, np.ceil(index.max(0)) + 1)
    return low.astype(np.int64), high.astype(np.int64)


def _triple(numbers: NDArray[np.int64]) -> tuple[int, int, int]:
    depth, height, width = (int(number) for number in numbers)
    return depth, height, width


def _weights(
    position: NDArray[np.float64], n_old: int, scale: float, *, cubic: bool
) -> torch.Tensor:
    """Matrix (new, old) whose rows sum to 1, or to 0 outside the old grid."""
    width = max(1.0, scale) if cubic else 1.0
    offset = np.arange(n_old)[None] - position[:, None]
    distance = np.abs(offset) / width
    weights = _keys(distance) if cubic else np.maximum(0, 1 - distance)
    if width > 1:
        # A widened kernel's samples are off balance; centred again, it moves nothing.
        linear = np.maximum(0, 1 - distance)
        moment = (weights * offset).sum(1, keepdims=True)
        inner = (position >= 2 * width) & (position <= n_old - 1 - 2 * width)
        lever = np.where(inner[:, None], (linear * offset**2).sum(1, keepdims=True), np.inf)
        weights = weights - moment / lever * linear * offset
    # At the border the kernel is cut; renormalising repeats the edge without ringing into it.
    total = weights.sum(1, keepdims=True)
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 1e-6)
    inside = (position > -0.5 - 1e-6) & (position < n_old - 0.5 + 1e-6)
    return torch.from_numpy((weights * inside[:, None]).astype(np.float32))


def _keys(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel, a = -0.5 (Keys 1981, IEEE TASSP 29:1153)."""
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return np.where(t < 1, near, np.where(t < 2, far, 0.0))


def _copy(data: torch.Tensor, axis: int, index: NDArray[np.int64]) -> torch.Tensor:
    n_old = data.shape[axis]
    inside = (index >= 0) & (index < n_old)
    taken = data.index_select(axis, torch.from_numpy(index.clip(0, n_old - 1)).to(data.device))
    if not inside.all():
        outside = torch.from_numpy(np.flatnonzero(~inside)).to(data.device)
        taken.index_fill_(axis, outside, 0)
    return taken


def _largest_weight(
    data: torch.Tensor, sample: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """The label of the largest interpolated weight, the lower on a tie: never a new one."""
    best: torch.Tensor | None = None
    for label in torch.unique(data).tolist():
        weight = sample((data == label).to(torch.float32))
        if best is None:
            best = torch.zeros_like(weight)
            result = torch.zeros_like(weight, dtype=data.dtype)
        result[weight > best] = label
        best = torch.maximum(best, weight)
    return result
