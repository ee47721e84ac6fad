from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from volumetric.errors import GeometryError
from volumetric.instances import measure_instances, split_components
from volumetric.volume import Volume

SPACING = (2.5, 0.7, 0.9)


def _affine(spacing: tuple[float, float, float] = SPACING) -> np.ndarray:
    """Canonical: D superior, H anterior, W right."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, spacing[2]], [0, spacing[1], 0], [spacing[0], 0, 0]])
    affine[:3, 3] = (-40.0, 25.0, 7.0)
    return affine


def _volume(mask: np.ndarray, affine: np.ndarray | None = None) -> Volume:
    data = torch.from_numpy(mask.astype(np.int32))[None]
    return Volume(data, _affine() if affine is None else affine)


def _ellipsoid(radii_mm: tuple[float, float, float], spacing: tuple[float, ...]) -> np.ndarray:
    sides = [2 * int(radius / step) + 5 for radius, step in zip(radii_mm, spacing, strict=True)]
    grid = np.meshgrid(*[np.arange(n) - n // 2 for n in sides], indexing="ij")
    parts = zip(grid, spacing, radii_mm, strict=True)
    return sum((g * step / radius) ** 2 for g, step, radius in parts) <= 1


def _blob(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(7, 24, 26))
    smooth = ndimage.gaussian_filter(noise, (1, 2.5, 2.5))
    return smooth > np.quantile(smooth, 0.85)


def test_an_ellipsoid_has_its_diameters_and_volume() -> None:
    radii, spacing = (12.0, 9.0, 15.0), (1.0, 0.5, 0.5)
    (found,) = measure_instances(_volume(_ellipsoid(radii, spacing), _affine(spacing)))
    assert found.longest_mm == pytest.approx(2 * radii[2], abs=0.5)
    assert found.perpendicular_mm == pytest.approx(2 * radii[1], abs=0.5)
    assert found.volume_mm3 == pytest.approx(4 / 3 * np.pi * np.prod(radii), rel=0.01)
    assert found.slice_index == (2 * 12 + 5) // 2


def test_one_voxel_measures_its_longer_side() -> None:
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 2] = True
    (found,) = measure_instances(_volume(mask))
    assert found.longest_mm == pytest.approx(0.9)
    assert found.perpendicular_mm == pytest.approx(0.7)
    corner = _affine() @ (0.5, 0.5, 1.5, 1)
    np.testing.assert_allclose(found.box_mm[:3], corner[:3])
    np.testing.assert_allclose(found.box_mm[3:], corner[:3] + np.array([0.9, 0.7, 2.5]))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_diameters_are_those_of_all_pairs(seed: int) -> None:
    """Of every pair of places where a slice's pixels meet others, and every chord across."""
    instances = split_components(_volume(_blob(seed)))
    for found in measure_instances(instances)[:3]:
        longest = across = 0.0
        for plane in instances.data[0].numpy() == found.number:
            pixels = np.argwhere(plane)
            if not len(pixels):
                continue
            shifts = np.array([[-0.5, 0], [0.5, 0], [0, -0.5], [0, 0.5]])
            points = (pixels[:, None] + shifts).reshape(-1, 2) * SPACING[1:]
            lengths = np.linalg.norm(points[:, None] - points[None], axis=2)
            longest = max(longest, lengths.max())
            one, other = np.unravel_index(lengths.argmax(), lengths.shape)
            along = (points[one] - points[other]) / lengths.max()
            if lengths.max() == pytest.approx(found.longest_mm):
                side = points @ np.array([-along[1], along[0]])
                across = max(across, float(np.ptp(side)))
        assert found.longest_mm == pytest.approx(longest)
        assert 0 < found.perpendicular_mm <= across + 1e-9
        assert found.perpendicular_mm <= found.longest_mm + 1e-9


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_volume_place_and_box_are_simpleitks(seed: int) -> None:
    instances = split_components(_volume(_blob(seed)))
    image = sitk.GetImageFromArray(instances.data[0].numpy())
    image.SetSpacing(SPACING[::-1])
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(image)
    found = measure_instances(instances)
    assert [one.number for one in found] == list(statistics.GetLabels())
    origin = instances.affine[:3, 3]
    for one in found:
        assert one.n_voxels == statistics.GetNumberOfPixels(one.number)
        assert one.volume_mm3 == pytest.approx(statistics.GetPhysicalSize(one.number))
        place = np.array(one.centre_mm) - origin
        np.testing.assert_allclose(place, statistics.GetCentroid(one.number), atol=1e-9)
        x, y, z, *sides = statistics.GetBoundingBox(one.number)
        low = (np.array([x, y, z]) - 0.5) * SPACING[::-1] + origin
        high = low + np.array(sides) * SPACING[::-1]
        np.testing.assert_allclose(one.box_mm, [*low, *high])


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    order=st.permutations([0, 1, 2]),
    flips=st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_the_order_of_axes_changes_nothing(seed: int, order: list[int], flips: list[bool]) -> None:
    """A scan stored sagittally or upside down is the same scan."""
    mask, affine = _blob(seed), _affine()
    turned = mask.transpose(order)
    moved = affine.copy()
    moved[:3, :3] = affine[:3, order]
    for axis, flip in enumerate(flips):
        if flip:
            moved[:3, 3] += moved[:3, axis] * (turned.shape[axis] - 1)
            moved[:3, axis] *= -1
            turned = np.flip(turned, axis)
    ours = measure_instances(split_components(_volume(mask)))
    theirs = measure_instances(split_components(_volume(turned.copy(), moved)))
    key = lambda one: (-one.n_voxels, *np.round(one.centre_mm, 6))  # noqa: E731
    for one, other in zip(sorted(ours, key=key), sorted(theirs, key=key), strict=True):
        assert other.n_voxels == one.n_voxels
        np.testing.assert_allclose(other.centre_mm, one.centre_mm, atol=1e-9)
        np.testing.assert_allclose(other.box_mm, one.box_mm, atol=1e-9)
        assert other.longest_mm == pytest.approx(one.longest_mm)


def test_components_are_numbered_by_size() -> None:
    mask = np.zeros((4, 10, 10), np.int64)
    mask[0, 0, 0] = 1
    mask[1, 1, 1] = 1  # touches it at a corner
    mask[2:4, 5:9, 5:9] = 1
    mask[0, 9, 9] = 2
    found = split_components(_volume(mask))
    assert [one.n_voxels for one in measure_instances(found)] == [32, 2]
    assert found.data[0, 0, 0, 0] == found.data[0, 1, 1, 1] == 2
    assert found.data[0, 0, 9, 9] == 0


def test_bad_input_is_refused() -> None:
    data = torch.zeros(2, 3, 3, 3, dtype=torch.int32)
    with pytest.raises(GeometryError, match="bad-channels"):
        split_components(Volume(data, _affine()))
    with pytest.raises(GeometryError, match="no-scan"):
        measure_instances(Volume(data[:1], np.eye(4), "clip"))
    assert measure_instances(_volume(np.zeros((3, 3, 3)))) == []
