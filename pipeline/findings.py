"""What the data doctor found, in order, for a person and for machines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from volumetric.errors import VolumetricError, printable
from volumetric.findings import Finding, Severity, as_finding, count_severities

_LISTED: Mapping[Severity, int] = {"error": 10, "warning": 10, "note": 3}
_FIRST = (
    "no-usable-mask",
    "duplicate-across-folds",
    "subject-in-two-folds",
    "shape-mismatch",
    "origin-mismatch",
    "direction-mismatch",
    "spacing-mismatch",
)
_RANK: Mapping[Severity, int] = {"error": 0, "warning": 1, "note": 2}

Styled = Callable[[str, Severity], str]
"""A text, marked for its severity."""


@dataclass(frozen=True)
class Report:
    """What was checked and what was found, the worst first.

    Attributes:
        n_cases: cases of manifests, or scans of folders.
        n_volumes: their images and masks.
        findings: by severity, then code.
    """

    n_cases: int
    n_volumes: int
    findings: tuple[Finding, ...]


def sort_findings(findings: Sequence[Finding]) -> list[Finding]:
    """The worst first; within a severity what leaks, then what lies elsewhere, then by code."""
    first = {code: rank for rank, code in enumerate(_FIRST)}
    return sorted(
        findings,
        key=lambda one: (_RANK[one.severity], first.get(one.code, len(first)), one.code),
    )


def refused(error: VolumetricError) -> Report:
    """The report where nothing could be checked: why not."""
    return Report(0, 0, (as_finding(error),))


def to_json(report: Report) -> str:
    """One JSON document: n_cases, n_volumes, findings, counts."""
    content = {
        "n_cases": report.n_cases,
        "n_volumes": report.n_volumes,
        "findings": [asdict(finding) for finding in report.findings],
        "counts": count_severities(report.findings),
    }
    return json.dumps(content, indent=1)


def to_text(report: Report, *, styled: Styled) -> str:
    """For a person: by severity, then code, a line a case, the remedy once; the sum last."""
    lines: list[str] = []
    for (severity, code), group in groupby(report.findings, lambda one: (one.severity, one.code)):
        found = list(group)
        count = f", {len(found)} times" if len(found) > 1 else ""
        lines.append(f"{styled(severity, severity)} {styled(code, severity)}{count}")
        listed = _LISTED[severity] if len(found) > _LISTED[severity] + 1 else len(found)
        lines += [f"  {_where(one)}{printable(one.reason)}" for one in found[:listed]]
        if listed < len(found):
            lines.append(f"  … and {len(found) - listed} more (--json lists all)")
        remedy = Counter(one.remedy for one in found).most_common(1)[0][0]
        lines += [f"  → {printable(remedy)}", ""]
    return "\n".join([*lines, _summary(report, styled)])


def list_codes(*, as_json: bool = False) -> str:
    """Every code with its severity and meaning, a line each, or as one JSON document."""
    from volumetric.check.codes import CODES

    rows = sorted(CODES.items(), key=lambda row: (_RANK[row[1][0]], row[0]))
    if as_json:
        table = [{"code": code, "severity": how, "meaning": says} for code, (how, says) in rows]
        return json.dumps(table, indent=1)
    return "\n".join(f"{code:28} {severity:8} {says}" for code, (severity, says) in rows)


def _where(finding: Finding) -> str:
    """The case, and its file with the folder it is in: image and mask are often namesakes."""
    path = None if finding.path is None else printable(finding.path)
    where = finding.case or path
    if finding.case is None or path is None or f"/{path}".endswith(f"/{finding.case}"):
        return f"{printable(where)}: " if where else ""
    return f"{printable(finding.case)} ({'/'.join(Path(path).parts[-2:])}): "


def _summary(report: Report, styled: Styled) -> str:
    counts = count_severities(report.findings)
    said = ", ".join(
        styled(f"{counts[severity]} {severity}{'' if counts[severity] == 1 else 's'}", severity)
        if counts[severity]
        else f"0 {severity}s"
        for severity in _RANK
    )
    cases = f"{report.n_cases} case{'' if report.n_cases == 1 else 's'}"
    return f"{cases}, {report.n_volumes} volume{'' if report.n_volumes == 1 else 's'}: {said}"
