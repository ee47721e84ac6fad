"""The page that sets two runs side by side: what differs, how surely, and in which cases."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from markupsafe import Markup

from pipeline.comparison.wording import UNCORRECTED, p_text, verdict
from pipeline.report import scores
from pipeline.report.charts import Point, Strip, draw_strips
from pipeline.report.differences import Difference, draw_forest, draw_pairs
from pipeline.report.page import anchor
from pipeline.report.template import write_page
from pipeline.report.wording import known

_MEANS = ("mean", "all")
_MOST_CLASSES = 6  # in the forest plot; beyond, means alone
_MOST_EXTREME = 8  # cases in each list
_ENDS = ("first", "second")

_Found = Mapping[str, Any]


def write_comparison_page(out: Path, comparison: _Found) -> Path:
    """Write `<out>/comparison.html` of what comparison.json holds; return its path.

    Cases lead to both runs' reports, where there are any.
    """
    return write_page(out / "comparison.html", "comparison.html", _context(out, comparison))


def _context(out: Path, found: _Found) -> dict[str, Any]:
    metric, name = found["main"]["metric"], found["main"]["class"]
    cases = _cases(out, found)
    gains = [case for case in reversed(cases) if case["sign"] > 0][:_MOST_EXTREME]
    losses = [case for case in cases if case["sign"] < 0][:_MOST_EXTREME]
    of_case = found["case_score"]["metric"]
    title = f"{found['a']['name']} and {found['b']['name']}"
    return {
        "record": {"name": title},
        "found": found,
        "confidence": scores.confidence(found),
        "uncorrected": UNCORRECTED,
        "headline": _headline(found, metric, name),
        "facts": _facts(found),
        "forests": _forests(found),
        "pairs": _pairs(found),
        "strip": _strip(found),
        "case_score": _case_title(found),
        "case_meaning": scores.metric_meaning(of_case),
        "rows": _rows(found),
        "meanings": [
            (scores.metric_name(m), text) for m in found["metrics"] if (text := _meaning(m))
        ],
        "areas": _areas(found),
        "cases": cases,
        "extremes": [
            ("Where B loses most", losses),
            ("Where B gains most", gains),
        ],
        "labelled": "truth" in found["cases"][0],
        "settings": found["settings"],
    }


def _meaning(metric: str) -> str:
    tail = " Less is better." if scores.is_loss(metric) else ""
    text = scores.metric_meaning(metric)
    return text and text + tail


def _headline(found: _Found, metric: str, name: str) -> list[dict[str, Any]]:
    """Both values of the main metric, and their difference."""
    row = found["metrics"][metric][name]
    title = _title(metric, name, found)
    values = [
        {
            "label": f"{letter}: {found[letter.lower()]['name']}",
            "value": scores.number(row[letter.lower()], metric, reason=row["reason"]),
            "below": title,
        }
        for letter in "AB"
    ]
    told = {
        "label": "B less A",
        "value": _signed(row["difference"], metric, row["reason"]),
        "below": _interval(row, metric),
    }
    return [*values, told]


def _facts(found: _Found) -> list[tuple[str, str]]:
    n_cases, n_subjects = found["n_cases"], found["n_subjects"]
    facts = [
        (str(n_cases), "case in both" if n_cases == 1 else "cases in both"),
        (str(n_subjects), "subject" if n_subjects == 1 else "subjects"),
    ]
    return facts + [
        (str(len(found[f"only_{letter.lower()}"])), f"in {letter} only") for letter in "AB"
    ]


def _title(metric: str, name: str, found: _Found) -> str:
    what = scores.metric_name(metric)
    if name not in _MEANS:
        return f"{what}, {name}"
    several = len(found["metrics"].get(metric, {})) > 1 and len(found["classes"]) > 1
    return f"{what}, mean" if several else what


def _group(metric: str) -> tuple[str, bool, str]:
    """Metrics that share an axis: its title, whether less is better, its unit."""
    unit = scores.metric_unit(metric)
    if unit:
        return ("Distances" if unit == "mm" else "Volumes"), True, unit
    if scores.is_loss(metric):
        return "Losses and calibration", True, ""
    return "Fractions", False, ""


def _forests(found: _Found) -> list[tuple[str, str, Markup]]:
    """For metrics that share an axis: their title, who is better where, and the forest plot."""
    groups: dict[tuple[str, bool, str], list[Difference]] = {}
    for metric, by_class in found["metrics"].items():
        for name, row in by_class.items():
            few = len(found["classes"]) <= _MOST_CLASSES or name in _MEANS
            if few and row["difference"] is not None:
                groups.setdefault(_group(metric), []).append(_difference(metric, name, row, found))
    return [
        (
            title,
            "more is better" if not less else "less is better",
            draw_forest(rows, unit=unit, less_is_better=less, label=f"{title}: B less A"),
        )
        for (title, less, unit), rows in groups.items()
    ]


def _difference(metric: str, name: str, row: _Found, found: _Found) -> Difference:
    low, high = known(row["ci_low"]), known(row["ci_high"])
    title = _title(metric, name, found)
    told = scores.difference_text(row["difference"], metric)
    ends = "no interval"
    if low is not None and high is not None:
        ends = " to ".join(scores.difference_text(end, metric) for end in (low, high))
    return Difference(
        title,
        row["difference"],
        None if low is None or high is None else (low, high),
        verdict(row, metric),
        f"{title}: {told} ({ends}), n = {row['n']}",
    )


def _pairs(found: _Found) -> Markup | None:
    metric = found["case_score"]["metric"]
    points = [
        Point(case["a"], case["b"], _case_text(case, metric), _place(case))
        for case in found["cases"]
        if case["difference"] is not None
    ]
    label = f"{_case_title(found)} of each case in A and in B"
    return draw_pairs(points, unit=scores.metric_unit(metric), label=label) if points else None


def _strip(found: _Found) -> Markup | None:
    """Differences of all cases, with their mean and its interval where the table has them too."""
    metric, name = found["case_score"]["metric"], found["case_score"]["class"]
    row = found["metrics"].get(metric, {}).get(name, {})
    low, high = known(row.get("ci_low")), known(row.get("ci_high"))
    points = [
        Point(case["difference"], 0.0, _case_text(case, metric), _place(case))
        for case in found["cases"]
        if case["difference"] is not None
    ]
    if not points:
        return None
    interval = None if low is None or high is None else (low, high)
    strip = Strip("B less A", 1, points, known(row.get("difference")), interval)
    return draw_strips([strip], label="B less A of each case", top=None, linked=len(points))


def _case_title(found: _Found) -> str:
    metric, name = found["case_score"]["metric"], found["case_score"]["class"]
    if metric == "true_probability":
        return "Probability of the truth"
    return _title(metric, name, found)


def _case_text(case: _Found, metric: str) -> str:
    values = [scores.number_text(case[side], metric) for side in ("a", "b")]
    return f"{case['id']}: A {values[0]}, B {values[1]}"


def _place(case: _Found) -> str:
    return "#" + quote(anchor(case["id"], pictured=False))


def _rows(found: _Found) -> list[dict[str, Any]]:
    """The table: a row a metric and class; its metric is told once."""
    return [
        {
            "metric": scores.metric_name(metric) if first else "",
            "unit": scores.metric_unit(metric) if first else "",
            "name": ("mean" if len(by_class) > 1 else "") if name in _MEANS else name,
            "a": scores.number(row["a"], metric, reason=row["reason"]),
            "b": scores.number(row["b"], metric, reason=row["reason"]),
            "difference": _signed(row["difference"], metric, row["reason"]),
            "interval": _interval(row, metric),
            "p": p_text(row["p"]),
            "n": row["n"],
            "left_out": _left_out(row),
            "better": verdict(row, metric),
        }
        for metric, by_class in found["metrics"].items()
        for first, (name, row) in zip(
            [True] + [False] * len(by_class), by_class.items(), strict=False
        )
    ]


def _left_out(row: _Found) -> str:
    told = [f"{row[f'n_only_{one}']} in {one.upper()} only" for one in "ab" if row[f"n_only_{one}"]]
    return ", ".join(told)


def _signed(value: object, metric: str, reason: str | None) -> Markup:
    finite = known(value)
    if finite is None:
        return scores.number(None, metric, reason=reason)
    text = scores.difference_text(finite, metric)
    return Markup('<data value="{!r}">{}</data>').format(finite, text)


def _interval(row: _Found, metric: str) -> Markup:
    ends = [known(row["ci_low"]), known(row["ci_high"])]
    if None in ends:
        return Markup('<span class="none">{}</span>').format(row["reason"] or "no interval")
    return Markup(" to ").join(_signed(end, metric, None) for end in ends)


def _areas(found: _Found) -> dict[str, Any] | None:
    """DeLong's test as a table, or why there is none."""
    if found["delong"] is None:
        return None
    rows = [
        {
            "name": name,
            "cells": [scores.number(row[s], "auroc", reason=row["reason"]) for s in _ENDS],
            "difference": _signed(row["difference"], "auroc", row["reason"]),
            "interval": _interval(row, "auroc"),
            "p": p_text(row["p"]),
            "n": f"{row['n_members']} and {row['n_others']}",
        }
        for name, row in found["delong"]["classes"].items()
    ]
    return {"reason": found["delong"]["reason"], "rows": rows}


