"""What two runs found on the cases that both scored, to be drawn together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.comparison.pairing import Pair, Side, true_objects
from pipeline.detection.found import read_objects
from pipeline.files import read_json
from volumetric.boxes import Objects
from volumetric.errors import OutputError
from volumetric.metrics.detection import detection_statistic
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


def _found(side: Side, pair: Pair) -> list[Objects]:
    found = []
    for name in pair.ids:
        path = side.folder / "predictions" / f"{name}.json"
        if read_json(path)["key"] != side.cases[name]["prediction"]:
            raise OutputError(
                "stale-results",
                "was made after the run was scored",
                f"Run `volumetric evaluate {side.folder}` first",
                path=path,
            )
        found.append(read_objects(path, classes=pair.classes))
    return found


def _objects(objects: Sequence[tuple[str, list[float]]], classes: Sequence[str]) -> Objects:
    boxes = np.array([box for _, box in objects], dtype=np.float64).reshape(-1, 6)
    return Objects(boxes, np.array([classes.index(name) for name, _ in objects], dtype=np.int64))
