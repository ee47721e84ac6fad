"""The decoding process's side: chosen frames of a file, from its start or by jumping to them.

Every frame is compared with the checksum that it had when the whole file was decoded.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from volumetric.io.video.source import (
    Damage,
    Pixels,
    RefusedError,
    checksum,
    decode_frames,
    fit,
    open_video,
    to_rgb,
)

Size = tuple[int, int] | None
Beat = Callable[[], None]

_N_SPOTS = 12


def read_in_order(
    path: str, checksums: Mapping[int, int], *, size: Size, beat: Beat
) -> Iterator[tuple[int, Pixels]]:
    """Frames with these numbers, decoding all from the start and converting only these."""
    wanted = iter(sorted(checksums))
    next_wanted = next(wanted, None)
    number = -1
    with open_video(path) as (container, stream):
        for decoded in decode_frames(container, stream, Damage()):
            beat()
            number += decoded is not None
            if decoded is None or number != next_wanted:
                continue
            yield number, _checked(to_rgb(decoded.image), number, checksums, size)
            next_wanted = next(wanted, None)
            if next_wanted is None:
                return
    if next_wanted is not None:
        raise _changed(next_wanted)


def read_by_jumps(
    path: str, checksums: Mapping[int, int], *, size: Size, beat: Beat
) -> Iterator[tuple[int, Pixels]]:
    """Frames with these numbers by decord."""
    reader = _open_decord(path)
    for number in sorted(checksums):
        beat()
        yield number, _checked(reader[number].asnumpy(), number, checksums, size)


def _checked(pixels: Pixels, number: int, checksums: Mapping[int, int], size: Size) -> Pixels:
    if checksum(pixels) != checksums[number]:
        raise _changed(number)
    return fit(pixels, size)


def _changed(number: int) -> RefusedError:
    return RefusedError(
        "file-changed", f"frame {number} is not what it was when probed", "Probe it again"
    )


def prove(path: str, checksums: Sequence[int], beat: Beat) -> bool:
    """Whether decord counts the same frames and finds the same bytes, jumping to and fro."""
    try:
        reader = _open_decord(path)
        if len(reader) != len(checksums):
            return False
        n_spots = min(_N_SPOTS, len(checksums))
        for number in random.Random(len(checksums)).sample(range(len(checksums)), n_spots):
            beat()
            if checksum(reader[number].asnumpy()) != checksums[number]:
                return False
    except (RuntimeError, ValueError, IndexError, AssertionError, StopIteration, MemoryError):
        return False
    return True


def _open_decord(path: str) -> Any:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        return decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    except decord.DECORDError as error:
        raise RuntimeError(str(error)) from error


def as_batch(frames: Sequence[Pixels]) -> Pixels:
    """(N, H, W, 3); refused where frames differ in size."""
    if len({frame.shape for frame in frames}) > 1:
        raise RefusedError(
            "frame-size-changes",
            "frames change their size within the file",
            "Give a size, or cut the file where it changes",
            unsupported=True,
        )
    return np.stack(frames)
