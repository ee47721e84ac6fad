"""Learning without labels: parts of a scan are hidden, and a network says what was there.

Masked-volume modelling with a convolutional network, whose hidden voxels are set to the mean (He et
al., CVPR 2022, for the idea; Wald et al., CVPR 2025, for U-Nets of scans).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F


class Hidden(NamedTuple):
    """What a network should find out.

    Attributes:
        images: (B, C, D, H, W) as they were.
        where: (B, D, H, W), whether a voxel was hidden.
    """

    images: torch.Tensor
    where: torch.Tensor


def hide_blocks(
    images: torch.Tensor,
    generator: torch.Generator,
    *,
    share: float,
    block: int,
    spacing: Sequence[float],
) -> tuple[torch.Tensor, Hidden]:
    """Images with that share of blocks set to 0, and what was there.

    Blocks are `block` voxels along the finest axis, and as many mm along the others. They lie on a
    grid that begins anywhere, so that none is always cut the same way.
    """
    batch, _, *shape = images.shape
    device = images.device
    finest = min((s for s, n in zip(spacing, shape, strict=True) if n > 1), default=min(spacing))
    sides = [max(1, round(block * finest / step)) for step in spacing]
    counts = [-(-n // side) + 1 for n, side in zip(shape, sides, strict=True)]
    n_blocks = counts[0] * counts[1] * counts[2]
    order = torch.rand(batch, n_blocks, generator=generator, device=device).argsort(1)
    hidden = (order < round(share * n_blocks)).reshape(batch, 1, *counts).float()
    large = F.interpolate(hidden, scale_factor=[float(side) for side in sides], mode="nearest")
    starts = [int(torch.randint(side, (1,), generator=generator, device=device)) for side in sides]
    (d, h, w), (depth, height, width) = starts, shape
    mask = large[:, 0, d : d + depth, h : h + height, w : w + width] > 0
    return images * ~mask[:, None], Hidden(images, mask)


def hiding_loss(outputs: torch.Tensor | Sequence[torch.Tensor], hidden: Hidden) -> torch.Tensor:
    """Mean squared error over hidden voxels, of the finest of a network's outputs."""
    finest = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
    off = (finest.float() - hidden.images).square() * hidden.where[:, None]
    return off.sum() / (hidden.where.sum() * finest.shape[1]).clamp(min=1)


def explained(outputs: torch.Tensor, hidden: Hidden) -> float | None:
    """Part of the variance of hidden voxels that was found out; None where there is none.

    1 where every voxel is right, 0 where their mean would have done as well.
    """
    where = hidden.where[:, None].expand_as(hidden.images)
    truth, found = hidden.images[where], outputs.float()[where]
    if truth.numel() < 2 or not float(truth.var()) > 0:
        return None
    return 1 - float((found - truth).square().mean() / truth.var(correction=0))
