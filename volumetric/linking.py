"""Boxes found in slices, linked from slice to slice into boxes of a volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from volumetric.boxes import Objects, overlap_boxes

_GAP = 2  # slices from a box to the next: one between them may have missed it
_ALIKE = 0.3  # overlap (IoU) in the plane of boxes of one object in two slices


def link_slices(slices: Sequence[Objects]) -> Objects:
    """Objects of a volume, the surest first, from those (n, 4) of each of its slices in order.

    From the surest box that is left, a chain grows to both sides: in each next slice, or in the one
    after it, the box of its class joins that overlaps the chain's last one most, by .3 at least. An
    object reaches from the chain's first slice to its last (slice i from i - 0.5 to i + 0.5); in
    the plane it is the mean of the chain's boxes weighted by their scores; it is as sure as its
    surest box, as in the 2D baselines of Jaeger et al. (Retina U-Net, ML4H 2020).

    Args:
        slices: with scores; boxes are low corner, then high corner, in the plane.
    """
    left = [set(range(len(one.labels))) for one in slices]
    order = sorted(
        ((number, row) for number, rows in enumerate(left) for row in rows),
        key=lambda place: -slices[place[0]].known_scores()[place[1]],
    )
    boxes, labels, scores = [], [], []
    for number, row in order:
        if row not in left[number]:
            continue
        left[number].remove(row)
        chain = [(number, row)]
        for step in (1, -1):
            chain += _grow((number, row), slices, left, step)
        found = np.array([slices[n].boxes[r] for n, r in chain])
        sure = np.array([slices[n].known_scores()[r] for n, r in chain])
        plane = np.average(found, axis=0, weights=sure + np.finfo(float).tiny)
        numbers = [n for n, _ in chain]
        boxes.append([min(numbers) - 0.5, *plane[:2], max(numbers) + 0.5, *plane[2:]])
        labels.append(slices[number].labels[row])
        scores.append(sure[0])
    return Objects(
        np.array(boxes, dtype=np.float64).reshape(-1, 6),
        np.array(labels, dtype=np.int64),
        np.array(scores, dtype=np.float64),
    )


def _grow(
    place: tuple[int, int], slices: Sequence[Objects], left: list[set[int]], step: int
) -> list[tuple[int, int]]:
    """What joins a box on one side, nearest first; taken from what is left."""
    joined: list[tuple[int, int]] = []
    while True:
        number, row = place
        label, box = slices[number].labels[row], slices[number].boxes[[row]]
        for distance in range(1, _GAP + 1):
            other = number + step * distance
            if not 0 <= other < len(slices):
                return joined
            rows = [r for r in sorted(left[other]) if slices[other].labels[r] == label]
            overlaps = overlap_boxes(box, slices[other].boxes[rows])[0]
            if overlaps.size and overlaps.max() >= _ALIKE:
                place = (other, rows[int(overlaps.argmax())])
                left[other].remove(place[1])
                joined.append(place)
                break
        else:
            return joined
