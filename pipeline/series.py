"""Series: several runs on the same cases, each beside the first, on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.compare import compare
from pipeline.files import read_json, write_json
from pipeline.report.series import write_series_page

_METRICS = ("top1", "balanced_accuracy", "auroc", "average_precision", "dice", "nsd")
_MEANS = ("all", "mean")


def compare_series(
    runs: Sequence[Path], *, out: Path | None = None, n_resamples: int = 10_000
) -> tuple[Path, dict[str, Any]]:
    """Write series.json and series.html, and each run's comparison with the first, below `out`.

    Returns the page's path, and what series.json holds: of each run its own means with their
    intervals, and what differs from the first. `out` unset: `<first>_series` beside the first.

    Raises:
        As `compare`.
    """
    first, *others = runs
    out = out or first.resolve().parent / f"{first.resolve().name}_series"
    compared = {
        other: compare(first, other, out=out / other.resolve().name, n_resamples=n_resamples)
        for other in others
    }
    found = {other: differences for other, (_, differences) in compared.items()}
    some = next(iter(found.values()))
    rows = [(metric, name) for metric in _METRICS if (name := _mean_of(some, metric)) is not None]
    series: dict[str, Any] = {
        "confidence": some["confidence"],
        "n_cases": some["n_cases"],
        "n_subjects": some["n_subjects"],
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
    write_json(out / "series.json", series)
    return write_series_page(out, series), series


def _mean_of(found: Mapping[str, Any], metric: str) -> str | None:
    by_class = found["metrics"].get(metric, {})
    return next((name for name in _MEANS if name in by_class), None)


def _own(run: Path, metric: str, name: str) -> dict[str, Any] | None:
    """The run's own mean over all its cases, with its interval, as its report has it."""
    metrics: Mapping[str, Any] = read_json(run / "results.json")["metrics"]
    summary: dict[str, Any] | None = metrics.get(metric, {}).get(name)
    return summary
