"""A case as a filmstrip, and what its views said, drawn along the same time."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from pipeline.report.wording import known
from volumetric.errors import OutputError
from volumetric.figures import cut_plane, plane_spacing
from volumetric.io.prepared import Prepared, open_prepared

_LONGEST = 240  # pixels: twice what eight frames beside each other get, for sharp screens
_WHOLE = 0.9  # of the clip: views that see more of it have no place in time


@dataclass(frozen=True)
class Film:
    """Frames of a case as data addresses with captions, its length and what to know of it.

    `duration_s` is None for a scan, whose slices have no time.
    """

    frames: tuple[tuple[str, str], ...]
    duration_s: float | None
    note: str


@dataclass(frozen=True)
class Lane:
    """What the views said of one class: a box (left, width, height in %, tooltip) a moment.

    `style` is "right" for a true class, "wrong" for one that was predicted instead.
    """

    name: str
    style: str
    summary: str
    boxes: tuple[tuple[float, float, float, str], ...]


def draw_film(path: Path, *, n_frames: int = 8) -> Film:
    """Evenly spaced frames of a prepared clip, or slices of a prepared scan, as small JPEGs.

    Each frame is the middle one of its part of the clip, so that a time axis of the same width
    fits under them.

    Raises:
        OutputError: nothing was prepared.
        UnreadableFileError: the file is damaged.
    """
    if not path.is_file():
        raise OutputError("no-prepared", "nothing was prepared of it", "Run the prepare stage")
    prepared = open_prepared(path)
    depth, height, width = prepared.shape
    first, last = _worth_showing(prepared)
    n_shown = min(n_frames, last - first)
    chosen = [
        first + (2 * number + 1) * (last - first) // (2 * n_shown) for number in range(n_shown)
    ]
    slices = torch.cat([prepared.read_image((d, 0, 0), (1, height, width)) for d in chosen], dim=1)
    if slices.dtype != torch.uint8:
        return _film_of_scan(prepared, slices[0].float().numpy(), chosen)
    step_s = prepared.affine[0][0]
    pixels = slices.permute(1, 2, 3, 0).numpy()
    frames = [
        (_encode(picture, width / height), f"{index * step_s:.2f} s")
        for picture, index in zip(pixels, chosen, strict=True)
    ]
    size = f"{width} \N{MULTIPLICATION SIGN} {height} px"
    note = f"{depth} prepared frames, {1 / step_s:.4g} a second, {size}"
    return Film(tuple(frames), depth * step_s, note)


def _worth_showing(prepared: Prepared) -> tuple[int, int]:
    """All frames of a clip; of a scan those between the empty slices that surround it."""
    depth = prepared.shape[0]
    image = prepared.read_image((0, 0, 0), (1, *prepared.shape[1:]))
    if image.dtype == torch.uint8:
        return 0, depth
    image = prepared.read_image()
    (full,) = (image.amax((0, 2, 3)) > image.amin()).nonzero(as_tuple=True)
    return (int(full[0]), int(full[-1]) + 1) if len(full) else (0, depth)


def _film_of_scan(prepared: Prepared, slices: NDArray[np.float32], chosen: Sequence[int]) -> Film:
    rows, columns = np.linalg.norm(np.array(prepared.affine)[:3, 1:3], axis=0)
    height_mm, width_mm = plane_spacing((1.0, float(rows), float(columns)), "axial")
    low, high = np.percentile(slices[np.isfinite(slices)], [1, 99.5])
    grey = np.clip((slices - low) / max(float(high - low), 1e-6), 0, 1)
    pixels = np.rint(255 * np.nan_to_num(grey)).astype(np.uint8)
    _, n_rows, n_columns = pixels.shape
    shape = n_columns * width_mm / (n_rows * height_mm)
    frames = [
        (_encode(cut_plane(pixels, "axial", number), shape), f"slice {index + 1}")
        for number, index in enumerate(chosen)
    ]
    note = f"axial, {prepared.shape[0]} prepared slices counted from the feet"
    return Film(tuple(frames), None, note)


def _encode(pixels: NDArray[np.uint8], shape: float) -> str:
    """A JPEG as a data address; `shape` is its width over its height."""
    longest = min(_LONGEST, max(pixels.shape[:2]))
    size = (longest, max(1, round(longest / shape)))
    if shape < 1:
        size = (max(1, round(longest * shape)), longest)
    file = io.BytesIO()
    # The rows of a flipped slice run backwards in memory, which Pillow does not read.
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.resize(size, Image.Resampling.BILINEAR).save(file, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def draw_lanes(
    case: Mapping[str, Any], labels: Sequence[str], names: Sequence[str], duration_s: float | None
) -> tuple[tuple[Lane, ...], str]:
    """What each view said of the classes `names`, along the clip, and how to read it.

    A box spans what its view saw, as far as no other view's middle is nearer; crops of one moment
    are averaged. Views that see all of the clip stand side by side instead. No lanes where
    there are fewer than two views.
    """
    views = [list(view) for view in case.get("views") or []]
    spans = [(float(start), float(end)) for start, end in case.get("seconds") or []]
    whole = [len(view) == len(labels) and all(known(p) is not None for p in view) for view in views]
    if len(views) < 2 or not all(whole):
        return (), ""
    timed = duration_s is not None and len(spans) == len(views)
    longest = max((end - start for start, end in spans), default=0.0)
    if not timed or duration_s is None or longest >= _WHOLE * duration_s:
        places = [(n / len(views), 1 / len(views)) for n in range(len(views))]
        titles = [f"view {n + 1}" for n in range(len(views))]
        note = f"{len(views)} views side by side: each sees all of it, or its time is not known"
    else:
        views, spans = _merge_crops(views, spans)
        places = _share_time(spans, duration_s)
        titles = [f"{start:.2f} to {end:.2f} s" for start, end in spans]
        note = (
            f"{len(views)} views along the clip\N{RIGHT SINGLE QUOTATION MARK}s {duration_s:.2f} s"
        )
    rows = list(zip(places, titles, strict=True))
    return tuple(
        _lane(name, class_style(name, case), [view[labels.index(name)] for view in views], rows)
        for name in names
        if name in labels
    ), note


def _merge_crops(
    views: Sequence[Sequence[float]], spans: Sequence[tuple[float, float]]
) -> tuple[list[list[float]], list[tuple[float, float]]]:
    by_span: dict[tuple[float, float], list[Sequence[float]]] = {}
    for view, span in sorted(zip(views, spans, strict=True), key=lambda pair: pair[1]):
        by_span.setdefault(span, []).append(view)
    means = [np.mean(own, axis=0).tolist() for own in by_span.values()]
    return means, list(by_span)


def _share_time(
    spans: Sequence[tuple[float, float]], duration_s: float
) -> list[tuple[float, float]]:
    """Start and length of each view's part of the time, as fractions."""
    middles = [(start + end) / 2 for start, end in spans]
    borders = [0.0, *((a + b) / 2 for a, b in pairwise(middles)), duration_s]
    places = []
    for (start, end), (low, high) in zip(spans, pairwise(borders), strict=True):
        left, right = max(start, low), min(end, high)
        # A view of a single frame has no length, and would not be seen.
        places.append((left / duration_s, max(0.01, (right - left) / duration_s)))
    return places


