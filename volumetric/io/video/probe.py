"""Probe: what a video is, by decoding all of it once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from volumetric.errors import UnreadableFileError, VolumetricError
from volumetric.io.video.process import converse

_log = logging.getLogger(__name__)

_LISTS = ("times_s", "corrupt", "checksums")
_VERSION = 3  # of what is kept in a cache; raise it when the meaning of a field changes

# Where decord has been exact on numbered frames. Elsewhere it is not even tried: it may pass a
# few spot checks and be wrong between them.
_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_CODECS = frozenset(["h264", "hevc", "vp9", "libvpx-vp9", "vp8", "av1", "libdav1d", "mjpeg"])

# These containers number frames and leave their order to the decoder.
_UNTIMED = frozenset(["avi", "h264", "hevc", "mpegvideo", "m4v", "mjpeg", "obu"])
_SPARSELY_TIMED = frozenset(["mpeg", "mpegts"])  # some frames' times are guessed, often wrongly


@dataclass(frozen=True)
class Probe:
    """What a video is.

    Attributes:
        sha256: of the file's bytes.
        codec: the decoder's name for it: "h264", "mpeg4", …
        container: FFmpeg's name for it: "avi", "matroska,webm", …
        pixel_format: FFmpeg's name for it: "yuv420p", "yuv420p10le", …
        width: as displayed, that is after rotation.
        height: as displayed.
        rotation: degrees to the left that show a stored frame upright; applied when reading.
        mirrored: whether a stored frame is mirrored, left to right, before that.
        n_frames: how many there are, by decoding.
        n_claimed: how many the container says there are; None where it does not say.
        claimed_s: how long the container says it lasts; None where it does not say.
        times_s: when each frame is shown, the first at 0; empty where the file's times run
            backwards or are missing.
        rate: frames a second: the median where it varies; None where nothing says.
        variable: whether frames are shown for different times.
        has_b_frames: whether frames are stored in another order than shown.
        is_interlaced: whether any frame consists of two fields taken at different times. They are
            given as stored, lines interwoven.
        is_resized: whether frames change their size within the file.
        n_corrupt: frames and packets that are damaged or could not be decoded.
        corrupt: numbers of the frames that may show something wrong, which are refused: damaged
            themselves, or predicted from damaged ones.
        first_lost: from this number on frames cannot be numbered, as something before was lost;
            None if all can.
        longest_still: length of the longest run of identical frames; 1 where all differ.
        duration_s: from the start of the first frame to the end of the last.
        has_audio: whether there is sound.
        checksums: of each frame's pixels, that every later reading must meet.
        decoder: which jumps to frames: "decord" where it was proven exact for this very file,
            otherwise "av", which decodes from the start.
    """

    sha256: str
    codec: str
    container: str
    pixel_format: str
    width: int
    height: int
    rotation: int
    mirrored: bool
    n_frames: int
    n_claimed: int | None
    claimed_s: float | None
    times_s: tuple[float, ...]
    rate: float | None
    variable: bool
    has_b_frames: bool
    is_interlaced: bool
    is_resized: bool
    n_corrupt: int
    corrupt: tuple[int, ...]
    first_lost: int | None
    longest_still: int
    duration_s: float | None
    has_audio: bool
    checksums: tuple[int, ...]
    decoder: Literal["decord", "av"]


def probe_video(path: Path | str, *, cache: Path | None = None) -> Probe:
    """What a video is, by decoding all of it; from the folder `cache` where its bytes are known.

    Raises:
        UnreadableFileError: missing, empty, no video, without frames, or damaged all through.
        UnsupportedError: without pictures, in an unknown codec, or frames beyond 64 megapixels.
    """
    path = Path(path)
    sha256 = _hash(path)
    if cache is not None and (known := _recall(cache / f"{sha256}.json")) is not None:
        return known
    facts = _ask(path, {"do": "examine"})
    times_s = _times(facts)
    rate, variable = _rate(times_s, facts["stated_rate"])
    last_s = facts["last_duration"] and facts["tick_s"] and facts["last_duration"] * facts["tick_s"]
    last_s = last_s or (1 / rate if rate else None)
    names = {field.name for field in fields(Probe)}
    probe = Probe(
        **{name: value for name, value in facts.items() if name in names and name not in _LISTS},
        sha256=sha256,
        n_frames=len(facts["ticks"]),
        times_s=times_s,
        rate=rate,
        variable=variable,
        corrupt=tuple(facts["corrupt"]),
        checksums=tuple(facts["checksums"]),
        duration_s=times_s[-1] + last_s if times_s and last_s else None,
        decoder="av",
    )
    if _may_suit_decord(probe) and _prove(path, probe):
        probe = replace(probe, decoder="decord")
    if cache is not None:
        _remember(cache / f"{sha256}.json", probe)
    return probe


def _ask(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    answers = [message for message, _ in converse(path, request)]
    result: dict[str, Any] = answers[-1]["result"]
    return result


def _hash(path: Path) -> str:
    """Of the file's bytes; refused unless it is a file that holds any."""
    try:
        if not path.exists():
            raise UnreadableFileError("missing-file", "does not exist", "Check the path", path=path)
        if not path.is_file():  # a pipe is waited for and a device may have no end
            raise UnreadableFileError(
                "not-a-file", "is a folder, pipe, socket or device", "Name a file", path=path
            )
        if path.stat().st_size == 0:
            raise UnreadableFileError("empty-file", "is empty", "Export it again", path=path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise UnreadableFileError(
            "unreadable-file",
            f"cannot be read ({getattr(error, 'strerror', None) or error})",
            "Check its name, its links and permissions",
            path=path,
        ) from error


def _times(facts: dict[str, Any]) -> tuple[float, ...]:
    """When each frame is shown; counted where the container only counts; else empty."""
    ticks, tick_s, rate = facts["ticks"], facts["tick_s"], facts["stated_rate"]
    if not _is_rising(ticks) and facts["container"] in (*_UNTIMED, *_SPARSELY_TIMED):
        ticks = _complete(facts["dts"])  # of the packet that made the decoder give the frame
    if tick_s and _is_rising(ticks):
        return tuple((tick - ticks[0]) * tick_s for tick in ticks)
    if rate and facts["container"] in _UNTIMED:
        return tuple(number / rate for number in range(len(ticks)))
    return (0.0,) if len(ticks) == 1 else ()


def _complete(ticks: list[int | None]) -> list[int | None]:
    """The last frames come when no packet is left: their times follow evenly."""
    known = [tick for tick in ticks if tick is not None]
    if len(known) < 2 or None in ticks[: len(known)]:
        return ticks
    step = round(statistics.median(b - a for a, b in pairwise(known)))
    return [*known, *(known[-1] + step * n for n in range(1, len(ticks) - len(known) + 1))]


def _is_rising(ticks: Sequence[int | None]) -> bool:
    return all(a is not None and b is not None and a < b for a, b in pairwise(ticks)) and bool(
        ticks and ticks[0] is not None
    )


def _rate(times_s: Sequence[float], stated: float | None) -> tuple[float | None, bool]:
    """Frames a second and whether they vary: whether any lies off an even grid.

    Containers round times, to a millisecond at worst (Matroska) or a hundredth (GIF, whose
    intervals are then equal or honestly different).
    """
    if len(times_s) < 2:
        return stated, False
    interval = times_s[-1] / (len(times_s) - 1)
    slack = max(1.1e-3, 0.02 * interval)
    if any(abs(time - number * interval) > slack for number, time in enumerate(times_s)):
        steps = [b - a for a, b in pairwise(times_s)]
        return 1 / statistics.median(steps), True
    if stated and abs(stated * interval - 1) * len(times_s) * interval < 2 * slack:
        return stated, False
    return 1 / interval, False


def _may_suit_decord(probe: Probe) -> bool:
    return (
        probe.container in _CONTAINERS
        and probe.codec in _CODECS
        and probe.n_corrupt == 0
        and probe.first_lost is None
        and probe.n_claimed in (None, probe.n_frames)
        and bool(probe.times_s)
        and not probe.is_resized
        and not probe.is_interlaced
    )


def _prove(path: Path, probe: Probe) -> bool:
    request = {"do": "prove", "checksums": probe.checksums}
    try:
        answers = [message for message, _ in converse(path, request, kind="decord")]
    except VolumetricError as error:  # then it does not suit; the file has been read all the same
        _log.warning("decord is not used for %s: %s", error.path, error.reason)
        return False
    return bool(answers[-1]["result"])


def _recall(file: Path) -> Probe | None:
    """What is kept of a video; None where it is not, or by another version."""
    try:
        kept = json.loads(file.read_text())
        if kept.pop("version") != _VERSION:
            return None
        kept |= {name: tuple(kept[name]) for name in _LISTS}
        return Probe(**kept)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _remember(file: Path, probe: Probe) -> None:
    """Keep it, whole or not at all; a cache that cannot be written costs only time."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as partial:
            json.dump({"version": _VERSION, **asdict(probe)}, partial)
        os.replace(partial.name, file)  # noqa: PTH105
    except OSError as error:
        _log.warning("a probe cannot be kept (%s)", error.strerror)
