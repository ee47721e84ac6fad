"""Two runs as a pair: what makes them comparable, and the cases that both scored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.report.record import Record, read_record
from pipeline.report.wording import known
from volumetric.errors import ConfigError, OutputError

TOLERANCE = "nsd_tolerance_mm"
MEAN = "mean"  # the pseudo class of segmentation: the mean over classes
_NAMED = 3  # cases, in a warning


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two runs.

    Attributes:
        letter: "A" or "B".
        name: what the page calls it: the configuration's name, else the folder's.
        folder: where it lies.
        record: its files.
        cases: its scored cases by id.
    """

    letter: str
    name: str
    folder: Path
    record: Record
    cases: Mapping[str, Mapping[str, Any]]

    @property
    def results(self) -> Mapping[str, Any]:
        """results.json."""
        return self.record.results


@dataclass(frozen=True, eq=False)
class Pair:
    """Two runs and the cases that both scored against the same truth.

    Attributes:
        first: A.
        second: B.
        task: "segment", "classify", "detect" or "instances".
        classes: names of the classes, in A's order.
        ids: the cases, in A's order.
        only: ids of the cases that only A or only B scored.
        warnings: what to know before believing the differences.
    """

    first: Side
    second: Side
    task: str
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]
    warnings: tuple[str, ...]

    @property
    def sides(self) -> tuple[Side, Side]:
        """A and B."""
        return self.first, self.second

    @property
    def subjects(self) -> list[str]:
        """Whose each case is, as A says."""
        return [str(self.first.cases[name]["subject"]) for name in self.ids]


def pair_runs(first: Path, second: Path) -> Pair:
    """The pair that two run folders make.

    Raises:
        OutputError: a folder holds no run (no-run), or no scored case (no-results).
        ConfigError: one run twice (same-run), other tasks (other-task), other classes
            (other-classes), or no case that both scored against the same truth (no-common-case).
        UnreadableFileError: a file of a run is damaged.
    """
    if first.resolve() == second.resolve():
        raise ConfigError("same-run", "is given twice", "Name two runs", path=first)
    one, other = _read_side("A", first), _read_side("B", second)
    if one.name == other.name:
        one, other = (_named_by_folder(side) for side in (one, other))
    task = _same_task(one, other)
    classes = _same_classes(one, other)
    common = [name for name in one.cases if name in other.cases]
    differing = [name for name in common if not _same_truth(one.cases[name], other.cases[name])]
    ids = tuple(name for name in common if name not in set(differing))
    if not ids:
        found = f"{len(common)} cases in common with {first}, {len(differing)} of other truth"
        raise ConfigError(
            "no-common-case",
            f"has {found if common else f'no case in common with {first}'}",
            "Compare runs on the same data set and folds",
            path=second,
        )
    only = (
        tuple(name for name in one.cases if name not in other.cases),
        tuple(name for name in other.cases if name not in one.cases),
    )
    return Pair(one, other, task, classes, ids, only, tuple(_warn(one, other, ids, differing)))


def _read_side(letter: str, folder: Path) -> Side:
    if not folder.is_dir():
        raise OutputError("no-run", "holds no run", "Make one with `volumetric run`", path=folder)
    record = read_record(folder)
    cases = {
        str(case["id"]): case
        for case in record.results.get("cases") or []
        if _is_scored(case.get("scores") or {})
    }
    if not cases:
        raise OutputError(
            "no-results",
            "holds no scored case" if record.results else "holds no results.json",
            "Run `volumetric evaluate` on it first",
            path=folder,
        )
    return Side(letter, record.name, folder, record, cases)


def _is_scored(scores: Mapping[str, Any]) -> bool:
    """Whether a case has a truth: without one there is no score, or None in place of a number."""
    return any(isinstance(one, Mapping) or known(one) is not None for one in scores.values())


def _named_by_folder(side: Side) -> Side:
    name = side.folder.resolve().name
    return Side(side.letter, name, side.folder, side.record, side.cases)


def _same_task(one: Side, other: Side) -> str:
    tasks = [str(side.results.get("task")) for side in (one, other)]
    if tasks[0] != tasks[1]:
        raise ConfigError(
            "other-task",
            f"is of task {tasks[1]}, {one.folder} of {tasks[0]}",
            "Compare runs of one task",
            path=other.folder,
        )
    return "classify" if tasks[0] == "classify_scans" else tasks[0]


