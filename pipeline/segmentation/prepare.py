"""Prepare: measure every case, choose a plan from what was found, write network input."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from pipeline.files import read_json, write_json
from pipeline.keys import prepared_key, read_plan
from pipeline.measure import Facts, Known, Measured
from pipeline.preparation import Preparation, prepare_cases
from pipeline.progress import Each
from pipeline.run import SegmentRun
from pipeline.segmentation.plan import make_plan
from volumetric.cases import Case
from volumetric.check import check_case, read_case
from volumetric.check.cohort import check_cohort
from volumetric.check.traits import traits_from
from volumetric.findings import Finding
from volumetric.fingerprint import facts_from, measure_case, sum_up
from volumetric.io.prepared import write_prepared
from volumetric.preprocess import prepare as prepare_volume
from volumetric.volume import Volume

_KEEP_BYTES = 1_000_000_000
_INDEX_VOXELS = 10_000  # foreground voxels a class kept for drawing patches


@dataclass(frozen=True)
class _Seen:
    """Volumes this process has read and will ask for again, by the case's id."""

    volumes: dict[str, tuple[Volume, Volume | None]] = field(default_factory=dict)


def prepare(run: SegmentRun, *, each: Each | None = None) -> None:
    """Write fingerprint.json, plan.json and prepared/<case>.safetensors of every sound case.

    What the data doctor noticed goes to findings.json, the worst first. Cases with an error go
    to quarantine; those already prepared from the same bytes with the same settings and code
    are left as they are.

    Raises:
        ManifestError: no case is left.
    """
    seen = _Seen()
    steps = Preparation(
        measure=lambda case: _measure(run, case, seen),
        compare=lambda known: _compare(run, known),
        choose=lambda facts: _choose(run, facts),
        key=lambda case: prepared_key(run, case),
        write=lambda case, path, key: _write(run, case, (path, key), seen),
    )
    prepare_cases(run, steps, each=each)


def _measure(run: SegmentRun, case: Case, seen: _Seen) -> Measured:
    case = _needed(run, case)
    checked = check_case(case, classes=run.data_set.classes, modality=run.data_set.modality)
    if checked.error is not None:
        return Measured(checked.findings, checked.error, {})
    assert checked.image is not None
    assert checked.traits is not None
    _keep(seen, case, checked.image, checked.mask)
    facts = asdict(measure_case(case.id, checked.image, checked.mask, classes=run.data_set.classes))
    facts["intensities"] = facts["intensities"].tolist()
    return Measured(checked.findings, None, {**facts, "traits": asdict(checked.traits)})


def _is_blind(run: Any) -> bool:
    """Whether the run learns without labels, so that masks are not even read."""
    return bool(run.config.task == "pretrain")


def _needed(run: SegmentRun, case: Case) -> Case:
    return replace(case, mask=None, boxes=None) if _is_blind(run) else case


def _keep(seen: _Seen, case: Case, image: Volume, mask: Volume | None) -> None:
    """What fits in a gigabyte is kept for the second time it is asked for."""
    held = sum(one.data.nbytes for pair in list(seen.volumes.values()) for one in pair if one)
    if held + image.data.nbytes < _KEEP_BYTES:
        seen.volumes[case.id] = image, mask


def _compare(run: SegmentRun, known: Known) -> list[Finding]:
    traits = [(case, traits_from(facts["traits"])) for case, facts in known]
    return check_cohort(traits, classes=None if _is_blind(run) else run.data_set.classes)


def _choose(run: SegmentRun, facts: Facts) -> None:
    """Write fingerprint.json and plan.json: every choice with its reason."""
    fingerprint = sum_up(
        [facts_from(found) for found in facts.values()],
        modality=run.data_set.modality,
        classes=run.data_set.classes,
    )
    write_json(run.folder / "fingerprint.json", fingerprint)
    plan = make_plan(run, fingerprint)
    # What `postprocess` decided stands until it decides anew.
    earlier = read_json(run.folder / "plan.json", default={})
    for part in ("values", "why"):
        if "keep_largest" in earlier.get(part, {}):
            plan[part]["keep_largest"] = earlier[part]["keep_largest"]
    write_json(run.folder / "plan.json", plan)


def _write(run: SegmentRun, case: Case, result: tuple[Path, str], seen: _Seen) -> None:
    """Write one case as network input, to a file and with a key."""
    plan = read_plan(run)
    path, key = result
    kept = seen.volumes.pop(case.id, None)
    source, source_mask = kept or read_case(_needed(run, case), classes=run.data_set.classes)
    image, mask = prepare_volume(
        source, source_mask, spacing=tuple(plan["spacing_mm"]), intensity=plan["intensity"]
    )
    index = {} if mask is None else foreground_index(mask, list(run.data_set.classes))
    write_prepared(path, image, mask, foreground=index, facts={"key": key, "id": case.id})


def foreground_index(mask: Volume, labels: list[int]) -> dict[int, torch.Tensor]:
    """Indices of up to 10,000 evenly spread voxels of each class that occurs."""
    index = {}
    for label in labels:
        if label == 0:
            continue
        found = (mask.data[0] == label).nonzero()
        if len(found):
            index[label] = found[:: max(1, -(-len(found) // _INDEX_VOXELS))].to(torch.int32)
    return index
