"""Recognise: what happens when in new videos, with a model folder, outside any run."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.classification.preview import draw_preview
from pipeline.classification.truth import compare_end, compare_names, read_truth
from pipeline.device import find_device
from pipeline.files import write_json
from pipeline.inputs import go_through, refuse_twins
from pipeline.report.timeline import write_timeline_page
from volumetric.cases import Case
from volumetric.errors import ConfigError, ManifestError, UnsupportedError
from volumetric.inference.timeline import Timeline, classify_stream
from volumetric.io.video import Probe, is_video_file, probe_video, stream_clip, write_video
from volumetric.metrics import Segment, merge_segments, score_localisation, smooth_windows
from volumetric.model import load_classifier
from volumetric.spec import ClassifierSpec

_PREVIEW_SIDE = 240  # pixels, also of smaller videos, or the label could not be read
_PREVIEW_RATE = 12.5
_RESULTS = ("results", "quarantine")  # names of files beside those of the videos
_SURE = 0.5  # of a class that may hold beside others


@dataclass(frozen=True)
class Recognition:
    """How a long video is looked at.

    Attributes:
        step_s: from one window to the next.
        smooth: windows averaged around each; odd, 1 for none.
        threshold: with one, a class holds wherever its probability reaches it, and classes may
            overlap; without, each moment belongs to the most probable, or, for a model of
            several labels, to each that is more likely than not.
        shortest_s: segments shorter than this are dropped.
        preview: whether a video with the label drawn into it is written.

    Raises:
        ConfigError: a number that means nothing.
    """

    step_s: float = 0.5
    smooth: int = 3
    threshold: float | None = None
    shortest_s: float = 0.5
    preview: bool = True

    def __post_init__(self) -> None:
        sound = {
            "step_s": 0 < self.step_s < math.inf,
            "threshold": self.threshold is None or 0 < self.threshold <= 1,
            "shortest_s": 0 <= self.shortest_s < math.inf,
        }
        for name, fits in sound.items():
            if not fits:
                raise ConfigError(
                    "bad-recognition",
                    f"{name} is {getattr(self, name)}",
                    "Give a step above 0 s, a threshold from above 0 to 1, a shortest from 0 s on",
                )


def recognize(
    model_folder: Path,
    inputs: Sequence[Path],
    *,
    out: Path,
    device: str,
    truth: Path | None = None,
    how: Recognition = Recognition(),
) -> tuple[list[dict[str, str]], int]:
    """Write timelines, segments, previews and index.html; return refusals and how many were done.

    Of each video: `<name>.json` (per-second probabilities, segments), `<name>_seconds.csv`,
    `<name>_segments.csv`, `<name>_preview.mp4`. With `truth` (columns video, start_s, end_s,
    label) also results.json with the localisation's scores, over the videos that it lists.
    Refused videos are listed in `<out>/quarantine.json` with reason and remedy.

    Raises:
        UnreadableFileError, ConfigError: no model, or one that does something else.
        DeviceError: no such device.
        ManifestError: two videos of one name, or a truth that cannot be read or is of others.
        OutputError: `out` cannot be written.
    """
    model = load_classifier(model_folder, device=find_device(device))
    if model.spec.pretrained:
        raise ConfigError(
            "other-task",
            "holds a model that learned without labels",
            "Name it as model.weights of a run that labels clips",
            path=model_folder,
        )
    cases = _cases([one for path in inputs for one in _expand(path)])
    known = {} if truth is None else read_truth(truth, classes=model.spec.classes)
    if truth is not None:
        compare_names(truth, set(known), {case.id for case in cases})
    found: dict[str, list[Segment]] = {}

    def recognize_case(case: Case) -> None:
        probe = probe_video(case.image)
        chunks = stream_clip(
            case.image, rate=model.spec.rate, size=model.spec.short_side, probe=probe
        )
        timeline = classify_stream(model, chunks, step_s=how.step_s)
        compare_end(case.id, timeline.duration_s, known.get(case.id, []))
        segments = find_segments(timeline, model.spec, how)
        _write(out, case, timeline, segments, model.spec)
        (out / f"{case.id}_preview.mp4").unlink(missing_ok=True)
        if how.preview:
            _write_preview(out, case, timeline, spec=model.spec, probe=probe)
        found[case.id] = segments

    for name in ("results.json", "index.html"):  # of other videos, or of another truth
        (out / name).unlink(missing_ok=True)
    refused = go_through(recognize_case, cases, "recognise", out=out)
    results = _score(known, found, model.spec)
    if results:
        write_json(out / "results.json", results)
    done = [case for case in cases if case.id in found]
    if done:
        write_timeline_page(out, [case.id for case in done], truth=known, results=results)
    return refused, len(found)


def find_segments(timeline: Timeline, spec: ClassifierSpec, how: Recognition) -> list[Segment]:
    """What happens from when to when, by time."""
    threshold = _SURE if how.threshold is None and spec.multi_label else how.threshold
    odd = min(how.smooth, 2 * ((len(timeline.times_s) - 1) // 2) + 1)
    return merge_segments(
        smooth_windows(timeline.probabilities, odd),
        timeline.times_s.tolist(),
        classes=spec.classes,
        threshold=threshold,
        shortest_s=min(how.shortest_s, timeline.duration_s / 2),
        span_s=(0.0, timeline.duration_s),
    )


def _score(
    truth: Mapping[str, list[Segment]],
    found: Mapping[str, list[Segment]],
    spec: ClassifierSpec,
) -> dict[str, Any]:
    """Temporal mAP over the videos that have a truth; empty without any."""
    both = {name: segments for name, segments in truth.items() if name in found}
    if not both:
        return {}
    metrics = score_localisation({n: found[n] for n in both}, both, classes=spec.classes)
    return {
        "task": "localise",
        "n_videos": len(both),
        "metrics": {
            metric: {name: asdict(interval) for name, interval in by_class.items()}
            for metric, by_class in metrics.items()
        },
    }


def _write(
    out: Path, case: Case, timeline: Timeline, segments: Sequence[Segment], spec: ClassifierSpec
) -> None:
    seconds = timeline.by_second()
    rounded = [[round(float(value), 6) for value in row] for row in seconds]
    content = {
        "video": case.image.name,
        "duration_s": round(timeline.duration_s, 3),
        "window_s": round(timeline.window_s, 3),
        "step_s": round(timeline.step_s, 3),
        "classes": list(spec.classes),
        "seconds": rounded,
        "segments": [asdict(one) for one in segments],
        "model": {name: spec.about.get(name) for name in ("name", "data_set", "commit")},
    }
    write_json(out / f"{case.id}.json", content)
    _write_table(
        out / f"{case.id}_seconds.csv",
        ["second", *spec.classes],
        [[number, *row] for number, row in enumerate(rounded)],
    )
    _write_table(
        out / f"{case.id}_segments.csv",
        ["start_s", "end_s", "label", "score"],
        [[round(s.start_s, 3), round(s.end_s, 3), s.label, round(s.score, 6)] for s in segments],
    )


def _write_table(path: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)


def _write_preview(
    out: Path, case: Case, timeline: Timeline, *, spec: ClassifierSpec, probe: Probe
) -> None:
    """The video small, with the most probable class drawn into it."""
    rate = min(_PREVIEW_RATE, probe.rate or _PREVIEW_RATE)
    chunks = stream_clip(case.image, rate=rate, size=_PREVIEW_SIDE, probe=probe)
    frames = (
        frame for chunk in chunks for frame in draw_preview(chunk, timeline, classes=spec.classes)
    )
    write_video(out / f"{case.id}_preview.mp4", (torch.from_numpy(f) for f in frames), rate=rate)


def _cases(inputs: Sequence[Path]) -> list[Case]:
    names = [path.stem for path in inputs]
    refuse_twins(names)
    if taken := sorted({*names} & {*_RESULTS}):
        raise ManifestError(
            "reserved-name",
            f"a video called {taken[0]!r} would be mistaken for {taken[0]}.json",
            "Give it another name",
        )
    return [Case(name, name, None, path) for name, path in zip(names, inputs, strict=True)]


def _expand(path: Path) -> list[Path]:
    """A folder's videos; else the path itself."""
    if not path.is_dir():
        return [path]
    videos = sorted(file for file in path.iterdir() if is_video_file(file))
    if not videos:
        raise UnsupportedError(
            "no-videos", "holds no video file", "Name the folder that holds them", path=path
        )
    return videos
