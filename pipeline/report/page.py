"""The page: what a run left, put in order and written as one self-contained file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from pipeline.report import scores
from pipeline.report.drawing import CLASS_COLOURS, CONFUSED, FALSE, MISSED
from pipeline.report.pictures import Picture, draw_case
from pipeline.report.plots import agreement_plots, strip_plots, training_plots
from pipeline.report.record import Record, command_text, read_record, spent_text
from pipeline.report.template import write_page
from pipeline.report.wording import known
from volumetric.cases import Case
from volumetric.errors import VolumetricError

_TASKS = {"segment": "Segmentation", "pretrain": "Pretraining", "pretrain_clips": "Pretraining"}


def write_report(
    run: Path, cases: Sequence[Case], *, classes: Mapping[int, str], n_pictures: int = 24
) -> Path:
    """Write `<run>/report/index.html`, the worst cases first, and return its path.

    Every number comes from a file of the run; pictures are made from the cases' images and masks
    and `<run>/predictions/<id>.nii.gz`, for the worst `n_pictures` cases. All cases are listed.
    `classes` names the mask values. A case whose picture cannot be made says why in its place.

    Raises:
        UnreadableFileError: a file of the run is damaged.
    """
    record = read_record(run)
    scored = {str(case["id"]): case for case in record.results.get("cases", [])}
    predicted = {case.id: run / "predictions" / f"{case.id}.nii.gz" for case in cases}
    listed = [
        scored.pop(case.id, {"id": case.id, "fold": case.fold})
        for case in cases
        if case.id in scored or predicted[case.id].exists()
    ]
    n_apart = len(cases) - len(listed)
    ordered = scores.worst_first([*listed, *scored.values()])
    by_id = {case.id: case for case in cases}
    shown = [case for case in ordered if str(case["id"]) in by_id][:n_pictures]
    pictures = {
        str(case["id"]): _picture(
            by_id[str(case["id"])],
            predicted[str(case["id"])],
            classes=classes,
            modality=record.fingerprint.get("modality"),
            key=f"scan-{number}",
        )
        for number, case in enumerate(shown)
    }
    context = _context(record, ordered, pictures, classes=classes, n_apart=n_apart)
    return write_page(run / "report" / "index.html", "page.html", context)


def anchor(case: str, *, pictured: bool) -> str:
    """The id of a case's place on the page: its pictures, or its row of the table."""
    return f"{'case' if pictured else 'row'}-{case}"


def _picture(
    case: Case, prediction: Path, *, classes: Mapping[int, str], modality: str | None, key: str
) -> Picture | str:
    try:
        return draw_case(case, prediction, classes=classes, modality=modality, key=key)
    except VolumetricError as error:
        # Without the path: a file's name may name a person.
        return f"No picture: {error.reason}. {error.remedy}."


def _context(
    record: Record,
    ordered: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, Picture | str],
    *,
    classes: Mapping[int, str],
    n_apart: int,
) -> dict[str, Any]:
    results = record.results
    metrics = list(results.get("metrics", {}))
    names = scores.class_names(results, classes)
    links = {
        str(case["id"]): "#" + quote(anchor(str(case["id"]), pictured=str(case["id"]) in pictures))
        for case in ordered
    }
    return {
        "record": record,
        "task": _TASKS.get(str(results.get("task")), "Prediction"),
        "headline": _headline(results, names),
        "facts": _facts(record, ordered),
        "notes": [str(note) for note in results.get("notes", [])],
        "n_apart": n_apart,
        "confidence": scores.confidence(results),
        "summary": _summary(results, metrics, names),
        "meanings": _meanings(results, metrics),
        "strips": strip_plots(results, ordered, names, links),
        "agreements": agreement_plots(ordered, names, links),
        "trainings": training_plots(record.history),
        "cases": [
            {
                **_case_view(case, metrics, names),
                "rank": rank,
                "link": links[str(case["id"])],
                "picture": pictures.get(str(case["id"])),
            }
            for rank, case in enumerate(ordered, start=1)
        ],
        "n_pictured": len(pictures),
        "columns": _columns(metrics, names),
        "with_truth": any(
            picture.panels[0].difference is not None
            for picture in pictures.values()
            if isinstance(picture, Picture)
        ),
        "swatches": [
            (name, CLASS_COLOURS[number % len(CLASS_COLOURS)])
            for number, (value, name) in enumerate(sorted(classes.items()))
            if value != 0
        ],
        "differences": (("missed", MISSED), ("false", FALSE), ("wrong class", CONFUSED)),
        "origin": {k: v for k, v in record.provenance.items() if k != "command"},
        "command": command_text(record),
    }


