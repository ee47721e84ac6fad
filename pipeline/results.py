"""What results of every task say besides their numbers."""

from __future__ import annotations

from collections.abc import Sequence

from volumetric.cases import Case

_TRUSTWORTHY = 20  # subjects; see the coverage in volumetric/metrics/statistics.py


def note_few_subjects(cases: Sequence[Case]) -> list[str]:
    """A line that says so where scored cases are of too few subjects to trust their intervals."""
    n_subjects = len({case.subject for case in cases})
    if n_subjects >= _TRUSTWORTHY:
        return []
    return [
        f"{len(cases)} cases of {n_subjects} subjects: below {_TRUSTWORTHY} subjects "
        "such intervals are too narrow, the more the fewer they are."
    ]
