"""One slice of a case as inline SVG in mm: the image, the outlines on it, and what differs."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from volumetric.figures import EDGES, Corner, Plane, encode_grey, trace_outline

# Okabe and Ito's colours, told apart with any colour vision, in an order that starts with the pair
# that differs most on grey. style.css has darker ones of the same names for charts on white.
CLASS_COLOURS = ("#E69F00", "#56B4E9", "#2DBE93", "#E78AC3", "#F0E442", "#FF7A45", "#8FA8FF")
FOUND = CLASS_COLOURS[2]
MISSED, FALSE, CONFUSED = "#FFD92F", "#E06BD0", "#FFFFFF"

Mask = NDArray[np.integer]


@dataclass(frozen=True)
class Panel:
    """One plane of a case: its three views (differences only where there is a truth)."""

    title: str
    detail: str
    differing: str
    image: Markup
    overlay: Markup
    difference: Markup | None


@dataclass(frozen=True)
class Frame:
    """One slice cut to the field of view, (rows, columns), and where it was cut."""

    plane: Plane
    index: int
    n_slices: int
    n_differing: int | None
    grey: NDArray[np.generic]
    truth: Mask | None
    prediction: Mask
    pixel_mm: tuple[float, float]

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width of the slice in mm."""
        rows, columns = self.grey.shape
        return rows * self.pixel_mm[0], columns * self.pixel_mm[1]


def draw_panel(
    frame: Frame,
    limits: tuple[float, float],
    total: float,
    *,
    classes: Mapping[int, str],
    key: str,
) -> Panel:
    """The views of a slice; `total` is the width in mm of all slices of its row."""
    side = max(*frame.size_mm, total / 3)
    file = encode_grey(frame.grey, limits, size_mm=frame.size_mm, longest_mm=side)
    rows, columns = frame.grey.shape
    image = Markup(
        '<image id="{}" width="{}" height="{}" preserveAspectRatio="none" '
        'href="data:image/webp;base64,{}"/>'
    ).format(key, columns, rows, base64.b64encode(file).decode("ascii"))
    again = Markup('<use href="#{}"/>').format(key)
    where = f"{frame.plane} slice {frame.index + 1} of {frame.n_slices}"
    marks = _overlay(frame, classes)
    differing = "" if frame.n_differing is None else f"{frame.n_differing:,} voxels differ"
    what = "prediction filled" if frame.truth is None else "truth outlined, prediction filled"
    return Panel(
        title=frame.plane.capitalize(),
        detail=f"slice {frame.index + 1} of {frame.n_slices}",
        differing=differing,
        image=frame_svg(frame, total, image, label=f"Image, {where}", bar=False),
        overlay=frame_svg(frame, total, again + marks, label=f"{where}: {what}", bar=True),
        difference=None
        if frame.truth is None
        else frame_svg(
            frame,
            total,
            Markup('<g opacity=".45">{}</g>{}').format(again, _differences(frame)),
            label=f"Differences, {where}: {differing}",
            bar=False,
        ),
    )


def _overlay(frame: Frame, classes: Mapping[int, str]) -> Markup:
    parts = []
    values = [value for value in sorted(classes) if value != 0]
    for number, value in enumerate(values):
        colour = CLASS_COLOURS[number % len(CLASS_COLOURS)]
        if path := outline_path(frame.prediction == value):
            # Without a truth to be told from, the prediction has an outline of its own.
            edge = colour if frame.truth is None else "none"
            guess = Markup('<path class="guess" fill="{}" stroke="{}" d="{}"/>')
            parts.append(guess.format(colour, edge, path))
    for number, value in enumerate(values):
        colour = CLASS_COLOURS[number % len(CLASS_COLOURS)]
        if frame.truth is not None and (path := outline_path(frame.truth == value)):
            parts.append(Markup('<path class="halo" d="{}"/>').format(path))
            parts.append(Markup('<path class="truth" stroke="{}" d="{}"/>').format(colour, path))
    return Markup("").join(parts)


