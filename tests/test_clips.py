from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volumetric.clips import (
    choose_dense,
    choose_pairs,
    choose_segments,
    choose_uniform,
    crop_boxes,
    jitter_stride,
    view_indices,
)
from volumetric.errors import ConfigError

FRAMES = st.integers(1, 400)
LENGTHS = st.integers(1, 70)
STRIDES = st.floats(0.2, 12)
SEEDS = st.one_of(st.none(), st.integers(0, 1000))


def _rng(seed: int | None) -> np.random.Generator | None:
    return None if seed is None else np.random.default_rng(seed)


def _assert_sound(indices: np.ndarray, n_frames: int, length: int) -> None:
    assert indices.shape == (length,)
    assert indices.dtype == np.int64
    assert indices.min() >= 0
    assert indices.max() < n_frames
    assert (np.diff(indices) >= 0).all()


@given(FRAMES, LENGTHS, STRIDES, SEEDS)
def test_dense_keeps_its_stride_until_the_clip_ends(
    n_frames: int, length: int, stride: float, seed: int | None
) -> None:
    indices = choose_dense(n_frames, length=length, stride=stride, rng=_rng(seed))
    _assert_sound(indices, n_frames, length)
    wanted = indices[0] + np.arange(length) * stride
    assert (np.abs(indices - np.minimum(wanted, n_frames - 1)) <= 0.5 + 1e-9).all()
    held = wanted[-1] > n_frames - 0.5
    if held:
        assert indices[0] == 0  # a short clip loses nothing at its start
    elif seed is None:
        before, after = indices[0], n_frames - 1 - indices[-1]
        assert after - before in (0, 1)


def test_dense_by_hand() -> None:
    assert choose_dense(10, length=4, stride=2).tolist() == [1, 3, 5, 7]
    assert choose_dense(5, length=6, stride=2).tolist() == [0, 2, 4, 4, 4, 4]
    assert choose_dense(10, length=4, stride=25 / 15).tolist() == [2, 4, 5, 7]


def test_dense_starts_everywhere() -> None:
    rng = np.random.default_rng(0)
    starts = {int(choose_dense(12, length=4, stride=2, rng=rng)[0]) for _ in range(200)}
    assert starts == set(range(6))


@given(FRAMES, LENGTHS)
def test_uniform_covers_the_clip(n_frames: int, length: int) -> None:
    indices = choose_uniform(n_frames, length=length)
    _assert_sound(indices, n_frames, length)
    if length > 1:
        assert indices[[0, -1]].tolist() == [0, n_frames - 1]
        gaps = np.diff(indices)
        assert gaps.max() - gaps.min() <= 1
        oracle = np.linspace(0, n_frames - 1, length)
        assert np.abs(indices - oracle).max() <= 0.5 + 1e-9


@given(FRAMES, LENGTHS, SEEDS)
def test_a_frame_of_every_segment(n_frames: int, length: int, seed: int | None) -> None:
    indices = choose_segments(n_frames, length=length, rng=_rng(seed))
    _assert_sound(indices, n_frames, length)
    bounds = np.arange(length + 1) * n_frames / length
    assert (indices + 1 > bounds[:-1] - 1e-9).all()
    assert (indices <= bounds[1:] + 1e-9).all()
    if seed is None:  # temporal segment networks' own: int(tick / 2 + tick * k)
        tick = n_frames / length
        oracle = [int(tick / 2 + tick * k + 1e-9) for k in range(length)]
        assert np.abs(indices - oracle).max() <= (0 if tick == int(tick) else 1)


def test_segments_take_each_of_their_frames() -> None:
    rng = np.random.default_rng(0)
    drawn = np.stack([choose_segments(12, length=3, rng=rng) for _ in range(200)])
    assert [set(column) for column in drawn.T] == [{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9, 10, 11}]


@given(st.floats(0.1, 8), st.floats(0, 2), st.integers(0, 1000))
def test_jitter_stays_within_its_factor(stride: float, by: float, seed: int) -> None:
    found = jitter_stride(stride, by=by, rng=np.random.default_rng(seed))
    assert stride / (1 + by) - 1e-9 <= found <= stride * (1 + by) + 1e-9


def test_jitter_slows_as_often_as_it_speeds() -> None:
    rng = np.random.default_rng(0)
    logs = np.log([jitter_stride(1, by=0.5, rng=rng) for _ in range(2000)])
    assert abs(logs.mean()) < 0.02
    assert logs.max() - logs.min() > 0.75


