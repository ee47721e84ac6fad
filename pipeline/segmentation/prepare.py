"""Prepare: measure every case, choose a plan from what was found, write network input."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.check import sort_findings
from pipeline.files import hash_values, read_json, write_json
from pipeline.keys import case_key, facts_key, prepared_key
from pipeline.plan import make_plan
from pipeline.progress import Each, each_in_threads, one_core_each
from pipeline.provenance import record, record_time
from pipeline.run import Run, forget, quarantine
from volumetric.cases import Case
from volumetric.check import check_case, read_case
from volumetric.check.cohort import check_cohort, check_listing
from volumetric.check.traits import traits_from
from volumetric.errors import ManifestError, UnreadableFileError, VolumetricError
from volumetric.findings import Finding, as_finding
from volumetric.fingerprint import CaseFacts, measure_case, sum_up
from volumetric.io.prepared import open_prepared, write_prepared
from volumetric.preprocess import prepare as prepare_volume
from volumetric.volume import Volume

_Facts = Mapping[str, Mapping[str, Any]]  # what was written of each measured case, by id

_LOG = logging.getLogger("volumetric")

_KEEP_BYTES = 1_000_000_000
_INDEX_VOXELS = 10_000  # foreground voxels a class kept for drawing patches


@dataclass(frozen=True)
class _Seen:
    """What this process saw of the cases, by id: all findings, and volumes asked for again."""

    findings: dict[str, Sequence[Finding]] = field(default_factory=dict)
    volumes: dict[str, tuple[Volume, Volume | None]] = field(default_factory=dict)


def prepare(run: Run, *, each: Each | None = None) -> None:
    """Write fingerprint.json, plan.json and prepared/<case>.safetensors of every sound case.

    What the data doctor noticed goes to findings.json, the worst first. Cases with an error go
    to quarantine; those already prepared from the same bytes with the same settings and code
    are left as they are.

    Raises:
        ManifestError: no case is left.
    """
    workers = run.config.prepare.workers
    each = each or each_in_threads(workers)
    seen = _Seen()
    with record_time(run.folder, "prepare"), one_core_each(workers):
        forget(run, "prepare", run.cases)
        for case, error in each(lambda case: _measure(run, case, seen), run.cases, "measure"):
            if error is not None:
                quarantine(run, "prepare", case, error)
                seen.findings.setdefault(case.id, [as_finding(error, case=case.id)])
        facts = {case.id: read_json(run.facts(case)) for case in run.usable_cases("prepare")}
        findings = _write_findings(run, facts, seen)
        _choose(run, facts)
        _say_warnings(findings)
        cases = run.usable_cases("prepare")
        for case, error in each(lambda case: _prepare_case(run, case, seen), cases, "prepare"):
            if error is not None:
                quarantine(run, "prepare", case, error)


def _measure(run: Run, case: Case, seen: _Seen) -> None:
    """Read and check one case, and write its facts."""
    key = case_key(run, case)
    if facts_key(run, case) == key:
        return
    checked = check_case(case, classes=run.data_set.classes, modality=run.data_set.modality)
    seen.findings[case.id] = checked.findings
    if checked.error is not None:
        raise checked.error
    assert checked.image is not None
    assert checked.traits is not None
    _keep(seen, case, checked.image, checked.mask)
    facts = measure_case(case.id, checked.image, checked.mask, classes=run.data_set.classes)
    content = {
        "key": key,
        "shape": facts.shape,
        "spacing_mm": facts.spacing_mm,
        "volume_ml": dict(facts.volume_ml),
        "unit": facts.unit,
        "intensities": facts.intensities.tolist(),
        "traits": asdict(checked.traits),
        "findings": [asdict(finding) for finding in checked.findings],
    }
    run.prepared.mkdir(parents=True, exist_ok=True)
    write_json(run.facts(case), content)


def _keep(seen: _Seen, case: Case, image: Volume, mask: Volume | None) -> None:
    """What fits in a gigabyte is kept for the second time it is asked for."""
    held = sum(one.data.nbytes for pair in list(seen.volumes.values()) for one in pair if one)
    if held + image.data.nbytes < _KEEP_BYTES:
        seen.volumes[case.id] = image, mask


def _write_findings(run: Run, facts: _Facts, seen: _Seen) -> list[Finding]:
    """Of the cases one by one and side by side; who has an error there is set apart, too."""
    findings = [*check_listing(run.cases)]
    for case in run.cases:
        measured = [Finding(**one) for one in facts.get(case.id, {}).get("findings", [])]
        findings += seen.findings.get(case.id, measured)
    known = {case.id: case for case in run.cases if case.id in facts}
    across = check_cohort(
        [(case, traits_from(facts[name]["traits"])) for name, case in known.items()],
        classes=run.data_set.classes,
    )
    for one in across:
        if one.severity == "error" and one.case in known:
            error = VolumetricError(one.code, one.reason, one.remedy, path=one.path)
            quarantine(run, "prepare", known[one.case], error)
    found = sort_findings([*findings, *across])
    write_json(run.folder / "findings.json", [asdict(finding) for finding in found])
    return found


def _say_warnings(findings: Sequence[Finding]) -> None:
    """A line a code; errors are said where their cases are set apart, notes are not."""
    for _, group in groupby(
        [one for one in findings if one.severity == "warning" or one.case is None],
        lambda one: one.code,
    ):
        found = [one for one in group if one.severity != "note"]
        if found:
            first = found[0]
            more = f" (and {len(found) - 1} more: see findings.json)" if len(found) > 1 else ""
            _LOG.warning("%s%s", first, more)


def _choose(run: Run, facts: _Facts) -> None:
    """Write fingerprint.json and plan.json: every choice with its reason."""
    cases = run.usable_cases("prepare")
    if not cases:
        raise ManifestError(
            "no-usable-case",
            f"every case was refused, most often because {_commonest_reason(run)}",
            f"See {run.folder / 'quarantine.json'} for each",
            path=run.manifest,
        )
    fingerprint = sum_up(
        [_case_facts(case.id, facts[case.id]) for case in cases],
        modality=run.data_set.modality,
        classes=run.data_set.classes,
    )
    write_json(run.folder / "fingerprint.json", fingerprint)
    record(run.folder, data_sha256=hash_values({c.id: facts[c.id]["key"] for c in cases}))
    plan = make_plan(run, fingerprint)
    # What `postprocess` decided stands until it decides anew.
    earlier = read_json(run.folder / "plan.json", default={})
    for part in ("values", "why"):
        if "keep_largest" in earlier.get(part, {}):
            plan[part]["keep_largest"] = earlier[part]["keep_largest"]
    write_json(run.folder / "plan.json", plan)


def _commonest_reason(run: Run) -> str:
    entries = read_json(run.folder / "quarantine.json")
    code, n_cases = Counter(entry["code"] for entry in entries).most_common(1)[0]
    one = next(entry for entry in entries if entry["code"] == code)
    return f"{one['path']}: {one['reason']} ({n_cases} of {len(entries)}; {one['remedy']})"


def _prepare_case(run: Run, case: Case, seen: _Seen) -> None:
    """Write one case as network input."""
    plan = read_json(run.folder / "plan.json")["values"]
    key = prepared_key(run, case)
    path = run.prepared / f"{case.id}.safetensors"
    if _standing_key(path) == key:
        return
    kept = seen.volumes.pop(case.id, None)
    source, source_mask = kept or read_case(case, classes=run.data_set.classes)
    image, mask = prepare_volume(
        source, source_mask, spacing=tuple(plan["spacing_mm"]), intensity=plan["intensity"]
    )
    index = {} if mask is None else _foreground(mask, list(run.data_set.classes))
    write_prepared(path, image, mask, foreground=index, facts={"key": key, "id": case.id})


def _standing_key(path: Path) -> str | None:
    try:
        key: str = open_prepared(path).facts["key"]
    except UnreadableFileError:
        return None
    return key


def _foreground(mask: Volume, labels: list[int]) -> dict[int, torch.Tensor]:
    """Indices of up to 10,000 evenly spread voxels of each class that occurs."""
    index = {}
    for label in labels:
        found = (mask.data[0] == label).nonzero()
        if len(found):
            index[label] = found[:: max(1, -(-len(found) // _INDEX_VOXELS))].to(torch.int32)
    return index


def _case_facts(name: str, found: Mapping[str, Any]) -> CaseFacts:
    return CaseFacts(
        name,
        tuple(found["shape"]),
        tuple(found["spacing_mm"]),
        np.array(found["intensities"], dtype=np.float32),
        found["volume_ml"],
        found["unit"],
    )
