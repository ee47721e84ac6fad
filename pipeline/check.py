"""The data doctor: what there is to check, checked in threads, and what is said of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from pipeline.findings import Report, sort_findings
from pipeline.manifest import find_manifest, load_data_set
from pipeline.progress import each_in_threads, one_core_each
from volumetric.cases import Case, read_rows
from volumetric.check import Checked, check_case
from volumetric.check.clip import CheckedClip, check_clip
from volumetric.check.clips import ClipTraits, check_clips
from volumetric.check.cohort import check_cohort, check_listing
from volumetric.check.labels import check_labels
from volumetric.check.scans import find_scans, is_folder
from volumetric.check.traits import Traits
from volumetric.errors import ManifestError, UnreadableFileError, VolumetricError, printable
from volumetric.findings import Finding, as_finding
from volumetric.folds import with_folds
from volumetric.io.video import is_video_file


@dataclass(frozen=True)
class _Target:
    """Cases that belong together, and what was noticed when they were listed."""

    cases: Sequence[Case]
    findings: Sequence[Finding]
    classes: Mapping[int, str] | None = None
    modality: str | None = None
    labels: Sequence[str] | None = None
    multi_label: bool = False
    numbered: bool = False
    is_manifest: bool = False

    @cached_property
    def is_of_clips(self) -> bool:
        """Whether its labelled cases are clips: most of them are, so that a scan is an error."""
        n_videos = sum(is_video_file(case.image) for case in self.cases)
        return bool(self.labels) and 2 * n_videos >= len(self.cases)


def check(
    paths: Sequence[Path],
    *,
    root: Path | None = None,
    noticed: Sequence[Finding] = (),
    workers: int | None = None,
) -> Report:
    """Check manifests (YAML, or CSV of cases), folders and files; what is bad is a finding.

    `root` is where the manifests' paths start from; their own folders if not given. `noticed`
    was found before, and is told with the rest.

    Raises:
        VolumetricError: there is nothing that could be checked at all.
    """
    targets: list[_Target] = []
    refusals: list[VolumetricError] = []
    for path in _files_together(paths):
        try:
            targets.append(_find_target(path, root))
        except VolumetricError as error:
            refusals.append(error)
    if refusals and not any(target.cases for target in targets):
        raise refusals[0]
    if len(targets) > 1:  # ids of several folders may be equal
        targets = [_with_paths_as_ids(target) for target in targets]
    workers = workers or min(8, len(os.sched_getaffinity(0)))
    findings = [*noticed, *(as_finding(error) for error in refusals)]
    with one_core_each(workers):
        for target in targets:
            findings += _check_target(target, workers)
    cases = [case for target in targets for case in target.cases]
    n_masks = sum(case.mask is not None for case in cases)
    return Report(len(cases), len(cases) + n_masks, tuple(sort_findings(findings)))


def _files_together(paths: Sequence[Path]) -> list[Path | list[Path]]:
    """Files that are no manifests are looked at side by side, as the files of a folder are."""
    paths = list({_real(path): path for path in reversed(paths)}.values())[::-1]
    files = [path for path in paths if not _is_manifest(path) and _is_file(path)]
    others: list[Path | list[Path]] = [path for path in paths if path not in files]
    return [*others, files] if files else others


def _real(path: Path) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # a name no file can have
        return str(path)


def _is_file(path: Path) -> bool:
    try:
        return not is_folder(path)
    except UnreadableFileError:  # told when it is looked at by itself
        return False


def _is_manifest(path: Path) -> bool:
    return path.suffix.lower() in (".yaml", ".yml", ".csv")


def _find_target(path: Path | list[Path], root: Path | None) -> _Target:
    if isinstance(path, list):
        return _Target([_by_path(find_scans(file)[0][0]) for file in path], [])
    if _is_folder(path):
        return _Target(*find_scans(path))
    if path.suffix.lower() == ".csv":
        return _listed(path, root, None)
    if path.suffix.lower() in (".yaml", ".yml") or (len(path.parts) == 1 and not path.suffix):
        return _listed(find_manifest(str(path)), root, path)
    return _Target(*find_scans(path))  # which says what is wrong


def _is_folder(path: Path) -> bool:
    try:
        return is_folder(path)
    except UnreadableFileError:  # maybe the name of a manifest
        return False


def _listed(path: Path, root: Path | None, manifest: Path | None) -> _Target:
    data_set = None if manifest is None else load_data_set(path)
    table = path if data_set is None else path.parent / data_set.cases
    if root is not None and not root.is_dir():
        raise ManifestError(
            "missing-root",
            "is no folder",
            "Name with --root the folder that the manifest's paths start from",
            path=root,
        )
    cases, refused = read_rows(table, root=root or path.parent)
    if not cases:
        for error in refused:
            raise error
        raise ManifestError("empty-manifest", "lists no case", "Add at least one row", path=table)
    _refuse_wrong_root(cases, root or path.parent, table)
    try:
        cases = with_folds(cases)  # as a run does
    except ManifestError as error:
        refused.append(error)
    findings = [as_finding(error) for error in refused] + check_listing(cases)
    findings = [replace(one, path=one.path or printable(str(table))) for one in findings]
    if data_set is None:
        return _Target(cases, findings, is_manifest=True)
    return _Target(
        cases,
        findings,
        data_set.classes or None,
        data_set.modality,
        data_set.labels or None,
        data_set.multi_label,
        data_set.instances,
        is_manifest=True,
    )


def _refuse_wrong_root(cases: Sequence[Case], root: Path, table: Path) -> None:
    """Once, and not for each case: most often --root was left out."""
    files = [
        path for case in cases for path in (case.image, case.mask, case.boxes) if path is not None
    ]
    if len(cases) > 1 and not any(os.path.lexists(path) for path in files):
        raise ManifestError(
            "missing-root",
            f"none of its {len(files)} files lies under {root}",
            "Name with --root the folder that its paths start from",
            path=table,
        )


def _with_paths_as_ids(target: _Target) -> _Target:
    if target.is_manifest:
        return target
    return replace(target, cases=[_by_path(case) for case in target.cases])


def _by_path(scan: Case) -> Case:
    """By its path as a person would type it."""
    name = printable(str(scan.image))
    return replace(scan, id=name, subject=name)


def _check_target(target: _Target, workers: int) -> list[Finding]:
    done: dict[Case, tuple[tuple[Finding, ...], Traits | ClipTraits | None]] = {}

    def check_one(case: Case) -> None:
        checked = _look_at(case, target)
        done[case] = checked.findings, checked.traits  # and not the volumes

    findings = list(target.findings)
    for case, error in each_in_threads(workers)(check_one, target.cases, "check"):
        findings += [as_finding(error, case=case.id)] if error else done[case][0]
    seen = [(case, done[case][1]) for case in target.cases if case in done]
    scans = [(case, traits) for case, traits in seen if isinstance(traits, Traits)]
    clips = [(case, traits) for case, traits in seen if isinstance(traits, ClipTraits)]
    if scans or not clips:
        findings += check_cohort(scans, classes=None if target.numbered else target.classes)
        findings += check_labels([case for case, _ in scans], target.labels or ())
    return findings + check_clips(clips, labels=target.labels)


def _look_at(case: Case, target: _Target) -> Checked | CheckedClip:
    # A case without a label is one to predict.
    labels = target.labels if case.label is not None else None
    if target.is_of_clips or (target.classes is None and is_video_file(case.image)):
        return check_clip(case, labels=labels, multi_label=target.multi_label)
    return check_case(
        case,
        classes=target.classes,
        modality=target.modality,
        labels=labels,
        multi_label=target.multi_label,
        numbered=target.numbered,
    )