def _headline(results: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """The main metric: its mean over classes first, then each class."""
    metrics, confidence = results.get("metrics", {}), scores.confidence(results)
    if not metrics:
        return []
    metric = "dice" if "dice" in metrics else next(iter(metrics))
    return [
        {
            "label": f"{scores.metric_name(metric)}, "
            + ("mean of classes" if name == scores.MEAN else name),
            "value": scores.number(metrics[metric][name].get("mean"), metric),
            "interval": scores.stated_interval(metrics[metric][name], metric, confidence),
        }
        for name in [scores.MEAN, *names]
        if name in metrics[metric]
    ]


def _facts(record: Record, ordered: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What a reader asks first, as (label, text)."""
    provenance = record.provenance
    n_cases = record.results.get("n_cases", len(ordered))
    facts = [("case" if n_cases == 1 else "cases", str(n_cases))]
    if "dice" in record.results.get("metrics", {}):
        unscored = sum(scores.mean_dice(case) is None for case in ordered)
        facts.append(("without a mean Dice", str(unscored)))
    facts.append(("quarantined", str(len(record.quarantine))))
    if (folds := len({case.get("fold") for case in ordered} - {None})) > 1:
        facts.append(("folds", str(folds)))
    if spent := spent_text(record):
        facts.append(("of computing", spent))
    if provenance.get("device"):
        facts.append(("device", str(provenance["device"])))
    return facts


def _summary(
    results: Mapping[str, Any], metrics: Sequence[str], names: Sequence[str]
) -> list[dict[str, Any]]:
    """One row per class, the mean of the classes last; a cell per metric."""
    rows = []
    for name in [*names, scores.MEAN]:
        cells = [results["metrics"][metric].get(name) for metric in metrics]
        if any(cells):
            rows.append(
                {
                    "name": "mean of classes" if name == scores.MEAN else name,
                    "cells": [
                        cell
                        and {
                            "value": scores.number(
                                cell.get("mean"), metric, reason=cell.get("reason")
                            ),
                            "interval": scores.interval(cell, metric),
                            "n": cell.get("n"),
                        }
                        for metric, cell in zip(metrics, cells, strict=True)
                    ],
                }
            )
    return rows


def _meanings(results: Mapping[str, Any], metrics: Sequence[str]) -> list[tuple[str, str]]:
    tolerance = known(results.get("nsd_tolerance_mm"))
    told = []
    for metric in metrics:
        text = scores.metric_meaning(metric)
        if metric == "nsd" and tolerance is not None:
            text += f" The tolerance is {tolerance:g} mm."
        if text:
            told.append((scores.metric_name(metric), text))
    return told


def _columns(metrics: Sequence[str], names: Sequence[str]) -> list[tuple[str, str]]:
    """What the table of all cases shows, as (metric, class): few enough to be read."""
    few = names if len(names) <= 4 else []
    columns = [("dice", scores.MEAN), *(("dice", name) for name in few)]
    columns += [(m, scores.MEAN) for m in metrics if m != "dice" and not scores.is_volume(m)]
    columns += [("volume_difference_ml", name) for name in few]
    return [column for column in columns if column[0] in metrics]


def _case_view(
    case: Mapping[str, Any],
    metrics: Sequence[str],
    names: Sequence[str],
) -> dict[str, Any]:
    def cell(metric: str, name: str) -> Markup:
        return scores.number(
            scores.score(case, metric, name),
            metric,
            reason=scores.score_reason(case, metric, name),
        )

    scored = bool(case.get("scores"))
    columns = [*names, scores.MEAN]
    return {
        "id": str(case["id"]),
        "fold": case.get("fold"),
        "mean": cell("dice", scores.MEAN) if "dice" in metrics else None,
        "classes": columns,
        "scores": [
            (metric, [cell(metric, column) for column in columns]) for metric in metrics if scored
        ],
        "row": [cell(metric, column) for metric, column in _columns(metrics, names)],
        "reasons": scores.missing_reasons(case),
    }
