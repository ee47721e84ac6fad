"""Charts as inline SVG: strips of scores, agreement of volumes, training curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup

from pipeline.report.axes import RIGHT, grid_x, grid_y, nice, scale, svg
from pipeline.report.record import Curve

# Beyond this many points on a page, links and tooltips would outweigh everything else in it.
_MOST_LINKED = 8000

N_COLOURS = 7


@dataclass(frozen=True)
class Point:
    """One case in a chart: where it lies, what its tooltip says, where its link leads.

    A marked one stands out from the others of its colour.
    """

    x: float
    y: float
    title: str
    href: str
    marked: bool = False


@dataclass(frozen=True)
class Strip:
    """One row of a strip chart: the cases of a class (x is the score), their mean, its interval."""

    name: str
    colour: int
    points: Sequence[Point]
    mean: float | None
    interval: tuple[float, float] | None


def draw_strips(strips: Sequence[Strip], *, label: str, top: float | None, linked: int) -> Markup:
    """Strip chart: a row per class, a point per case, a diamond and a bar for mean and interval.

    `top` is the largest possible value if there is one (1 for Dice); `linked` the number of points
    on the whole page.
    """
    values = [point.x for strip in strips for point in strip.points]
    if not values:
        return Markup('<p class="quiet">No case has this score.</p>')
    left = 24.0 + 6.6 * min(18, max(len(strip.name) for strip in strips))
    low = 0.0 if top is None else min(values)
    low, high, ticks = nice(min(low, min(values)), max(values) if top is None else top)
    x = scale(low, high, left, RIGHT)
    step = 52.0 if len(strips) <= 8 else 30.0
    bottom = 8 + step * len(strips)
    parts = [grid_x(ticks, x, 4, bottom)]
    for number, strip in enumerate(strips):
        parts.append(_strip(strip, x, 8 + step * number, step, linked))
    return svg(Markup("").join(parts), bottom + 24, label)


def draw_agreement(points: Sequence[Point], *, colour: int, label: str, linked: int) -> Markup:
    """Bland-Altman plot: difference against mean, with the bias and its limits of agreement."""
    bias, low_limit, high_limit = limits_of_agreement([point.y for point in points])
    x_low, x_high, x_ticks = nice(min(p.x for p in points), max(p.x for p in points), count=5)
    spread = [point.y for point in points] + [
        line for line in (bias, low_limit, high_limit, 0.0) if line is not None
    ]
    y_low, y_high, y_ticks = nice(min(spread), max(spread), count=6)
    x, y = scale(x_low, x_high, 66, RIGHT), scale(y_low, y_high, 252, 10)
    parts = [grid_x(x_ticks, x, 10, 252), grid_y(y_ticks, y, 66)]
    for value, style in (
        (0.0, "zero"),
        (bias, "bias"),
        (low_limit, "limit"),
        (high_limit, "limit"),
    ):
        if value is not None:
            parts.append(
                Markup('<path class="{}" d="M66 {:.1f}H{:.0f}"/>').format(style, y(value), RIGHT)
            )
    placed = [replace(point, x=x(point.x), y=y(point.y)) for point in points]
    parts.append(draw_dots(placed, colour, linked))
    parts.append(
        Markup(
            '<text class="axis" x="256" y="290" text-anchor="middle">mean of both (mL)</text>'
            '<text class="axis" x="-131" y="10" transform="rotate(-90)" text-anchor="middle">'
            "prediction minus truth (mL)</text>"
        )
    )
    return svg(Markup("").join(parts), 298, label)


def limits_of_agreement(
    differences: Sequence[float],
) -> tuple[float | None, float | None, float | None]:
    """Mean difference and the limits of agreement, mean ± 1.96 standard deviations.

    The limits are None for fewer than two cases. Bland and Altman, Lancet 1986;1:307-310.
    """
    if not differences:
        return None, None, None
    bias = float(np.mean(differences))
    if len(differences) < 2:
        return bias, None, None
    spread = 1.96 * float(np.std(differences, ddof=1))
    return bias, bias - spread, bias + spread


def draw_reliability(bins: Sequence[tuple[float, float, int]], *, label: str) -> Markup:
    """Reliability diagram: a dot per bin (confidence, accuracy, cases), its area as its cases."""
    if not bins:
        return Markup('<p class="quiet">No case to show.</p>')
    ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    x, y = scale(0, 1, 52, RIGHT), scale(0, 1, 290, 10)
    parts = [grid_x(ticks, x, 10, 290), grid_y(ticks, y, 52)]
    parts.append(Markup('<path class="zero" d="M52 290L{:.0f} 10"/>').format(RIGHT))
    most = max(n for _, _, n in bins)
    one = Markup(
        '<path class="gap" d="M{0:.1f} {1:.1f}V{2:.1f}"/>'
        '<circle class="bin" cx="{0:.1f}" cy="{2:.1f}" r="{3:.1f}"><title>{4}</title></circle>'
    )
    for confidence, accuracy, n in bins:
        title = f"{n} {'case' if n == 1 else 'cases'}: {accuracy:.3f} right at {confidence:.3f}"
        radius = max(3.0, 9 * math.sqrt(n / most))
        parts.append(one.format(x(confidence), y(confidence), y(accuracy), radius, title))
    parts.append(
        Markup(
            '<text class="axis" x="249" y="328" text-anchor="middle">mean confidence</text>'
            '<text class="axis" x="-150" y="12" transform="rotate(-90)" text-anchor="middle">'
            "fraction right</text>"
        )
    )
    return svg(Markup("").join(parts), 336, label)


def draw_curves(curves: Mapping[str, Curve], *, label: str, top: float | None) -> Markup:
    """Lines over epochs, one per named curve; `top` fixes the upper end where there is one."""
    drawn = [curve for curve in curves.values() if curve]
    if not drawn:
        return Markup('<p class="quiet">Nothing was recorded.</p>')
    epochs = [epoch for curve in drawn for epoch, _ in curve]
    values = [value for curve in drawn for _, value in curve]
    x_low, x_high, x_ticks = nice(min(epochs), max(epochs), count=6, tight=True)
    y_low, y_high, y_ticks = nice(min(values), max(values) if top is None else top, count=5)
    x, y = scale(x_low, x_high, 46, RIGHT), scale(y_low, y_high, 180, 10)
    parts = [grid_x(x_ticks, x, 10, 180), grid_y(y_ticks, y, 46)]
    for number, curve in enumerate(curves.values()):
        if not curve:
            continue
        path = "L".join(f"{x(epoch):.1f} {y(value):.1f}" for epoch, value in curve)
        parts.append(Markup('<path class="curve curve-{}" d="M{}"/>').format(number, path))
        if len(curve) == 1:
            epoch, value = curve[0]
            parts.append(
                Markup('<circle class="curve-dot-{}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(
                    number, x(epoch), y(value)
                )
            )
    parts.append(Markup('<text class="axis" x="246" y="216" text-anchor="middle">epoch</text>'))
    return svg(Markup("").join(parts), 222, label)


def _strip(strip: Strip, x: Callable[[float], float], y: float, step: float, linked: int) -> Markup:
    middle, room = y + step * 0.4, step * 0.3
    heights: dict[int, int] = {}
    placed = []
    for point in sorted(strip.points, key=lambda point: point.x):
        column = round(x(point.x) / 4)
        rank = heights[column] = heights.get(column, 0) + 1
        # Points of one column fan out from the middle: 0, +1, -1, +2, … and fold back when full.
        offset = (rank // 2) * 4.4 * (1 if rank % 2 else -1)
        placed.append(replace(point, x=x(point.x), y=middle + math.fmod(offset, room)))
    parts = [
        Markup('<text class="row" x="8" y="{:.1f}">{}</text>').format(
            middle + 4, strip.name if len(strip.name) <= 20 else strip.name[:19] + "…"
        ),
        draw_dots(placed, strip.colour, linked),
    ]
    below = y + step * 0.84
    if strip.interval is not None:
        low, high = strip.interval
        parts.append(
            Markup('<path class="interval" d="M{:.1f} {:.1f}H{:.1f}"/>').format(
                x(low), below, x(high)
            )
        )
    if strip.mean is not None:
        parts.append(
            Markup('<path class="mean" d="M{:.1f} {:.1f}l4 4-4 4-4-4z"/>').format(
                x(strip.mean), below - 4
            )
        )
    return Markup("").join(parts)


def draw_dots(points: Sequence[Point], colour: int, linked: int) -> Markup:
    """Dots where the points are placed, marked ones on top; `linked` of them on the whole page."""
    if any(point.marked for point in points):
        parted = [[p for p in points if p.marked is marked] for marked in (False, True)]
        return Markup("").join(
            _group(group, style, linked)
            for group, style in zip(parted, (f"class-{colour % N_COLOURS}", "marked"), strict=True)
            if group
        )
    return _group(points, f"class-{colour % N_COLOURS}", linked)


def _group(points: Sequence[Point], colour: str, linked: int) -> Markup:
    style = f"dot {colour}"
    if linked > _MOST_LINKED:
        path = "".join(f"M{point.x:.1f} {point.y:.1f}h0" for point in points)
        return Markup('<path class="{} dots" d="{}"/>').format(style, path)
    # Out of the tab order: the table of all cases offers the same links to the keyboard.
    one = Markup(
        '<a href="{}" tabindex="-1"><circle cx="{:.1f}" cy="{:.1f}" r="3.6">'
        "<title>{}</title></circle></a>"
    )
    links = Markup("").join(one.format(p.href, p.x, p.y, p.title) for p in points)
    return Markup('<g class="{}">{}</g>').format(style, links)
