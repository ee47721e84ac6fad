"""Detect: objects in new scans with a model folder, outside any run."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.detection.found import describe_objects
from pipeline.device import find_device
from pipeline.files import write_json
from pipeline.inputs import find_scans, go_through
from volumetric.cases import Case
from volumetric.check import read_case
from volumetric.errors import ConfigError, OutputError
from volumetric.inference.detect import detect_objects
from volumetric.io.boxes import write_boxes
from volumetric.model import load_detector

_TAKEN = ("objects", "quarantine")  # names of files of all inputs together
_COLUMNS = ("id", "class", "score", "x_mm", "y_mm", "z_mm", "size_d_mm", "size_h_mm", "size_w_mm")


def detect(
    model_folder: Path,
    inputs: Sequence[Path],
    *,
    out: Path,
    device: str,
    series: str | None = None,
    threshold: float = 0.5,
) -> tuple[list[dict[str, str]], int]:
    """Write `<out>/<input>.json`, `<input>.csv` and objects.csv.

    Returns the refusals, and how many inputs were done. What is less sure than `threshold` is left
    out. The JSON says all of an object, the CSV of an input is its boxes as a manifest's column
    `boxes` takes them, objects.csv lists those of all.
    Refused inputs are listed in `<out>/quarantine.json` with reason and remedy.

    Raises:
        UnreadableFileError: no model.
        ConfigError: a model that does something else, or a threshold that means nothing.
        DeviceError: no such device.
        OutputError: `out` cannot be written, or holds a table of boxes that is not ours.
    """
    model = load_detector(model_folder, device=find_device(device))
    least = model.spec.least_score
    if not least <= threshold <= 1:
        raise ConfigError(
            "bad-threshold",
            f"threshold {threshold}: the model tells nothing below {least:g}, no score is above 1",
            f"Choose --threshold from {least:g} to 1",
        )
    cases = find_scans(inputs, series)
    _refuse_overwriting(cases, out)
    rows: dict[str, list[dict[str, Any]]] = {}

    def detect_case(case: Case) -> None:
        image, _ = read_case(case, classes={})
        found = detect_objects(model, image)
        sure = found.take((found.known_scores() >= threshold).nonzero()[0])
        described = describe_objects(sure, image, classes=model.spec.classes)
        write_json(out / f"{case.id}.json", {"threshold": threshold, "objects": described})
        write_boxes(out / f"{case.id}.csv", sure, classes=model.spec.classes, image=image)
        rows[case.id] = described

    refused = go_through(detect_case, cases, "detect", out=out)
    with (out / "objects.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for name, objects in rows.items():
            for one in objects:
                numbers = [one["score"], *one["centre_mm"], *one["size_mm"]]
                writer.writerow([name, one["class"], *numbers])
    return refused, len(rows)


def _refuse_overwriting(cases: Sequence[Case], out: Path) -> None:
    """Boxes that somebody drew may lie under the name of what is about to be written."""
    for case in cases:
        table, ours = out / f"{case.id}.csv", out / f"{case.id}.json"
        if case.id in _TAKEN or (table.exists() and not ours.exists()):
            raise OutputError(
                "would-overwrite",
                "is a name that is needed" if case.id in _TAKEN else "is there already",
                "Rename the input, or choose another --out",
                path=table,
            )
