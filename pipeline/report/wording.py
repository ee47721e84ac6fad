"""Keys and values of a run's records, put into words."""

from __future__ import annotations

import math
from collections.abc import Mapping

UNITS = {"mm": "mm", "ml": "mL", "s": "s", "hu": "HU"}


def humanise(key: str) -> str:
    """A key of a record as a label: "spacing_mm" becomes "Spacing (mm)"."""
    head, _, tail = key.rpartition("_")
    if head and tail in UNITS:
        return f"{words(head)} ({UNITS[tail]})"
    return words(key)


def words(key: str) -> str:
    """A key as words: no underscores, a capital first."""
    text = key.removeprefix("n_").replace("_", " ").replace("sha256", "SHA-256").strip()
    return text[:1].upper() + text[1:]


def known(value: object) -> float | None:
    """The value as a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def scalar_text(value: object) -> str:
    """A leaf of a record as text; a list of three numbers reads as a size."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        if not value:
            return "none"
        sized = len(value) == 3 and all(known(part) is not None for part in value)
        joint = " \N{MULTIPLICATION SIGN} " if sized else ", "
        return joint.join(scalar_text(part) for part in value)
    return str(value)


def is_table(value: object) -> bool:
    """Whether a mapping's values are mappings of leaves under the same keys."""
    if not isinstance(value, Mapping) or len(value) < 2:
        return False
    rows = list(value.values())
    return all(
        isinstance(row, Mapping)
        and list(row) == list(rows[0])
        and not any(isinstance(leaf, Mapping) for leaf in row.values())
        for row in rows
    )
