"""Boxes of slices, linked into boxes of a volume."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volumetric.boxes import Objects, overlap_boxes
from volumetric.linking import link_slices

Found = tuple[list[float], int, float]
"""Row and column of low and high corner, class, and score."""


def _volume(*slices: list[Found], axis: int = 0) -> Objects:
    """The boxes of all slices, each one voxel thick."""
    boxes, labels, scores = [], [], []
    plane = [other for other in range(6) if other % 3 != axis]
    for number, found in enumerate(slices):
        for own, label, score in found:
            box = np.zeros(6)
            box[plane] = own
            box[[axis, axis + 3]] = number - 0.5, number + 0.5
            boxes.append(box)
            labels.append(label)
            scores.append(score)
    return Objects(np.array(boxes).reshape(-1, 6), np.array(labels, np.int64), np.array(scores))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_chain_is_one_object_from_its_first_slice_to_its_last(axis: int) -> None:
    linked = link_slices(
        _volume(
            [],
            [([0, 0, 4, 4], 1, 0.2)],
            [([0, 0, 4, 6], 1, 0.6)],
            [([0, 0, 4, 4], 1, 0.4)],
            axis=axis,
        ),
        slice_axis=axis,
    )
    # In the plane the mean weighted by scores: (.2 * 4 + .6 * 6 + .4 * 4) / 1.2.
    low, high = [0.0, 0.0], [4.0, 5.0]
    low.insert(axis, 0.5)
    high.insert(axis, 3.5)
    np.testing.assert_allclose(linked.boxes, [[*low, *high]])
    assert linked.labels.tolist() == [1]
    assert linked.known_scores().tolist() == [0.6]


def test_what_is_hardly_seen_joins_and_says_nothing_of_the_size() -> None:
    box = [0, 0, 4, 4]
    linked = link_slices(_volume(*[[(box, 0, score)] for score in (0.1, 0.31, 0.9, 0.29, 0.05)]))
    np.testing.assert_allclose(linked.boxes, [[0.5, 0, 0, 2.5, 4, 4]])
    assert linked.known_scores().tolist() == [0.9]


def test_one_slice_may_have_missed_it_but_not_two() -> None:
    box = ([0, 0, 4, 4], 0, 0.5)
    assert len(link_slices(_volume([box], [], [box])).labels) == 1
    assert len(link_slices(_volume([box], [], [], [box])).labels) == 2


@pytest.mark.parametrize(
    "other",
    [([0, 0, 4, 4], 1, 0.5), ([0, 3, 4, 7], 0, 0.5)],
    ids=["another class", "another place"],
)
def test_what_is_not_the_same_is_not_linked(other: Found) -> None:
    linked = link_slices(_volume([([0, 0, 4, 4], 0, 0.9)], [other]))
    assert len(linked.labels) == 2
    assert linked.known_scores().tolist() == [0.9, 0.5]  # the surest first


def test_a_box_joins_one_chain_the_one_it_overlaps_most() -> None:
    linked = link_slices(
        _volume(
            [([0, 0, 4, 4], 0, 0.9), ([0, 1, 4, 5], 0, 0.8)],
            [([0, 1, 4, 5], 0, 0.7), ([0, 0, 4, 4], 0, 0.6)],
        )
    )
    np.testing.assert_allclose(linked.boxes, [[-0.5, 0, 0, 1.5, 4, 4], [-0.5, 0, 1, 1.5, 4, 5]])


def test_slices_without_anything_hold_no_object() -> None:
    assert link_slices(_volume()).boxes.shape == (0, 6)


@given(st.integers(0, 2**32 - 1))
def test_boxes_of_objects_apart_come_back_whatever_their_slices(seed: int) -> None:
    """Each object in full in every slice, but for noise: one box each, overlapping it by .7."""
    rng = np.random.default_rng(seed)
    depth, size = 24, 6.0
    objects = []
    for column in range(4):  # side by side, never touching
        first = int(rng.integers(0, depth - 4))
        last = int(rng.integers(first + 2, depth))
        row = float(rng.uniform(0, 10))
        box = [first - 0.5, row, 10.0 * column, last + 0.5, row + size, 10.0 * column + size]
        objects.append((box, int(rng.integers(2))))
    slices = []
    for number in range(depth):
        found = []
        for box, label in objects:
            if box[0] < number < box[3]:
                plane = np.array([box[1], box[2], box[4], box[5]]) + rng.uniform(-0.4, 0.4, 4)
                found.append((plane.tolist(), label, float(rng.uniform(0.4, 1))))
        order = rng.permutation(len(found))
        slices.append([found[i] for i in order])
    linked = link_slices(_volume(*slices))
    assert len(linked.labels) == len(objects)
    overlaps = overlap_boxes(np.array([box for box, _ in objects]), linked.boxes)
    assert (overlaps.max(1) > 0.7).all()
    assert linked.labels[overlaps.argmax(1)].tolist() == [label for _, label in objects]
    assert (np.diff(linked.known_scores()) <= 0).all()
