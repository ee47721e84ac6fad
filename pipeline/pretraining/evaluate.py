"""Evaluate: how much of what was hidden of held-out cases their fold's network finds out."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from pipeline.device import find_device
from pipeline.files import read_json, write_json
from pipeline.keys import refuse_stale
from pipeline.learning import open_cases
from pipeline.pretraining.config import PretrainClipsConfig, PretrainConfig
from pipeline.pretraining.keys import training_key
from pipeline.pretraining.train import hide_cases
from pipeline.provenance import record_time
from pipeline.results import note_few_subjects
from pipeline.run import PretrainRun, Run
from volumetric.cases import Case
from volumetric.masking import explained
from volumetric.metrics.statistics import bootstrap_mean, known_width
from volumetric.model import load_pretrained

MEAN = "mean"  # the report's name for what is of no class


def evaluate(run: PretrainRun) -> None:
    """Write results.json and scores.csv: explained variance of a hidden patch of each case.

    Raises:
        OutputError: no fold has been trained with the present settings.
    """
    device = find_device(run.config.device)
    with record_time(run.folder, "evaluate"):
        scored: list[dict[str, Any]] = []
        for fold in run.folds():
            scored += _score_fold(run, fold, device)
        write_scores(run, scored, "explained")


def write_scores(
    run: Run[PretrainConfig | PretrainClipsConfig], scored: Sequence[Mapping[str, Any]], metric: str
) -> None:
    """Write results.json and scores.csv: the one metric of each case, and its mean."""
    section = run.config.evaluate
    values = [one["scores"][metric][MEAN] for one in scored]
    interval = known_width(
        bootstrap_mean(
            values,
            subjects=[one["subject"] for one in scored],
            n_resamples=section.resamples,
            seed=run.config.seed,
            confidence=section.confidence,
        )
    )
    results = {
        "task": run.config.task,
        "n_cases": len(scored),
        "confidence": section.confidence,
        "metrics": {metric: {MEAN: asdict(interval)}},
        "notes": note_few_subjects([one["subject"] for one in scored]),
        "cases": scored,
        "provenance": read_json(run.folder / "provenance.json"),
    }
    write_json(run.folder / "results.json", results)
    with (run.folder / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "subject", "fold", metric])
        for one, value in zip(scored, values, strict=True):
            cell = "" if value is None else value
            writer.writerow([one["id"], one["subject"], one["fold"], cell])


def tell_score(
    case: Case, metric: str, value: float | None, *, reason: str | None = None
) -> dict[str, Any]:
    """What results.json says of a case; `reason`: why there is no value."""
    return {
        "id": case.id,
        "subject": case.subject,
        "fold": case.fold,
        "scores": {metric: {MEAN: value}},
        "reasons": {} if value is not None else {metric: {MEAN: reason}},
    }


@torch.inference_mode()
def _score_fold(run: PretrainRun, fold: int, device: torch.device) -> list[dict[str, Any]]:
    model = load_pretrained(run.model, device=device, folds=[fold])
    refuse_stale(run, model.spec.folds, fold, key=training_key(run, fold))
    cases = [case for case in run.labelled_cases() if case.fold == fold]
    patches = hide_cases(run, model.spec, open_cases(run, cases), device)
    values = [explained(model.networks[0](seen), hidden) for seen, hidden in patches]
    return [
        tell_score(case, "explained", value, reason="its hidden part is flat")
        for case, value in zip(cases, values, strict=True)
    ]
