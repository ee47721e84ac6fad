"""How well the segments found in long videos agree with the truth.

Average precision is that of ActivityNet's evaluation (Caba Heilbron et al., CVPR 2015; its code's
`eval_detection.py`): the predictions of a class, over all videos, go by falling score; each takes
the segment of the truth it overlaps most among those still free, if the overlap reaches the
threshold, and is false otherwise; precision is made monotone from the right and summed at all
steps of recall. Overlap is temporal intersection over union (tIoU).

Predictions of one score go by video and time, so that their order in a list decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volumetric.errors import ConfigError
from volumetric.metrics.ranking import divided
from volumetric.metrics.resampling import USUAL, Resampling
from volumetric.metrics.scoring import ALL, Statistic, known_mean, score_statistic
from volumetric.metrics.segments import Segment, temporal_iou
from volumetric.metrics.statistics import Interval

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Match:
    """A prediction, and the segment of the truth it finds; None for a false one."""

    video: str
    prediction: Segment
    truth: Segment | None

    @property
    def boundary_error_s(self) -> float | None:
        """Mean distance of its two ends from the truth's, in seconds; None for a false one."""
        if self.truth is None:
            return None
        start_s = abs(self.prediction.start_s - self.truth.start_s)
        return (start_s + abs(self.prediction.end_s - self.truth.end_s)) / 2


_Segments = Mapping[str, Sequence[Segment]]


def match_segments(predicted: _Segments, truth: _Segments, *, threshold: float) -> list[Match]:
    """Each prediction by falling score, with the segment of the truth it finds, each found once.

    `predicted` and `truth` are segments by video; only those of one class and one video match.

    Raises:
        ConfigError: predictions in a video the truth does not list, or a threshold not between
            0 (excluded) and 1. A video in which nothing happens has an empty list.
    """
    _check_videos(predicted, truth)
    if not 0 < threshold <= 1:
        raise ConfigError(
            "bad-threshold",
            f"no overlap is asked for by a threshold of {threshold}",
            "Give thresholds above 0 and up to 1, such as 0.5",
        )
    free = {video: sorted(segments, key=_place) for video, segments in truth.items()}
    matches = []
    for video, prediction in _by_score(predicted):
        overlaps = [
            temporal_iou(prediction, other) if other.label == prediction.label else 0.0
            for other in free[video]
        ]
        best = int(np.argmax(overlaps)) if overlaps else 0
        found = free[video].pop(best) if overlaps and overlaps[best] >= threshold else None
        matches.append(Match(video, prediction, found))
    return matches


def score_localisation(
    predicted: _Segments,
    truth: _Segments,
    *,
    classes: Sequence[str],
    thresholds: Sequence[float] = (0.3, 0.5, 0.7),
    subjects: Mapping[str, str] | None = None,
    resampling: Resampling = USUAL,
) -> dict[str, dict[str, Interval]]:
    """Metric -> class name or "all" -> value with its interval, whole subjects resampled.

    `predicted` and `truth` are segments by video; `subjects` says whose each video is (default:
    each its own). Metrics: ap_0.3 and so on for each threshold, average precision of a class at
    that tIoU ("all": mAP, the mean over classes of the truth); boundary_error_s, the mean distance
    of both ends in seconds over predictions matched at the lowest threshold ("all": over all).

    `n` is the number of segments behind a value: those of the truth, or those matched. What is
    not defined is None with a reason.

    Raises:
        ConfigError: as `match_segments`, no video, no threshold, a segment of a class not listed,
            classes of one name or named "all", or a video without a subject.
    """
    _check_task(predicted, truth, classes, thresholds, subjects)
    owners = None if subjects is None else [subjects[video] for video in truth]
    counts = np.array([[_count(own, name) for name in classes] for own in truth.values()], float)
    matches = {at: match_segments(predicted, truth, threshold=at) for at in thresholds}
    tables = {at: _tables(found, classes, list(truth)) for at, found in matches.items()}
    errors = _error_sums(matches[min(thresholds)], classes, list(truth))

    def measure(weights: _Array) -> _Array:
        precisions = [_precisions(weights, table, weights @ counts) for table in tables.values()]
        errors_s = divided(weights @ errors[0], weights @ errors[1])
        return np.concatenate([*precisions, errors_s], axis=1)

    names = (*classes, ALL)
    n_true, n_matched = (*counts.sum(axis=0), counts.sum()), errors[1].sum(axis=0)
    behind = {**{f"ap_{at:g}": n_true for at in tables}, "boundary_error_s": n_matched}
    numbers = {
        (metric, name): int(n)
        for metric, own in behind.items()
        for name, n in zip(names, own, strict=True)
    }
    statistic = Statistic(tuple(numbers), measure, numbers, _why_undefined)
    return score_statistic(statistic, len(truth), subjects=owners, resampling=resampling)


