"""New scans and clips, outside any run: named, gone through one by one, refusals written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.files import write_json
from pipeline.progress import each_in_threads
from pipeline.run import describe_refusal
from volumetric.cases import Case
from volumetric.errors import ManifestError, OutputError, UnsupportedError
from volumetric.io.reader import is_volume_file, volume_suffix


def find_scans(inputs: Sequence[Path], series: str | None) -> list[Case]:
    """A case for each scan: files, those in folders, folders of one DICOM series.

    Raises:
        ManifestError: several are called the same.
        UnsupportedError: a folder holds scans in folders below it only.
    """
    paths = [one for path in inputs for one in _expand(path)]
    names = [_stem(path) for path in paths]
    refuse_twins(names)
    return [
        Case(name, name, None, path, series=series) for name, path in zip(names, paths, strict=True)
    ]


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


def _expand(path: Path) -> list[Path]:
    """A folder's volume files; else the path itself, a file or a folder of one DICOM series."""
    if not path.is_dir():
        return [path]
    scans = sorted(file for file in path.iterdir() if is_volume_file(file))
    if not scans and any(is_volume_file(file) for file in path.rglob("*")):
        raise UnsupportedError(
            "nested-scans",
            "holds volume files in folders below it",
            "Name the folder that holds the scans themselves",
            path=path,
        )
    return scans or [path]


def _stem(path: Path) -> str:
    file = path.resolve()
    return file.name[: len(file.name) - len(volume_suffix(file))].removesuffix(".dcm")
