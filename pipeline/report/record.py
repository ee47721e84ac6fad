"""What a run left on disk, as far as the report shows it."""

from __future__ import annotations

import csv
import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.report.wording import known
from volumetric.errors import UnreadableFileError

Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Record:
    """The files of a run, read; a file that is not there reads as empty.

    Attributes:
        name: the configuration's name, else the folder's.
        results: results.json.
        provenance: provenance.json.
        config: config.yaml, as text.
        fingerprint: fingerprint.json.
        plan: plan.json.
        quarantine: quarantine.json.
        history: per fold, per column of its history.csv, the points (epoch, value).
    """

    name: str
    results: Mapping[str, Any]
    provenance: Mapping[str, Any]
    config: str
    fingerprint: Mapping[str, Any]
    plan: Mapping[str, Any]
    quarantine: list[Mapping[str, Any]]
    history: Mapping[str, Mapping[str, Curve]]


def read_record(run: Path) -> Record:
    """The record of a run folder.

    Raises:
        UnreadableFileError: a file is there but cannot be read or parsed.
    """
    config = run / "config.yaml"
    text = config.read_text(encoding="utf-8") if config.exists() else ""
    return Record(
        name=_configured_name(config, text) or run.resolve().name,
        results=_read_json(run / "results.json", {}),
        provenance=_read_json(run / "provenance.json", {}),
        config=text,
        fingerprint=_read_json(run / "fingerprint.json", {}),
        plan=_read_json(run / "plan.json", {}),
        quarantine=_read_json(run / "quarantine.json", []),
        history={
            path.parent.name: _read_history(path)
            for path in sorted((run / "folds").glob("*/history.csv"), key=_fold_order)
        },
    )


def command_text(record: Record) -> str:
    """The command that made the run, as it is typed; "" where it is unknown."""
    command = record.provenance.get("command")
    if isinstance(command, list):
        return shlex.join(str(part) for part in command)
    return "" if command is None else str(command)


def spent_text(record: Record) -> str:
    """How long all stages took together; "" where nothing was recorded."""
    spent = [known(value) for value in (record.provenance.get("seconds") or {}).values()]
    seconds = sum(value for value in spent if value is not None)
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds else ""
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _fold_order(path: Path) -> tuple[int, str]:
    name = path.parent.name
    return (int(name) if name.isdecimal() else 1_000_000, name)


def _configured_name(path: Path, text: str) -> str | None:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _unreadable(path, error) from error
    name = values.get("name") if isinstance(values, dict) else None
    return None if name is None else str(name)


def _read_json(path: Path, empty: Any) -> Any:
    if not path.exists():
        return empty
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(value, type(empty)):
        raise _unreadable(path, f"holds a {type(value).__name__}")
    return value


def _read_history(path: Path) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                epoch = float(row["epoch"])
                for column, cell in row.items():
                    # A crash can cut the last row short; what it did not reach reads as None.
                    if column != "epoch" and cell and math.isfinite(float(cell)):
                        curves.setdefault(column, []).append((epoch, float(cell)))
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error
    return curves


def _unreadable(path: Path, why: object) -> UnreadableFileError:
    return UnreadableFileError(
        "unreadable-run-file",
        f"cannot be read ({why})",
        "Run the stage that writes it again",
        path=path,
    )
