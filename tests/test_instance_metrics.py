from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics.panoptic_quality import compute_panoptic_quality

from volumetric.errors import ConfigError, GeometryError
from volumetric.metrics.instances import (
    Outlined,
    match_instances,
    overlap_instances,
    score_instances,
)
from volumetric.metrics.resampling import Resampling

FEW = Resampling(n_resamples=20)


def _scene(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """True boxes of voxels, some over others, and what was found: moved, missing, made up."""
    truth, found = (np.zeros(shape, np.int64) for _ in range(2))
    for number in range(1, int(rng.integers(1, 7))):
        low = rng.integers(0, np.array(shape) - 2)
        size = rng.integers(2, 6, len(shape))
        truth[_box(low, size)] = number
        if rng.random() < 0.8:
            moved = np.maximum(low + rng.integers(-1, 2, len(shape)), 0)
            found[_box(moved, size)] = 10 * number
    if rng.random() < 0.5:
        found[_box(rng.integers(0, np.array(shape) - 2), rng.integers(1, 4, len(shape)))] = 7
    return found, truth


def _box(low: np.ndarray, size: np.ndarray) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(a + n)) for a, n in zip(low, size, strict=True))


@pytest.mark.parametrize("shape", [(14, 15), (8, 9, 10)])
def test_panoptic_quality_is_monais(shape: tuple[int, ...]) -> None:
    """On 5,000 random cases each."""
    rng = np.random.default_rng(len(shape))
    for _ in range(5000):
        found, truth = _scene(rng, shape)
        ours = match_instances(found, truth)
        n_pairs, n_wrong, n_missed, overlap = compute_panoptic_quality(
            torch.from_numpy(found), torch.from_numpy(truth), output_confusion_matrix=True
        )
        assert (ours.n_pairs, ours.n_found - ours.n_pairs, ours.n_true - ours.n_pairs) == (
            int(n_pairs),
            int(n_wrong),
            int(n_missed),
        )
        assert ours.overlap == pytest.approx(float(overlap), abs=1e-5)


def test_scores_by_hand() -> None:
    cases = [Outlined(1.5, 2, 3, 2), Outlined(0.0, 0, 0, 1), Outlined(0.0, 0, 0, 0)]
    scores = score_instances(cases, resampling=FEW)
    assert scores["panoptic_quality"].mean == pytest.approx(1.5 / (2 + 1 / 2 + 1 / 2))
    assert scores["segmentation_quality"].mean == pytest.approx(0.75)
    assert scores["recognition_quality"].mean == pytest.approx(2 / 3)
    assert scores["count_error"].mean == pytest.approx(2 / 3)
    assert (scores["panoptic_quality"].n, scores["count_error"].n) == (3, 3)


def test_nothing_there_and_nothing_found_is_no_quality() -> None:
    scores = score_instances([Outlined(0.0, 0, 0, 0)] * 3, resampling=FEW)
    assert scores["panoptic_quality"].mean is None
    assert scores["panoptic_quality"].reason == "the truth holds no object"
    assert scores["count_error"].mean == 0
    missed = score_instances([Outlined(0.0, 0, 0, 2)] * 3, resampling=FEW)
    assert missed["panoptic_quality"].mean == 0
    assert missed["segmentation_quality"].reason == "no object was found where one is"


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_what_belongs_together_does_so_both_ways(seed: int) -> None:
    """Numbers mean nothing, and truth and what was found may change places."""
    found, truth = _scene(np.random.default_rng(seed), (8, 9, 10))
    overlaps = overlap_instances(found, truth)
    np.testing.assert_allclose(overlap_instances(truth, found), overlaps.T)
    assert (overlaps > 0.5).sum(axis=0).max(initial=0) <= 1
    ours = match_instances(found, truth)
    renamed = match_instances(np.where(found > 0, found + 1000, 0), truth)
    assert renamed == ours
    perfect = match_instances(truth, truth)
    assert perfect.overlap == perfect.n_pairs == perfect.n_true


def test_bad_input_is_refused() -> None:
    with pytest.raises(GeometryError, match="other-grid"):
        match_instances(np.zeros((3, 3), int), np.zeros((3, 4), int))
    with pytest.raises(GeometryError, match="bad-instances"):
        match_instances(np.full((3, 3), -1), np.zeros((3, 3), int))
    with pytest.raises(ConfigError, match="no-cases"):
        score_instances([])
