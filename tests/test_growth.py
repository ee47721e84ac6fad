from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from volumetric.errors import ConfigError, GeometryError
from volumetric.growth import compare_dates
from volumetric.volume import Volume

AFFINE = np.diag([2.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]]


def _balls(*balls: tuple[tuple[int, int, int], float], affine: np.ndarray = AFFINE) -> Volume:
    """Objects numbered in order: centre in voxels, radius in mm."""
    grid = np.stack(np.meshgrid(np.arange(20), np.arange(40), np.arange(40), indexing="ij"), -1)
    numbers = np.zeros((20, 40, 40), np.int32)
    for number, (centre, radius) in enumerate(balls, start=1):
        apart = np.linalg.norm((grid - centre) * (2.0, 1.0, 1.0), axis=-1)
        numbers[apart <= radius] = number
    return Volume(torch.from_numpy(numbers)[None], affine)


def test_a_ball_that_grows_shrinks_comes_and_goes() -> None:
    before = _balls(((5, 10, 10), 4.0), ((10, 30, 10), 6.0), ((15, 10, 30), 3.0))
    after = _balls(((10, 31, 10), 4.0), ((5, 11, 10), 6.0), ((15, 30, 30), 5.0))
    first, second, gone, new = compare_dates(before, after, days=90)
    assert (first.before.number, first.after.number) == (1, 2)
    assert first.volume_ratio == pytest.approx((6 / 4) ** 3, rel=0.1)
    assert first.longest_mm == pytest.approx(4, abs=0.6)
    assert first.doubling_days == pytest.approx(90 * np.log(2) / np.log(first.volume_ratio))
    assert (second.before.number, second.after.number) == (2, 1)
    assert second.doubling_days < 0
    assert (gone.before.number, gone.after, gone.volume_ratio) == (3, None, None)
    assert (new.before, new.after.number) == (None, 3)


def test_what_stays_the_same_never_doubles() -> None:
    ball = _balls(((5, 10, 10), 4.0))
    (same,) = compare_dates(ball, ball, days=30)
    assert (same.volume_ratio, same.longest_mm, same.doubling_days) == (1.0, 0.0, None)


def test_far_objects_are_others_unless_they_overlap() -> None:
    small = _balls(((10, 10, 10), 3.0))
    assert len(compare_dates(small, _balls(((10, 22, 10), 3.0)), days=1)) == 2
    large = _balls(((10, 14, 14), 13.0))
    assert len(compare_dates(large, _balls(((10, 24, 20), 13.0)), days=1)) == 1


def test_what_covers_an_object_is_the_same_rather_than_what_lies_nearer() -> None:
    """A lesion grows to one side, and a small new one lies beside where it was."""
    before = _balls(((10, 20, 14), 4.0))
    after = _balls(((10, 20, 23), 12.0), ((10, 20, 7), 2.0))
    same, new = compare_dates(before, after, days=100)
    assert (same.before.number, same.after.number) == (1, 1)
    assert same.volume_ratio > 5
    assert new.before is None


def test_as_many_are_paired_as_can_be() -> None:
    """The nearest pair first would leave the other two alone."""
    before = _balls(((10, 20, 10), 1.5), ((10, 20, 16), 1.5))
    after = _balls(((10, 20, 15), 1.5), ((10, 20, 25), 1.5))
    pairs = compare_dates(before, after, days=1)
    assert [(one.before.number, one.after.number) for one in pairs] == [(1, 1), (2, 2)]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_every_object_is_told_of_once_and_time_runs_both_ways(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def scene() -> Volume:
        n = int(rng.integers(0, 5))
        return _balls(*[(tuple(rng.integers(2, 18, 3)), rng.uniform(1, 4)) for _ in range(n)])

    before, after = scene(), scene()
    forth, back = compare_dates(before, after, days=10), compare_dates(after, before, days=10)
    for volume, side in ((before, "before"), (after, "after")):
        told = [getattr(one, side).number for one in forth if getattr(one, side)]
        assert sorted(told) == [n for n in volume.data.unique().tolist() if n]

    def pairs(changes: list, first: str, second: str) -> set[tuple[int, int]]:
        both = [one for one in changes if one.before and one.after]
        return {(getattr(one, first).number, getattr(one, second).number) for one in both}

    assert len(pairs(forth, "before", "after")) == len(pairs(back, "after", "before"))


def test_bad_input_is_refused() -> None:
    ball = _balls(((5, 10, 10), 4.0))
    moved = AFFINE.copy()
    moved[0, 3] += 5
    with pytest.raises(GeometryError, match="other-grid"):
        compare_dates(ball, _balls(((5, 10, 10), 4.0), affine=moved), days=1)
    with pytest.raises(ConfigError, match="bad-days"):
        compare_dates(ball, ball, days=0)
