"""Curves of a detector: sensitivity against false alarms, precision against recall."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from pipeline.report.axes import RIGHT, grid_x, grid_y, scale, svg
from pipeline.report.charts import N_COLOURS
from pipeline.report.record import Curve

_LEAST, _MOST = 1 / 16, 16.0  # false boxes a case that are shown
_TICKS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_FIFTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def draw_froc(curves: Mapping[str, Curve], *, label: str) -> Markup:
    """Sensitivity against false boxes a case on a logarithmic scale, a line per class.

    Dots are the seven points whose mean is FROC.
    """
    place = scale(math.log2(_LEAST), math.log2(_MOST), 52, RIGHT)
    y = scale(0, 1, 250, 10)

    def x(value: float) -> float:
        return place(math.log2(min(max(value, _LEAST), _MOST)))

    parts = [_log_grid(x), grid_y(_FIFTHS, y, 52)]
    for number, curve in enumerate(curves.values()):
        points = [(value, sensitivity) for value, sensitivity in curve if value <= _MOST]
        ends = [*points, (_MOST, points[-1][1])] if points else []
        path = "L".join(f"{x(value):.1f} {y(sensitivity):.1f}" for value, sensitivity in ends)
        parts.append(_line(path, number))
        parts += [
            Markup(
                '<circle class="class-{0}" cx="{1:.1f}" cy="{2:.1f}" r="3">'
                "<title>{3:.3f} at {4:g} false a case</title></circle>"
            ).format(number % N_COLOURS, x(at), y(found), found, at)
            for at in _TICKS
            for found in [read_curve(curve, at)]
        ]
    parts.append(_axes("false boxes a case", "sensitivity"))
    return svg(Markup("").join(parts), 298, label)


def draw_precision(curves: Mapping[str, Curve], *, label: str) -> Markup:
    """Precision against recall, a line per named curve."""
    x, y = scale(0, 1, 52, RIGHT), scale(0, 1, 250, 10)
    parts = [grid_x(_FIFTHS, x, 10, 250), grid_y(_FIFTHS, y, 52)]
    for number, curve in enumerate(curves.values()):
        path = "L".join(f"{x(recall):.1f} {y(precision):.1f}" for recall, precision in curve)
        parts.append(_line(path, number))
    parts.append(_axes("recall", "precision"))
    return svg(Markup("").join(parts), 298, label)


def read_curve(curve: Curve, at: float) -> float:
    """The line through points of rising x, read at one; beyond the last point as there.

    Of points with one x the last counts.
    """
    below = [point for point in curve if point[0] <= at]
    above = [point for point in curve if point[0] > at]
    if not below or not above:
        return (below or above)[-1 if below else 0][1]
    (x0, y0), (x1, y1) = below[-1], above[0]
    return y0 + (y1 - y0) * (at - x0) / (x1 - x0)


def _log_grid(x: object) -> Markup:
    assert callable(x)
    names: Sequence[tuple[float, str]] = [
        (value, f"1/{1 / value:g}" if value < 1 else f"{value:g}") for value in _TICKS
    ]
    one = Markup(
        '<path class="grid" d="M{0:.1f} 10V250"/>'
        '<text class="tick" x="{0:.1f}" y="266" text-anchor="middle">{1}</text>'
    )
    return Markup("").join(one.format(x(value), name) for value, name in names)


def _line(path: str, number: int) -> Markup:
    if not path:
        return Markup("")
    return Markup('<path class="curve class-{}" d="M{}"/>').format(number % N_COLOURS, path)


def _axes(below: str, beside: str) -> Markup:
    return Markup(
        '<text class="axis" x="249" y="290" text-anchor="middle">{}</text>'
        '<text class="axis" x="-130" y="12" transform="rotate(-90)" text-anchor="middle">{}</text>'
    ).format(below, beside)
