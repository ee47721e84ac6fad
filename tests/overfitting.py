"""Two cases that a network must learn by heart, if it learns at all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def opposite_motions(*, n_channels: int, size: int = 32, n_frames: int = 8) -> torch.Tensor:
    """A bar that goes right, and the same frames backwards: (2, C, T, size, size)."""
    column = torch.arange(size)
    step = size // n_frames
    frames = torch.stack([(column >= t * step) & (column < t * step + 4) for t in range(n_frames)])
    clip = frames.float()[None, :, None, :].expand(n_channels, -1, size, -1)
    return torch.stack([clip, clip.flip(1)])


def overfit(network: nn.Module, clips: torch.Tensor, *, steps: int, rate: float) -> bool:
    """Whether two clips are told apart after so many steps."""
    labels = torch.tensor([0, 1])
    optimizer = torch.optim.Adam(network.parameters(), rate)
    for _ in range(steps):
        loss = F.cross_entropy(network.train()(clips), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        return bool((network(clips).argmax(1) == labels).all()) and loss.item() < 0.2


def drop_nothing(network: nn.Module) -> None:
    """Let dropout and stochastic depth be: with two clips, what is dropped is most of the loss."""
    for module in network.modules():
        if isinstance(getattr(module, "p", None), float):
            module.p = 0.0


def count(network: nn.Module) -> int:
    """Parameters."""
    return sum(p.numel() for p in network.parameters())
