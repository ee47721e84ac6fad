"""A long video in, a timeline out: windows that share their frames, probabilities a second."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from volumetric.clip_augment import crop_clips
from volumetric.errors import ConfigError
from volumetric.inference.clips import (
    choose_views,
    frame_boxes,
    mirrored,
    present,
    probabilities_of,
)
from volumetric.model import Model
from volumetric.spec import ClassifierSpec
from volumetric.volume import Volume

_WINDOWS_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Timeline:
    """What a model says of each moment of a video.

    Attributes:
        times_s: centres of the windows, rising: (n_windows,).
        probabilities: float64 (n_windows, n_classes).
        window_s: how long a window is.
        step_s: from one window to the next.
        duration_s: of the video.
    """

    times_s: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    window_s: float
    step_s: float
    duration_s: float

    def by_second(self) -> NDArray[np.float64]:
        """Probabilities in the middle of each second, between windows in proportion: (n, k)."""
        n_seconds = max(1, int(np.ceil(self.duration_s - 1e-6)))
        middle = np.minimum(np.arange(n_seconds) + 0.5, self.duration_s)
        columns = [np.interp(middle, self.times_s, column) for column in self.probabilities.T]
        return np.stack(columns, axis=1)


def window_frames(spec: ClassifierSpec) -> int:
    """Prepared frames of one window: what a network that samples densely sees, else a usual clip.

    Raises:
        ConfigError: the model does not say how long the clips were that it learned from.
    """
    seen = (spec.frames - 1) * spec.stride + 1
    if spec.sampling == "dense":
        return seen
    usual_s: float | None = spec.fingerprint.get("duration_s", {}).get("median")
    if usual_s is None:
        raise ConfigError(
            "unknown-window",
            "the model does not say how long the clips were that it learned from",
            "Train it with dense sampling, or train it again",
        )
    return max(1, round(usual_s * spec.rate))


@torch.inference_mode()
def classify_stream(
    model: Model[ClassifierSpec], chunks: Iterable[Volume], *, step_s: float = 0.5
) -> Timeline:
    """The timeline of a video that comes in chunks at the specification's rate and size.

    Each frame is scaled once and shown in every window it belongs to; no more than a window and
    a few steps are held. A video shorter than a window is one window, its last frame held.

    Raises:
        ConfigError: a step that is none; no frame at all.
    """
    spec = model.spec
    if not 0 < step_s < math.inf:
        raise ConfigError("bad-step", f"a step of {step_s} s", "Give more than 0")
    length, step = window_frames(spec), max(1, round(step_s * spec.rate))
    times, scores = [], []
    n_frames = 0
    frames = choose_views(length, spec=spec, views=1)[0]
    for batch in _batches(_windows(_scaled(chunks, model), length, step)):
        shown = torch.stack([window[:, torch.from_numpy(frames)] for _, window, _ in batch])
        turned = [
            present(shown, spec).flip([2 + axis for axis in axes])
            for axes in mirrored(spec.mirror_axes)
        ]
        values = [
            probabilities_of(network(one), spec) for network in model.networks for one in turned
        ]
        scores.append(torch.stack(values).mean(0).cpu().to(torch.float64).numpy())
        # A frame is on show until the next: a window's middle lies between its two ends.
        times += [(start + min(length, n) / 2) / spec.rate for start, _, n in batch]
        n_frames = max(n_frames, *(start + n for start, _, n in batch))
    if not times:
        raise ConfigError("no-frames", "there is no frame to look at", "Give a video with frames")
    return Timeline(
        np.array(times),
        np.concatenate(scores),
        window_s=length / spec.rate,
        step_s=step / spec.rate,
        duration_s=n_frames / spec.rate,
    )


_Window = tuple[int, torch.Tensor, int]
"""Its first frame, its frames (C, length, H, W), and how many of the video remain from there."""


def _scaled(chunks: Iterable[Volume], model: Model[ClassifierSpec]) -> Iterator[torch.Tensor]:
    """Chunks as the network wants them: float32 (C, T, size, size), from 0 to 255."""
    spec = model.spec
    device = next(model.networks[0].parameters()).device
    for chunk in chunks:
        clip = chunk.data[None].to(device)
        height, width = clip.shape[3:]
        box = torch.tensor(frame_boxes(height, width, spec=spec, crops=1), device=device)
        yield crop_clips(clip, box, size=spec.frame_size)[0]


def _windows(parts: Iterator[torch.Tensor], length: int, step: int) -> Iterator[_Window]:
    """Windows every `step` frames, the last one at the end of the video."""
    held: torch.Tensor | None = None
    first, start = 0, 0  # of what is held; of the next window
    for part in parts:
        held = part if held is None else torch.cat([held, part], 1)
        while start + length <= first + held.shape[1]:
            yield start, held[:, start - first : start - first + length], length
            start += step
        n_done = max(0, min(start, first + held.shape[1] - length) - first)
        held, first = held[:, n_done:], first + n_done
    if held is None:
        return
    end = first + held.shape[1]
    last = max(0, end - length)
    if last > start - step:
        window = held[:, last - first :]
        missing = length - window.shape[1]
        if missing:
            window = torch.cat([window, window[:, -1:].expand(-1, missing, -1, -1)], 1)
        yield last, window, end - last


def _batches(windows: Iterator[_Window]) -> Iterator[list[_Window]]:
    held: list[_Window] = []
    for window in windows:
        held.append(window)
        if len(held) == _WINDOWS_AT_ONCE:
            yield held
            held = []
    if held:
        yield held
