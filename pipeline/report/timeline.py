"""The page of long videos: each with its player, what was found when, and how likely it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup, escape

from pipeline.report.template import write_page
from volumetric.metrics.segments import Segment

_MOST_ROWS = 12  # classes drawn of one video, the likeliest ones
_ROW = 10  # of the drawing, whose width is the video's duration in seconds


def write_timeline_page(
    out: Path,
    names: Sequence[str],
    *,
    truth: Mapping[str, Sequence[Segment]],
    results: Mapping[str, Any],
) -> Path:
    """Write `out`/index.html over the `<name>.json` files that stand there; return its path.

    The page asks nothing of any network; previews lie beside it. `truth` and `results` are
    drawn where there are any.
    """
    videos = [
        _describe(json.loads((out / f"{name}.json").read_text(encoding="utf-8")), name, out, truth)
        for name in names
    ]
    context = {
        "videos": videos,
        "headline": _headline(results),
        "n_scored": results.get("n_videos", 0),
        "model": videos[0]["model"] if videos else {},
    }
    return write_page(out / "index.html", "timeline.html", context)


def _headline(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, value, interval) of the localisation's scores, over all classes."""
    rows = []
    ordered = sorted(results.get("metrics", {}).items(), key=lambda one: one[0] != "ap_0.5")
    for metric, by_class in ordered:
        found = by_class.get("all")
        if found is None or found["mean"] is None:
            continue
        name = f"mAP at IoU {metric[3:]}" if metric.startswith("ap_") else "boundary error, s"
        interval = ""
        if found["ci_low"] is not None:
            interval = f"{found['ci_low']:.3f} to {found['ci_high']:.3f}"
        rows.append((name, f"{found['mean']:.3f}", interval))
    return rows


def _describe(
    content: Mapping[str, Any], name: str, out: Path, truth: Mapping[str, Sequence[Segment]]
) -> dict[str, Any]:
    found = [Segment(**one) for one in content["segments"]]
    true = list(truth.get(name, []))
    classes: list[str] = content["classes"]
    peaks = [max(column) for column in zip(*content["seconds"], strict=True)]
    order = sorted(range(len(classes)), key=lambda number: -peaks[number])[:_MOST_ROWS]
    shown = sorted(order)  # by likelihood chosen, in the model's order drawn
    hues = {classes[number]: round(360 * row / len(shown)) for row, number in enumerate(shown)}
    colours = {name: f"hsl({hue} 60% 50%)" for name, hue in hues.items()}
    duration_s = float(content["duration_s"])
    rows = [
        (
            name,
            _strip([row[number] for row in content["seconds"]], duration_s, colour=colours[name]),
        )
        for number, name in enumerate(classes)
        if name in colours
    ]
    bars = [("found", _bars(found, duration_s, colours))]
    if true:
        bars.append(("truth", _bars(true, duration_s, colours)))
    preview = out / f"{name}_preview.mp4"
    return {
        "name": content["video"],
        "anchor": f"video-{quote(name)}",
        "duration_s": duration_s,
        "preview": quote(preview.name) if preview.exists() else None,
        "bars": bars,
        "rows": rows,
        "n_hidden": len(classes) - len(shown),
        "segments": found,
        "colours": colours,
        "window_s": content["window_s"],
        "model": content["model"],
        "ticks": _ticks(duration_s),
    }


def _strip(values: Sequence[float], duration_s: float, *, colour: str) -> Markup:
    """One row: a second a rectangle, the likelier the stronger."""
    cells = Markup("").join(
        Markup('<rect x="{}" y="0" width="{:.3f}" height="{}" opacity="{:.3f}"/>').format(
            second, min(1.0, duration_s - second), _ROW, value
        )
        for second, value in enumerate(values)
        if value >= 0.005 and second < duration_s
    )
    return _drawing(Markup('<g style="fill:{}">{}</g>').format(colour, cells), duration_s)


def _bars(segments: Sequence[Segment], duration_s: float, colours: Mapping[str, str]) -> Markup:
    bars = Markup("").join(
        Markup(
            '<rect x="{:.3f}" y="0" width="{:.3f}" height="{}" style="fill:{}">'
            "<title>{}</title></rect>"
        ).format(
            one.start_s,
            max(0.0, min(one.end_s, duration_s) - one.start_s),
            _ROW,
            colours.get(one.label, "var(--soft)"),
            f"{one.label}, {one.start_s:.1f} to {one.end_s:.1f} s, {one.score:.2f}",
        )
        for one in segments
    )
    return _drawing(bars, duration_s)


def _drawing(content: Markup, duration_s: float) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {:.3f} {}" preserveAspectRatio="none" aria-hidden="true">{}</svg>'
    ).format(duration_s, _ROW, escape(content))


def _ticks(duration_s: float) -> list[tuple[float, str]]:
    """(part of the width, label), at most eight."""
    step = next(
        (s for s in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800) if duration_s / s <= 8), 3600
    )
    marks = range(0, int(duration_s) + 1, step)
    long = duration_s >= 60
    return [
        (100 * mark / duration_s, f"{mark // 60}:{mark % 60:02d}" if long else f"{mark} s")
        for mark in marks
    ]
