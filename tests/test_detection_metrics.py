from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.apps.detection.metrics.coco import COCOMetric
from monai.apps.detection.metrics.matching import matching_batch
from monai.metrics.froc import compute_froc_curve_data, compute_froc_score

from volumetric.boxes import Objects, overlap_boxes
from volumetric.errors import ConfigError, GeometryError
from volumetric.metrics.detection import (
    FALSE_POSITIVES,
    MOST,
    OVERLAPS,
    average_precision,
    match_boxes,
    score_detection,
    trace_froc,
    trace_precision,
)
from volumetric.metrics.resampling import Resampling

CLASSES = ("nodule", "cyst")
FEW = Resampling(n_resamples=20)


def _objects(rng: np.random.Generator, n: int, *, n_axes: int, has_scores: bool) -> Objects:
    low = rng.uniform(0, 20, (n, n_axes))
    boxes = np.concatenate([low, low + rng.uniform(4, 12, (n, n_axes))], axis=1)
    scores = rng.permutation(n) / n + rng.uniform(0, 1 / (2 * max(n, 1)), n) if has_scores else None
    return Objects(boxes, rng.integers(0, len(CLASSES), n), scores)


def _near(rng: np.random.Generator, truth: Objects) -> Objects:
    """Boxes beside the true ones, some missing, some made up."""
    kept = rng.random(len(truth.boxes)) < 0.8
    boxes = truth.boxes[kept] + rng.normal(0, 1.0, truth.boxes[kept].shape)
    extra = _objects(
        rng, int(rng.integers(0, 6)), n_axes=truth.boxes.shape[1] // 2, has_scores=True
    )
    boxes = np.concatenate([boxes, extra.boxes])
    labels = np.concatenate([truth.labels[kept], extra.labels])
    return Objects(boxes, labels, rng.random(len(boxes)))


def _cohort(rng: np.random.Generator, n_cases: int, n_axes: int) -> tuple[list, list]:
    truth = [
        _objects(rng, int(rng.integers(0, 6)), n_axes=n_axes, has_scores=False)
        for _ in range(n_cases)
    ]
    return [_near(rng, one) for one in truth], truth


