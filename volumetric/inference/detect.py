"""A volume in, its objects out: windows are looked at, each answers for its middle."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from volumetric.boxes import Objects, clip_boxes, fuse_boxes, move_boxes, suppress_boxes
from volumetric.inference.window import mirrorings, pad_to_window, window_starts
from volumetric.linking import link_slices
from volumetric.model import Model
from volumetric.models.detector import Cells
from volumetric.preprocess import prepare
from volumetric.spec import DetectorSpec
from volumetric.volume import Volume

Triple = tuple[int, int, int]

_MOST_CELLS = 1000  # of a window, the surest


def detect_objects(
    model: Model[DetectorSpec],
    image: Volume,
    *,
    overlap: float | None = None,
    mirror_axes: Sequence[int] | None = None,
) -> Objects:
    """What is in a scan, the surest first, in voxels of the image: voxel i is i - 0.5 to i + 0.5.

    `overlap` of windows and `mirror_axes` default to what the model was exported with. Networks
    and mirror images are fused (weighted box fusion).
    """
    spec = model.spec
    prepared, _ = prepare(image, None, spacing=spec.spacing_mm, intensity=spec.intensity)
    found = find_in_windows(
        model.networks,
        prepared.data,
        spec=spec,
        overlap=spec.overlap if overlap is None else overlap,
        mirror_axes=spec.mirror_axes if mirror_axes is None else mirror_axes,
    )
    mapping = np.linalg.inv(image.affine) @ prepared.affine
    moved = Objects(move_boxes(found.boxes, mapping), found.labels, found.scores)
    return _cut_boxes(moved, image.shape)


@torch.inference_mode()
def find_in_windows(
    networks: Sequence[nn.Module],
    image: torch.Tensor,
    *,
    spec: DetectorSpec,
    overlap: float,
    mirror_axes: Sequence[int],
) -> Objects:
    """What is in a prepared image (C, D, H, W), in its voxels, the surest first."""
    sources = list(itertools.product(networks, mirrorings(mirror_axes)))
    found: list[list[Objects]] = [[] for _ in sources]
    for window, start, core in _windows(image, spec.patch_size, overlap):
        for own, (network, axes) in zip(found, sources, strict=True):
            device = next(network.parameters()).device
            cells: Cells = network(window[None].to(device).flip([2 + axis for axis in axes]))
            objects = read_cells(cells, 0, least=spec.least_score)
            boxes = _mirror(objects.boxes, axes, spec.patch_size)
            middle = (boxes[:, :3] + boxes[:, 3:]) / 2
            answered = ((middle >= core[0]) & (middle <= core[1])).all(axis=1)
            objects = Objects(boxes, objects.labels, objects.scores).take(np.flatnonzero(answered))
            objects = suppress_boxes(objects, overlap=spec.suppress)
            placed = objects.boxes + np.tile(start, 2)
            own.append(Objects(placed, objects.labels, objects.scores))
    each = [put_together(join_objects(own), spec) for own in found]
    if len(each) == 1:
        return each[0]
    fused = fuse_boxes(join_objects(each), overlap=spec.suppress, n_sources=len(each))
    return fused.take(np.flatnonzero(fused.known_scores() >= spec.least_score))


def put_together(found: Objects, spec: DetectorSpec) -> Objects:
    """One box for each object of an image, of all that its cells say: the surest first."""
    found = suppress_boxes(found, overlap=spec.suppress)
    if spec.kind == "faster_rcnn":
        linked = link_slices(found, slice_axis=spec.slice_axis)
        return suppress_boxes(linked, overlap=spec.suppress)
    return found


def read_cells(cells: Cells, number: int, *, least: float) -> Objects:
    """What the cells of one image say is there with that score at least, the surest 1000.

    A score is the root of the product of a class's probability and that of belonging to an object.
    """
    sure = cells.centres[number].sigmoid()[:, None] * cells.logits[number].sigmoid()
    scores, labels = sure.sqrt().max(1)
    rows = scores.topk(min(_MOST_CELLS, len(scores))).indices
    rows = rows[(scores[rows] >= least) & (scores[rows] > 0)]
    boxes = cells.boxes[number][rows].double().cpu().numpy()
    return Objects(boxes, labels[rows].cpu().numpy(), scores[rows].double().cpu().numpy())


def join_objects(parts: Sequence[Objects]) -> Objects:
    """All of them, one after the other."""
    return Objects(
        np.concatenate([one.boxes for one in parts]),
        np.concatenate([one.labels for one in parts]),
        np.concatenate([one.known_scores() for one in parts]),
    )


def _cut_boxes(found: Objects, shape: Triple) -> Objects:
    """Those whose middle lies in a volume, cut off at its border."""
    middle = (found.boxes[:, :3] + found.boxes[:, 3:]) / 2
    inside = ((middle > -0.5) & (middle < np.array(shape) - 0.5)).all(axis=1)
    boxes = clip_boxes(found.boxes, shape)
    return Objects(boxes, found.labels, found.scores).take(np.flatnonzero(inside))


def _windows(
    image: torch.Tensor, patch: Triple, overlap: float
) -> Iterator[tuple[torch.Tensor, Triple, tuple[np.ndarray, np.ndarray]]]:
    """Windows (C, *patch) of an image, where each begins, and which middles it answers for.

    That is all but the quarter of the overlap at edges with a neighbour, which sees it better: an
    object is answered for by two windows there at most, or not by none because they disagree.
    """
    padded, before = pad_to_window(image, patch)
    starts = [window_starts(n, p, overlap) for n, p in zip(padded.shape[1:], patch, strict=True)]
    for index in itertools.product(*(range(len(one)) for one in starts)):
        begin = [one[i] for one, i in zip(starts, index, strict=True)]
        low, high = np.full(3, -np.inf), np.full(3, np.inf)
        for axis, (one, i, p) in enumerate(zip(starts, index, patch, strict=True)):
            if i > 0:
                low[axis] = (one[i - 1] + p - one[i]) / 4 - 0.5
            if i + 1 < len(one):
                high[axis] = p - (one[i] + p - one[i + 1]) / 4 - 0.5
        where = tuple(slice(a, a + p) for a, p in zip(begin, patch, strict=True))
        start = tuple(a - b for a, b in zip(begin, before, strict=True))
        yield padded[(slice(None), *where)], (start[0], start[1], start[2]), (low, high)


def _mirror(boxes: np.ndarray, axes: Sequence[int], patch: Triple) -> np.ndarray:
    mirrored = boxes.copy()
    for axis in axes:
        mirrored[:, axis] = patch[axis] - 1 - boxes[:, 3 + axis]
        mirrored[:, 3 + axis] = patch[axis] - 1 - boxes[:, axis]
    return mirrored
