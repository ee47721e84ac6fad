"""Which slices of a folder make one volume: split by what separates them, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom import dcmread
from pydicom.uid import CTImageStorage

from tests.slices import (
    SAGITTAL,
    along_z,
    decimals,
    edit,
    pet_tags,
    refusal,
    write_series,
    write_slice,
    write_stack,
)
from volumetric.errors import AmbiguousSeriesError, GeometryError
from volumetric.io.dicom.scan import read_dicom


def write_repeats(folder: Path, keyword: str, values, **tags) -> None:
    """Four slices a value of one tag, all values at the same places; voxels hold its index."""
    for number, value in enumerate(values):
        for index in range(4):
            write_slice(
                folder / f"{index}_{number}.dcm",
                np.full((5, 6), 10 * number + index, np.int16),
                position=(0, 0, 2.0 * index),
                **({keyword: value, "AcquisitionTime": f"10{number:02}{index:02}"} | tags),
            )


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("EchoTime", [4.92, 9.84]),
        ("EchoNumbers", [1, 2, 3]),
        ("InversionTime", [100, 2500]),
        ("DiffusionBValue", [0.0, 500.0, 1000.0]),
        ("TemporalPositionIdentifier", [1, 2, 3]),
        ("TriggerTime", [0, 40, 80]),
        ("AcquisitionNumber", [1, 2]),
        ("SequenceName", ["*ep_b0", "*ep_b1000#1"]),
        ("ConvolutionKernel", ["B30f", "B70f"]),
        ("ImageType", [["DERIVED", "PRIMARY", "DIXON", "WATER"], ["DERIVED", "PRIMARY", "FAT"]]),
        ("ImageType", [["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]]),
    ],
)
def test_what_repeats_is_split_and_each_choice_reads_one_volume(tmp_path, keyword, values):
    write_repeats(tmp_path, keyword, values)
    error = refusal(tmp_path)
    assert isinstance(error, AmbiguousSeriesError)
    assert error.code == "several-volumes"
    assert len(error.choices) == len(values)
    for number, choice in enumerate(error.choices):
        assert f"{choice} 'T1', 4 images of 6x5" in error.reason
        volume = read_dicom(tmp_path, series_uid=choice)
        assert volume.data[0, :, 0, 0].tolist() == [10 * number + index for index in range(4)]


def test_two_reasons_to_repeat_are_both_named(tmp_path):
    for number, component in enumerate("MP"):
        folder = tmp_path / component
        tags = {"ImageType": ["ORIGINAL", "PRIMARY", component]}
        write_repeats(folder, "EchoTime", [5 + 100 * number, 7 + 100 * number], **tags)
    error = refusal(tmp_path)
    assert len(error.choices) == 4
    write_repeats(tmp_path / "M", "EchoTime", [5, 7], ImageType=["ORIGINAL", "PRIMARY", "M"])
    write_repeats(tmp_path / "P", "EchoTime", [5, 7], ImageType=["ORIGINAL", "PRIMARY", "P"])
    error = refusal(tmp_path)
    assert set(error.choices) == {
        f"1.2.3[EchoTime={time};ComplexImageComponent={component}]"
        for time in (5, 7)
        for component in ("MAGNITUDE", "PHASE")
    }
    for choice in error.choices:
        assert read_dicom(tmp_path, series_uid=choice).shape == (4, 5, 6)


@pytest.mark.parametrize("keyword", ["EchoTime", "DiffusionBValue", "InversionTime"])
def test_two_contrasts_in_one_stack_are_refused(tmp_path, keyword):
    write_series(tmp_path, depth=6)
    for name in range(6):
        edit(tmp_path, name, **{keyword: 5.0 if name < 3 else 900.0})
    error = refusal(tmp_path)
    assert (type(error), error.code) == (AmbiguousSeriesError, "mixed-contrast")


def test_echo_times_that_wander_by_microseconds_are_one(tmp_path):
    write_series(tmp_path, depth=3)
    for name in range(3):
        edit(tmp_path, name, EchoTime=11.412 + 0.004 * name)
    assert read_dicom(tmp_path).shape[0] == 3


def test_what_differs_in_every_slice_splits_nothing(tmp_path):
    write_series(tmp_path, depth=5)
    for name in range(5):
        edit(tmp_path, name, AcquisitionNumber=name, ContentTime=f"10101{name}", TriggerTime=name)
    assert read_dicom(tmp_path).shape[0] == 5


def test_a_choice_that_is_not_there_lists_what_is(tmp_path):
    write_repeats(tmp_path, "EchoTime", [5, 7])
    error = refusal(tmp_path, series_uid="1.2.3[EchoTime=6]")
    assert error.code == "series-not-found"
    assert error.choices == ("1.2.3[EchoTime=5]", "1.2.3[EchoTime=7]")
    assert all(choice in error.reason for choice in error.choices)


@pytest.mark.parametrize(
    ("code", "tags"),
    [
        ("mixed-orientation", {"ImageOrientationPatient": decimals(SAGITTAL)}),
        ("mixed-pixel-spacing", {"PixelSpacing": [1, 1]}),
        ("mixed-frame-of-reference", {"FrameOfReferenceUID": "1.9"}),
        ("mixed-study", {"StudyInstanceUID": "1.8"}),
    ],
)
def test_stacks_within_a_series_are_listed_and_can_be_chosen(tmp_path, code, tags):
    stored = write_series(tmp_path / "a")
    write_series(tmp_path / "b", depth=3, origin=(0, 0, 90))
    for name in range(3):
        edit(tmp_path / "b", name, **tags)
    error = refusal(tmp_path)
    assert (type(error), error.code, len(error.choices)) == (GeometryError, code, 2)
    chosen = read_dicom(tmp_path, series_uid=error.choices[0])
    np.testing.assert_array_equal(chosen.data[0].numpy(), stored)


@pytest.mark.parametrize(
    "tags", [{"RescaleType": "US"}, {"RescaleSlope": None, "RescaleIntercept": None}]
)
def test_values_in_two_units_are_refused(tmp_path, tags):
    write_series(tmp_path, RescaleType="HU", Modality="CT", RescaleSlope=1, RescaleIntercept=-1024)
    edit(tmp_path, 1, **tags)
    assert refusal(tmp_path).code == "mixed-units"


@pytest.mark.parametrize("missing", ["RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("how", ["absent", "empty"])
def test_half_a_rescale_is_refused(tmp_path, missing, how):
    write_series(tmp_path, **{"RescaleSlope": 2, "RescaleIntercept": 3, missing: None})
    for name in range(4) if how == "empty" else ():
        edit(tmp_path, name, **{missing: None})
    assert refusal(tmp_path).code == "bad-rescale"


def test_a_series_without_places_does_not_hide_the_scan(tmp_path):
    stored = write_series(tmp_path / "scan")
    write_slice(
        tmp_path / "report.dcm",
        np.zeros((9, 9), np.int16),
        position=(0, 0, 0),
        SeriesInstanceUID="1.5",
        Modality="OT",
        ImagePositionPatient=None,
    )
    np.testing.assert_array_equal(read_dicom(tmp_path).data[0].numpy(), stored)
    assert refusal(tmp_path, series_uid="1.5").code == "no-geometry"


def test_what_was_set_apart_is_said(tmp_path):
    write_series(tmp_path)
    picture = np.zeros((9, 9), np.int16)
    tags = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    write_slice(tmp_path / "scout.dcm", picture, position=(0, 0, 0), **tags)
    (finding,) = read_dicom(tmp_path).about.findings
    assert (finding.code, finding.severity) == ("set-apart", "note")
    assert "1 localizer" in finding.reason


# Copies


def test_a_slice_that_is_there_twice_is_read_once_and_said(tmp_path):
    stored = write_series(tmp_path)
    (tmp_path / "copy.dcm").write_bytes((tmp_path / "2.dcm").read_bytes())
    volume = read_dicom(tmp_path)
    np.testing.assert_array_equal(volume.data[0].numpy(), stored)
    (finding,) = volume.about.findings
    assert (finding.code, finding.severity) == ("duplicate-slice", "note")
    assert "pixel for pixel: 1;" in finding.reason


@pytest.mark.parametrize("tags", [{"RescaleSlope": 2.0}, {"PixelData": bytes(60)}])
def test_a_slice_that_is_there_twice_with_other_values_is_refused(tmp_path, tags):
    write_series(tmp_path, RescaleSlope=1, RescaleIntercept=0)
    dataset = dcmread(tmp_path / "2.dcm")
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.save_as(tmp_path / "copy.dcm")
    error = refusal(tmp_path)
    assert error.code == "duplicate-position"
    assert "copy.dcm" in error.reason


# Grids that are made regular on request


def smooth(places):
    """A value that changes linearly in space, so that any interpolation keeps it exactly."""
    return (2 * places[..., 0] - 3 * places[..., 1] + 5 * places[..., 2]) + 1000


def write_smooth(folder: Path, positions) -> None:
    rows, columns = np.indices((12, 14))
    for index, position in enumerate(positions):
        places = np.array(position) + np.stack([columns * 0.75, rows * 0.5, 0 * rows], -1)
        stored = np.round(10 * smooth(places)).astype(np.int32)
        write_slice(
            folder / f"{index}.dcm", stored, position=position, RescaleSlope=0.1, RescaleIntercept=0
        )


@pytest.mark.parametrize(
    "positions",
    [
        along_z(0, 2, 4, 7, 9),
        [(0, 0.5 * index, 2 * index) for index in range(6)],
        [(0, -0.6 * index, 2 * index) for index in range(6)],
        [(0.3 * index, 0.5 * index, 2 * index) for index in range(6)],
    ],
)
def test_resampled_values_lie_where_they_belong(tmp_path, positions):
    write_smooth(tmp_path, positions)
    volume = read_dicom(tmp_path, resample_irregular=True)
    assert volume.data.dtype == torch.float32
    assert volume.about.findings[-1].code == "resampled"
    axes = volume.affine[:3, :3] / volume.spacing
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    index = np.stack(np.indices(volume.shape), -1).reshape(-1, 3)
    ras = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    values, expected = volume.data[0].numpy().reshape(-1), smooth(ras * [-1, -1, 1])
    # Inside every slice: a voxel from the edges, where nothing was measured beside them.
    lps = ras * [-1, -1, 1]
    low, high = np.array(positions).min(0), np.array(positions).max(0)
    inner = (
        (lps[:, 0] >= high[0] + 0.8)
        & (lps[:, 0] <= low[0] + 13 * 0.75 - 0.8)
        & (lps[:, 1] >= high[1] + 0.6)
        & (lps[:, 1] <= low[1] + 11 * 0.5 - 0.6)
    )
    assert inner.sum() > 5
    np.testing.assert_allclose(values[inner], expected[inner], atol=0.3)
    assert index[:, 0].max() * volume.spacing[0] == pytest.approx(high[2] - low[2])


def test_tilted_stack_keeps_every_measured_voxel_in_view(tmp_path):
    write_smooth(tmp_path, [(0, 0.5 * index, 2 * index) for index in range(6)])
    volume = read_dicom(tmp_path, resample_irregular=True)
    assert volume.shape == (6, 12 + 5, 14)
    assert volume.data.amin() >= 0.9 * smooth(np.array([0.0, 5.5 + 2.5, 0]))


def test_regular_stack_is_not_resampled(tmp_path):
    stored = write_series(tmp_path)
    volume = read_dicom(tmp_path, resample_irregular=True)
    np.testing.assert_array_equal(volume.data[0].numpy(), stored)
    assert not volume.about.findings


def test_padding_is_not_blended_into_a_resampled_stack(tmp_path):
    for index, height in enumerate((0, 2, 4, 7)):
        stored = np.full((8, 8), 100, np.int16)
        stored[:3] = -2000
        write_slice(
            tmp_path / f"{index}.dcm", stored, position=(0, 0, height), PixelPaddingValue=-2000
        )
    volume = read_dicom(tmp_path, resample_irregular=True)
    assert volume.data.unique().tolist() == [100.0]
    assert volume.about.padding is None


# What is said of the values


def test_padding_modality_and_unit_are_known(tmp_path):
    write_series(
        tmp_path,
        SOPClassUID=CTImageStorage,
        Modality="CT",
        RescaleSlope=1,
        RescaleIntercept=-1024,
        PixelPaddingValue=-2000,
    )
    about = read_dicom(tmp_path).about
    assert (about.modality, about.unit, about.padding) == ("CT", "HU", (-3024, -3024))


def test_a_padding_range_is_ordered_and_rescaled(tmp_path):
    write_series(
        tmp_path,
        stored=np.zeros((3, 5, 6), np.uint16),
        RescaleSlope=-2,
        RescaleIntercept=1,
        PixelPaddingValue=10,
        PixelPaddingRangeLimit=4,
    )
    assert read_dicom(tmp_path).about.padding == (-19, -7)


def test_every_second_slice_lost_is_said(tmp_path):
    write_stack(tmp_path, along_z(0, 4, 8, 12), SpacingBetweenSlices=2)
    (finding,) = read_dicom(tmp_path).about.findings
    assert (finding.code, finding.severity) == ("stated-spacing-differs", "warning")


@pytest.mark.parametrize(
    ("changed", "dose"),
    [
        ({}, 1.5e8),
        ({"DecayCorrection": "ADMIN"}, 3e8),
        ({"AcquisitionTime": "115500"}, 1.5e8),
    ],
)
def test_suv_factor_is_weight_over_the_dose_that_is_left(tmp_path, changed, dose):
    write_series(tmp_path, **(pet_tags() | changed))
    about = read_dicom(tmp_path).about
    assert about.unit == "Bq/ml"
    assert about.suv_factor == pytest.approx(75_000 / dose)
    assert not about.findings


def test_injection_may_carry_its_date(tmp_path):
    tags = pet_tags(
        RadiopharmaceuticalStartDateTime="20240228235948", RadiopharmaceuticalStartTime="235948.3"
    )
    write_series(tmp_path, **(tags | {"SeriesTime": "014936", "AcquisitionTime": "014936"}))
    assert read_dicom(tmp_path).about.suv_factor == pytest.approx(75_000 / 1.5e8)


@pytest.mark.parametrize(
    "changed",
    [
        {"PatientWeight": None},
        {"CorrectedImage": ["DECY"]},
        {"DecayCorrection": "NONE"},
        {"SeriesTime": "120000"},
        {"SeriesTime": "090000"},
        {"RadiopharmaceuticalInformationSequence": None},
    ],
)
def test_suv_that_the_header_does_not_allow_is_unknown_and_said(tmp_path, changed):
    write_series(tmp_path, **(pet_tags() | changed))
    about = read_dicom(tmp_path).about
    assert about.suv_factor is None
    assert [finding.code for finding in about.findings] == ["no-suv"]


# Files without preamble


def test_a_data_set_without_preamble_is_read(tmp_path):
    stored = write_series(tmp_path)
    for file in tmp_path.iterdir():
        dataset = dcmread(file)
        del dataset.file_meta
        dataset.preamble = None
        dataset.save_as(file, implicit_vr=True, little_endian=True, enforce_file_format=False)
        assert file.read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(read_dicom(tmp_path).data[0].numpy(), stored)


# What is lost without a gap, or mixed without a repeat


@pytest.mark.parametrize("name", ["0005", "9.dcm"])
def test_a_stump_named_as_a_slice_is_refused(tmp_path, name):
    write_series(tmp_path)
    if not name.endswith(".dcm"):
        for file in list(tmp_path.iterdir()):
            file.rename(file.with_suffix(""))
    for content, code in ((b"", "empty-file"), (b"cut", "not-dicom"), (bytes(900), "not-dicom")):
        (tmp_path / name).write_bytes(content)
        assert refusal(tmp_path).code == code


def test_links_that_were_not_followed_are_said(tmp_path):
    write_series(tmp_path / "store", depth=5)
    (tmp_path / "scan").mkdir()
    for file in sorted((tmp_path / "store").iterdir()):
        target = tmp_path / "scan" / file.name
        last = dcmread(file).ImagePositionPatient[2] > 37
        target.symlink_to(file) if last else target.write_bytes(file.read_bytes())
    findings = read_dicom(tmp_path / "scan").about.findings
    assert ("links-not-followed", "warning") in {(one.code, one.severity) for one in findings}


def test_a_series_of_the_same_kind_without_places_must_be_chosen_against(tmp_path):
    write_series(tmp_path / "a")
    write_series(tmp_path / "b", depth=9, SeriesInstanceUID="1.5", ImagePositionPatient=None)
    assert refusal(tmp_path).code == "several-series"
    assert read_dicom(tmp_path, series_uid="1.2.3").shape[0] == 4


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("KVP", [80, 140]),
        ("FlipAngle", [5, 15]),
        ("TemporalPositionIdentifier", [1, 2]),
        ("ImageType", [["DERIVED", "PRIMARY", "DIXON", "W"], ["DERIVED", "PRIMARY", "DIXON", "F"]]),
        ("ImageType", [["ORIGINAL", "PRIMARY"], ["DERIVED", "SECONDARY", "MIP"]]),
    ],
)
def test_values_of_two_kinds_in_one_stack_are_refused(tmp_path, keyword, values):
    write_series(tmp_path, depth=6)
    for name in range(6):
        edit(tmp_path, name, **{keyword: values[name < 3]})
    error = refusal(tmp_path)
    assert error.code == "mixed-contrast"
    assert len(error.choices) == 2


def test_filters_of_the_scanner_are_no_other_kind(tmp_path):
    write_series(tmp_path, depth=4)
    edit(tmp_path, 2, ImageType=["ORIGINAL", "PRIMARY", "NORM", "DIS2D"])
    assert read_dicom(tmp_path).shape[0] == 4


def test_contrast_of_each_slice_its_own_is_said(tmp_path):
    write_series(tmp_path, depth=5)
    for name in range(5):
        edit(tmp_path, name, InversionTime=250 + 10 * name)
    (finding,) = read_dicom(tmp_path).about.findings
    assert (finding.code, finding.severity) == ("contrast-varies", "warning")


def test_one_inverted_slice_is_refused(tmp_path):
    write_series(tmp_path)
    edit(tmp_path, 1, PhotometricInterpretation="MONOCHROME1")
    assert refusal(tmp_path).code == "mixed-units"


def test_a_choice_is_the_group_that_was_listed(tmp_path):
    for number, time in enumerate((4.0, 4.03, 4.06)):
        for index in range(2):
            position = (0, 0, 4.0 * number + 2 * index)
            write_slice(
                tmp_path / f"{number}{index}.dcm",
                np.zeros((4, 4), np.int16),
                position=position,
                EchoTime=time,
                SliceThickness=2,
            )
    error = refusal(tmp_path)
    sizes = [len(read_dicom(tmp_path, series_uid=choice).data[0]) for choice in error.choices]
    assert sum(sizes) == 6


def test_blanked_uids_do_not_join_two_series(tmp_path):
    for name, first in (("liver", 0), ("head", 5)):
        write_series(
            tmp_path / name,
            depth=5,
            origin=(0, 0, 2.0 * first),
            SeriesInstanceUID=None,
            SeriesDescription=name,
        )
    error = refusal(tmp_path)
    assert error.code == "several-series"
    for choice in error.choices:
        assert read_dicom(tmp_path, series_uid=choice).shape[0] == 5


def test_a_missing_part_of_a_cut_object_is_refused(tmp_path):
    write_series(tmp_path, InConcatenationNumber=1, InConcatenationTotalNumber=2)
    assert refusal(tmp_path).code == "missing-part"
    edit(tmp_path, 3, InConcatenationNumber=2)
    assert read_dicom(tmp_path).shape[0] == 4


def test_gaps_in_instance_numbers_are_said(tmp_path):
    for index in range(5):
        write_slice(
            tmp_path / f"{index}.dcm",
            np.zeros((4, 4), np.int16),
            position=(0, 0, 2 * index),
            InstanceNumber=2 * index + 1,
        )
    (finding,) = read_dicom(tmp_path).about.findings
    assert (finding.code, finding.severity) == ("instance-number-gap", "warning")


def test_slices_off_a_straight_line_are_refused_however_long_the_stack(tmp_path):
    positions = [(0.9 * (index >= 30), 0, 25.0 * index) for index in range(60)]
    write_stack(tmp_path, positions)
    error = refusal(tmp_path)
    assert error.code == "gantry-tilt"
    assert "off a straight line" in error.reason


def test_positions_rounded_to_tenths_are_regular(tmp_path):
    write_stack(tmp_path, along_z(*(round(0.625 * index, 1) for index in range(40))))
    assert read_dicom(tmp_path).spacing[0] == pytest.approx(0.625, abs=3e-3)


def test_slices_far_astray_are_not_resampled(tmp_path):
    write_stack(tmp_path, [(0, 0, 0), (0, 1e7, 2), (0, 0, 4), (0, 0, 6)])
    assert refusal(tmp_path, resample_irregular=True).code == "gantry-tilt"


def test_a_mosaic_without_its_word_is_refused(tmp_path):
    write_series(tmp_path)
    for name in range(4):
        dataset = dcmread(tmp_path / f"{name}.dcm")
        block = dataset.private_block(0x19, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0A, "US", 30)
        dataset.save_as(tmp_path / f"{name}.dcm")
    assert refusal(tmp_path).code == "mosaic"


def test_lossy_compression_is_said(tmp_path):
    write_series(tmp_path, LossyImageCompression="01")
    assert [one.code for one in read_dicom(tmp_path).about.findings] == ["lossy"]


PATTERN = (np.arange(3 * 75 * 149) % 999).reshape(3, 75, 149).astype(np.int16)


def test_pixels_are_found_where_a_file_is_not_as_its_meta_header_says(tmp_path):
    stored = write_series(tmp_path, stored=PATTERN)
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        explicit, implicit = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0"
        file.write_bytes(content.replace(explicit, implicit))
    np.testing.assert_array_equal(read_dicom(tmp_path).data[0].numpy(), stored)


@pytest.mark.parametrize(
    ("zone", "known"), [("+0200", True), (None, False)], ids=["stated", "not stated"]
)
def test_injection_in_another_time_zone(tmp_path, zone, known):
    tags = pet_tags(RadiopharmaceuticalStartDateTime="20240229080000+0000")
    write_series(tmp_path, **tags, TimezoneOffsetFromUTC=zone)
    about = read_dicom(tmp_path).about
    assert about.suv_factor == (pytest.approx(75_000 / 1.5e8) if known else None)


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize(
    ("keyword", "value"),
    [("SeriesTime", "11:49"), ("AcquisitionDate", "yesterday"), ("PatientWeight", "1e-3")],
)
def test_malformed_tags_of_pet_cost_only_the_suv(tmp_path, keyword, value):
    write_series(tmp_path, **(pet_tags() | {keyword: value}))
    about = read_dicom(tmp_path).about
    assert about.suv_factor is None
    assert value not in about.findings[0].reason


def test_dose_in_megabecquerel_is_no_dose(tmp_path):
    write_series(tmp_path, **pet_tags(RadionuclideTotalDose=300))
    assert read_dicom(tmp_path).about.suv_factor is None
