"""How well scores rank the cases of a class above the others, for many weightings at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]
_Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Ranking:
    """Cases by falling score, those of one score as one rank.

    Attributes:
        order: (n_cases,) the cases, highest score first.
        starts: (n_ranks,) where in `order` each rank begins.
        members: (n_members,) the cases of the class, highest score first.
        ranks: (n_members,) the rank of each member.
        lasts: (n_members,) for each member, the last in `members` of its rank.
    """

    order: _Indices
    starts: _Indices
    members: _Indices
    ranks: _Indices
    lasts: _Indices


def rank_cases(scores: _Array, is_member: NDArray[np.bool_]) -> Ranking:
    """The ranking of cases by `scores` (n_cases,), which of them belong to the class beside it."""
    order = np.argsort(-scores, kind="stable")
    falls = np.diff(scores[order], prepend=np.inf) < 0
    member = is_member[order]
    ranks = (np.cumsum(falls) - 1)[member]
    lasts = np.searchsorted(ranks, ranks, side="right") - 1
    return Ranking(order, np.flatnonzero(falls), order[member], ranks, lasts)


def rank_auroc(weights: _Array, ranking: Ranking) -> _Array:
    """Area under the ROC curve (rows,) for weights (rows, n_cases), NaN without both sides.

    The chance that a member scores above another case, a tie counting one half (Mann & Whitney,
    1947; Hanley & McNeil, Radiology 1982).
    """
    at_rank, up_to_rank = _counted(weights, ranking)
    of_members = weights[:, ranking.members]
    n_members = of_members.sum(axis=1)
    n_others = up_to_rank[:, -1] - n_members
    above = (up_to_rank - at_rank / 2)[:, ranking.ranks]
    # Of what stands above a member, other members make half of all pairs of them.
    wrong = (of_members * above).sum(axis=1) - n_members**2 / 2
    return 1 - divided(wrong, n_members * n_others)


def rank_precision(weights: _Array, ranking: Ranking) -> _Array:
    """Average precision (rows,) for weights (rows, n_cases), NaN without a member.

    The sum over ranks of the step in recall times the precision there, without interpolation.
    """
    _, up_to_rank = _counted(weights, ranking)
    of_members = weights[:, ranking.members]
    found = np.cumsum(of_members, axis=1)[:, ranking.lasts]
    precision = divided(found, up_to_rank[:, ranking.ranks])
    # A member not drawn weighs nothing; where nothing above it was drawn either, 0 / 0 stands.
    gained = np.where(of_members > 0, of_members * precision, 0.0).sum(axis=1)
    return divided(gained, of_members.sum(axis=1))


def _counted(weights: _Array, ranking: Ranking) -> tuple[_Array, _Array]:
    """How many cases (rows, n_ranks) stand at each rank, and at it or above."""
    at_rank = weights[:, ranking.order]
    if ranking.starts.size < ranking.order.size:
        at_rank = np.add.reduceat(at_rank, ranking.starts, axis=1)
    return at_rank, np.cumsum(at_rank, axis=1)


def divided(numerator: _Array, denominator: _Array) -> _Array:
    """The quotient, NaN where it divides by 0."""
    quotient = np.full(denominator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient
