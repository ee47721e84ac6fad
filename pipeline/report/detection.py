"""The page of a run that finds objects: what it missed first, then what it took for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from pipeline.report import scores
from pipeline.report.charts import N_COLOURS
from pipeline.report.drawing import FALSE, FOUND, MISSED
from pipeline.report.found import draw_froc, draw_precision
from pipeline.report.objects import ObjectPictures, draw_objects
from pipeline.report.page import anchor
from pipeline.report.plots import training_plots
from pipeline.report.record import Curve, Record, command_text, read_record, spent_text
from pipeline.report.template import write_page
from volumetric.cases import Case
from volumetric.errors import VolumetricError

_ALL = "all"  # the pseudo class: the mean over classes
_OVERLAPS = (0.1, 0.5)  # of the precision and recall that are drawn
_HEADLINES = {
    "detect": ("froc", "ap@0.1", "ap@0.5", "count_error"),
    "instances": ("panoptic_quality", "ap@0.5", "recognition_quality", "count_error"),
}
_TITLES = {"detect": "Detection", "instances": "Instances"}
_COUNTED = {
    "detect": "A box counts from a score of 0.5 on.",
    "instances": "Found is what overlaps by more than half. Shown are the boxes around outlines.",
}
_Result = Mapping[str, Any]


def write_detection_report(
    run: Path, cases: Sequence[Case], *, classes: Mapping[int, str], n_pictures: int = 24
) -> Path:
    """Write `<run>/report/index.html`, most missed first, and return its path.

    Every number comes from a file of the run; pictures are made from the images of the first
    `n_pictures` cases. A case whose picture cannot be made says why in its place.

    Raises:
        UnreadableFileError: a file of the run is damaged.
    """
    record = read_record(run)
    ordered = most_missed_first(record.results.get("cases") or [])
    own = {case.id: case for case in cases}
    shown = [case for case in ordered if str(case["id"]) in own and case["objects"]][:n_pictures]
    modality = record.fingerprint.get("modality")
    pictures = {
        str(case["id"]): _picture(
            own[str(case["id"])], case["objects"], (classes, modality), key=f"object-{number}"
        )
        for number, case in enumerate(shown)
    }
    n_unlabelled = int(record.results.get("n_unlabelled") or 0)
    n_apart = len(set(own) - {str(case["id"]) for case in ordered}) - n_unlabelled
    context = _context(record, ordered, pictures) | {
        "n_apart": n_apart,
        "n_unlabelled": n_unlabelled,
    }
    return write_page(run / "report" / "index.html", "detection.html", context)


def most_missed_first(cases: Sequence[_Result]) -> list[_Result]:
    """Cases by falling number of objects missed, then of false boxes; ties by id."""
    return sorted(cases, key=lambda one: (-one["n_missed"], -one["n_false"], str(one["id"])))


def _picture(
    case: Case,
    objects: Sequence[_Result],
    known: tuple[Mapping[int, str], str | None],
    *,
    key: str,
) -> ObjectPictures | str:
    classes, modality = known
    try:
        return draw_objects(case, objects, classes=classes, modality=modality, key=key)
    except VolumetricError as error:
        # Without the path: a file's name may name a person.
        return f"No picture: {error.reason}. {error.remedy}."


def _context(
    record: Record, ordered: Sequence[_Result], pictures: Mapping[str, ObjectPictures | str]
) -> dict[str, Any]:
    results = record.results
    metrics = results.get("metrics") or {}
    curves = results.get("curves") or {}
    names, task = list(curves), str(results.get("task", "detect"))
    return {
        "record": record,
        "title": _TITLES[task],
        "counted": _COUNTED[task],
        "validated": "Panoptic quality" if task == "instances" else "AP at an IoU of 0.1",
        "headline": _headline(results),
        "facts": _facts(record, ordered),
        "notes": [str(note) for note in results.get("notes", [])],
        "confidence": scores.confidence(results),
        "names": [*names, *([_ALL] if len(names) > 1 else [])],
        "rows": _rows(metrics, names),
        "meanings": [
            (scores.metric_name(metric), scores.metric_meaning(metric))
            for metric in metrics
            if scores.metric_meaning(metric)
        ],
        "charts": _charts(curves),
        "trainings": training_plots(record.history),
        "cases": [
            {
                **{name: case[name] for name in ("n_objects", "n_found", "n_missed", "n_false")},
                "id": str(case["id"]),
                "subject": case.get("subject"),
                "fold": case.get("fold"),
                "rank": rank,
                "link": "#" + quote(anchor(str(case["id"]), pictured=str(case["id"]) in pictures)),
                "picture": pictures.get(str(case["id"])),
            }
            for rank, case in enumerate(ordered, start=1)
        ],
        "n_pictured": len(pictures),
        "colours": (("truth", MISSED), ("found", FOUND), ("false", FALSE)),
        "origin": {k: v for k, v in record.provenance.items() if k != "command"},
        "command": command_text(record),
    }


def _headline(results: _Result) -> list[dict[str, Any]]:
    metrics, confidence = results.get("metrics") or {}, scores.confidence(results)
    return [
        {
            "label": scores.metric_name(metric),
            "value": scores.number(
                metrics[metric][_ALL].get("mean"), metric, reason=metrics[metric][_ALL]["reason"]
            ),
            "interval": scores.stated_interval(metrics[metric][_ALL], metric, confidence),
        }
        for metric in _HEADLINES[str(results.get("task", "detect"))]
        if metric in metrics
    ]


def _facts(record: Record, ordered: Sequence[_Result]) -> list[tuple[str, str]]:
    """What a reader asks first, as (label, text)."""
    totals = {
        name: sum(case[name] for case in ordered)
        for name in ("n_objects", "n_found", "n_missed", "n_false")
    }
    facts = [
        ("case" if len(ordered) == 1 else "cases", str(len(ordered))),
        ("object" if totals["n_objects"] == 1 else "objects", str(totals["n_objects"])),
        ("found", str(totals["n_found"])),
        ("missed", str(totals["n_missed"])),
        ("false", str(totals["n_false"])),
        ("quarantined", str(len(record.quarantine))),
    ]
    if spent := spent_text(record):
        facts.append(("of computing", spent))
    if record.provenance.get("device"):
        facts.append(("device", str(record.provenance["device"])))
    return facts


def _rows(metrics: _Result, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each metric, a cell for each class, and one for the mean if there are several."""
    columns = [*names, _ALL] if len(names) > 1 else [_ALL]
    return [
        {
            "name": scores.metric_name(metric),
            "cells": [
                {
                    "value": scores.number(
                        by_class[name].get("mean"), metric, reason=by_class[name].get("reason")
                    ),
                    "interval": scores.interval(by_class[name], metric),
                    "n": by_class[name].get("n"),
                }
                for name in columns
            ],
        }
        for metric, by_class in metrics.items()
    ]


