from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.box_utils import batched_nms as monai_nms
from monai.data.box_utils import box_iou as monai_iou
from torchvision.ops import batched_nms as torchvision_nms
from torchvision.ops import box_iou as torchvision_iou

from volumetric.boxes import (
    Objects,
    check_boxes,
    fuse_boxes,
    overlap_boxes,
    overlap_pairs,
    suppress_boxes,
)
from volumetric.errors import ConfigError, GeometryError


def _objects(rng: np.random.Generator, n: int, n_axes: int) -> Objects:
    low = rng.uniform(0, 20, (n, n_axes))
    boxes = np.concatenate([low, low + rng.uniform(4, 12, (n, n_axes))], axis=1)
    return Objects(boxes, rng.integers(0, 2, n), rng.permutation(n) / n + 0.001)


@pytest.mark.parametrize("n_axes", [2, 3])
def test_overlaps_are_those_of_torchvision_and_monai(n_axes: int) -> None:
    rng = np.random.default_rng(n_axes)
    one, other = (_objects(rng, 200, n_axes).boxes for _ in range(2))
    found = overlap_boxes(one, other)
    theirs = monai_iou(torch.from_numpy(one), torch.from_numpy(other)).numpy()
    np.testing.assert_allclose(found, theirs, atol=1e-5)
    single = [torch.from_numpy(boxes).float() for boxes in (one, other)]
    ours = overlap_pairs(single[0][:, None], single[1][None])
    torch.testing.assert_close(ours, monai_iou(*single))
    if n_axes == 2:
        theirs = torchvision_iou(torch.from_numpy(one), torch.from_numpy(other)).numpy()
        np.testing.assert_allclose(found, theirs, atol=1e-12)


@pytest.mark.parametrize("n_axes", [2, 3])
def test_suppression_is_that_of_torchvision_and_monai(n_axes: int) -> None:
    rng = np.random.default_rng(n_axes)
    for _ in range(300):
        found = _objects(rng, int(rng.integers(1, 40)), n_axes)
        ours = suppress_boxes(found, overlap=0.3)
        tensors = [torch.from_numpy(x) for x in (found.boxes, found.scores, found.labels)]
        theirs = monai_nms(*tensors, 0.3).numpy()
        np.testing.assert_array_equal(ours.boxes, found.boxes[theirs])
        if n_axes == 2:
            theirs = torchvision_nms(*tensors, 0.3).numpy()
            np.testing.assert_array_equal(ours.boxes, found.boxes[theirs])


def test_fusion_by_hand() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [40, 40, 50, 50], [0, 0, 10, 10]])
    found = Objects(boxes, np.array([0, 0, 0, 1]), np.array([0.9, 0.3, 0.8, 0.5]))
    fused = fuse_boxes(found, overlap=0.5, n_sources=2)
    np.testing.assert_allclose(fused.boxes[0], [0.25, 0, 10.25, 10])
    np.testing.assert_allclose(fused.scores, [0.6, 0.4, 0.25])
    assert fused.labels.tolist() == [0, 0, 1]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), n_axes=st.sampled_from([2, 3]))
def test_fusion_keeps_what_stands_alone_and_within_what_it_joins(seed: int, n_axes: int) -> None:
    found = _objects(np.random.default_rng(seed), 12, n_axes)
    alone = fuse_boxes(found, overlap=1.0)
    np.testing.assert_allclose(np.sort(alone.scores), np.sort(found.scores))
    fused = fuse_boxes(found, overlap=0.3)
    assert len(fused.boxes) <= len(found.boxes)
    assert (fused.scores <= found.scores.max()).all()
    low, high = np.split(fused.boxes, 2, axis=1)
    least, most = np.split(found.boxes, 2, axis=1)
    assert (low >= least.min(axis=0)).all()
    assert (high <= most.max(axis=0)).all()
    twins = found.take(np.repeat(np.arange(12), 2))
    np.testing.assert_allclose(
        suppress_boxes(twins, overlap=0.3).boxes, suppress_boxes(found, overlap=0.3).boxes
    )


def test_nothing_found_stays_nothing() -> None:
    nothing = Objects(np.zeros((0, 6)), np.zeros(0, np.int64), np.zeros(0))
    assert len(suppress_boxes(nothing, overlap=0.5).boxes) == 0
    assert len(fuse_boxes(nothing, overlap=0.5).boxes) == 0


@pytest.mark.parametrize(
    "boxes",
    [
        [[0, 0, 0, 1, 1, 0]],
        [[3, 0, 0, 1, 1, 1]],
        [[0, 0, 0, 1, np.nan, 1]],
        [[0, 0, 0, 1, 1]],
        [0, 0, 1, 1],
    ],
)
def test_boxes_that_are_none_are_refused(boxes: list) -> None:
    with pytest.raises(GeometryError, match="bad-boxes"):
        check_boxes(boxes)


def test_bad_input_is_refused() -> None:
    box = np.array([[0.0, 0, 1, 1]])
    with pytest.raises(GeometryError, match="2 labels"):
        Objects(box, np.array([0, 1]))
    with pytest.raises(ConfigError, match="no-scores"):
        suppress_boxes(Objects(box, np.array([0])), overlap=0.5)
    with pytest.raises(ConfigError, match="bad-sources"):
        fuse_boxes(Objects(box, np.array([0]), np.array([0.5])), overlap=0.5, n_sources=0)
