"""The matrix of series: volumetric, MONAI, SimpleITK and dicom2nifti on each.

    make peers
    .venv/bin/python benchmarks/geometry.py [--json FILE]

Writes every series of tests/matrix.py into a temporary folder, gives each folder to each reader as
its documentation says, and prints how many were right, refused and silently wrong. What counts as
which is told in tests/matrix.py; in short: right is a whole true volume, every voxel within 0.01
voxel of its true place and no voxel besides, whatever the order of the axes; an error of any kind
is a refusal; all else is wrong, warned of or not. A volume chosen among several without a word
counts as right if it is whole.

The readers: MONAI's PydicomReader on the folder; SimpleITK's ImageSeriesReader on the file names
that GDCM finds in it (ReadImage where that is one file); dicom2nifti's dicom_series_to_nifti with
default settings, in the peers' own environment, since it brings decoders that would change ours.

Exits 1 if volumetric is wrong once, or refuses one series that can be read, or reads one whose
geometry cannot be proven.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the series and the rules are the tests' own

from geometry_readers import OURS, READERS, RESAMPLED, convert_all, read_nifti  # noqa: E402

from tests.matrix import Entry, Grid, judge, judge_resampled, list_matrix  # noqa: E402
from tests.phantom import Truth  # noqa: E402
from tests.series import can_encode, write_series  # noqa: E402

PEERS = ROOT / ".venv-peers" / "bin" / "python"
WORDS = ("right", "refused", "wrong")


@dataclass(frozen=True)
class Verdict:
    """What one reader made of one series: a word of WORDS, and why."""

    reader: str
    entry: Entry
    word: str
    reason: str = ""
    warned: bool = False


def main() -> None:
    """Print the table, what volumetric got wrong, and how often SimpleITK warned."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write every verdict to this file")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown only")
    parser.add_argument("--peers", type=Path, default=PEERS, help="the Python with dicom2nifti")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    entries = [entry for entry in list_matrix() if can_encode(entry.spec.syntax)]
    with tempfile.TemporaryDirectory() as folder:
        verdicts = run_matrix(entries, Path(folder), arguments.peers)
    counts = Counter((v.entry.family, v.reader, v.word) for v in verdicts)
    readers = list(dict.fromkeys(v.reader for v in verdicts))
    families = list(dict.fromkeys(entry.family for entry in entries))
    if not arguments.markdown:
        print("\n".join(format_plain(counts, families, readers)), "\n")
    print("\n".join(format_markdown(counts, families, readers)), "\n")
    faults = [verdict for verdict in verdicts if is_fault(verdict)]
    for line in notes(verdicts, len(list_matrix()) - len(entries), faults):
        print(line)
    if arguments.json:
        arguments.json.write_text(json.dumps([as_record(v) for v in verdicts], indent=1))
    raise SystemExit(1 if faults else 0)


def run_matrix(entries: Sequence[Entry], folder: Path, peers: Path) -> list[Verdict]:
    """A verdict for each series and reader; dicom2nifti's only where its environment is."""
    truths = [
        write_series(folder / f"series/{number:03d}", entry.spec)
        for number, entry in enumerate(entries)
    ]
    folders = [folder / f"series/{number:03d}" for number in range(len(entries))]
    verdicts = []
    for reader, read in READERS.items():
        for entry, path, truth in zip(entries, folders, truths, strict=True):
            if reader == RESAMPLED and entry.code not in ("gantry-tilt", "irregular-spacing"):
                continue
            verdicts.append(judge_reader(reader, read, entry, path, truth))
    if peers.exists():
        outputs = convert_all(folders, folder / "nifti", peers)
        for entry, path, truth in zip(entries, folders, truths, strict=True):
            output = outputs[path.name]
            verdicts.append(
                judge_reader("dicom2nifti", lambda _, o=output: read_nifti(o), entry, path, truth)
            )
    else:
        print(f"dicom2nifti left out: {peers} does not exist; run 'make peers'\n")
    return verdicts


