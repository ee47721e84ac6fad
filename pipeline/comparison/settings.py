"""What was set otherwise in two runs: field by field, of files that a person or a stage wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.comparison.pairing import Pair, Side
from pipeline.report.wording import scalar_text

_ABSENT = "not there"


@dataclass(frozen=True)
class Setting:
    """A field that differs.

    Attributes:
        group: the file it stands in, in words.
        field: its dotted name.
        a: what A says, as text.
        b: what B says.
    """

    group: str
    field: str
    a: str
    b: str


def differing_settings(pair: Pair) -> list[Setting]:
    """Every field of configuration, plan and software that differs, in the files' order."""
    return [
        Setting(group, field, *(_text(flat, field) for flat in flats))
        for group, flats in _groups(pair).items()
        for field in dict.fromkeys([*flats[0], *flats[1]])
        if _text(flats[0], field) != _text(flats[1], field)
    ]


def _groups(pair: Pair) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    one, other = pair.sides
    return {
        "configuration": (configuration(one), configuration(other)),
        "plan": (_plan(one), _plan(other)),
        "software": (_software(one), _software(other)),
    }


def configuration(side: Side) -> dict[str, Any]:
    """The fields of a run's configuration by dotted name, but for its own name."""
    flat = _flatten(yaml.safe_load(side.record.config) or {})
    flat.pop("name", None)  # what tells them apart already
    return flat


def _plan(side: Side) -> dict[str, Any]:
    return _flatten(side.record.plan.get("values") or {})


def _software(side: Side) -> dict[str, Any]:
    provenance = side.record.provenance
    return _flatten({name: provenance.get(name) for name in ("commit", "device", "versions")})


def _flatten(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{path}{name}.")
        else:
            flat[f"{path}{name}"] = value
    return flat


def _text(flat: Mapping[str, Any], field: str) -> str:
    return scalar_text(flat[field]) if field in flat else _ABSENT
