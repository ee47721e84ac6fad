"""Sizes: what lets networks take small images, and what says why one cannot be learnt from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from volumetric.errors import GeometryError


def take_small_images(network: nn.Module) -> None:
    """Let a network over (B, C, D, H, W), which is changed, take small images.

    Pools without padding shrink to what a small image leaves of their window. Where the network
    answered before it answers the same, and its tensors keep their names. In training, batch
    normalisation that is left with one value a channel raises a GeometryError.
    """
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.AvgPool3d | nn.MaxPool3d) and not any(_triple(child.padding)):
                setattr(parent, name, _FittingPool(child))
            elif isinstance(child, nn.BatchNorm3d):
                child.register_forward_pre_hook(_require_values)


class _FittingPool(nn.Module):
    """A pool without padding, whose window is as large as the image leaves it room to be."""

    def __init__(self, pool: nn.AvgPool3d | nn.MaxPool3d):
        super().__init__()
        self.pool = F.max_pool3d if isinstance(pool, nn.MaxPool3d) else F.avg_pool3d
        self.window = _triple(pool.kernel_size)
        self.stride = _triple(pool.stride)
        self.ceil_mode = pool.ceil_mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        window = [min(pair) for pair in zip(self.window, x.shape[2:], strict=True)]
        result: torch.Tensor = self.pool(x, window, self.stride, ceil_mode=self.ceil_mode)
        return result


def _triple(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return (size,) * 3 if isinstance(size, int) else size


def _require_values(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """Refuse what torch would refuse obscurely: one value has no spread to divide by."""
    x = inputs[0]
    if norm.training and x.numel() == x.shape[1]:
        raise GeometryError(
            "one-value",
            "batch normalisation is left with one value a channel: one image, that small",
            "Train on batches of two images or more, or on larger images",
        )
