"""Instances: the objects of a mask one by one, how large each is, and where it lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull

from volumetric.errors import GeometryError
from volumetric.volume import Volume, closest_axes

_Array = NDArray[np.float64]

_SUPERIOR = 2  # of world axes
# Where a pixel meets its neighbours, in pixels from its centre: an outline runs through these.
_EDGES = np.array([[-0.5, 0], [0.5, 0], [0, -0.5], [0, 0.5]])


@dataclass(frozen=True)
class Instance:
    """One object of a scan.

    Attributes:
        number: in the volume of instances.
        n_voxels: how many it has.
        volume_mm3: of these.
        centre_mm: mean of its voxels' centres, in the world (RAS+).
        box_mm: low corner, then high corner, in the world; it holds its voxels to their edges.
        longest_mm: the longest diameter in an axial slice.
        perpendicular_mm: the longest one across that, in the same slice.
        slice_index: the slice of both, along the array's axis that runs nearest to superior.
    """

    number: int
    n_voxels: int
    volume_mm3: float
    centre_mm: tuple[float, float, float]
    box_mm: tuple[float, float, float, float, float, float]
    longest_mm: float
    perpendicular_mm: float
    slice_index: int


def split_components(mask: Volume, label: int = 1) -> Volume:
    """The 26-connected components of a label, numbered from 1, the largest first: int32.

    Raises:
        GeometryError: more than one channel.
    """
    components = number_components(_only_channel(mask) == label)
    return mask.with_data(torch.from_numpy(components)[None])


def number_components(inside: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The 26-connected components (D, H, W), numbered from 1, the largest first; 0 outside."""
    components, n_found = ndimage.label(inside, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel(), minlength=n_found + 1)[1:]
    numbers = np.zeros(n_found + 1, dtype=np.int32)
    numbers[1 + np.argsort(-sizes, kind="stable")] = np.arange(1, n_found + 1)
    found: NDArray[np.int32] = numbers[components]
    return found


def measure_instances(instances: Volume) -> list[Instance]:
    """Each object of a volume of instances (0 is background), in the order of their numbers.

    Diameters are those of RECIST 1.1 (Eisenhauer et al., Eur J Cancer 2009): the longest in any
    axial slice, and across it. Slices lie across the array's axis that runs nearest to superior.
    Both are of the outline's convex hull, which runs halfway between voxels inside and outside, so
    that a disc measures its diameter and a single pixel its side.

    Raises:
        GeometryError: more than one channel, or the volume is no scan.
    """
    if instances.kind != "scan":
        raise GeometryError(
            "no-scan", "diameters in mm are asked for of a clip", "Give a mask of a scan"
        )
    numbers = _only_channel(instances)
    places = ndimage.find_objects(numbers)
    axis = [world for world, _ in closest_axes(instances.affine)].index(_SUPERIOR)
    return [
        _measure(instances, numbers[place] == number, place, number, axis)
        for number, place in enumerate(places, start=1)
        if place is not None
    ]


def _measure(
    instances: Volume,
    inside: NDArray[np.bool_],
    place: tuple[slice, ...],
    number: int,
    axis: int,
) -> Instance:
    """One object, whose axial slices lie across that axis of the array."""
    matrix, origin = instances.affine[:3, :3], instances.affine[:3, 3]
    low = np.array([one.start for one in place])
    index = np.argwhere(inside) + low
    # A corner of the box of voxels may be any corner of the box in the world.
    ends = [(one.start - 0.5, one.stop - 0.5) for one in place]
    corners = np.array([(d, h, w) for d in ends[0] for h in ends[1] for w in ends[2]])
    world = corners @ matrix.T + origin
    longest, across, at = _diameters(np.delete(matrix, axis, axis=1), np.moveaxis(inside, axis, 0))
    centre = matrix @ index.mean(axis=0) + origin
    return Instance(
        number=number,
        n_voxels=len(index),
        volume_mm3=float(len(index) * abs(np.linalg.det(matrix))),
        centre_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
        box_mm=tuple(np.concatenate([world.min(axis=0), world.max(axis=0)]).tolist()),
        longest_mm=longest,
        perpendicular_mm=across,
        slice_index=int(low[axis]) + at,
    )


def _diameters(in_plane: _Array, slices: NDArray[np.bool_]) -> tuple[float, float, int]:
    """The longest diameter in mm, the one across it, and in which slice they lie.

    `in_plane` (3, 2) says how far the pixels of a slice lie apart in the world.
    """
    best = (0.0, 0.0, 0)
    # In the plane's own mm, whose axes need not be perpendicular in a sheared grid.
    to_mm = np.linalg.qr(in_plane)[1].T
    for at, plane in enumerate(slices):
        if not plane.any():
            continue
        pixels = np.argwhere(plane).astype(np.float64)
        edges = np.unique((pixels[:, None] + _EDGES).reshape(-1, 2), axis=0)
        hull = _hull(edges @ to_mm)
        apart = hull[:, None] - hull[None]
        lengths = np.linalg.norm(apart, axis=2)
        one, other = np.unravel_index(lengths.argmax(), lengths.shape)
        if lengths[one, other] > best[0] + 1e-9:
            along = apart[one, other] / lengths[one, other]
            best = (float(lengths[one, other]), _longest_chord(hull, along), at)
    return best


def _longest_chord(hull: _Array, along: _Array) -> float:
    """The longest chord of a convex outline (n, 2) across a direction.

    How long chords are is concave from end to end and straight between corners: it is largest
    at one of them.
    """
    across = np.array([-along[1], along[0]])
    corners = np.stack([hull @ along, hull @ across], axis=1)
    starts, ends = corners, np.roll(corners, -1, axis=0)
    longest = 0.0
    for position in corners[:, 0]:
        reach = ends[:, 0] - starts[:, 0]
        crossed = (np.minimum(starts[:, 0], ends[:, 0]) <= position + 1e-9) & (
            np.maximum(starts[:, 0], ends[:, 0]) >= position - 1e-9
        )
        flat = np.abs(reach) < 1e-9
        share = np.where(flat, 0.0, (position - starts[:, 0]) / np.where(flat, 1.0, reach))
        heights = starts[:, 1] + share.clip(0, 1) * (ends[:, 1] - starts[:, 1])
        touched = np.concatenate([heights[crossed], ends[crossed & flat, 1]])
        longest = max(longest, float(np.ptp(touched)))
    return longest


def _hull(points: _Array) -> _Array:
    """The corners of the convex hull of points (n, 2), in their order around it."""
    found: _Array = points[ConvexHull(points).vertices]
    return found


def _only_channel(volume: Volume) -> NDArray[np.int64]:
    if volume.data.shape[0] != 1:
        raise GeometryError(
            "bad-channels",
            f"a mask has one channel, not {volume.data.shape[0]}",
            "Choose one channel",
        )
    numbers: NDArray[np.int64] = volume.data[0].cpu().numpy().astype(np.int64)
    return numbers
