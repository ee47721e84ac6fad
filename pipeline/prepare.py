"""Prepare: measure every case, choose a plan from what was found, write network input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.files import hash_values, read_json, write_json
from pipeline.keys import case_key, facts_key, prepared_key
from pipeline.plan import make_plan
from pipeline.progress import Each, each_in_threads, one_core_each
from pipeline.provenance import record, record_time
from pipeline.run import Run, forget, quarantine
from volumetric.cases import Case
from volumetric.check import read_case
from volumetric.errors import ManifestError, UnreadableFileError
from volumetric.fingerprint import CaseFacts, measure_case, sum_up
from volumetric.io.prepared import open_prepared, write_prepared
from volumetric.preprocess import prepare as prepare_volume
from volumetric.volume import Volume

Read = Callable[[Case], tuple[Volume, Volume | None]]

_KEEP_BYTES = 1_000_000_000
_INDEX_VOXELS = 10_000  # foreground voxels a class kept for drawing patches


def prepare(run: Run, *, each: Each | None = None) -> None:
    """Write fingerprint.json, plan.json and prepared/<case>.safetensors of every sound case.

    Cases that cannot be read go to quarantine; those already prepared from the same bytes
    with the same settings and code are left as they are.

    Raises:
        ManifestError: no case is left.
    """
    workers = run.config.prepare.workers
    each = each or each_in_threads(workers)
    read = _reader(run)
    with record_time(run.folder, "prepare"), one_core_each(workers):
        forget(run, "prepare", run.cases)
        _collect(run, each(lambda case: _measure(run, case, read), run.cases, "measure"))
        _choose(run)
        cases = run.usable_cases("prepare")
        _collect(run, each(lambda case: _prepare_case(run, case, read), cases, "prepare"))


def _reader(run: Run) -> Read:
    """Reads and checks a case; what fits in a gigabyte is kept for the second time it is asked."""
    kept: dict[str, tuple[Volume, Volume | None]] = {}

    def read(case: Case) -> tuple[Volume, Volume | None]:
        if case.id in kept:
            return kept.pop(case.id)
        image, mask = read_case(case, classes=run.data_set.classes)
        held = sum(one.data.nbytes for pair in list(kept.values()) for one in pair if one)
        if held + image.data.nbytes < _KEEP_BYTES:
            kept[case.id] = (image, mask)
        return image, mask

    return read


def _measure(run: Run, case: Case, read: Read) -> None:
    """Read and check one case, and write its facts."""
    key = case_key(run, case)
    if facts_key(run, case) == key:
        return
    image, mask = read(case)
    facts = measure_case(case.id, image, mask, classes=run.data_set.classes)
    content = {
        "key": key,
        "shape": facts.shape,
        "spacing_mm": facts.spacing_mm,
        "volume_ml": dict(facts.volume_ml),
        "intensities": facts.intensities.tolist(),
    }
    run.prepared.mkdir(parents=True, exist_ok=True)
    write_json(run.facts(case), content)


def _choose(run: Run) -> None:
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
        [_read_facts(run, case) for case in cases],
        modality=run.data_set.modality,
        classes=run.data_set.classes,
    )
    write_json(run.folder / "fingerprint.json", fingerprint)
    record(run.folder, data_sha256=hash_values({c.id: facts_key(run, c) for c in cases}))
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


def _prepare_case(run: Run, case: Case, read: Read) -> None:
    """Write one case as network input."""
    plan = read_json(run.folder / "plan.json")["values"]
    key = prepared_key(run, case)
    path = run.prepared / f"{case.id}.safetensors"
    if _standing_key(path) == key:
        return
    source, source_mask = read(case)
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


def _collect(run: Run, outcomes: Iterator[Any]) -> None:
    for case, error in outcomes:
        if error is not None:
            quarantine(run, "prepare", case, error)


def _foreground(mask: Volume, labels: list[int]) -> dict[int, torch.Tensor]:
    """Indices of up to 10,000 evenly spread voxels of each class that occurs."""
    index = {}
    for label in labels:
        found = (mask.data[0] == label).nonzero()
        if len(found):
            index[label] = found[:: max(1, -(-len(found) // _INDEX_VOXELS))].to(torch.int32)
    return index


def _read_facts(run: Run, case: Case) -> CaseFacts:
    found = read_json(run.facts(case))
    return CaseFacts(
        case.id,
        tuple(found["shape"]),
        tuple(found["spacing_mm"]),
        np.array(found["intensities"], dtype=np.float32),
        found["volume_ml"],
    )
