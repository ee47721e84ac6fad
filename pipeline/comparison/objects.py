"""What two runs found on the cases that both scored, to be drawn together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.comparison.pairing import Pair, Side, true_objects
from pipeline.detection.found import read_objects
from pipeline.files import read_json
from volumetric.boxes import Boxes, Objects
from volumetric.errors import OutputError
from volumetric.metrics.detection import detection_statistic
from volumetric.metrics.instances import Outlined, instances_statistic
from volumetric.metrics.scoring import Statistic


def detection_statistics(pair: Pair) -> tuple[Statistic, Statistic]:
    """Of A and of B, over their cases.

    Raises:
        OutputError: a prediction is missing, damaged, or newer than the scores.
    """
    truth = [_objects(true_objects(pair.first.cases[name]), pair.classes) for name in pair.ids]
    ours, theirs = (
        detection_statistic(_found(side, pair), truth, classes=pair.classes) for side in pair.sides
    )
    return ours, theirs


def instances_statistics(pair: Pair) -> list[tuple[Statistic, Statistic]]:
    """Of A and of B: the qualities of outlines, and the masks' precision and recall.

    Both come from what became of each object, whose overlaps are told to four digits.
    """
    outlined, ranked = [], []
    for side in pair.sides:
        told = [side.cases[name] for name in pair.ids]
        outlined.append(instances_statistic([_outlined(case) for case in told]))
        found, truth, pairs = zip(*(_masks(case) for case in told), strict=True)
        ranked.append(detection_statistic(found, truth, classes=["object"], pairs=pairs))
    return [(outlined[0], outlined[1]), (ranked[0], ranked[1])]


def _outlined(case: Mapping[str, Any]) -> Outlined:
    overlaps = [one["overlap"] for one in case["objects"] if one["kind"] == "found"]
    n_found = len(overlaps) + case["n_false"]
    return Outlined(sum(overlaps), len(overlaps), n_found, case["n_objects"])


def _masks(case: Mapping[str, Any]) -> tuple[Objects, Objects, NDArray[np.float64]]:
    """What was outlined in a case, what is there, and which outlines which (n, m): 1."""
    rows = [one for one in case["objects"] if one["kind"] != "missed"]
    true = [one for one in case["objects"] if one["kind"] != "false"]
    found = Objects(
        _rows([one["found_voxels"] or one["box_voxels"] for one in rows]),
        np.zeros(len(rows), dtype=np.int64),  # of the one class there is
        np.array([one["score"] for one in rows], dtype=np.float64),
    )
    truth = Objects(_rows([one["box_voxels"] for one in true]), np.zeros(len(true), dtype=np.int64))
    pairs = np.array([[float(one is other) for other in true] for one in rows], dtype=np.float64)
    return found, truth, pairs.reshape(len(rows), len(true))


def _rows(boxes: Sequence[list[float]]) -> Boxes:
    return np.array(boxes, dtype=np.float64).reshape(-1, 6)


def _found(side: Side, pair: Pair) -> list[Objects]:
    found = []
    for name in pair.ids:
        path = side.folder / "predictions" / f"{name}.json"
        if read_json(path)["key"] != side.cases[name].get("prediction"):
            raise OutputError(
                "stale-results",
                "was made after the run was scored",
                f"Run `volumetric evaluate {side.folder}` first",
                path=path,
            )
        found.append(read_objects(path, classes=pair.classes))
    return found


def _objects(objects: Sequence[tuple[str, list[float]]], classes: Sequence[str]) -> Objects:
    boxes = _rows([box for _, box in objects])
    return Objects(boxes, np.array([classes.index(name) for name, _ in objects], dtype=np.int64))