def _keys(names: Sequence[str]) -> Markup:
    """What each line of a chart is."""
    one = Markup('<span class="key"><i style="background:var(--class-{})"></i>{}</span>')
    keys = [one.format(number % N_COLOURS, name) for number, name in enumerate(names)]
    return Markup(" ").join(keys)


def _charts(curves: _Result) -> list[tuple[str, Markup, Markup]]:
    """Title, how to read it, and chart: FROC, and precision over recall of each class."""
    if not curves:
        return []

    def points(name: str, kind: str) -> Curve:
        return [(float(x), float(y)) for x, y in curves[name][kind]]

    froc = {name: points(name, "froc") for name in curves}
    drawn = [
        (
            "FROC",
            Markup("Matched at an IoU of 0.1; the seven dots are averaged. {}").format(
                _keys(list(curves) if len(curves) > 1 else [])
            ),
            draw_froc(froc, label="Sensitivity against false boxes a case"),
        )
    ]
    for name in curves:
        kinds = [f"precision@{overlap:g}" for overlap in _OVERLAPS]
        drawn.append(
            (
                f"Precision and recall, {name}",
                _keys([f"IoU {overlap:g}" for overlap in _OVERLAPS]),
                draw_precision(
                    {kind: points(name, kind) for kind in kinds},
                    label=f"Precision against recall, {name}",
                ),
            )
        )
    return drawn
