"""Masks scored as SimpleITK, MONAI and pencil and paper score them."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import distance_transform_edt, gaussian_filter

from volumetric.errors import ConfigError, GeometryError, LabelError, VolumetricError
from volumetric.metrics import CaseScores, score_masks

AVERAGED = ("dice", "iou", "hd95_mm", "assd_mm", "nsd")
VOLUMES = ("volume_truth_ml", "volume_prediction_ml", "volume_difference_ml")
SPACING = (2.5, 0.7, 1.1)
SEEDS = range(32)


def score(prediction, truth, *, spacing_mm=SPACING, tolerance_mm=1.0) -> dict[str, float | None]:
    """The scores of one organ, label 1."""
    scores = score_masks(
        torch.from_numpy(np.ascontiguousarray(prediction)).to(torch.uint8),
        torch.from_numpy(np.ascontiguousarray(truth)).to(torch.uint8),
        spacing_mm=spacing_mm,
        classes={1: "organ"},
        tolerance_mm=tolerance_mm,
    ).scores
    return {metric: column["organ"] for metric, column in scores.items()}


def random_blobs(seed: int):
    """Two masks alike but not equal, often cut by the border, and an anisotropic spacing."""
    generator = np.random.default_rng(seed)
    shape = tuple(generator.integers(6, 28, 3))
    field = gaussian_filter(generator.normal(size=shape), 2)
    other = field + 0.6 * gaussian_filter(generator.normal(size=shape), 2)
    level = np.quantile(field, generator.uniform(0.3, 0.95))
    spacing = tuple(float(size) for size in generator.uniform(0.4, 5, 3))
    prediction, truth = other > level, field > level
    assert prediction.any()
    assert truth.any()
    return prediction, truth, spacing


def ball(shape, centre, radius_mm, spacing):
    axes = np.ogrid[tuple(slice(0, size) for size in shape)]
    squares = [
        ((axis - at) * size) ** 2 for axis, at, size in zip(axes, centre, spacing, strict=True)
    ]
    return sum(squares) <= radius_mm**2


def as_image(mask, spacing):
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing[::-1])
    return image


@pytest.mark.parametrize("seed", SEEDS)
def test_overlap_and_volumes_equal_simpleitk(seed):
    prediction, truth, spacing = random_blobs(seed)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(as_image(truth, spacing), as_image(prediction, spacing))
    shape = sitk.LabelShapeStatisticsImageFilter()
    got = score(prediction, truth, spacing_mm=spacing)
    assert got["dice"] == pytest.approx(overlap.GetDiceCoefficient(1), rel=1e-12)
    assert got["iou"] == pytest.approx(overlap.GetJaccardCoefficient(1), rel=1e-12)
    for name, mask in (("truth", truth), ("prediction", prediction)):
        shape.Execute(as_image(mask, spacing))
        assert got[f"volume_{name}_ml"] == pytest.approx(shape.GetPhysicalSize(1) / 1000)
    assert got["volume_difference_ml"] == pytest.approx(
        got["volume_prediction_ml"] - got["volume_truth_ml"], abs=1e-9
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_surface_distances_equal_simpleitk_contours_and_a_distance_transform(seed):
    prediction, truth, spacing = random_blobs(seed)
    contours = [
        # Padded, for a contour where the border cuts the mask.
        sitk.GetArrayFromImage(sitk.LabelContour(as_image(np.pad(mask, 1), spacing))) > 0
        for mask in (prediction, truth)
    ]
    to_truth, to_prediction = (
        distance_transform_edt(~other, sampling=spacing)[one]
        for one, other in itertools.permutations(contours)
    )
    pooled = np.concatenate([to_truth, to_prediction])
    got = score(prediction, truth, spacing_mm=spacing, tolerance_mm=1.2345)
    assert got["hd95_mm"] == pytest.approx(
        max(np.percentile(to_truth, 95), np.percentile(to_prediction, 95)), rel=1e-9
    )
    assert got["assd_mm"] == pytest.approx(pooled.mean(), rel=1e-9)
    assert got["nsd"] == pytest.approx((pooled <= 1.2345).mean(), rel=1e-12)


@pytest.mark.filterwarnings("ignore")  # MONAI's imports and deprecations are not ours to mend
def test_surface_distances_equal_monai():
    from monai.metrics import (
        compute_average_surface_distance,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    for seed in SEEDS:
        prediction, truth, spacing = random_blobs(seed)
        masks = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, truth)]
        shared = {"include_background": True, "spacing": spacing}
        got = score(prediction, truth, spacing_mm=spacing, tolerance_mm=1.2345)
        hd95 = compute_hausdorff_distance(*masks, percentile=95, **shared)
        assd = compute_average_surface_distance(*masks, symmetric=True, **shared)
        nsd = compute_surface_dice(*masks, class_thresholds=[1.2345], **shared)
        assert got["hd95_mm"] == pytest.approx(hd95.item(), rel=1e-5), seed
        assert got["assd_mm"] == pytest.approx(assd.item(), rel=1e-5), seed
        assert got["nsd"] == pytest.approx(nsd.item(), rel=1e-5), seed


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shift", [1, 3])
def test_plates_lie_apart_by_whole_voxels(axis, shift):
    first, second = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    np.moveaxis(first, axis, 0)[2] = True
    np.moveaxis(second, axis, 0)[2 + shift] = True
    apart = shift * SPACING[axis]
    got = score(first, second, tolerance_mm=apart)
    assert got["hd95_mm"] == pytest.approx(apart, rel=1e-12)
    assert got["assd_mm"] == pytest.approx(apart, rel=1e-12)
    assert got["nsd"] == 1
    assert got["dice"] == got["iou"] == 0
    assert score(first, second, tolerance_mm=0.99 * apart)["nsd"] == 0


def test_box_moved_by_one_voxel():
    # Of 10^3 - 8^3 = 488 boundary voxels, 9 rings of 36 lie on both boxes; the rest moved 0.7 mm.
    truth, prediction = np.zeros((14, 14, 14), bool), np.zeros((14, 14, 14), bool)
    truth[1:11, 2:12, 2:12] = True
    prediction[2:12, 2:12, 2:12] = True
    got = score(prediction, truth, spacing_mm=(0.7, 2.0, 3.0), tolerance_mm=0.5)
    assert got == pytest.approx(
        {
            "dice": 0.9,
            "iou": 9 / 11,
            "hd95_mm": 0.7,
            "assd_mm": 0.7 * 164 / 488,
            "nsd": 324 / 488,
            "volume_truth_ml": 4.2,
            "volume_prediction_ml": 4.2,
            "volume_difference_ml": 0.0,
        }
    )
    assert score(prediction, truth, spacing_mm=(0.7, 2.0, 3.0), tolerance_mm=0.7)["nsd"] == 1


def test_a_mask_that_fills_the_volume_has_its_boundary_on_the_border():
    truth = np.zeros((3, 3, 3), bool)
    truth[1, 1, 1] = True
    got = score(np.ones((3, 3, 3), bool), truth, spacing_mm=(1.0, 1.0, 1.0))
    distances = [1.0] * 6 + [math.sqrt(2)] * 12 + [math.sqrt(3)] * 8 + [1.0]
    assert got["assd_mm"] == pytest.approx(sum(distances) / 27)
    assert got["hd95_mm"] == pytest.approx(math.sqrt(3))
    assert got["nsd"] == pytest.approx(7 / 27)


def test_concentric_spheres_in_mm():
    spacing = (1.0, 0.5, 0.8)
    shape, centre = (61, 121, 76), (30, 60, 37.5)
    truth, prediction = ball(shape, centre, 25, spacing), ball(shape, centre, 20, spacing)
    got = score(prediction, truth, spacing_mm=spacing, tolerance_mm=6.5)
    assert got["volume_truth_ml"] == pytest.approx(4 / 3 * math.pi * 2.5**3, rel=0.01)
    assert got["volume_prediction_ml"] == pytest.approx(4 / 3 * math.pi * 2**3, rel=0.01)
    assert got["dice"] == pytest.approx(2 * 20**3 / (20**3 + 25**3), rel=0.01)
    assert got["iou"] == pytest.approx(20**3 / 25**3, rel=0.01)
    assert got["assd_mm"] == pytest.approx(5, abs=0.2)
    assert got["hd95_mm"] == pytest.approx(5, abs=1)
    assert got["nsd"] == 1
    assert score(prediction, truth, spacing_mm=spacing, tolerance_mm=3.5)["nsd"] == 0


@pytest.mark.parametrize(("spacing", "nsd"), [(1.0, 1.0), (1.0000002, 1.0), (1.001, 0.0)])
def test_a_tolerance_of_one_voxel_survives_the_rounding_of_a_header(spacing, nsd):
    first, second = np.zeros((5, 4, 4), bool), np.zeros((5, 4, 4), bool)
    first[1], second[2] = True, True
    assert score(first, second, spacing_mm=(spacing, 2.0, 2.0), tolerance_mm=1.0)["nsd"] == nsd


@pytest.mark.parametrize(
    ("in_prediction", "in_truth", "reason"),
    [
        (False, False, "absent from truth and prediction"),
        (True, False, "absent from truth"),
        (False, True, "absent from prediction"),
    ],
)
def test_an_empty_mask_gives_no_distance(in_prediction, in_truth, reason):
    mask = torch.zeros((4, 5, 6), dtype=torch.int16)
    mask[1:3, 1:3, 1:3] = 1
    got = score_masks(
        mask * in_prediction, mask * in_truth, spacing_mm=(1.0, 1.0, 1.0), classes={1: "organ"}
    )
    nulls = AVERAGED if not in_prediction and not in_truth else ("hd95_mm", "assd_mm")
    assert tuple(got.reasons) == nulls
    for metric in AVERAGED:
        expected = None if metric in nulls else 0.0
        assert got.scores[metric] == {"organ": expected, "mean": expected}
    for metric in nulls:
        assert got.reasons[metric] == {"organ": reason, "mean": "no class has a value"}
    assert got.scores["volume_truth_ml"] == {"organ": 0.008 * in_truth}
    assert got.scores["volume_prediction_ml"] == {"organ": 0.008 * in_prediction}
    assert got.scores["volume_difference_ml"] == {
        "organ": pytest.approx(0.008 * (in_prediction - in_truth))
    }


def test_each_class_is_scored_alone_and_other_labels_are_ignored():
    generator = np.random.default_rng(5)
    fields = gaussian_filter(generator.normal(size=(4, 12, 20, 16)), (0, 2, 2, 2))
    truth = fields.argmax(axis=0).astype(np.int32)
    prediction = (fields + 0.05 * generator.normal(size=fields.shape)).argmax(axis=0)
    classes = {2: "spleen", 70_000: "stone", 1: "liver", 9: "absent"}
    relabel = np.array([0, 1, 2, 70_000], np.int32)
    truth, prediction = relabel[truth], relabel[prediction]
    prediction[0, 0, :4] = [-1, 255, 2**31 - 1, 3]
    got = score_masks(
        torch.from_numpy(prediction), torch.from_numpy(truth), spacing_mm=SPACING, classes=classes
    )
    for label, name in classes.items():
        alone = score(prediction == label, truth == label)
        assert {metric: column[name] for metric, column in got.scores.items()} == alone
    for metric in AVERAGED:
        column = got.scores[metric]
        assert list(column) == ["spleen", "stone", "liver", "absent", "mean"]
        assert column["absent"] is None
        assert column["mean"] == pytest.approx(
            (column["spleen"] + column["stone"] + column["liver"]) / 3
        )
        assert got.reasons[metric] == {"absent": "absent from truth and prediction"}
    for metric in VOLUMES:
        assert list(got.scores[metric]) == list(classes.values())
        assert metric not in got.reasons


def test_the_background_is_scored_when_listed():
    truth, prediction = np.zeros((8, 9, 10), bool), np.zeros((8, 9, 10), bool)
    truth[2:5, 3:6, 3:6] = True
    prediction[3:6, 3:6, 3:7] = True
    got = score_masks(
        torch.from_numpy(prediction),
        torch.from_numpy(truth),
        spacing_mm=SPACING,
        classes={0: "background", 1: "organ"},
    )
    column = {metric: column["background"] for metric, column in got.scores.items()}
    assert column == score(~prediction, ~truth)


def test_one_stray_voxel_costs_no_distance_transform_of_the_whole_scan():
    shape = (60, 256, 256)
    truth = torch.from_numpy(ball(shape, (30, 90, 90), 20, (1, 1, 1))).to(torch.uint8)
    prediction = truth.roll(1, 2)
    prediction[0, 0, 0] = prediction[-1, -1, -1] = 1
    tracemalloc.start()
    got = score_masks(prediction, truth, spacing_mm=(1.0, 1.0, 1.0), classes={1: "organ"})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert got.scores["nsd"]["organ"] > 0.99
    assert peak < 10 * math.prod(shape)  # bytes a voxel; a float64 transform takes 50


def test_inputs_are_left_alone():
    prediction, truth, _ = random_blobs(7)
    tensors = torch.from_numpy(prediction), torch.from_numpy(truth)
    before = [tensor.clone() for tensor in tensors]
    score_masks(*tensors, spacing_mm=SPACING, classes={1: "organ"})
    assert all(map(torch.equal, tensors, before))


MASK = torch.ones((3, 4, 5), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("kind", "code", "changed"),
    [
        (GeometryError, "grids-differ", {"prediction": MASK[:2]}),
        (GeometryError, "grids-differ", {"prediction": MASK[None], "truth": MASK[None]}),
        (GeometryError, "bad-spacing", {"spacing_mm": (1.0, 0.0, 1.0)}),
        (GeometryError, "bad-spacing", {"spacing_mm": (1.0, math.nan, 1.0)}),
        (GeometryError, "bad-spacing", {"spacing_mm": (1.0, 1.0)}),
        (LabelError, "not-integers", {"prediction": MASK.float()}),
        (ConfigError, "bad-classes", {"classes": {}}),
        (ConfigError, "bad-classes", {"classes": {1: "liver", 2: "liver"}}),
        (ConfigError, "bad-classes", {"classes": {1: "mean"}}),
        (ConfigError, "bad-tolerance", {"tolerance_mm": -1.0}),
        (ConfigError, "bad-tolerance", {"tolerance_mm": math.nan}),
    ],
)
def test_what_cannot_be_scored_is_refused(kind, code, changed):
    arguments = {
        "prediction": MASK,
        "truth": MASK,
        "spacing_mm": SPACING,
        "classes": {1: "organ"},
    } | changed
    with pytest.raises(VolumetricError) as caught:
        score_masks(arguments.pop("prediction"), arguments.pop("truth"), **arguments)
    assert type(caught.value) is kind
    assert caught.value.code == code


@st.composite
def mask_pairs(draw):
    shape = draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=6))
    return draw(hnp.arrays(bool, shape)), draw(hnp.arrays(bool, shape))


spacings = st.tuples(*[st.floats(0.25, 8)] * 3)
property_settings = settings(max_examples=60, deadline=None)


def assert_alike(got, expected):
    for metric, value in expected.items():
        if value is None:
            assert got[metric] is None, metric
        else:
            assert got[metric] == pytest.approx(value, rel=1e-9, abs=1e-12), metric


@property_settings
@given(mask_pairs(), spacings)
def test_scores_are_in_range_and_reasons_stand_beside_nulls(masks, spacing):
    prediction, truth = map(torch.from_numpy, masks)
    result = score_masks(prediction, truth, spacing_mm=spacing, classes={1: "organ"})
    assert isinstance(result, CaseScores)
    got = {metric: column["organ"] for metric, column in result.scores.items()}
    assert tuple(got) == (*AVERAGED, *VOLUMES)
    if got["dice"] is not None:
        assert 0 <= got["iou"] <= got["dice"] <= 1
        assert got["dice"] == pytest.approx(2 * got["iou"] / (1 + got["iou"]))
        assert 0 <= got["nsd"] <= 1
    nulls = {(m, c) for m, column in result.scores.items() for c, v in column.items() if v is None}
    assert nulls == {(m, c) for m, column in result.reasons.items() for c in column}


@property_settings
@given(mask_pairs(), spacings)
def test_prediction_and_truth_can_change_places(masks, spacing):
    first, second = masks
    one, other = (score(*pair, spacing_mm=spacing) for pair in ((first, second), (second, first)))
    assert_alike(
        {metric: one[metric] for metric in AVERAGED}, {metric: other[metric] for metric in AVERAGED}
    )
    assert one["volume_difference_ml"] == pytest.approx(-other["volume_difference_ml"])


@property_settings
@given(mask_pairs(), spacings)
def test_a_mask_agrees_with_itself(masks, spacing):
    mask = masks[0]
    got = score(mask, mask, spacing_mm=spacing, tolerance_mm=0.0)
    expected = (1, 1, 0, 0, 1) if mask.any() else (None,) * 5
    assert tuple(got[metric] for metric in AVERAGED) == expected
    assert got["volume_difference_ml"] == 0


@property_settings
@given(
    mask_pairs(),
    spacings,
    st.permutations(range(3)),
    st.sets(st.sampled_from(range(3))),
    st.tuples(*[st.integers(0, 2)] * 6),
)
def test_axes_directions_and_margins_do_not_matter(masks, spacing, order, flipped, margin):
    moved = [
        np.pad(
            np.flip(mask, tuple(flipped)).transpose(order),
            (margin[0:2], margin[2:4], margin[4:6]),
        )
        for mask in masks
    ]
    got = score(*moved, spacing_mm=tuple(spacing[axis] for axis in order))
    assert_alike(got, score(*masks, spacing_mm=spacing))


@property_settings
@given(mask_pairs(), spacings, st.floats(0.1, 10))
def test_distances_grow_with_the_voxels_and_volumes_with_their_cube(masks, spacing, factor):
    expected = score(*masks, spacing_mm=spacing, tolerance_mm=1.5)
    powers = {"hd95_mm": 1, "assd_mm": 1} | dict.fromkeys(VOLUMES, 3)
    expected = {
        metric: value if value is None else value * factor ** powers.get(metric, 0)
        for metric, value in expected.items()
    }
    scaled = tuple(size * factor for size in spacing)
    assert_alike(score(*masks, spacing_mm=scaled, tolerance_mm=1.5 * factor), expected)


@property_settings
@given(mask_pairs(), st.tuples(st.floats(0, 5), st.floats(0, 5)))
def test_more_tolerance_never_lowers_nsd(masks, tolerances):
    low, high = (score(*masks, tolerance_mm=value)["nsd"] for value in sorted(tolerances))
    assert low is None or low <= high
