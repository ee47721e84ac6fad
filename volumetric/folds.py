"""Which cases are held out, and which are learned from: one subject is never on both sides."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from volumetric.cases import Case
from volumetric.errors import ManifestError


def group_folds(subjects: Sequence[str], *, n_folds: int = 5, seed: int = 12345) -> list[int]:
    """The fold in which each case is held out; all cases of one subject share it.

    Equal to nnU-Net's folds, `KFold(n_folds, shuffle=True, random_state=seed)` over the sorted
    subjects, so that results compare with published ones.
    """
    from sklearn.model_selection import KFold

    unique = sorted(set(subjects))
    if not 2 <= n_folds <= len(unique):
        raise _too_few(len(unique), n_folds)
    folds = KFold(n_folds, shuffle=True, random_state=seed)
    fold_of = {
        unique[int(index)]: fold
        for fold, (_, held_out) in enumerate(folds.split(np.arange(len(unique))))
        for index in held_out
    }
    return [fold_of[subject] for subject in subjects]


def _too_few(n_subjects: int, n_folds: int) -> ManifestError:
    return ManifestError(
        "too-few-subjects",
        f"{n_subjects} subjects cannot make {n_folds} folds",
        "Add subjects, or set the manifest's fold column",
    )


def label_folds(
    subjects: Sequence[str], labels: Sequence[str], *, n_folds: int = 5, seed: int = 12345
) -> list[int]:
    """The fold in which each case is held out: subjects kept together, labels spread evenly.

    scikit-learn's `StratifiedGroupKFold`, shuffled: greedy, so a rare label of few subjects may
    still miss a fold.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if not 2 <= n_folds <= len(set(subjects)):
        raise _too_few(len(set(subjects)), n_folds)
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    folds = [0] * len(subjects)
    with warnings.catch_warnings():  # that a label is rare: the data doctor says it better
        warnings.simplefilter("ignore", UserWarning)
        for fold, (_, held_out) in enumerate(splitter.split(labels, labels, subjects)):
            for index in held_out:
                folds[int(index)] = fold
    return folds


def draw_share(cases: Sequence[Case], share: float, *, seed: int) -> list[Case]:
    """A share of the cases in their order, from 0 to 1: whole subjects, each label by itself.

    Where a subject has cases of several labels, as a recording of many actions, cases are drawn
    one by one. Of each label there is at least one. For equal seeds, what a smaller share holds a
    larger one holds, too.
    """
    whole = len({(case.subject, case.label) for case in cases}) == len({c.subject for c in cases})
    units = [case.subject if whole else case.id for case in cases]
    labels = {unit: case.label for unit, case in zip(units, cases, strict=True)}
    by_label: dict[str | None, list[str]] = {}
    for unit in sorted(labels):
        by_label.setdefault(labels[unit], []).append(unit)
    drawn: set[str] = set()
    for label in sorted(by_label, key=str):
        own = by_label[label]
        order = np.random.default_rng(seed).permutation(len(own))
        drawn |= {own[int(n)] for n in order[: max(1, round(share * len(own)))]}
    return [case for unit, case in zip(units, cases, strict=True) if unit in drawn]


def with_folds(cases: Sequence[Case]) -> list[Case]:
    """The cases, in five folds (fewer for few subjects) where not one of them has a fold.

    Where every case has a label, labels are spread evenly over them.

    Raises:
        ManifestError: there are no folds, and no two subjects to make them of.
    """
    if any(case.fold is not None for case in cases):
        return list(cases)
    subjects = [case.subject for case in cases]
    n_folds = max(2, min(5, len(set(subjects))))
    labels = [case.label for case in cases if case.label is not None]
    if len(labels) == len(cases) and max(Counter(labels).values()) >= n_folds:
        folds = label_folds(subjects, labels, n_folds=n_folds)
    else:
        folds = group_folds(subjects, n_folds=n_folds)
    return [replace(case, fold=fold) for case, fold in zip(cases, folds, strict=True)]
