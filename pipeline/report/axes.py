"""Axes of charts as inline SVG: scales, round ticks and the lines at them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

WIDTH = 460.0
RIGHT = 446.0


def grid_x(ticks: Sequence[float], x: Callable[[float], float], top: float, end: float) -> Markup:
    """Lines that cross the x axis at its ticks, with their numbers below."""
    one = Markup(
        '<path class="grid" d="M{0:.1f} {1:.1f}V{2:.1f}"/>'
        '<text class="tick" x="{0:.1f}" y="{3:.1f}" text-anchor="middle">{4}</text>'
    )
    return Markup("").join(one.format(x(t), top, end, end + 16, tick(t)) for t in ticks)


def grid_y(ticks: Sequence[float], y: Callable[[float], float], left: float) -> Markup:
    """Lines that cross the y axis at its ticks, with their numbers to the left."""
    one = Markup(
        '<path class="grid" d="M{0:.1f} {1:.1f}H{2:.1f}"/>'
        '<text class="tick" x="{3:.1f}" y="{4:.1f}" text-anchor="end">{5}</text>'
    )
    return Markup("").join(
        one.format(left, y(t), RIGHT, left - 7, y(t) + 4, tick(t)) for t in ticks
    )


def tick(value: float) -> str:
    """A tick's number."""
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")


def svg(content: Markup, height: float, label: str) -> Markup:
    """The chart, `WIDTH` wide, whose `label` is read out."""
    return Markup(
        '<svg class="chart" viewBox="0 0 {0:.0f} {1:.0f}" role="group" aria-label="{2}">{3}</svg>'
    ).format(WIDTH, height, label, content)


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Values from `low` to `high` as places from `start` to `end`."""
    slope = (end - start) / (high - low)
    return lambda value: start + slope * (value - low)


def nice(
    low: float, high: float, *, count: int = 5, tight: bool = False
) -> tuple[float, float, list[float]]:
    """Ends and about `count` round ticks; `tight` keeps the ends where the values end."""
    if high <= low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    if tight:
        first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    # Rounded, or 3 * 0.1 would be written 0.30000000000000004.
    ticks = [round(step * number, 12) for number in range(first, last + 1)]
    return (low, high, ticks) if tight else (ticks[0], ticks[-1], ticks)
