"""Repeats: runs that differ in nothing but their seed, scored as one: the mean of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np

from pipeline.comparison.pairing import Pair, Side
from pipeline.comparison.scores import probabilities, targets
from pipeline.comparison.settings import configuration, differing_settings
from pipeline.results import note_few_subjects
from volumetric.errors import ConfigError
from volumetric.metrics.classification import classification_statistic
from volumetric.metrics.comparison import Compared, compare_statistics
from volumetric.metrics.resampling import Resampling
from volumetric.metrics.scoring import ALL, Statistic, mean_statistic, score_statistic

_SHARE = "train.share"


@dataclass(frozen=True, eq=False)
class Repeats:
    """Runs that differ in nothing but their seed.

    Attributes:
        name: what their names begin with.
        curve: what the names of all those begin with that differ from these in share alone.
        share: the part of the cases to learn from that was used.
        members: numbers of the runs in the order they were given.
    """

    name: str
    curve: str
    share: float
    members: tuple[int, ...]


def group_repeats(sides: Sequence[Side]) -> list[Repeats]:
    """Runs that are repeats of each other, in the order of the first of each."""
    groups: dict[str, list[int]] = {}
    curves: dict[str, list[int]] = {}
    keys, shares, met = [], [], set()
    for number, side in enumerate(sides):
        fields = configuration(side)
        seed, share = fields.pop("seed", None), float(fields.pop(_SHARE, 1.0))
        key = json.dumps(fields, sort_keys=True, default=str)
        group = f"{share} {key}"
        if (group, seed) in met:  # the same settings twice: what differs lies elsewhere
            group = f"{number} {group}"
        met.add((group, seed))
        curves.setdefault(key, []).append(number)
        groups.setdefault(group, []).append(number)
        keys.append(key)
        shares.append(share)
    names = _common_names(sides, list(groups.values()))
    titles = dict(zip(curves, _common_names(sides, list(curves.values())), strict=True))
    return [
        Repeats(name, titles[keys[members[0]]], shares[members[0]], tuple(members))
        for name, members in zip(names, groups.values(), strict=True)
    ]


def _common_names(sides: Sequence[Side], groups: Sequence[Sequence[int]]) -> list[str]:
    """What the names in each group begin with; where groups are alike then, those of folders."""
    for one in ("name", "folder"):
        known = [side.name if one == "name" else side.folder.resolve().name for side in sides]
        found = [_common_name([known[number] for number in group]) for group in groups]
        if len(set(found)) == len(found):
            return found
    return [f"{name} ({number})" for number, name in enumerate(found, 1)]


def _common_name(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in same).rstrip("-_. ") or names[0]


def describe_repeats(
    pairs: Sequence[Pair],
    groups: Sequence[Repeats],
    *,
    metrics: Sequence[str],
    resampling: Resampling,
) -> dict[str, Any]:
    """What series.json holds: of each group its means, and how they differ from the first's.

    Where shares differ: from the first curve's at the same share, if there is one. Run 0 is the
    pairs' first, run n the second of pair n - 1. Cases are those that all runs scored; a resample
    draws them once for all.

    Raises:
        ConfigError: no case is in all of the runs.
    """
    pairs = _common_cases(pairs)
    subjects = pairs[0].subjects
    how: dict[str, Any] = {"subjects": subjects, "resampling": resampling}
    each = [[_statistic(pairs, number) for number in group.members] for group in groups]
    means = [mean_statistic(statistics) for statistics in each]
    rows = []
    for group, mean, statistics in zip(groups, means, each, strict=True):
        leader, reference = group.members[0], _reference(groups, group)
        own = score_statistic(mean, len(subjects), **how)
        differences = compare_statistics(means[reference], mean, len(subjects), **how)
        settings = differing_settings(pairs[leader - 1]) if leader else []
        rows.append(
            {
                "name": group.name,
                "page": None,
                "curve": group.curve,
                "share": group.share,
                "n_repeats": len(group.members),
                "reference": None if groups[reference] is group else groups[reference].name,
                "settings": [asdict(one) for one in settings if one.field != "seed"],
                "metrics": {
                    metric: {
                        "own": asdict(own[metric][ALL]),
                        "each": _values(statistics, (metric, ALL), len(subjects)),
                        "difference": None
                        if groups[reference] is group
                        else _difference(differences[metric][ALL]),
                    }
                    for metric in metrics
                    if ALL in own.get(metric, {})
                },
            }
        )
    return {
        "confidence": resampling.confidence,
        "n_cases": len(subjects),
        "n_subjects": len(set(subjects)),
        "notes": note_few_subjects(subjects),
        "runs": rows,
    }


def _reference(groups: Sequence[Repeats], group: Repeats) -> int:
    """Number of the group that another is held against."""
    alike = [
        number
        for number, other in enumerate(groups)
        if other.curve == groups[0].curve and other.share == group.share
    ]
    return alike[0] if alike else 0


def _difference(compared: Compared) -> dict[str, Any]:
    found = asdict(compared.difference)
    return {"difference": found.pop("mean"), **found}


def _common_cases(pairs: Sequence[Pair]) -> list[Pair]:
    known = set.intersection(*(set(pair.ids) for pair in pairs))
    ids = tuple(name for name in pairs[0].ids if name in known)
    if not ids:
        raise ConfigError(
            "no-common-case",
            "shares cases with each of the others, but none is in all of the runs",
            "Compare runs on the same data set and folds",
            path=pairs[0].first.folder,
        )
    return [replace(pair, ids=ids) for pair in pairs]


def _statistic(pairs: Sequence[Pair], number: int) -> Statistic:
    pair = pairs[max(0, number - 1)]
    answers = probabilities(pair, pair.second if number else pair.first)
    return classification_statistic(answers, targets(pair), classes=pair.classes)


def _values(
    statistics: Sequence[Statistic], key: tuple[str, str], n_cases: int
) -> list[float | None]:
    """What each of them says of all cases; None where it is not defined."""
    place = statistics[0].keys.index(key)
    found = [float(one.measure(np.ones((1, n_cases)))[0, place]) for one in statistics]
    return [None if np.isnan(value) else value for value in found]
