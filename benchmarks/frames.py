"""Which frame does a reader give when frame i is asked for? Wrong ones, by kind of file.

    .venv/bin/python benchmarks/frames.py [FAMILY …]

Writes videos whose frames carry their number, and asks each reader for 65 random, 16 spread and
32 successive frames of each. Prints a table in Markdown: wrong frames of 113, "+ n err" where it
raised, "hung" after 60 s. Frames the file no longer holds (those cut off) are asked for only where
ours decoded them; of these, ours refuses the damaged ones ("+ n refused"). Every reader runs in a
process of its own for each file, as some hang or crash. OpenCV and torchcodec join where they are
installed: `make peers`, FFmpeg's libraries (Debian: ffmpeg), then .venv-peers/bin/python.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the numbered videos are the tests' own

from tests.videos import FAMILIES, read_number  # noqa: E402

Read = Callable[[int], np.ndarray]
_TIME_S = 60


def main() -> None:
    """Print the table, or with --reader one reader's answers about one file as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help="all, if none is named")
    parser.add_argument("--reader", choices=_READERS)
    parser.add_argument("--path", type=Path)
    parser.add_argument("--numbers", type=json.loads)
    arguments = parser.parse_args()
    if arguments.reader:
        print("\n" + json.dumps(ask(arguments.reader, arguments.path, arguments.numbers)))
        return
    lacking = {name for name, module in _MAYBE.items() if not importlib.util.find_spec(module)}
    readers = [name for name in _READERS if name not in lacking]
    print(f"| family | {' | '.join(readers)} |\n|---|{'---|' * len(readers)}")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.families or FAMILIES:
            path = FAMILIES[name].make(Path(folder) / f"{name}{FAMILIES[name].suffix}")
            numbers = choose_numbers(path)
            cells = [run_reader(reader, path, numbers) for reader in readers]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


def choose_numbers(path: Path) -> list[int]:
    """65 random, 16 spread and 32 successive ones of those that can be decoded."""
    from volumetric.io.video import probe_video

    n_frames = probe_video(path).n_frames
    rng = np.random.default_rng(0)
    spread = np.linspace(0, n_frames - 1, 16).round().astype(int)
    first = int(rng.integers(0, max(n_frames - 32, 1)))
    run = np.minimum(np.arange(first, first + 32), n_frames - 1)
    return [int(n) for n in (*rng.integers(0, n_frames, 65), *spread, *run)]


def run_reader(reader: str, path: Path, numbers: list[int]) -> str:
    """A cell of the table."""
    command = [sys.executable, __file__, "--reader", reader, "--path", str(path)]
    try:
        done = subprocess.run(
            [*command, "--numbers", json.dumps(numbers)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_TIME_S,
        )
        shown = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return "hung"
    except (IndexError, ValueError):
        return "crashed"
    errors = sum(isinstance(number, str) for number in shown)
    wrong = sum(a != b and not isinstance(b, str) for a, b in zip(numbers, shown, strict=True))
    word = "refused" if reader == "ours" else "err"
    return f"{wrong}" + (f" + {errors} {word}" if errors else "")


def ask(reader: str, path: Path, numbers: list[int]) -> list[int | str | None]:
    """For each number the one that is shown in the frame given; a word where it raised."""
    opened = _READERS[reader](path)  # held, as its end closes the file
    try:
        read = next(opened)
    except Exception as error:
        return [type(error).__name__] * len(numbers)
    shown: list[int | str | None] = []
    for number in numbers:
        try:
            shown.append(read_number(read(number)))
        except Exception as error:
            shown.append(type(error).__name__)
    return shown


def open_ours(path: Path) -> Iterator[Read]:
    from volumetric.io.video import probe_video, read_frames

    probe = probe_video(path)
    yield lambda number: read_frames(path, [number], probe=probe)[:, 0].permute(1, 2, 0).numpy()


def open_decord(path: Path) -> Iterator[Read]:
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    yield lambda number: reader[number].asnumpy()


def open_pyav(path: Path) -> Iterator[Read]:
    """As most scripts do: seek to the time that the mean rate gives, decode up to it."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate, tick = stream.average_rate, stream.time_base

        def read(number: int) -> np.ndarray:
            wanted = round(number / rate / tick) + (stream.start_time or 0)
            container.seek(wanted, stream=stream)
            for frame in container.decode(stream):
                if frame.pts is not None and frame.pts >= wanted:
                    pixels = frame.to_ndarray(format="rgb24")
                    return np.rot90(pixels, round(frame.rotation / 90))
            raise EOFError

        yield read


def open_opencv(path: Path) -> Iterator[Read]:
    import cv2

    capture = cv2.VideoCapture(str(path))

    def read(number: int) -> np.ndarray:
        capture.set(cv2.CAP_PROP_POS_FRAMES, number)
        is_read, image = capture.read()
        if not is_read:
            raise EOFError
        return np.asarray(image)[..., ::-1]

    yield read


def open_torchcodec(path: Path) -> Iterator[Read]:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, dimension_order="NHWC")
    yield lambda number: decoder[number].numpy()


_MAYBE = {"OpenCV": "cv2", "torchcodec": "torchcodec"}
_READERS: dict[str, Callable[[Path], Iterator[Read]]] = {
    "decord2": open_decord,
    "PyAV seek": open_pyav,
    "OpenCV": open_opencv,
    "torchcodec": open_torchcodec,
    "ours": open_ours,
}

if __name__ == "__main__":
    main()
