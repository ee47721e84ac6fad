"""Finding: one thing noticed about a file, a case or a data set, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from volumetric.errors import VolumetricError

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """What was noticed.

    Attributes:
        code: short kebab-case name, stable across versions; an error's code is its exception's.
        severity: "error": not usable as it is; "warning": usable, but a person should look;
            "note": dealt with, and said.
        reason: what was found.
        remedy: what to do about it.
        path: the file or folder concerned; None if there is none.
        case: id of the case concerned; None for a file by itself or a whole data set.
    """

    code: str
    severity: Severity
    reason: str
    remedy: str
    path: str | None = None
    case: str | None = None

    def __str__(self) -> str:
        """One line: case, path, reason, remedy, code."""
        where = ": ".join(part for part in (self.case, self.path) if part)
        return " ".join(f"{where and where + ': '}{self.reason}. {self.remedy}.".split()) + (
            f" [{self.code}]"
        )


def as_finding(error: VolumetricError, *, case: str | None = None) -> Finding:
    """A refusal as an error among other findings."""
    return Finding(error.code, "error", error.reason, error.remedy, error.path, case)


def count_severities(findings: Sequence[Finding]) -> dict[Severity, int]:
    """How many errors, warnings and notes there are."""
    found = Counter(finding.severity for finding in findings)
    return {"error": found["error"], "warning": found["warning"], "note": found["note"]}