def _monai(found: list[Objects], truth: list[Objects]) -> dict[str, float]:
    metric = COCOMetric(
        classes=CLASSES, iou_list=OVERLAPS, iou_range=(0.1, 0.5, 0.4), max_detection=(MOST,)
    )
    # Theirs are in float32: whether 7 of 10 reach a recall of .7 is chance there.
    metric.recall_thresholds = metric.recall_thresholds - 1e-6
    matches = matching_batch(
        iou_fn=lambda one, other: overlap_boxes(one, other),
        iou_thresholds=metric.iou_thresholds,
        pred_boxes=[one.boxes for one in found],
        pred_classes=[one.labels for one in found],
        pred_scores=[one.scores for one in found],
        gt_boxes=[one.boxes for one in truth],
        gt_classes=[one.labels for one in truth],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return metric(matches)[0]


@pytest.mark.parametrize("n_axes", [2, 3])
def test_average_precision_and_recall_are_monais(n_axes: int) -> None:
    """On 5,000 cases each, 10 at a time."""
    rng = np.random.default_rng(n_axes)
    for _ in range(500):
        found, truth = _cohort(rng, 10, n_axes)
        ours = score_detection(found, truth, classes=CLASSES, resampling=Resampling(1))
        theirs = _monai(found, truth)
        for number, name in enumerate(CLASSES):
            if not any((one.labels == number).any() for one in truth):
                continue
            for overlap in OVERLAPS:
                ap = theirs[f"{name}_AP_IoU_{overlap:.2f}_MaxDet_{MOST}"]
                ar = theirs[f"{name}_AR_IoU_{overlap:.2f}_MaxDet_{MOST}"]
                assert ours[f"ap@{overlap:g}"][name].mean == pytest.approx(ap, abs=1e-9)
                assert ours[f"ar@{overlap:g}"][name].mean == pytest.approx(ar, abs=1e-6)  # float32


def test_froc_is_monais() -> None:
    """Of 10,000 cases, 10 at a time: their curve leaves the lowest score out, so it gets one."""
    rng = np.random.default_rng(0)
    for _ in range(1000):
        found, truth = _cohort(rng, 10, 3)
        right, wrong, n_objects = [], [-1.0], 0
        for one, there in zip(found, truth, strict=True):
            own, own_truth = one.of_class(0), there.of_class(0)
            order, given = match_boxes(own, own_truth, overlap=0.1)
            right += own.scores[order][given >= 0].tolist()
            wrong += own.scores[order][given < 0].tolist()
            n_objects += len(own_truth.boxes)
        if not n_objects:
            continue
        curve = compute_froc_curve_data(np.array(wrong), np.array(right), n_objects, len(truth))
        ours = score_detection(found, truth, classes=CLASSES, resampling=Resampling(1))
        expected = compute_froc_score(*curve, eval_thresholds=FALSE_POSITIVES)
        assert ours["froc"]["nodule"].mean == pytest.approx(expected, abs=1e-9)
        for point in FALSE_POSITIVES:
            expected = compute_froc_score(*curve, eval_thresholds=(point,))
            assert ours[f"froc@{point:g}"]["nodule"].mean == pytest.approx(expected, abs=1e-9)


def test_a_second_box_on_an_object_is_wrong() -> None:
    box = np.array([[0.0, 0, 0, 10, 10, 10]])
    truth = Objects(box, np.array([0]))
    found = Objects(np.repeat(box, 3, axis=0), np.zeros(3, np.int64), np.array([0.2, 0.9, 0.5]))
    order, given = match_boxes(found, truth, overlap=0.5)
    assert order.tolist() == [1, 2, 0]
    assert given.tolist() == [0, -1, -1]
    scores = score_detection([found], [truth], classes=("nodule",), resampling=FEW)
    assert scores["count_error"]["nodule"].mean == 1
    false, sensitivity = trace_froc([found], [truth], number=0)
    assert false.tolist() == [0, 0, 1, 2]
    assert sensitivity.tolist() == [0, 1, 1, 1]


def test_equal_scores_are_one_threshold() -> None:
    truth = Objects(np.array([[0.0, 0, 10, 10]]), np.array([0]))
    boxes = np.array([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    for order in ([0, 1], [1, 0]):
        found = Objects(boxes[order], np.zeros(2, np.int64), np.array([0.7, 0.7]))
        false, sensitivity = trace_froc([found], [truth], number=0)
        assert (false.tolist(), sensitivity.tolist()) == ([0, 1], [0, 1])


def test_a_case_without_objects_counts_its_false_positives() -> None:
    empty = Objects(np.zeros((0, 6)), np.zeros(0, np.int64))
    box = np.array([[0.0, 0, 0, 10, 10, 10]])
    there, found = Objects(box, np.array([0])), Objects(box, np.array([0]), np.array([0.4]))
    nothing = Objects(np.zeros((0, 6)), np.zeros(0, np.int64), np.zeros(0))
    sure = Objects(box, np.array([0]), np.array([0.8]))
    scores = score_detection(
        [found, sure], [there, empty], classes=("nodule",), resampling=FEW, subjects=["a", "b"]
    )
    # The false box comes first: half a false positive a case before the object is found.
    assert scores["froc@0.25"]["nodule"].mean == 0
    assert scores["froc@0.5"]["nodule"].mean == 1
    assert scores["ap@0.5"]["nodule"].mean == pytest.approx(0.5)
    none = score_detection([nothing], [empty], classes=("nodule",), resampling=FEW)
    assert none["froc"]["nodule"].mean is None
    assert none["froc"]["nodule"].reason == "the truth holds no such object"
    assert none["count_error"]["nodule"].mean == 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 10), n_axes=st.sampled_from([2, 3]))
def test_scores_do_not_depend_on_unit_or_order(seed: int, scale: float, n_axes: int) -> None:
    rng = np.random.default_rng(seed)
    found, truth = _cohort(rng, 5, n_axes)
    base = score_detection(found, truth, classes=CLASSES, resampling=FEW)

    def change(one: Objects) -> Objects:
        order = rng.permutation(len(one.boxes))
        scores = None if one.scores is None else one.scores[order]
        return Objects(one.boxes[order] * scale, one.labels[order], scores)

    other = score_detection(
        [change(one) for one in found],
        [change(one) for one in truth],
        classes=CLASSES,
        resampling=FEW,
    )
    for metric, values in base.items():
        for name, value in values.items():
            assert other[metric][name].mean == pytest.approx(value.mean, abs=1e-9), metric
            if value.ci_low is not None:
                assert value.ci_low <= value.mean <= value.ci_high


def test_intervals_are_of_subjects_drawn_again() -> None:
    """By hand: the same counts, drawn one resample after the other."""
    pairs = zip(*_cohort(np.random.default_rng(4), 40, 3), strict=True)
    some = [pair for pair in pairs if (pair[1].labels == 0).any()][:8]
    found, truth = zip(*some, strict=True)
    subjects = ["a", "a", "b", "c", "d", "e", "f", "f"]
    few = Resampling(n_resamples=50, seed=1)
    scores = score_detection(found, truth, classes=CLASSES, subjects=subjects, resampling=few)
    generator = np.random.default_rng(1)
    names = list(dict.fromkeys(subjects))
    values = []
    for _ in range(50):
        drawn = [names[n] for n in generator.integers(0, len(names), len(names))]
        rows = [row for name in drawn for row, own in enumerate(subjects) if own == name]
        again = score_detection(
            [found[row] for row in rows],
            [truth[row] for row in rows],
            classes=CLASSES,
            resampling=Resampling(1),
        )
        values.append(again["froc"]["nodule"].mean)
    assert min(values) <= scores["froc"]["nodule"].ci_low <= np.median(values)
    assert np.median(values) <= scores["froc"]["nodule"].ci_high <= max(values)


def test_bad_input_is_refused() -> None:
    box = np.array([[0.0, 0, 1, 1]])
    there = Objects(box, np.array([0]))
    with pytest.raises(ConfigError, match="scores"):
        score_detection([there], [there], classes=("a",))
    found = Objects(box, np.array([1]), np.array([0.5]))
    with pytest.raises(ConfigError, match="no-such-class"):
        score_detection([found], [there], classes=("a",))
    with pytest.raises(ConfigError, match="lengths-differ"):
        score_detection([], [there], classes=("a",))
    with pytest.raises(ConfigError, match="no-cases"):
        score_detection([], [], classes=("a",))
    with pytest.raises(GeometryError, match="2 labels"):
        Objects(box, np.array([0, 1]))


def test_average_precision_without_intervals_is_that_with() -> None:
    found, truth = _cohort(np.random.default_rng(5), 12, 3)
    scores = score_detection(found, truth, classes=CLASSES, resampling=FEW)
    for overlap in OVERLAPS:
        value = average_precision(found, truth, n_classes=2, overlap=overlap)
        assert value == pytest.approx(scores[f"ap@{overlap:g}"]["all"].mean)
    nothing = [one.take(np.array([], dtype=np.intp)) for one in truth]
    assert average_precision(found, nothing, n_classes=2, overlap=0.1) is None


def test_precision_and_recall_are_traced_box_by_box() -> None:
    truth = Objects(np.array([[0, 0, 4, 4], [10, 10, 14, 14.0]]), np.array([0, 0]))
    boxes = np.array([[0, 0, 4, 4], [20, 20, 24, 24], [10, 10, 14, 14.0]])
    found = Objects(boxes, np.array([0, 0, 0]), np.array([0.9, 0.8, 0.7]))
    recall, precision = trace_precision([found], [truth], number=0)
    np.testing.assert_allclose(recall, [0.5, 0.5, 1])
    np.testing.assert_allclose(precision, [1, 0.5, 2 / 3])


def test_boxes_on_nothing_are_counted_where_nothing_is() -> None:
    nothing = Objects(np.zeros((0, 4)), np.zeros(0, np.int64))
    found = Objects(
        np.array([[0, 0, 4, 4], [8, 8, 9, 9.0]]), np.array([0, 0]), np.array([0.9, 0.8])
    )
    scores = score_detection([found] * 3, [nothing] * 3, classes=["nodule"], resampling=FEW)
    assert scores["count_error"]["all"].mean == scores["count_error"]["nodule"].mean == 2
    assert scores["froc"]["all"].mean is None
