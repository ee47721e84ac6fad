"""Augmentation of a whole batch on its device: (tensors, Generator) → tensors.

Parameters are sampled a case at a time and applied to the batch in a few large operations: one
grid gather for everything spatial, three batched matrix products for blur and low resolution.
The transforms and their default strengths follow nnU-Net (Isensee 2021, supplement 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Augmentation:
    """How often and how far a batch is changed. Probabilities are per case.

    Attributes:
        p_spatial: probability of a rotation, scaling and elastic deformation.
        rotation_degrees: standard deviation of the angle about each axis.
        scale: largest relative change of size, e.g. 0.2 for 1/1.2 to 1.2.
        elastic: standard deviation of the displacement at control points, as a fraction of the
            patch's size.
        shift: largest move along each axis, as a fraction of the patch's size.
        flip_axes: axes (0 D, 1 H, 2 W) that may be mirrored. Leave out W where left and right
            carry different labels.
        p_intensity: probability of each intensity change: contrast, brightness, gamma, noise,
            blur, low resolution.
    """

    p_spatial: float = 0.3
    rotation_degrees: float = 12.0
    scale: float = 0.2
    elastic: float = 0.02
    shift: float = 0.0
    flip_axes: tuple[int, ...] = (0, 1, 2)
    p_intensity: float = 0.15


def augment(
    images: torch.Tensor,
    masks: torch.Tensor,
    generator: torch.Generator,
    *,
    settings: Augmentation,
    spacing: tuple[float, float, float],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Changed images (B, C, D, H, W) float32 and masks (B, D, H, W), labels kept whole.

    All tensors and the generator live on one device. Masks are gathered by nearest neighbour.
    """
    grid = _spatial_grid(images, generator, settings, spacing)
    if grid is not None:
        images = _gather(images, grid)
        labels = masks[:, None].to(torch.float32)
        labels = F.grid_sample(
            labels, grid, mode="nearest", padding_mode="border", align_corners=False
        )
        masks = labels[:, 0].to(masks.dtype)
    return _change_intensity(images, generator, settings.p_intensity), masks


def augment_images(
    images: torch.Tensor,
    generator: torch.Generator,
    *,
    settings: Augmentation,
    spacing: tuple[float, float, float],
) -> torch.Tensor:
    """The same of images that have no masks."""
    grid = _spatial_grid(images, generator, settings, spacing)
    if grid is not None:
        images = _gather(images, grid)
    return _change_intensity(images, generator, settings.p_intensity)


