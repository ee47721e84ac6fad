"""Paces: clips shown faster or backwards, for a network to find out, which needs no labels.

How fast a clip runs (Wang et al., Self-supervised video representation learning by pace
prediction, ECCV 2020) and which way (Wei et al., Learning and using the arrow of time, CVPR 2018).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from volumetric.clips import Indices, choose_dense, choose_uniform
from volumetric.labelled import LabelledCase


def name_paces(paces: Sequence[int]) -> list[str]:
    """What is told apart, in the order of its numbers: each pace forwards, then backwards."""
    return [f"{way} x{pace}" for way in ("forwards", "backwards") for pace in paces]


def draw_paces(
    sources: Sequence[LabelledCase],
    rng: np.random.Generator,
    *,
    length: int,
    stride: float,
    paces: Sequence[int],
    batch_size: int,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Clips, each uint8 (C, length, H, W) of its own size, and numbers of `name_paces` (B,)."""
    clips, numbers = [], []
    for at in rng.integers(len(sources), size=batch_size):
        image = sources[int(at)].read()
        frames, number = choose_pace(image.shape[1], rng, length=length, stride=stride, paces=paces)
        clips.append(image[:, torch.from_numpy(frames)])
        numbers.append(number)
    return clips, torch.tensor(numbers)


def choose_pace(
    n_frames: int,
    rng: np.random.Generator,
    *,
    length: int,
    stride: float,
    paces: Sequence[int],
) -> tuple[Indices, int]:
    """Frames (length,) of a clip, and the number of their pace and way: both evenly drawn.

    Of the paces those are drawn that the clip is long enough for. One too short for any is shown
    whole, evenly slowed, as its slowest: held at its end it would tell which way it runs.
    """
    fitting = [k for k, pace in enumerate(paces) if (length - 1) * stride * pace <= n_frames - 1]
    if fitting:
        number = int(rng.choice(fitting))
        frames = choose_dense(n_frames, length=length, stride=stride * paces[number], rng=rng)
    else:
        number = int(np.argmin(paces))
        frames = choose_uniform(n_frames, length=length)
    if rng.random() < 0.5:
        return frames, number
    return frames[::-1].copy(), len(paces) + number