def judge_reader(
    reader: str, read: Callable[[Path], list[Grid]], entry: Entry, path: Path, truth: Truth
) -> Verdict:
    """The verdict on one read: any exception is a refusal."""
    with captured_stderr() as said:
        try:
            grids = read(path)
        except Exception as error:
            return Verdict(reader, entry, "refused", f"{type(error).__name__}: {error}"[:300])
    reason = judge_resampled(grids[0], truth) if reader == RESAMPLED else judge(grids, truth)
    warned = "Non uniform sampling" in said()
    return Verdict(reader, entry, "wrong" if reason else "right", reason, warned)


def is_fault(verdict: Verdict) -> bool:
    """Whether volumetric did other than it must: wrong, refused without need, or unproven."""
    if verdict.reader == RESAMPLED:
        return verdict.word != "right"
    must = "right" if verdict.entry.expected == "right" else "refused"
    return verdict.reader == OURS and verdict.word != must


@contextmanager
def captured_stderr() -> Iterator[Callable[[], str]]:
    """What is written to the error stream inside, that of C++ too; a function that returns it."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        text: list[str] = []
        try:
            yield lambda: text[0]
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            text.append(file.read().decode(errors="replace"))


# The table


def format_cells(
    counts: Counter[tuple[str, str, str]], families: Sequence[str], readers: Sequence[str]
) -> list[list[str]]:
    """Rows of cells "right/refused/wrong", a family each, and the totals; "-" where not asked."""
    rows = [["series", "n", *readers]]
    for name, members in [*((f, [f]) for f in families), ("all", list(families))]:
        row = [name, str(sum(counts[family, OURS, word] for family in members for word in WORDS))]
        for reader in readers:
            sums = [sum(counts[family, reader, word] for family in members) for word in WORDS]
            row.append("/".join(map(str, sums)) if any(sums) else "-")
        rows.append(row)
    return rows


def format_plain(
    counts: Counter[tuple[str, str, str]], families: Sequence[str], readers: Sequence[str]
) -> list[str]:
    """Lines of the table in aligned columns."""
    rows = format_cells(counts, families, readers)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return ["right / refused / silently wrong", "", *lines]


def format_markdown(
    counts: Counter[tuple[str, str, str]], families: Sequence[str], readers: Sequence[str]
) -> list[str]:
    """Lines of the table in Markdown, the wrong ones bold."""
    head, *rows = format_cells(counts, families, readers)
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for row in rows:
        cells = [_bold(cell) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _bold(cell: str) -> str:
    parts = cell.split("/")
    if len(parts) != 3 or not parts[0].isdigit():
        return cell
    right, refused, wrong = parts
    return f"{right} / {refused} / " + (wrong if wrong == "0" else f"**{wrong}**")


def notes(verdicts: Sequence[Verdict], n_skipped: int, faults: Sequence[Verdict]) -> list[str]:
    """What the table does not say."""
    lines = []
    if n_skipped:
        lines.append(f"{n_skipped} series left out: no encoder of their transfer syntax installed.")
    warned = [v for v in verdicts if v.warned]
    wrong = sum(v.word == "wrong" for v in warned)
    lines.append(
        f"SimpleITK logged 'Non uniform sampling or missing slices detected' {len(warned)} times, "
        f"{wrong} of them on a series it returned wrong; no exception came of it."
    )
    lines += [
        f"FAULT: {fault.reader}: {fault.entry.spec}: {fault.word}, must be "
        f"{'right' if fault.reader == RESAMPLED else fault.entry.expected}. {fault.reason}"
        for fault in faults
    ]
    return lines


def as_record(verdict: Verdict) -> dict[str, object]:
    """A verdict as plain values."""
    return {
        "reader": verdict.reader,
        "family": verdict.entry.family,
        "series": str(verdict.entry.spec),
        "expected": verdict.entry.expected,
        "verdict": verdict.word,
        "reason": verdict.reason,
        "warned": verdict.warned,
    }


if __name__ == "__main__":
    main()