def augment_boxes(
    images: torch.Tensor,
    boxes: Sequence[torch.Tensor],
    generator: torch.Generator,
    *,
    settings: Augmentation,
    spacing: tuple[float, float, float],
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Changed images, and for each its boxes (n, 6) in voxels, around where their objects are now.

    Mirrored, scaled and shifted boxes are exact; turned ones are those around the ellipsoid that
    fills the old ones. They may reach out of the image. Elastic deformation is left out.
    """
    settings = replace(settings, elastic=0.0)
    theta, _ = _spatial_matrix(images, generator, settings, spacing)
    moved = list(boxes)
    if theta is not None:
        images = _gather(images, F.affine_grid(theta, list(images.shape), align_corners=False))
        moved = [
            _move_boxes(own, one, images.shape[2:]) for own, one in zip(boxes, theta, strict=True)
        ]
    return _change_intensity(images, generator, settings.p_intensity), moved


def _move_boxes(boxes: torch.Tensor, theta: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Boxes of old places at new ones, which `theta` (3, 4) leads back from."""
    back, shift = theta[:, :3].flip(0, 1), theta[:, 3].flip(0)
    forth = torch.linalg.inv(back)
    half = torch.tensor(shape, device=boxes.device) / 2  # voxels in 1 of affine_grid's units
    low, high = ((side + 0.5) / half - 1 for side in boxes.chunk(2, 1))
    middle = ((low + high) / 2 - shift) @ forth.T
    reach = (((high - low) / 2)[:, None] * forth).square().sum(-1).sqrt()
    sides = [(end + 1) * half - 0.5 for end in (middle - reach, middle + reach)]
    return torch.cat(sides, 1)


def _gather(images: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _spatial_grid(
    images: torch.Tensor,
    generator: torch.Generator,
    settings: Augmentation,
    spacing: tuple[float, float, float],
) -> torch.Tensor | None:
    """Where each new voxel is taken from: (B, D, H, W, 3) in grid_sample's order (w, h, d)."""
    theta, chosen = _spatial_matrix(images, generator, settings, spacing)
    if theta is None:
        return None
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    if not settings.elastic:
        return grid
    bumps = _normal(images, generator, (len(images), 3, 5, 5, 5)) * (2 * settings.elastic)
    bumps = bumps * chosen[:, None, None, None, None]
    smooth = F.interpolate(bumps, size=images.shape[2:], mode="trilinear", align_corners=True)
    return grid + smooth.permute(0, 2, 3, 4, 1)


def _spatial_matrix(
    images: torch.Tensor,
    generator: torch.Generator,
    settings: Augmentation,
    spacing: tuple[float, float, float],
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Matrices (B, 3, 4) from new to old places, as affine_grid has them, and who is changed.

    None where nobody is.
    """
    batch, _, *shape = images.shape
    chosen = _chosen(images, generator, settings.p_spatial)
    flips = torch.ones(batch, 3, device=images.device)
    for axis in settings.flip_axes:
        flips[:, axis] = 1 - 2 * _chosen(images, generator, 0.5)
    if not chosen.any() and (flips > 0).all():
        return None, chosen
    angles = _normal(images, generator, (batch, 3)) * (settings.rotation_degrees * torch.pi / 180)
    if max(spacing) > 3 * min(spacing):
        # Thick slices: turning them out of their plane would interpolate between far voxels.
        through = spacing.index(max(spacing))
        angles = angles * torch.eye(3, device=images.device)[through]
    stretch = torch.log(torch.tensor(1 + settings.scale)) * _uniform(
        images, generator, (batch, 3), -1, 1
    )
    linear = _rotation(angles * chosen[:, None]) * torch.exp(stretch * chosen[:, None])[:, None]
    # Rotate in mm, not in fractions of a patch whose sides differ.
    extent = torch.tensor(
        [n * s for n, s in zip(shape, spacing, strict=True)], device=images.device
    )
    linear = linear * extent[None, None, :] / extent[None, :, None] * flips[:, None, :]
    reversed_axes = linear.flip(1).flip(2)
    theta = F.pad(reversed_axes, (0, 1))
    if settings.shift:  # in grid_sample's order, whose ends are -1 and 1
        moved = _uniform(images, generator, (batch, 3), -1, 1) * (2 * settings.shift)
        theta[:, :, 3] = moved * chosen[:, None]
    return theta, chosen


def _change_intensity(x: torch.Tensor, generator: torch.Generator, p: float) -> torch.Tensor:
    """Noise, blur and low resolution, brightness, contrast, gamma: nnU-Net's order."""
    if not p:
        return x
    noise = _per_case(_chosen(x, generator, p) * _uniform(x, generator, (len(x),), 0, 0.3))
    x = x + noise * torch.randn(x.shape, generator=generator, device=x.device)
    x = _soften(x, generator, p)
    gain = _between(x, generator, p, 0.75, 1.25)
    x = x * gain
    mean = x.mean((2, 3, 4), keepdim=True)
    contrast = (x - mean) * _between(x, generator, p, 0.75, 1.25) + mean
    x = torch.minimum(
        torch.maximum(contrast, x.amin((2, 3, 4), keepdim=True)), x.amax((2, 3, 4), keepdim=True)
    )
    return _gamma(x, generator, p)


def _gamma(x: torch.Tensor, generator: torch.Generator, p: float) -> torch.Tensor:
    """Gamma on the range of each channel, sometimes inverted; mean and spread are kept."""
    power = _between(x, generator, 2 * p, 0.7, 1.5)
    sign = _per_case(1 - 2 * _chosen(x, generator, p))
    y = x * sign
    low, high = y.amin((2, 3, 4), keepdim=True), y.amax((2, 3, 4), keepdim=True)
    extent = (high - low).clamp_min(1e-6)
    curved = ((y - low) / extent).clamp(0, 1) ** power * extent + low
    mean, std = x.mean((2, 3, 4), keepdim=True), x.std((2, 3, 4), keepdim=True)
    curved = curved * sign
    spread = curved.std((2, 3, 4), keepdim=True).clamp_min(1e-6)
    restored = (curved - curved.mean((2, 3, 4), keepdim=True)) / spread * std + mean
    return torch.where(power == 1, x, restored)


def _soften(x: torch.Tensor, generator: torch.Generator, p: float) -> torch.Tensor:
    """Gaussian blur and loss of resolution, both a matrix along each axis."""
    blurred, lowered = _chosen(x, generator, p), _chosen(x, generator, p)
    if not (blurred.any() or lowered.any()):
        return x
    sigma = _uniform(x, generator, (len(x),), 0.3, 1.0) * blurred + 1e-3
    factor = 1 + _uniform(x, generator, (len(x),), 0, 1) * lowered
    for axis in range(2, 5):
        position = torch.arange(x.shape[axis], device=x.device, dtype=x.dtype)
        distance = position[:, None] - position[None]
        blur = torch.softmax(-0.5 * (distance / sigma[:, None, None]) ** 2, dim=2)
        # Low resolution: linear interpolation between every factor-th voxel.
        below = torch.floor(position / factor[:, None]) * factor[:, None]
        weight = ((position - below) / factor[:, None])[..., None]
        knots = [
            (k.round().clamp(max=len(position) - 1)[..., None] == position).to(x.dtype)
            for k in (below, below + factor[:, None])
        ]
        linear = (1 - weight) * knots[0] + weight * knots[1]
        keep = torch.eye(len(position), device=x.device)
        both = torch.where(lowered[:, None, None] > 0, linear, keep) @ blur
        x = torch.einsum("bc...i,bji->bc...j", x.movedim(axis, -1), both).movedim(-1, axis)
    return x.contiguous()


def _rotation(angles: torch.Tensor) -> torch.Tensor:
    """Rotation matrices (B, 3, 3) about D, then H, then W, from angles (B, 3) in radians."""
    sin, cos = angles.sin(), angles.cos()
    result = torch.eye(3, device=angles.device).expand(len(angles), 3, 3)
    for axis in range(3):
        a, b = [other for other in range(3) if other != axis]
        turn = torch.eye(3, device=angles.device).repeat(len(angles), 1, 1)
        turn[:, a, a], turn[:, b, b] = cos[:, axis], cos[:, axis]
        turn[:, a, b], turn[:, b, a] = -sin[:, axis], sin[:, axis]
        result = turn @ result
    return result


def _chosen(like: torch.Tensor, generator: torch.Generator, p: float) -> torch.Tensor:
    return (torch.rand(len(like), generator=generator, device=like.device) < p).to(torch.float32)


def _uniform(
    like: torch.Tensor, generator: torch.Generator, shape: tuple[int, ...], low: float, high: float
) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, device=like.device)


def _normal(like: torch.Tensor, generator: torch.Generator, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=generator, device=like.device)


def _between(
    like: torch.Tensor, generator: torch.Generator, p: float, low: float, high: float
) -> torch.Tensor:
    """A factor a case: 1 for those not chosen."""
    chosen = _chosen(like, generator, p)
    return _per_case(1 + chosen * (_uniform(like, generator, (len(like),), low, high) - 1))


def _per_case(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None, None]