def _lane(
    name: str,
    style: str,
    values: Sequence[float],
    places: Sequence[tuple[tuple[float, float], str]],
) -> Lane:
    boxes = tuple(
        (100 * left, 100 * width, 100 * min(1.0, value), f"{title}: {name} {value:.3f}")
        for value, ((left, width), title) in zip(values, places, strict=True)
    )
    return Lane(name, style, f"{min(values):.2f} to {max(values):.2f}", boxes)


def class_style(name: str, case: Mapping[str, Any]) -> str:
    """How a class of a case is coloured: "right" if true, "wrong" if predicted instead."""
    if name in (case.get("truth") or []):
        return "right"
    known_truth = known((case.get("scores") or {}).get("true_probability")) is not None
    return "wrong" if known_truth and name in (case.get("predicted") or []) else "other"


def draw_chances(names: Sequence[str], case: Mapping[str, Any]) -> Markup:
    """A bar per class, with its probability and whether it is true or predicted."""
    truth, predicted = case.get("truth") or [], case.get("predicted") or []
    one = Markup(
        '<tr class="{0}"><th scope="row">{1}{2}</th><td><i style="width:{3:.1f}%"></i></td>'
        '<td><data value="{4!r}">{4:.3f}</data></td></tr>'
    )
    rows = []
    for name in names:
        value = known(case["probabilities"].get(name)) or 0.0
        tags = [word for word, own in (("truth", truth), ("predicted", predicted)) if name in own]
        tag = Markup(" <small>{}</small>").format(", ".join(tags)) if tags else Markup("")
        rows.append(one.format(class_style(name, case), name, tag, 100 * min(1.0, value), value))
    return Markup('<table class="chances"><tbody>{}</tbody></table>').format(Markup("").join(rows))
