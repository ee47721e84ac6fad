"""Objects that touch, told apart: each voxel says where the middle of its object lies.

After Panoptic-DeepLab (Cheng et al., CVPR 2020), in any number of axes and in mm: beside the
classes a network gives a heat, highest in the middle of an object, and an offset from each voxel
to that middle. Peaks of heat are middles; a voxel belongs to the one nearest to where it points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from volumetric.errors import GeometryError
from volumetric.instances import number_components
from volumetric.losses import deep_supervision
from volumetric.volume import Volume

N_CHANNELS = 4  # heat, and the offset along D, H, W
_WIDTH = 0.4  # of the heat, as a part of the root mean square distance from the middle
_HEAT, _OFFSET = 5.0, 1.0  # weights of the losses
_TURNED = 0.5  # voxels that a grid may stray from another's axes
_LEAST_HEAT = 0.2  # of a middle


class Middles(NamedTuple):
    """What a network should say of where objects are, of a batch.

    Attributes:
        heat: (B, D, H, W), 1 in the middle of an object, 0 outside of all.
        offsets: (B, 3, D, H, W) to the middle, in mm.
        reach: (B, D, H, W), how far an object's voxels lie from its middle, in mm; 0 outside.
    """

    heat: torch.Tensor
    offsets: torch.Tensor
    reach: torch.Tensor


def find_middles(numbers: torch.Tensor, *, spacing: Sequence[float]) -> Middles:
    """Where the middles of objects lie, of their numbers (B, D, H, W); 0 is background.

    A middle is the mean place of an object's voxels, as far as they are in the patch.
    """
    batch, *shape = numbers.shape
    device = numbers.device
    axes = [torch.arange(n, device=device) * step for n, step in zip(shape, spacing, strict=True)]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij")).to(torch.float32).flatten(1)
    each = numbers.reshape(batch, -1).to(torch.int64)
    largest = int(each.max()) + 1
    # One number for each object of each image, background among them.
    owners = (each + torch.arange(batch, device=device)[:, None] * largest).flatten()
    _, owners = torch.unique(owners, return_inverse=True)
    n_owners = int(owners.max()) + 1
    everywhere = places.repeat(1, batch)
    counts = torch.bincount(owners, minlength=n_owners)
    sums = torch.zeros(3, n_owners, device=device).index_add_(1, owners, everywhere)
    offsets = (sums / counts)[:, owners] - everywhere
    squares = offsets.square().sum(0)
    spread = torch.zeros(n_owners, device=device).index_add_(0, owners, squares) / counts
    # An object of one voxel reaches half a voxel.
    reach = spread.sqrt().clamp(min=0.5 * min(spacing))[owners]
    inside = (each > 0).flatten()
    heat = torch.exp(-squares / (2 * (_WIDTH * reach) ** 2)) * inside
    return Middles(
        heat.reshape(batch, *shape),
        (offsets * inside).reshape(3, batch, *shape).movedim(0, 1),
        (reach * inside).reshape(batch, *shape),
    )


def splitting_loss(
    outputs: torch.Tensor | Sequence[torch.Tensor],
    numbers: torch.Tensor,
    *,
    spacing: Sequence[float],
) -> torch.Tensor:
    """Loss of classes (Dice and cross-entropy at every depth) and, at full size, of middles.

    `outputs` (B, 2 + 4, D, H, W): background and object, heat, offsets. Heat by its squared error,
    offsets by their absolute one in parts of the object's reach, both over the voxels of objects.
    """
    finest = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
    each = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    total = deep_supervision([one[:, :-N_CHANNELS] for one in each], (numbers > 0).to(torch.uint8))
    middles = find_middles(numbers, spacing=spacing)
    inside = middles.reach > 0
    if not inside.any():
        return total
    heat, offsets = finest[:, -N_CHANNELS].float(), finest[:, 1 - N_CHANNELS :].float()
    off = (offsets - middles.offsets).abs().sum(1)[inside] / middles.reach[inside]
    return total + _HEAT * F.mse_loss(heat[inside], middles.heat[inside]) + _OFFSET * off.mean()


def group_voxels(
    outputs: torch.Tensor, *, spacing: Sequence[float], apart_mm: float, least_voxels: int = 1
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Numbers of objects (D, H, W), from 1, the surest first, and how sure each is.

    Args:
        outputs: (2 + 4, D, H, W), as `splitting_loss` takes them.
        spacing: mm along D, H, W.
        apart_mm: how far apart middles are at least.
        least_voxels: smaller ones are dropped.

    A part that holds no middle is one object. How sure: the mean probability of being one.
    """
    classes, heat, offsets = outputs[:-N_CHANNELS], outputs[-N_CHANNELS], outputs[1 - N_CHANNELS :]
    probability = (1 - classes.softmax(0)[0]).cpu().numpy()
    inside = (classes.argmax(0) > 0).cpu().numpy()
    places = np.argwhere(inside)
    if not len(places):
        return np.zeros(inside.shape, np.int32), np.zeros(0)
    middles = _find_peaks(np.where(inside, heat.cpu().numpy(), -1.0), spacing, apart_mm)
    numbers = np.zeros(inside.shape, np.int32)
    if len(middles):
        pointed = places * np.array(spacing) + offsets.cpu().numpy()[:, inside].T
        _, nearest = KDTree(middles * np.array(spacing)).query(pointed)
        numbers[inside] = nearest + 1
    parts = number_components(inside)
    with_middle = np.unique(parts[tuple(middles.T)]) if len(middles) else np.zeros(0, np.int32)
    lonely = inside & ~np.isin(parts, with_middle)
    numbers[lonely] = len(middles) + parts[lonely]
    return _order(numbers, probability, least_voxels)


