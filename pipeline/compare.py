"""Compare: two runs on the cases that both scored, with paired differences and their intervals."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.comparison.pairing import MEAN, Pair, Side, pair_runs
from pipeline.comparison.scores import Rows, case_scores, compare_areas, score_pair
from pipeline.comparison.settings import differing_settings
from pipeline.comparison.wording import note_one_sided, sentence
from pipeline.files import write_json
from pipeline.report.comparison import write_comparison_page
from pipeline.report.scores import is_loss
from pipeline.results import note_few_subjects
from volumetric.metrics.resampling import Resampling

_MAIN = {
    "classify": ("top1", "average_precision"),
    "detect": ("froc",),
    "instances": ("panoptic_quality",),
    "pretrain": ("explained",),
    "pretrain_clips": ("top1",),
    "segment": ("dice",),
}
_OF_CASES = {
    "classify": ("true_probability", "all"),
    "detect": ("mistakes", "all"),
    "instances": ("mistakes", "all"),
}  # what a case's score is; else the main one


def compare(
    first: Path, second: Path, *, out: Path | None = None, n_resamples: int = 10_000
) -> tuple[Path, dict[str, Any]]:
    """Write comparison.json, comparison.csv and comparison.html; the page's path, and the first.

    Differences are B - A, `second` less `first`, over the cases that both scored against the same
    truth, whole subjects resampled. `out` is the folder to write into; unset: `<A>_vs_<B>` beside
    the first run.

    Raises:
        OutputError: a folder holds no run, or no scored case.
        ConfigError: the runs cannot be compared: see `pair_runs`.
        UnreadableFileError: a file of a run is damaged.
    """
    pair = pair_runs(first, second)
    if out is None:
        names = (side.folder.resolve().name for side in pair.sides)
        out = first.resolve().parent / "_vs_".join(names)
    out.mkdir(parents=True, exist_ok=True)
    found = _describe(pair, out, n_resamples)
    write_json(out / "comparison.json", found)
    _write_cases(pair, found, out / "comparison.csv")
    return write_comparison_page(out, found), found


def _describe(pair: Pair, out: Path, n_resamples: int) -> dict[str, Any]:
    confidence = float(pair.first.results.get("confidence") or 0.95)
    rows = score_pair(pair, Resampling(n_resamples, confidence=confidence))
    metric, name = _main(rows, pair.task)
    found: dict[str, Any] = {
        "task": pair.task,
        **{side.letter.lower(): _describe_side(side, out) for side in pair.sides},
        "classes": list(pair.classes),
        "n_cases": len(pair.ids),
        "n_subjects": len(set(pair.subjects)),
        "only_a": list(pair.only[0]),
        "only_b": list(pair.only[1]),
        "confidence": confidence,
        "resamples": n_resamples,
        "main": {"metric": metric, "class": name},
        "warnings": list(pair.warnings),
        "notes": [*note_few_subjects(pair.subjects), *note_one_sided(rows)],
        "metrics": {
            metric: {name: asdict(row) for name, row in by_class.items()}
            for metric, by_class in rows.items()
        },
        "delong": compare_areas(pair, confidence),
        "settings": [asdict(one) for one in differing_settings(pair)],
    }
    case_metric, case_class = _OF_CASES.get(pair.task, (metric, name))
    found["case_score"] = {"metric": case_metric, "class": case_class}
    found["cases"] = _describe_cases(pair, case_metric, case_class)
    return {"sentence": sentence(found), **found}


def _main(rows: Rows, task: str) -> tuple[str, str]:
    """What the sentence is about: the mean of the first of these that there is."""
    metric = next((m for m in _MAIN[task] if m in rows), next(iter(rows)))
    names = list(rows[metric])
    return metric, next((name for name in (MEAN, "all") if name in names), names[0])


def _describe_side(side: Side, out: Path) -> dict[str, Any]:
    page = side.folder / "report" / "index.html"
    there = os.path.relpath(page.resolve(), out.resolve()) if page.exists() else None
    return {
        "name": side.name,
        "folder": str(side.folder),
        "report": there and quote(Path(there).as_posix()),
        "n_cases": len(side.cases),
        "commit": side.record.provenance.get("commit"),
    }


def _describe_cases(pair: Pair, metric: str, name: str) -> list[dict[str, Any]]:
    """Both scores of each case, B's largest loss first, those without a difference last."""
    found = []
    for case, (a, b) in zip(pair.ids, case_scores(pair, metric, name), strict=True):
        one, other = (side.cases[case] for side in pair.sides)
        found.append(
            {
                "id": case,
                "subject": str(one["subject"]),
                "fold_a": one.get("fold"),
                "fold_b": other.get("fold"),
                "a": a,
                "b": b,
                "difference": None if a is None or b is None else b - a,
                **_labels(one, other),
            }
        )
    sign = -1 if is_loss(metric) else 1
    return sorted(
        found,
        key=lambda case: (case["difference"] is None, sign * (case["difference"] or 0), case["id"]),
    )


def _labels(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, list[str]]:
    if "truth" not in one:
        return {}
    found = {"truth": one, "predicted_a": one, "predicted_b": other}
    return {key: list(case.get(key.split("_")[0]) or []) for key, case in found.items()}


def _write_cases(pair: Pair, found: Mapping[str, Any], path: Path) -> None:
    """One row a case, B's largest loss first: easy to open in a spreadsheet; unknown stays empty.

    Segmentation adds every metric and class of both runs.
    """
    labels = [key for key in ("truth", "predicted_a", "predicted_b") if key in found["cases"][0]]
    columns = ["id", "subject", "fold_a", "fold_b", *labels, "a", "b", "difference"]
    tables = {}
    if pair.task == "segment":
        for metric, by_class in found["metrics"].items():
            for name in by_class:
                values = case_scores(pair, metric, name)
                tables[f"{metric} {name}"] = dict(zip(pair.ids, values, strict=True))
    heads = [f"{title} {letter}" for title in tables for letter in "AB"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*columns, *heads])
        for case in found["cases"]:
            own = [";".join(case[key]) if key in labels else case[key] for key in columns]
            writer.writerow([*own, *(v for table in tables.values() for v in table[case["id"]])])
