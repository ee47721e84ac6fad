"""Segments of a long video, and how they are made from the probabilities of its windows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from volumetric.errors import ConfigError

_Array = NDArray[np.float64]
_Run = tuple[int, int, int]  # first window, last window, class
_Place = tuple[float, float, _Run]  # start and end in seconds


@dataclass(frozen=True)
class Segment:
    """A stretch of a video in which something happens.

    Attributes:
        start_s: where it begins, in seconds of the video's own time.
        end_s: where it ends, after its start.
        label: name of its class.
        score: how sure one is of it, higher is surer; 1 in the truth.
    """

    start_s: float
    end_s: float
    label: str
    score: float = 1.0

    def __post_init__(self) -> None:
        numbers = self.start_s, self.end_s, self.score
        if not all(map(math.isfinite, numbers)) or self.end_s <= self.start_s:
            raise ConfigError(
                "bad-segment",
                f"a segment from {self.start_s} to {self.end_s} s with score {self.score}",
                "Give finite numbers, and an end after the start",
            )


def temporal_iou(first: Segment, second: Segment) -> float:
    """Time in both segments over time in either, from 0 to 1."""
    shared_s = min(first.end_s, second.end_s) - max(first.start_s, second.start_s)
    if shared_s <= 0:
        return 0.0
    return shared_s / (max(first.end_s, second.end_s) - min(first.start_s, second.start_s))


def smooth_windows(probabilities: ArrayLike, n_windows: int) -> _Array:
    """Probabilities (n, n_classes), each row the mean of the `n_windows` centred on it.

    At either end the mean is over those that there are. Boundaries between long segments stay
    where they are, for they blur to both sides alike; segments shorter than half of it are lost.

    Raises:
        ConfigError: `n_windows` is no odd number above 0.
    """
    if n_windows < 1 or n_windows % 2 == 0:
        raise ConfigError(
            "bad-smoothing",
            f"{n_windows} windows have none in their middle",
            "Give an odd number; 1 smooths nothing",
        )
    windows = np.asarray(probabilities, dtype=np.float64)
    reach = n_windows // 2
    total = np.concatenate([np.zeros((1, windows.shape[1])), np.cumsum(windows, axis=0)])
    rows = np.arange(len(windows))
    first, stop = np.maximum(rows - reach, 0), np.minimum(rows + reach + 1, len(windows))
    means: _Array = (total[stop] - total[first]) / (stop - first)[:, None]
    return np.clip(means, 0.0, 1.0)  # differences of sums may miss 0 by rounding


def merge_segments(
    probabilities: ArrayLike,
    times_s: Sequence[float],
    *,
    classes: Sequence[str],
    threshold: float | None = None,
    shortest_s: float = 0.0,
    span_s: tuple[float, float] | None = None,
) -> list[Segment]:
    """Segments by time, from `probabilities` (n, n_classes) of windows centred at `times_s`.

    Without a threshold each window is of its most probable class, and segments cover the whole
    span without overlap; drop those of a class that stands for nothing. With one, each class has
    a segment wherever its probability reaches the threshold, and those of two classes may
    overlap. A segment's score is its class's mean probability over its windows.

    An end lies between the centres of two windows, where the probabilities cross if they were
    straight lines there, or half-way if they do not cross. The first and last ends are those of
    `span_s`, the part of the recording that was looked at (default: half a step beyond the first
    and last centre). Segments shorter than `shortest_s` are dropped; without a threshold, their
    windows go to the long ones on either side, parted where that suits the
    probabilities best. Smooth beforehand by `smooth_windows`.

    Raises:
        ConfigError: no window, lengths that disagree, values that are no probabilities, times
            that do not rise, or a span that does not hold them.
    """
    windows, times = _check_windows(probabilities, times_s, classes)
    places = _places(times, span_s)
    if threshold is None:
        found = _settled(windows, places, shortest_s)
    else:
        found = list(_reaching(windows, places, threshold, shortest_s))
    return [
        Segment(start_s, end_s, classes[number], float(windows[first : last + 1, number].mean()))
        for start_s, end_s, (first, last, number) in sorted(found)
    ]


def _places(times: _Array, span_s: tuple[float, float] | None) -> _Array:
    """The start of the span, the windows' centres, and its end: (n + 2,)."""
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    start_s, end_s = span_s or (float(times[0]) - step / 2, float(times[-1]) + step / 2)
    if not start_s <= times[0] or not times[-1] <= end_s or not start_s < end_s:
        raise ConfigError(
            "bad-span",
            f"windows centred from {times[0]} to {times[-1]} s lie outside {start_s} to {end_s} s",
            "Give the start and end of the recording, in seconds",
        )
    return np.array([start_s, *times, end_s])


