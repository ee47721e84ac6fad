"""What results of every task say besides their numbers."""

from __future__ import annotations

from collections.abc import Sequence

_TRUSTWORTHY = 20  # subjects; see the coverage in volumetric/metrics/statistics.py


def note_few_subjects(subjects: Sequence[str]) -> list[str]:
    """A line that says so where scored cases are of too few subjects to trust their intervals.

    `subjects` says whose each case is.
    """
    n_subjects = len(set(subjects))
    if n_subjects >= _TRUSTWORTHY:
        return []
    return [
        f"{len(subjects)} cases of {n_subjects} subjects: below {_TRUSTWORTHY} subjects "
        "such intervals are too narrow, the more the fewer they are."
    ]
