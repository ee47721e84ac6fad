"""The decoding process's side: a file opened for decoding, and its frames with what is wrong.

Imported by the decoding process alone, which knows neither torch nor the rest of the library.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av
import av.error
import av.logging
import numpy as np
from av.codec.context import Flags
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

# Only containers, and only this file: a playlist named .mp4 could name any other file or host.
_OPTIONS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,gif,asf,"
    "flv,live_flv,ogg,mxf,h264,hevc,m4v,mjpeg,ivf,obu,av1,rm,dv,nut,apng",
    "protocol_whitelist": "file",
}

# What decoders and containers complain of is evidence of damage that no flag tells of; of a
# missing reference frame H.264's speaks under its breath.
av.logging.set_level(av.logging.DEBUG)
_GAP = "Frame num gap"
av.logging.set_skip_repeated(False)

_MAX_PIXELS = 2**26  # of one frame: 8192 x 8192


class RefusedError(Exception):
    """Why a file is not decoded; becomes one of the typed errors in the calling process."""

    def __init__(self, code: str, reason: str, remedy: str, *, unsupported: bool = False):
        super().__init__(code, reason)
        self.code, self.reason, self.remedy = code, reason, remedy
        self.unsupported = unsupported


@dataclass
class Damage:
    """What went wrong up to now: counted while decoding."""

    n_packets: int = 0
    n_failed: int = 0  # packets that gave an error instead of a frame
    n_held_back: int = 0  # frames that came only when there was nothing more to decode
    broken_off: str | None = None  # why reading ended before the end


@dataclass(frozen=True)
class Decoded:
    """One frame as the decoder gave it.

    Attributes:
        image: the frame.
        is_corrupt: flagged by decoder or container, or errors were logged while decoding it.
        after_loss: something was lost between the frame before and this one.
    """

    image: VideoFrame
    is_corrupt: bool
    after_loss: bool


@contextmanager
def open_video(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its main video stream."""
    try:
        container = av.open("file:" + path, metadata_errors="replace", options=dict(_OPTIONS))
    except (av.error.FFmpegError, ValueError, UnicodeError) as error:
        raise RefusedError(
            "not-a-video",
            f"is no video that can be opened ({getattr(error, 'strerror', None) or error})",
            "Check that the file is complete, or convert it to H.264 in .mp4",
        ) from error
    with container:
        yield container, _main_stream(container)


def _main_stream(container: InputContainer) -> VideoStream:
    pictures = [s for s in container.streams.video if not _is_cover(s)]
    if not pictures:
        if container.streams.audio:
            raise RefusedError(
                "audio-only", "holds sound but no pictures", "Leave it out", unsupported=True
            )
        raise RefusedError("no-frames", "holds no pictures", "Leave it out, or export it again")
    best = container.streams.best("video")
    stream = best if isinstance(best, VideoStream) and best in pictures else pictures[0]
    if getattr(stream, "codec_context", None) is None:
        raise RefusedError(
            "unknown-codec",
            "its pictures are coded in a way that is not known",
            "Convert it to H.264 in .mp4",
            unsupported=True,
        )
    if stream.codec_context.width * stream.codec_context.height > _MAX_PIXELS:
        raise RefusedError(
            "frame-too-large",
            f"claims frames of {stream.codec_context.width} x {stream.codec_context.height}",
            "Convert it to smaller frames",
            unsupported=True,
        )
    return stream


def _is_cover(stream: VideoStream) -> bool:
    return bool(int(stream.disposition) & 0x400)  # AV_DISPOSITION_ATTACHED_PIC


def decode_frames(
    container: InputContainer, stream: VideoStream, damage: Damage
) -> Iterator[Decoded | None]:
    """Frames in the order they are shown, corrupt ones in their places; None is a sign of life.

    One thread, so that an error belongs to the packet that was being decoded. Frames that could
    not be decoded fully are let through and marked: dropping them would shift all numbers.
    """
    context = stream.codec_context
    context.thread_count = 1
    context.flags |= Flags.output_corrupt
    suspects: set[int] = set()
    lost = False
    packets = _read_packets(container, stream, damage)
    for packet, complained in packets:
        lost = lost or complained
        damage.n_packets += packet.size > 0
        with av.logging.Capture(local=True) as log:
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                frames = []
                damage.n_failed += 1
                lost = True
        if packet.is_corrupt or _complains(log):
            suspects |= {time for time in (packet.pts, packet.dts) if time is not None}
        damage.n_held_back += 0 if packet.size else len(frames)
        for frame in frames:
            suspect = frame.is_corrupt or frame.pts in suspects or frame.dts in suspects
            yield Decoded(frame, suspect, lost)
            lost = False
        yield None
    if lost:
        damage.broken_off = damage.broken_off or "errors at the end"


def _read_packets(
    container: InputContainer, stream: VideoStream, damage: Damage
) -> Iterator[tuple[Any, bool]]:
    """Packets, and whether the container complained since the one before."""
    packets = container.demux(stream)
    while True:
        with av.logging.Capture(local=True) as log:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                damage.broken_off = str(error.strerror)
                return
        if packet is None:
            return
        yield packet, _complains(log)


def _complains(log: list[tuple[int, str, str]]) -> bool:
    return any(level <= av.logging.ERROR or text.startswith(_GAP) for level, _, text in log)


def display_turn(frame: VideoFrame) -> tuple[int, bool]:
    """How a frame is made upright: quarter turns to the left, in degrees from 0 to 270.

    And whether it is mirrored, left to right, before that.
    """
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 0, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(np.float64).tolist()
    mirrored = a * d < b * c
    if mirrored:
        a, b = -a, -b
    degrees = -math.degrees(math.atan2(b, a))
    if abs(degrees - round(degrees / 90) * 90) > 1:
        raise RefusedError(
            "turned-askew",
            f"says that it is to be shown turned by {degrees:.0f} degrees",
            "Turn it upright, and export it again",
            unsupported=True,
        )
    return round(degrees / 90) * 90 % 360, mirrored


def to_rgb(frame: VideoFrame) -> Pixels:
    """The frame upright as (H, W, 3) uint8.

    The conversion is swscale's default, which is decord's: both give the same bytes, on any
    x86-64 processor with SSSE3. On others a value may be up to 3 of 255 away.
    """
    image = frame.reformat(format="rgb24", interpolation=Interpolation.BICUBIC, threads=1)
    pixels = np.asarray(image.to_ndarray(), np.uint8)
    degrees, mirrored = display_turn(frame)
    pixels = pixels[:, ::-1] if mirrored else pixels
    return np.ascontiguousarray(np.rot90(pixels, degrees // 90))


def checksum(pixels: Pixels) -> int:
    """Of every fourth line of (H, W, 3): enough to tell a frame from its neighbours."""
    return zlib.crc32(np.ascontiguousarray(pixels[::4]).data)


def fit(pixels: Pixels, size: tuple[int, int] | None) -> Pixels:
    """(H, W, 3) resized to `size`, by Pillow's antialiased bilinear filter in integers."""
    if size is None or pixels.shape[:2] == tuple(size):
        return pixels
    height, width = size
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
