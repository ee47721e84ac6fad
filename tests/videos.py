"""Videos whose frames carry their own number, in black and white blocks that any codec keeps."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

N_BITS = 10
_ROWS, _COLUMNS = 4, 5  # each bit twice: as it is in the upper half, inverted in the lower


def draw_number(number: int, height: int = 96, width: int = 128) -> np.ndarray:
    """(H, W, 3) uint8: twenty blocks on a grey that drifts."""
    bits = [number >> bit & 1 for bit in range(N_BITS)]
    image = np.empty((height, width, 3), np.uint8)
    image[:] = (100 + (np.arange(width) + 3 * number) % 64)[None, :, None]
    for place, bit in enumerate([*bits, *(1 - bit for bit in bits)]):
        top, bottom, left, right = _block(place, height, width, 0.1)
        image[top:bottom, left:right] = 235 * bit + 10
    return image


def read_number(image: np.ndarray) -> int | None:
    """The number drawn into (H, W, 3); None where blocks are grey or contradict each other."""
    bits = []
    for place in range(2 * N_BITS):
        top, bottom, left, right = _block(place, *image.shape[:2], 0.25)
        bits.append(float(image[top:bottom, left:right].mean()))
    upper, lower = bits[:N_BITS], bits[N_BITS:]
    if any(abs(a - b) < 95 for a, b in zip(upper, lower, strict=True)):
        return None
    return sum(1 << place for place, bit in enumerate(upper) if bit > 128)


def _block(place: int, height: int, width: int, margin: float) -> tuple[int, int, int, int]:
    row, column = divmod(place, _COLUMNS)
    tall, wide = height / _ROWS, width / _COLUMNS
    return (
        round((row + margin) * tall),
        round((row + 1 - margin) * tall),
        round((column + margin) * wide),
        round((column + 1 - margin) * wide),
    )


def encode(
    path: Path,
    codec: str = "libx264",
    *,
    n_frames: int = 90,
    size: tuple[int, int] = (96, 128),
    pixels: str = "yuv420p",
    rate: int = 25,
    ticks: Iterable[int] | None = None,
    rotation: int = 0,
    options: Mapping[str, str] | None = None,
    container: Mapping[str, str] | None = None,
    sound: bool = False,
) -> Path:
    """Write numbered frames; `ticks` are presentation times in milliseconds."""
    defaults = {"libx264": {"crf": "23", "g": "12"}, "libsvtav1": {"preset": "12", "crf": "10"}}
    with av.open(str(path), "w", options=dict(container or {})) as file:
        stream = file.add_stream(
            codec, rate=rate, options={**defaults.get(codec, {}), **(options or {})}
        )
        stream.height, stream.width = size
        stream.pix_fmt = pixels
        if rotation:
            stream.set_display_rotation(rotation)
        if ticks is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        audio = file.add_stream("mp2", rate=44100) if sound else None
        times = list(ticks) if ticks is not None else None
        for number in range(n_frames):
            frame = av.VideoFrame.from_ndarray(_image(number, size, rotation))
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        if audio is not None:
            _add_silence(file, audio)
    return path


def _image(number: int, size: tuple[int, int], rotation: int) -> np.ndarray:
    """Drawn upright as it is to be shown, and stored turned where that is declared."""
    height, width = size[::-1] if rotation % 180 else size
    return np.ascontiguousarray(np.rot90(draw_number(number, height, width), -rotation // 90))


def _add_silence(file: av.container.OutputContainer, audio: av.AudioStream) -> None:
    silence = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 1152), np.int16), layout="stereo")
    silence.sample_rate = 44100
    silence.pts = 0
    file.mux(audio.encode(silence))
    file.mux(audio.encode())


def write_sound(path: Path) -> Path:
    """A file of the video kind that holds sound alone."""
    with av.open(str(path), "w") as file:
        _add_silence(file, file.add_stream("mp2", rate=44100))
    return path


def uneven(n_frames: int = 90) -> list[int]:
    """Milliseconds between 10 and 120 apart, the same each time."""
    steps = np.random.default_rng(7).integers(10, 120, n_frames - 1)
    return [0, *np.cumsum(steps).tolist()]


def cut(path: Path, share: float) -> Path:
    """Keep this share of a file's bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def overstate_avi(path: Path) -> Path:
    """Claim three times as many frames in both of an AVI's headers."""
    content = bytearray(path.read_bytes())
    for tag, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):
        at = content.index(tag) + offset
        count = int.from_bytes(content[at : at + 4], "little")
        content[at : at + 4] = (3 * count).to_bytes(4, "little")
    path.write_bytes(content)
    return path


def declare_turn(path: Path, source: Path, matrix: tuple[float, ...]) -> Path:
    """Copy an mp4 that is to be shown through (a, b, c, d): x' = a x + c y, y' = b x + d y."""
    plain = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    a, b, c, d = (round(value * (1 << 16)) for value in matrix)
    content = source.read_bytes()
    at = content.index(plain, content.index(b"tkhd"))
    turned = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:at] + turned + content[at + len(turned) :])
    return path


def drop_packets(path: Path, source: Path, lost: set[int]) -> Path:
    """Copy a video without some of its packets."""
    with av.open(str(source)) as read, av.open(str(path), "w") as write:
        stream = write.add_stream_from_template(read.streams.video[0])
        for number, packet in enumerate(read.demux(read.streams.video[0])):
            if packet.dts is not None and number not in lost:
                packet.stream = stream
                write.mux(packet)
    return path


@dataclass(frozen=True)
class Family:
    """A kind of file; `is_whole` where all that was drawn must be read."""

    suffix: str
    make: Callable[[Path], Path]
    n_frames: int = 90
    is_whole: bool = True
    facts: Mapping[str, object] = field(default_factory=dict)


