"""What was found in a scan as plain values, as predictions/<case>.json holds it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.files import read_json
from volumetric.boxes import Objects, move_boxes
from volumetric.volume import Volume


def describe_objects(
    objects: Objects, image: Volume, *, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Each object in plain values, the surest first.

    `box_mm` is in the world (RAS+), low corner, then high corner; `box_voxels` likewise along D, H,
    W of the scan as read, where voxel i reaches from i - 0.5 to i + 0.5; `size_mm` is along those.
    """
    world = move_boxes(objects.boxes, image.affine)
    sides = (objects.boxes[:, 3:] - objects.boxes[:, :3]) * image.spacing
    return [
        {
            "class": classes[label],
            "score": round(float(score), 6),
            "box_mm": np.round(place, 3).tolist(),
            "centre_mm": np.round((place[:3] + place[3:]) / 2, 3).tolist(),
            "size_mm": np.round(size, 3).tolist(),
            "box_voxels": np.round(box, 4).tolist(),
        }
        for label, score, place, size, box in zip(
            objects.labels, objects.known_scores(), world, sides, objects.boxes, strict=True
        )
    ]


def read_objects(path: Path, *, classes: Sequence[str]) -> Objects:
    """What a prediction says was found, in voxels of its scan."""
    found = read_json(path)["objects"]
    boxes = np.array([one["box_voxels"] for one in found], dtype=np.float64).reshape(-1, 6)
    labels = np.array([classes.index(one["class"]) for one in found], dtype=np.int64)
    return Objects(boxes, labels, np.array([one["score"] for one in found], dtype=np.float64))
