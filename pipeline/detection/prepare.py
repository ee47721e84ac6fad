"""Prepare: measure every case and its objects, choose a plan, write network input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.detection.keys import prepared_key
from pipeline.detection.plan import make_plan
from pipeline.files import read_json, write_json
from pipeline.keys import read_plan
from pipeline.measure import Facts, Known, Measured
from pipeline.preparation import Preparation, prepare_cases
from pipeline.progress import Each
from pipeline.run import DetectRun
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


def prepare(run: DetectRun, *, each: Each | None = None) -> None:
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


def _measure(run: DetectRun, case: Case) -> Measured:
    classes = run.data_set.classes
    checked = check_case(case, classes=classes, modality=run.data_set.modality)
    if checked.error is not None:
        return Measured(checked.findings, checked.error, {})
    assert checked.image is not None
    assert checked.traits is not None
    objects = find_objects(case, checked.image, checked.mask, classes=classes)
    mask = checked.mask
    if mask is None and objects is not None:
        mask = fill_boxes(objects, checked.image, classes=classes)
    facts = asdict(measure_case(case.id, checked.image, mask, classes=classes))
    facts["intensities"] = facts["intensities"].tolist()
    facts["traits"] = asdict(checked.traits)
    facts["affine"] = checked.image.affine.tolist()
    if objects is not None:
        sides = np.diff(objects.boxes.reshape(-1, 2, 3), axis=1)[:, 0] * checked.image.spacing
        facts["boxes"] = objects.boxes.tolist()
        facts["sides_mm"] = sides.tolist()
        facts["labels"] = objects.labels.tolist()
    return Measured(checked.findings, None, facts)


def _compare(run: DetectRun, known: Known) -> list[Finding]:
    traits = [(case, traits_from(facts["traits"])) for case, facts in known]
    return check_cohort(traits, classes=run.data_set.classes)


def _choose(run: DetectRun, facts: Facts) -> None:
    """Write fingerprint.json and plan.json: every choice with its reason."""
    classes = run.data_set.classes
    fingerprint = sum_up(
        [facts_from(found) for found in facts.values()],
        modality=run.data_set.modality,
        classes=classes,
    )
    fingerprint["objects"] = _sum_up_objects(facts, list(classes.values()))
    write_json(run.folder / "fingerprint.json", fingerprint)
    write_json(run.folder / "plan.json", make_plan(run, fingerprint))


def _sum_up_objects(facts: Facts, classes: list[str]) -> Mapping[str, Any]:
    known = [found for found in facts.values() if "labels" in found]
    counts = Counter(label for found in known for label in found["labels"])
    sides = np.array([side for found in known for side in found["sides_mm"]]).reshape(-1, 3)
    smallest, largest = sides.min(axis=1), sides.max(axis=1)

    def read(values: Any, percent: int) -> float | None:
        return round(float(np.percentile(values, percent)), 3) if len(values) else None

    return {
        "n": {name: counts[number] for number, name in enumerate(classes)},
        "n_cases_without": sum(not found["labels"] for found in known),
        "smallest_side_mm": read(smallest, 10),
        "median_side_mm": read(largest, 50),
        "largest_side_mm": read(largest, 90),
    }


def _write(run: DetectRun, case: Case, path: Path, key: str) -> None:
    """Write one case as network input, with what is in it in voxels of that."""
    plan, facts = read_plan(run), read_json(run.facts(case))
    source, _ = read_case(case, classes=run.data_set.classes)
    image, _ = prepare_volume(
        source, None, spacing=tuple(plan["spacing_mm"]), intensity=plan["intensity"]
    )
    about = {"key": key, "id": case.id}
    if "labels" in facts:
        boxes = np.array(facts["boxes"], dtype=np.float64).reshape(-1, 6)
        moved = move_boxes(boxes, np.linalg.inv(image.affine) @ source.affine)
        about |= {"boxes": moved.tolist(), "labels": facts["labels"]}
    write_prepared(path, image, None, foreground={}, facts=about)
