"""Networks along slices: what was found in each slice, in the light of the others."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

WIDTH = 256  # features a slice that come out


class SliceTransformer(nn.Module):
    """Features (B, D, WIDTH) from (B, D, F): each slice attends to all of its image.

    Two pre-norm layers of four heads (Vaswani 2017; Xiong 2020). Positions are the sines and
    cosines of section 3.5, computed as they are needed, for any D.
    """

    def __init__(self, n_features: int):
        super().__init__()
        self.enter = nn.Linear(n_features, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, nhead=4, dim_feedforward=2 * WIDTH, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, num_layers=2, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False
        )

    def forward(self, features: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
        """See the class; `present` (B, D) says which slices count."""
        x = self.enter(features)
        x = x + positions(x.shape[1]).to(x)
        absent = None if present is None else ~present
        return cast(torch.Tensor, self.layers(x, src_key_padding_mask=absent))


class SliceLSTM(nn.Module):
    """Features (B, D, WIDTH) from (B, D, F): an LSTM from the first slice on, one from the last."""

    def __init__(self, n_features: int):
        super().__init__()
        self.lstm = nn.LSTM(n_features, WIDTH // 2, batch_first=True, bidirectional=True)

    def forward(self, features: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
        """See the class; `present` (B, D) says which slices count, the others answer 0."""
        if present is None:
            found: torch.Tensor = self.lstm(features)[0]
            return found
        # Packed, the LSTM that runs backwards begins at each image's own last slice.
        packed = pack_padded_sequence(
            features, present.sum(1).cpu(), batch_first=True, enforce_sorted=False
        )
        depth = present.shape[1]
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=depth)[0]


def positions(depth: int) -> torch.Tensor:
    """Sin and cos of d / 10000^(2i / WIDTH), side by side: (depth, WIDTH), Vaswani 2017."""
    rates = torch.exp(torch.arange(0, WIDTH, 2) * (-math.log(10_000) / WIDTH))
    angles = torch.arange(depth)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)
