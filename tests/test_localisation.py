"""Segments from windows, and their average precision against a plain ActivityNet evaluation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volumetric.errors import ConfigError
from volumetric.metrics import (
    Resampling,
    Segment,
    match_segments,
    merge_segments,
    score_localisation,
    smooth_windows,
    temporal_iou,
)

FEW = Resampling(n_resamples=50)


def plain_ap(predicted, truth, threshold: float) -> float:
    """Average precision of one class as ActivityNet's evaluation has it, in loops, with locks."""
    n_true = sum(map(len, truth.values()))
    rows = [(-s.score, video, s.start_s, s.end_s) for video in predicted for s in predicted[video]]
    locked, hits = set(), []
    for _, video, start, end in sorted(rows):
        overlaps = []
        for index, other in enumerate(truth[video]):
            shared = max(0, min(end, other.end_s) - max(start, other.start_s))
            union = (end - start) + (other.end_s - other.start_s) - shared
            overlaps.append((-shared / union, other.start_s, other.end_s, index))
        hit = False
        for overlap, _, _, index in sorted(overlaps):
            if -overlap < threshold:
                break
            if (video, index) not in locked:
                locked.add((video, index))
                hit = True
                break
        hits.append(hit)
    recall, precision = [0.0], [0.0]
    for place in range(len(hits)):
        recall.append(sum(hits[: place + 1]) / n_true)
        precision.append(sum(hits[: place + 1]) / (place + 1))
    recall, precision = [*recall, 1.0], [*precision, 0.0]
    for place in range(len(precision) - 2, -1, -1):
        precision[place] = max(precision[place], precision[place + 1])
    return sum(
        (recall[place] - recall[place - 1]) * precision[place] for place in range(1, len(recall))
    )


spans = st.tuples(st.integers(0, 30), st.integers(1, 12), st.integers(0, 20), st.sampled_from("ab"))
segments = spans.map(lambda row: Segment(row[0] / 2, (row[0] + row[1]) / 2, row[3], row[2] / 20))
videos = st.lists(st.tuples(st.lists(segments, max_size=5), st.lists(segments, max_size=4)))


def split(rows):
    return [{f"v{n}": row[side] for n, row in enumerate(rows)} for side in (0, 1)]


@given(videos.filter(len))
def test_average_precision_equals_the_plain_one(rows):
    predicted, truth = split(rows)
    got = score_localisation(predicted, truth, classes="ab", resampling=FEW)
    for threshold in (0.3, 0.5, 0.7):
        values = []
        for name in "ab":
            own = [
                {video: [s for s in found if s.label == name] for video, found in side.items()}
                for side in (predicted, truth)
            ]
            found = got[f"ap_{threshold}"][name]
            assert found.n == sum(map(len, own[1].values()))
            if not found.n:
                assert (found.mean, found.reason) == (None, "absent from truth")
                continue
            values.append(plain_ap(*own, threshold))
            assert found.mean == pytest.approx(values[-1], abs=1e-12)
        if values:
            assert got[f"ap_{threshold}"]["all"].mean == pytest.approx(np.mean(values))


@given(videos.filter(len), st.randoms())
def test_the_order_of_segments_and_videos_decides_no_value(rows, random):
    predicted, truth = split(rows)
    first = score_localisation(predicted, truth, classes="ab", resampling=FEW)
    turned = []
    for side in (predicted, truth):
        items = [(video, random.sample(found, len(found))) for video, found in side.items()]
        turned.append(dict(random.sample(items, len(items))))
    second = score_localisation(*turned, classes="ba", resampling=FEW)
    for metric, row in first.items():
        for name, found in row.items():
            other = second[metric][name]
            assert (found.mean is None) == (other.mean is None)
            assert found.mean is None or found.mean == pytest.approx(other.mean)
            assert found.n == other.n


@given(videos.filter(len))
def test_a_match_is_of_one_class_and_video_and_each_truth_is_found_once(rows):
    predicted, truth = split(rows)
    matches = match_segments(predicted, truth, threshold=0.3)
    assert len(matches) == sum(map(len, predicted.values()))
    for match in matches:
        if match.truth is not None:
            assert match.prediction.label == match.truth.label
            assert temporal_iou(match.prediction, match.truth) >= 0.3
    for video, own in truth.items():
        found = [m.truth for m in matches if m.video == video and m.truth is not None]
        assert all(found.count(segment) <= own.count(segment) for segment in found)


def test_a_video_drawn_twice_counts_as_two_videos():
    generator = np.random.default_rng(0)

    def some(n):
        starts = generator.integers(0, 20, n)
        return [Segment(s, s + generator.integers(2, 6), "a", generator.random()) for s in starts]

    predicted, truth = {f"v{n}": some(6) for n in range(4)}, {f"v{n}": some(4) for n in range(4)}
    twice = [
        {f"{v}{copy}": s for v, s in side.items() for copy in "xy"} for side in (predicted, truth)
    ]
    first = score_localisation(predicted, truth, classes="a", resampling=FEW)
    second = score_localisation(*twice, classes="a", resampling=FEW)
    for metric, row in first.items():
        assert row["a"].mean == pytest.approx(second[metric]["a"].mean), metric


def test_overlap_by_hand():
    one = Segment(1, 3, "a")
    assert temporal_iou(one, one) == 1
    assert temporal_iou(one, Segment(2, 5, "a")) == pytest.approx(1 / 4)
    assert temporal_iou(one, Segment(3, 5, "a")) == 0
    assert temporal_iou(one, Segment(8, 9, "a")) == 0


def test_boundary_errors_are_of_what_was_matched():
    truth = {"v": [Segment(0, 10, "a"), Segment(20, 30, "b")], "w": [Segment(0, 4, "a")], "x": []}
    predicted = {
        "v": [Segment(1, 10.5, "a", 0.9), Segment(20, 30, "a", 0.8), Segment(21, 33, "b", 0.7)],
        "w": [Segment(0, 4, "a", 0.4)],
    }
    got = score_localisation(predicted, truth, classes="abc", resampling=FEW)["boundary_error_s"]
    assert [got[name].n for name in ("a", "b", "c", "all")] == [2, 1, 0, 3]
    assert got["a"].mean == pytest.approx((0.75 + 0) / 2)
    assert got["b"].mean == pytest.approx(2)
    assert got["all"].mean == pytest.approx((0.75 + 0 + 2) / 3)
    assert (got["c"].mean, got["c"].reason) == (None, "no segment was matched")


def test_an_interval_is_by_subject_and_holds_its_value():
    generator = np.random.default_rng(1)
    truth, predicted = {}, {}
    for number in range(24):
        truth[f"v{number}"] = [Segment(10 * k, 10 * k + 6, "ab"[k % 2]) for k in range(4)]
        predicted[f"v{number}"] = [
            Segment(s.start_s + shift, s.end_s + shift, s.label, generator.random())
            for s, shift in zip(truth[f"v{number}"], generator.normal(0, 1.5, 4), strict=True)
        ]
    settings = {"classes": "ab", "resampling": Resampling(n_resamples=1000)}
    got = score_localisation(predicted, truth, **settings)
    for row in got.values():
        for found in row.values():
            assert found.ci_low < found.mean < found.ci_high
    pairs = {video: f"s{int(video[1:]) // 2}" for video in truth}
    whole = score_localisation(predicted, truth, subjects=pairs, **settings)
    assert whole["ap_0.5"]["all"].mean == got["ap_0.5"]["all"].mean
    assert whole["ap_0.5"]["all"] != got["ap_0.5"]["all"]


# From windows to segments