def _why_undefined(metric: str, _name: str, _n: int) -> str:
    return "no segment was matched" if metric == "boundary_error_s" else "absent from truth"


def _tables(
    matches: Sequence[Match], classes: Sequence[str], videos: Sequence[str]
) -> list[tuple[NDArray[np.intp], _Array]]:
    """For each class its predictions by falling score: number of the video, and 1 if true."""
    number_of = {video: number for number, video in enumerate(videos)}
    tables = []
    for name in classes:
        own = [match for match in matches if match.prediction.label == name]
        numbers = np.array([number_of[match.video] for match in own], dtype=np.intp)
        tables.append((numbers, np.array([match.truth is not None for match in own], float)))
    return tables


def _precisions(
    weights: _Array, tables: Sequence[tuple[NDArray[np.intp], _Array]], n_true: _Array
) -> _Array:
    """Average precision of each class, and their mean: (rows, n_classes + 1).

    A video drawn twice brings each prediction twice. That its copies count at once changes
    nothing: precision between two true copies is below that after them, hence never the maximum
    from the right, and recall does not move between two false ones.
    """
    columns = []
    for (numbers, hits), of_class in zip(tables, n_true.T, strict=True):
        counted = weights[:, numbers]
        true = counted * hits
        precision = divided(np.cumsum(true, axis=1), np.cumsum(counted, axis=1))
        precision = np.nan_to_num(precision)  # nothing drawn so far: no step of recall either
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        columns.append(divided((true * best).sum(axis=1), of_class))
    each = np.stack(columns, axis=1)
    return np.concatenate([each, known_mean(each)], axis=1)


def _error_sums(
    matches: Sequence[Match], classes: Sequence[str], videos: Sequence[str]
) -> tuple[_Array, _Array]:
    """Sum of boundary errors and number of matches: (n_videos, n_classes + 1), the last of all."""
    row_of = {video: row for row, video in enumerate(videos)}
    column_of = {name: column for column, name in enumerate(classes)}
    sums, counts = np.zeros((2, len(videos), len(classes) + 1))
    for match in matches:
        if match.boundary_error_s is not None:
            columns = [column_of[match.prediction.label], len(classes)]
            sums[row_of[match.video], columns] += match.boundary_error_s
            counts[row_of[match.video], columns] += 1
    return sums, counts


def _count(segments: Sequence[Segment], label: str) -> int:
    return sum(segment.label == label for segment in segments)


def _by_score(predicted: _Segments) -> list[tuple[str, Segment]]:
    pairs = [(video, segment) for video, segments in predicted.items() for segment in segments]
    return sorted(pairs, key=lambda pair: (-pair[1].score, pair[0], *_place(pair[1])))


def _place(segment: Segment) -> tuple[float, float, str]:
    return segment.start_s, segment.end_s, segment.label


def _check_videos(predicted: _Segments, truth: _Segments) -> None:
    if extra := sorted(set(predicted) - set(truth)):
        raise ConfigError(
            "video-without-truth",
            f"{len(extra)} videos with predictions have no truth, the first {extra[0]}",
            "Leave them out, or list them with no segment if nothing happens in them",
        )


def _check_task(
    predicted: _Segments,
    truth: _Segments,
    classes: Sequence[str],
    thresholds: Sequence[float],
    subjects: Mapping[str, str] | None,
) -> None:
    labels = {own.label for side in (predicted, truth) for row in side.values() for own in row}
    if not classes or len(set(classes)) < len(classes) or ALL in classes or labels - set(classes):
        raise ConfigError(
            "bad-classes",
            f"classes {', '.join(classes)} for segments of {', '.join(sorted(labels))}",
            'List each class of the segments once, none named "all"',
        )
    orphans = set() if subjects is None else set(truth) - set(subjects)
    if not truth or not thresholds or orphans:
        raise ConfigError(
            "bad-localisation",
            f"{len(truth)} videos, {len(orphans)} of them without a subject, "
            f"at {len(thresholds)} thresholds",
            "Give at least one of each, and a subject for every video or for none",
        )
