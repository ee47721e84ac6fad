"""Charts of two runs side by side: differences with their intervals, and case against case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from pipeline.report.axes import RIGHT, grid_x, grid_y, nice, scale, svg
from pipeline.report.charts import Point, draw_dots

_STEP = 21.0
_LONGEST = 30  # letters of a row's name


@dataclass(frozen=True)
class Difference:
    """One row of a forest plot.

    Attributes:
        name: what differs.
        value: B - A.
        interval: its ends; None where there are none.
        better: "A" or "B" where the interval leaves 0 out, else "".
        title: what its tooltip says.
    """

    name: str
    value: float
    interval: tuple[float, float] | None
    better: str
    title: str


def draw_forest(
    rows: Sequence[Difference], *, unit: str, less_is_better: bool, label: str
) -> Markup:
    """Forest plot: a dot and a bar a row for a difference and its interval, 0 as the line between.

    Rows without an interval have an open dot.
    """
    values = [row.value for row in rows]
    values += [end for row in rows if row.interval for end in row.interval]
    low, high, ticks = nice(min(0.0, *values), max(0.0, *values), count=4)
    left = 16.0 + 6.3 * min(_LONGEST, max(len(row.name) for row in rows))
    x = scale(low, high, left, RIGHT)
    bottom = 26 + _STEP * len(rows)
    sides = ("B better", "A better") if less_is_better else ("A better", "B better")
    parts = [
        _sides(x(0.0), left, sides),
        grid_x(ticks, x, 22, bottom),
        Markup('<path class="bias" d="M{0:.1f} 22V{1:.1f}"/>').format(x(0.0), bottom),
        *(_row(row, x, 26 + _STEP * (k + 0.5)) for k, row in enumerate(rows)),
        Markup('<text class="axis" x="{:.0f}" y="{:.0f}" text-anchor="middle">{}</text>').format(
            (left + RIGHT) / 2, bottom + 34, f"B less A{f' ({unit})' if unit else ''}"
        ),
    ]
    return svg(Markup("").join(parts), bottom + 42, label)


def draw_pairs(points: Sequence[Point], *, unit: str, label: str) -> Markup:
    """Scatter plot: each case's score in A against that in B; on the dotted line both are equal."""
    values = [value for point in points for value in (point.x, point.y)]
    low, high, ticks = nice(min(values), max(values), count=5)
    x, y = scale(low, high, 60, RIGHT), scale(low, high, 340, 10)
    placed = [replace(point, x=x(point.x), y=y(point.y)) for point in points]
    tail = f" ({unit})" if unit else ""
    parts = [
        grid_x(ticks, x, 10, 340),
        grid_y(ticks, y, 60),
        Markup('<path class="zero" d="M60 340L{:.0f} 10"/>').format(RIGHT),
        draw_dots(placed, 1, len(points)),
        Markup(
            '<text class="axis" x="253" y="376" text-anchor="middle">A{0}</text>'
            '<text class="axis" x="-175" y="14" transform="rotate(-90)" text-anchor="middle">'
            "B{0}</text>"
        ).format(tail),
    ]
    return svg(Markup("").join(parts), 384, label)


def _sides(zero: float, left: float, names: tuple[str, str]) -> Markup:
    """Who is better to the left and to the right of 0, where there is room to say so."""
    one = Markup('<text class="tick" x="{:.1f}" y="14" text-anchor="{}">{}</text>')
    parts = []
    if zero - left > 70:
        parts.append(one.format(zero - 8, "end", f"\u2190 {names[0]}"))
    if RIGHT - zero > 70:
        parts.append(one.format(zero + 8, "start", f"{names[1]} \u2192"))
    return Markup("").join(parts)


def _row(row: Difference, x: Callable[[float], float], y: float) -> Markup:
    name = row.name if len(row.name) <= _LONGEST else row.name[: _LONGEST - 1] + "\u2026"
    style = {"A": "for-a", "B": "for-b"}.get(row.better, "for-none")
    bar = Markup("")
    if row.interval is not None:
        bar = Markup('<path d="M{:.1f} {:.1f}H{:.1f}"/>').format(
            x(row.interval[0]), y, x(row.interval[1])
        )
    return Markup(
        '<g class="forest {}{}"><title>{}</title><text class="row" x="4" y="{:.1f}">{}</text>{}'
        '<circle cx="{:.1f}" cy="{:.1f}" r="4"/></g>'
    ).format(style, "" if row.interval else " open", row.title, y + 4, name, bar, x(row.value), y)
