"""3D convolutions over the maps that a 2D network finds in slices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

_DROPPED = 0.1  # maps blanked in training


class MapHead(nn.Module):
    """Logits (B, n_classes) from maps (B, n_maps, D, h, w), of any size.

    Two residual convolutions, the second on half the grid. Besides the mean of everything, the
    largest answers in the frame count, averaged over the first, the middle and the last third:
    standing up and sitting down differ in their order alone.

    Args:
        n_maps: channels that come in.
        n_classes: numbers returned for each image.
        width: channels of the first stage; the second has twice as many.
    """

    def __init__(self, n_maps: int, n_classes: int, *, width: int = 64):
        super().__init__()
        self.mix = _convolution(n_maps, width, kernel=1)
        self.fine = _convolution(width, width, kernel=3)
        self.halve = _convolution(width, 2 * width, kernel=3, stride=2)
        self.coarse = _convolution(2 * width, 2 * width, kernel=3)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(8 * width, n_classes)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Logits: see the class."""
        x = self.mix(F.dropout3d(maps, _DROPPED, self.training))
        x = x + self.fine(x)
        x = self.halve(x)
        x = x + self.coarse(x)
        largest = x.amax((3, 4))
        n = largest.shape[2]
        third = n // 3
        # The thirds overlap by a slice where they can, and none is empty.
        parts = (
            largest[:, :, : third + 1],
            largest[:, :, third : n - third],
            largest[:, :, -third - 1 :],
        )
        pooled = torch.cat([x.mean((2, 3, 4)), *(part.mean(2) for part in parts)], 1)
        logits: torch.Tensor = self.linear(self.dropout(pooled))
        return logits


def _convolution(channels: int, width: int, *, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels, width, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )
