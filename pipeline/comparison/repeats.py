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
from volumetric.metrics.classification import (
    ALL,
    Statistic,
    classification_statistic,
    mean_statistic,
    score_statistic,
)
from volumetric.metrics.comparison import Compared, compare_statistics
from volumetric.metrics.resampling import Resampling

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
    return [
        Repeats(
            _common_name(sides, members),
            _common_name(sides, curves[keys[members[0]]]),
            shares[members[0]],
            tuple(members),
        )
        for members in groups.values()
    ]


def _common_name(sides: Sequence[Side], members: Sequence[int]) -> str:
    names = [sides[number].name for number in members]
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

    Run 0 is the pairs' first, run n the second of pair n - 1. Cases are those that all runs scored;
    a resample draws them once for all.
    """
    pairs = _common_cases(pairs)
    subjects = pairs[0].subjects
    how: dict[str, Any] = {"subjects": subjects, "resampling": resampling}
    each = [[_statistic(pairs, number) for number in group.members] for group in groups]
    first = mean_statistic(each[0])
    rows = []
    for group, statistics in zip(groups, each, strict=True):
        mean, leader = mean_statistic(statistics), group.members[0]
        own = score_statistic(mean, len(subjects), **how)
        differences = compare_statistics(first, mean, len(subjects), **how)
        settings = differing_settings(pairs[leader - 1]) if leader else []
        rows.append(
            {
                "name": group.name,
                "page": None,
                "curve": group.curve,
                "share": group.share,
                "n_repeats": len(group.members),
                "settings": [asdict(one) for one in settings if one.field != "seed"],
                "metrics": {
                    metric: {
                        "own": asdict(own[metric][ALL]),
                        "each": _values(statistics, (metric, ALL), len(subjects)),
                        "difference": _difference(differences[metric][ALL]) if leader else None,
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
        "runs": rows,
    }


def _difference(compared: Compared) -> dict[str, Any]:
    found = asdict(compared.difference)
    return {"difference": found.pop("mean"), **found}


def _common_cases(pairs: Sequence[Pair]) -> list[Pair]:
    known = set.intersection(*(set(pair.ids) for pair in pairs))
    ids = tuple(name for name in pairs[0].ids if name in known)
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
