"""Every frame asked for is the frame given, whatever the codec and container."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import av.error
import numpy as np
import pytest
import torch

from tests.videos import FAMILIES, declare_turn, draw_number, encode, read_number, uneven
from volumetric import VolumetricError, read_volume
from volumetric.clips import choose_uniform
from volumetric.io.video import (
    Probe,
    is_video_file,
    probe_video,
    read_clip,
    read_frames,
    stream_clip,
    write_video,
)

_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Probe]]:
    folder = tmp_path_factory.mktemp("videos")
    made: dict[str, tuple[Path, Probe]] = {}

    def make_once(name: str) -> tuple[Path, Probe]:
        if name not in made:
            path = FAMILIES[name].make(folder / f"{name}{FAMILIES[name].suffix}")
            made[name] = path, probe_video(path, cache=folder / "probes")
        return made[name]

    return make_once


def numbers_in(frames: torch.Tensor) -> list[int | None]:
    return [read_number(image) for image in frames.permute(1, 2, 3, 0).numpy()]


def ask(path: Path, indices: list[int], probe: Probe) -> str | None:
    """None where exactly these frames came, else the code of the refusal."""
    try:
        frames = read_frames(path, indices, probe=probe)
    except VolumetricError as error:
        return error.code
    assert frames.dtype == torch.uint8
    assert frames.shape == (3, len(indices), probe.height, probe.width)
    assert numbers_in(frames) == indices
    return None


@pytest.mark.parametrize("name", FAMILIES)
def test_frames_are_the_ones_asked_for(
    make: Callable[[str], tuple[Path, Probe]], name: str
) -> None:
    path, probe = make(name)
    family = FAMILIES[name]
    for fact, value in family.facts.items():
        assert getattr(probe, fact) == value, fact
    assert probe.n_frames == family.n_frames or not family.is_whole
    rng = np.random.default_rng(len(name))
    scattered = rng.integers(0, probe.n_frames, 65).tolist()
    first = int(rng.integers(0, max(probe.n_frames - 32, 1)))
    requests = [
        *([index] for index in scattered[:3]),
        scattered[3:34],
        scattered[34:],
        np.linspace(0, probe.n_frames - 1, 16).round().astype(int).tolist(),
        list(range(first, min(first + 32, probe.n_frames))),
    ]
    codes = [ask(path, indices, probe) for indices in requests]
    if family.is_whole:
        assert codes == [None] * len(requests)
    else:
        assert set(codes) <= {None, "corrupt-frame", "frame-lost"}
        assert ask(path, list(range(40)), probe) is None  # damage at the end costs the end alone
    assert ask(path, [probe.n_frames], probe) == "frame-out-of-range"
    assert ask(path, [-1], probe) == "frame-out-of-range"


def test_both_decoders_give_the_same_bytes(make: Callable[[str], tuple[Path, Probe]]) -> None:
    for name in ("h264-mp4", "h264-vfr-mkv", "vp9-odd", "h264-turned-180", "h264-10-bit"):
        path, probe = make(name)
        assert probe.decoder == "decord", name
        indices = [80, 7, 33]  # few of many: jumped to
        for size in (None, 48, (50, 70)):
            jumped = read_frames(path, indices, size=size, probe=probe)
            in_order = read_frames(path, indices, size=size, probe=replace(probe, decoder="av"))
            assert torch.equal(jumped, in_order), name


def test_a_decoder_that_is_inexact_is_found_out_when_it_reads(
    make: Callable[[str], tuple[Path, Probe]],
) -> None:
    path, probe = make("mpeg4-avi-b")
    trusted = replace(probe, decoder="decord")
    for index in range(20, 90, 10):
        assert numbers_in(read_frames(path, [index], probe=trusted)) == [index]


def test_a_file_exchanged_after_probing_is_refused(
    make: Callable[[str], tuple[Path, Probe]],
) -> None:
    _, probe = make("mpeg4-avi")
    other, _ = make("mpeg4-mp4-b")
    assert ask(other, [5], replace(probe, checksums=probe.checksums[::-1])) == "file-changed"


@pytest.mark.parametrize("name", ["h264-vfr-mp4", "h264-vfr-mkv"])
@pytest.mark.parametrize("rate", [4.0, 12.5, 40.0])
def test_a_variable_rate_is_read_by_time(
    make: Callable[[str], tuple[Path, Probe]], name: str, rate: float
) -> None:
    path, probe = make(name)
    clip = read_clip(path, start_s=0.5, stop_s=4.0, rate=rate, probe=probe)
    times = np.array(uneven()) / 1000
    wanted = np.arange(0.5, 4.0 - 1e-9, 1 / rate)
    expected = [int((times <= time + 1e-9).sum()) - 1 for time in wanted]
    assert numbers_in(clip.data) == expected
    assert clip.kind == "clip"
    assert np.allclose(np.diag(clip.affine), [1 / rate, 1, 1, 1])
    assert clip.affine[0, 3] == 0.5


@pytest.mark.parametrize("name", ["h264-mp4", "h264-mkv", "h264-avi-b", "mpeg1-mpg", "h264-ts"])
def test_an_even_rate_gives_each_frame_once(
    make: Callable[[str], tuple[Path, Probe]], name: str
) -> None:
    path, probe = make(name)
    assert numbers_in(read_clip(path, probe=probe).data) == list(range(90))
    assert probe.rate == pytest.approx(25, rel=1e-3)
    window = read_clip(path, start_s=1.0, stop_s=2.0, probe=probe)
    assert numbers_in(window.data) == list(range(25, 50))
    slow = read_clip(path, rate=5.0, probe=probe)
    assert numbers_in(slow.data) == list(range(0, 90, 5))


@pytest.mark.parametrize("name", ["h264-mp4", "h264-mkv", "h264-ts"])
def test_a_window_may_start_while_a_frame_is_on_show(
    make: Callable[[str], tuple[Path, Probe]], name: str
) -> None:
    path, probe = make(name)  # 25 frames a second
    for start_s, first in ((0.03, 0), (0.05, 1), (1.0, 25), (1.0395, 26), (1.035, 25)):
        clip = read_clip(path, start_s=start_s, stop_s=start_s + 0.2, probe=probe)
        assert numbers_in(clip.data) == list(range(first, first + 5)), start_s


def test_frames_are_numbered_by_any_integers(make: Callable[[str], tuple[Path, Probe]]) -> None:
    path, probe = make("h264-mp4")
    assert numbers_in(read_frames(path, choose_uniform(90, length=3), probe=probe)) == [0, 45, 89]
    assert numbers_in(read_frames(path, list(torch.arange(2)), probe=probe)) == [0, 1]


def test_a_stream_is_the_clip_in_pieces(make: Callable[[str], tuple[Path, Probe]]) -> None:
    path, probe = make("h264-vfr-mp4")
    whole = read_clip(path, rate=20.0, size=48, probe=probe)
    pieces = list(stream_clip(path, rate=20.0, size=48, chunk_frames=16, probe=probe))
    assert {piece.shape[0] for piece in pieces[:-1]} == {16}
    assert torch.equal(torch.cat([piece.data for piece in pieces], dim=1), whole.data)
    starts = [piece.affine[0, 3] for piece in pieces]
    assert starts == pytest.approx([16 / 20 * number for number in range(len(pieces))])


def test_a_stream_left_early_leaves_nothing_behind(
    make: Callable[[str], tuple[Path, Probe]],
) -> None:
    path, probe = make("h264-mp4")
    stream = stream_clip(path, chunk_frames=8, probe=probe)
    assert next(stream).shape[0] == 8
    del stream
    assert ask(path, [3, 60], probe) is None


def test_size_is_the_short_side_or_both(make: Callable[[str], tuple[Path, Probe]]) -> None:
    path, probe = make("h264-portrait")  # 160 x 90
    assert read_frames(path, [1, 2], size=45, probe=probe).shape == (3, 2, 80, 45)
    assert read_frames(path, [1, 2], size=(64, 64), probe=probe).shape == (3, 2, 64, 64)
    for size in (0, -3, (0, 5), 10**6):
        with pytest.raises(VolumetricError, match="bad-size"):
            read_frames(path, [1], size=size, probe=probe)


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((-1, 0, 0, 1), lambda x: x.flip(3)),
        ((1, 0, 0, -1), lambda x: x.flip(2)),
        ((0, 1, 1, 0), lambda x: x.transpose(2, 3)),
        ((0, -1, -1, 0), lambda x: x.transpose(2, 3).flip(2, 3)),
        ((0, 1, -1, 0), lambda x: x.rot90(-1, (2, 3))),
    ],
    ids=["mirrored", "upside-down", "transposed", "other-diagonal", "turned"],
)
def test_a_picture_is_shown_as_its_container_says(
    make: Callable[[str], tuple[Path, Probe]],
    tmp_path: Path,
    matrix: tuple[float, ...],
    turn: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    source, plain = make("h264-mp4")
    path = declare_turn(tmp_path / "turned.mp4", source, matrix)
    probe = probe_video(path)
    assert probe.mirrored == (matrix[0] * matrix[3] - matrix[1] * matrix[2] < 0)
    stored = read_frames(source, [7, 60], probe=plain)
    assert torch.equal(read_frames(path, [7, 60], probe=probe), turn(stored))
    assert (probe.height, probe.width) == turn(stored).shape[2:]


def test_a_picture_turned_askew_is_refused(
    make: Callable[[str], tuple[Path, Probe]], tmp_path: Path
) -> None:
    half = 0.5**0.5
    path = declare_turn(tmp_path / "askew.mp4", make("h264-mp4")[0], (half, half, -half, half))
    with pytest.raises(VolumetricError, match="45 degrees"):
        probe_video(path)


def test_resizing_is_pillows(make: Callable[[str], tuple[Path, Probe]]) -> None:
    from PIL import Image

    path, probe = make("h264-mp4")
    full = read_frames(path, [9], probe=probe)[:, 0].permute(1, 2, 0).numpy()
    small = read_frames(path, [9], size=(40, 56), probe=probe)[:, 0].permute(1, 2, 0).numpy()
    expected = np.asarray(Image.fromarray(full).resize((56, 40), Image.Resampling.BILINEAR))
    assert np.array_equal(small, expected)


def test_what_does_not_fit_in_memory_is_refused_with_the_way_out(
    make: Callable[[str], tuple[Path, Probe]],
) -> None:
    path, probe = make("h264-mp4")
    with pytest.raises(VolumetricError, match="clip-too-large") as caught:
        read_clip(path, size=8000, probe=probe)
    assert "rate" in caught.value.remedy
    with pytest.raises(VolumetricError, match="implausible-times"):
        read_clip(path, rate=1e6, probe=probe)


@pytest.mark.parametrize(
    ("window", "code"),
    [
        ({"start_s": 9.0}, "empty-window"),
        ({"start_s": 1.0, "stop_s": 1.0}, "empty-window"),
        ({"start_s": -1.0}, "bad-window"),
        ({"rate": 0.0}, "bad-window"),
        ({"rate": float("nan")}, "bad-window"),
    ],
)
def test_windows_that_hold_nothing(
    make: Callable[[str], tuple[Path, Probe]], window: dict[str, float], code: str
) -> None:
    path, probe = make("h264-mp4")
    with pytest.raises(VolumetricError, match=code):
        read_clip(path, probe=probe, **window)


def test_a_still_is_counted(tmp_path: Path) -> None:
    images = [torch.from_numpy(draw_number(n)) for n in [0, 1, *[2] * 7, 3]]
    write_video(tmp_path / "a.mp4", images, rate=10, crf=0)
    assert probe_video(tmp_path / "a.mp4").longest_still == 7


def test_a_probe_is_kept_by_content(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", n_frames=10)
    probe = probe_video(path, cache=tmp_path / "probes")
    kept = tmp_path / "probes" / f"{probe.sha256}.json"
    assert probe_video(path, cache=tmp_path / "probes") == probe
    kept.write_text(kept.read_text().replace('"rate": 25.0', '"rate": 26.0'))
    path.rename(tmp_path / "b.mp4")
    assert probe_video(tmp_path / "b.mp4", cache=tmp_path / "probes").rate == 26.0
    kept.write_text("{")
    assert probe_video(tmp_path / "b.mp4", cache=tmp_path / "probes") == probe


@pytest.mark.parametrize("size", [(64, 80), (63, 79)])
def test_what_is_written_is_read(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "new" / "a.mp4"
    write_video(path, (torch.from_numpy(draw_number(n, *size)) for n in range(30)), rate=29.97)
    clip = read_volume(path)
    assert numbers_in(clip.data) == list(range(30))
    assert clip.shape == (30, 64, 80)
    assert clip.spacing[0] == pytest.approx(1 / 29.97, rel=1e-4)
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # plays before it is all there
    with av.open(str(path)) as file:
        assert file.streams.video[0].codec_context.pix_fmt == "yuv420p"


def test_writing_refuses_what_is_no_video(tmp_path: Path) -> None:
    image = torch.zeros(8, 8, 3, dtype=torch.uint8)
    bad: list[tuple[list[torch.Tensor], float, str]] = [
        ([], 10, "no-frames"),
        ([image], 0, "bad-rate"),
        ([image, image[:4]], 10, "bad-frame"),
        ([image.float()], 10, "bad-frame"),
    ]
    for images, rate, code in bad:
        with pytest.raises(VolumetricError, match=code):
            write_video(tmp_path / "a.mp4", images, rate=rate)
    assert list(tmp_path.iterdir()) == []


def test_several_threads_at_once(make: Callable[[str], tuple[Path, Probe]]) -> None:
    path, probe = make("h264-mp4")
    codes: list[str | None] = []

    def work(start: int) -> None:
        codes.extend(ask(path, list(range(start, 90, 11)), probe) for _ in range(3))

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [None] * 12


def test_names() -> None:
    assert is_video_file(Path("a.MP4"))
    assert is_video_file(Path("a.b.mkv"))
    assert not is_video_file(Path("a.nii.gz"))
    assert not is_video_file(Path("mp4"))


def real_videos() -> list[Path]:
    folder = _DATA / "video_samples"
    kinds = (".mp4", ".avi", ".mkv", ".mov")
    return sorted(path for path in folder.rglob("*") if path.suffix in kinds)


@pytest.mark.skipif(not real_videos(), reason="the video samples are not beside this checkout")
@pytest.mark.parametrize("path", real_videos(), ids=lambda path: path.name)
def test_real_videos(path: Path) -> None:
    """Sampled frames equal those of a plain sequential decoding."""
    probe = probe_video(path)
    frames = []
    with av.open(str(path), metadata_errors="ignore") as file:
        for packet in file.demux(video=0):
            with contextlib.suppress(av.error.InvalidDataError):
                images = packet.decode()
                frames += [(image.to_ndarray(format="rgb24"), image.rotation) for image in images]
    assert probe.n_frames == len(frames) or probe.corrupt
    known = probe.n_frames if probe.first_lost is None else probe.first_lost
    sound = sorted(set(range(0, known, 24)) - set(probe.corrupt))
    assert sound
    assert (path.name == "corrupted.mp4") == bool(probe.corrupt)
    for index, image in zip(sound, read_frames(path, sound, probe=probe).unbind(1), strict=True):
        pixels, rotation = frames[index]
        upright = np.rot90(pixels, round(rotation / 90))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), upright)
