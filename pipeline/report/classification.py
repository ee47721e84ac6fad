"""The page of a run that labels whole clips: what it got right, and how it went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.classification.explain import explanation_path, read_explained
from pipeline.report import scores
from pipeline.report.choices import describe_choices
from pipeline.report.confusion import commonest_share, draw_confusion, worst_pairs
from pipeline.report.explained import draw_heat_key
from pipeline.report.filmstrip import Film, Lane, draw_chances, draw_film, draw_lanes
from pipeline.report.page import anchor
from pipeline.report.plots import training_plots, truth_plot
from pipeline.report.protocol import protocol_text
from pipeline.report.reasons import Reasons, draw_reasons
from pipeline.report.record import Record, command_text, read_record, spent_text
from pipeline.report.template import write_page
from pipeline.report.wording import humanise, known
from volumetric.cases import Case
from volumetric.errors import VolumetricError

_ALL = "all"  # the pseudo class: every case, or the mean over classes
_HEADLINE = ("top1", "balanced_accuracy", "f1", "auroc")
_HEADLINE_MANY = ("average_precision", "auroc")  # several labels a case
_MOST_BARS = 5

_Result = Mapping[str, Any]


def write_classification_report(run: Path, cases: Sequence[Case], *, n_pictures: int = 24) -> Path:
    """Write `<run>/report/index.html`, the surest mistakes first, and return its path.

    Every number comes from a file of the run; filmstrips are made from `<run>/prepared/<id>
    .safetensors` of the first `n_pictures` cases, and all cases are listed. `cases` are those of
    the manifest: only theirs are pictured, and those without a result are counted. A case whose
    picture cannot be made says why in its place.

    Raises:
        UnreadableFileError: a file of the run is damaged.
    """
    record = read_record(run)
    ordered = surest_mistakes_first(record.results.get("cases") or [])
    own = {case.id for case in cases}
    pictured = _pictured(ordered, own, n_pictures)
    films = {name: _film(run / "prepared", name) for name in pictured}
    reasons = {name: _reasons(run, name, f"heat-{n}") for n, name in enumerate(pictured)}
    n_apart = len(own - {str(case["id"]) for case in ordered})
    context = _context(record, ordered, films, reasons) | {"n_apart": n_apart}
    return write_page(run / "report" / "index.html", "classification.html", context)


def cases_to_picture(run: Path, cases: Sequence[Case], *, n_pictures: int = 24) -> list[str]:
    """The ids of the cases that the report pictures."""
    ordered = surest_mistakes_first(read_record(run).results.get("cases") or [])
    return _pictured(ordered, {case.id for case in cases}, n_pictures)


def _pictured(ordered: Sequence[_Result], own: set[str], n_pictures: int) -> list[str]:
    return [str(case["id"]) for case in ordered if str(case["id"]) in own][:n_pictures]


def surest_mistakes_first(cases: Sequence[_Result]) -> list[_Result]:
    """Cases by rising probability of the truth; then those without, the least sure first."""

    def rank(case: _Result) -> tuple[bool, float, str]:
        value = _true_probability(case)
        found = [p for p in map(known, (case.get("probabilities") or {}).values()) if p is not None]
        sure = max(found, default=1.0)
        return value is None, sure if value is None else value, str(case["id"])

    return sorted(cases, key=rank)


def _true_probability(case: _Result) -> float | None:
    return known((case.get("scores") or {}).get("true_probability"))


def _film(folder: Path, name: str) -> Film | str:
    # An id comes from a file: one that is no plain name must not lead out of the folder.
    path = folder / f"{name}.safetensors"
    if path.parent != folder or "\0" in name:
        return "No picture: the id names no file."
    try:
        return draw_film(path)
    except VolumetricError as error:
        # Without the path: a file's name may name a person.
        return f"No picture: {error.reason}. {error.remedy}."


def _reasons(run: Path, name: str, key: str) -> Reasons | None:
    """What spoke for the answer, if that was explained and can be drawn."""
    path = explanation_path(run, name)
    if path.parent != run / "explanations" or "\0" in name:
        return None
    try:
        explained = read_explained(path)
        return None if explained is None else draw_reasons(explained, key=key)
    except VolumetricError:
        return None


def _context(
    record: Record,
    ordered: Sequence[_Result],
    films: Mapping[str, Film | str],
    reasons: Mapping[str, Reasons | None],
) -> dict[str, Any]:
    results = record.results
    labels = [str(label) for label in results.get("labels") or []]
    links = {
        name: "#" + quote(anchor(name, pictured=name in films))
        for name in (str(case["id"]) for case in ordered)
    }
    confusion, metrics = results.get("confusion"), results.get("metrics") or {}
    confidence = scores.confidence(results)
    return {
        "record": record,
        "multi_label": bool(results.get("multi_label")),
        "headline": _headline(metrics, confidence),
        "protocol": protocol_text(results.get("protocol") or {}),
        "baseline": _baseline(confusion, labels),
        "facts": _facts(record, ordered),
        "notes": [str(note) for note in results.get("notes") or []],
        "confidence": confidence,
        **_tables(results, labels),
        "confusion": confusion and draw_confusion(confusion, labels, links),
        "mistakes": worst_pairs(confusion, labels) if confusion else [],
        **describe_choices(results, labels),
        "strips": truth_plot(ordered, labels, links),
        "trainings": training_plots(record.history),
        "cases": [
            _case_view(case, labels, films.get(str(case["id"])))
            | {
                "rank": rank,
                "link": links[str(case["id"])],
                "reasons": reasons.get(str(case["id"])),
            }
            for rank, case in enumerate(ordered, start=1)
        ],
        "n_pictured": len(films),
        "heat_key": draw_heat_key() if any(reasons.values()) else None,
        "pictured": "Slices are evenly spaced where there is something to see."
        if _is_of_scans(results)
        else "Frames are evenly spaced in time.",
        **_fingerprint(record.fingerprint),
        "origin": {k: v for k, v in record.provenance.items() if k != "command"},
        "command": command_text(record),
    }


def _fingerprint(fingerprint: _Result) -> dict[str, _Result]:
    """Single facts; cases by label, whose names are shown as they are; spreads as one table."""
    others = {key: value for key, value in fingerprint.items() if key != "labels"}
    return {
        "counts": fingerprint.get("labels") or {},
        "traits": {k: v for k, v in others.items() if not isinstance(v, Mapping)},
        "spreads": {humanise(k): v for k, v in others.items() if isinstance(v, Mapping)},
    }


def _baseline(confusion: _Result | None, labels: Sequence[str]) -> str:
    share = commonest_share(confusion) if confusion else None
    if share is None:
        return ""
    row, part = share
    n_present = sum(any(counts) for counts in (confusion or {})["counts"])
    return (
        f"For comparison: always naming {labels[row]}, the commonest class, would score "
        f"{part:.3f} top-1 and {1 / n_present:.3f} balanced accuracy."
    )


def _headline(metrics: _Result, confidence: str) -> list[dict[str, Any]]:
    return [
        {
            "label": _overall_name(metric, metrics[metric]),
            "value": scores.number(summary.get("mean"), metric, reason=summary.get("reason")),
            "interval": scores.stated_interval(summary, metric, confidence),
        }
        for metric in (_HEADLINE if "top1" in metrics else _HEADLINE_MANY)
        if (summary := metrics.get(metric, {}).get(_ALL)) is not None
    ]


def _overall_name(metric: str, by_class: _Result) -> str:
    name = scores.metric_name(metric)
    return f"{name}, mean of classes" if len(by_class) > 1 else name


def _facts(record: Record, ordered: Sequence[_Result]) -> list[tuple[str, str, str]]:
    """What a reader asks first, as (label, text, link or "")."""
    n_cases = len(ordered)
    scored = [case for case in ordered if _true_probability(case) is not None]
    facts = [("case" if n_cases == 1 else "cases", str(n_cases), "#all")]
    if scored:
        subjects = {case.get("subject") for case in scored}
        facts.append(("subject" if len(subjects) == 1 else "subjects", str(len(subjects)), ""))
        wrong = sum(_verdict(case) == "wrong" for case in scored)
        facts.append(("wrong", str(wrong), ""))
        if len(scored) < n_cases:
            facts.append(("without truth", str(n_cases - len(scored)), ""))
    n_apart = len(record.quarantine)
    facts.append(("quarantined", str(n_apart), "#quarantine" if n_apart else ""))
    if (folds := len({case.get("fold") for case in ordered} - {None})) > 1:
        facts.append(("folds", str(folds), ""))
    told = (
        ("of computing", spent_text(record)),
        ("device", record.provenance.get("device")),
    )
    return facts + [(label, str(text), "") for label, text in told if text]


def _tables(results: _Result, labels: Sequence[str]) -> dict[str, Any]:
    """Metrics of all cases, beside those of single views, and metrics by class."""
    metrics, of_views = results.get("metrics") or {}, results.get("view_metrics") or {}
    several = any(len(case.get("views") or []) > 1 for case in results.get("cases") or [])
    overall = [
        {
            "name": _overall_name(metric, metrics[metric]),
            "cells": [
                _cell(table.get(metric, {}).get(_ALL), metric, _ALL)
                for table in ((metrics, of_views) if several and of_views else (metrics,))
            ],
        }
        for metric in metrics
        if _ALL in metrics[metric]
    ]
    by_class = [m for m in metrics if any(label in metrics[m] for label in labels)]
    level = "Scans" if _is_of_scans(results) else "Clips"
    return {
        "overall": overall,
        "levels": [level, "Single views"] if several and of_views else [level],
        "class_metrics": [scores.metric_name(metric) for metric in by_class],
        "classes": [
            {"name": label, "cells": [_cell(metrics[m].get(label), m, label) for m in by_class]}
            for label in labels
            if by_class
        ],
        "meanings": [
            (scores.metric_name(m), scores.metric_meaning(m))
            for m in metrics
            if scores.metric_meaning(m)
        ],
    }


def _is_of_scans(results: _Result) -> bool:
    return results.get("task") == "classify_scans"


def _cell(summary: _Result | None, metric: str, name: str) -> dict[str, Any] | None:
    if summary is None:
        return None
    value = scores.number(summary.get("mean"), metric, reason=summary.get("reason"))
    # No class's calibration error has an interval: said once, of all of them.
    whole = name == _ALL or not metric.startswith("ece")
    interval = (scores.interval if whole else scores.known_interval)(summary, metric)
    return {"value": value, "interval": interval, "n": summary.get("n")}


def _verdict(case: _Result) -> str:
    """Right, wrong, or "" where the truth is not known."""
    if _true_probability(case) is None:
        return ""
    same = set(case.get("truth") or []) == set(case.get("predicted") or [])
    return "right" if same else "wrong"


def _case_view(case: _Result, labels: Sequence[str], film: Film | str | None) -> dict[str, Any]:
    probabilities = case.get("probabilities") or {}
    truth, predicted = case.get("truth") or [], case.get("predicted") or []
    verdict = _verdict(case)
    by_probability = sorted(probabilities, key=lambda name: -(known(probabilities[name]) or 0.0))
    told = set(by_probability[:_MOST_BARS]) | set(truth) | set(predicted)
    shown = [name for name in by_probability if name in told]
    lanes: tuple[Lane, ...] = ()
    reading = ""
    if film is not None:
        asked = [name for name in shown if name in truth or name in predicted] or shown[:1]
        duration_s = film.duration_s if isinstance(film, Film) else None
        lanes, reading = draw_lanes(case, labels, asked, duration_s)
    surest = max((p for p in map(known, probabilities.values()) if p is not None), default=None)
    return {
        "id": str(case["id"]),
        "subject": case.get("subject"),
        "fold": case.get("fold"),
        "truth": ", ".join(map(str, truth)) or ("none" if verdict else "\N{EN DASH}"),
        "predicted": ", ".join(map(str, predicted)) or "none",
        "verdict": verdict,
        "probability": scores.number(_true_probability(case), "probability", reason="no truth"),
        "confidence": scores.number(surest, "probability"),
        "film": film,
        "lanes": lanes,
        "reading": reading,
        "chances": draw_chances(shown, case) if film is not None and shown else "",
    }
