"""Prepare: check and measure every scan, choose a box and spacing, write network input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.classification.keys import prepared_key
from pipeline.files import write_json
from pipeline.keys import read_plan
from pipeline.measure import Facts, Known, Measured
from pipeline.preparation import (
    SET,
    Choices,
    Preparation,
    choose_scheme,
    count_labels,
    describe_choices,
    prepare_cases,
)
from pipeline.progress import Each
from pipeline.run import ClassifyScansRun
from volumetric.cases import Case
from volumetric.check import check_case, read_case
from volumetric.check.cohort import check_cohort
from volumetric.check.labels import check_labels
from volumetric.check.traits import traits_from
from volumetric.errors import ConfigError
from volumetric.findings import Finding
from volumetric.fingerprint import facts_from, measure_case, sum_up
from volumetric.io.prepared import write_prepared
from volumetric.plan import choose_box, choose_spacing
from volumetric.preprocess import prepare_whole


def prepare(run: ClassifyScansRun, *, each: Each | None = None) -> None:
    """Write fingerprint.json, plan.json and prepared/<case>.safetensors of every sound scan.

    What the data doctor noticed goes to findings.json, the worst first. Cases with an error go
    to quarantine; those already prepared from the same bytes with the same settings and code
    are left as they are.

    Raises:
        ManifestError: no case is left.
        ConfigError: the box set in the configuration is larger than its budget.
    """
    steps = Preparation(
        measure=lambda case: _measure(run, case),
        compare=lambda known: _compare(run, known),
        choose=lambda facts: _choose(run, facts),
        key=lambda case: prepared_key(run, case),
        write=lambda case, path, key: _write(run, case, path, key),
    )
    prepare_cases(run, steps, each=each)


def _measure(run: ClassifyScansRun, case: Case) -> Measured:
    data_set = run.data_set
    checked = check_case(
        case,
        modality=data_set.modality,
        labels=None if case.label is None else data_set.labels,
        multi_label=data_set.multi_label,
    )
    if checked.error is not None:
        return Measured(checked.findings, checked.error, {})
    assert checked.image is not None
    assert checked.traits is not None
    facts = asdict(measure_case(case.id, checked.image, None, classes={}))
    facts["intensities"] = facts["intensities"].tolist()
    return Measured(checked.findings, None, {**facts, "traits": asdict(checked.traits)})


def _compare(run: ClassifyScansRun, known: Known) -> list[Finding]:
    traits = [(case, traits_from(facts["traits"])) for case, facts in known]
    labels = check_labels([case for case, _ in known], run.data_set.labels)
    return [*check_cohort(traits, classes={}), *labels]


def _choose(run: ClassifyScansRun, facts: Facts) -> None:
    """Write fingerprint.json and plan.json: every choice with its reason."""
    fingerprint = sum_up(
        [facts_from(found) for found in facts.values()],
        modality=run.data_set.modality,
        classes={},
    )
    fingerprint["labels"] = count_labels(run)
    write_json(run.folder / "fingerprint.json", fingerprint)
    choices = _choices(run, fingerprint, facts)
    write_json(run.folder / "plan.json", describe_choices(choices))


def _choices(run: ClassifyScansRun, fingerprint: Mapping[str, Any], facts: Facts) -> Choices:
    wanted = run.config.prepare
    spacing, why = choose_spacing(fingerprint)
    if wanted.spacing_mm is not None:
        spacing, why = wanted.spacing_mm, SET
    extents_mm = [np.array(one["shape"]) * one["spacing_mm"] for one in facts.values()]
    shape, coarser = choose_box(extents_mm, spacing, budget_voxels=wanted.budget_voxels)
    why_shape = "what holds every case at that spacing"
    if wanted.shape is not None:
        shape, why_shape = wanted.shape, SET
    elif coarser > 1 and wanted.spacing_mm is None:
        spacing = tuple(round(one * coarser, 6) for one in spacing)  # type: ignore[assignment]
        why += f", {coarser:.3g} times coarser so that a whole case fits the budget"
    elif coarser > 1:
        raise ConfigError(
            "bad-box",
            f"whole cases at prepare.spacing_mm {list(spacing)} have more voxels than "
            f"prepare.budget_voxels, {wanted.budget_voxels:,}",
            "Raise the budget, choose a coarser spacing, or set prepare.shape to see their middle",
            path=run.folder / "config.yaml",
        )
    return {
        "spacing_mm": (spacing, why),
        "intensity": choose_scheme(fingerprint, wanted.intensity),
        "shape": (shape, why_shape),
    }


def _write(run: ClassifyScansRun, case: Case, path: Path, key: str) -> None:
    """Write one scan as network input."""
    plan = read_plan(run)
    image, _ = read_case(case, classes={})
    scan = prepare_whole(
        image,
        spacing=tuple(plan["spacing_mm"]),
        intensity=plan["intensity"],
        shape=tuple(plan["shape"]),
    )
    write_prepared(path, scan, None, foreground={}, facts={"key": key, "id": case.id})
