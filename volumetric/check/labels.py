"""Labels of whole cases: of one by itself, and over the folds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from volumetric.cases import Case
from volumetric.errors import LabelError, VolumetricError
from volumetric.findings import Finding, Severity

Said = tuple[str, Severity, str, str]
"""Code, severity, reason, remedy."""

_LISTED = 10  # labels said to choose from
_FEW_SUBJECTS = 5


def check_label(
    case: Case, labels: Sequence[str], *, multi_label: bool
) -> Iterator[VolumetricError | Said]:
    """What is wrong with the label of a case, of those that its manifest declares."""
    if case.label is None:
        if not multi_label:
            reason, remedy = "has no label", "Give it one; without, it is not learned from"
            yield "no-label", "warning", reason, remedy
        return
    names = split_label(case.label) if multi_label else [case.label]
    unknown = [name for name in names if name not in labels]
    if not unknown:
        return
    declared = ", ".join(labels[:_LISTED]) + ", …" * (len(labels) > _LISTED)
    remedy = f"Correct it, or declare it; declared are: {declared}"
    if not multi_label and all(name in labels for name in split_label(case.label)):
        remedy = "Set multi_label in the manifest, if a case may have several"
    said = " and ".join(repr(name) for name in unknown)
    yield LabelError("unknown-label", f"label {said} is not declared", remedy, path=case.image)


def check_labels(cases: Sequence[Case], labels: Sequence[str]) -> Iterator[Finding]:
    """Labels that no case has, or that no training or held-out set of a fold would hold."""
    folds = {case.fold for case in cases if case.fold is not None}
    for label in labels if cases else ():
        holders = [case for case in cases if label in label_set(case)]
        held = {case.fold for case in holders}
        if not holders:
            yield Finding(
                "unseen-label",
                "warning",
                f"no case that can be used is labelled {label!r}",
                "Take it out of `labels`, or check the spelling",
            )
        elif len(folds) > 1 and len(held) == 1 and None not in held:
            yield Finding(
                "untrained-label",
                "error",
                f"{label!r} occurs in fold {held.pop()} only: when that is held out, none is left "
                "to learn from",
                "Spread its cases over the folds, or take the label out",
            )
        else:
            yield from _check_few(label, holders)
            if without := folds - held:
                yield Finding(
                    "unscored-label",
                    "warning",
                    f"no case labelled {label!r} is held out in fold "
                    f"{', '.join(map(str, sorted(without)))}: nothing to score",
                    "Spread its cases over the folds",
                )


def _check_few(label: str, holders: Sequence[Case]) -> Iterator[Finding]:
    n_subjects = len({case.subject for case in holders})
    if n_subjects < _FEW_SUBJECTS:
        yield Finding(
            "label-of-few-subjects",
            "warning" if n_subjects == 1 else "note",
            f"all {len(holders)} cases labelled {label!r} are of {n_subjects} "
            f"subject{'s' * (n_subjects > 1)}",
            "Expect that the subjects are learned instead of it; add others",
        )


def split_label(label: str) -> list[str]:
    """The labels of a case that may have several: `one;other`."""
    return [name.strip() for name in label.split(";")]


def label_set(case: Case) -> frozenset[str]:
    """The labels of a case, none if it has none."""
    return frozenset() if case.label is None else frozenset(split_label(case.label))
