"""Every case checked and measured: facts of the sound ones, findings, quarantine for the others."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from pipeline.files import hash_values, read_json, write_json
from pipeline.findings import sort_findings
from pipeline.keys import case_key, facts_key
from pipeline.progress import Each
from pipeline.provenance import record
from pipeline.run import Run, forget, quarantine
from volumetric.cases import Case
from volumetric.check.cohort import check_listing
from volumetric.errors import ManifestError, VolumetricError
from volumetric.findings import Finding, as_finding

_LOG = logging.getLogger("volumetric")

Facts = Mapping[str, Mapping[str, Any]]
"""What was measured of each sound case, by id."""
Known = Sequence[tuple[Case, Mapping[str, Any]]]
"""The sound cases with their facts."""


@dataclass(frozen=True)
class Measured:
    """What was seen of one case.

    Attributes:
        findings: all that was noticed.
        error: why it cannot be used; None if it can.
        facts: what was measured, in plain values; empty if it cannot be used.
    """

    findings: Sequence[Finding]
    error: VolumetricError | None
    facts: Mapping[str, Any]


def measure_cases(
    run: Run[Any],
    measure: Callable[[Case], Measured],
    *,
    compare: Callable[[Known], list[Finding]],
    each: Each,
) -> Facts:
    """The facts of every sound case, `<case>.json`; measured anew where its bytes or code changed.

    What was noticed, of cases by themselves (`measure`) and side by side (`compare`), goes to
    findings.json, the worst first. Cases with an error go to quarantine.

    Raises:
        ManifestError: no case is left.
    """
    seen: dict[str, Sequence[Finding]] = {}

    def measure_one(case: Case) -> None:
        key = case_key(run, case)
        if facts_key(run, case) == key:
            return
        measured = measure(case)
        seen[case.id] = measured.findings
        if measured.error is not None:
            raise measured.error
        findings = [asdict(finding) for finding in measured.findings]
        run.prepared.mkdir(parents=True, exist_ok=True)
        write_json(run.facts(case), {"key": key, **measured.facts, "findings": findings})

    forget(run, "prepare", run.cases)
    for case, error in each(measure_one, run.cases, "measure"):
        if error is not None:
            quarantine(run, "prepare", case, error)
            seen.setdefault(case.id, [as_finding(error, case=case.id)])
    facts = {case.id: read_json(run.facts(case)) for case in run.usable_cases("prepare")}
    found = _write_findings(run, facts, seen, compare)
    cases = run.usable_cases("prepare")
    if not cases:
        raise ManifestError(
            "no-usable-case",
            f"every case was refused, most often because {_commonest_reason(run)}",
            f"See {run.folder / 'quarantine.json'} for each",
            path=run.manifest,
        )
    _say_warnings(found)
    record(run.folder, data_sha256=hash_values({c.id: facts[c.id]["key"] for c in cases}))
    return {case.id: facts[case.id] for case in cases}


def _write_findings(
    run: Run[Any],
    facts: Facts,
    seen: Mapping[str, Sequence[Finding]],
    compare: Callable[[Known], list[Finding]],
) -> list[Finding]:
    """Of the cases one by one and side by side; who has an error there is set apart, too."""
    findings = [*check_listing(run.cases)]
    for case in run.cases:
        measured = [Finding(**one) for one in facts.get(case.id, {}).get("findings", [])]
        findings += seen.get(case.id, measured)
    known = {case.id: case for case in run.cases if case.id in facts}
    across = compare([(case, facts[name]) for name, case in known.items()])
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


def _commonest_reason(run: Run[Any]) -> str:
    entries = read_json(run.folder / "quarantine.json")
    code, n_cases = Counter(entry["code"] for entry in entries).most_common(1)[0]
    one = next(entry for entry in entries if entry["code"] == code)
    return f"{one['path']}: {one['reason']} ({n_cases} of {len(entries)}; {one['remedy']})"
