"""Prepare: measure every case and its objects, choose a plan, write network input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.detection.plan import make_plan
from pipeline.files import read_json, write_json
from pipeline.instances.plan import plan_splitting
from pipeline.keys import prepared_key, read_plan
from pipeline.measure import Facts, Known, Measured
from pipeline.preparation import Preparation, prepare_cases
from pipeline.progress import Each
from pipeline.run import ObjectsRun
from pipeline.segmentation.prepare import foreground_index
from volumetric.boxes import move_boxes
from volumetric.cases import Case
from volumetric.check import check_case, read_case
from volumetric.check.cohort import check_cohort
from volumetric.check.traits import traits_from
from volumetric.findings import Finding
from volumetric.fingerprint import facts_from, measure_case, sum_up
from volumetric.io.prepared import write_prepared
from volumetric.objects import fill_boxes, find_objects
from volumetric.preprocess import prepare as prepare_volume
from volumetric.splitting import number_on_grid


def prepare(run: ObjectsRun, *, each: Each | None = None) -> None:
    """Write fingerprint.json, plan.json and prepared/<case>.safetensors of every sound case.

    What the data doctor noticed goes to findings.json, the worst first. Cases with an error go
    to quarantine; those already prepared from the same bytes with the same settings and code
    are left as they are.

    Raises:
        ManifestError: no case is left.
    """
    steps = Preparation(
        measure=lambda case: _measure(run, case),
        compare=lambda known: _compare(run, known),
        choose=lambda facts: _choose(run, facts),
        key=lambda case: prepared_key(run, case),
        write=lambda case, path, key: _write(run, case, path, key),
    )
    prepare_cases(run, steps, each=each)


def _measure(run: ObjectsRun, case: Case) -> Measured:
    classes, numbered = run.data_set.classes, run.data_set.instances
    checked = check_case(case, classes=classes, modality=run.data_set.modality, numbered=numbered)
    if checked.error is not None:
        return Measured(checked.findings, checked.error, {})
    assert checked.image is not None
    assert checked.traits is not None
    mask = checked.mask
    objects = find_objects(case, checked.image, mask, classes=classes, numbered=numbered)
    if mask is not None and numbered:
        mask = mask.with_data((mask.data > 0).to(torch.uint8))
    if mask is None and objects is not None:
        mask = fill_boxes(objects, checked.image, classes=classes)
    facts = asdict(measure_case(case.id, checked.image, mask, classes=classes))
    facts["intensities"] = facts["intensities"].tolist()
    facts["traits"] = asdict(checked.traits)
    facts["affine"] = checked.image.affine.tolist()
    if objects is not None:
        # An axis of one voxel says nothing of an object's size.
        axes = [axis for axis in range(3) if checked.image.shape[axis] > 1] or [0, 1, 2]
        sides = (objects.boxes[:, 3:] - objects.boxes[:, :3]) * checked.image.spacing
        facts["boxes"] = objects.boxes.tolist()
        facts["smallest_mm"] = sides[:, axes].min(axis=1).tolist()
        facts["largest_mm"] = sides[:, axes].max(axis=1).tolist()
        facts["labels"] = objects.labels.tolist()
    return Measured(checked.findings, None, facts)


def _compare(run: ObjectsRun, known: Known) -> list[Finding]:
    traits = [(case, traits_from(facts["traits"])) for case, facts in known]
    return check_cohort(traits, classes=None if run.data_set.instances else run.data_set.classes)


def _choose(run: ObjectsRun, facts: Facts) -> None:
    """Write fingerprint.json and plan.json: every choice with its reason."""
    classes = run.data_set.classes
    fingerprint = sum_up(
        [facts_from(found) for found in facts.values()],
        modality=run.data_set.modality,
        classes=classes,
    )
    fingerprint["objects"] = _sum_up_objects(facts, list(classes.values()))
    write_json(run.folder / "fingerprint.json", fingerprint)
    make = plan_splitting if run.config.task == "instances" else make_plan
    write_json(run.folder / "plan.json", make(run, fingerprint))


def _sum_up_objects(facts: Facts, classes: list[str]) -> Mapping[str, Any]:
    known = [found for found in facts.values() if "labels" in found]
    counts = Counter(label for found in known for label in found["labels"])
    smallest = [side for found in known for side in found["smallest_mm"]]
    largest = [side for found in known for side in found["largest_mm"]]

    def read(values: Any, percent: int) -> float | None:
        return round(float(np.percentile(values, percent)), 3) if len(values) else None

    return {
        "n": {name: counts[number] for number, name in enumerate(classes)},
        "n_cases_without": sum(not found["labels"] for found in known),
        "smallest_side_mm": read(smallest, 10),
        "median_side_mm": read(largest, 50),
        "largest_side_mm": read(largest, 90),
    }


def _write(run: ObjectsRun, case: Case, path: Path, key: str) -> None:
    """Write one case as network input, with what is in it in voxels of that."""
    plan, facts = read_plan(run), read_json(run.facts(case))
    needed = replace(case, mask=None) if run.config.task == "detect" else case
    data_set = run.data_set
    source, numbers = read_case(needed, classes=data_set.classes, numbered=data_set.instances)
    inside = None if numbers is None else numbers.with_data((numbers.data > 0).to(torch.uint8))
    image, mask = prepare_volume(
        source, inside, spacing=tuple(plan["spacing_mm"]), intensity=plan["intensity"]
    )
    if mask is not None and numbers is not None:
        placed = number_on_grid(numbers, mask)
        mask = placed.with_data(placed.data.to(torch.uint8))
    about = {"key": key, "id": case.id}
    if "labels" in facts:
        boxes = np.array(facts["boxes"], dtype=np.float64).reshape(-1, 6)
        moved = move_boxes(boxes, np.linalg.inv(image.affine) @ source.affine)
        about |= {"boxes": moved.tolist(), "labels": facts["labels"]}
    index = {} if mask is None else foreground_index(mask, torch.unique(mask.data).tolist())
    write_prepared(path, image, mask, foreground=index, facts=about)