def _same_classes(one: Side, other: Side) -> tuple[str, ...]:
    names = [_class_names(side.results) for side in (one, other)]
    several = [bool(side.results.get("multi_label")) for side in (one, other)]
    if set(names[0]) != set(names[1]) or several[0] != several[1]:
        texts = [
            f"{', '.join(found)}{' (several a case)' if many else ''}"
            for found, many in zip(names, several, strict=True)
        ]
        raise ConfigError(
            "other-classes",
            f"has the classes {texts[1]}; {one.folder} has {texts[0]}",
            "Compare runs on the same classes",
            path=other.folder,
        )
    return names[0]


def _class_names(results: Mapping[str, Any]) -> tuple[str, ...]:
    if "labels" in results:
        return tuple(str(label) for label in results.get("labels") or [])
    tables = (results.get("metrics") or {}).values()
    means = (MEAN, "all")
    return tuple(dict.fromkeys(name for table in tables for name in table if name not in means))


def _same_truth(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two runs scored a case against the same truth: its labels, objects, or volumes.

    Masks themselves are not in a run's results; of two that differ, volumes hardly ever agree to
    the voxel.
    """
    if "truth" in one:
        return set(one["truth"]) == set(other.get("truth") or [])
    if "objects" in one:
        return true_objects(one) == true_objects(other)
    volumes = [(case.get("scores") or {}).get("volume_truth_ml") or {} for case in (one, other)]
    return all(
        math.isclose(known(volumes[0][name]) or 0.0, known(volumes[1][name]) or 0.0, abs_tol=1e-6)
        for name in set(volumes[0]) & set(volumes[1])
    )


def true_objects(case: Mapping[str, Any]) -> list[tuple[str, list[float]]]:
    """Class and box of what is in a case, in voxels of its scan."""
    return [
        (str(one["class"]), one["box_voxels"])
        for one in case.get("objects") or []
        if one["kind"] != "false"
    ]


def _warn(one: Side, other: Side, ids: Sequence[str], differing: Sequence[str]) -> list[str]:
    pairs = {name: (one.cases[name], other.cases[name]) for name in ids}
    moved = [name for name, (a, b) in pairs.items() if a.get("fold") != b.get("fold")]
    renamed = [name for name, (a, b) in pairs.items() if a.get("subject") != b.get("subject")]
    found = []
    if moved:
        found.append(
            f"{_some(moved)} held out in other folds in B than in A: the networks compared "
            "learned from different cases, and a leak is possible where folds do not keep "
            "subjects together."
        )
    if differing:
        found.append(f"{_some(differing)} scored against another truth in B than in A: left out.")
    if renamed:
        found.append(f"{_some(renamed)} of another subject in B than in A: A's is used.")
    for side in (one, other):
        found += _warn_of_leak(side)
    return found + _warn_of_data(one, other)


def _warn_of_leak(side: Side) -> list[str]:
    folds: dict[str, set[Any]] = {}
    for case in side.cases.values():
        folds.setdefault(str(case.get("subject")), set()).add(case.get("fold"))
    n_leaks = sum(len(found) > 1 for found in folds.values())
    if not n_leaks:
        return []
    return [
        f"{n_leaks} of {len(folds)} subjects have cases in several folds of {side.letter}: its "
        "networks may have learned from others of their cases."
    ]


def _warn_of_data(one: Side, other: Side) -> list[str]:
    sets = [side.record.provenance.get("manifest") or {} for side in (one, other)]
    names = [str(found.get("name")) for found in sets]
    if names[0] != names[1]:
        found = [f"The runs name other data sets, {names[0]} and {names[1]}: paired by case id."]
    elif sets[0].get("sha256") != sets[1].get("sha256"):
        found = ["The manifest was another when B was made."]
    else:
        found = []
    tolerances = [side.results.get(TOLERANCE) for side in (one, other)]
    if tolerances[0] != tolerances[1]:
        ours, theirs = tolerances
        found.append(f"NSD is left out: its tolerance is {ours} mm in A and {theirs} mm in B.")
    return found


def _some(names: Sequence[str]) -> str:
    """How many cases, and a few of them by name, with their verb."""
    shown = ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
    return f"1 case ({shown}) was" if len(names) == 1 else f"{len(names)} cases ({shown}) were"
