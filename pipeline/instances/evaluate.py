"""Evaluate: objects as they were outlined against the true ones, every number with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.detection.judged import cases_to_judge, sum_up_case, tell_object, write_results
from pipeline.files import read_json
from pipeline.instances.predict import predicted_cases, prediction_path, scores_path
from pipeline.progress import each_in_threads
from pipeline.provenance import record_time
from pipeline.run import InstancesRun, forget, quarantine
from volumetric.boxes import Objects
from volumetric.cases import Case
from volumetric.check import read_case
from volumetric.io import read_volume
from volumetric.metrics.detection import score_detection
from volumetric.metrics.instances import (
    MASK_METRICS,
    SAME,
    overlap_instances,
    score_instances,
    sum_up_overlaps,
)
from volumetric.metrics.resampling import Resampling
from volumetric.objects import find_objects


@dataclass(frozen=True, eq=False)
class _Compared:
    """A case's objects, found and true, how far they overlap, and what is told of it."""

    found: Objects
    truth: Objects
    overlaps: NDArray[np.float64]
    told: dict[str, Any]


def evaluate(run: InstancesRun) -> None:
    """Write results.json and scores.csv over all cases that have a mask and a prediction.

    Raises:
        OutputError: nothing has been predicted.
    """
    with record_time(run.folder, "evaluate"):
        forget(run, "evaluate", run.cases)
        cases = cases_to_judge(run, predicted_cases(run))
        compared: dict[str, _Compared] = {}

        def compare(case: Case) -> None:
            compared[case.id] = _compare(run, case)

        known = [case for case in cases if run.has_truth(case)]
        for case, error in each_in_threads(1)(compare, known, "evaluate"):
            if error is not None:
                quarantine(run, "evaluate", case, error)
        good = [case for case in known if case.id in compared]
        write_results(
            run,
            good,
            [compared[case.id].told for case in good],
            n_unlabelled=len(cases) - len(known),
            cohort={
                "metrics": _cohort(run, good, [compared[case.id] for case in good]),
                "curves": {},
            },
        )


def _compare(run: InstancesRun, case: Case) -> _Compared:
    classes = run.data_set.classes
    image, mask = read_case(case, classes=classes, numbered=True)
    assert mask is not None
    predicted = read_volume(prediction_path(run, case))
    scores = np.array(read_json(scores_path(run, case))["scores"], dtype=np.float64)
    truth = find_objects(case, image, mask, classes=classes, numbered=True)
    boxes = find_objects(case, image, predicted, classes=classes, numbered=True)
    assert truth is not None
    assert boxes is not None
    found = Objects(boxes.boxes, boxes.labels, scores)
    overlaps = overlap_instances(predicted.data[0].numpy(), mask.data[0].numpy())
    told = _tell(found, truth, overlaps, (image.affine, next(iter(classes.values()))))
    return _Compared(found, truth, overlaps, told)


def _tell(
    found: Objects,
    truth: Objects,
    overlaps: NDArray[np.float64],
    about: tuple[NDArray[np.float64], str],
) -> dict[str, Any]:
    """What became of each object, and what was outlined that is none, in plain values."""
    affine, name = about
    same, scores = overlaps > SAME, found.known_scores()
    objects = []
    for number, box in enumerate(truth.boxes):
        best = int(overlaps[:, number].argmax()) if len(overlaps) else None
        if best is None or not overlaps[best, number]:
            objects.append(tell_object(("missed", name), box, affine))
            continue
        one = tell_object(
            ("found" if same[:, number].any() else "missed", name),
            box,
            affine,
            score=scores[best],
            overlap=overlaps[best, number],
            found=found.boxes[best],
        )
        objects.append(one)
    objects += [
        tell_object(("false", name), found.boxes[row], affine, score=scores[row])
        for row in np.flatnonzero(~same.any(axis=1))
    ]
    return sum_up_case(objects, len(truth.boxes))


def _cohort(
    run: InstancesRun, cases: Sequence[Case], compared: Sequence[_Compared]
) -> dict[str, Any]:
    if not cases:
        return {}
    section = run.config.evaluate
    resampling = Resampling(section.resamples, run.config.seed, section.confidence)
    subjects = [case.subject for case in cases]
    outlined = [sum_up_overlaps(one.overlaps) for one in compared]
    scores = score_instances(outlined, subjects=subjects, resampling=resampling)
    metrics: dict[str, Any] = {name: {"all": asdict(value)} for name, value in scores.items()}
    by_masks = score_detection(
        [one.found for one in compared],
        [one.truth for one in compared],
        classes=list(run.data_set.classes.values()),
        pairs=[(one.overlaps > SAME).astype(np.float64) for one in compared],
        subjects=subjects,
        resampling=resampling,
    )
    return metrics | {name: {"all": asdict(by_masks[name]["all"])} for name in MASK_METRICS}
