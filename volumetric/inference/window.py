"""Sliding-window prediction that keeps one slab of sums in memory, not the volume's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn

Triple = tuple[int, int, int]


@torch.inference_mode()
def predict_logits(
    networks: Sequence[nn.Module],
    image: torch.Tensor,
    *,
    patch_size: Triple,
    overlap: float = 0.5,
    mirror_axes: Sequence[int] = (),
) -> torch.Tensor:
    """Logits (classes, D, H, W) float32 on the CPU, the mean over networks and mirrorings.

    Args:
        networks: in evaluation mode, on one device.
        image: (C, D, H, W), prepared as in training.
        patch_size: window, as in training.
        overlap: of neighbouring windows, as a fraction of their size.
        mirror_axes: axes (0 D, 1 H, 2 W); all their combinations are averaged.
    """
    slabs = stream_logits(
        networks, image, patch_size=patch_size, overlap=overlap, mirror_axes=mirror_axes
    )
    return torch.cat([slab.cpu() for slab in slabs], dim=1)


@torch.inference_mode()
def stream_logits(
    networks: Sequence[nn.Module],
    image: torch.Tensor,
    *,
    patch_size: Triple,
    overlap: float = 0.5,
    mirror_axes: Sequence[int] = (),
) -> Iterator[torch.Tensor]:
    """Successive slabs (classes, d, H, W) of `predict_logits`, from the first plane on.

    Windows are weighted by a Gaussian of an eighth of their size (Isensee 2021). A plane is
    given out as soon as no later window touches it: at most one window's depth is held.
    """
    device = next(networks[0].parameters()).device
    shape = image.shape[1:]
    padded, before = pad_to_window(image, patch_size)
    starts = [
        window_starts(n, p, overlap) for n, p in zip(padded.shape[1:], patch_size, strict=True)
    ]
    weight = _gaussian(patch_size).to(device)
    rows = slice(before[1], before[1] + shape[1])
    columns = slice(before[2], before[2] + shape[2])
    sums: torch.Tensor | None = None
    for d, following in zip(starts[0], [*starts[0][1:], None], strict=True):
        for h, w in itertools.product(starts[1], starts[2]):
            depth, height, width = (
                slice(a, a + p) for a, p in zip((d, h, w), patch_size, strict=True)
            )
            window = padded[None, :, depth, height, width].to(device)
            logits = _mean_logits(networks, window, mirror_axes)[0]
            if sums is None:
                # One more channel sums the weights.
                plane = (len(logits) + 1, patch_size[0], *padded.shape[2:])
                sums = torch.zeros(plane, device=device)
            sums[:-1, :, height, width] += logits * weight
            sums[-1, :, height, width] += weight
        assert sums is not None
        n_done = patch_size[0] if following is None else following - d
        done = sums[:-1, :n_done] / sums[-1, :n_done]
        low, high = max(before[0], d), min(before[0] + shape[0], d + n_done)
        if high > low:
            yield done[:, low - d : high - d, rows, columns]
        sums = torch.cat([sums[:, n_done:], torch.zeros_like(sums[:, :n_done])], dim=1)


def _mean_logits(
    networks: Sequence[nn.Module], window: torch.Tensor, mirror_axes: Sequence[int]
) -> torch.Tensor:
    total: torch.Tensor | None = None
    n_terms = 0
    for subset in mirrorings(mirror_axes):
        axes = [2 + axis for axis in subset]
        for network in networks:
            logits = network(window.flip(axes)).flip(axes).to(torch.float32)
            total = logits if total is None else total + logits
            n_terms += 1
    assert total is not None
    return total / n_terms


def mirrorings(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Which axes are mirrored in each of the images that are looked at: none first."""
    return [one for n in range(len(axes) + 1) for one in itertools.combinations(axes, n)]


def pad_to_window(image: torch.Tensor, patch_size: Triple) -> tuple[torch.Tensor, list[int]]:
    """The image (C, D, H, W), at least as large as a window, in its middle; and where it begins."""
    padding = [max(0, p - n) for p, n in zip(patch_size, image.shape[1:], strict=True)]
    before = [p // 2 for p in padding]
    pads = [side for p, b in zip(padding[::-1], before[::-1], strict=True) for side in (b, p - b)]
    return F.pad(image, pads), before


def window_starts(n: int, patch: int, overlap: float) -> list[int]:
    """Evenly spread starts, the last window ending at the last voxel."""
    n_windows = 1 + max(0, -(-(n - patch) // max(1, int(patch * (1 - overlap)))))
    if n_windows == 1:
        return [0]
    return [round(i * (n - patch) / (n_windows - 1)) for i in range(n_windows)]


def _gaussian(patch: Triple) -> torch.Tensor:
    axes = []
    for n in patch:
        distance = torch.arange(n, dtype=torch.float32) - (n - 1) / 2
        axes.append(torch.exp(-0.5 * (distance / (n / 8)) ** 2))
    # The corners' e^-24 is far from float32's limit: no voxel is left without weight.
    return axes[0][:, None, None] * axes[1][None, :, None] * axes[2]
