"""What a network is shown of clips: their frames, what changes between them, or both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from volumetric.errors import ConfigError

ClipInput = Literal["rgb", "residual", "both"]


def normalise(clips: torch.Tensor, *, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Clips (B, C, T, H, W) from 0 to 255 as float32 (x/255 - mean) / std, channel by channel."""
    centre, spread = (
        torch.tensor(values, dtype=torch.float32, device=clips.device).view(1, -1, 1, 1, 1) * 255
        for values in (mean, std)
    )
    return (clips.to(torch.float32) - centre) / spread


def residual_frames(clips: torch.Tensor) -> torch.Tensor:
    """What changes from each frame to the next, float32, the last repeated: (B, C, T, H, W).

    After Tao 2020 ("Rethinking motion representation"). All zeros for a single frame.
    """
    x = clips.to(torch.float32)
    if x.shape[2] == 1:
        return torch.zeros_like(x)
    change = x.diff(dim=2)
    return torch.cat([change, change[:, :, -1:]], 2)


def select_input(clips: torch.Tensor, kind: ClipInput) -> torch.Tensor:
    """What a network is shown of normalised clips: them, their changes, or both (twice C).

    Raises:
        ConfigError: another word.
    """
    match kind:
        case "rgb":
            return clips
        case "residual":
            return residual_frames(clips)
        case "both":
            return torch.cat([clips, residual_frames(clips)], 1)
    raise _unknown_input(kind)


def select_of_pairs(clips: torch.Tensor, kind: ClipInput) -> torch.Tensor:
    """The same of clips whose second half of frames are a little later than their first.

    Raises:
        ConfigError: another word.
    """
    frames, later = clips.chunk(2, dim=2)
    match kind:
        case "rgb":
            return frames
        case "residual":
            return later - frames
        case "both":
            return torch.cat([frames, later - frames], 1)
    raise _unknown_input(kind)


def _unknown_input(kind: str) -> ConfigError:
    return ConfigError(
        "unknown-input", f"{kind!r} is no input of a clip", "Use rgb, residual or both"
    )
