"""Series: several runs on the same cases, each beside the first, on one page.

Runs that differ in nothing but their seed are one row: the mean of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.compare import compare
from pipeline.comparison.pairing import Pair, pair_runs
from pipeline.comparison.repeats import describe_repeats, group_repeats
from pipeline.files import read_json, write_json
from pipeline.report.series import write_series_page
from volumetric.metrics.resampling import Resampling

_METRICS = ("top1", "balanced_accuracy", "auroc", "average_precision", "dice", "nsd")
_MEANS = ("all", "mean")
_NAMED = 3  # runs, in a warning


def compare_series(
    runs: Sequence[Path], *, out: Path | None = None, n_resamples: int = 10_000
) -> tuple[Path, dict[str, Any]]:
    """Write series.json and series.html below `out`; the page's path, and what series.json holds.

    Of each run that is its own means with their intervals, and what differs from the first, whose
    pages are written, too. Runs of classification that differ in nothing but their seed are taken
    together: the means over them, their cases resampled together. `out` unset:
    `<first>_series` beside the first.

    Raises:
        As `compare`.
    """
    out = out or runs[0].resolve().parent / f"{runs[0].resolve().name}_series"
    pairs = [pair_runs(runs[0], other) for other in runs[1:]]
    groups = group_repeats([pairs[0].first, *(pair.second for pair in pairs)])
    differs = len({group.share for group in groups}) > 1
    if pairs[0].task == "classify" and (differs or len(groups) < len(runs)):
        confidence = float(pairs[0].first.results.get("confidence") or 0.95)
        how = Resampling(n_resamples, confidence=confidence)
        series = describe_repeats(pairs, groups, metrics=_METRICS, resampling=how)
    else:
        series = _describe_runs(runs, out, n_resamples)
    series["warnings"] = _warn(pairs)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "series.json", series)
    return write_series_page(out, series), series


def _describe_runs(runs: Sequence[Path], out: Path, n_resamples: int) -> dict[str, Any]:
    first, *others = runs
    found = {
        other: compare(first, other, out=out / other.resolve().name, n_resamples=n_resamples)[1]
        for other in others
    }
    some = next(iter(found.values()))
    rows = [(metric, name) for metric in _METRICS if (name := _mean_of(some["metrics"], metric))]
    return {
        "confidence": some["confidence"],
        "n_cases": some["n_cases"],
        "n_subjects": some["n_subjects"],
        "notes": some["notes"],
        "runs": [
            {
                "name": (some["a"] if run is first else found[run]["b"])["name"],
                "page": None if run is first else f"{run.resolve().name}/comparison.html",
                "settings": [] if run is first else found[run]["settings"],
                "metrics": {
                    metric: {
                        "own": _own(run, metric, name),
                        "difference": None if run is first else found[run]["metrics"][metric][name],
                    }
                    for metric, name in rows
                },
            }
            for run in runs
        ],
    }


def _warn(pairs: Sequence[Pair]) -> list[str]:
    """What is said of any two of the runs, once, and whether their code differs."""
    said: dict[str, list[str]] = {}
    for pair in pairs:
        for warning in pair.warnings:
            said.setdefault(warning, []).append(pair.second.name)
    first = pairs[0].first
    found = [
        f"{text} A is {first.name}; B: {', '.join(names[:_NAMED])}"
        + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        for text, names in said.items()
    ]
    sides = [first, *(pair.second for pair in pairs)]
    if len({side.record.provenance.get("commit") for side in sides}) > 1:
        found.append("The runs were made by several commits of the code.")
    return found


def _mean_of(metrics: Mapping[str, Any], metric: str) -> str | None:
    by_class = metrics.get(metric, {})
    return next((name for name in _MEANS if name in by_class), None)


def _own(run: Path, metric: str, name: str) -> dict[str, Any] | None:
    """The run's own mean over all its cases, with its interval, as its report has it."""
    metrics: Mapping[str, Any] = read_json(run / "results.json")["metrics"]
    summary: dict[str, Any] | None = metrics.get(metric, {}).get(name)
    return summary
