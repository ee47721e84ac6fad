"""Small files of a run, and hashes of what they were made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from volumetric.errors import OutputError

_PIECE_BYTES = 2**20


def read_json(path: Path, *, default: Any = None) -> Any:
    """A file's JSON, or the default where there is no file.

    Raises:
        OutputError: no file and no default: the stage that makes it has not run.
    """
    if not path.exists():
        if default is None:
            raise OutputError(
                "stage-missing",
                "has not been made yet",
                "Run the earlier stages first: prepare, train, predict, evaluate, report",
                path=path,
            )
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputError(
            "damaged", f"is no JSON ({error})", "Remove it and run its stage again", path=path
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    partial = path.with_name(f".partial-{path.name}")
    # A name that is no UTF-8 stands as \udcXX, which inside JSON means what it meant before.
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    partial.replace(path)


def hash_values(*values: Any) -> str:
    """One short hash of plain values: equal values, equal hash."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def hash_files(paths: Sequence[Path | None]) -> str:
    """SHA-256 of files' bytes, in order."""
    digest = hashlib.sha256()
    for path in paths:
        for file in [] if path is None else _files(path):
            with file.open("rb") as opened:  # in pieces: a recording may exceed the memory
                while piece := opened.read(_PIECE_BYTES):
                    digest.update(piece)
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


@cache
def hash_code(*modules: str) -> str:
    """Hash of the source of some of the library's modules: other code, other results."""
    library = Path(__file__).parents[1] / "volumetric"
    files = [file for name in modules for file in [library / f"{name}.py"] if file.exists()]
    files += [file for name in modules for file in sorted((library / name).rglob("*.py"))]
    return hash_files(files)
