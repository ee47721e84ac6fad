"""Boxes found in slices, linked from slice to slice into boxes of a volume."""

from __future__ import annotations

import numpy as np

from volumetric.boxes import Objects, overlap_boxes

_GAP = 2  # slices from a box to the next: one between them may have missed it
_ALIKE = 0.3  # overlap (IoU) in the plane of boxes of one object in two slices
_SURE = 1 / 3  # of the surest box's score, for a box to say how far an object reaches

Place = tuple[int, int]
"""A slice, and a row of the boxes in it."""


def link_slices(found: Objects, *, slice_axis: int = 0) -> Objects:
    """Objects of a volume, the surest first, from boxes (n, 6) that are each of one slice.

    From the surest box that is left, a chain grows to both sides: in each next slice, or in the one
    after it, the box of its class joins that overlaps the chain's last one most, by .3 at least.
    Of a chain those boxes count that are a third as sure as its surest. The object reaches from the
    first slice of these to the last; in the plane it is their mean weighted by their scores; it is
    as sure as the surest, as in the 2D baselines of Jaeger et al. (Retina U-Net, ML4H 2020).

    Args:
        found: with scores; along `slice_axis` the middle of each says which slice it is of.
        slice_axis: what slices lie across, 0 D, 1 H or 2 W.
    """
    scores = found.known_scores()
    numbers = np.rint((found.boxes[:, slice_axis] + found.boxes[:, 3 + slice_axis]) / 2).astype(int)
    plane = [axis for axis in range(6) if axis % 3 != slice_axis]
    left = {number: set(np.flatnonzero(numbers == number).tolist()) for number in set(numbers)}
    boxes, firsts = [], []
    for row in np.argsort(-scores, kind="stable").tolist():
        if row not in left[numbers[row]]:
            continue
        left[numbers[row]].remove(row)
        chain = [row]
        for step in (1, -1):
            chain += _grow(row, found, numbers, left, step=step, plane=plane)
        counted = [one for one in chain if scores[one] >= _SURE * scores[row]]
        box = np.zeros(6)
        weights = scores[counted] + np.finfo(float).tiny  # where all are 0, alike
        box[plane] = np.average(found.boxes[counted][:, plane], axis=0, weights=weights)
        box[slice_axis] = numbers[counted].min() - 0.5
        box[3 + slice_axis] = numbers[counted].max() + 0.5
        boxes.append(box)
        firsts.append(row)
    return Objects(np.array(boxes).reshape(-1, 6), found.labels[firsts], scores[firsts])


def _grow(
    row: int,
    found: Objects,
    numbers: np.ndarray[tuple[int], np.dtype[np.int64]],
    left: dict[int, set[int]],
    *,
    step: int,
    plane: list[int],
) -> list[int]:
    """What joins a box on one side, nearest first; taken from what is left."""
    joined: list[int] = []
    while True:
        for distance in range(1, _GAP + 1):
            number = int(numbers[row]) + step * distance
            rows = [
                one
                for one in sorted(left.get(number, ()))
                if found.labels[one] == found.labels[row]
            ]
            own, others = found.boxes[[row]][:, plane], found.boxes[rows][:, plane]
            overlaps = overlap_boxes(own, others)[0]
            if overlaps.size and overlaps.max() >= _ALIKE:
                row = rows[int(overlaps.argmax())]
                left[number].remove(row)
                joined.append(row)
                break
        else:
            return joined
