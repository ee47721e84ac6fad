"""What was found in a scan as plain values, as predictions/<case>.json holds it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.detection.judged import place_box
from pipeline.files import read_json
from volumetric.boxes import Objects, move_boxes
from volumetric.volume import Volume


def describe_objects(
    objects: Objects, image: Volume, *, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Each object in plain values, the surest first; where it lies as `place_box` says."""
    described = []
    for box, label, score in zip(
        objects.boxes, objects.labels, objects.known_scores(), strict=True
    ):
        world = move_boxes(box[None], image.affine)[0]
        described.append(
            {
                "class": classes[label],
                "score": round(float(score), 6),
                "centre_mm": np.round((world[:3] + world[3:]) / 2, 3).tolist(),
                **place_box(box, image.affine),
            }
        )
    return described


def read_objects(path: Path, *, classes: Sequence[str]) -> Objects:
    """What a prediction says was found, in voxels of its scan."""
    found = read_json(path)["objects"]
    boxes = np.array([one["box_voxels"] for one in found], dtype=np.float64).reshape(-1, 6)
    labels = np.array([classes.index(one["class"]) for one in found], dtype=np.int64)
    return Objects(boxes, labels, np.array([one["score"] for one in found], dtype=np.float64))