def blended(labels, *, step_s: float, width_s: float, n_classes: int):
    """What an ideal network says: the share of each class in each window of a recording."""
    fine = np.eye(n_classes)[np.asarray(labels)]  # 100 a second
    times = np.arange(width_s / 2, len(labels) / 100 - width_s / 2 + 1e-9, step_s)
    rows = [
        fine[round(100 * (t - width_s / 2)) : round(100 * (t + width_s / 2))].mean(0) for t in times
    ]
    return np.stack(rows), times.tolist()


def test_segments_of_a_stitched_recording_are_found_exactly():
    lengths, order = [7.3, 4.1, 12.8, 5.0, 9.9], [0, 2, 1, 3, 0]
    labels = np.repeat(order, [round(100 * length) for length in lengths])
    windows, times = blended(labels, step_s=0.5, width_s=2, n_classes=4)
    names, end_s = ["w", "x", "y", "z"], sum(lengths)
    got = merge_segments(windows, times, classes=names, span_s=(0, end_s))
    assert [segment.label for segment in got] == [names[number] for number in order]
    ends = np.concatenate([[0], np.cumsum(lengths)])
    assert [segment.start_s for segment in got] == pytest.approx(ends[:-1], abs=0.02)
    assert [segment.end_s for segment in got] == pytest.approx(ends[1:], abs=0.02)
    truth = [Segment(*pair, s.label) for pair, s in zip(itertools.pairwise(ends), got, strict=True)]
    scores = score_localisation({"v": got}, {"v": truth}, classes=names, resampling=FEW)
    assert scores["ap_0.7"]["all"].mean == 1
    assert scores["boundary_error_s"]["all"].mean < 0.02


def test_short_flickers_go_to_what_surrounds_them():
    labels = [0, 0, 0, 1, 0, 0, 2, 2, 2, 2, 1, 3, 3, 3, 3]
    windows = 0.7 * np.eye(4)[labels] + 0.3 / 4
    times = np.arange(15) + 0.5
    loose = merge_segments(windows, times, classes="abcd")
    assert "".join(segment.label for segment in loose) == "abacbd"
    got = merge_segments(windows, times, classes="abcd", shortest_s=1.5)
    assert "".join(segment.label for segment in got) == "acd"
    assert (got[0].start_s, got[-1].end_s) == (0, 15)
    assert got[0].score == pytest.approx((5 * 0.775 + 0.075) / 6)
    assert merge_segments(windows, times, classes="abcd", shortest_s=99) == []


def test_with_a_threshold_segments_may_overlap_and_leave_gaps():
    windows = np.array([[0, 0, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 0, 0.6]]).T
    times = np.arange(8.0)
    got = merge_segments(windows, times, classes="ab", threshold=0.5)
    assert [(s.label, s.start_s, s.end_s) for s in got] == [
        ("a", 1.5, 4.5),
        ("b", 3.5, 5.5),
        ("b", pytest.approx(6 + 5 / 6), 7.5),
    ]
    kept = merge_segments(windows, times, classes="ab", threshold=0.5, shortest_s=1)
    assert kept == got[:2]


rows = st.lists(
    st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any), min_size=1, max_size=30
)


@given(rows, st.sampled_from([0.0, 1.0, 2.5, 6.0]))
def test_segments_cover_the_span_once_and_none_is_too_short(weights, shortest_s):
    windows = np.array(weights, float) / np.sum(weights, axis=1, keepdims=True)
    times = np.arange(len(windows)) * 0.7 + 3
    got = merge_segments(windows, times, classes="abc", shortest_s=shortest_s, span_s=(1, 30))
    for before, after in itertools.pairwise(got):
        assert before.end_s == after.start_s
        assert before.label != after.label
    for segment in got:
        assert segment.end_s - segment.start_s >= shortest_s
    if got:
        assert (got[0].start_s, got[-1].end_s) == (1, 30)
    if not shortest_s:
        for time_s, row in zip(times, windows, strict=True):
            [owner] = [s.label for s in got if s.start_s <= time_s < s.end_s]
            assert owner == "abc"[row.argmax()]


