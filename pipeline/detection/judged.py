"""What became of each object of a case, and what was taken for one, as results.json holds it."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.files import read_json, write_json
from pipeline.results import note_few_subjects
from pipeline.run import ObjectsRun
from volumetric.boxes import move_boxes
from volumetric.cases import Case
from volumetric.errors import OutputError

Box = NDArray[np.float64]

_CORNERS = ("x_min", "y_min", "z_min", "x_max", "y_max", "z_max")


def place_box(box: Box, affine: NDArray[np.floating[Any]]) -> dict[str, list[float]]:
    """A box in voxels (6,) of a scan, in plain values: its sides, and where it lies.

    `box_mm` is in the world (RAS+), low corner, then high corner; `box_voxels` likewise along D, H,
    W of the scan as read, where voxel i reaches from i - 0.5 to i + 0.5; `size_mm` is along those.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return {
        "size_mm": np.round((box[3:] - box[:3]) * spacing, 3).tolist(),
        "box_mm": np.round(move_boxes(box[None], affine)[0], 3).tolist(),
        "box_voxels": np.round(box, 4).tolist(),
    }


def tell_object(
    about: tuple[str, str],
    box: Box,
    affine: NDArray[np.floating[Any]],
    *,
    score: float | None = None,
    overlap: float | None = None,
    found: Box | None = None,
) -> dict[str, Any]:
    """An object, or what is none, in plain values.

    `about` is its kind (found, missed, false) and class; `found` the box that it was found by, with
    its score and how far it overlaps.
    """
    kind, name = about
    return {
        "kind": kind,
        "class": name,
        "score": None if score is None else round(float(score), 6),
        "overlap": None if overlap is None else round(float(overlap), 4),
        **place_box(box, affine),
        "found_voxels": None if found is None else np.round(found, 4).tolist(),
    }


def sum_up_case(objects: Sequence[Mapping[str, Any]], n_objects: int) -> dict[str, Any]:
    """How many of a case's objects were found and missed, how many were none, and all of them."""
    counts = {
        f"n_{kind}": sum(one["kind"] == kind for one in objects)
        for kind in ("found", "missed", "false")
    }
    mistakes = float(counts["n_missed"] + counts["n_false"])
    return {
        "n_objects": n_objects,
        **counts,
        "scores": {"mistakes": {"all": mistakes}},
        "objects": list(objects),
    }


def cases_to_judge(run: ObjectsRun, predicted: Sequence[Case]) -> list[Case]:
    """Those of the predicted cases that no stage has set apart.

    Raises:
        OutputError: there are none.
    """
    usable = {case.id for case in run.usable_cases()}
    cases = [case for case in predicted if case.id in usable]
    if not cases:
        raise OutputError(
            "stage-missing",
            "holds no prediction",
            "Run `volumetric predict` first",
            path=run.predictions,
        )
    return cases


def write_results(
    run: ObjectsRun,
    cases: Sequence[Case],
    told: Sequence[Mapping[str, Any]],
    *,
    n_unlabelled: int,
    cohort: Mapping[str, Any],
) -> None:
    """Write results.json, and scores.csv: a row for each object and each that is none.

    `told` is what `sum_up_case` says of each case, `cohort` the metrics and curves of all.
    """
    results = {
        "task": run.config.task,
        "n_cases": len(cases),
        "n_unlabelled": n_unlabelled,
        "confidence": run.config.evaluate.confidence,
        **cohort,
        "notes": note_few_subjects([case.subject for case in cases]) if cases else [],
        "cases": [
            {"id": case.id, "subject": case.subject, "fold": case.fold, **one}
            for case, one in zip(cases, told, strict=True)
        ],
        "provenance": read_json(run.folder / "provenance.json"),
    }
    write_json(run.folder / "results.json", results)
    with (run.folder / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        columns = ("kind", "class", "score", "overlap")
        writer.writerow(["id", "subject", "fold", *columns, *_CORNERS])
        for case, one in zip(cases, told, strict=True):
            for row in one["objects"]:
                values = [row[name] for name in columns] + row["box_mm"]
                cells = ["" if value is None else value for value in values]
                writer.writerow([case.id, case.subject, case.fold, *cells])
