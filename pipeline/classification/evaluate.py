"""Evaluate: every clip's probabilities against its label, every metric with its interval."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.classification.choices import (
    Judged,
    calibrate,
    draw_bins,
    plain_scores,
    score_at_thresholds,
    score_scaled,
)
from pipeline.classification.predict import predicted_cases, prediction_path
from pipeline.classification.train import target_of
from pipeline.files import read_json, write_json
from pipeline.keys import read_plan
from pipeline.provenance import record_time
from pipeline.results import note_few_subjects
from pipeline.run import ClassifyRun, forget
from volumetric.cases import Case
from volumetric.errors import OutputError
from volumetric.metrics.classification import count_confusion, score_classification
from volumetric.metrics.resampling import Resampling

Scored = Sequence[tuple[Case, Mapping[str, Any]]]
"""Cases with what was predicted of them."""


def evaluate(run: ClassifyRun) -> None:
    """Write results.json and scores.csv over all cases that have a label and a prediction.

    Raises:
        OutputError: nothing has been predicted.
    """
    with record_time(run.folder, "evaluate"):
        forget(run, "evaluate", run.cases)
        scored = [(case, read_json(prediction_path(run, case))) for case in predicted_cases(run)]
        if not scored:
            raise OutputError(
                "stage-missing",
                "holds no prediction",
                "Run `volumetric predict` first",
                path=run.predictions,
            )
        write_json(run.folder / "results.json", _results(run, scored))
        _write_scores(run, scored)


def _results(run: ClassifyRun, scored: Scored) -> dict[str, Any]:
    labelled = [(case, found) for case, found in scored if case.label is not None]
    labels = run.data_set.labels
    return {
        "task": "classify",
        "n_cases": len(labelled),
        "confidence": run.config.evaluate.confidence,
        "labels": list(labels),
        "multi_label": run.data_set.multi_label,
        "protocol": _protocol(run, scored),
        **(_scores(run, labelled) if labelled else {"metrics": {}, "view_metrics": {}}),
        "notes": note_few_subjects([case.subject for case, _ in labelled]) if labelled else [],
        "cases": [_describe(run, case, found) for case, found in scored],
        "provenance": read_json(run.folder / "provenance.json"),
    }


def _protocol(run: ClassifyRun, scored: Scored) -> dict[str, Any]:
    """How clips were tested: without it a number says little."""
    model = run.config.model.model_dump(include={"frames", "stride", "sampling", "size", "fit"})
    section = run.config.predict
    views = 1 if run.config.model.sampling == "uniform" else section.views
    crops = 1 if run.config.model.fit == "whole" else section.crops
    made = {len(found["views"]) for _, found in scored}
    assert made == {views * crops}, made
    return {
        "views": views,
        "crops": crops,
        **model,
        "rate": read_plan(run)["rate"],
        "input": run.config.model.input,
    }


def _scores(run: ClassifyRun, labelled: Scored) -> dict[str, Any]:
    """Metrics at the level of videos, where views are averaged, and of single views."""
    judged = _judge(run, labelled)
    how: dict[str, Any] = {"classes": judged.labels, "resampling": judged.resampling}
    metrics = score_classification(
        judged.probabilities, judged.truth, subjects=judged.subjects, **how
    )
    at_thresholds, thresholds = score_at_thresholds(judged)
    metrics |= at_thresholds | calibrate(judged, judged.probabilities)
    views = [np.array(found["views"]) for _, found in labelled]
    counts = [len(one) for one in views]
    view_metrics = score_classification(
        np.concatenate(views),
        np.repeat(judged.truth, counts, axis=0),
        subjects=list(np.repeat(judged.subjects, counts)),
        **how,
    )
    return {
        "metrics": plain_scores(metrics),
        "view_metrics": plain_scores(view_metrics),
        "confusion": None if run.data_set.multi_label else _confusion(judged),
        "reliability": draw_bins(judged, judged.probabilities),
        "thresholds": thresholds,
        "temperature": score_scaled(judged),
    }


def _judge(run: ClassifyRun, labelled: Scored) -> Judged:
    cases = [case for case, _ in labelled]
    section = run.config.evaluate
    return Judged(
        np.array([list(found["probabilities"].values()) for _, found in labelled]),
        _truth(run, cases),
        run.data_set.labels,
        cases,
        Resampling(section.resamples, run.config.seed, section.confidence),
    )


def _confusion(judged: Judged) -> dict[str, Any]:
    confusion = count_confusion(
        judged.probabilities,
        judged.truth,
        classes=judged.labels,
        ids=[case.id for case in judged.cases],
    )
    ids = {f"{one}|{other}": list(names) for (one, other), names in confusion.ids.items()}
    return {"counts": confusion.counts.tolist(), "ids": ids}


def _truth(run: ClassifyRun, cases: Sequence[Case]) -> NDArray[np.int64]:
    targets = np.stack([target_of(run, case).numpy() for case in cases]).astype(np.int64)
    return targets if run.data_set.multi_label else targets.argmax(1)


def _describe(run: ClassifyRun, case: Case, found: Mapping[str, Any]) -> dict[str, Any]:
    probabilities: dict[str, float] = found["probabilities"]
    known = case.label is not None
    names = run.data_set.labels
    target = target_of(run, case).tolist()
    truth = [name for name, own in zip(names, target, strict=True) if own] if known else []
    if run.data_set.multi_label:
        predicted = [name for name, value in probabilities.items() if value > 0.5]
        own = [p if name in truth else 1 - p for name, p in probabilities.items()]
        score = float(np.mean(own)) if known else None
    else:
        predicted = [max(probabilities, key=lambda name: probabilities[name])]
        score = probabilities[truth[0]] if truth else None
    return {
        "id": case.id,
        "subject": case.subject,
        "fold": case.fold,
        "truth": truth,
        "predicted": predicted,
        "probabilities": probabilities,
        "views": found["views"],
        "seconds": found["seconds"],
        "scores": {"true_probability": score},
    }


def _write_scores(run: ClassifyRun, scored: Scored) -> None:
    """One row a case: easy to open in a spreadsheet; unknown values stay empty."""
    labels = run.data_set.labels
    with (run.folder / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "subject", "fold", "truth", "predicted", *labels])
        for case, found in scored:
            one = _describe(run, case, found)
            sides = [";".join(one["truth"]), ";".join(one["predicted"])]
            values = [found["probabilities"][name] for name in labels]
            writer.writerow([case.id, case.subject, case.fold, *sides, *values])
