"""A clip in, its probabilities out: views along time and crops of the frame, averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np
import torch
from numpy.typing import NDArray

from volumetric.clip_augment import crop_clips
from volumetric.clip_input import normalise, select_input, select_of_pairs
from volumetric.clips import Box, choose_pairs, crop_boxes, view_indices
from volumetric.model import Model
from volumetric.spec import ClassifierSpec, ScanClassifierSpec

_FRAMES_AT_ONCE = 128  # of all views together, so that memory does not grow with their number
_LEAST_SPREAD = 1.0  # of 255 grey levels


@dataclass(frozen=True, eq=False)
class ClipScores:
    """What a model says of one clip, or scan.

    Attributes:
        probabilities: float64 (n_classes,), the mean over views and networks.
        views: float64 (n_views, n_classes), each the mean over networks.
        seen_s: what each view saw, in seconds of the clip: from the start of its first frame to
            the end of its last, (n_views, 2); (0, 2) of a scan.
    """

    probabilities: NDArray[np.float64]
    views: NDArray[np.float64]
    seen_s: NDArray[np.float64]


def present(clips: torch.Tensor, spec: ClassifierSpec) -> torch.Tensor:
    """What the network is shown, float32 (B, C, D, H, W), of clips from 0 to 255.

    Where the specification has a lag, the second half of the clips' frames are those that the
    first half's differences are to.
    """
    select = select_input if spec.lag is None else select_of_pairs
    if spec.normalise == "fixed":
        return select(normalise(clips, mean=spec.mean, std=spec.std), spec.input)
    x = clips.to(torch.float32)
    x = x - x.mean((2, 3, 4), keepdim=True)
    # A clip of one colour has no contrast that could be raised: all it shows is zero.
    spread = x.square().mean((2, 3, 4), keepdim=True).sqrt().clamp_min(_LEAST_SPREAD)
    return select(x / spread, spec.input)


@torch.inference_mode()
def classify_clip(
    model: Model[ClassifierSpec],
    clip: torch.Tensor,
    *,
    views: int | None = None,
    crops: int | None = None,
    mirror_axes: Sequence[int] | None = None,
) -> ClipScores:
    """Probabilities of a prepared clip, uint8 (3, T, H, W) at the specification's rate and size.

    `views`, `crops` and the axes (1 upside down, 2 left for right) whose mirror images are views
    of their own are the test protocol; the specification's if not given.
    """
    spec = model.spec
    chosen = choose_views(clip.shape[1], spec=spec, views=views or spec.views)
    boxes = frame_boxes(clip.shape[2], clip.shape[3], spec=spec, crops=crops or spec.crops)
    pairs = [
        (frames, box, axes)
        for frames in chosen
        for box in boxes
        for axes in mirrored(spec.mirror_axes if mirror_axes is None else mirror_axes)
    ]
    at_once = max(1, _FRAMES_AT_ONCE // spec.frames)
    parts = [
        _score(model, clip, pairs[start : start + at_once])
        for start in range(0, len(pairs), at_once)
    ]
    scores = np.concatenate(parts)
    ends = np.array([(frames[0], frames[-1] + 1) for frames, _, _ in pairs], dtype=np.float64)
    return ClipScores(scores.mean(0), scores, ends / spec.rate)


def choose_views(n_frames: int, *, spec: ClassifierSpec, views: int) -> list[NDArray[np.int64]]:
    """Frames of each view; one view where sampling is uniform, since all of it is seen."""
    if spec.lag is not None:
        return [choose_pairs(n_frames, length=spec.frames, lag=spec.lag)]
    views = 1 if spec.sampling == "uniform" else views
    return view_indices(
        n_frames, length=spec.frames, views=views, stride=spec.stride, sampling=spec.sampling
    )


def frame_boxes(height: int, width: int, *, spec: ClassifierSpec, crops: int) -> list[Box]:
    """What of each frame is scaled to the network's size: squares of its height, or all of it."""
    if spec.fit == "whole":
        return [(0, 0, height, width)]
    return crop_boxes(height, width, size=min(height, width), crops=crops)


def probabilities_of(
    logits: torch.Tensor, spec: ClassifierSpec | ScanClassifierSpec
) -> torch.Tensor:
    """Of classes that exclude each other, or each for itself: float32 as the logits (B, n)."""
    logits = logits.to(torch.float32)
    return logits.sigmoid() if spec.multi_label else logits.softmax(-1)


def show_clips(clips: torch.Tensor, spec: ClassifierSpec, boxes: torch.Tensor) -> torch.Tensor:
    """What the network is shown of clips (B, C, D, H, W), of each the box (B, 4)."""
    return present(crop_clips(clips, boxes, size=spec.frame_size), spec)


def show_clip(clip: torch.Tensor, spec: ClassifierSpec) -> torch.Tensor:
    """What the network is shown (1, C, D, H, W) of a prepared clip with one view and one crop."""
    frames = choose_views(clip.shape[1], spec=spec, views=1)[0]
    boxes = torch.tensor(frame_boxes(*clip.shape[2:], spec=spec, crops=1))
    return show_clips(clip[None, :, torch.from_numpy(frames)], spec, boxes)


def seen_frames(
    clip: torch.Tensor, spec: ClassifierSpec
) -> tuple[torch.Tensor, NDArray[np.float64]]:
    """Frames (3, frames, h, w) uint8 of a prepared clip that `show_clip` shows, and when: seconds.

    Of pairs the first.
    """
    numbers = choose_views(clip.shape[1], spec=spec, views=1)[0][: spec.frames]
    boxes = torch.tensor(frame_boxes(*clip.shape[2:], spec=spec, crops=1))
    chosen = clip[None, :, torch.from_numpy(numbers)]
    frames = crop_clips(chosen, boxes, size=spec.frame_size)[0]
    return frames.round().clamp(0, 255).to(torch.uint8), numbers / spec.rate


def mirrored(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every set of these axes, the empty one first."""
    sets = (combinations(axes, n) for n in range(len(axes) + 1))
    return list(chain.from_iterable(sets))


def _score(
    model: Model[ClassifierSpec],
    clip: torch.Tensor,
    pairs: Sequence[tuple[NDArray[np.int64], Box, tuple[int, ...]]],
) -> NDArray[np.float64]:
    """Probabilities (n_pairs, n_classes) of views, the mean of the model's networks."""
    spec = model.spec
    device = next(model.networks[0].parameters()).device
    clips = torch.stack([clip[:, torch.from_numpy(frames)] for frames, _, _ in pairs]).to(device)
    boxes = torch.tensor([box for _, box, _ in pairs], device=device)
    shown = show_clips(clips, spec, boxes)
    turned = [
        one.flip([1 + axis for axis in axes])
        for one, (_, _, axes) in zip(shown, pairs, strict=True)
    ]
    scores = [probabilities_of(network(torch.stack(turned)), spec) for network in model.networks]
    return torch.stack(scores).mean(0).cpu().to(torch.float64).numpy()
