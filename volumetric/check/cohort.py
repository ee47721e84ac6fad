"""What only shows across cases: copies, leaks between folds, gaps, mixtures, outliers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from volumetric.cases import Case
from volumetric.check.outliers import Seen, find_outliers, list_ids
from volumetric.check.traits import Traits
from volumetric.errors import printable
from volumetric.findings import Finding, Severity

_FEW_SUBJECTS = 5  # in a fold: intervals are wide


def check_listing(cases: Sequence[Case]) -> list[Finding]:
    """What is wrong with a list of cases before any file is read: ids, subjects, folds."""
    return [
        *_check_ids(cases),
        *_check_subjects(cases),
        *_check_folds(cases),
        *_check_masks_listed(cases),
    ]


def check_cohort(seen: Seen, *, classes: Mapping[int, str] | None = None) -> list[Finding]:
    """What is odd about cases side by side; `classes` are the manifest's.

    Without classes, images that look like maps of labels are left out.
    """
    named = [one for one in seen if classes is not None or not one[1].label_like]
    return [
        *_check_copies(named),
        *_check_mask_copies(named),
        *find_outliers(named, classes=classes or {}),
        *_check_mixture(named),
        *_check_classes(named, classes or {}),
    ]


def _check_ids(cases: Sequence[Case]) -> Iterator[Finding]:
    for name, count in Counter(case.id for case in cases).items():
        if count > 1:
            yield Finding(
                "duplicate-id",
                "error",
                f"the id appears {count} times",
                "Give each case its own",
                case=name,
            )


def _check_subjects(cases: Sequence[Case]) -> Iterator[Finding]:
    first: dict[str, Case] = {}
    for case in cases:
        other = first.setdefault(case.subject, case)
        if other.fold != case.fold:
            yield Finding(
                "subject-in-two-folds",
                "error",
                f"subject {case.subject!r} is in fold {_fold(case)} here, in {_fold(other)} by "
                f"{other.id}",
                "Keep all cases of a subject in one fold, or what is learned leaks into the score",
                case=case.id,
            )


def _check_folds(cases: Sequence[Case]) -> Iterator[Finding]:
    sizes = Counter(case.fold for case in cases if case.fold is not None)
    if not sizes:
        return
    n_loose = len(cases) - sum(sizes.values())
    if n_loose:
        yield _of_set(
            "no-fold",
            "note",
            f"{n_loose} cases have no fold",
            "They are learned from, never held out",
        )
    elif len(sizes) == 1:
        yield _of_set(
            "one-fold",
            "error",
            f"all cases are in fold {next(iter(sizes))}: none is left to learn from",
            "Give the cases at least two folds, or leave the column out",
        )
    small, large = min(sizes.values()), max(sizes.values())
    if large > 3 * small:
        yield _of_set(
            "unbalanced-folds",
            "warning",
            f"folds hold {small} to {large} cases",
            "Spread the subjects evenly, or leave the fold column out",
        )
    for fold in sorted(sizes):
        n_subjects = len({case.subject for case in cases if case.fold == fold})
        if n_subjects < _FEW_SUBJECTS:
            yield _of_set(
                "few-subjects",
                "note",
                f"fold {fold} holds out {n_subjects} subject{'s' * (n_subjects > 1)}",
                "Expect wide intervals, or use fewer folds",
            )


def _check_masks_listed(cases: Sequence[Case]) -> Iterator[Finding]:
    bare = [case for case in cases if case.mask is None]
    if bare and len(bare) < len(cases):
        omitted = len(bare) <= len(cases) / 10
        for case in bare:
            yield Finding(
                "no-mask",
                "warning" if omitted else "note",
                f"has no mask, as {len(bare)} of {len(cases)} cases",
                "Name its mask in the manifest; without one it is neither learned from nor scored",
                printable(str(case.image)),
                case.id,
            )


def _check_copies(seen: Seen) -> Iterator[Finding]:
    """The first of equal images stands; the others are reported beside it."""
    for first, others in _equal(seen, lambda traits: traits.image_hash):
        for case in others:
            leaks = case.subject != first.subject and case.fold != first.fold
            yield Finding(
                "duplicate-across-folds" if leaks else "duplicate-image",
                "error" if leaks else "warning",
                f"image holds the same voxels as that of {first.id}" + _beside(case, first),
                "Take one out, or give both one subject and one fold: what is learned would leak"
                if leaks
                else "Take one out if it is a copy",
                printable(str(case.image)),
                case.id,
            )


def _check_mask_copies(seen: Seen) -> Iterator[Finding]:
    image_of = {case.id: traits.image_hash for case, traits in seen}
    for first, others in _equal(seen, lambda traits: traits.mask_hash):
        for case in others:
            if image_of[case.id] == image_of[first.id]:
                continue
            same = case.subject == first.subject
            yield Finding(
                "duplicate-mask",
                "note" if same else "warning",
                f"mask is voxel by voxel that of {first.id}, its image is another",
                "Check that each case names the mask drawn on its own image",
                printable(str(case.mask)),
                case.id,
            )


def _check_mixture(seen: Seen) -> Iterator[Finding]:
    traits = [one for _, one in seen]
    ids = [case.id for case, _ in seen]
    mixtures: dict[str, tuple[str, list[str | None], Severity, str]] = {
        "mixed-orientation": (
            "orientations",
            [one.orientation for one in traits],
            "note",
            "Nothing to do: axes are brought into one order",
        ),
        "mixed-modality": (
            "modalities",
            [one.modality for one in traits],
            "warning",
            "Keep one modality a data set: intensities are treated alike",
        ),
        "mixed-unit": (
            "units",
            [one.unit for one in traits],
            "warning",
            "Bring all cases into one unit: intensities are treated alike",
        ),
    }
    for code, (name, values, severity, remedy) in mixtures.items():
        found = Counter(value for value in values if value is not None)
        if len(found) > 1:
            (usual, n_usual), *others = found.most_common()
            said = [f"{n_usual} {usual}"]
            for value, count in others:
                holders = [name for name, held in zip(ids, values, strict=True) if held == value]
                said.append(f"{count} {value} ({list_ids(holders)})")
            yield _of_set(code, severity, f"{name} differ: {', '.join(said)}", remedy)


def _check_classes(seen: Seen, classes: Mapping[int, str]) -> Iterator[Finding]:
    """Classes that no case, no training set or no held-out set of a fold holds.

    Of masks: what classes boxes have is not counted here.
    """
    if seen and all(case.boxes is not None for case, _ in seen):
        return
    seen = [(case, traits) for case, traits in seen if case.boxes is None]
    masked = [(case, traits.labels) for case, traits in seen if traits.labels is not None]
    if seen and classes and not any(labels for _, labels in masked):
        yield _of_set(
            "no-usable-mask",
            "error",
            f"no mask of {len(seen)} case{'s' * (len(seen) > 1)} labels a voxel, though "
            f"{len(classes)} class{'es are' if len(classes) > 1 else ' is'} declared: there is "
            "nothing to learn"
            if masked
            else f"none of {len(seen)} case{'s' * (len(seen) > 1)} has a mask, though classes of "
            "voxels are declared: there is nothing to learn",
            "Name the masks in the manifest's column `mask`, and check that they are not empty",
        )
        return
    folds = {case.fold for case, _ in masked if case.fold is not None}
    for label, name in classes.items() if masked else ():
        holders = [case for case, labels in masked if label in labels]
        if not holders:
            yield _of_set(
                "class-absent",
                "warning",
                f"no mask holds {name!r} ({label})",
                "Take it out of `classes`, or check the masks",
            )
            continue
        held = {case.fold for case in holders}
        if len(folds) > 1 and len(held) == 1 and None not in held:
            yield _of_set(
                "class-untrained",
                "error",
                f"{name!r} ({label}) occurs in fold {held.pop()} only: when that is held out, none "
                "is left to learn from",
                "Spread its cases over the folds, or take the class out",
            )
            continue
        for fold in sorted(folds - held):
            yield _of_set(
                "class-unscored",
                "warning",
                f"no case held out in fold {fold} holds {name!r} ({label}): nothing to score",
                "Spread its cases over the folds",
            )


def _equal(seen: Seen, key: Callable[[Traits], str | None]) -> Iterator[tuple[Case, list[Case]]]:
    groups: dict[str, list[Case]] = defaultdict(list)
    for case, traits in seen:
        value = key(traits)
        if value is not None:
            groups[value].append(case)
    for first, *others in groups.values():
        if others:
            yield first, others


def _of_set(code: str, severity: Severity, reason: str, remedy: str) -> Finding:
    return Finding(code, severity, reason, remedy)


def _beside(case: Case, first: Case) -> str:
    if case.subject == first.subject:
        return f", of the same subject {case.subject!r}"
    if case.fold is None and first.fold is None:
        return ""
    return f", of another subject; that is in fold {_fold(first)}, this in {_fold(case)}"


def _fold(case: Case) -> str:
    return "none" if case.fold is None else str(case.fold)
