"""Learning curves: a score against the share of the cases that was learned from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log
from typing import Any

from markupsafe import Markup

from pipeline.report import scores
from pipeline.report.axes import RIGHT, grid_y, nice, scale, svg
from pipeline.report.charts import N_COLOURS
from pipeline.report.wording import known

_LEFT, _TOP, _BOTTOM = 46.0, 10.0, 200.0
_APART = 7.0  # between curves at one share, so that their bars do not hide each other


def draw_shares(runs: Sequence[Mapping[str, Any]], metric: str) -> Markup:
    """A line a curve through its means, a bar for each interval, a dot for each repeat.

    Shares are spread by their logarithm; nothing where all runs have one share.
    """
    shares = sorted({run["share"] for run in runs})
    curves = curve_names(runs)
    values = [value for run in runs for value in drawn_values(run, metric)]
    if len(shares) < 2 or not values:
        return Markup("")
    low, high, ticks = nice(min(values), max(values), count=5)
    x = scale(log(shares[0]), log(shares[-1]), _LEFT + 24, RIGHT - 24)
    y = scale(low, high, _BOTTOM, _TOP)
    parts = [grid_y(ticks, y, _LEFT)]
    for share in shares:
        text = Markup('<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>')
        parts.append(text.format(x(log(share)), _BOTTOM + 16, f"{100 * share:g} %"))
    for number, curve in enumerate(curves):
        own = sorted((run for run in runs if run["curve"] == curve), key=lambda run: run["share"])
        offset = _APART * (number - (len(curves) - 1) / 2)
        parts.append(
            _curve([(x(log(run["share"])) + offset, run) for run in own], metric, number, y)
        )
    what = '<text class="axis" x="246" y="236" text-anchor="middle">share of the cases</text>'
    parts.append(Markup(what))
    return svg(Markup("").join(parts), 242, f"{scores.metric_name(metric)} by share of the cases")


def curve_names(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The curves in the order of their colours."""
    return list(dict.fromkeys(run["curve"] for run in runs))


def _curve(
    placed: Sequence[tuple[float, Mapping[str, Any]]],
    metric: str,
    number: int,
    y: Callable[[float], float],
) -> Markup:
    line, parts = [], []
    for x, run in placed:
        found = run["metrics"][metric]
        mean, low, high = (known(found["own"][end]) for end in ("mean", "ci_low", "ci_high"))
        if low is not None and high is not None:
            bar = Markup('<path d="M{:.1f} {:.1f}V{:.1f}"/>')
            parts.append(bar.format(x, y(low), y(high)))
        dot = Markup('<circle class="each" cx="{:.1f}" cy="{:.1f}" r="2"/>')
        parts += [dot.format(x, y(value)) for value in found["each"] if value is not None]
        if mean is not None:
            line.append(f"{x:.1f} {y(mean):.1f}")
            title = f"{run['name']}: {scores.number_text(mean, metric)}"
            dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4"><title>{}</title></circle>')
            parts.append(dot.format(x, y(mean), title))
    through = Markup('<path class="curve" d="M{}"/>').format("L".join(line)) if line else ""
    group = '<g class="share class-{}">{}{}</g>'
    return Markup(group).format(number % N_COLOURS, through, Markup("").join(parts))


def drawn_values(run: Mapping[str, Any], metric: str) -> list[float]:
    """What a chart has room for: the mean, the ends of its interval, and each repeat."""
    found = run["metrics"][metric]
    ends = [known((found["own"] or {}).get(end)) for end in ("mean", "ci_low", "ci_high")]
    return [value for value in [*ends, *found.get("each", [])] if value is not None]
