"""Which frames, and how large: all that is decided before anything is decoded."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from pathlib import Path

from volumetric.errors import ConfigError, UnreadableFileError, UnsupportedError
from volumetric.io.video.probe import Probe

Size = int | tuple[int, int] | None

MAX_BYTES = 4 * 2**30  # of one clip in memory

_ROUNDING_S = 6e-4  # a frame may be said to come this much late: Matroska rounds to milliseconds
_MAX_REPEATS = 1000  # of a frame on average, beyond which the file's times cannot be meant


def choose_numbers(probe: Probe, start_s: float, stop_s: float | None, rate: float) -> list[int]:
    """Numbers of the frames shown at start, start + 1/rate, … before stop."""
    stop_s = probe.duration_s if stop_s is None else min(stop_s, probe.duration_s or 0.0)
    if stop_s is None or not start_s < stop_s:
        return []
    n_steps = math.ceil((stop_s - start_s) * rate - 1e-3)
    if n_steps > _MAX_REPEATS * probe.n_frames + _MAX_REPEATS:
        raise UnsupportedError(
            "implausible-times",
            f"{probe.n_frames} frames last {stop_s:.0f} s, too long for {rate:g} a second",
            "Ask for a lower rate, or for a window of it",
        )
    if probe.rate and not probe.variable and math.isclose(rate, probe.rate, rel_tol=1e-6):
        # Frames of an even rate may come as late as that and still count as even (`probe._rate`).
        late_s = max(_ROUNDING_S, 0.02 / rate)
        first = max(bisect.bisect_right(probe.times_s, start_s + late_s) - 1, 0)
        return list(range(first, min(first + max(n_steps, 1), probe.n_frames)))
    times = probe.times_s
    return [
        max(bisect.bisect_right(times, start_s + step / rate + _ROUNDING_S) - 1, 0)
        for step in range(max(n_steps, 1))
    ]


def check_window(
    probe: Probe, start_s: float, stop_s: float | None, rate: float | None, path: Path
) -> float:
    """The rate to read at, once it is clear that the window can be read by time."""
    if not probe.times_s:
        raise UnreadableFileError(
            "unordered-times",
            "its frames' times are missing or run backwards",
            "Read frames by number, or convert it anew",
            path=path,
        )
    numbers = [n for n in (start_s, stop_s, rate) if n is not None]
    bad_rate = rate is not None and rate <= 0
    if not all(map(math.isfinite, numbers)) or start_s < 0 or bad_rate:
        raise ConfigError(
            "bad-window",
            f"start {start_s}, stop {stop_s}, rate {rate} make no window",
            "Give seconds from 0 on and a rate above 0",
            path=path,
        )
    rate = rate or probe.rate
    if rate is None or probe.duration_s is None:
        raise UnreadableFileError(
            "unknown-rate", "does not say how long its frame is shown", "Give a rate", path=path
        )
    if start_s >= probe.duration_s or (stop_s is not None and stop_s <= start_s):
        raise ConfigError(
            "empty-window",
            f"no frame lies between {start_s} and {stop_s} s; it lasts {probe.duration_s:.3f} s",
            "Choose another window",
            path=path,
        )
    return rate


def check_numbers(probe: Probe, numbers: Sequence[int], path: Path, *, by_time: bool) -> None:
    """Refuse frames that are not there, that cannot be numbered, or that are damaged."""
    outside = [n for n in numbers if not 0 <= n < probe.n_frames]
    if outside:
        raise UnreadableFileError(
            "frame-out-of-range",
            f"has no frame {outside[0]}: {probe.n_frames} were decoded"
            + (
                f", {probe.n_claimed} claimed"
                if probe.n_claimed not in (None, probe.n_frames)
                else ""
            ),
            f"Choose frames from 0 to {probe.n_frames - 1}",
            path=path,
        )
    corrupt = set(probe.corrupt)
    bad = next((n for n in numbers if n in corrupt), None)
    if bad is not None:
        raise UnreadableFileError(
            "corrupt-frame",
            f"frame {bad} is damaged or predicted from a damaged one ({len(corrupt)} such of "
            f"{probe.n_frames})",
            f"Choose frames outside {_spans(probe)}, or export it again",
            path=path,
        )
    lost = probe.first_lost
    if lost is not None and not by_time and any(n >= lost for n in numbers):
        raise UnreadableFileError(
            "frame-lost",
            f"something was lost before frame {lost}: what follows cannot be numbered",
            f"Choose frames before {lost}, or read by time",
            path=path,
        )


def _spans(probe: Probe) -> str:
    """The damaged frames' numbers as "3-7, 12-12 and others"."""
    spans: list[tuple[int, int]] = []
    for number in probe.corrupt:
        if spans and spans[-1][1] == number - 1:
            spans[-1] = spans[-1][0], number
        else:
            spans.append((number, number))
    shown = ", ".join(f"{first}-{last}" for first, last in spans[:5])
    return shown + (" and others" if len(spans) > 5 else "")


def frame_size(probe: Probe, size: Size, path: Path) -> tuple[int, int] | None:
    """(H, W) to resize to; None to leave frames as they are. A whole number is the short side."""
    if size is None:
        if probe.is_resized:
            raise UnsupportedError(
                "frame-size-changes", "frames change their size", "Give a size", path=path
            )
        return None
    if isinstance(size, int):
        scale = size / min(probe.height, probe.width)
        sides = max(round(probe.height * scale), 1), max(round(probe.width * scale), 1)
    else:
        sides = size[0], size[1]
    asked = sides if not isinstance(size, int) else (size,)
    if any(side < 1 for side in asked) or max(sides) > 2**14:
        raise ConfigError(
            "bad-size",
            f"frames cannot be resized to {size}",
            "Give the short side, or height and width",
            path=path,
        )
    return sides


def check_bytes(probe: Probe, n_frames: int, size: tuple[int, int] | None, path: Path) -> None:
    """Refuse what would not fit."""
    height, width = size or (probe.height, probe.width)
    if n_frames * height * width * 3 > MAX_BYTES:
        raise UnsupportedError(
            "clip-too-large",
            f"{n_frames} frames of {height} x {width} need {n_frames * height * width * 3:.3g} "
            f"bytes, more than {MAX_BYTES:.3g}",
            "Give a smaller size, a lower rate or a shorter window, or stream it",
            path=path,
        )