@given(rows, st.floats(0.1, 1.0))
def test_above_the_threshold_are_the_centres_of_the_segments(weights, threshold):
    windows = np.array(weights, float) / np.sum(weights, axis=1, keepdims=True)
    times = np.arange(len(windows)) * 0.7 + 3
    got = merge_segments(windows, times, classes="abc", threshold=threshold)
    for time_s, row in zip(times, windows, strict=True):
        inside = {s.label for s in got if s.start_s <= time_s <= s.end_s}
        assert inside == {name for name, p in zip("abc", row, strict=True) if p >= threshold}


def test_reversed_time_gives_the_same_segments_reversed():
    windows = np.random.default_rng(2).dirichlet(np.ones(4), 50)
    times = np.arange(50.0)
    there = merge_segments(windows, times, classes="abcd", shortest_s=1.2)
    back = merge_segments(windows[::-1], times, classes="abcd", shortest_s=1.2)
    ends = [(s.label, s.start_s, s.end_s) for s in there]
    turned = [(s.label, 49 - s.end_s, 49 - s.start_s) for s in back[::-1]]
    assert [row[0] for row in ends] == [row[0] for row in turned]
    assert np.array([row[1:] for row in ends]) == pytest.approx(np.array([r[1:] for r in turned]))


def test_smoothing_is_a_moving_mean():
    windows = np.random.default_rng(3).dirichlet(np.ones(3), 20)
    got = smooth_windows(windows, 5)
    for row in range(20):
        assert got[row] == pytest.approx(windows[max(0, row - 2) : row + 3].mean(axis=0))
    assert smooth_windows(windows, 1) == pytest.approx(windows)


WINDOWS = np.full((3, 2), 0.5)
SEGMENT = Segment(0, 1, "a")


@pytest.mark.parametrize(
    ("code", "call"),
    [
        ("bad-segment", lambda: Segment(1, 1, "a")),
        ("bad-segment", lambda: Segment(0, float("nan"), "a")),
        ("bad-segment", lambda: Segment(0, 1, "a", float("nan"))),
        ("bad-smoothing", lambda: smooth_windows(WINDOWS, 2)),
        ("bad-windows", lambda: merge_segments(WINDOWS, [0, 1], classes="ab")),
        ("bad-windows", lambda: merge_segments(WINDOWS, [0, 1, 2], classes="abc")),
        ("bad-windows", lambda: merge_segments(WINDOWS, [0, 2, 1], classes="ab")),
        ("bad-windows", lambda: merge_segments(WINDOWS * 9, [0, 1, 2], classes="ab")),
        ("bad-windows", lambda: merge_segments(WINDOWS * np.nan, [0, 1, 2], classes="ab")),
        ("bad-windows", lambda: merge_segments(np.zeros((0, 2)), [], classes="ab")),
        ("bad-span", lambda: merge_segments(WINDOWS, [0, 1, 2], classes="ab", span_s=(1, 9))),
        ("bad-threshold", lambda: match_segments({}, {}, threshold=0)),
        ("video-without-truth", lambda: match_segments({"v": []}, {}, threshold=0.5)),
        ("bad-localisation", lambda: score_localisation({}, {}, classes="a")),
        ("bad-localisation", lambda: score_localisation({}, {"v": []}, classes="a", subjects={})),
        ("bad-localisation", lambda: score_localisation({}, {"v": []}, classes="a", thresholds=[])),
        ("bad-classes", lambda: score_localisation({}, {"v": [SEGMENT]}, classes="b")),
        ("bad-classes", lambda: score_localisation({}, {"v": [SEGMENT]}, classes=["a", "all"])),
    ],
)
def test_what_makes_no_sense_is_refused(code, call):
    with pytest.raises(ConfigError) as caught:
        call()
    assert caught.value.code == code
