"""Keys: what each result was made from. Who writes a result notes its key, who reads compares.

Each key holds the one before it: a case's facts → its prepared file → the weights that learned
from it → the predictions of those weights. A result whose key does not fit is made again or
refused, never mixed in.
"""

from __future__ import annotations

from typing import Any

from pipeline.files import hash_code, hash_files, hash_values, read_json
from pipeline.run import Run
from volumetric.cases import Case
from volumetric.errors import OutputError, UnreadableFileError

_MEASURING = ("volume", "io", "check", "preprocess", "interpolate", "fingerprint")


def case_key(run: Run[Any], case: Case) -> str:
    """Of the case's bytes as they are now, the manifest, and the code that reads and measures.

    Raises:
        UnreadableFileError: a file is missing.
    """
    for path in (case.image, case.mask):
        if path is not None and not path.exists():
            raise UnreadableFileError(
                "missing-file",
                "does not exist",
                "Check the manifest's path, and --root",
                path=path,
            )
    code = hash_code(*_MEASURING)
    about = [case.series, case.label, run.data_set.classes, run.data_set.modality]
    return hash_values(hash_files([case.image, case.mask]), about, code)


def facts_key(run: Run[Any], case: Case) -> str | None:
    """Of the case as `prepare` last saw it; None where its facts are missing or damaged."""
    try:
        key: str = read_json(run.facts(case))["key"]
    except (OutputError, KeyError, TypeError):
        return None
    return key


def read_plan(run: Run[Any]) -> dict[str, Any]:
    """What the plan chose, by name."""
    plan: dict[str, Any] = read_json(run.folder / "plan.json")["values"]
    return plan