@given(FRAMES, LENGTHS, st.integers(1, 12), st.integers(1, 6))
def test_dense_views_are_spread_from_start_to_end(
    n_frames: int, length: int, views: int, stride: int
) -> None:
    chosen = view_indices(n_frames, length=length, stride=stride, views=views)
    assert len(chosen) == views
    for indices in chosen:
        _assert_sound(indices, n_frames, length)
    starts = np.array([indices[0] for indices in chosen])
    last = max(0, n_frames - 1 - (length - 1) * stride)
    if views == 1:
        assert (chosen[0] == choose_dense(n_frames, length=length, stride=stride)).all()
    else:
        assert starts[[0, -1]].tolist() == [0, last]
        assert np.diff(starts).max() - np.diff(starts).min() <= 1


@given(FRAMES, LENGTHS, st.integers(1, 12))
def test_views_by_segments_part_each_segment(n_frames: int, length: int, views: int) -> None:
    chosen = view_indices(n_frames, length=length, views=views, sampling="segments")
    for indices in chosen:
        _assert_sound(indices, n_frames, length)
    assert (np.diff(np.stack(chosen), axis=0) >= 0).all()
    if n_frames >= length * views:
        assert len({tuple(indices) for indices in chosen}) == views
    if views == 1:
        assert (chosen[0] == choose_segments(n_frames, length=length)).all()


def test_a_uniform_choice_has_one_view() -> None:
    assert view_indices(9, length=3, views=1, sampling="uniform")[0].tolist() == [0, 4, 8]
    with pytest.raises(ConfigError, match="one and the same"):
        view_indices(9, length=3, views=2, sampling="uniform")
    with pytest.raises(ConfigError, match="no way to choose frames"):
        view_indices(9, length=3, views=2, sampling="random")


@given(st.integers(8, 300), st.integers(8, 300), st.data())
def test_crops_cover_the_longer_side(height: int, width: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, min(height, width)))
    for crops in (1, 3):
        boxes = crop_boxes(height, width, size=size, crops=crops)
        assert len(boxes) == crops
        for top, left, *sides in boxes:
            assert sides == [size, size]
            assert 0 <= top <= height - size
            assert 0 <= left <= width - size
    along = 0 if height > width else 1
    longer = (height, width)[along]
    starts = [box[along] for box in boxes]
    assert starts[0] == 0
    assert starts[2] == longer - size
    assert abs(starts[0] + starts[2] - 2 * starts[1]) <= 1
    assert boxes[1] == crop_boxes(height, width, size=size, crops=1)[0]


def test_thirty_views_by_hand() -> None:
    """256 pixels high, 455 wide: the squares SlowFast tests on."""
    boxes = crop_boxes(256, 455, size=256, crops=3)
    assert boxes == [(0, 0, 256, 256), (0, 100, 256, 256), (0, 199, 256, 256)]
    starts = [v[0] for v in view_indices(300, length=32, stride=2, views=10)]
    assert starts == [0, 26, 53, 79, 105, 132, 158, 184, 211, 237]


@pytest.mark.parametrize(
    "refused",
    [
        lambda: choose_dense(0, length=4),
        lambda: choose_dense(5, length=0),
        lambda: choose_dense(5, length=4, stride=0),
        lambda: choose_dense(5, length=4, stride=float("nan")),
        lambda: choose_uniform(0, length=4),
        lambda: choose_segments(4, length=0),
        lambda: jitter_stride(1, by=-0.5, rng=np.random.default_rng(0)),
        lambda: view_indices(5, length=2, views=0),
        lambda: crop_boxes(10, 20, size=11, crops=1),
        lambda: crop_boxes(10, 20, size=5, crops=5),
    ],
)
def test_refuses_what_cannot_be_chosen(refused) -> None:
    with pytest.raises(ConfigError) as caught:
        refused()
    assert caught.value.code == "bad-sampling"


@given(st.integers(1, 80), st.integers(1, 20), st.floats(0.05, 3))
def test_pairs_lie_evenly_and_a_lag_apart(n_frames: int, length: int, lag: float) -> None:
    first, later = choose_pairs(n_frames, length=length, lag=lag).reshape(2, length)
    step = (n_frames - 1) / max(1, length - 1)
    apart = set((later - first).tolist())
    assert len(apart) == 1
    assert apart.pop() == min(n_frames - 1, max(1, int(np.floor(lag * step + 0.5))))
    assert (np.diff(first) >= 0).all()
    assert first[0] >= 0
    assert later[-1] <= n_frames - 1
    if length > 1:
        assert first[0] == 0
        assert later[-1] == n_frames - 1
        assert np.ptp(np.diff(first)) <= 1
    with pytest.raises(ConfigError):
        choose_pairs(n_frames, length=length, lag=0)
