"""How honest probabilities are, and what was chosen on other folds: thresholds, temperatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipeline.report import scores
from pipeline.report.plots import reliability_plot

_ALL = "all"

_Result = Mapping[str, Any]


def describe_choices(results: _Result, labels: Sequence[str]) -> dict[str, Any]:
    """What the page says of calibration, thresholds and temperatures; empty where unknown."""
    temperature = results.get("temperature") or {}
    before, after = results.get("metrics") or {}, temperature.get("metrics") or {}
    thresholds = results.get("thresholds") or {}
    return {
        "reliability": _diagrams(
            results.get("reliability") or {}, temperature.get("reliability") or {}
        ),
        "calibration": [
            {
                "name": f"{scores.metric_name(metric)}{of_class}",
                "cells": [_cell(table[metric].get(name), metric) for table in (before, after)],
            }
            for metric in after
            if metric in before
            for name, of_class in _rows(before[metric])
        ],
        "temperatures": _table(temperature.get("folds") or {}),
        "temperature_reason": temperature.get("reason"),
        "thresholds": _table(thresholds),
        "threshold_notes": _reasons(thresholds),
        "temperature_notes": _reasons(temperature.get("folds") or {}),
        "choice_labels": list(labels),
    }


def _rows(by_class: _Result) -> list[tuple[str, str]]:
    """Keys of a metric's classes, the mean last, each with how it is told apart in words."""
    names = [name for name in by_class if name != _ALL]
    return [(name, f", {name}") for name in names] + [(_ALL, ", mean of classes" if names else "")]


def _cell(summary: _Result | None, metric: str) -> dict[str, Any] | None:
    if summary is None:
        return None
    value = scores.number(summary.get("mean"), metric, reason=summary.get("reason"))
    return {"value": value, "interval": scores.known_interval(summary, metric)}


def _diagrams(before: _Result, after: _Result) -> list[tuple[str, Markup]]:
    """Titles and diagrams: of all, or of each label, what was predicted beside what was scaled."""
    drawn = []
    for name in before:
        for bins, what in ((before, "as predicted"), (after, "with temperature")):
            title = what.capitalize() if name == _ALL else f"{name}, {what}"
            if (chart := reliability_plot(bins.get(name, []), title=title)) is not None:
                drawn.append((title, chart))
    return drawn


def _table(folds: Mapping[str, Mapping[str, _Result]]) -> list[tuple[str, list[Markup]]]:
    """A row a fold: its number, and what was chosen for each class."""
    return [
        (fold, [_chosen(choice) for choice in by_class.values()])
        for fold, by_class in folds.items()
    ]


def _chosen(choice: _Result) -> Markup:
    number = scores.number(choice.get("value"), "probability")
    if choice.get("reason") is None:
        return number
    return Markup('<span class="none" title="{}">{}</span>').format(choice["reason"], number)


def _reasons(folds: Mapping[str, Mapping[str, _Result]]) -> list[str]:
    """One line for every reason why a number is the default, with where that is so."""
    told: dict[str, list[str]] = {}
    for fold, by_class in folds.items():
        for name, choice in by_class.items():
            if choice.get("reason") is not None:
                where = f"fold {fold}" if name == _ALL else f"fold {fold}, {name}"
                told.setdefault(str(choice["reason"]), []).append(where)
    return [f"{'; '.join(where)}: {reason}." for reason, where in told.items()]
