"""Evaluate: what was found against what is there, every number with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline.detection.found import read_objects
from pipeline.detection.judged import cases_to_judge, sum_up_case, tell_object, write_results
from pipeline.detection.predict import predicted_cases, prediction_path
from pipeline.files import read_json
from pipeline.provenance import record_time
from pipeline.run import DetectRun
from volumetric.boxes import Objects, overlap_boxes
from volumetric.cases import Case
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
        cases = cases_to_judge(run, predicted_cases(run))
        classes = list(run.data_set.classes.values())
        known = [case for case in cases if run.has_truth(case)]
        facts = [read_json(run.facts(case)) for case in known]
        found = [read_objects(prediction_path(run, case), classes=classes) for case in known]
        truth = [stored_objects(one) for one in facts]
        told = [
            {
                "prediction": read_json(prediction_path(run, case))["key"],
                **judge_case(own, true, one, classes=classes),
            }
            for case, own, true, one in zip(known, found, truth, facts, strict=True)
        ]
        write_results(
            run,
            known,
            told,
            n_unlabelled=len(cases) - len(known),
            cohort=_cohort(run, known, found, truth),
        )


def judge_case(
    found: Objects, truth: Objects, facts: Mapping[str, Any], *, classes: Sequence[str]
) -> dict[str, Any]:
    """What became of each object of a case, and what was found that is none, in plain values.

    An object is found by the box it is matched with (at an overlap of .1) if that is as sure as .5;
    a box as sure as that which is matched with none is false.
    """
    affine = np.array(facts["affine"])
    objects: list[dict[str, Any]] = []
    for number, name in enumerate(classes):
        own, rows = found.of_class(number), np.flatnonzero(truth.labels == number)
        order, given = match_boxes(own, truth.take(rows), overlap=OVERLAPS[0])
        scores, overlaps = own.known_scores(), overlap_boxes(own.boxes, truth.boxes[rows])
        box_of = {int(object_): int(box) for box, object_ in zip(order, given, strict=True)}
        for object_, row in enumerate(rows):
            box = box_of.get(object_)
            if box is None:
                objects.append(tell_object(("missed", name), truth.boxes[row], affine))
                continue
            one = tell_object(
                ("found" if round(float(scores[box]), 6) >= SURE else "missed", name),
                truth.boxes[row],
                affine,
                score=scores[box],
                overlap=overlaps[box, object_],
                found=own.boxes[box],
            )
            objects.append(one)
        objects += [
            tell_object(("false", name), own.boxes[box], affine, score=scores[box])
            for box, object_ in zip(order, given, strict=True)
            if object_ < 0 and scores[box] >= SURE
        ]
    return sum_up_case(objects, len(truth.boxes))


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