def number_on_grid(numbers: Volume, inside: Volume) -> Volume:
    """Numbers of objects on another grid, of the voxels that are inside there: int32.

    Each is that of the nearest voxel of the old grid, or where that has none of the nearest that
    has one: nothing inside is left without a number, so that what touches goes on touching.

    Raises:
        GeometryError: grids that are turned against each other.
    """
    mapping = np.linalg.inv(numbers.affine) @ inside.affine
    order = [int(old) for old in np.abs(mapping[:3, :3]).argmax(axis=0)]
    rest = mapping[:3, :3].copy()
    rest[order, range(3)] = 0
    if sorted(order) != [0, 1, 2] or np.abs(rest).max() * max(inside.shape) > _TURNED:
        raise GeometryError("turned-grid", "grids are turned against each other", "Orient both")
    array = numbers.data[0].numpy().transpose(order)
    for axis, old in enumerate(order):
        places = mapping[old, axis] * np.arange(inside.shape[axis]) + mapping[old, 3]
        array = array.take(np.rint(places).clip(0, array.shape[axis] - 1).astype(int), axis=axis)
    wanted = inside.data[0].numpy() > 0
    found = np.where(wanted, array, 0).astype(np.int32)
    missing = wanted & (found == 0)
    if missing.any() and found.any():
        known = np.argwhere(found) * np.array(inside.spacing)
        _, nearest = KDTree(known).query(np.argwhere(missing) * np.array(inside.spacing))
        found[missing] = found[found > 0][nearest]
    return inside.with_data(torch.from_numpy(found)[None])


def _find_peaks(
    heat: NDArray[np.float32], spacing: Sequence[float], apart_mm: float
) -> NDArray[np.intp]:
    """Voxels whose heat is the highest around them (n, 3)."""
    reach = [max(1, round(apart_mm / step)) for step in spacing]
    size = [2 * min(n, have - 1) + 1 for n, have in zip(reach, heat.shape, strict=True)]
    smooth = ndimage.gaussian_filter(
        heat, [0.25 * n if s > 1 else 0 for n, s in zip(reach, size, strict=True)]
    )
    peaks = (smooth == ndimage.maximum_filter(smooth, size=size)) & (heat > _LEAST_HEAT)
    # A plateau is one peak.
    labels, n_peaks = ndimage.label(peaks, structure=np.ones((3, 3, 3)))
    found = ndimage.maximum_position(smooth, labels, range(1, n_peaks + 1))
    return np.array(found, dtype=np.intp).reshape(-1, 3)


def _order(
    numbers: NDArray[np.int32], probability: NDArray[np.float32], least_voxels: int
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    counts = np.bincount(numbers.ravel())
    sums = np.bincount(numbers.ravel(), weights=probability.ravel())
    means = np.divide(sums, counts, out=np.zeros(len(counts)), where=counts > 0)
    kept = np.flatnonzero(counts >= max(1, least_voxels))
    kept = kept[kept > 0]
    kept = kept[np.argsort(-means[kept], kind="stable")]
    renumbered = np.zeros(len(counts), np.int32)
    renumbered[kept] = np.arange(1, len(kept) + 1)
    return renumbered[numbers], means[kept]
