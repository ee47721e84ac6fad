"""What makes one answer of the slices that a 2D network saw: pooling, attention, a 3D network."""

from __future__ import annotations

from typing import get_args

import torch
from torch import nn

from volumetric.errors import ConfigError, GeometryError
from volumetric.models.context import WIDTH, SliceLSTM, SliceTransformer
from volumetric.models.maps import MapHead
from volumetric.network_names import Aggregate


class SliceHead(nn.Module):
    """Logits (B, n_classes) of what a trunk found in the slices of images, (B, F, D, h, w).

    Features are standardised first, by `centre` and `spread` (F,): 0 and 1 until they are set.

    Args:
        n_features: F, or channels of maps.
        n_classes: numbers returned for each image.
        aggregate: how slices become one: their features' mean (`mean_max`: of both the mean and
            the largest of each map), their largest, a mean weighted by gated attention (Ilse
            2018, equation 9), the same after a transformer or an LSTM in both directions has
            put each slice in the light of the others, or 3D convolutions over maps.
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
        self.context: SliceTransformer | SliceLSTM | None = None
        if aggregate == "transformer":
            self.context = SliceTransformer(n_features)
        elif aggregate == "lstm":
            self.context = SliceLSTM(n_features)
        width = n_features if self.context is None else WIDTH
        attends = aggregate == "attention" or self.context is not None
        self.attention = _GatedAttention(width) if attends else None
        self.answer: nn.Module = (
            MapHead(n_features, n_classes)
            if aggregate == "conv3d"
            else nn.Sequential(nn.Dropout(0.2), nn.Linear(width, n_classes))
        )

    def forward(self, found: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Logits: see the class and `weigh`."""
        return self.weigh(found, lengths)[0]

    def weigh(
        self, found: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, n_classes), and what each slice counted for (B, D), adding up to 1.

        That is its attention; its share of the features where the largest are taken; or 1/D.
        With `lengths` (B,) only so many of an image's first slices count, whatever the others
        hold; 3D convolutions then take one image at a time, their batch norm in training too.

        Raises:
            GeometryError: lengths that are not from 1 to D, or not one an image.
        """
        scaled = (found - self.centre[:, None, None, None]) / self.spread[:, None, None, None]
        present = None if lengths is None else mark_present(lengths, found)
        counted = torch.full_like(found[:, 0, :, 0, 0], 1 / found.shape[2])
        if present is not None:
            counted = present.to(found.dtype) / present.sum(1, keepdim=True)
            scaled = scaled.masked_fill(~present[:, None, :, None, None], 0)
        if self.aggregate == "conv3d":
            if lengths is None:
                return self.answer(scaled), counted
            alone = zip(scaled, lengths.tolist(), strict=True)
            return torch.cat([self.answer(one[None, :, :n]) for one, n in alone]), counted
        features = scaled.mean((3, 4)).transpose(1, 2)
        if self.context is not None:
            features = self.context(features, present)
        pooled, counted = self._pool(features, counted, present)
        return self.answer(pooled), counted

    def _pool(
        self, features: torch.Tensor, counted: torch.Tensor, present: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One row (B, F) of slices (B, D, F), and what each counted for; evenly by `counted`."""
        if self.attention is not None:
            counted = self.attention(features, present)
        elif self.aggregate == "max":
            if present is not None:
                features = features.masked_fill(~present[..., None], -torch.inf)
            pooled = features.amax(1)
            # Many features are zero in every slice: all share those, not the first alone.
            largest = (features == pooled[:, None]).to(features.dtype)
            return pooled, (largest / largest.sum(1, keepdim=True)).mean(2)
        return (counted[..., None] * features).sum(1), counted


def mark_present(lengths: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Which slices count, (B, D), of images (B, C, D, …), by how many each has, `lengths` (B,).

    Raises:
        GeometryError: lengths that are not from 1 to D, or not one an image.
    """
    batch, _, depth = images.shape[:3]
    fits = lengths.shape == (batch,) and not lengths.is_floating_point()
    if not fits or int(lengths.min()) < 1 or int(lengths.max()) > depth:
        raise GeometryError(
            "bad-lengths",
            f"lengths {lengths.tolist()} for {batch} images of {depth} slices",
            f"Give each image a whole number from 1 to {depth}",
        )
    return torch.arange(depth, device=images.device) < lengths.to(images.device)[:, None]


class _GatedAttention(nn.Module):
    """softmax over slices of w · (tanh(V h) ⊙ sigmoid(U h)): (B, D) from (B, D, F)."""

    def __init__(self, n_features: int, *, hidden: int = 128):
        super().__init__()
        self.value = nn.Linear(n_features, hidden)
        self.gate = nn.Linear(n_features, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, features: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
        gated = torch.tanh(self.value(features)) * torch.sigmoid(self.gate(features))
        scores: torch.Tensor = self.score(gated)[..., 0]
        if present is not None:
            scores = scores.masked_fill(~present, -torch.inf)
        return scores.softmax(1)
