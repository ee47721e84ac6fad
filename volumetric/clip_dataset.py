"""Prepared clips to batches: frames drawn along time, whole clips kept as bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from volumetric.clips import Indices, jitter_stride
from volumetric.clips import choose_dense as dense
from volumetric.clips import choose_segments as segments
from volumetric.clips import choose_uniform as uniform
from volumetric.io.prepared import Prepared
from volumetric.spec import ClassifierSpec


@dataclass(frozen=True)
class ClipSource:
    """One prepared clip: in memory if it fits, else on disk.

    Attributes:
        prepared: the clip on disk.
        target: 1 for each class it has, else 0: float32 (n_classes,).
        image: uint8 (C, D, H, W), or None to read it each time.
    """

    prepared: Prepared
    target: torch.Tensor
    image: torch.Tensor | None = None

    def read(self) -> torch.Tensor:
        """The whole clip, uint8 (C, D, H, W)."""
        return self.prepared.read_image() if self.image is None else self.image


def open_clips(
    clips: Sequence[Prepared], targets: Sequence[torch.Tensor], *, budget_bytes: int
) -> list[ClipSource]:
    """Sources for `draw_clips`: all held in memory if their sum stays within the budget."""
    held = sum(clip.n_channels * int(np.prod(clip.shape)) for clip in clips) <= budget_bytes
    return [
        ClipSource(clip, target, clip.read_image() if held else None)
        for clip, target in zip(clips, targets, strict=True)
    ]


def draw_chances(targets: torch.Tensor, *, balance: float) -> NDArray[np.float64]:
    """How likely each case is drawn, summing to 1: (n_cases,).

    A case's chance falls with the size of its rarest class, to the power of `balance`: at 0 all
    cases are as likely, at 1 all classes (where a case has one).
    """
    sizes = targets.sum(0).clamp_min(1).numpy().astype(np.float64)
    own = np.where(targets.numpy() > 0, sizes, np.inf).min(1)
    # A case without any class counts as one of the class of such cases.
    own = np.where(np.isinf(own), max(1, int(np.isinf(own).sum())), own)
    chances = own**-balance
    return np.asarray(chances / chances.sum())


def draw_clips(
    sources: Sequence[ClipSource],
    rng: np.random.Generator,
    *,
    spec: ClassifierSpec,
    batch_size: int,
    chances: NDArray[np.float64],
    jitter: float = 0.25,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Clips, each uint8 (C, frames, H, W) of its own size, and targets (B, n_classes) float32.

    Drawn with replacement by their chances; frames by the network's sampling, at random.
    """
    clips, targets = [], []
    for number in rng.choice(len(sources), batch_size, p=chances):
        source = sources[int(number)]
        frames = choose_frames(source.prepared.shape[0], rng, spec=spec, jitter=jitter)
        clips.append(source.read()[:, torch.from_numpy(frames)])
        targets.append(source.target)
    return clips, torch.stack(targets)


def choose_frames(
    n_frames: int, rng: np.random.Generator, *, spec: ClassifierSpec, jitter: float
) -> Indices:
    """Frames (spec.frames,) of a clip for training, at random as far as the sampling allows.

    Dense: from any start, slower or faster by up to `jitter`. Segments: any of each segment.
    Uniform: evenly over a part of the clip, all of it but `jitter` at least.
    """
    if spec.sampling == "dense":
        stride = jitter_stride(spec.stride, by=jitter, rng=rng)
        return dense(n_frames, length=spec.frames, stride=stride, rng=rng)
    if spec.sampling == "segments":
        return segments(n_frames, length=spec.frames, rng=rng)
    return choose_part(n_frames, rng, length=spec.frames, jitter=jitter)


def choose_part(
    n_frames: int, rng: np.random.Generator, *, length: int, jitter: float = 0.25
) -> Indices:
    """Frames (length,), evenly over a random part of the clip: at least all of it but `jitter`."""
    n_kept = int(rng.integers(max(1, math.ceil((1 - jitter) * n_frames)), n_frames + 1))
    start = int(rng.integers(n_frames - n_kept + 1))
    return start + uniform(n_kept, length=length)
