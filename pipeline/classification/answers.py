"""Answers: what was predicted of cases, scored against their labels where those are known."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
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
from pipeline.results import note_few_subjects
from volumetric.cases import Case
from volumetric.check.labels import split_label
from volumetric.metrics.classification import count_confusion, score_classification
from volumetric.metrics.resampling import Resampling

Scored = Sequence[tuple[Case, Mapping[str, Any]]]


@dataclass(frozen=True, eq=False)
class Answers:
    """What was predicted.

    Attributes:
        scored: cases, each with its "probabilities" by label, of its "views" and their "seconds".
        labels: what a case may be called.
        multi_label: whether it may be called several at a time.
        known: ids of the cases whose truth is known; of several labels it may be none at all.
        resampling: how intervals are drawn.
    """

    scored: Scored
    labels: Sequence[str]
    multi_label: bool
    known: frozenset[str]
    resampling: Resampling


def describe_answers(answers: Answers) -> dict[str, Any]:
    """What results.json says of them."""
    labelled = [(case, found) for case, found in answers.scored if case.id in answers.known]
    return {
        "n_cases": len(labelled),
        "confidence": answers.resampling.confidence,
        "labels": list(answers.labels),
        "multi_label": answers.multi_label,
        **(_scores(answers, labelled) if labelled else {"metrics": {}, "view_metrics": {}}),
        "notes": note_few_subjects([case.subject for case, _ in labelled]) if labelled else [],
        "cases": [_describe(answers, case, found) for case, found in answers.scored],
    }


def write_scores(path: Path, answers: Answers) -> None:
    """One row a case: easy to open in a spreadsheet; unknown values stay empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "subject", "fold", "truth", "predicted", *answers.labels])
        for case, found in answers.scored:
            one = _describe(answers, case, found)
            sides = [";".join(one["truth"]), ";".join(one["predicted"])]
            values = [found["probabilities"][name] for name in answers.labels]
            writer.writerow([case.id, case.subject, case.fold, *sides, *values])


def target_of(case: Case, labels: Sequence[str], *, multi_label: bool) -> NDArray[np.float32]:
    """1 for each label the case has, else 0: (n_labels,)."""
    label = case.label or ""
    own = set(split_label(label)) if multi_label else {label}
    return np.array([float(name in own) for name in labels], dtype=np.float32)


def _scores(answers: Answers, labelled: Scored) -> dict[str, Any]:
    """Metrics at the level of videos, where views are averaged, and of single views."""
    judged = _judge(answers, labelled)
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
        "confusion": None if answers.multi_label else _confusion(judged),
        "reliability": draw_bins(judged, judged.probabilities),
        "thresholds": thresholds,
        "temperature": score_scaled(judged),
    }


def _judge(answers: Answers, labelled: Scored) -> Judged:
    cases = [case for case, _ in labelled]
    return Judged(
        np.array([list(found["probabilities"].values()) for _, found in labelled]),
        _truth(answers, cases),
        answers.labels,
        cases,
        answers.resampling,
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


def _truth(answers: Answers, cases: Sequence[Case]) -> NDArray[np.int64]:
    targets = np.stack([_target(answers, case) for case in cases]).astype(np.int64)
    return targets if answers.multi_label else targets.argmax(1)


def _describe(answers: Answers, case: Case, found: Mapping[str, Any]) -> dict[str, Any]:
    probabilities: dict[str, float] = found["probabilities"]
    known = case.id in answers.known
    names = answers.labels
    target = _target(answers, case).tolist()
    truth = [name for name, own in zip(names, target, strict=True) if own] if known else []
    if answers.multi_label:
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


def _target(answers: Answers, case: Case) -> NDArray[np.float32]:
    return target_of(case, answers.labels, multi_label=answers.multi_label)
