from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from volumetric.errors import ConfigError
from volumetric.inference.clips import classify_clip
from volumetric.inference.timeline import Timeline, classify_stream, window_frames
from volumetric.model import Model
from volumetric.spec import ClassifierSpec
from volumetric.volume import Volume


class Brightness(nn.Module):
    """Logits: log of the mean brightness of the first frame seen, and of the last."""

    def __init__(self) -> None:
        super().__init__()
        self.none = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ends = torch.stack([x[:, 0, 0].mean((1, 2)), x[:, 0, -1].mean((1, 2))], 1)
        return (ends * 255 + 1).log()


def spec_of(frames: int, stride: int = 1, sampling: str = "dense") -> ClassifierSpec:
    return ClassifierSpec(
        kind="small_cnn3d",
        classes=["first", "last"],
        multi_label=False,
        input="rgb",
        frames=frames,
        stride=stride,
        sampling=sampling,  # type: ignore[arg-type]
        size=2,
        fit="whole",
        aggregate="mean",
        shift=False,
        rate=4.0,
        short_side=2,
        mean=[0.0] * 3,
        std=[1.0] * 3,
    )


def chunks_of(values: np.ndarray, sizes: list[int]) -> Iterator[Volume]:
    start = 0
    while start < len(values):
        size = sizes[start % len(sizes)]
        part = torch.from_numpy(values[start : start + size].astype(np.uint8))
        data = part[None, :, None, None].expand(3, -1, 2, 2).contiguous()
        affine = np.diag([0.25, 1, 1, 1])
        affine[0, 3] = start / 4
        yield Volume(data, affine, kind="clip")
        start += size


@given(
    st.integers(1, 60),
    st.integers(1, 7),
    st.integers(1, 3),
    st.sampled_from([0.25, 0.5, 1.0, 3.0]),
    st.lists(st.integers(1, 17), min_size=1, max_size=5),
)
def test_windows_are_those_of_the_whole_video(
    n_frames: int, frames: int, stride: int, step_s: float, sizes: list[int]
) -> None:
    """However the video is chunked: every window from its own frames, the end not forgotten."""
    spec = spec_of(frames, stride)
    values = np.arange(n_frames) * 4 + 3
    found = classify_stream(Model(spec, [Brightness()]), chunks_of(values, sizes), step_s=step_s)
    length, step = window_frames(spec), round(step_s * 4)
    starts = list(range(0, max(1, n_frames - length + 1), step))
    if starts[-1] + length < n_frames:
        starts.append(n_frames - length)
    first = values[starts] + 1.0
    last = values[[min(s + length - 1, n_frames - 1) for s in starts]] + 1.0
    expected = np.stack([first, last], 1) / (first + last)[:, None]
    assert found.probabilities == pytest.approx(expected, abs=1e-5)
    middles = [(s + min(length, n_frames - s) / 2) / 4 for s in starts]
    assert found.times_s == pytest.approx(middles)
    assert found.duration_s == pytest.approx(n_frames / 4)


def test_views_and_crops_of_a_clip_are_averaged() -> None:
    """Frames as bright as their number, brighter by 50 in each third of their width."""
    spec = replace(spec_of(3, stride=2), fit="crop", short_side=2)
    values = torch.arange(9)[:, None] + 50 * torch.arange(6)[None] // 100 * 50
    clip = values[None, :, None].expand(3, -1, 2, -1).to(torch.uint8)
    found = classify_clip(Model(spec, [Brightness()]), clip, views=3, crops=3)
    expected = [
        [first + third * 50 + 1, first + 4 + third * 50 + 1]
        for first in (0, 2, 4)
        for third in range(3)
    ]
    shares = np.array(expected) / np.sum(expected, 1, keepdims=True)
    np.testing.assert_allclose(found.views, shares, rtol=1e-5)
    np.testing.assert_allclose(found.probabilities, shares.mean(0), rtol=1e-5)
    # From the start of the first frame to the end of the last, four frames a second.
    assert found.seen_s.tolist() == [
        [start / 4, (start + 5) / 4] for start in (0, 2, 4) for _ in "abc"
    ]


def test_a_second_lies_between_its_windows() -> None:
    rows = np.array([[0.0, 1.0], [1.0, 0.0]])
    timeline = Timeline(np.array([0.5, 2.5]), rows, window_s=1, step_s=2, duration_s=3.2)
    assert timeline.by_second()[:, 0] == pytest.approx([0, 0.5, 1, 1])


def test_a_model_of_whole_clips_looks_through_windows_of_their_usual_length() -> None:
    from dataclasses import replace

    spec = spec_of(4, sampling="uniform")
    with pytest.raises(ConfigError, match="how long"):
        window_frames(spec)
    assert window_frames(replace(spec, fingerprint={"duration_s": {"median": 2.6}})) == 10


@pytest.mark.parametrize("step_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_step_that_is_none(step_s: float) -> None:
    with pytest.raises(ConfigError):
        classify_stream(
            Model(spec_of(2), [Brightness()]), chunks_of(np.arange(4), [2]), step_s=step_s
        )


def test_no_frame() -> None:
    with pytest.raises(ConfigError, match="no frame"):
        classify_stream(Model(spec_of(2), [Brightness()]), iter(()))