def _settled(windows: _Array, places: _Array, shortest_s: float) -> list[_Place]:
    """Runs of the most probable class that cover the span, none of them too short."""
    runs = _runs(windows.argmax(axis=1))
    while runs:
        ends = [float(places[0]), *_crossings(runs, windows, places), float(places[-1])]
        found = list(zip(ends[:-1], ends[1:], runs, strict=True))
        long = [run for start_s, end_s, run in found if end_s - start_s >= shortest_s]
        if len(long) == len(runs):
            return found
        runs = _filled(long, windows)
    return []


def _crossings(runs: Sequence[_Run], windows: _Array, places: _Array) -> Iterator[float]:
    """Where each run gives way to the next."""
    for (_, last, left), (_, _, right) in pairwise(runs):
        lead, next_lead = windows[last : last + 2, left] - windows[last : last + 2, right]
        yield _cut(lead, next_lead, places[last + 1 : last + 3])


def _filled(runs: Sequence[_Run], windows: _Array) -> list[_Run]:
    """Runs that cover all windows: the more probable of two neighbours takes those between."""
    if not runs:
        return []
    stops = []
    for (_, last, left), (first, _, right) in pairwise(runs):
        lead = np.cumsum(windows[last + 1 : first, left] - windows[last + 1 : first, right])
        stops.append(last + 1 + int(np.argmax([0.0, *lead])))
    labels = np.empty(len(windows), np.intp)
    for start, stop, (_, _, label) in zip([0, *stops], [*stops, len(windows)], runs, strict=True):
        labels[start:stop] = label
    return _runs(labels)


def _reaching(
    windows: _Array, places: _Array, threshold: float, shortest_s: float
) -> Iterator[_Place]:
    """Runs of each class in which its probability reaches the threshold."""
    for number, above in enumerate(windows.T - threshold):
        for first, last, inside in _runs((above >= 0).astype(np.intp)):
            if not inside:
                continue
            start_s, end_s = float(places[0]), float(places[-1])
            if first:
                start_s = _cut(-above[first - 1], -above[first], places[first : first + 2])
            if last + 1 < len(windows):
                end_s = _cut(above[last], above[last + 1], places[last + 1 : last + 3])
            if end_s - start_s >= shortest_s:
                yield start_s, end_s, (first, last, number)


def _cut(lead: float, next_lead: float, times: _Array) -> float:
    """The time at which a lead falls to 0 between two windows, half-way if it does not."""
    falls = lead >= 0 >= next_lead and lead > next_lead
    part = lead / (lead - next_lead) if falls else 0.5
    # Not on a centre itself: between two ties a segment of one window would have no length.
    return float(times[0] + min(max(part, 0.05), 0.95) * (times[1] - times[0]))


def _runs(labels: NDArray[np.intp]) -> list[_Run]:
    """First window, last window and label of each stretch of one label."""
    firsts = np.flatnonzero(np.diff(labels, prepend=-1))
    lasts = np.append(firsts[1:], len(labels)) - 1
    return list(zip(firsts.tolist(), lasts.tolist(), labels[firsts].tolist(), strict=True))


def _check_windows(
    probabilities: ArrayLike, times_s: Sequence[float], classes: Sequence[str]
) -> tuple[_Array, _Array]:
    windows = np.asarray(probabilities, dtype=np.float64)
    times = np.asarray(times_s, dtype=np.float64)
    if not times.size or windows.shape != (times.size, len(classes)) or not windows.size:
        raise ConfigError(
            "bad-windows",
            f"probabilities of shape {windows.shape} for {times.size} times and "
            f"{len(classes)} classes",
            "Give (windows, classes), a time a window and a name a class",
        )
    if not ((windows >= 0) & (windows <= 1 + 1e-6)).all():
        raise ConfigError(
            "bad-windows",
            f"values from {windows.min():g} to {windows.max():g} are no probabilities",
            "Put the network's logits through a softmax, or a sigmoid for several labels a case",
        )
    if not np.isfinite(times).all() or not (np.diff(times) > 0).all():
        raise ConfigError(
            "bad-windows", "the windows' times do not rise", "Give windows in the order of time"
        )
    return windows, times
