"""Evaluate: every prediction against its truth, every mean with its interval."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pipeline.files import read_json, write_json
from pipeline.progress import each_in_threads, one_core_each
from pipeline.provenance import record_time
from pipeline.results import note_few_subjects
from pipeline.run import SegmentRun, forget, quarantine
from pipeline.segmentation.predict import predicted_cases, prediction_path
from volumetric.cases import Case
from volumetric.check import read_case
from volumetric.errors import GeometryError, OutputError
from volumetric.io import read_volume
from volumetric.metrics.segmentation import CaseScores, score_masks
from volumetric.metrics.statistics import bootstrap_mean, known_width


def evaluate(run: SegmentRun) -> None:
    """Write results.json and scores.csv over all cases that have a mask and a prediction.

    Raises:
        OutputError: nothing has been predicted.
    """
    workers = run.config.prepare.workers
    each = each_in_threads(workers)
    with record_time(run.folder, "evaluate"), one_core_each(workers):
        forget(run, "evaluate", run.cases)
        usable = {case.id for case in run.usable_cases()}
        cases = [case for case in predicted_cases(run) if case.id in usable]
        if not cases or not all(prediction_path(run, case).exists() for case in cases):
            raise OutputError(
                "stage-missing",
                "holds no prediction, or lacks some of those that were begun",
                "Run `volumetric predict` first",
                path=run.predictions,
            )
        scored: dict[str, CaseScores] = {}

        def score(case: Case) -> None:
            scored[case.id] = score_case(run, case)

        for case, error in each(score, [case for case in cases if case.mask], "evaluate"):
            if error is not None:
                quarantine(run, "evaluate", case, error)
        good = [case for case in cases if case.id in scored]
        write_json(run.folder / "results.json", _results(run, good, scored))
        _write_scores(run, good, scored)


def score_case(run: SegmentRun, case: Case) -> CaseScores:
    """Scores of one prediction on its source's grid."""
    classes = run.data_set.classes
    _, truth = read_case(case, classes=classes)
    prediction = read_volume(prediction_path(run, case))
    assert truth is not None
    if prediction.shape != truth.shape:
        raise GeometryError(
            "shape-mismatch",
            f"prediction has {prediction.shape} voxels, the mask {truth.shape}",
            "Predict the case again",
            path=prediction_path(run, case),
        )
    return score_masks(
        prediction.data[0],
        truth.data[0],
        spacing_mm=truth.spacing,
        classes=classes,
        tolerance_mm=run.config.evaluate.tolerance_mm,
    )


def _results(
    run: SegmentRun, cases: Sequence[Case], scored: dict[str, CaseScores]
) -> dict[str, Any]:
    return {
        "task": "segment",
        "n_cases": len(cases),
        "nsd_tolerance_mm": run.config.evaluate.tolerance_mm,
        "confidence": run.config.evaluate.confidence,
        "metrics": _cohort(run, cases, scored),
        "notes": note_few_subjects([case.subject for case in cases]),
        "cases": [
            {
                "id": case.id,
                "subject": case.subject,
                "fold": case.fold,
                "scores": scored[case.id].scores,
                "reasons": scored[case.id].reasons,
            }
            for case in cases
        ],
        "provenance": read_json(run.folder / "provenance.json"),
    }


def _cohort(
    run: SegmentRun, cases: Sequence[Case], scored: dict[str, CaseScores]
) -> dict[str, dict[str, Any]]:
    """Mean and interval of each metric and class, resampling whole subjects."""
    if not cases:
        return {}
    section = run.config.evaluate
    subjects = [case.subject for case in cases]
    names = scored[cases[0].id].scores
    return {
        metric: {
            name: asdict(
                known_width(
                    bootstrap_mean(
                        [scored[case.id].scores[metric][name] for case in cases],
                        subjects=subjects,
                        n_resamples=section.resamples,
                        seed=run.config.seed,
                        confidence=section.confidence,
                    )
                )
            )
            for name in by_class
        }
        for metric, by_class in names.items()
    }


def _write_scores(run: SegmentRun, cases: Sequence[Case], scored: dict[str, CaseScores]) -> None:
    """One row a case and class: easy to open in a spreadsheet; unknown values stay empty."""
    with (run.folder / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        metrics = list(scored[cases[0].id].scores) if cases else []
        writer.writerow(["id", "subject", "fold", "class", *metrics])
        for case in cases:
            scores = scored[case.id].scores
            for name in [*run.data_set.classes.values(), "mean"]:
                values = [scores[metric].get(name) for metric in metrics]
                cells = ["" if value is None else value for value in values]
                writer.writerow([case.id, case.subject, case.fold, name, *cells])
