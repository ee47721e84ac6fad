"""A detector without anchors: every cell of some grids says what is there, and how far it reaches.

YOLO's idea, the whole image at once (Redmon et al., CVPR 2016), in YOLOX's form (Ge et al., 2021):
branches for class, box and centre apart from each other, no anchors. A slice is a volume of one
voxel's depth: one network serves both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from volumetric.models.unet import Triple, encoder_stages

_RARE = 0.01  # part of cells that is taken to hold an object before anything is learnt
_GROUPS = 8


class Cells(NamedTuple):
    """What a detector says of each cell of its grids, all of them in one row, finest first.

    Attributes:
        logits: of each class (B, N, n_classes).
        centres: logit of a cell's belonging to an object (B, N).
        boxes: (B, N, 6), low corner, then high corner, in voxels of the image: voxel i reaches from
            i - 0.5 to i + 0.5.
        points: centre of each cell (N, 3), in voxels.
        strides: voxels from cell to cell (N, 3).
    """

    logits: torch.Tensor
    centres: torch.Tensor
    boxes: torch.Tensor
    points: torch.Tensor
    strides: torch.Tensor


class Detector(nn.Module):
    """`Cells` of images (B, channels, D, H, W).

    An encoder like the U-Net's; its coarser maps are brought down to the finer ones (feature
    pyramid: Lin et al., CVPR 2017), and one head looks at each. D, H and W must be divisible by
    the product of the strides.

    Args:
        n_channels: channels of the image.
        n_classes: kinds of objects.
        features: channels of each encoder stage, finest first.
        strides: stride with which each stage is entered; the first is (1, 1, 1).
        kernels: convolution kernel of each stage; (1, 3, 3) for slices.
        n_levels: grids that are looked at, of the coarsest stages.
        width: channels of pyramid and head.
        residual: residual encoder.
    """

    def __init__(  # noqa: PLR0913 - every one is a choice
        self,
        n_channels: int,
        n_classes: int,
        *,
        features: Sequence[int],
        strides: Sequence[Triple],
        kernels: Sequence[Triple],
        n_levels: int = 2,
        width: int = 64,
        residual: bool = False,
    ):
        super().__init__()
        self.encoder = encoder_stages(
            n_channels, features=features, strides=strides, kernels=kernels, residual=residual
        )
        total = torch.tensor(strides).cumprod(0)
        self.level_strides = [tuple(row) for row in total[-n_levels:].tolist()]
        self.laterals = nn.ModuleList(nn.Conv3d(n, width, 1) for n in features[-n_levels:])
        kernel = kernels[-1]
        self.classes = _branch(width, n_classes, kernel=kernel)
        self.shape = _branch(width, 0, kernel=kernel)
        self.reach = nn.Conv3d(width, 6, 1)
        self.centre = nn.Conv3d(width, 1, 1)
        rare = -float(torch.logit(torch.tensor(1 - _RARE)))
        for last in (cast(nn.Conv3d, self.classes[-1]), self.centre):
            nn.init.constant_(cast(nn.Parameter, last.bias), rare)

    def forward(self, images: torch.Tensor) -> Cells:
        """Cells: see the class."""
        x, maps = images, []
        for stage in self.encoder:
            x = stage(x)
            maps.append(x)
        levels: list[torch.Tensor] = []
        pairs = zip(self.laterals, maps[-len(self.laterals) :], strict=True)
        for lateral, found in reversed(list(pairs)):
            level = lateral(found)
            if levels:
                level = level + F.interpolate(levels[0], size=level.shape[2:], mode="nearest")
            levels.insert(0, level)
        shape = images.shape[2:]
        each = [
            self._look(level, stride, shape)
            for level, stride in zip(levels, self.level_strides, strict=True)
        ]
        together = [torch.cat(parts, 1) for parts in zip(*each, strict=True)]
        logits, centres, boxes, points, strides = together
        return Cells(logits, centres[..., 0], boxes, points[0], strides[0])

    def _look(
        self, level: torch.Tensor, stride: tuple[int, ...], shape: torch.Size
    ) -> tuple[torch.Tensor, ...]:
        """Logits, centres, boxes, points and strides (B or 1, n, …) of one grid."""
        spots = self.shape(level)
        logits, centres, reach = (
            x.flatten(2).transpose(1, 2).to(torch.float32)
            for x in (self.classes(level), self.centre(spots), self.reach(spots))
        )
        step = torch.tensor(stride, device=level.device, dtype=torch.float32)
        axes = [torch.arange(n, device=level.device) for n in level.shape[2:]]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        points = (grid + 0.5) * step - 0.5
        # Where the image is one voxel deep, so is everything in it.
        flat = torch.tensor([n == 1 for n in shape], device=level.device)
        apart = torch.where(flat.repeat(2), 0.5, F.softplus(reach) * step.repeat(2))
        boxes = torch.cat([points - apart[..., :3], points + apart[..., 3:]], -1)
        return logits, centres, boxes, points[None], step.expand(len(points), 3)[None]


def _branch(width: int, n_out: int, *, kernel: Triple) -> nn.Sequential:
    """Two convolutions, and a last one to `n_out` numbers a cell, if any."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [
            nn.Conv3d(width, width, kernel, padding=padding, bias=False),
            nn.GroupNorm(_GROUPS, width),
            nn.SiLU(inplace=True),
        ]
    if n_out:
        layers.append(nn.Conv3d(width, n_out, 1))
    return nn.Sequential(*layers)
