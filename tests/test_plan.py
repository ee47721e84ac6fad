from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from volumetric.errors import IntensityError, ManifestError
from volumetric.fingerprint import measure_case, sum_up
from volumetric.network_names import Segmenter
from volumetric.network_plan import NetworkWish, plan_network
from volumetric.plan import (
    choose_batch,
    choose_features,
    choose_intensity,
    choose_patch,
    choose_spacing,
)
from volumetric.preprocess import prepare
from volumetric.volume import About, Volume


def test_hippocampus_gets_nnunets_plan() -> None:
    """nnU-Net plans patch 40x56x40, batch 9, three poolings of all axes for this data set."""
    patch, strides, kernels = choose_patch((36, 50, 35), (1, 1, 1), budget_voxels=4_194_304)
    assert patch == (40, 56, 40)
    assert strides == [(1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)]
    assert set(kernels) == {(3, 3, 3)}
    assert choose_batch(patch, budget_voxels=4_194_304, total_voxels=260 * 63_000) == 9


def test_thick_slices_are_pooled_later_and_with_flat_kernels() -> None:
    patch, strides, kernels = choose_patch((20, 320, 260), (8, 1, 1), budget_voxels=2_000_000)
    assert strides[1] == (1, 2, 2)
    assert kernels[0] == (1, 3, 3)
    assert kernels[-1] == (3, 3, 3)
    assert np.prod([s[0] for s in strides]) < np.prod([s[1] for s in strides])
    assert patch[0] <= 24


@given(
    st.tuples(*[st.integers(4, 600)] * 3),
    st.tuples(*[st.floats(0.4, 8.0)] * 3),
    st.integers(20_000, 4_000_000),
)
def test_a_patch_always_fits(
    shape: tuple[int, ...], spacing: tuple[float, ...], budget: int
) -> None:
    patch, strides, kernels = choose_patch(shape, spacing, budget_voxels=budget)
    divisor = np.prod(strides, axis=0)
    assert (np.array(patch) % divisor == 0).all()
    assert len(strides) == len(kernels) >= 2
    assert np.prod(patch) <= budget / 2 or (np.array(patch) == divisor).all()
    assert (np.array(patch) < np.maximum(shape, 4) + divisor).all()


_DIVISORS = {"segresnet": 2, "swin_unetr": 32, "unetr": 16, "slice_unet": 1}


@given(
    st.sampled_from(get_args(Segmenter)),
    st.tuples(*[st.integers(4, 600)] * 3),
    st.tuples(*[st.floats(0.4, 8.0)] * 3),
    st.integers(20_000, 4_000_000),
)
def test_every_network_gets_a_patch_it_takes(
    kind: Segmenter, shape: tuple[int, ...], spacing: tuple[float, float, float], budget: int
) -> None:
    """Within the budget, or the least there is; and what is chosen may as well be set."""
    wish = NetworkWish(kind, 24, 384)
    found = plan_network(wish, shape, spacing, budget_voxels=budget)
    patch = np.array(found.patch_size)
    divisor = np.full(3, _DIVISORS.get(kind, 1))
    if kind != "slice_unet":
        divisor = np.maximum(divisor, np.prod(found.strides, axis=0))
    assert (patch % divisor == 0).all()
    least = 2 * divisor.prod() if kind == "swin_unetr" else divisor.prod()
    assert patch.prod() <= max(budget / 2, least)
    if kind == "swin_unetr":
        assert patch.prod() > 32**3
    again = plan_network(wish, found.patch_size, spacing)
    assert again.patch_size == found.patch_size
    assert again.strides == found.strides or kind == "segresnet"


