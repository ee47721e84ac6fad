from __future__ import annotations

import itertools
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from tests.strategies import SIGNED_ORDERS, affines, volumes, world
from volumetric.errors import IntensityError
from volumetric.intensity import fill_padding, measured, to_suv, window, zscore
from volumetric.preprocess import (
    crop,
    foreground_box,
    labels_on_grid,
    orient,
    prepare,
    resample,
    resample_like,
)
from volumetric.volume import About, Volume


def _places(volume: Volume) -> dict[int, np.ndarray]:
    """Where each distinct value lies, in mm."""
    index = np.argwhere(volume.data[0].numpy() > 0)
    values = volume.data[0].numpy()[tuple(index.T)]
    return dict(zip(values.tolist(), world(volume, index), strict=True))


@given(volumes())
def test_orient_keeps_every_voxel_in_its_place(volume: Volume) -> None:
    turned = orient(volume)
    assert turned.orientation == "SAR"
    before, after = _places(volume), _places(turned)
    assert before.keys() == after.keys()
    assert max(np.abs(before[value] - after[value]).max() for value in before) < 1e-3


@pytest.mark.parametrize(("order", "signs"), SIGNED_ORDERS)
def test_orient_agrees_with_nibabel(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (row, sign) in enumerate(zip(order, signs, strict=True)):
        affine[row, column] = sign * (1 + column)
    array = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    oracle = nib.as_closest_canonical(nib.Nifti1Image(array, affine))
    ours = orient(Volume(torch.from_numpy(array)[None], affine))
    assert np.array_equal(ours.data[0].numpy(), np.asarray(oracle.dataobj).transpose(2, 1, 0))
    assert np.allclose(ours.affine, oracle.affine[:, [2, 1, 0, 3]])


@given(volumes(), st.tuples(*[st.integers(-3, 5)] * 3), st.tuples(*[st.integers(1, 9)] * 3))
def test_crop_keeps_places_and_fills_with_zero(
    volume: Volume, start: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    cut = crop(volume, start, size)
    assert cut.shape == size
    before, after = _places(volume), _places(cut)
    assert all(np.abs(before[value] - after[value]).max() < 1e-3 for value in after)
    inside = np.prod(
        [
            max(0, min(a + n, m) - max(0, a))
            for a, n, m in zip(start, size, volume.shape, strict=True)
        ]
    )
    assert len(after) == inside


@given(affines(), st.tuples(*[st.floats(0.4, 4.0)] * 3))
def test_resample_keeps_a_linear_field_where_it_is(
    affine: np.ndarray, spacing: tuple[float, float, float]
) -> None:
    """A field linear in world coordinates is interpolated exactly away from the border."""
    shape = (16, 14, 15)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1).reshape(-1, 3)
    normal = np.array([0.3, -0.5, 0.2])
    field = (world(Volume(torch.zeros(1, 1, 1, 1), affine), index) - affine[:3, 3]) @ normal
    source = Volume(torch.from_numpy(field.reshape(1, *shape)), affine)
    moved = resample(source, spacing)
    assert moved.spacing == pytest.approx(spacing)
    at = np.stack(np.meshgrid(*(np.arange(n) for n in moved.shape), indexing="ij"), -1)
    at = at.reshape(-1, 3)
    expected = (world(moved, at) - affine[:3, 3]) @ normal
    # Kernels reach two old voxels, or two new ones where the grid becomes coarser.
    inverse = np.linalg.inv(affine)
    old = world(moved, at) @ inverse[:3, :3].T + inverse[:3, 3]
    reach = 2 * np.maximum(1, np.array(spacing) / source.spacing)
    inside = ((old >= reach) & (old <= np.array(shape) - 1 - reach)).all(1)
    found = moved.data[0].numpy().reshape(-1)
    scale = np.abs(field).max() + 1
    assert np.abs(found - expected)[inside].max(initial=0) < 2e-5 * scale


@given(st.tuples(*[st.integers(1, 40)] * 3), st.tuples(*[st.floats(0.3, 9.0)] * 3))
def test_a_label_everywhere_comes_back_everywhere(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    """No border voxel is lost on the way to the plan's grid and back."""
    affine = np.eye(4)[[2, 1, 0, 3]]
    image = Volume(torch.rand(1, *shape) + 1, affine)
    full = image.with_data(torch.ones(1, *shape, dtype=torch.uint8))
    moved = resample(full, spacing, labels=True)
    assert moved.data.min() == 1
    logits = torch.cat([torch.zeros(moved.data.shape), torch.ones(moved.data.shape)])
    assert labels_on_grid(Volume(logits, moved.affine), image).data.min() == 1


def test_resample_centres_the_field_of_view() -> None:
    source = Volume(torch.zeros(1, 10, 10, 10), np.diag([3.0, 1.0, 1.0, 1.0]))
    for spacing in ((1.0, 1.0, 1.0), (4.0, 2.0, 0.7)):
        moved = resample(source, spacing)
        middle = [(n - 1) / 2 for n in source.shape], [(n - 1) / 2 for n in moved.shape]
        assert np.allclose(world(source, np.array(middle[0])), world(moved, np.array(middle[1])))


def test_coarser_grids_do_not_alias() -> None:
    """A pattern finer than the new grid can hold turns grey instead of into stripes."""
    stripes = torch.tensor([0.0, 1.0]).repeat(32).reshape(1, 64, 1, 1).expand(1, 64, 4, 4)
    found = resample(Volume(stripes, np.eye(4)), (4.0, 1.0, 1.0)).data
    assert (found[:, 2:-2] - 0.5).abs().max() < 0.02


def turned(spacing: tuple[float, float, float], turn: float, shape: tuple[int, int, int]) -> Volume:
    """An empty grid about the origin, turned by so many radians about two axes."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec([turn, turn, 0]).as_matrix() * spacing
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return Volume(torch.zeros(1, *shape), affine)


@pytest.mark.parametrize("turn", [0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 0.1, 0.7])
@pytest.mark.parametrize(("spacing", "most"), [((4, 4, 4), 0.11), ((6, 1, 1), 0.45)])
def test_noise_on_a_coarser_grid_is_averaged_however_it_is_turned(
    turn: float, spacing: tuple[float, float, float], most: float
) -> None:
    grid = turned(spacing, turn, tuple(int(36 / step) for step in spacing))
    noise = torch.randn(1, 60, 60, 60, generator=torch.Generator().manual_seed(0))
    source = Volume(noise, turned((1, 1, 1), 0, (60, 60, 60)).affine)
    found = resample_like(source, grid).data
    assert 0.3 * most < found.std().item() < most


@settings(max_examples=25)
@given(affines(), st.tuples(*[st.floats(0.5, 4.0)] * 3), st.integers(0, 99))
def test_oblique_resampling_keeps_a_linear_field_and_what_is_outside(
    affine: np.ndarray, spacing: tuple[float, float, float], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shape, normal = (20, 17, 18), np.array([0.3, -0.5, 0.2])
    source = Volume(torch.ones(1, *shape), affine)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    field = (world(source, index.reshape(-1, 3)) @ normal).reshape(1, *shape)
    other = turned(spacing, 0.3, (9, 8, 7)).affine.copy()
    other[:3, :3] *= np.array(source.spacing).min()
    other[:3, 3] += world(source, rng.uniform(0, shape)) - other[:3, 3]
    grid = Volume(torch.zeros(1, 9, 8, 7), other)
    found = resample_like(replace(source, data=torch.from_numpy(field)), grid).data[0].numpy()
    ones = resample_like(source, grid).data[0].numpy()
    at = np.stack(np.meshgrid(*(np.arange(n) for n in (9, 8, 7)), indexing="ij"), -1)
    place = world(grid, at.reshape(-1, 3)).reshape(*at.shape)
    inverse = np.linalg.inv(affine)
    old = place @ inverse[:3, :3].T + inverse[:3, 3]
    ends = np.array(shape) - 0.5
    outside = ((old < -0.51) | (old > ends + 0.01)).any(-1)
    inside = ((old > -0.49) & (old < ends - 0.01)).all(-1)
    assert (found[outside] == 0).all()
    assert np.abs(ones[inside] - 1).max(initial=0) < 1e-4
    reach = 1 + 2.1 * np.abs(np.linalg.inv(affine)[:3, :3] @ other[:3, :3]).sum(1)
    well = ((old >= reach) & (old <= np.array(shape) - 1 - reach)).all(-1)
    scale = np.abs(field).max() + 1
    assert np.abs(found - place @ normal)[well].max(initial=0) < 1e-4 * scale


def test_a_far_larger_grid_costs_no_more_than_what_it_meets() -> None:
    source = Volume(torch.ones(1, 20, 20, 20), np.diag([0.1, 0.1, 0.1, 1]))
    found = resample_like(source, turned((1, 1, 1), 0.2, (150, 150, 150))).data
    assert found.shape == (1, 150, 150, 150)
    assert 1 <= (found > 0).sum() <= 27


def test_a_turn_that_moves_no_voxel_is_none() -> None:
    """Directions printed with seven digits differ by as much; the grids are still the same."""
    volume = Volume(torch.arange(4096, dtype=torch.int16).reshape(1, 16, 16, 16), np.eye(4))
    for turn, exact in [(1e-6, True), (1e-4, True), (5e-3, False)]:
        affine = np.eye(4)
        affine[:3, :3] = Rotation.from_rotvec([turn, 0, 0]).as_matrix()
        found = resample_like(volume, Volume(torch.zeros(1, 16, 16, 16), affine)).data
        assert torch.equal(found, volume.data) == exact
        assert (found.dtype == torch.int16) == exact


@given(volumes(oblique=False), st.tuples(*[st.floats(0.3, 3.0)] * 3), affines())
def test_labels_never_gain_a_value(
    volume: Volume, spacing: tuple[float, float, float], other: np.ndarray
) -> None:
    labels = Volume(volume.data % 5, volume.affine)
    known = set(labels.data.unique().tolist())
    assert set(resample(labels, spacing, labels=True).data.unique().tolist()) <= known
    grid = Volume(torch.zeros(1, 4, 5, 6), other)
    assert set(resample_like(labels, grid, labels=True).data.unique().tolist()) <= known | {0}


@given(volumes())
def test_resample_like_undoes_orient_and_crop_exactly(volume: Volume) -> None:
    moved = crop(orient(volume), (-1, -2, 0), tuple(n + 4 for n in orient(volume).shape))
    back = resample_like(moved, volume)
    assert torch.equal(back.data, volume.data)
    assert np.array_equal(back.affine, volume.affine)
    assert back.data.dtype == volume.data.dtype


@pytest.mark.parametrize("labels", [False, True])
def test_oblique_grids_agree_with_simpleitk(labels: bool) -> None:
    rng = np.random.default_rng(3)
    smooth = torch.nn.functional.interpolate(
        torch.from_numpy(rng.normal(size=(1, 1, 4, 4, 4))), size=(20, 18, 16), mode="trilinear"
    )[0]
    data = (smooth > 0).to(torch.uint8) if labels else smooth.to(torch.float32)
    angle = 0.4
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    source = Volume(data, affine @ np.diag([1.0, 1.2, 0.9, 1.0]))
    grid = Volume(torch.zeros(1, 17, 22, 19), np.diag([0.99, 0.8, 0.9, 1.0]))
    method = sitk.sitkNearestNeighbor if labels else sitk.sitkLinear
    oracle = sitk.Resample(
        _to_sitk(source), _to_sitk(grid), sitk.Transform(), method, 0.0, sitk.sitkFloat32
    )
    expected = sitk.GetArrayFromImage(oracle)
    ours = resample_like(source, grid, labels=labels).data[0].numpy()
    # Whether a point on an outer face is still inside is a matter of rounding: leave those out.
    ones = sitk.Image(*[_to_sitk(source).GetSize(), sitk.sitkFloat32]) + 1
    ones.CopyInformation(_to_sitk(source))
    inside = sitk.GetArrayFromImage(
        sitk.Resample(ones, _to_sitk(grid), sitk.Transform(), sitk.sitkLinear, 0.0)
    )
    differ = np.abs(ours - expected)[inside > 0.999]
    if labels:
        assert (differ > 0).mean() < 0.02  # largest weight and nearest voxel part at edges
    else:
        assert differ.max() < 1e-4


def _to_sitk(volume: Volume) -> sitk.Image:
    """The same grid for SimpleITK: its index order is (w, h, d) of ours."""
    image = sitk.GetImageFromArray(volume.data[0].numpy().astype(np.float32))
    spacing = np.array(volume.spacing)[::-1]
    image.SetSpacing([float(s) for s in spacing])
    cosines = volume.affine[:3, [2, 1, 0]] / spacing
    image.SetDirection([float(value) for value in cosines.reshape(-1)])
    image.SetOrigin([float(value) for value in volume.affine[:3, 3]])
    return image


def test_zscore_and_window() -> None:
    volume = Volume(torch.arange(24, dtype=torch.int16).reshape(1, 2, 3, 4), np.eye(4))
    scaled = zscore(volume).data
    assert scaled.mean().item() == pytest.approx(0, abs=1e-6)
    assert scaled.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    clipped = window(volume, 3, 7)
    assert (clipped.data.min().item(), clipped.data.max().item()) == (3, 7)
    assert zscore(clipped, mean=3, std=2).data.max().item() == 2
    flat = Volume(torch.full((1, 2, 2, 2), 7.0), np.eye(4))
    assert zscore(flat).data.abs().max().item() == 0


def test_foreground_box_is_tight() -> None:
    data = torch.full((2, 6, 7, 8), -1000.0)
    data[1, 2:4, 3, 5:8] = 5
    assert foreground_box(data) == ((2, 3, 5), (2, 1, 3))
    assert foreground_box(torch.zeros(1, 3, 4, 5)) == ((0, 0, 0), (3, 4, 5))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.5, 0.8)])
def test_a_perfect_network_gives_the_mask_back(spacing: tuple[float, float, float]) -> None:
    """Prepare, pretend the logits are right, return: the mask is the one we started from."""
    shape = (30, 28, 26)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    mask = (((grid - np.array(shape) / 2) / (9, 8, 7)) ** 2).sum(-1) < 1
    affine = np.diag([-1.0, 1.0, -1.0, 1.0]) @ np.eye(4)[[2, 0, 1, 3]]
    image = Volume(torch.from_numpy(100.0 * mask + grid[..., 0])[None], affine)
    labels = Volume(torch.from_numpy(mask.astype(np.uint8))[None], affine)
    _, prepared = prepare(image, labels, spacing=spacing, intensity={"kind": "zscore"})
    assert prepared is not None
    one_hot = torch.stack([prepared.data[0] == label for label in range(2)]).to(torch.float32)
    back = labels_on_grid(Volume(one_hot, prepared.affine), image)
    assert np.array_equal(back.affine, image.affine)
    assert back.shape == image.shape
    wrong = (back.data[0].numpy() != mask).sum()
    assert wrong == 0 if spacing == (1.0, 1.0, 1.0) else wrong / mask.sum() < 0.12


def test_every_combination_of_axes_is_an_exact_copy() -> None:
    data = torch.arange(60).reshape(1, 3, 4, 5)
    source = Volume(data, np.eye(4))
    for order, flips in itertools.product(itertools.permutations(range(3)), range(8)):
        other = orient(source)
        axes = [axis for axis in range(3) if flips >> axis & 1]
        turned = data.permute(0, *(1 + a for a in order)).flip([1 + a for a in axes])
        affine = np.eye(4)[:, [*order, 3]].copy()
        for axis in axes:
            affine[:3, 3] += affine[:3, axis] * (turned.shape[1 + axis] - 1)
            affine[:3, axis] *= -1
        assert torch.equal(resample_like(other, Volume(turned, affine)).data, turned)


def with_padding(fill: int = -2000) -> Volume:
    """A scan in a circle, marked outside with a value far below what was measured."""
    data = torch.randint(-1000, 1000, (1, 6, 7, 8), generator=torch.Generator().manual_seed(0))
    data[:, :, :2] = fill
    return Volume(data.to(torch.int16), np.eye(4), about=About("CT", "HU", padding=(fill, fill)))


def test_padding_is_kept_out_of_statistics() -> None:
    volume = with_padding()
    inside = measured(volume)
    assert int((~inside).sum()) == 6 * 2 * 8
    scaled = zscore(volume)
    assert scaled.data[inside].mean().item() == pytest.approx(0, abs=1e-5)
    assert scaled.data[inside].std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(scaled.data[~inside].unique(), scaled.data[inside].amin()[None])
    assert scaled.about.padding is None


def test_padding_is_cropped_away_and_not_blended() -> None:
    volume = with_padding()
    image, _ = prepare(
        volume,
        None,
        spacing=(1, 1, 1),
        intensity={"kind": "window", "low": -3000, "high": 3000, "mean": 0, "std": 1},
    )
    assert sorted(image.shape) == [5, 6, 8]
    assert image.data.amin() >= -1000


def test_what_a_file_said_travels_with_its_voxels() -> None:
    volume = with_padding()
    for moved in (
        orient(volume),
        crop(volume, (0, 0, 0), (3, 3, 3)),
        resample_like(volume, volume),
    ):
        assert moved.about == volume.about
    assert resample(volume, (2, 2, 2)).about == replace(volume.about, padding=None)


def test_suv_is_activity_times_its_factor_or_refused() -> None:
    about = About("PT", "Bq/ml", suv_factor=0.002, padding=(-1, -1))
    volume = replace(with_padding(-1), about=about)
    suv = to_suv(volume)
    torch.testing.assert_close(suv.data, volume.data * 0.002)
    assert suv.about.unit == "SUV"
    assert suv.about.padding == pytest.approx((-0.002, -0.002))
    assert to_suv(suv) is suv
    with pytest.raises(IntensityError, match="no-suv"):
        to_suv(with_padding())


@given(st.floats(1e-6, 10), st.integers(-32768, 32000), st.integers(0, 500), st.floats(0.001, 50))
def test_padding_is_still_padding_in_suv(
    factor: float, stored: int, width: int, slope: float
) -> None:
    """As a reader leaves it: voxels scaled and rounded to float32, the range in float64."""
    low, high = stored * slope, (stored + width) * slope
    raw = torch.arange(stored - 100, stored + width + 101, dtype=torch.float64)
    data = (raw * slope).to(torch.float32).reshape(1, 1, 1, -1)
    about = About("PT", "Bq/ml", suv_factor=factor, padding=(low, high))
    volume = Volume(data, np.eye(4), about=about)
    expected = (raw < stored) | (raw > stored + width)
    assert torch.equal(measured(volume).flatten(), expected)
    suv = to_suv(volume)
    assert torch.equal(measured(suv).flatten(), expected)
    assert fill_padding(suv).data.amin() == suv.data.flatten()[expected].amin()


@pytest.mark.parametrize(
    ("dtype", "values", "padding", "expected"),
    [
        (torch.int16, [1, -5, 32767], (65535, 65535), [True, True, True]),
        (torch.int16, [1, -5, -32768], (-40000.0, -32768.0), [True, True, False]),
        (torch.int16, [1, 2, 3], (1.5, 2.5), [True, False, True]),
        (torch.int32, [16777216, 16777217, 0], (16777216.0, 16777216.0), [False, True, True]),
        (torch.uint8, [0, 255, 7], (-1, 0), [False, True, True]),
        (torch.int16, [1, -32768, 32767], (-np.inf, 0), [True, False, True]),
        (torch.float32, [0.1, 0.2, 0.3], (0.1, 0.2), [False, False, True]),
        (torch.float64, [0.1, 0.1 + 1e-12, 0.3], (0.1, 0.1), [False, True, True]),
    ],
)
def test_padding_is_compared_in_the_dtype_of_the_voxels(
    dtype: torch.dtype, values: list[float], padding: tuple[float, float], expected: list[bool]
) -> None:
    data = torch.tensor(values, dtype=dtype).reshape(1, 1, 1, -1)
    volume = Volume(data, np.eye(4), about=About(padding=padding))
    assert measured(volume).flatten().tolist() == expected
