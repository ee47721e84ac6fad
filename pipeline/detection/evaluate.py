"""Evaluate: what was found against what is there, every number with its interval."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline.detection.found import read_objects
from pipeline.detection.predict import predicted_cases, prediction_path
from pipeline.files import read_json, write_json
from pipeline.provenance import record_time
from pipeline.results import note_few_subjects
from pipeline.run import DetectRun, ObjectsRun
from volumetric.boxes import Objects, move_boxes, overlap_boxes
from volumetric.cases import Case
from volumetric.errors import OutputError
from volumetric.metrics.detection import (
    OVERLAPS,
    SURE,
    match_boxes,
    score_detection,
    trace_froc,
    trace_precision,
)
from volumetric.metrics.resampling import Resampling
from volumetric.objects import stored_objects

_MOST_DRAWN = 400  # points of a curve


def evaluate(run: DetectRun) -> None:
    """Write results.json and scores.csv over all cases whose objects are known, and a prediction.

    Raises:
        OutputError: nothing has been predicted.
    """
    with record_time(run.folder, "evaluate"):
        usable = {case.id for case in run.usable_cases()}
        cases = [case for case in predicted_cases(run) if case.id in usable]
        if not cases:
            raise OutputError(
                "stage-missing",
                "holds no prediction",
                "Run `volumetric predict` first",
                path=run.predictions,
            )
        classes = list(run.data_set.classes.values())
        known = [case for case in cases if run.has_truth(case)]
        facts = {case.id: read_json(run.facts(case)) for case in known}
        found = [read_objects(prediction_path(run, case), classes=classes) for case in known]
        truth = [stored_objects(facts[case.id]) for case in known]
        judged = [
            judge_case(own, true, facts[case.id], classes=classes)
            for case, own, true in zip(known, found, truth, strict=True)
        ]
        results = {
            "task": "detect",
            "n_cases": len(known),
            "n_unlabelled": len(cases) - len(known),
            "confidence": run.config.evaluate.confidence,
            **_cohort(run, known, found, truth),
            "notes": note_few_subjects([case.subject for case in known]) if known else [],
            "cases": [
                {
                    "id": case.id,
                    "subject": case.subject,
                    "fold": case.fold,
                    "prediction": read_json(prediction_path(run, case))["key"],
                    **one,
                }
                for case, one in zip(known, judged, strict=True)
            ],
            "provenance": read_json(run.folder / "provenance.json"),
        }
        write_json(run.folder / "results.json", results)
        write_objects(run, known, judged)


def judge_case(
    found: Objects, truth: Objects, facts: Mapping[str, Any], *, classes: Sequence[str]
) -> dict[str, Any]:
    """What became of each object of a case, and what was found that is none, in plain values.

    An object is found by the box it is matched with (at an overlap of .1) if that is as sure as .5;
    a box as sure as that which is matched with none is false.
    """
    objects: list[dict[str, Any]] = []
    for number, name in enumerate(classes):
        own, rows = found.of_class(number), np.flatnonzero(truth.labels == number)
        order, given = match_boxes(own, truth.take(rows), overlap=OVERLAPS[0])
        scores, overlaps = own.known_scores(), overlap_boxes(own.boxes, truth.boxes[rows])
        box_of = {int(object_): int(box) for box, object_ in zip(order, given, strict=True)}
        for object_, row in enumerate(rows):
            box = box_of.get(object_)
            score = None if box is None else round(float(scores[box]), 6)
            objects.append(
                {
                    "kind": "found" if score is not None and score >= SURE else "missed",
                    "class": name,
                    "score": score,
                    "overlap": None if box is None else round(float(overlaps[box, object_]), 4),
                    "size_mm": np.round(_size_mm(truth.boxes[row], facts), 3).tolist(),
                    "box_mm": np.round(_in_world(truth.boxes[row], facts), 3).tolist(),
                    "box_voxels": np.round(truth.boxes[row], 4).tolist(),
                    "found_voxels": None if box is None else np.round(own.boxes[box], 4).tolist(),
                }
            )
        objects += [
            {
                "kind": "false",
                "class": name,
                "score": round(float(scores[box]), 6),
                "overlap": None,
                "size_mm": np.round(_size_mm(own.boxes[box], facts), 3).tolist(),
                "box_mm": np.round(_in_world(own.boxes[box], facts), 3).tolist(),
                "box_voxels": np.round(own.boxes[box], 4).tolist(),
            }
            for box, object_ in zip(order, given, strict=True)
            if object_ < 0 and scores[box] >= SURE
        ]
    counts = {
        f"n_{kind}": sum(one["kind"] == kind for one in objects)
        for kind in ("found", "missed", "false")
    }
    mistakes = float(counts["n_missed"] + counts["n_false"])
    return {
        "n_objects": len(truth.boxes),
        **counts,
        "scores": {"mistakes": {"all": mistakes}},
        "objects": objects,
    }


def _size_mm(box: Any, facts: Mapping[str, Any]) -> Any:
    return (box[3:] - box[:3]) * np.linalg.norm(np.array(facts["affine"])[:3, :3], axis=0)


def _in_world(box: Any, facts: Mapping[str, Any]) -> Any:
    return move_boxes(box[None], np.array(facts["affine"]))[0]


def _cohort(
    run: DetectRun, cases: Sequence[Case], found: Sequence[Objects], truth: Sequence[Objects]
) -> dict[str, Any]:
    """Metrics with intervals, resampling whole subjects, and the curves that they come from."""
    if not cases:
        return {"metrics": {}, "curves": {}}
    section, classes = run.config.evaluate, list(run.data_set.classes.values())
    scores = score_detection(
        found,
        truth,
        classes=classes,
        subjects=[case.subject for case in cases],
        resampling=Resampling(section.resamples, run.config.seed, section.confidence),
    )
    metrics = {
        metric: {name: asdict(value) for name, value in by_class.items()}
        for metric, by_class in scores.items()
    }
    there = {label for one in truth for label in one.labels.tolist()}
    curves = {
        name: {
            "froc": _thin(*trace_froc(found, truth, number=number)),
            **{
                f"precision@{overlap:g}": _thin(
                    *trace_precision(found, truth, number=number, overlap=overlap)
                )
                for overlap in OVERLAPS
            },
        }
        for number, name in enumerate(classes)
        if number in there
    }
    return {"metrics": metrics, "curves": curves}


def _thin(x: Any, y: Any) -> list[list[float]]:
    """The points of a curve, or as many as can be told apart in a plot."""
    rows = np.unique(np.linspace(0, len(x) - 1, min(len(x), _MOST_DRAWN)).astype(int))
    return [[round(float(x[row]), 6), round(float(y[row]), 6)] for row in rows]


def write_objects(
    run: ObjectsRun, cases: Sequence[Case], judged: Sequence[Mapping[str, Any]]
) -> None:
    """Write scores.csv: a row for each object and each false one; unknown values stay empty."""
    corners = ("x_min", "y_min", "z_min", "x_max", "y_max", "z_max")
    columns = ["id", "subject", "fold", "kind", "class", "score", "overlap", *corners]
    with (run.folder / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for case, one in zip(cases, judged, strict=True):
            for row in one["objects"]:
                values = [row[name] for name in ("kind", "class", "score", "overlap")] + row[
                    "box_mm"
                ]
                cells = ["" if value is None else value for value in values]
                writer.writerow([case.id, case.subject, case.fold, *cells])
