"""Which frames of a clip, or slices of a scan, a network is shown: index arithmetic only.

Every function returns indices that never run backwards: where a clip is too short its last frame
is held. Looping instead would show a jump, a motion that nobody made.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from volumetric.errors import ConfigError

Indices = NDArray[np.int64]
Sampling = Literal["dense", "uniform", "segments"]
Box = tuple[int, int, int, int]  # top, left, height, width in pixels


def choose_dense(
    n_frames: int, *, length: int, stride: float = 1, rng: np.random.Generator | None = None
) -> Indices:
    """Indices (length,) of frames `stride` apart: from a random start, or centred without `rng`.

    A stride between whole numbers is rounded frame by frame, so that a clip at 25 frames/s can be
    shown at 15. The stride is kept in a short clip, since it is the speed of what is seen: frames
    past the end are the last one.

    Raises:
        ConfigError: no frame, no length, or a stride that is not positive.
    """
    _require_frames(n_frames, length)
    last_start = _last_start(n_frames, length, stride)
    start = last_start // 2 if rng is None else int(rng.integers(last_start + 1))
    return _run(n_frames, length, stride, start)


def choose_uniform(n_frames: int, *, length: int) -> Indices:
    """Indices (length,) spread evenly from the first frame to the last, both included.

    One frame alone is the middle one; where there are fewer frames than `length` each is repeated.

    Raises:
        ConfigError: no frame or no length.
    """
    _require_frames(n_frames, length)
    if length == 1:
        return np.array([(n_frames - 1) // 2], dtype=np.int64)
    # Whole numbers: k·(n-1)/(length-1), halves rounded up, the same on every machine.
    position = np.arange(length, dtype=np.int64)
    return (2 * position * (n_frames - 1) + length - 1) // (2 * (length - 1))


def choose_pairs(n_frames: int, *, length: int, lag: float) -> Indices:
    """Indices (2 * length,): evenly spread frames, then for each one a little later.

    Later by `lag` of the step from one of them to the next, at least by a frame; so that what
    moves fast is seen to move where the step is long. The last pair ends with the last frame. A
    single frame is paired with itself.

    Raises:
        ConfigError: no frame or no length, or a lag that is not positive.
    """
    _require_frames(n_frames, length)
    _require(lag > 0, f"a lag of {lag}", "Give a positive part of a step, such as 0.5")
    step = (n_frames - 1) / max(1, length - 1)
    apart = min(n_frames - 1, max(1, math.floor(lag * step + 0.5)))
    first = choose_uniform(n_frames - apart, length=length)
    return np.concatenate([first, first + apart])


def choose_segments(
    n_frames: int, *, length: int, rng: np.random.Generator | None = None
) -> Indices:
    """Indices (length,), one of each of `length` equal segments: random, or its middle.

    Temporal segment networks (Wang 2016). Segments shorter than a frame share one.

    Raises:
        ConfigError: no frame or no length.
    """
    _require_frames(n_frames, length)
    within = np.full(length, 0.5) if rng is None else rng.random(length)
    return _of_segments(n_frames, length, within)


def jitter_stride(stride: float, *, by: float, rng: np.random.Generator) -> float:
    """The stride times a random factor from 1/(1+by) to 1+by, slower as likely as faster.

    Raises:
        ConfigError: a negative `by`.
    """
    _require(by >= 0, f"a jitter of {by}", "Give a fraction of the stride, such as 0.25")
    return stride * math.exp(rng.uniform(-1, 1) * math.log1p(by))


def view_indices(
    n_frames: int, *, length: int, views: int, stride: float = 1, sampling: Sampling = "dense"
) -> list[Indices]:
    """Indices (length,) of each test view, in order of time; one view is the centred choice.

    Dense views start evenly from the first frame to the last possible start; a short clip's
    views are alike. Views by segments take the 1st, 2nd, … of `views` equal parts of each
    segment. A uniform choice has one view only, and leaves `stride` unused, as segments do.

    Raises:
        ConfigError: no frame, length or view; several uniform views; an unknown sampling.
    """
    _require_frames(n_frames, length)
    _require(views >= 1, f"{views} views", "Test on at least one view")
    match sampling:
        case "dense" if views == 1:
            return [choose_dense(n_frames, length=length, stride=stride)]
        case "dense":
            starts = choose_uniform(_last_start(n_frames, length, stride) + 1, length=views)
            return [_run(n_frames, length, stride, int(start)) for start in starts]
        case "segments":
            parts = (np.arange(views) + 0.5) / views
            return [_of_segments(n_frames, length, np.full(length, part)) for part in parts]
        case "uniform" if views == 1:
            return [choose_uniform(n_frames, length=length)]
        case "uniform":
            raise ConfigError(
                "views-alike",
                f"{views} views of uniformly chosen frames would be one and the same",
                "Test on one view, or choose frames densely or by segments",
            )
    raise ConfigError(
        "unknown-sampling",
        f"{sampling!r} is no way to choose frames",
        "Use dense, uniform or segments",
    )


def crop_boxes(height: int, width: int, *, size: int, crops: int) -> list[Box]:
    """Squares (top, left, size, size): the centre, or start, centre and end of the longer side.

    With the shorter side scaled to `size`, three crops cover the frame. Times ten views along time
    they are the "30 views" of the non-local networks (Wang 2018, section 4.1) and of SlowFast
    (Feichtenhofer 2019, section 4), as whose own code halves round up.

    Raises:
        ConfigError: neither 1 nor 3 crops, or a frame smaller than `size`.
    """
    _require_crops(crops)
    _require(
        1 <= size <= min(height, width),
        f"a crop of {size} from a frame of {height}x{width}",
        "Scale the frames so that their shorter side is at least the crop's",
    )
    top, left = -(-(height - size) // 2), -(-(width - size) // 2)
    if crops == 1:
        return [(top, left, size, size)]
    if height > width:
        return [(start, left, size, size) for start in (0, top, height - size)]
    return [(top, start, size, size) for start in (0, left, width - size)]


def _last_start(n_frames: int, length: int, stride: float) -> int:
    """The last frame from which a run ends within the clip; 0 where none does."""
    _require(
        stride > 0 and math.isfinite(stride), f"a stride of {stride}", "Give a positive stride"
    )
    return max(0, n_frames - 1 - int((length - 1) * stride + 0.5))


def _run(n_frames: int, length: int, stride: float, start: int) -> Indices:
    # Clipped before the cast: a huge stride must not wrap round.
    steps = np.floor(np.arange(length) * stride + 0.5)
    chosen: Indices = np.minimum(start + steps, n_frames - 1).astype(np.int64)
    return chosen


def _of_segments(n_frames: int, length: int, within: NDArray[np.float64]) -> Indices:
    position = (np.arange(length) + within) * (n_frames / length)
    return np.minimum(position, n_frames - 1).astype(np.int64)


def _require_frames(n_frames: int, length: int) -> None:
    _require(n_frames >= 1, f"a clip of {n_frames} frames", "Leave it out: it shows nothing")
    _require(length >= 1, f"a choice of {length} frames", "Choose at least one frame")


def _require_crops(crops: int) -> None:
    _require(crops in (1, 3), f"{crops} crops", "Use 1 (the centre) or 3 (along the longer side)")


def _require(sound: bool, found: str, remedy: str) -> None:
    if not sound:
        raise ConfigError("bad-sampling", f"{found} cannot be had", remedy)
