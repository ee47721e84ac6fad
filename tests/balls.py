"""Volumes of noise with a ball in them, whose brightness is the class: where to look is known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

SIZE = 20
_RADIUS = 3.5


@dataclass(frozen=True, eq=False)
class Balls:
    """Images (N, 1, D, H, W), the class of each, and voxels' distances (N, D, H, W) to its ball."""

    images: torch.Tensor
    labels: torch.Tensor
    centres: torch.Tensor
    distances: torch.Tensor


def make_balls(n: int, *, seed: int) -> Balls:
    """Dark balls are of class 0, bright ones of class 1."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.randn(n, 1, SIZE, SIZE, SIZE, generator=generator)
    labels = torch.randint(0, 2, (n,), generator=generator)
    room = SIZE - 2 * _RADIUS - 2
    centres = torch.rand(n, 3, generator=generator) * room + _RADIUS + 1
    distances = distances_to(centres)
    ball = (distances < _RADIUS) * (4 * labels - 2.0)[:, None, None, None]
    return Balls(images + ball[:, None], labels, centres, distances)


def make_pairs(n: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 1, D, H, W) of a dark and a bright ball; distances (n, 2, D, H, W) to these."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.randn(n, 1, SIZE, SIZE, SIZE, generator=generator)
    centres = torch.tensor([[5.0, 5.0, 6.0], [14.0, 14.0, 12.0]]).repeat(n, 1)
    distances = distances_to(centres).reshape(n, 2, SIZE, SIZE, SIZE)
    dark, bright = (distances < _RADIUS).float().unbind(1)
    return images + 2 * (bright - dark)[:, None], distances


def distances_to(centres: torch.Tensor) -> torch.Tensor:
    """In voxels, (N, D, H, W), of centres (N, 3)."""
    axis = torch.arange(SIZE, dtype=torch.float32)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))
    return (grid[None] - centres[:, :, None, None, None]).square().sum(1).sqrt()


def train_on_balls(network: nn.Module, *, n_steps: int, rate: float = 5e-3) -> nn.Module:
    """The same network after some seconds, in evaluation mode."""
    optimizer = torch.optim.Adam(network.parameters(), rate)
    network.train()
    for step in range(n_steps):
        balls = make_balls(12, seed=1000 + step)
        loss = F.cross_entropy(network(balls.images), balls.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()
