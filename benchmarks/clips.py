"""Decode to clip beside decord2, PyAV and torchcodec, as ratios in one run; memory over an hour.

python benchmarks/clips.py                 clips of 16 frames at 128 pixels, whole and sparse
python benchmarks/clips.py --stream 60     a recording of 60 minutes: frames a second, memory

torchcodec joins where it is installed: `make peers`, FFmpeg's libraries (Debian: ffmpeg), then
.venv-peers/bin/python benchmarks/clips.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))  # the peers' environment does not hold it

from volumetric.io.video import (
    probe_video,
    read_clip,
    read_frames,
    stream_clip,
    write_video,
)

SIZE, N_FRAMES, ROUNDS = 128, 16, 7


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--stream", type=float, metavar="MINUTES")
    minutes = parser.parse_args().stream
    with tempfile.TemporaryDirectory() as folder:
        if minutes is None:
            compare(Path(folder))
        else:
            stream(Path(folder), minutes)


def compare(folder: Path) -> None:
    """Print how many times our time each peer takes, with the range over rounds."""
    import decord

    path = make(folder / "clip.mp4", 10)
    probe = probe_video(path)
    n = probe.n_frames
    spread = np.linspace(0, n - 1, N_FRAMES).astype(int).tolist()
    print(f"{n} frames of 320x240, H.264; read by us with {probe.decoder} where frames are sparse")
    whole: dict[str, Callable[[], object]] = {
        "volumetric": lambda: read_clip(path, size=SIZE, probe=probe),
        "decord2": lambda: decord.VideoReader(str(path), width=171, height=SIZE)[:].asnumpy(),
        "PyAV": lambda: sequential(path, list(range(n))),
    }
    sparse: dict[str, Callable[[], object]] = {
        "volumetric": lambda: read_frames(path, spread, size=SIZE, probe=probe),
        "decord2": lambda: (
            decord.VideoReader(str(path), width=171, height=SIZE).get_batch(spread).asnumpy()
        ),
        "PyAV": lambda: sequential(path, spread),
    }
    if importlib.util.find_spec("torchcodec"):
        whole["torchcodec"] = lambda: open_torchcodec(path)[:]
        sparse["torchcodec"] = lambda: open_torchcodec(path).get_frames_at(spread)
    for name, readers in (("all frames", whole), (f"{N_FRAMES} frames, spread", sparse)):
        report(name, readers)


def report(name: str, readers: dict[str, Callable[[], object]]) -> None:
    seconds: dict[str, list[float]] = {reader: [] for reader in readers}
    for _ in range(ROUNDS):
        for reader, read in readers.items():
            started = time.perf_counter()
            read()
            seconds[reader].append(time.perf_counter() - started)
    print(f"{name}: volumetric {1000 * statistics.median(seconds['volumetric']):.0f} ms")
    for reader in readers.keys() - {"volumetric"}:
        ratios = sorted(a / b for a, b in zip(seconds[reader], seconds["volumetric"], strict=True))
        print(
            f"  {reader} / volumetric: {statistics.median(ratios):.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f} in {ROUNDS} rounds)"
        )


def open_torchcodec(path: Path) -> Any:
    """Its decoder, frames scaled in FFmpeg as it offers, and two threads as decord2 has them."""
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    return VideoDecoder(path, transforms=[Resize((SIZE, 171))], num_ffmpeg_threads=2)


def sequential(path: Path, numbers: list[int]) -> torch.Tensor:
    """What one would write with PyAV: decode to the last frame asked for, keep and scale those."""
    wanted, kept = set(numbers), []
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                picture = Image.fromarray(frame.to_ndarray(format="rgb24"))
                kept.append(np.asarray(picture.resize((171, SIZE), Image.Resampling.BILINEAR)))
            if number == numbers[-1]:
                break
    return torch.from_numpy(np.stack(kept)).permute(3, 0, 1, 2).contiguous()


def stream(folder: Path, minutes: float) -> None:
    """Print how fast a long recording is streamed and how much memory that takes over time."""
    path = make(folder / "long.mp4", 60 * minutes)
    before = held_mb()
    started = time.perf_counter()
    probe = probe_video(path)
    print(f"probed {probe.n_frames} frames in {time.perf_counter() - started:.0f} s")
    probed = held_mb()
    started, n_frames, seen = time.perf_counter(), 0, []
    for chunk in stream_clip(path, size=SIZE, probe=probe):
        n_frames += chunk.shape[0]
        seen.append(held_mb())
    took = time.perf_counter() - started
    tenths = seen[:: max(1, len(seen) // 10)]
    print(f"streamed at {n_frames / took:.0f} frames/s, {n_frames / took / 25:.0f} times real time")
    print("memory of this process and its decoders, in MB:")
    print(f"  {before:.0f} before, {probed:.0f} after probing, then while streaming, by tenths:")
    print("  " + " ".join(f"{mb:.0f}" for mb in tenths), f"largest {max(seen):.0f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  peak of this process since its start: {peak:.0f} MB")


def held_mb() -> float:
    """Resident memory of this process and its children."""
    mine = Path("/proc/self")
    children = (mine / "task" / mine.resolve().name / "children").read_text().split()
    pages = 0
    for process in (mine.resolve().name, *children):
        try:
            pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
        except OSError:  # ended meanwhile
            continue
    return pages * resource.getpagesize() / 2**20


def make(path: Path, seconds: float) -> Path:
    """A film of 320x240 at 25 frames a second: a square that wanders over noise that drifts."""
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 190, (240, 640, 3), dtype=np.uint8)

    def frames() -> Iterator[torch.Tensor]:
        for number in range(round(25 * seconds)):
            shift = number % 320
            picture = ground[:, shift : shift + 320].copy()
            row, column = (number * 2) % 200, (number * 3) % 280
            picture[row : row + 40, column : column + 40] = (250, 40, 40)
            yield torch.from_numpy(picture)

    write_video(path, frames(), rate=25)
    return path


if __name__ == "__main__":
    main()
