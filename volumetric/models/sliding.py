"""A classifier slid over an image as a detector: the plain way, and what others must beat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from volumetric.models.cnn3d import plain_cnn3d
from volumetric.models.detector import Cells
from volumetric.models.unet import Triple
from volumetric.plan import choose_strides

_CHUNK = 2**24  # voxels of windows at a time, where nothing is learnt


class SlidingClassifier(nn.Module):
    """`Cells` of images (B, channels, D, H, W): one for each place of a window, all of one box.

    Every window goes through a small 3D network by itself. Any size of at least one voxel.

    Args:
        n_channels: channels of the image.
        n_classes: kinds of objects.
        window: voxels along (D, H, W) that the classifier sees.
        step: voxels from a window to the next.
        box: voxels along (D, H, W) of the box that is told, around a window's middle.
        spacing: of the voxels, which says along which axes the classifier shortens windows first.
        width: channels of the classifier's first stage.
    """

    def __init__(  # noqa: PLR0913 - every one is a choice
        self,
        n_channels: int,
        n_classes: int,
        *,
        window: Triple,
        step: Triple,
        box: Sequence[float],
        spacing: Sequence[float],
        width: int = 16,
    ):
        super().__init__()
        # Windows lie around the middles of steps, so that both are odd or both are even.
        d, h, w = (max(s, n + (n - s) % 2) for n, s in zip(window, step, strict=True))
        self.window: Triple = (d, h, w)
        self.step = step
        strides = choose_strides(self.window, spacing, n_strides=3)
        self.classifier = plain_cnn3d(n_channels, n_classes + 1, strides=strides, width=width)
        half = torch.tensor([float(side) / 2 for side in box])
        self.register_buffer("reach", torch.cat([-half, half]), persistent=False)

    def forward(self, images: torch.Tensor) -> Cells:
        """Cells: see the class. What the classifier says of background is their centre's logit."""
        counts = [-(-n // s) for n, s in zip(images.shape[2:], self.step, strict=True)]
        pads: list[int] = []
        for axis in (2, 1, 0):
            before = (self.window[axis] - self.step[axis]) // 2
            end = counts[axis] * self.step[axis] + before
            pads += [before, end - images.shape[2 + axis]]
        windows = F.pad(images, pads)
        for axis in range(3):
            windows = windows.unfold(2 + axis, self.window[axis], self.step[axis])
        found = torch.stack([self._classify(one) for one in windows])
        axes = [torch.arange(n, device=images.device) for n in counts]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        step = torch.tensor(self.step, device=images.device, dtype=torch.float32)
        points = (grid + 0.5) * step - 0.5
        boxes = points.repeat(1, 2) + self.get_buffer("reach")
        return Cells(
            found[..., 1:],
            found[..., 1:].logsumexp(-1) - found[..., 0],
            boxes.expand(len(images), -1, -1),
            points,
            step.expand(len(points), 3),
        )

    def _classify(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits (N, 1 + n_classes) of the windows (C, d, h, w, *window) of an image."""
        n_channels = len(windows)
        rows = [
            plane.permute(1, 2, 0, 3, 4, 5).reshape(-1, n_channels, *self.window)
            for plane in windows.unbind(1)
        ]
        size = max(1, _CHUNK // rows[0].numel())
        if self.training:
            size = len(rows)  # one norm for all
        parts = [torch.cat(rows[start : start + size]) for start in range(0, len(rows), size)]
        logits = torch.cat([self.classifier(part) for part in parts])
        return logits.to(torch.float32)
