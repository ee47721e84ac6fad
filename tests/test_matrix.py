"""Every series of the matrix: read right, or refused for its own reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.matrix import Entry, Grid, judge, judge_resampled, list_matrix
from tests.phantom import SeriesSpec, Truth, padding_value
from tests.series import can_encode, write_series
from volumetric import Volume, read_volume
from volumetric.errors import AmbiguousSeriesError, VolumetricError

MATRIX = list_matrix()
READ = [entry for entry in MATRIX if entry.expected == "right"]
REFUSED = [entry for entry in MATRIX if entry.expected == "refused"]
SEVERAL = [entry for entry in MATRIX if entry.expected == "several"]
RESAMPLED = [entry for entry in REFUSED if entry.code in ("gantry-tilt", "irregular-spacing")]


def entries(chosen: list[Entry]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("entry", chosen, ids=[str(entry.spec) for entry in chosen])


def write(folder: Path, spec: SeriesSpec) -> Truth:
    if not can_encode(spec.syntax):
        pytest.skip(f"no encoder of {spec.syntax} is installed")
    return write_series(folder, spec)


def grid(volume: Volume) -> Grid:
    assert volume.kind == "scan"
    [voxels] = volume.data.numpy()
    return voxels, volume.affine


def test_matrix_is_large_and_names_each_series_once():
    assert len(MATRIX) >= 150
    assert len({str(entry.spec) for entry in MATRIX}) == len(MATRIX)


@entries(READ)
def test_sound_series_is_read_right(tmp_path, entry):
    truth = write(tmp_path, entry.spec)
    volume = read_volume(tmp_path)
    assert judge([grid(volume)], truth) == ""
    if entry.spec.fault == "duplicate-identical":
        assert any("duplicate" in finding.code for finding in volume.about.findings)


@entries(REFUSED)
def test_faulty_series_is_refused_for_its_own_reason(tmp_path, entry):
    write(tmp_path, entry.spec)
    with pytest.raises(VolumetricError) as caught:
        read_volume(tmp_path)
    assert caught.value.code == entry.code
    assert caught.value.remedy


@entries(SEVERAL)
def test_each_of_several_volumes_can_be_chosen(tmp_path, entry):
    truth = write(tmp_path, entry.spec)
    with pytest.raises(AmbiguousSeriesError) as caught:
        read_volume(tmp_path)
    error = caught.value
    assert error.code == entry.code or not entry.code
    assert len(set(error.choices)) == len(truth.volumes)
    assert all(choice in str(error) for choice in error.choices)
    chosen = [grid(read_volume(tmp_path, series_uid=choice)) for choice in error.choices]
    assert judge(chosen, truth) == ""


@entries(RESAMPLED)
def test_irregular_or_tilted_stack_is_resampled_when_asked(tmp_path, entry):
    truth = write(tmp_path, entry.spec)
    volume = read_volume(tmp_path, resample_irregular=True)
    assert judge_resampled(grid(volume), truth) == ""
    assert volume.about.findings  # it says that these are not the voxels of the file


@pytest.mark.parametrize("stored", ["int16", "uint16"])
def test_padding_is_told_in_the_unit_of_the_values(tmp_path, stored):
    spec = SeriesSpec(padding=True, stored=stored)
    write(tmp_path, spec)
    low, high = read_volume(tmp_path).about.padding
    assert low <= padding_value(spec) - 1024 <= high


# The judge itself: it must not be fooled, or the matrix proves nothing


@pytest.fixture
def truth(tmp_path) -> Truth:
    return write_series(tmp_path, SeriesSpec(orientation="oblique-coronal"))


def true_grid(truth: Truth) -> Grid:
    positions = truth.volumes[0].positions
    affine = np.eye(4)
    affine[:3, 3] = positions[0, 0, 0]
    for axis, step in enumerate([(1, 0, 0), (0, 1, 0), (0, 0, 1)]):
        affine[:3, axis] = positions[step] - positions[0, 0, 0]
    return truth.volumes[0].values, affine


def test_judge_accepts_any_order_and_direction_of_axes(truth):
    values, affine = true_grid(truth)
    order = np.eye(4)[[2, 0, 1, 3]].T
    turned = affine @ order
    turned[:3, 3] += (values.shape[2] - 1) * turned[:3, 0]
    turned[:3, 0] *= -1
    for grid in ((values, affine), (values.transpose(2, 0, 1)[::-1], turned)):
        assert judge([grid], truth) == ""
        assert judge_resampled(grid, truth) == ""


def test_judge_sees_what_is_wrong(truth):
    values, affine = true_grid(truth)
    moved, stretched, swapped = affine.copy(), affine.copy(), values.copy()
    moved[:3, 3] += 0.02 * affine[:3, 2]
    stretched[:3, 0] *= 1.01
    swapped[2, 3, [4, 5]] = swapped[2, 3, [5, 4]]
    assert "voxel off" in judge([(values, moved)], truth)
    assert "voxel off" in judge([(values, stretched)], truth)
    assert "not those" in judge([(swapped, affine)], truth)
    assert "not those" in judge([(values[::-1], affine)], truth)
    assert "voxels for" in judge([(values[1:], affine)], truth)
    assert "outside" in judge([(values, affine @ np.diag([1, 1, -1, 1]))], truth)
    assert judge([], truth)
    assert judge([(values, affine), (values, affine)], truth) == "a volume too many was returned"


@pytest.mark.parametrize("axis", range(3))
def test_judge_of_resampled_stacks_sees_half_a_column(truth, axis):
    values, affine = true_grid(truth)
    moved = affine.copy()
    moved[:3, 3] += 0.5 * affine[:3, axis]
    assert "off by" in judge_resampled((values, moved), truth)
