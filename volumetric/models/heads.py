"""What makes one answer of the slices that a 2D network saw: pooling, attention, a 3D network."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import nn

from volumetric.errors import ConfigError

Aggregate = Literal["mean", "max", "attention", "mean_max", "conv3d"]

_DROPPED = 0.1  # maps blanked in training


class SliceHead(nn.Module):
    """Logits (B, n_classes) of what a trunk found in the slices of images, (B, F, D, h, w).

    Features are standardised first, by `centre` and `spread` (F,): 0 and 1 until they are set.

    Args:
        n_features: F, or channels of maps.
        n_classes: numbers returned for each image.
        aggregate: how slices become one: their features' mean (`mean_max`: of both the mean and
            the largest of each map), their largest, a mean weighted by gated attention (Ilse
            2018, equation 9), or 3D convolutions over maps.
    """

    centre: torch.Tensor
    spread: torch.Tensor

    def __init__(self, n_features: int, n_classes: int, *, aggregate: Aggregate = "mean"):
        super().__init__()
        if aggregate not in get_args(Aggregate):
            raise ConfigError(
                "unknown-aggregate",
                f"{aggregate!r} is no way to aggregate slices",
                f"Use one of {', '.join(get_args(Aggregate))}",
            )
        self.aggregate = aggregate
        self.register_buffer("centre", torch.zeros(n_features))
        self.register_buffer("spread", torch.ones(n_features))
        self.attention = _GatedAttention(n_features) if aggregate == "attention" else None
        self.answer: nn.Module = (
            MapHead(n_features, n_classes)
            if aggregate == "conv3d"
            else nn.Sequential(nn.Dropout(0.2), nn.Linear(n_features, n_classes))
        )

    def forward(self, found: torch.Tensor) -> torch.Tensor:
        """Logits: see the class."""
        return self.weigh(found)[0]

    def weigh(self, found: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, n_classes), and what each slice counted for (B, D), adding up to 1.

        That is its attention; its share of the features where the largest are taken; or 1/D.
        """
        scaled = (found - self.centre[:, None, None, None]) / self.spread[:, None, None, None]
        counted = torch.full_like(found[:, 0, :, 0, 0], 1 / found.shape[2])
        if self.aggregate == "conv3d":
            return self.answer(scaled), counted
        features = scaled.mean((3, 4)).transpose(1, 2)
        if self.attention is not None:
            counted = self.attention(features)
            pooled = (counted[..., None] * features).sum(1)
        elif self.aggregate == "max":
            pooled = features.amax(1)
            # Many features are zero in every slice: all share those, not the first alone.
            largest = (features == pooled[:, None]).to(features.dtype)
            counted = (largest / largest.sum(1, keepdim=True)).mean(2)
        else:
            pooled = features.mean(1)
        return self.answer(pooled), counted


class _GatedAttention(nn.Module):
    """softmax over slices of w · (tanh(V h) ⊙ sigmoid(U h)): (B, D) from (B, D, F)."""

    def __init__(self, n_features: int, *, hidden: int = 128):
        super().__init__()
        self.value = nn.Linear(n_features, hidden)
        self.gate = nn.Linear(n_features, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        gated = torch.tanh(self.value(features)) * torch.sigmoid(self.gate(features))
        scores: torch.Tensor = self.score(gated)[..., 0]
        return scores.softmax(1)


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
