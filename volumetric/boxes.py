"""Boxes: rows of low corner, then high corner, in any one unit; of slices, volumes and clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from volumetric.errors import ConfigError, GeometryError

Boxes = NDArray[np.float64]
Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Objects:
    """What was found in a case, or what is there.

    Attributes:
        boxes: float64 (n, 2 * axes), low corner, then high corner.
        labels: integers (n,), numbers of classes.
        scores: (n,), how sure each is; None of what is there.
    """

    boxes: Boxes
    labels: NDArray[np.int64]
    scores: Scores | None = None

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.boxes) or (
            self.scores is not None and len(self.scores) != len(self.boxes)
        ):
            raise GeometryError(
                "bad-boxes",
                f"{len(self.boxes)} boxes, {len(self.labels)} labels, "
                f"{'no' if self.scores is None else len(self.scores)} scores",
                "Give one of each a box",
            )

    def of_class(self, number: int) -> Objects:
        """Those of one class."""
        return self.take(np.flatnonzero(self.labels == number))

    def take(self, rows: NDArray[np.intp]) -> Objects:
        """Some of them, in the order asked for."""
        scores = None if self.scores is None else self.scores[rows]
        return Objects(self.boxes[rows], self.labels[rows], scores)

    def known_scores(self) -> Scores:
        """The scores.

        Raises:
            ConfigError: there are none.
        """
        if self.scores is None:
            raise ConfigError("no-scores", "boxes that were found have scores", "Give scores")
        return self.scores


def check_boxes(boxes: ArrayLike, *, n_axes: int | None = None) -> Boxes:
    """The boxes as float64 (n, 2 * n_axes).

    Raises:
        GeometryError: not of that shape, not finite, or without size along an axis.
    """
    found = np.asarray(boxes, dtype=np.float64)
    if found.ndim != 2 or found.shape[1] % 2 or (n_axes and found.shape[1] != 2 * n_axes):
        axes = "2 x axes" if n_axes is None else str(2 * n_axes)
        raise GeometryError(
            "bad-boxes",
            f"boxes are ({axes}) numbers a row, not of shape {found.shape}",
            "Give the low corner, then the high corner, a box a row",
        )
    low, high = np.split(found, 2, axis=1)
    wrong = ~(np.isfinite(found).all(axis=1) & (high > low).all(axis=1))
    if wrong.any():
        number = int(wrong.argmax())
        raise GeometryError(
            "bad-boxes",
            f"box {number}, {found[number].tolist()}, has no size along an axis, is upside down, "
            "or is not finite",
            "Give the low corner, then the high corner",
        )
    return found


def move_boxes(boxes: Boxes, mapping: NDArray[np.floating[Any]]) -> Boxes:
    """The boxes (n, 6) around what a 4x4 mapping, such as an affine, makes of boxes (n, 6).

    Where it permutes, flips, scales and shifts axes they are the same boxes; where it turns them,
    the smallest that hold them.
    """
    linear, offset = mapping[:3, :3], mapping[:3, 3]
    low, high = np.split(boxes, 2, axis=1)
    middle = (low + high) / 2 @ linear.T + offset
    reach = (high - low) / 2 @ np.abs(linear).T
    return np.concatenate([middle - reach, middle + reach], axis=1)


def clip_boxes(boxes: Boxes, shape: tuple[int, int, int]) -> Boxes:
    """Boxes (n, 6) in voxels, cut off at the border of a volume."""
    end = np.array(shape) - 0.5
    return np.concatenate([boxes[:, :3].clip(-0.5, end), boxes[:, 3:].clip(-0.5, end)], axis=1)


def overlap_boxes(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """Intersection over union of each pair (n, m) of boxes (n, 2 * axes) and (m, 2 * axes)."""
    ones, others = torch.from_numpy(first), torch.from_numpy(second)
    found: NDArray[np.float64] = overlap_pairs(ones[:, None], others[None]).numpy()
    return found


def overlap_pairs(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Intersection over union of boxes (…, 2 * axes), each with its own."""
    (first_low, first_high), (second_low, second_high) = first.chunk(2, -1), second.chunk(2, -1)
    sides = torch.minimum(first_high, second_high) - torch.maximum(first_low, second_low)
    shared = sides.clamp(min=0).prod(-1)
    sizes = (first_high - first_low).prod(-1) + (second_high - second_low).prod(-1)
    return shared / (sizes - shared)


def suppress_boxes(found: Objects, *, overlap: float) -> Objects:
    """Those that overlap no surer one of their class by more than this, the surest first.

    Greedy non-maximum suppression, as torchvision and MONAI have it, in any number of axes.

    Raises:
        ConfigError: boxes without scores.
    """
    order = np.argsort(-found.known_scores(), kind="stable")
    kept: list[int] = []
    waiting = order
    while waiting.size:
        best, rest = waiting[0], waiting[1:]
        kept.append(int(best))
        overlaps = overlap_boxes(found.boxes[[best]], found.boxes[rest])[0]
        waiting = rest[(overlaps <= overlap) | (found.labels[rest] != found.labels[best])]
    return found.take(np.array(kept, dtype=np.intp))


def fuse_boxes(found: Objects, *, overlap: float, n_sources: int = 1) -> Objects:
    """One box for all of a class that overlap, the surest first: weighted box fusion.

    From the surest on, each joins the fused box that it overlaps most, if by more than this, or
    begins a new one. A fused box is the mean of its own, weighted by their scores; its score is
    their mean, times the part of `n_sources` that found it (Solovyev et al., Image Vis Comput 2021,
    equations 1 to 4 and 6): what one of several networks or mirror images alone has seen is less
    sure than what all have.

    Raises:
        ConfigError: boxes without scores, or fewer than one source.
    """
    if n_sources < 1:
        raise ConfigError("bad-sources", f"{n_sources} sources of boxes", "Give at least 1")
    scores = found.known_scores()
    members: list[list[int]] = []
    fused = np.zeros((0, found.boxes.shape[1]))
    labels = np.zeros(0, dtype=np.int64)
    for row in np.argsort(-scores, kind="stable"):
        overlaps = overlap_boxes(found.boxes[[row]], fused)[0]
        overlaps = np.where(labels == found.labels[row], overlaps, -1.0)
        if overlaps.size and overlaps.max() > overlap:
            group = int(overlaps.argmax())
            members[group].append(int(row))
            own = members[group]
            weights = scores[own] + np.finfo(float).tiny  # where all are 0, alike
            fused[group] = np.average(found.boxes[own], axis=0, weights=weights)
        else:
            members.append([int(row)])
            fused = np.concatenate([fused, found.boxes[[row]]])
            labels = np.append(labels, found.labels[row])
    means = np.array([scores[own].mean() for own in members])
    share = np.array([min(len(own), n_sources) / n_sources for own in members])
    result = Objects(fused, labels, means * share)
    return result.take(np.argsort(-result.known_scores(), kind="stable"))
