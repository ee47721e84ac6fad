"""The page that sets several runs beside the first: their scores, and what differs how surely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from pipeline.comparison.wording import UNCORRECTED, p_text, verdict
from pipeline.report import scores
from pipeline.report.axes import RIGHT, grid_x, nice, scale, svg
from pipeline.report.shares import curve_names, draw_shares, drawn_values
from pipeline.report.template import write_page
from pipeline.report.wording import known

_STEP = 24.0
_LONGEST = 30  # letters of a run's name


def write_series_page(out: Path, series: Mapping[str, Any]) -> Path:
    """Write `<out>/series.html` of what series.json holds; return its path."""
    runs = series["runs"]
    metrics = list(runs[0]["metrics"])
    context = {
        "record": {"name": f"{runs[0]['name']} and {len(runs) - 1} others"},
        "series": series,
        "confidence": scores.confidence(series),
        "uncorrected": UNCORRECTED,
        "n_repeats": max(run.get("n_repeats", 1) for run in runs),
        "curves": curve_names(runs) if "share" in runs[0] else [],
        "shares": [
            (scores.metric_name(metric), chart)
            for metric in metrics
            if "share" in runs[0] and (chart := draw_shares(runs, metric))
        ],
        "charts": [(scores.metric_name(metric), draw_means(runs, metric)) for metric in metrics],
        "heads": [scores.metric_name(metric) for metric in metrics],
        "rows": [_row(run, metrics) for run in runs],
    }
    return write_page(out / "series.html", "series.html", context)


def draw_means(runs: Sequence[Mapping[str, Any]], metric: str) -> Markup:
    """A dot and a bar a run, for its mean and its interval; a line at the first run's mean.

    Small dots are the single runs where several were taken together.
    """
    found = [(run["name"], run["metrics"][metric]["own"] or {}) for run in runs]
    dots = [[v for v in run["metrics"][metric].get("each", []) if v is not None] for run in runs]
    values = [value for run in runs for value in drawn_values(run, metric)]
    if not values:
        return Markup("")
    low, high, ticks = nice(min(values), max(values), count=4)
    left = 16.0 + 6.3 * min(_LONGEST, max(len(name) for name, _ in found))
    x = scale(low, high, left, RIGHT)
    bottom = 10 + _STEP * len(found)
    parts = [grid_x(ticks, x, 6, bottom)]
    if (reference := known(found[0][1].get("mean"))) is not None:
        line = Markup('<path class="bias" d="M{0:.1f} 6V{1:.1f}"/>')
        parts.append(line.format(x(reference), bottom))
    for number, (name, own) in enumerate(found):
        y = 10 + _STEP * (number + 0.5)
        shown = name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"
        parts.append(Markup('<text class="row" x="4" y="{:.1f}">{}</text>').format(y + 4, shown))
        mean, ends = known(own.get("mean")), [known(own.get(e)) for e in ("ci_low", "ci_high")]
        if mean is None:
            continue
        bar = Markup("")
        if ends[0] is not None and ends[1] is not None:
            bar = Markup('<path d="M{:.1f} {:.1f}H{:.1f}"/>').format(x(ends[0]), y, x(ends[1]))
        one = Markup('<circle class="each" cx="{:.1f}" cy="{:.1f}" r="2"/>')
        bar += Markup("").join(one.format(x(value), y) for value in dots[number])
        title = f"{name}: {scores.number_text(mean, metric)}"
        parts.append(
            Markup(
                '<g class="forest for-none"><title>{}</title>{}<circle cx="{:.1f}" cy="{:.1f}" '
                'r="4"/></g>'
            ).format(title, bar, x(mean), y)
        )
    label = f"{scores.metric_name(metric)} of each run"
    return svg(Markup("").join(parts), bottom + 24, label)


def _row(run: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    return {
        "name": run["name"],
        "n_repeats": run.get("n_repeats", 1),
        "page": run["page"] and quote(run["page"]),
        "settings": [
            {"field": one["field"], "value": one["b"], "first": one["a"]} for one in run["settings"]
        ],
        "cells": [_cell(run["metrics"][metric], metric) for metric in metrics],
    }


def _cell(found: Mapping[str, Any], metric: str) -> dict[str, Any]:
    own, difference = found["own"] or {}, found["difference"]
    told = ""
    if difference is not None and (value := known(difference["difference"])) is not None:
        low, high = known(difference["ci_low"]), known(difference["ci_high"])
        told = scores.difference_text(value, metric)
        if low is not None and high is not None:
            ends = (scores.difference_text(end, metric) for end in (low, high))
            told += f" ({' to '.join(ends)})"
        if (p := known(difference.get("p"))) is not None:
            told += f", p {p_text(p)}"
    return {
        "value": scores.number(own.get("mean"), metric, reason=own.get("reason")),
        "interval": scores.interval(own, metric),
        "difference": told,
        "better": "" if difference is None else verdict(difference, metric),
    }
