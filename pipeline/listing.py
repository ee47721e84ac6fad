"""A folder for each class becomes a manifest: every video below it, with its label and subject."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from pipeline.files import write_text
from volumetric.cases import Case, write_cases
from volumetric.errors import (
    ConfigError,
    ManifestError,
    OutputError,
    UnreadableFileError,
    printable,
)
from volumetric.findings import Finding, Severity, as_finding
from volumetric.io.video import is_video_file

_LISTED = 3
_LONGEST_ID = 100  # letters: it becomes part of files' names
_RESERVED = ("mean", "all")  # columns of results
_SIDES = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)


def write_manifest(folder: Path, out: Path, *, group: str | None) -> tuple[Path, list[Finding]]:
    """Write <out>.yaml and <out>.csv of the videos below `folder`; the YAML's path, and findings.

    Paths in it are relative to `folder`. What `list_tree` finds is in it; it raises the same.
    What stands there already is left, if it is the same.

    Raises:
        OutputError: a file stands there that says something else, or it cannot be written.
    """
    cases, findings = list_tree(folder, group=group)
    stem = _stem(out)
    labels = sorted({str(case.label) for case in cases})
    sided = [label for label in labels if _SIDES.search(label)]
    about = {
        "name": re.sub(r"[^A-Za-z0-9_.-]+", "_", stem).lstrip("_.-") or "clips",
        "modality": "video",
        "labels": labels,
        **({"sides_matter": True} if sided else {}),
        "cases": f"{stem}.csv",
    }
    if sided:
        findings.append(_sides_matter(sided))
    text = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
    manifest, table = out.with_name(f"{stem}.yaml"), out.with_name(f"{stem}.csv")
    partial = out.with_name(f".partial-{stem}.csv")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_cases(partial, cases, root=folder)
        _refuse_other(table, partial.read_bytes())
        _refuse_other(manifest, text.encode())
        partial.replace(table)
        write_text(manifest, text)
    except OSError as error:
        raise OutputError(
            "unwritable", f"cannot be written ({error})", "Choose another place", path=out
        ) from error
    finally:
        if partial.exists():
            partial.unlink()
    return manifest, findings


def _stem(out: Path) -> str:
    if not out.name or out.name == "..":
        raise ConfigError(
            "bad-name", f"{str(out)!r} names no file", "Name the manifest to write", path=out
        )
    return out.stem if out.suffix.lower() in (".yaml", ".yml", ".csv") else out.name


def list_tree(folder: Path, *, group: str | None) -> tuple[list[Case], list[Finding]]:
    """A case for every video at `folder`/<class>/…, ordered by path, and what was passed over.

    The label is the first folder's name, the id made of the file's name. `group` is a regular
    expression; what its first group matches (all of it, if it has none) is the subject. It is
    searched in the names of the files, or in their paths below `folder` where that is what it
    fits. Without it each clip is its own subject. Hidden files and links to folders are passed
    over.

    Raises:
        ManifestError: no folder with videos, one only, or one whose name cannot be a label;
            `group` does not match a file, or makes one subject of all.
        ConfigError: `group` is no regular expression.
    """
    if not folder.is_dir():
        raise UnreadableFileError(
            "missing-file", "is no folder", "Name the folder of the classes' folders", path=folder
        )
    files, findings = _walk(folder)
    labels = sorted({file.parts[0] for file in files})
    _refuse_labels(folder, labels)
    subjects, noticed = _find_subjects(files, group, folder)
    ids = _make_ids(files)
    cases = [
        Case(name, subject or name, None, folder / file, label=file.parts[0])
        for name, subject, file in zip(ids, subjects, files, strict=True)
    ]
    return cases, [*findings, *noticed]


def _walk(folder: Path) -> tuple[list[Path], list[Finding]]:
    """Videos in folders of classes, relative to `folder`, and what else there is."""
    findings: list[Finding] = []
    videos: list[Path] = []
    others: list[Path] = []
    links: list[Path] = []
    classes: list[str] = []
    walk = os.walk(folder, onerror=lambda error: findings.append(_unsearched(error)))
    for name, folders, names in walk:
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        here = Path(name).relative_to(folder)
        classes = classes if here.parts else list(folders)
        links += [here / one for one in folders if (folder / here / one).is_symlink()]
        files = [here / one for one in sorted(names) if not one.startswith(".")]
        videos += [file for file in files if is_video_file(file)]
        others += [file for file in files if not is_video_file(file)]
    loose = [file for file in videos if len(file.parts) == 1]
    unsafe = [file for file in videos if file not in loose and not _can_be_listed(file)]
    listed = sorted(set(videos) - {*loose, *unsafe})
    used = {one.parts[0] for one in (*listed, *links)}
    empty = [Path(one) for one in classes if one not in used]
    passed_over: tuple[tuple[str, Severity, list[Path], str, str], ...] = (
        ("no-class", "warning", loose, "in no class's folder", "Put each into its class's folder"),
        (
            "unsafe-name",
            "warning",
            unsafe,
            "named so that no manifest can say it",
            "Rename: readable letters, no blank at an end",
        ),
        (
            "empty-class",
            "warning",
            empty,
            "without a video",
            "Nothing to do, if it is no class; it is no label in the manifest",
        ),
        ("links-not-followed", "warning", links, "a link to a folder", "Copy the files there"),
        ("not-looked-at", "note", others, "of no kind of video", "Nothing to do, if none is meant"),
    )
    for code, severity, found, said, remedy in passed_over:
        if found:
            reason = f"{len(found)} passed over, {said}: {_names(found)}"
            findings.append(Finding(code, severity, reason, remedy, printable(str(folder))))
    return listed, findings


def _can_be_listed(file: Path) -> bool:
    # A cell of the table is UTF-8, and blanks at its ends do not count.
    return printable(str(file)) == str(file) and str(file) == str(file).strip()


def _refuse_labels(folder: Path, labels: Sequence[str]) -> None:
    bad = [one for one in labels if {";", "|"} & set(one) or one != one.strip() or one in _RESERVED]
    if bad:
        reason = f"folder {bad[0]!r} cannot name a class"
        remedy = f"Rename it: without semicolon, bar or blanks at its ends, and not {_RESERVED}"
    elif not labels:
        reason = "holds no folder with videos"
        remedy = "Name the folder that holds a folder for each class"
    elif len(labels) == 1:
        reason = f"holds one class only ({labels[0]}), so there is nothing to tell apart"
        remedy = "Name the folder that holds a folder for each class"
    else:
        return
    raise ManifestError("bad-classes", reason, remedy, path=folder)


def _find_subjects(
    files: Sequence[Path], group: str | None, folder: Path
) -> tuple[list[str | None], list[Finding]]:
    """The subject of each file; None for one of its own."""
    if group is None:
        finding = Finding(
            "no-group",
            "warning",
            f"no pattern of subjects was given: each of {len(files)} clips counts as its own",
            "Give one (--group), if several clips show one person or recording: or what is "
            "learned leaks into the score",
            printable(str(folder)),
        )
        return [None] * len(files), [finding]
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise ConfigError(
            "bad-pattern",
            f"{group!r} is no regular expression ({error})",
            r"Write one whose first group is the subject, as _g(\d+)_",
        ) from error
    by_name = [_match(pattern, file.name) for file in files]
    by_path = [_match(pattern, file.as_posix()) for file in files]
    # One way for all: a pattern that fits a folder's name here and a file's there means nothing.
    subjects = min(by_name, by_path, key=lambda found: found.count(None))
    missing = [file for file, subject in zip(files, subjects, strict=True) if subject is None]
    if missing:
        raise ManifestError(
            "no-subject",
            f"{group!r} does not match {len(missing)} of {len(files)} files: {_names(missing)}",
            "Widen the pattern, or rename these files",
            path=folder,
        )
    n_subjects = len(set(subjects))
    example = f"{printable(files[0].as_posix())} is of {subjects[0]!r}"
    if n_subjects == 1:
        raise ManifestError(
            "too-few-subjects",
            f"{group!r} makes one subject of all {len(files)} files: {example}",
            "Correct the pattern: its first group must match what tells subjects apart",
            path=folder,
        )
    reason = f"{len(files)} clips of {n_subjects} subjects: {example}"
    remedy = "Nothing to do, if that is right"
    return subjects, [Finding("subjects-found", "note", reason, remedy, printable(str(folder)))]


def _match(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    subject = found and found.group(1 if pattern.groups else 0)
    return (subject or "").strip() or None


def _make_ids(files: Sequence[Path]) -> list[str]:
    """Of the file's name, or of as much of its path as tells it from the others; safe, unique.

    Ids that differ in capitals only are not unique: they name files.
    """
    longer: list[Callable[[Path], str]] = [
        lambda file: f"{file.parts[0]}_{file.stem}",
        lambda file: file.with_suffix("").as_posix(),
        lambda file: file.as_posix(),
    ]
    ids = [_safe(file.stem) for file in files]
    for form in longer:
        counts = Counter(name.casefold() for name in ids)
        ids = [
            _safe(form(file)) if counts[name.casefold()] > 1 else name
            for name, file in zip(ids, files, strict=True)
        ]
    taken: set[str] = set()
    for place, name in enumerate(ids):
        number = 1
        while ids[place].casefold() in taken:
            number += 1
            ids[place] = f"{name}_{number}"
        taken.add(ids[place].casefold())
    return ids


def _safe(text: str) -> str:
    kept = re.sub(r"[^\w.-]+", "_", text).strip("_.")
    return kept[-_LONGEST_ID:].lstrip("_.") or "clip"


def _refuse_other(path: Path, content: bytes) -> None:
    if path.exists() and path.read_bytes() != content:
        raise OutputError(
            "already-there",
            "stands there and says something else",
            "Choose another name, or remove it",
            path=path,
        )


def _sides_matter(labels: Sequence[str]) -> Finding:
    return Finding(
        "sides-matter",
        "note",
        f"labels name a side ({', '.join(labels)}): clips will not be mirrored",
        "Take sides_matter out of the manifest, if left and right mean nothing",
    )


def _unsearched(error: OSError) -> Finding:
    return as_finding(
        UnreadableFileError(
            "unreadable-file",
            f"cannot be searched ({error.strerror})",
            "Check its permissions",
            path=error.filename,
        )
    )


def _names(files: Sequence[Path]) -> str:
    more = f" and {len(files) - _LISTED} more" if len(files) > _LISTED else ""
    return printable(", ".join(file.as_posix() for file in files[:_LISTED])) + more