def _plain(suffix: str, codec: str = "libx264", **how: object) -> Family:
    facts = how.pop("facts", {})
    n_frames = how.get("n_frames", 90)
    return Family(suffix, lambda path: encode(path, codec, **how), n_frames, facts=facts)


_B = {"bf": "3", "g": "12", "b_strategy": "0"}
_MPEG4_B = {"bf": "2", "g": "12", "q": "3"}
_FAST = {"movflags": "+faststart"}

FAMILIES: dict[str, Family] = {
    "h264-mp4": _plain(".mp4", facts={"codec": "h264", "has_b_frames": True}),
    "h264-mp4-no-b": _plain(".mp4", options={"bf": "0", "g": "250"}),
    "h264-mp4-one-gop-b": _plain(".mp4", options={"g": "250", "bf": "3"}),
    "h264-mp4-open-gop": _plain(".mp4", options={"x264-params": "open-gop=1:keyint=12:bframes=3"}),
    "h264-mp4-faststart-sound": _plain(
        ".mp4", container=_FAST, sound=True, facts={"has_audio": True}
    ),
    "h264-mp4-fragmented": _plain(".mp4", container={"movflags": "frag_keyframe+empty_moov"}),
    "h264-mkv": _plain(".mkv"),
    "h264-mov": _plain(".mov"),
    "h264-flv": _plain(".flv"),
    "h264-avi": _plain(".avi", options={"bf": "0"}),
    "h264-avi-b": _plain(".avi", options=_B, facts={"decoder": "av", "has_b_frames": True}),
    "h264-ts": _plain(".ts", facts={"decoder": "av"}),
    "h264-10-bit": _plain(".mp4", pixels="yuv420p10le"),
    "h264-444-odd": _plain(".mp4", pixels="yuv444p", size=(97, 131)),
    "h264-interlaced": _plain(
        ".mp4", options={"x264-params": "tff=1:interlaced=1"}, facts={"is_interlaced": True}
    ),
    "h264-vfr-mp4": _plain(".mp4", ticks=uneven(), facts={"variable": True}),
    "h264-vfr-mkv": _plain(".mkv", ticks=uneven(), facts={"variable": True}),
    "h264-portrait": _plain(".mp4", size=(160, 90), facts={"height": 160, "width": 90}),
    "h264-turned-90": _plain(".mov", rotation=90, facts={"height": 128, "rotation": 90}),
    "h264-turned-180": _plain(".mp4", rotation=180, facts={"height": 96, "rotation": 180}),
    "h264-turned-270": _plain(".mov", rotation=270, facts={"height": 128, "rotation": 270}),
    "h264-one-frame": _plain(".mp4", n_frames=1, facts={"n_frames": 1, "variable": False}),
    "hevc-mp4": _plain(".mp4", "libx265", options={"x265-params": "log-level=0:keyint=12"}),
    "hevc-10-bit-mkv": _plain(
        ".mkv", "libx265", pixels="yuv420p10le", options={"x265-params": "log-level=0"}
    ),
    "vp8-webm": _plain(".webm", "libvpx", options={"g": "20", "b": "500k", "deadline": "realtime"}),
    "vp9-webm": _plain(
        ".webm", "libvpx-vp9", options={"g": "20", "deadline": "realtime", "cpu-used": "8"}
    ),
    "vp9-odd": _plain(
        ".webm",
        "libvpx-vp9",
        size=(97, 131),
        options={"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"},
        facts={"height": 97, "width": 131},
    ),
    "av1-mp4": _plain(".mp4", "libsvtav1", options={"svtav1-params": "lp=1"}),
    "mpeg4-avi": _plain(".avi", "mpeg4", options={"g": "12", "q": "3"}),
    "mpeg4-avi-b": _plain(".avi", "mpeg4", options=_MPEG4_B, facts={"decoder": "av"}),
    "mpeg4-mp4-b": _plain(".mp4", "mpeg4", options=_MPEG4_B),
    "mpeg2-mpg": _plain(".mpg", "mpeg2video", options=_MPEG4_B, facts={"decoder": "av"}),
    "mpeg2-ts": _plain(".ts", "mpeg2video", options=_MPEG4_B, facts={"decoder": "av"}),
    "mpeg1-mpg": _plain(".mpg", "mpeg1video", options=_MPEG4_B),
    "mjpeg-avi": _plain(".avi", "mjpeg", pixels="yuvj420p"),
    "mjpeg-mov": _plain(".mov", "mjpeg", pixels="yuvj420p"),
    "wmv2-wmv": _plain(".wmv", "wmv2", options={"b": "1M"}),
    "ffv1-mkv": _plain(".mkv", "ffv1"),
    "gif": _plain(".gif", "gif", pixels="rgb8", rate=10, facts={"rate": 10.0}),
    "cut-mp4": Family(".mp4", lambda path: cut(encode(path, container=_FAST), 0.7), is_whole=False),
    "cut-mkv": Family(".mkv", lambda path: cut(encode(path), 0.7), is_whole=False),
    "cut-avi-b": Family(
        ".avi", lambda path: cut(encode(path, "mpeg4", options=_MPEG4_B), 0.7), is_whole=False
    ),
    "cut-ts": Family(".ts", lambda path: cut(encode(path), 0.7), is_whole=False),
    "cut-mpg": Family(
        ".mpg", lambda path: cut(encode(path, "mpeg2video", options=_MPEG4_B), 0.7), is_whole=False
    ),
    "overstated-avi": Family(
        ".avi", lambda path: overstate_avi(encode(path, "mpeg4", options={"q": "3"}))
    ),
}