def test_slices_are_whole_and_few_of_a_case() -> None:
    wish = NetworkWish("slice_unet", 16, 256)
    found = plan_network(wish, (36, 50, 35), (1, 1, 1), budget_voxels=90_000)
    assert (found.patch_size, found.slice_axis) == ((6, 50, 35), 0)
    assert found.features == [16, 32, 64, 128, 256]
    coronal = plan_network(wish, (200, 20, 180), (1, 5, 1), budget_voxels=4_194_304)
    assert (coronal.patch_size, coronal.slice_axis) == ((200, 14, 180), 1)
    assert coronal.strides == [(2, 1, 2)] * 5
    assert plan_network(wish, (1, 37, 501), (1, 1, 1)).patch_size == (1, 37, 501)


def _fingerprint(spacings: list[tuple[float, ...]], modality: str = "MR") -> dict:
    facts = []
    for number, spacing in enumerate(spacings):
        data = torch.arange(240, dtype=torch.int16).reshape(1, 6, 5, 8)
        mask = (data > 200).to(torch.uint8)
        affine = np.diag([0, 0, 0, 1.0])
        affine[[2, 1, 0], [0, 1, 2]] = spacing
        image = Volume(data, affine)
        facts.append(measure_case(str(number), image, image.with_data(mask), classes={1: "a"}))
    return sum_up(facts, modality=modality, classes={1: "a"})


def test_fingerprint_holds_what_was_put_in() -> None:
    found = _fingerprint([(2.0, 1.0, 1.0), (2.0, 1.0, 1.0), (4.0, 1.0, 1.0)])
    assert found["n_cases"] == 3
    assert found["shape"]["median"] == [6, 5, 8]
    assert found["spacing_mm"] == {
        "median": [2, 1, 1],
        "min": [2, 1, 1],
        "max": [4, 1, 1],
        "percentile_10": [2, 1, 1],
    }
    foreground = np.arange(201, 240)
    assert found["intensity"]["mean"] == pytest.approx(foreground.mean())
    assert found["intensity"]["max"] == 239
    assert found["class_volume_ml"]["a"] == {
        "median": pytest.approx(39 * 2 / 1000),
        "min": pytest.approx(39 * 2 / 1000),
        "max": pytest.approx(39 * 4 / 1000),
        "n_cases": 3,
    }


def test_cases_without_a_mask_do_not_blur_the_foreground() -> None:
    data = torch.arange(240, dtype=torch.int16).reshape(1, 6, 5, 8)
    image = Volume(data, np.eye(4)[[2, 1, 0, 3]])
    mask = image.with_data((data > 200).to(torch.uint8))
    names = {1: "a"}
    facts = [measure_case("bare", image, None, classes=names)]
    everything = sum_up(facts, modality="CT", classes=names)
    facts.append(measure_case("full", image, mask, classes=names))
    both = sum_up(facts, modality="CT", classes=names)
    assert everything["intensity"]["min"] == 0
    assert both["intensity"]["min"] == 201
    assert both["class_volume_ml"]["a"]["n_cases"] == 1


def test_intensities_are_sampled_from_end_to_end() -> None:
    ramp = torch.arange(7_000, dtype=torch.float32).reshape(1, 70, 10, 10)
    image = Volume(ramp, np.eye(4)[[2, 1, 0, 3]])
    found = measure_case("ramp", image, None, classes={1: "a"}).intensities
    assert found.mean() == pytest.approx(ramp.mean().item(), rel=0.01)
    assert found.size <= 4_000


def test_masks_without_a_label_are_refused() -> None:
    image = Volume(torch.rand(1, 4, 4, 4), np.eye(4)[[2, 1, 0, 3]])
    empty = image.with_data(torch.zeros(1, 4, 4, 4, dtype=torch.uint8))
    facts = [measure_case("a", image, empty, classes={1: "a"})]
    with pytest.raises(ManifestError, match="no-foreground"):
        sum_up(facts, modality="CT", classes={1: "a"})


