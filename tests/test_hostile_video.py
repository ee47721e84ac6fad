"""Videos that lie, break off, are damaged or are none: a typed error, soon; the caller survives."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import av
import pytest

from tests.videos import cut, drop_packets, encode, read_number, write_sound
from volumetric import VolumetricError, read_volume
from volumetric.io.video import probe_video, process, read_clip, read_frames

_PLAIN = {"n_frames": 24, "size": (64, 80)}
_KINDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "mp4": (".mp4", "libx264", {"g": "12"}),
    "mkv": (".mkv", "libx264", {"g": "12"}),
    "ts": (".ts", "libx264", {"g": "12"}),
    "avi": (".avi", "mpeg4", {"bf": "2", "g": "12"}),
    "mpg": (".mpg", "mpeg2video", {"bf": "2", "g": "12"}),
    "gif": (".gif", "gif", {}),
    "mov": (".mov", "mjpeg", {}),
    "webm": (".webm", "libvpx-vp9", {"cpu-used": "8", "deadline": "realtime", "g": "12"}),
    "hevc": (".mp4", "libx265", {"x265-params": "log-level=0"}),
    "wmv": (".wmv", "wmv2", {"b": "1M"}),
}
_B = {"bf": "2", "g": "12"}
_REORDERED: dict[str, tuple[str, str, dict[str, str], dict[str, str]]] = {
    "mpeg4-avi": (".avi", "mpeg4", {**_B, "q": "3"}, {}),
    "h264-avi": (".avi", "libx264", {"bf": "3", "g": "12", "b_strategy": "0"}, {}),
    "flv": (".flv", "libx264", _B, {}),
    "fragmented mp4": (".mp4", "libx264", _B, {"movflags": "frag_keyframe+empty_moov"}),
    "mkv": (".mkv", "libx264", _B, {}),
    "mxf": (".mxf", "mpeg2video", _B, {}),
    "nut": (".nut", "libx264", _B, {}),
}
_PIXELS = {"gif": "rgb8", "mjpeg": "yuvj420p"}


def refusal(path: Path) -> VolumetricError:
    started = time.monotonic()
    with pytest.raises(VolumetricError) as caught:
        read_volume(path)
    assert time.monotonic() - started < 5 + 2 * os.getloadavg()[0]  # seconds, on a quiet machine
    error = caught.value
    assert error.reason
    assert error.remedy
    str(error).encode()
    return error


def test_what_is_no_video(tmp_path: Path) -> None:
    written = {
        "empty-file": b"",
        "not-a-video": b"not a video\n" * 100,
    }
    for code, content in written.items():
        for suffix in (".mp4", ".avi", ".mkv", ".gif", ".ts", ".mpg"):
            path = tmp_path / f"{code}{suffix}"
            path.write_bytes(content)
            assert refusal(path).code in (code, "no-frames"), suffix
    assert refusal(tmp_path / "none.mp4").code == "missing-file"
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(VolumetricError, match="not-a-file"):
        probe_video(tmp_path / "folder.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert refusal(tmp_path / "pipe.mp4").code == "not-a-file"


def test_a_playlist_cannot_name_other_files(tmp_path: Path) -> None:
    other = encode(tmp_path / "other.ts", n_frames=5)
    playlists = [
        f"#EXTM3U\n#EXTINF:1,\nfile://{other}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {other.name}\n",
    ]
    for number, text in enumerate(playlists):
        path = tmp_path / f"list{number}.mp4"
        path.write_text(text)
        assert refusal(path).code == "not-a-video"


def test_sound_alone(tmp_path: Path) -> None:
    assert refusal(write_sound(tmp_path / "a.mp4")).code == "audio-only"
    assert refusal(write_sound(tmp_path / "a.mkv")).code == "audio-only"


def test_no_frames(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mkv", n_frames=30)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"\x1f\x43\xb6\x75")])  # the first cluster
    assert refusal(path).code in ("no-frames", "undecodable", "not-a-video")
    path = cut(encode(tmp_path / "b.mp4"), 0.7)  # its table of frames stood at the end
    assert refusal(path).code == "not-a-video"


def test_names_that_cannot_be_shown(tmp_path: Path) -> None:
    for name in (b"a\xff:b%d.mp4", b"line\nbreak.mp4", b"-y.mp4", b"a?b#c.mp4"):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        path.write_bytes(encode(tmp_path / "source.mp4", n_frames=3).read_bytes())
        assert read_volume(path).shape[0] == 3
        path.write_bytes(b"nothing")
        assert refusal(path).code == "not-a-video"


def test_a_lost_frame_is_not_papered_over(tmp_path: Path) -> None:
    """What refers to a frame that is gone is refused up to the next key frame, then goes on."""
    source = encode(tmp_path / "a.mp4", n_frames=60, options={"bf": "0", "g": "20"})
    path = drop_packets(tmp_path / "b.mp4", source, {27})
    probe = probe_video(path)
    assert probe.n_corrupt > 0
    assert set(range(27, 39)) <= set(probe.corrupt)
    assert not set(range(27)) & set(probe.corrupt)
    frames = read_frames(path, list(range(27)), probe=probe).permute(1, 2, 3, 0).numpy()
    assert [read_number(image) for image in frames] == list(range(27))
    with pytest.raises(VolumetricError, match="corrupt-frame"):
        read_frames(path, [30], probe=probe)
    with pytest.raises(VolumetricError, match="corrupt-frame"):
        read_clip(path, probe=probe)
    later = read_clip(path, start_s=1.7, probe=probe)
    assert [f.code for f in later.about.findings] == ["corrupt-frames"]
    numbers = [read_number(image) for image in later.data.permute(1, 2, 3, 0).numpy()]
    assert None not in numbers


@pytest.mark.parametrize("kind", _REORDERED)
def test_a_cut_between_two_packets(kind: str, tmp_path: Path) -> None:
    """Where a B-frame was cut off, the frame stored before it is not taken for it."""
    suffix, codec, options, container = _REORDERED[kind]
    source = encode(
        tmp_path / f"a{suffix}", codec, n_frames=40, options=options, container=container
    )
    with av.open(str(source)) as file:
        places = {packet.pos for packet in file.demux(file.streams.video[0]) if packet.pos}
    path, content = tmp_path / f"b{suffix}", source.read_bytes()
    for place in sorted(places)[-9:]:
        path.write_bytes(content[: place - 8 if suffix == ".avi" else place])  # AVI's chunk header
        probe = probe_video(path)
        end = probe.n_frames if probe.first_lost is None else probe.first_lost
        assert end > 10
        whole = [number for number in range(end) if number not in probe.corrupt]
        frames = read_frames(path, whole, probe=probe).permute(1, 2, 3, 0).numpy()
        assert [read_number(image) for image in frames] == whole
        for number in range(end, probe.n_frames):
            with pytest.raises(VolumetricError):
                read_frames(path, [number], probe=probe)
    assert probe_video(source).first_lost is None


def test_five_hundred_damaged_files(tmp_path: Path) -> None:
    """Frames that are given are the frames of their numbers, or the file is refused.

    A changed byte within a coded picture may still be a valid picture, of other pixels: such a
    frame shows garbage, or what a predicted picture was wrongly told to copy from an earlier
    one. No decoder can know. What must never happen is that frames change places.
    """
    rng = random.Random(4)
    codes: Counter[str] = Counter()
    n_frames = n_strange = 0
    slowest_s = 0.0
    for kind, (suffix, codec, options) in _KINDS.items():
        pixels = _PIXELS.get(codec, "yuv420p")
        path = encode(tmp_path / f"{kind}{suffix}", codec, options=options, pixels=pixels, **_PLAIN)
        content = path.read_bytes()
        damaged_path = tmp_path / f"damaged{suffix}"
        for _ in range(50):
            damaged = bytearray(content)
            for _ in range(rng.choice([1, 1, 3, 10])):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            damaged_path.write_bytes(damaged)
            started = time.monotonic()
            code, numbers = read_what_is_sound(damaged_path)
            slowest_s = max(slowest_s, time.monotonic() - started)
            codes[code] += 1
            n_frames += len(numbers)
            n_strange += sum(shown not in (None, number) for number, shown in numbers)
            assert not is_shifted(numbers), f"{kind} {numbers}"
    assert codes.total() == 500
    assert codes["read"] > 250
    assert n_strange <= 0.01 * n_frames, (n_strange, n_frames)
    assert slowest_s < 5 + 2 * os.getloadavg()[0]


def read_what_is_sound(path: Path) -> tuple[str, list[tuple[int, int | None]]]:
    """How it went, and for each frame that is given its number and the one it shows."""
    try:
        probe = probe_video(path)
        known = probe.n_frames if probe.first_lost is None else probe.first_lost
        sound = sorted(set(range(known)) - set(probe.corrupt))
        frames = read_frames(path, sound, probe=probe)
    except VolumetricError as error:
        return error.code, []
    shown = [read_number(image) for image in frames.permute(1, 2, 3, 0).numpy()]
    return "read", list(zip(sound, shown, strict=True))


def is_shifted(numbers: list[tuple[int, int | None]]) -> bool:
    """Whether the last three that can be read come too early, all by as much."""
    shifts = [shown - number for number, shown in numbers if shown is not None]
    return len(shifts) >= 3 and len(set(shifts[-3:])) == 1 and shifts[-1] > 0


def test_a_decoder_that_stands_still_or_dies_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encode(tmp_path / "a.mp4", n_frames=5)
    probe_video(path)
    worker = process._idle["av"][-1]
    os.kill(worker.pid, 19)  # stopped: gives no sign of life
    monkeypatch.setattr(process, "_SILENCE_S", 0.2)
    monkeypatch.setattr(process, "_CROWDED_S", 0.5)
    with pytest.raises(VolumetricError, match="decoder-hung"):
        probe_video(path)
    monkeypatch.undo()
    assert probe_video(path).n_frames == 5
    os.kill(process._idle["av"][-1].pid, 11)
    time.sleep(0.2)
    assert probe_video(path).n_frames == 5


def test_nothing_outlives_the_program(tmp_path: Path) -> None:
    """Neither after its end, nor after it was killed; and a fork does not share its decoder."""
    path = encode(tmp_path / "a.mp4", n_frames=20)
    program = f"""
        import os, sys
        from volumetric.io.video import process, probe_video, read_frames
        probe = probe_video({str(path)!r})
        child = os.fork()
        if child == 0:
            os._exit(read_frames({str(path)!r}, [3], probe=probe).shape[1] - 1)
        assert os.waitpid(child, 0)[1] == 0
        read_frames({str(path)!r}, [3], probe=probe)
        print([w.pid for kind in process._idle.values() for w in kind], flush=True)
        if sys.argv[1] == "killed":
            os.kill(os.getpid(), 9)
    """
    for end, code in (("ends", 0), ("killed", -9)):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(program), end],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=Path(__file__).parents[1],
        )
        assert done.returncode == code, done.stderr
        assert not done.stderr
        pids = [int(pid) for pid in done.stdout.strip("[]\n").split(",")]
        assert pids
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            assert time.monotonic() < deadline
            time.sleep(0.05)
