"""Clips: chosen frames of a video, exactly these, or a refusal."""

from __future__ import annotations

import logging
import operator
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from volumetric.errors import UnreadableFileError
from volumetric.findings import Finding
from volumetric.io.video.choice import (
    Size,
    check_bytes,
    check_numbers,
    check_window,
    choose_numbers,
    frame_size,
)
from volumetric.io.video.probe import Probe, probe_video
from volumetric.io.video.process import Kind, converse, end_idle
from volumetric.volume import About, Volume

_log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]


def read_frames(
    path: Path | str,
    indices: Sequence[int],
    *,
    size: Size = None,
    probe: Probe | None = None,
) -> torch.Tensor:
    """The frames of these numbers, in the order asked for, as uint8 (3, T, H, W) in RGB.

    Frames are numbered from 0 in the order they are shown. `size` is their short side, or
    (height, width); resized by Pillow's antialiased bilinear filter. `probe` saves probing again.

    Raises:
        UnreadableFileError: a frame is not there, damaged, or cannot be numbered for damage
            before it; whatever `probe_video` raises.
        UnsupportedError: more than 4 GiB; frames change their size and none is given.
    """
    path = Path(path)
    probe = probe or probe_video(path)
    numbers = list(map(operator.index, indices))  # NumPy's integers are none to JSON
    check_numbers(probe, numbers, path, by_time=False)
    return _gather(path, numbers, frame_size(probe, size, path), probe)


def read_clip(
    path: Path | str,
    *,
    start_s: float = 0.0,
    stop_s: float | None = None,
    rate: float | None = None,
    size: Size = None,
    probe: Probe | None = None,
) -> Volume:
    """A window of a video as a clip: uint8 (3, T, H, W), affine diag(1 / rate, 1, 1, 1).

    At each of the times start, start + 1/rate, … the frame then on show; never a blend. Seconds
    count from the first frame. Without `rate` the file's own: the median where it varies.
    `affine[0, 3]` is the first time, in seconds. Other arguments as for `read_frames`.

    Raises:
        ConfigError: no frame lies in the window; a size or rate that is none.
        UnreadableFileError: damage within the window; times that run backwards; whatever
            `probe_video` raises.
        UnsupportedError: more than 4 GiB; frames change their size and none is given.
    """
    path = Path(path)
    probe = probe or probe_video(path)
    rate = check_window(probe, start_s, stop_s, rate, path)
    numbers = choose_numbers(probe, start_s, stop_s, rate)
    check_numbers(probe, numbers, path, by_time=True)
    data = _gather(path, numbers, frame_size(probe, size, path), probe)
    return _as_clip(data, start_s, rate, probe)


def stream_clip(
    path: Path | str,
    *,
    rate: float | None = None,
    size: Size = None,
    chunk_frames: int = 64,
    probe: Probe | None = None,
) -> Iterator[Volume]:
    """A whole video as clips of `chunk_frames`, one after the other, in constant memory.

    Decoding waits until the chunk is taken. Arguments and errors as for `read_clip`.
    """
    path = Path(path)
    probe = probe or probe_video(path)
    rate = check_window(probe, 0.0, None, rate, path)
    numbers = choose_numbers(probe, 0.0, None, rate)
    check_numbers(probe, numbers, path, by_time=True)
    sides = frame_size(probe, size, path)
    check_bytes(probe, min(chunk_frames, len(numbers)), sides, path)
    return _stream(path, numbers, (sides, rate, chunk_frames), probe)


def _stream(
    path: Path,
    numbers: list[int],
    how: tuple[tuple[int, int] | None, float, int],
    probe: Probe,
) -> Iterator[Volume]:
    sides, rate, chunk_frames = how
    end_idle("decord")  # which probing may have left: a long recording is to need little memory
    held: list[Pixels] = []
    n_given = 0
    unique = sorted(set(numbers))
    place = 0
    with closing(_decode(path, unique, sides, probe, kind="av")) as batches:
        for found, batch in batches:
            for number, pixels in zip(found, batch, strict=True):
                while place < len(numbers) and numbers[place] == number:
                    held.append(pixels)
                    place += 1
                    if len(held) == chunk_frames or place == len(numbers):
                        data = np.ascontiguousarray(np.stack(held).transpose(3, 0, 1, 2))
                        yield _as_clip(torch.from_numpy(data), n_given / rate, rate, probe)
                        n_given += len(held)
                        held = []


def _as_clip(data: torch.Tensor, start_s: float, rate: float, probe: Probe) -> Volume:
    affine = np.diag([1 / rate, 1.0, 1.0, 1.0])
    affine[0, 3] = start_s
    return Volume(data, affine, kind="clip", about=About(findings=_findings(probe)))


def _findings(probe: Probe) -> tuple[Finding, ...]:
    if not probe.n_corrupt and probe.first_lost is None:
        return ()
    return (
        Finding(
            "corrupt-frames",
            "warning",
            f"{len(probe.corrupt)} of {probe.n_frames} frames are damaged or predicted from "
            "damaged ones; none of them is in this clip",
            "Export it again",
        ),
    )


def _gather(
    path: Path, numbers: list[int], sides: tuple[int, int] | None, probe: Probe
) -> torch.Tensor:
    """Frames in the order given, which may repeat them: (3, T, H, W)."""
    if not numbers:
        height, width = sides or (probe.height, probe.width)
        return torch.empty((3, 0, height, width), dtype=torch.uint8)
    check_bytes(probe, len(numbers), sides, path)
    unique = sorted(set(numbers))
    places: dict[int, list[int]] = {}
    for place, number in enumerate(numbers):
        places.setdefault(number, []).append(place)
    # Jumping pays where most of the frames before the last would be decoded for nothing.
    if probe.decoder == "decord" and 2 * len(unique) <= unique[-1]:
        try:
            return _fill(places, _decode(path, unique, sides, probe, kind="decord"))
        except UnreadableFileError as error:  # the other decoder gives the same bytes, or refuses
            _log.warning("%s is read from its start: %s", error.path, error.reason)
    return _fill(places, _decode(path, unique, sides, probe, kind="av"))


def _fill(
    places: Mapping[int, Sequence[int]], batches: Generator[tuple[list[int], Pixels]]
) -> torch.Tensor:
    """(3, T, H, W) with each frame in all its places.

    Moved about by numpy in one thread: torch's own would fight the decoding process for cores.
    """
    out: Pixels | None = None
    n_places = sum(map(len, places.values()))
    with closing(batches):
        for found, batch in batches:
            if out is None:
                out = np.empty((3, n_places, *batch.shape[1:3]), np.uint8)
            for number, image in zip(found, batch, strict=True):
                out[:, list(places[number])] = image.transpose(2, 0, 1)[:, None]
    assert out is not None
    return torch.from_numpy(out)


def _decode(
    path: Path,
    numbers: list[int],
    sides: tuple[int, int] | None,
    probe: Probe,
    *,
    kind: Kind,
) -> Generator[tuple[list[int], Pixels]]:
    """Batches of the frames of ascending numbers, each with their numbers, all of them."""
    checksums = [(number, probe.checksums[number]) for number in numbers]
    request = {"do": "read", "checksums": checksums, "size": sides}
    with closing(converse(path, request, kind=kind)) as answers:
        for message, pixels in answers:
            if pixels is not None:
                yield message["numbers"], pixels.reshape(message["shape"])
