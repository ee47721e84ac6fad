"""The comparison in words: one sentence for a person, a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.comparison.scores import Rows
from pipeline.report import scores
from pipeline.report.wording import known

_PLAIN = {
    "top1": "accuracy",
    "average_precision": "average precision",
    "panoptic_quality": "panoptic quality",
}
_MEANS = ("mean", "all")

UNCORRECTED = (
    "Each interval and p-value is of one comparison; none is corrected for looking at many."
)


def verdict(row: Mapping[str, Any], metric: str) -> str:
    """Which run is better, "A" or "B", where the interval leaves 0 out; else ""."""
    low, high = known(row.get("ci_low")), known(row.get("ci_high"))
    if low is None or high is None or low <= 0 <= high:
        return ""
    return "B" if (low > 0) is not scores.is_loss(metric) else "A"


def sentence(comparison: Mapping[str, Any]) -> str:
    """What the main metric says, as a person would say it."""
    metric, name = comparison["main"]["metric"], comparison["main"]["class"]
    row = comparison["metrics"][metric][name]
    what = _in_words(metric, name, comparison["classes"])
    if row["difference"] is None:
        return f"There is no {what} to compare: {row['reason']}."
    a, b = (f"{side} ({comparison[side.lower()]['name']})" for side in "AB")
    better = verdict(row, metric)
    n = _count(row["n"], comparison["n_subjects"], comparison["n_cases"])
    if comparison.get("task") in ("detect", "instances"):
        n = f"n = {row['n']} objects in {comparison['n_cases']} cases"
    if better:
        ends = sorted(abs(row[end]) for end in ("difference", "ci_low", "ci_high"))
        one, other = (b, a) if better == "B" else (a, b)
        size = _amount(abs(row["difference"]), metric)
        return (
            f"{one} is better than {other} in {what} by {size} "
            f"({_confidence(comparison)} interval {_plain(ends[0], metric)} to "
            f"{_plain(ends[2], metric)}), {n}."
        )
    size = _signed(row["difference"], metric)
    if row["ci_low"] is None:
        return f"{b} differs from {a} in {what} by {size}, without an interval: {row['reason']}."
    low, high = (_signed(row[end], metric, unit=False) for end in ("ci_low", "ci_high"))
    return (
        f"Neither run is shown to be better in {what}: {b} less {a} is {size} "
        f"({_confidence(comparison)} interval {low} to {high}), {n}."
    )


def to_text(comparison: Mapping[str, Any]) -> str:
    """The sentence, the warnings, and a line a metric and class."""
    rows = [("metric", "class", "A", "B", "B - A", "interval", "p", "n", "better")]
    for metric, by_class in comparison["metrics"].items():
        unit = scores.metric_unit(metric)
        title = f"{scores.metric_name(metric)}{f' ({unit})' if unit else ''}"
        rows += [(title, name, *_cells(row, metric)) for name, row in by_class.items()]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if k < 2 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    told = [f"note: {text}" for text in (*comparison["warnings"], *comparison["notes"])]
    return "\n".join([comparison["sentence"], "", *lines, "", *told, f"note: {UNCORRECTED}"])


def note_one_sided(rows: Rows) -> list[str]:
    """A line a metric that one run alone has in some cases, which are in no difference of it."""
    found = []
    for metric, by_class in rows.items():
        told = [
            f"{name} in {n} of {side} only"
            for name, row in by_class.items()
            for side, n in (("A", row.n_only_a), ("B", row.n_only_b))
            if n
        ]
        if told:
            found.append(
                f"{scores.metric_name(metric)} is defined for {', '.join(told)}: those cases are "
                "left out of its difference, though where a run finds nothing it has failed."
            )
    return found


def p_text(p: object) -> str:
    """A p-value as printed, "" where there is none."""
    value = known(p)
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _cells(row: Mapping[str, Any], metric: str) -> Sequence[str]:
    values = [known(row[side]) for side in ("a", "b")]
    numbers = ["-" if value is None else scores.number_text(value, metric) for value in values]
    if row["difference"] is None:
        return (*numbers, "-", "", "", str(row["n"]), "")
    ends = [known(row[end]) for end in ("ci_low", "ci_high")]
    interval = " to ".join(scores.difference_text(end, metric) for end in ends if end is not None)
    difference = scores.difference_text(row["difference"], metric)
    return (*numbers, difference, interval, p_text(row["p"]), str(row["n"]), verdict(row, metric))


def _in_words(metric: str, name: str, classes: Sequence[str]) -> str:
    what = _PLAIN.get(metric, scores.metric_name(metric))
    if name not in _MEANS:
        return f"{what} of {name}"
    return f"mean {what}" if metric != "top1" and len(classes) > 1 else what


def _count(n: int, n_subjects: int, n_cases: int) -> str:
    if n < n_cases:
        return f"n = {n} of {n_cases} cases of {n_subjects} subjects"
    return f"n = {n} subjects" if n == n_subjects else f"n = {n} cases of {n_subjects} subjects"


def _confidence(comparison: Mapping[str, Any]) -> str:
    return f"{100 * comparison['confidence']:g} %"


def _amount(value: float, metric: str) -> str:
    unit = scores.metric_unit(metric)
    text = _plain(value, metric)
    return f"{text} {unit or ('point' if text == '1.0' else 'points')}"


def _signed(value: float, metric: str, *, unit: bool = True) -> str:
    text = _amount(abs(value), metric) if unit else _plain(abs(value), metric)
    sign = "\N{MINUS SIGN}" if value < 0 else "+"
    return text if float(text.split()[0]) == 0 else sign + text


def _plain(value: float, metric: str) -> str:
    """Hundredths of a fraction, which people call points; else as it is."""
    if scores.metric_unit(metric):
        return f"{value:.2f}"
    points = 100 * value
    return f"{points:.1f}" if points >= 0.1 or points == 0 else f"{points:.2g}"
