"""Evaluate: objects as they were outlined against the true ones, every number with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.detection.evaluate import write_objects
from pipeline.files import read_json, write_json
from pipeline.instances.predict import predicted_cases, prediction_path, scores_path
from pipeline.progress import each_in_threads
from pipeline.provenance import record_time
from pipeline.results import note_few_subjects
from pipeline.run import InstancesRun, forget, quarantine
from volumetric.boxes import Objects, move_boxes
from volumetric.cases import Case
from volumetric.check import read_case
from volumetric.errors import OutputError
from volumetric.io import read_volume
from volumetric.metrics.detection import score_detection
from volumetric.metrics.instances import Outlined, overlap_instances, score_instances
from volumetric.metrics.resampling import Resampling
from volumetric.objects import find_objects

_SAME = 0.5  # overlap above which an object found is a true one, as of panoptic quality
_OF_OBJECTS = ("ap@0.5", "ar@0.5")  # of the metrics of detection, those asked of masks


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
        usable = {case.id for case in run.usable_cases()}
        cases = [case for case in predicted_cases(run) if case.id in usable]
        if not cases:
            raise OutputError(
                "stage-missing",
                "holds no prediction",
                "Run `volumetric predict` first",
                path=run.predictions,
            )
        compared: dict[str, _Compared] = {}

        def compare(case: Case) -> None:
            compared[case.id] = _compare(run, case)

        known = [case for case in cases if run.has_truth(case)]
        for case, error in each_in_threads(1)(compare, known, "evaluate"):
            if error is not None:
                quarantine(run, "evaluate", case, error)
        good = [case for case in known if case.id in compared]
        results = {
            "task": "instances",
            "n_cases": len(good),
            "n_unlabelled": len(cases) - len(known),
            "confidence": run.config.evaluate.confidence,
            "metrics": _cohort(run, good, [compared[case.id] for case in good]),
            "curves": {},
            "notes": note_few_subjects([case.subject for case in good]) if good else [],
            "cases": [
                {
                    "id": case.id,
                    "subject": case.subject,
                    "fold": case.fold,
                    **compared[case.id].told,
                }
                for case in good
            ],
            "provenance": read_json(run.folder / "provenance.json"),
        }
        write_json(run.folder / "results.json", results)
        write_objects(run, good, [compared[case.id].told for case in good])


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
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    same, scores = overlaps > _SAME, found.known_scores()

    def describe(kind: str, box: NDArray[np.float64], row: int | None, shared: float | None) -> Any:
        return {
            "kind": kind,
            "class": name,
            "score": None if row is None else round(float(scores[row]), 6),
            "overlap": None if shared is None else round(shared, 4),
            "size_mm": np.round((box[3:] - box[:3]) * spacing, 3).tolist(),
            "box_mm": np.round(move_boxes(box[None], affine)[0], 3).tolist(),
            "box_voxels": np.round(box, 4).tolist(),
            "found_voxels": None
            if row is None or kind == "false"
            else np.round(found.boxes[row], 4).tolist(),
        }

    objects = []
    for number, box in enumerate(truth.boxes):
        best = int(overlaps[:, number].argmax()) if len(overlaps) else None
        shared = None if best is None else float(overlaps[best, number])
        kind = "found" if same[:, number].any() else "missed"
        objects.append(describe(kind, box, best if shared else None, shared or None))
    for row in np.flatnonzero(~same.any(axis=1)):
        objects.append(describe("false", found.boxes[row], int(row), None))
    counts: Mapping[str, int] = {
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


def _cohort(
    run: InstancesRun, cases: Sequence[Case], compared: Sequence[_Compared]
) -> dict[str, Any]:
    if not cases:
        return {}
    section = run.config.evaluate
    resampling = Resampling(section.resamples, run.config.seed, section.confidence)
    subjects = [case.subject for case in cases]
    outlined = []
    for one in compared:
        pairs = one.overlaps[one.overlaps > _SAME]
        outlined.append(Outlined(float(pairs.sum()), len(pairs), *one.overlaps.shape))
    scores = score_instances(outlined, subjects=subjects, resampling=resampling)
    metrics: dict[str, Any] = {name: {"all": asdict(value)} for name, value in scores.items()}
    by_masks = score_detection(
        [one.found for one in compared],
        [one.truth for one in compared],
        classes=list(run.data_set.classes.values()),
        pairs=[one.overlaps for one in compared],
        subjects=subjects,
        resampling=resampling,
    )
    return metrics | {name: {"all": asdict(by_masks[name]["all"])} for name in _OF_OBJECTS}
