"""Prepared clips to batches: frames drawn along time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from volumetric.clips import Indices, choose_pairs, jitter_stride
from volumetric.clips import choose_dense as dense
from volumetric.clips import choose_segments as segments
from volumetric.clips import choose_uniform as uniform
from volumetric.labelled import LabelledCase
from volumetric.spec import ClassifierSpec


def draw_clips(
    sources: Sequence[LabelledCase],
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
    return choose_part(n_frames, rng, length=spec.frames, jitter=jitter, lag=spec.lag)


def choose_part(
    n_frames: int,
    rng: np.random.Generator,
    *,
    length: int,
    jitter: float = 0.25,
    lag: float | None = None,
) -> Indices:
    """Frames (length,), evenly over a random part of the clip: at least all of it but `jitter`.

    With a lag pairs of frames, as `choose_pairs` has them.
    """
    n_kept = int(rng.integers(max(1, math.ceil((1 - jitter) * n_frames)), n_frames + 1))
    start = int(rng.integers(n_frames - n_kept + 1))
    if lag is not None:
        return start + choose_pairs(n_kept, length=length, lag=lag)
    return start + uniform(n_kept, length=length)
