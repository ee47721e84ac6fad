"""The decoding process's side: everything about a file that only decoding all of it can tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from volumetric.io.video.source import (
    Damage,
    Decoded,
    RefusedError,
    checksum,
    decode_frames,
    display_turn,
    open_video,
    to_rgb,
)

_EVEN = frozenset(["avi", "mpeg", "mpegts"])
_COUNTED = frozenset(["avi", "mxf"])  # their times are counted, not written
_UNCOUNTED = frozenset(["flv", "nut", "asf"])  # say of no file how many frames it has
_B_FRAME = 3  # AV_PICTURE_TYPE_B


@dataclass
class _Tally:
    """What was seen of the frames so far."""

    ticks: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    checksums: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    damaged: list[bool] = field(default_factory=list)
    keys: list[bool] = field(default_factory=list)
    sizes: set[tuple[int, int, int, bool]] = field(default_factory=set)
    last: VideoFrame | None = None
    still: int = 1
    longest_still: int = 1
    first_lost: int | None = None
    is_interlaced: bool = False


def examine(path: str, beat: Callable[[], None]) -> dict[str, Any]:
    """Facts of a file by decoding it from end to end; `beat` is called while it goes on."""
    tally, damage = _Tally(), Damage()
    with open_video(path) as (container, stream):
        for decoded in decode_frames(container, stream, damage):
            beat()
            if decoded is not None:
                _add(tally, decoded)
        if tally.last is None:
            _refuse_empty(damage)
        return _facts(container, stream, tally, damage)


def _add(tally: _Tally, decoded: Decoded) -> None:
    number, frame = len(tally.ticks), decoded.image
    if decoded.after_loss and tally.first_lost is None:
        tally.first_lost = number
    tally.ticks.append(frame.pts)
    tally.dts.append(frame.dts)
    tally.kinds.append(int(frame.pict_type))
    tally.damaged.append(decoded.is_corrupt or decoded.after_loss)
    tally.keys.append(frame.key_frame)
    tally.is_interlaced = tally.is_interlaced or frame.interlaced_frame
    tally.sizes.add((frame.height, frame.width, *display_turn(frame)))
    pixels = to_rgb(frame)
    tally.checksums.append(checksum(pixels))
    same = (
        tally.last is not None
        and tally.checksums[-2:-1] == tally.checksums[-1:]
        and np.array_equal(to_rgb(tally.last), pixels)
    )
    tally.still = tally.still + 1 if same else 1
    tally.longest_still = max(tally.longest_still, tally.still)
    tally.last = frame


def _refuse_empty(damage: Damage) -> None:
    if damage.n_failed or damage.broken_off:
        raise RefusedError(
            "undecodable",
            f"not one frame can be decoded ({damage.n_failed} packets failed)",
            "Export it again from its source",
        )
    raise RefusedError("no-frames", "holds no frames", "Leave it out, or export it again")


def _spread(tally: _Tally) -> list[int]:
    """Numbers of the frames whose pixels may be wrong.

    What is predicted from a damaged frame inherits its damage unmarked, up to the next key frame;
    so do B-frames before it, which are decoded after it.
    """
    tainted: set[int] = set()
    ill = any(tally.keys) and not tally.keys[0]  # nothing to predict from
    for number, (damaged, key) in enumerate(zip(tally.damaged, tally.keys, strict=True)):
        if damaged:
            before = number - 1
            while before >= 0 and tally.kinds[before] == _B_FRAME:
                tainted.add(before)
                before -= 1
            ill = True
        elif key:
            ill = False
        if ill:
            tainted.add(number)
    return sorted(tainted)


def _first_lost(
    tally: _Tally, damage: Damage, container: InputContainer, stream: VideoStream
) -> int | None:
    """From which number on frames may be shifted, as something was lost before.

    Where a damaged packet was thrown away without a word there is only a gap in an otherwise even
    time. Some containers do not allow gaps, others count frames; in the rest, a gap is honest.
    """
    unsure = (tally.first_lost, _first_unsure_at_end(tally, damage, container, stream))
    found = [number for number in unsure if number is not None]
    n_claimed, kind = stream.frames, container.format.name
    if kind == "avi" and len(stream.index_entries) > damage.n_packets:
        found.append(0)  # skipped without a word; its index still lists them
    suspicious = kind in _EVEN or len(tally.ticks) < n_claimed
    times = tally.ticks if _is_rising(tally.ticks) else tally.dts
    is_short = len(tally.ticks) < max(damage.n_packets, n_claimed)
    if is_short and any(tally.damaged):  # the missing one may have been anywhere from there
        found.append(tally.damaged.index(True))
    elif is_short and times is tally.dts and kind not in _EVEN:
        found.append(0)
    if suspicious and _is_rising(times):
        found += _gaps(times)[:1]
    return min(found, default=None)


def _first_unsure_at_end(
    tally: _Tally, damage: Damage, container: InputContainer, stream: VideoStream
) -> int | None:
    """From which number on frames may be shifted, as the file was cut before it was written out.

    A B-frame is stored after the frame it is shown before: a cut between the two leaves the later
    one, which the decoder holds back until nothing more comes, in the place of the lost one.
    """
    first = len(tally.ticks) - damage.n_held_back
    if not 0 < first < len(tally.ticks):
        return None
    if any(tally.damaged[first - 1 :]):
        return first
    kind, n_frames = container.format.name, len(tally.ticks)
    claimed_s = _claimed_s(container, stream) or 0.0
    claims_more = (
        kind in _UNCOUNTED
        or stream.frames > n_frames
        or len(stream.index_entries) > damage.n_packets
        or (kind in _COUNTED and claimed_s * (stream.average_rate or 0) > n_frames + 0.5)
    )
    if not claims_more:
        return None
    if kind in _COUNTED or not _is_rising(tally.ticks):
        return first
    return next((number for number in _gaps(tally.ticks) if number >= first), None)


def _gaps(ticks: list[int | None]) -> list[int]:
    """Numbers of the frames that come later after the one before than is usual."""
    steps = [b - a for a, b in pairwise(ticks) if a is not None and b is not None]
    usual = sorted(steps)[len(steps) // 2] if steps else 0
    return [number for number, step in enumerate(steps, 1) if step > 1.5 * usual]


def _is_rising(times: list[int | None]) -> bool:
    return all(a is not None and b is not None and a < b for a, b in pairwise(times))


def _facts(
    container: InputContainer, stream: VideoStream, tally: _Tally, damage: Damage
) -> dict[str, Any]:
    last = tally.last
    assert last is not None
    height, width, rotation, mirrored = next(iter(tally.sizes))
    if rotation % 180:
        height, width = width, height
    rate = stream.average_rate or stream.guessed_rate
    tick = stream.time_base
    return {
        "codec": stream.codec_context.name,
        "container": container.format.name,
        "pixel_format": last.format.name,
        "width": width,
        "height": height,
        "rotation": rotation,
        "mirrored": mirrored,
        "is_resized": len(tally.sizes) > 1,
        "n_claimed": stream.frames or None,
        "claimed_s": _claimed_s(container, stream),
        "ticks": tally.ticks,
        "dts": tally.dts,
        "tick_s": float(tick) if tick else None,
        "last_duration": last.duration or None,
        "stated_rate": float(rate) if rate else None,
        "has_b_frames": bool(stream.codec_context.has_b_frames) or _B_FRAME in tally.kinds,
        "corrupt": _spread(tally),
        "n_corrupt": sum(tally.damaged) + damage.n_failed,
        "first_lost": _first_lost(tally, damage, container, stream),
        "broken_off": damage.broken_off,
        "longest_still": tally.longest_still,
        "is_interlaced": tally.is_interlaced,
        "has_audio": bool(container.streams.audio),
        "checksums": tally.checksums,
    }


def _claimed_s(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else None