def _differences(frame: Frame) -> Markup:
    if frame.truth is None:
        return Markup("")
    truth, guess = frame.truth, frame.prediction
    kinds = (
        (MISSED, (truth > 0) & (guess <= 0)),
        (FALSE, (truth <= 0) & (guess > 0)),
        (CONFUSED, (truth > 0) & (guess > 0) & (truth != guess)),
    )
    return Markup("").join(
        Markup('<path class="wrong" fill="{}" d="{}"/>').format(colour, outline_path(mask))
        for colour, mask in kinds
        if mask.any()
    )


def outline_path(mask: NDArray[np.bool_]) -> str:
    """SVG path round the true pixels (rows, columns), in pixels, its corners rounded.

    The path runs through the middle of every pixel edge of the boundary, so it never strays more
    than a quarter of a pixel from it.
    """
    return "".join(_rounded(loop) for loop in trace_outline(mask))


def _rounded(loop: list[Corner]) -> str:
    middles = [
        (a[0] + b[0], a[1] + b[1])  # twice the middle, so that it stays whole
        for a, b in zip(loop, loop[1:] + loop[:1], strict=True)
    ]
    path = [f"M{middles[-1][1] / 2:g} {middles[-1][0] / 2:g}"]
    straight = False
    for corner, before, after in zip(loop, middles[-1:] + middles[:-1], middles, strict=True):
        if before[0] == after[0] or before[1] == after[1]:
            straight = True  # no turn here: draw the line when the turn comes
            continue
        if straight:
            path.append(f"L{before[1] / 2:g} {before[0] / 2:g}")
        path.append(f"Q{corner[1]} {corner[0]} {after[1] / 2:g} {after[0] / 2:g}")
        straight = False
    return "".join(path) + "Z"


def gutter_mm(total: float) -> float:
    """Width of the black margin that holds the letters, from the width of all slices of a row."""
    return 0.034 * total


def frame_svg(frame: Frame, total: float, content: Markup, *, label: str, bar: bool) -> Markup:
    """A slice in mm with what is drawn on it in its pixels, letters round it, and a scale bar."""
    height, width = frame.size_mm
    gutter = gutter_mm(total)
    letter = Markup('<text x="{:.2f}" y="{:.2f}">{}</text>')
    top, right, bottom, left = EDGES[frame.plane]
    drop = gutter * 0.32  # from a text's middle to its base line
    letters = (
        letter.format(gutter + width / 2, gutter / 2 + drop, top),
        letter.format(gutter * 1.5 + width, gutter + height / 2 + drop, right),
        letter.format(gutter + width / 2, gutter * 1.5 + height + drop, bottom),
        letter.format(gutter / 2, gutter + height / 2 + drop, left),
    )
    return Markup(
        '<svg class="scan" viewBox="0 0 {:.2f} {:.2f}" role="img" aria-label="{}">'
        '<g transform="translate({:.2f} {:.2f}) scale({:.5g} {:.5g})">{}</g>'
        '<g class="letters" font-size="{:.2f}">{}{}</g></svg>'
    ).format(
        width + 2 * gutter,
        height + 2 * gutter,
        label,
        gutter,
        gutter,
        frame.pixel_mm[1],
        frame.pixel_mm[0],
        content,
        gutter * 0.82,
        Markup("").join(letters),
        _scale_bar(width, height, total) if bar else "",
    )


def _scale_bar(width: float, height: float, total: float) -> Markup:
    """A bar of a round length in the lower right corner, the same in all slices of a row."""
    gutter = gutter_mm(total)
    length = max((n for n in (1, 2, 5, 10, 20, 50, 100) if n <= 0.13 * total), default=1)
    y, end = gutter + height - gutter * 0.7, gutter * 0.4 + width
    return Markup(
        '<path class="bar" d="M{:.2f} {:.2f}h{}"/>'
        '<text class="bar-text" x="{:.2f}" y="{:.2f}" font-size="{:.2f}">{} mm</text>'
    ).format(end - length, y, length, end - length / 2, y - gutter * 0.3, gutter * 0.7, length)
