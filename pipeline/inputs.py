"""New scans and clips, outside any run: named, gone through one by one, refusals written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.files import write_json
from pipeline.progress import each_in_threads
from pipeline.run import describe_refusal
from volumetric.cases import Case
from volumetric.errors import ManifestError, OutputError


def refuse_twins(names: Sequence[str]) -> None:
    """Refuse inputs of one name.

    Raises:
        ManifestError: there are some.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ManifestError(
            "duplicate-id",
            f"several inputs are called {', '.join(map(repr, twice))}, so their outputs would "
            "overwrite each other",
            "Take them into different folders",
        )


def go_through(
    do: Callable[[Case], None], cases: Sequence[Case], title: str, *, out: Path
) -> list[dict[str, str]]:
    """Do it for each input; write those refused to `out`/quarantine.json, and return them.

    Raises:
        OutputError: `out` cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "quarantine.json", [])  # rather than find out after hours of work
    except OSError as problem:
        raise OutputError(
            "unwritable",
            f"cannot be written ({problem.strerror})",
            "Choose another --out",
            path=out,
        ) from problem
    refused = [
        describe_refusal(case, error)
        for case, error in each_in_threads(1)(do, cases, title)
        if error is not None
    ]
    write_json(out / "quarantine.json", refused)
    return refused