def _cases(out: Path, found: _Found) -> list[dict[str, Any]]:
    metric = found["case_score"]["metric"]
    pages = {side: _read_anchors(out, found[side]["report"]) for side in ("a", "b")}
    return [
        {
            **case,
            "links": [
                (side.upper(), _address(found[side]["report"], case["id"], pages[side]))
                for side in ("a", "b")
                if found[side]["report"]
            ],
            "place": _place(case),
            "folds": _folds(case),
            "cells": [scores.number(case[side], metric) for side in ("a", "b")],
            "told": _signed(case["difference"], metric, "not known in both"),
            "sign": (case["difference"] or 0.0) * (-1 if scores.is_loss(metric) else 1),
        }
        for case in found["cases"]
    ]


def _folds(case: _Found) -> str:
    a, b = case["fold_a"], case["fold_b"]
    return str(a) if a == b else f"{a} and {b}"


def _read_anchors(out: Path, report: str | None) -> set[str]:
    """The cases that a report has pictures of."""
    if report is None:
        return set()
    text = (out / unquote(report)).read_text(encoding="utf-8")
    return {html.unescape(name) for name in re.findall(r'\sid="case-([^"]*)"', text)}


def _address(report: str, case: str, pictured: Sequence[str] | set[str]) -> str:
    return f"{report}#{quote(anchor(case, pictured=case in pictured))}"
