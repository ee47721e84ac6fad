"""Boxes of a scan as a CSV: what each holds, and its two corners in the world."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from volumetric.boxes import Boxes, Objects, clip_boxes, move_boxes
from volumetric.cases import read_manifest
from volumetric.errors import GeometryError, LabelError, UnreadableFileError
from volumetric.volume import Volume

CORNERS = ("x_min", "y_min", "z_min", "x_max", "y_max", "z_max")
_COLUMNS = ("label", *CORNERS)
_STRAIGHT = 0.9999  # cosine of the angle between an axis and the world's nearest
_ROUNDING = 0.5  # voxels that a box may begin or end outside of its image


def read_boxes(path: Path, *, classes: Sequence[str], image: Volume) -> Objects:
    """The objects of a CSV, in voxels of the image: voxel i reaches from i - 0.5 to i + 0.5.

    Columns: label (one of `classes`; Objects have its number), then the corners in mm in the
    image's own world, RAS+ as NIfTI has it: x to the right, y to the front, z to the head. A table
    of nothing but its header says that there is no object. Of an oblique scan, whose axes are not
    the world's, these are the boxes around those; what then reaches out of it is cut off.

    Raises:
        UnreadableFileError: missing, no CSV, other columns, or a cell that is no number.
        LabelError: a label that is no class.
        GeometryError: a box without size, upside down, or that reaches out of the image; says so
            where its numbers look like voxels, or like DICOM's axes.
    """
    labels, world = _read_rows(path)
    for number, label in enumerate(labels):
        if label not in classes:
            raise LabelError(
                "unknown-class",
                f"box {number + 1} is of {label!r}, which is no class",
                f"Use {', '.join(classes)}",
                path=path,
            )
    _refuse_empty(path, world)
    _refuse_twins(path, labels, world)
    boxes = move_boxes(world, np.linalg.inv(image.affine))
    _refuse_outside(path, world, boxes, image)
    boxes = clip_boxes(boxes, image.shape)
    return Objects(boxes, np.array([classes.index(label) for label in labels], dtype=np.int64))


def write_boxes(path: Path, objects: Objects, *, classes: Sequence[str], image: Volume) -> None:
    """Write objects in voxels of the image as `read_boxes` reads them; scores come last, if any."""
    world = move_boxes(objects.boxes, image.affine)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_COLUMNS, *([] if objects.scores is None else ["score"])])
        for number, (label, box) in enumerate(zip(objects.labels, world, strict=True)):
            score = [] if objects.scores is None else [f"{objects.scores[number]:.6f}"]
            writer.writerow([classes[label], *(f"{corner:.4f}" for corner in box), *score])


def _read_rows(path: Path) -> tuple[list[str], Boxes]:
    reader = csv.reader(io.StringIO(read_manifest(path).removeprefix("\ufeff"), newline=""))
    try:
        rows = [[cell.strip() for cell in row] for row in reader]
        rows = [row for row in rows if any(row)]
    except csv.Error as error:
        raise _unreadable(path, f"is no readable CSV ({error})") from error
    header = rows[0] if rows else []
    if header not in ([*_COLUMNS], [*_COLUMNS, "score"]):
        raise _unreadable(path, f"has columns {', '.join(header) or 'none'}")
    labels, boxes = [], []
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(header):
            raise _unreadable(path, f"box {number} has {len(row)} cells of {len(header)}")
        try:
            corners = [float(cell) for cell in row[1:7]]
        except ValueError as error:
            raise _unreadable(path, f"box {number}: {error}") from error
        if not all(math.isfinite(corner) for corner in corners):
            raise _unreadable(path, f"box {number} has a corner that is not finite")
        labels.append(row[0])
        boxes.append(corners)
    return labels, np.array(boxes, dtype=np.float64).reshape(-1, 6)


def _unreadable(path: Path, reason: str) -> UnreadableFileError:
    return UnreadableFileError(
        "unreadable-boxes", reason, f"Write the columns {', '.join(_COLUMNS)}, in mm", path=path
    )


def _refuse_empty(path: Path, world: Boxes) -> None:
    wrong = (world[:, 3:] <= world[:, :3]).any(axis=1)
    if wrong.any():
        number = int(wrong.argmax())
        raise GeometryError(
            "bad-box",
            f"box {number + 1}, {world[number].tolist()} mm, has no size along an axis, or its "
            "corners are exchanged",
            "Give the low corner, then the high one, of each axis",
            path=path,
        )


def _refuse_twins(path: Path, labels: Sequence[str], world: Boxes) -> None:
    first: dict[tuple[str, ...], int] = {}
    for number, (label, box) in enumerate(zip(labels, world, strict=True)):
        row = (label, *map(str, box))
        if row in first:
            raise GeometryError(
                "box-twice",
                f"box {number + 1} is box {first[row] + 1} again",
                "Leave one of them",
                path=path,
            )
        first[row] = number


def _refuse_outside(path: Path, world: Boxes, boxes: Boxes, image: Volume) -> None:
    outside = _is_outside(boxes, image.shape)
    turned = np.abs(image.affine[:3, :3] / image.spacing).max(axis=0).min() < _STRAIGHT
    if turned:  # a box around a box may well reach out: that its middle does not must do
        middles = (boxes[:, :3] + boxes[:, 3:]) / 2
        outside = _is_outside(np.concatenate([middles, middles], axis=1), image.shape)
    if not outside.any():
        return
    number = int(outside.argmax())
    box = ", ".join(f"{corner:.6g}" for corner in world[number])
    ends = move_boxes(_whole(image.shape), image.affine)[0]
    extent = "; ".join(f"{a:.1f} to {b:.1f}" for a, b in zip(ends[:3], ends[3:], strict=True))
    raise GeometryError(
        "box-outside",
        f"box {number + 1} ({box}) reaches out of its image, which lies at {extent} mm"
        f"{_guess(world, image)}",
        "Give corners in mm, in the image's world (RAS+)",
        path=path,
    )


def _guess(world: Boxes, image: Volume) -> str:
    """What the boxes may be instead."""
    back = np.linalg.inv(image.affine)
    lps = move_boxes(world, np.diag([-1.0, -1.0, 1.0, 1.0]))
    if not _is_outside(move_boxes(lps, back), image.shape).any():
        return "; with x and y negated all boxes lie inside: they look like DICOM's axes, LPS+"
    # Voxel numbers as files have them: along x, y, z, whatever those mean in the world.
    as_voxels = [world, world[:, [2, 1, 0, 5, 4, 3]]]
    if any(not _is_outside(boxes, image.shape).any() for boxes in as_voxels):
        return "; as numbers of voxels all boxes lie inside: they look like voxels, not mm"
    return ""


def _is_outside(boxes: Boxes, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    whole = _whole(shape)
    low, high = boxes[:, :3] < whole[:, :3] - _ROUNDING, boxes[:, 3:] > whole[:, 3:] + _ROUNDING
    found: NDArray[np.bool_] = np.any(low | high, axis=1)
    return found


def _whole(shape: tuple[int, int, int]) -> Boxes:
    return np.array([[-0.5, -0.5, -0.5, *(n - 0.5 for n in shape)]])
