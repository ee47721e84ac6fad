"""DICOM folders: the series in them, and what lies beside these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from volumetric.findings import Finding
from volumetric.io.dicom.choices import LISTED, describe
from volumetric.io.dicom.files import claims_dicom, list_files, refuse_stump
from volumetric.io.dicom.headers import read_slices
from volumetric.io.dicom.parsing import quiet
from volumetric.io.dicom.slices import Slice

_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar", ".iso")
_NAMED = 3


@dataclass(frozen=True)
class Found:
    """What a file, a list of files or a folder holds.

    Attributes:
        series: slices of each series, by SeriesInstanceUID.
        apart: how many DICOM objects of each kind are no slices of a scan.
        foreign: files that are no DICOM.
        links: what was not followed.
        n_files: files looked at.
    """

    series: dict[str, list[Slice]]
    apart: Counter[str]
    foreign: tuple[Path, ...]
    links: tuple[Path, ...]
    n_files: int


def find_series(path: Path, files: Sequence[Path] | None = None) -> Found:
    """Every image series at or below a path, from headers alone, each read once.

    Where `files` are named, it is these and no others: each of them must be DICOM.

    Raises:
        UnreadableFileError: nothing is there, or a file that should be DICOM is damaged.
    """
    found, links = list_files(path) if files is None else (list(files), ())
    series: dict[str, list[Slice]] = {}
    apart: Counter[str] = Counter()
    foreign: list[Path] = []
    with quiet():  # once for all files
        for file in found:
            if not claims_dicom(file, asked_for=files is not None or file == path):
                foreign.append(file)
                continue
            slices, kinds = read_slices(file)
            apart.update(kinds)
            for one in slices:
                series.setdefault(one.series_uid, []).append(one)
    names = {_name_kind(one.path) for slices in series.values() for one in slices}
    for file in foreign:
        if _name_kind(file) in names:
            refuse_stump(file)
    return Found(series, apart, tuple(foreign), links, len(found))


def _name_kind(file: Path) -> tuple[Path, str]:
    """Folder and suffix; numbers behind a dot are no suffix."""
    return file.parent, "" if file.suffix[1:].isdigit() else file.suffix.lower()


def set_apart(path: Path, found: Found, chosen: Sequence[Slice]) -> list[Finding]:
    """What lies beside the series of the slices chosen, and was not read with them."""
    uid = chosen[0].series_uid
    others = [describe(slices) for one, slices in found.series.items() if one != uid]
    beside = [count_apart(found)] * bool(found.apart or found.foreign) + others[:LISTED]
    findings = []
    if beside:
        said = f"set apart what is no slice of the scan: {'; '.join(beside)}"
        findings.append(Finding("set-apart", "note", said, _remedy(found.foreign), str(path)))
    if found.links:
        said = f"{len(found.links)} links were not followed, such as {found.links[0].name}"
        remedy = "If they are slices, the scan lacks them: put the files themselves there"
        findings.append(Finding("links-not-followed", "warning", said, remedy, str(path)))
    return findings


def _remedy(foreign: Sequence[Path]) -> str:
    if any(file.suffix.lower() in _ARCHIVES for file in foreign):
        return "If the archive holds slices, the scan lacks them: unpack it there"
    return "If one of the files is a slice, copy it again" if foreign else "Nothing to do"


def count_apart(found: Found) -> str:
    """How many there are of each kind that is no slice, and the first names of what is no DICOM."""
    counts = [f"{count} {kind}" for kind, count in sorted(found.apart.items())]
    if found.foreign:
        names = [file.name for file in found.foreign[:_NAMED]]
        more = ["…"] * (len(found.foreign) > _NAMED)
        counts.append(f"{len(found.foreign)} not DICOM ({', '.join(names + more)})")
    return ", ".join(counts) or "nothing"
