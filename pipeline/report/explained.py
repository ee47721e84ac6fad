"""What spoke for a class, drawn: its map over three planes, and the slices that counted most."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray

from pipeline.report.drawing import Frame, Panel, frame_svg, gutter_mm
from pipeline.report.pictures import Picture
from volumetric.errors import GeometryError
from volumetric.figures import (
    PLANES,
    Plane,
    colour_heat,
    cut_plane,
    encode_grey,
    encode_heat,
    encode_small,
    grey_limits,
    plane_spacing,
)
from volumetric.preprocess import orient
from volumetric.volume import Volume, same_grid

_WIDTH, _LEFT, _RIGHT = 460.0, 40.0, 446.0
_TOP, _BOTTOM = 22.0, 112.0


@dataclass(frozen=True)
class Decisive:
    """What each slice counted for as a chart, the slices that counted most, and how to read it.

    `frames` are pictures as data addresses, each with its caption and its text alternative.
    """

    chart: Markup
    frames: tuple[tuple[str, str, str], ...]
    note: str


def draw_map(
    scan: Volume, heat: Volume, *, name: str, key: str, modality: str | None = None
) -> Picture:
    """The planes through the highest value of a map: the plain slices, and the map over them.

    Args:
        scan: the scan; its first channel is shown.
        heat: (1, D, H, W) from 0 to 1 on the scan's grid, as `place_map` gives it.
        name: of the class that it speaks for.
        key: unique on the page; names the images there.
        modality: DICOM's word, for the greys.

    Raises:
        GeometryError: scan and map do not lie on one grid.
    """
    if not same_grid(scan, heat, within=0.01):
        raise GeometryError(
            "other-grid",
            f"{heat.shape} voxels of the map do not lie on the {scan.shape} of the scan",
            "Place the map on the scan's own grid",
        )
    scan, heat = orient(scan), orient(heat)
    image, values = scan.data[0].cpu().numpy(), heat.data[0].cpu().numpy()
    # Where nothing speaks for the class, the middle is as good as any place.
    is_empty = not (values > 0).any()
    peak = [n // 2 for n in scan.shape]
    if not is_empty:
        peak = [int(n) for n in np.unravel_index(np.argmax(values), values.shape)]
    limits = grey_limits(image, values > 0.5, modality=modality)
    frames = [_frame(image, plane, peak, scan.spacing) for plane in PLANES]
    total = sum(frame.size_mm[1] for frame in frames)
    panels = tuple(
        _panel(frame, cut_plane(values, frame.plane, frame.index), limits, total, (name, key))
        for frame in frames
    )
    gutter = 2 * gutter_mm(total)
    columns = " ".join(f"{frame.size_mm[1] + gutter:.1f}fr" for frame in frames)
    note = (
        f"Nothing in the scan spoke for {name}: its middle is shown."
        if is_empty
        else f"What spoke for {name}, from nothing (not seen) to most (lightest); "
        "the slices go through the highest value. It shows what the network looked at, "
        "not whether that was right."
    )
    return Picture(panels, columns, note)


def draw_heat_key() -> Markup:
    """The colours of a map with their ends, on the grey of a slice."""
    colours = colour_heat(np.linspace(0, 1, 24, dtype=np.float32)[None])[0]
    step = 120 // len(colours)
    one = Markup('<rect x="{}" y="0" width="{}" height="10" fill="{}" fill-opacity="{:.2f}"/>')
    cells = Markup("").join(
        one.format(44 + n * step, step, f"rgb({r},{g},{b})", opacity / 255)
        for n, (r, g, b, opacity) in enumerate(colours.tolist())
    )
    return Markup(
        '<svg class="heat-key" viewBox="0 0 210 10" role="img" '
        'aria-label="Colours of the map, from nothing (dark) to most (light)">'
        '<text x="40" y="9" text-anchor="end">nothing</text><g shape-rendering="crispEdges">'
        '<rect x="44" y="0" width="120" height="10" fill="#555"/>{}</g>'
        '<text x="168" y="9">most</text></svg>'
    ).format(cells)


def draw_decisive(
    seen: Volume,
    weights: torch.Tensor,
    heat: torch.Tensor | None = None,
    *,
    name: str,
    n_slices: int = 3,
) -> Decisive:
    """Which slices, or frames of a clip, counted most for a class, among all of them.

    Args:
        seen: what the network was given, or the same grid with other values: a scan on canonical
            axes, of which the first channel is shown; a clip in its colours, from 0 to 255.
        weights: (D,) that add up to 1.
        heat: (D, H, W) from 0 to 1, laid over the slices that are shown.
        name: of the class.
        n_slices: shown as pictures.

    Raises:
        GeometryError: there are not as many weights as slices.
    """
    if tuple(weights.shape) != (seen.shape[0],):
        raise GeometryError(
            "bad-shape",
            f"{tuple(weights.shape)} weights for {seen.shape[0]} slices",
            "Give the volume that the network was given",
        )
    values = weights.detach().cpu().double().tolist()
    order = sorted(range(len(values)), key=lambda index: -values[index])[:n_slices]
    ranks = {index: rank + 1 for rank, index in enumerate(order)}
    word = "frame" if seen.kind == "clip" else "slice"
    captions = [_caption(seen, index, ranks[index], values[index]) for index in sorted(ranks)]
    frames = tuple(
        (_picture(seen, index, heat), caption, f"{caption}: what spoke for {name}")
        for index, caption in zip(sorted(ranks), captions, strict=True)
    )
    part = sum(values[index] for index in order)
    note = (
        f"The {len(order)} {word}s that counted most for {name} hold {part:.0%} of the weight"
        f"{'' if seen.kind == 'clip' else '; slices are counted from the feet'}."
    )
    return Decisive(_chart(values, ranks, label=note, word=word), frames, note)


def _frame(
    image: NDArray[np.generic],
    plane: Plane,
    peak: Sequence[int],
    spacing: tuple[float, float, float],
) -> Frame:
    axis = PLANES.index(plane)
    grey = cut_plane(image, plane, peak[axis])
    return Frame(
        plane=plane,
        index=peak[axis],
        n_slices=image.shape[axis],
        n_differing=None,
        grey=grey,
        truth=None,
        prediction=np.zeros(grey.shape, np.uint8),
        pixel_mm=plane_spacing(spacing, plane),
    )


def _panel(
    frame: Frame,
    values: NDArray[np.generic],
    limits: tuple[float, float],
    total: float,
    names: tuple[str, str],
) -> Panel:
    name, key = names
    side = max(*frame.size_mm, total / 3)
    rows, columns = frame.grey.shape
    one = Markup(
        '<image {}width="{}" height="{}" preserveAspectRatio="none" '
        'href="data:image/webp;base64,{}"/>'
    )
    grey = encode_grey(frame.grey, limits, size_mm=frame.size_mm, longest_mm=side)
    heat = encode_heat(values, size_mm=frame.size_mm, longest_mm=side)
    label = Markup('id="{}-{}" ').format(key, frame.plane)
    image = one.format(label, columns, rows, base64.b64encode(grey).decode("ascii"))
    over = one.format("", columns, rows, base64.b64encode(heat).decode("ascii"))
    again = Markup('<use href="#{}-{}"/>').format(key, frame.plane)
    where = f"{frame.plane} slice {frame.index + 1} of {frame.n_slices}"
    highest = f"highest value here {float(values.max()):.2f}"
    return Panel(
        title=frame.plane.capitalize(),
        detail=f"slice {frame.index + 1} of {frame.n_slices}",
        differing="",
        image=frame_svg(frame, total, image, label=f"Image, {where}", bar=False),
        overlay=frame_svg(
            frame, total, again + over, label=f"{where}: what spoke for {name}, {highest}", bar=True
        ),
        difference=None,
    )


def _picture(seen: Volume, index: int, heat: torch.Tensor | None) -> str:
    plane = seen.data[:, index].detach().cpu()
    over = None if heat is None else heat[index].detach().cpu().numpy()
    _, rows, columns = seen.spacing
    height, width = plane.shape[1:]
    shape = width * columns / (height * rows)
    if seen.kind == "clip":
        colours = plane if len(plane) == 3 else plane[:1].expand(3, -1, -1)
        pixels = colours.permute(1, 2, 0).clamp(0, 255).to(torch.uint8).numpy()
    else:
        low, high = grey_limits(seen.data[0].cpu().numpy(), np.zeros(seen.shape, np.bool_))
        grey = np.nan_to_num((plane[0].float().numpy() - low) / (high - low))
        pixels = np.rint(255 * np.clip(grey, 0, 1)).astype(np.uint8)[::-1, ::-1]
        over = None if over is None else over[::-1, ::-1]
    file = encode_small(pixels, over, shape=shape)
    return "data:image/webp;base64," + base64.b64encode(file).decode("ascii")


def _caption(seen: Volume, index: int, rank: int, value: float) -> str:
    place = f"slice {index + 1}"
    if seen.kind == "clip":
        place = f"{seen.affine[0, 3] + index * seen.spacing[0]:.2f} s"
    return f"{rank} · {place} · {value:.0%}"


def _chart(values: Sequence[float], ranks: dict[int, int], *, label: str, word: str) -> Markup:
    """A bar a slice; those that are shown stand out, with their rank above them."""
    top = max(*values, 1e-12)
    step = (_RIGHT - _LEFT) / len(values)
    height = _BOTTOM - _TOP
    bar = Markup(
        '<rect class="slice{}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}">'
        "<title>{}</title></rect>"
    )
    parts = []
    for index, value in enumerate(values):
        tall = max(0.6, height * value / top)
        style = " top" if index in ranks else ""
        title = f"{word} {index + 1}: {value:.1%}"
        x, wide = _LEFT + index * step, max(0.4, step - min(2.0, step * 0.2))
        parts.append(bar.format(style, x, _BOTTOM - tall, wide, tall, title))
        if index in ranks:
            parts.append(_text("rank", x + wide / 2, _BOTTOM - tall - 5, str(ranks[index])))
    even = _BOTTOM - height / len(values) / top
    parts.append(
        Markup('<path class="zero" d="M{:.1f} {:.1f}H{:.1f}"><title>{}</title></path>').format(
            _LEFT, even, _RIGHT, f"an even share: {1 / len(values):.1%}"
        )
    )
    parts += [
        _text("tick", _LEFT + (n + 0.5) * step, _BOTTOM + 16, str(n + 1))
        for n in _ticks(len(values))
    ]
    parts.append(_text("tick end", _LEFT - 6, _TOP + 4, f"{top:.0%}"))
    parts.append(_text("tick end", _LEFT - 6, _BOTTOM, "0"))
    parts.append(_text("axis", (_LEFT + _RIGHT) / 2, _BOTTOM + 34, word))
    return Markup(
        '<svg class="chart weights" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}</svg>'
    ).format(_WIDTH, _BOTTOM + 40, label, Markup("").join(parts))


def _text(style: str, x: float, y: float, text: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(style, x, y, text)


def _ticks(n_slices: int) -> list[int]:
    """Indices of slices to be numbered: the first, and round numbers, at most eight."""
    step = next(
        step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10**9) if n_slices / step <= 8
    )
    return sorted({0, *range(step - 1, n_slices, step)} if step > 1 else set(range(n_slices)))