def test_spacing_is_the_median_unless_slices_are_thick() -> None:
    assert choose_spacing(_fingerprint([(2, 1, 1), (3, 1, 1), (2.5, 1, 1)]))[0] == (2.5, 1, 1)
    thick = [(float(s), 1.0, 1.0) for s in range(2, 13)]
    assert choose_spacing(_fingerprint(thick))[0] == (3.0, 1.0, 1.0)


def test_intensity_follows_the_modality() -> None:
    assert choose_intensity(_fingerprint([(1, 1, 1)]))[0] == {"kind": "zscore"}
    scheme, why = choose_intensity(_fingerprint([(1, 1, 1)], "CT"))
    assert scheme["kind"] == "window"
    assert 200 < scheme["low"] < scheme["mean"] < scheme["high"] < 240
    assert "CT" in why


def test_features_double_up_to_the_largest() -> None:
    assert choose_features(6, base=32, largest=320) == [32, 64, 128, 256, 320, 320]


def _pet(activity: float, factor: float | None) -> Volume:
    data = torch.full((1, 4, 5, 6), activity)
    data[0, 2:] *= 3
    return Volume(data, np.eye(4), about=About("PT", "Bq/ml", suv_factor=factor))


def test_pet_is_planned_in_suv_where_every_header_allows_it() -> None:
    scans = {_pet(1000, 0.001): 1.0, _pet(8000, 0.0005): 4.0}
    facts = [measure_case("a", scan, None, classes={1: "a"}) for scan in scans]
    for fact, lowest in zip(facts, scans.values(), strict=True):
        assert fact.intensities.min() == pytest.approx(lowest)
    found = sum_up(facts, modality="PET", classes={1: "a"})
    assert found["unit"] == "SUV"
    scheme, why = choose_intensity(found)
    assert (scheme["kind"], scheme["unit"]) == ("window", "SUV")
    assert "SUV" in why
    scaled = [
        prepare(scan, None, spacing=(1, 1, 1), intensity=scheme)[0].data.amin() for scan in scans
    ]
    assert scaled[0] < scaled[1]
    with pytest.raises(IntensityError, match="no-suv"):
        prepare(_pet(1000, None), None, spacing=(1, 1, 1), intensity=scheme)


def test_pet_of_which_one_has_no_suv_is_scaled_by_the_image() -> None:
    scans = [_pet(1000, 0.001), _pet(1000, None)]
    facts = [measure_case("a", scan, None, classes={1: "a"}) for scan in scans]
    found = sum_up(facts, modality="PET", classes={1: "a"})
    assert found["unit"] is None
    scheme, why = choose_intensity(found)
    assert scheme == {"kind": "zscore"}
    assert "SUV" in why


def test_an_axis_of_one_voxel_stays_one() -> None:
    for flat in range(3):
        shape, spacing = [128.0] * 3, [1.0] * 3
        shape[flat], spacing[flat] = 1, 0.5
        patch, strides, kernels = choose_patch(shape, spacing, budget_voxels=300_000)
        assert patch[flat] == 1
        assert sorted(patch)[1:] == [128, 128]
        assert {stride[flat] for stride in strides} == {1}
        assert {kernel[flat] for kernel in kernels} == {1}
        assert all(kernel.count(3) == 2 for kernel in kernels)


def test_how_thick_a_slice_is_says_nothing_of_its_plan() -> None:
    patch, strides, kernels = choose_patch([1, 90, 128], [0.5, 3, 1], budget_voxels=300_000)
    volume = choose_patch([1, 90, 128], [9, 3, 1], budget_voxels=300_000)
    assert (patch, strides, kernels) == volume
    assert strides[1] == (1, 1, 2)  # the fine axis first
    assert kernels[0] == (1, 1, 3)
    assert kernels[2] == (1, 3, 3)
    shape = {"max": [1, 128, 128]}
    spacing = {"median": [8.0, 1.0, 1.0], "percentile_10": [5.0, 1.0, 1.0]}
    assert choose_spacing({"shape": shape, "spacing_mm": spacing})[0] == (8, 1, 1)
