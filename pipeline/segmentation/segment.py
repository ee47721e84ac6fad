"""Segment: new scans with a model folder, outside any run."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.device import find_device
from pipeline.inputs import find_scans, go_through
from volumetric.cases import Case
from volumetric.check import read_case
from volumetric.errors import OutputError
from volumetric.inference.segment import segment_volume, split_volume
from volumetric.instances import Instance, measure_instances
from volumetric.io import write_volume
from volumetric.model import Model, load_model
from volumetric.spec import ModelSpec
from volumetric.volume import Volume


def segment(
    model_folder: Path,
    inputs: Sequence[Path],
    *,
    out: Path,
    device: str,
    series: str | None = None,
) -> tuple[list[dict[str, str]], int]:
    """Write `<out>/<input>.nii.gz` and volumes.csv; return the refusals and how many were done.

    A model that tells objects apart numbers them, and writes objects.csv instead: the volume,
    diameters and place of each.

    `series` chooses one where a DICOM folder holds several. Refused inputs are listed in
    `<out>/quarantine.json` with reason and remedy.

    Raises:
        UnreadableFileError: no model.
        DeviceError: no such device.
        OutputError: `out` cannot be written.
    """
    model = load_model(model_folder, device=find_device(device))
    cases = find_scans(inputs, series)
    _refuse_overwriting(cases, out)
    volumes: dict[str, dict[str, float]] = {}

    objects: dict[str, list[Instance]] = {}

    def segment_case(case: Case) -> None:
        image, _ = read_case(case, classes=model.spec.classes)
        if model.spec.splits:
            numbers, _ = split_volume(model, image)
            write_volume(numbers, out / f"{case.id}.nii.gz")
            objects[case.id] = measure_instances(numbers)
            return
        labels = segment_volume(model, image)
        write_volume(labels, out / f"{case.id}.nii.gz")
        volumes[case.id] = _volumes_ml(model, labels)

    refused = go_through(segment_case, cases, "segment", out=out)
    if model.spec.splits:
        _write_objects(out / "objects.csv", objects)
        return refused, len(objects)
    with (out / "volumes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", *(f"{name}_ml" for name in model.spec.classes.values())])
        writer.writerows([name, *by_class.values()] for name, by_class in volumes.items())
    return refused, len(volumes)


def _write_objects(path: Path, objects: Mapping[str, Sequence[Instance]]) -> None:
    """A row for each object of each input."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        columns = ["number", "volume_mm3", "longest_mm", "perpendicular_mm", "slice_index"]
        writer.writerow(["id", *columns, "x_mm", "y_mm", "z_mm"])
        for name, instances in objects.items():
            for one in instances:
                values = [getattr(one, column) for column in columns]
                numbers = [round(value, 4) for value in [*values, *one.centre_mm]]
                writer.writerow([name, *numbers])


def _refuse_overwriting(cases: Sequence[Case], out: Path) -> None:
    inputs = {case.image.resolve() for case in cases}
    for case in cases:
        result = (out / f"{case.id}.nii.gz").resolve()
        if result in inputs:
            raise OutputError(
                "would-overwrite",
                "is an input, and its labels would be written over it",
                "Choose another --out",
                path=result,
            )


def _volumes_ml(model: Model[ModelSpec], labels: Volume) -> dict[str, float]:
    voxel_ml = abs(float(np.linalg.det(labels.affine[:3, :3]))) / 1000
    counts = labels.data.flatten().bincount(minlength=256)
    volumes = {name: int(counts[label]) * voxel_ml for label, name in model.spec.classes.items()}
    return {name: round(volume, 6) for name, volume in volumes.items()}
