"""Prepared cases to batches: patches drawn at random, the foreground not forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from volumetric.io.prepared import Prepared

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class PatchSource:
    """One case to draw patches from: in memory or on the device if it fits, else on disk.

    Attributes:
        prepared: the case on disk.
        foreground: for each class, indices (n, 3) of voxels to centre patches on.
        image: (C, D, H, W), or None to read each patch from disk.
        mask: (D, H, W), or None likewise.
    """

    prepared: Prepared
    foreground: Mapping[int, np.ndarray]
    image: torch.Tensor | None = None
    mask: torch.Tensor | None = None


def open_sources(
    cases: Sequence[Prepared], *, device: torch.device, budget_bytes: int
) -> list[PatchSource]:
    """Sources for `draw_batch`: all held on the device if their sum stays within the budget."""
    n_bytes = sum((4 * case.n_channels + 1) * int(np.prod(case.shape)) for case in cases)
    held = n_bytes <= budget_bytes
    return [
        PatchSource(
            prepared=case,
            foreground={label: case.read_foreground(label).numpy() for label in case.labels},
            image=case.read_image().to(device) if held else None,
            mask=case.read_mask().to(device) if held else None,
        )
        for case in cases
    ]


def hold_images(
    cases: Sequence[Prepared], *, device: torch.device, budget_bytes: int
) -> dict[Path, torch.Tensor]:
    """The images of cases on the device, by path: all if they stay within the budget, or none."""
    n_bytes = sum(4 * case.n_channels * int(np.prod(case.shape)) for case in cases)
    if n_bytes > budget_bytes:
        return {}
    return {case.path: case.read_image().to(device) for case in cases}


def draw_images(
    cases: Sequence[Prepared],
    held: Mapping[Path, torch.Tensor],
    rng: np.random.Generator,
    *,
    patch_size: Triple,
    batch_size: int,
) -> torch.Tensor:
    """Images (B, C, *patch) float32 of cases drawn with replacement, placed anywhere inside.

    `held` has those that are in memory, by the path of the case.
    """
    images = []
    for _ in range(batch_size):
        case = cases[int(rng.integers(len(cases)))]
        start = place_patch(case.shape, patch_size, None, rng)
        images.append(read_box(case, held.get(case.path), start, patch_size))
    return torch.stack(images)


def draw_batch(
    sources: Sequence[PatchSource],
    rng: np.random.Generator,
    *,
    patch_size: Triple,
    batch_size: int,
    foreground: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (B, C, *patch) float32 and masks (B, *patch), of cases drawn with replacement.

    With probability `foreground` a patch is centred on a voxel of a class drawn evenly from
    those the case has, else placed anywhere inside. A case smaller than the patch is centred
    in it and padded with 0.
    """
    images, masks = [], []
    for _ in range(batch_size):
        source = sources[int(rng.integers(len(sources)))]
        centre = None
        if source.foreground and rng.random() < foreground:
            voxels = source.foreground[
                list(source.foreground)[int(rng.integers(len(source.foreground)))]
            ]
            centre = voxels[int(rng.integers(len(voxels)))]
        start = place_patch(source.prepared.shape, patch_size, centre, rng)
        image, mask = read_patch(source, start, patch_size)
        images.append(image)
        masks.append(mask)
    return torch.stack(images), torch.stack(masks)


def read_patch(
    source: PatchSource, start: Triple, patch_size: Triple
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image (C, *patch) and mask (*patch) of the box at `start`; what lies outside is 0."""
    image = read_box(source.prepared, source.image, start, patch_size)
    low, size, pad = _inside(source.prepared.shape, start, patch_size)
    if source.mask is None:
        mask = source.prepared.read_mask(low, size)
    else:
        mask = source.mask[tuple(slice(b, b + n) for b, n in zip(low, size, strict=True))]
    return image, F.pad(mask, pad)


def read_box(
    prepared: Prepared, held: torch.Tensor | None, start: Triple, patch_size: Triple
) -> torch.Tensor:
    """The box (C, *patch) at `start` of an image, held or on disk; what lies outside is 0."""
    low, size, pad = _inside(prepared.shape, start, patch_size)
    if held is None:
        return F.pad(prepared.read_image(low, size), pad)
    where = tuple(slice(b, b + n) for b, n in zip(low, size, strict=True))
    return F.pad(held[(slice(None), *where)], pad)


def _inside(shape: Triple, start: Triple, patch: Triple) -> tuple[Triple, Triple, list[int]]:
    """Start and size of what of a patch lies inside, and how it is padded, as F.pad takes it."""
    low = [max(0, a) for a in start]
    size = [min(a + p, n) - b for a, p, n, b in zip(start, patch, shape, low, strict=True)]
    pad: list[int] = []
    for axis in (2, 1, 0):
        before = low[axis] - start[axis]
        pad += [before, patch[axis] - before - size[axis]]
    return (low[0], low[1], low[2]), (size[0], size[1], size[2]), pad


def place_patch(
    shape: Triple, patch: Triple, centre: np.ndarray | None, rng: np.random.Generator
) -> Triple:
    """Where a patch begins: around a voxel as far as the shape allows, or anywhere inside.

    A case smaller than the patch lies in its middle.
    """
    start = []
    for axis, (n, p) in enumerate(zip(shape, patch, strict=True)):
        if n <= p:
            start.append(-((p - n) // 2))
        elif centre is None:
            start.append(int(rng.integers(0, n - p + 1)))
        else:
            start.append(int(np.clip(int(centre[axis]) - p // 2, 0, n - p)))
    return start[0], start[1], start[2]
