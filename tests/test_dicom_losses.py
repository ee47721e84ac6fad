"""Slices that are lost, or there twice, though what is left is a regular stack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import generate_uid

from tests.slices import along_z, edit, refusal, write_series, write_slice, write_stack
from volumetric.errors import AmbiguousSeriesError, GeometryError
from volumetric.io.dicom.scan import read_dicom

DIRECTIONS = [(0, None), (1000, [1.0, 0, 0]), (1000, [0, 1.0, 0]), (1000, [0, 0, 1.0])]
LAST = "1.2.3[DiffusionBValue=1000;DiffusionGradientOrientation=0\\0\\1]"


def write_diffusion(folder: Path, *, lost: set[tuple[int, int]]) -> None:
    """Four volumes of five slices, less those lost: (volume, slice)."""
    for volume, (b_value, direction) in enumerate(DIRECTIONS):
        for index in range(5):
            if (volume, index) not in lost:
                write_slice(
                    folder / f"{volume}_{index}.dcm",
                    np.full((5, 6), 10 * volume + index, np.int16),
                    position=(0, 0, 2 * index),
                    DiffusionBValue=float(b_value),
                    DiffusionGradientOrientation=direction,
                )


def write_moved(folder: Path, *, shift: float, repeats: int = 2, **tags) -> None:
    """Repeats of four slices 2 mm apart, each a little beside the last."""
    for number in range(repeats):
        for index in range(4):
            write_slice(
                folder / f"{number}_{index}.dcm",
                np.full((5, 6), 10 * number + index, np.int16),
                position=(0, 0, 2 * index + shift * number),
                **{key: value[number] for key, value in tags.items()},
            )


# One of several volumes


@pytest.mark.parametrize("index", [0, 2, 4])
def test_a_volume_that_lacks_a_slice_its_sisters_have_is_refused(tmp_path, index):
    write_diffusion(tmp_path, lost={(3, index)})
    assert LAST in refusal(tmp_path).choices
    error = refusal(tmp_path, series_uid=LAST)
    assert (type(error), error.code) == (GeometryError, "missing-slice")
    assert "at 1 of the places" in error.reason or index == 2  # a gap tells by itself
    whole = read_dicom(tmp_path, series_uid=LAST.replace("0\\0\\1", "0\\1\\0"))
    assert whole.data[0, :, 0, 0].tolist() == [20, 21, 22, 23, 24]


def test_every_second_slice_of_one_volume_lost_is_refused(tmp_path):
    write_diffusion(tmp_path, lost={(3, 1), (3, 3)})
    assert refusal(tmp_path, series_uid=LAST).code == "missing-slice"


def test_stacks_that_only_touch_are_no_sisters(tmp_path):
    for number, first in enumerate((0, 4, 8)):
        for index in range(6):
            write_slice(
                tmp_path / f"{number}_{index}.dcm",
                np.full((5, 6), 10 * number + index, np.int16),
                position=(0, 0, 3 * (first + index)),
                StackID=str(number),
                AcquisitionNumber=number,
            )
    for number in range(3):
        volume = read_dicom(tmp_path, series_uid=f"1.2.3[StackID={number}]")
        assert volume.data[0, :, 0, 0].tolist() == [10 * number + index for index in range(6)]


# Objects cut into files


def test_parts_of_two_cut_objects_do_not_stand_in_for_each_other(tmp_path):
    write_series(tmp_path, InConcatenationTotalNumber=2)
    first, second = generate_uid(), generate_uid()
    edit(tmp_path, 0, ConcatenationUID=first, InConcatenationNumber=1)
    edit(tmp_path, 1, ConcatenationUID=second, InConcatenationNumber=1)
    edit(tmp_path, 2, ConcatenationUID=second, InConcatenationNumber=2)
    edit(tmp_path, 3, ConcatenationUID=second, InConcatenationNumber=2)
    assert refusal(tmp_path).code == "missing-part"
    edit(tmp_path, 3, ConcatenationUID=first)
    assert read_dicom(tmp_path).shape[0] == 4


def test_parts_whose_total_is_not_stated_are_doubted(tmp_path):
    write_series(tmp_path)
    for name in range(4):
        edit(tmp_path, name, ConcatenationUID="1.7", InConcatenationNumber=name + 1)
    (finding,) = read_dicom(tmp_path).about.findings
    assert (finding.code, finding.severity) == ("parts-not-counted", "warning")
    edit(tmp_path, 2, InConcatenationNumber=5)
    assert refusal(tmp_path).code == "missing-part"


# Files beside the slices


def test_a_zero_filled_file_named_as_the_slices_is_refused(tmp_path):
    write_series(tmp_path)
    for file in list(tmp_path.iterdir()):
        file.rename(file.with_suffix(""))
    last = tmp_path / "3"
    last.write_bytes(bytes(last.stat().st_size))
    assert refusal(tmp_path).code == "not-dicom"


# Repeats that moved a little


@pytest.mark.parametrize("shift", [0.002, 0.01, 0.09])
@pytest.mark.parametrize("repeats", [2, 3])
def test_near_repeats_are_split_by_what_tells_them_apart(tmp_path, shift, repeats):
    shift /= repeats - 1
    write_moved(tmp_path, shift=shift, repeats=repeats, AcquisitionNumber=range(1, repeats + 1))
    for asked in (False, True):
        error = refusal(tmp_path, resample_irregular=asked)
        assert (type(error), error.code) == (AmbiguousSeriesError, "several-volumes")
    for number, choice in enumerate(error.choices):
        volume = read_dicom(tmp_path, series_uid=choice)
        assert volume.data[0, :, 0, 0].tolist() == [10 * number + index for index in range(4)]


def test_near_repeats_that_nothing_tells_apart_are_never_blended(tmp_path):
    write_moved(tmp_path, shift=0.01)
    for asked in (False, True):
        assert refusal(tmp_path, resample_irregular=asked).code == "duplicate-position"


def test_repeats_of_one_slice_that_drift_are_no_stack(tmp_path):
    write_stack(tmp_path, along_z(0, 0.01, 0.02), SpacingBetweenSlices=5, SliceThickness=5)
    assert refusal(tmp_path).code == "duplicate-position"


def test_a_wide_gap_makes_no_repeats_of_a_fine_stack(tmp_path):
    write_stack(tmp_path, along_z(*range(20), *range(60, 80)))
    assert refusal(tmp_path).code == "missing-slice"


def test_a_stack_of_which_most_is_lost_holds_no_repeats(tmp_path):
    write_stack(tmp_path, along_z(0, 202.5, 203.75, 205), SliceThickness=1.25)
    for name, number in enumerate((4, 44, 45, 45)):
        edit(tmp_path, name, AcquisitionNumber=number)
    assert refusal(tmp_path).code == "missing-slice"


@pytest.mark.parametrize("step", [0.0009, 0.0021])
def test_places_are_as_fine_as_the_pixels(tmp_path, step):
    stored = write_series(tmp_path, depth=6, spacing=step, PixelSpacing=[step, step])
    np.testing.assert_array_equal(read_dicom(tmp_path).data[0].numpy(), stored)


# What resampling must not make up


@pytest.mark.parametrize(
    ("positions", "codes"),
    [
        (along_z(0, 2, 4, 8, 10), ("missing-slice", "missing-slice")),
        (along_z(*range(0, 20), *range(40, 60)), ("missing-slice", "missing-slice")),
        (along_z(0, 2, 4.3, 10.1, 12), ("irregular-spacing", "irregular-spacing")),
        ([(0, 0.5 * i, 2 * i) for i in (0, 1, 3, 4)], ("gantry-tilt", "missing-slice")),
    ],
)
def test_lost_slices_are_not_made_up(tmp_path, positions, codes):
    write_stack(tmp_path, positions)
    for asked, code in zip((False, True), codes, strict=True):
        error = refusal(tmp_path, resample_irregular=asked)
        assert error.code == code
        assert "resample_irregular" not in str(error)
        assert "whole" in error.remedy


# InstanceNumber


def test_numbers_are_judged_over_the_whole_series(tmp_path):
    for index in range(4):
        for echo in range(3):
            write_slice(
                tmp_path / f"{echo}_{index}.dcm",
                np.full((5, 6), index, np.int16),
                position=(0, 0, 2 * index),
                EchoTime=5.0 * (echo + 1),
                InstanceNumber=3 * index + echo + 1,
            )
    assert not read_dicom(tmp_path, series_uid="1.2.3[EchoTime=5]").about.findings


@pytest.mark.parametrize(("first", "said"), [(0, []), (1, []), (34, ["instance-number-start"])])
def test_numbers_that_begin_late_are_said(tmp_path, first, said):
    write_series(tmp_path)
    for name in range(4):
        edit(tmp_path, name, InstanceNumber=first + name)
    findings = read_dicom(tmp_path).about.findings
    assert [one.code for one in findings] == said
    assert all(one.severity == "note" and "34" in one.reason for one in findings)
