"""What is said of the values of a DICOM series: unit, padding, SUV, loss."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage

from tests.slices import edit, pet_tags, refusal, write_series
from volumetric.io.dicom.scan import read_dicom

CT = {
    "SOPClassUID": CTImageStorage,
    "Modality": "CT",
    "RescaleSlope": 1,
    "RescaleIntercept": -1024,
}


def codes(about) -> list[tuple[str, str]]:
    return [(one.code, one.severity) for one in about.findings]


# SUV


@pytest.mark.parametrize(
    ("drug", "known"),
    [
        ({"RadiopharmaceuticalStartTime": "1000"}, True),
        ({"RadiopharmaceuticalStartTime": "10"}, False),
        ({"RadiopharmaceuticalStartDateTime": "20240229"}, True),  # then the time alone counts
        ({"RadiopharmaceuticalStartDateTime": "2024022910"}, True),
        ({"RadiopharmaceuticalStartDateTime": "20240229100000.5"}, True),
        ({"RadiopharmaceuticalStartDateTime": "20240229", "RadiopharmaceuticalStartTime": ""}, 0),
        ({"RadiopharmaceuticalStartDateTime": "20240229093000"}, False),  # the other says 10:00
        ({"RadiopharmaceuticalStartDateTime": "20240228100000"}, False),  # a day too early
    ],
)
def test_suv_needs_the_injection_to_the_minute(tmp_path, drug, known):
    write_series(tmp_path, **pet_tags(**drug))
    about = read_dicom(tmp_path).about
    if known:
        assert about.suv_factor == pytest.approx(75_000 / 1.5e8, rel=1e-3)
    else:
        assert about.suv_factor is None
        assert codes(about) == [("no-suv", "note")]


@pytest.mark.parametrize("keyword", ["SeriesTime", "AcquisitionTime"])
def test_suv_needs_the_scan_to_the_minute(tmp_path, keyword):
    write_series(tmp_path, **(pet_tags() | {keyword: "11"}))
    assert read_dicom(tmp_path).about.suv_factor is None


@pytest.mark.parametrize(
    "changed",
    [
        {"PatientWeight": 150},
        {"DecayCorrection": "ADMIN"},
        {"CorrectedImage": ["ATTN"]},
        {"SeriesTime": "113000"},
        pet_tags(RadionuclideTotalDose=2e8),
        pet_tags(RadionuclideHalfLife=7000),
        pet_tags(RadiopharmaceuticalStartTime="101500"),
    ],
)
def test_suv_needs_all_slices_to_agree(tmp_path, changed):
    write_series(tmp_path, **pet_tags())
    assert read_dicom(tmp_path).about.suv_factor
    edit(tmp_path, 2, **changed)
    about = read_dicom(tmp_path).about
    assert about.suv_factor is None
    assert codes(about) == [("no-suv", "note")]


def test_suv_needs_a_single_radiopharmaceutical(tmp_path):
    tags = pet_tags()
    (drug,) = tags["RadiopharmaceuticalInformationSequence"]
    write_series(
        tmp_path, **(tags | {"RadiopharmaceuticalInformationSequence": Sequence([drug, drug])})
    )
    assert read_dicom(tmp_path).about.suv_factor is None


@pytest.mark.parametrize(
    ("kind", "unit"), [(None, "SUV"), ("BW", "SUV"), ("LBM", None), ("LBMJANMA", None)]
)
def test_suv_by_anything_but_body_weight_is_no_suv(tmp_path, kind, unit):
    write_series(tmp_path, **(pet_tags() | {"Units": "GML", "SUVType": kind}))
    about = read_dicom(tmp_path).about
    assert about.unit == unit
    assert codes(about) == ([] if unit else [("no-suv", "note")])


def test_two_kinds_of_suv_are_not_stacked(tmp_path):
    write_series(tmp_path, **(pet_tags() | {"Units": "GML", "SUVType": "BW"}))
    edit(tmp_path, 1, SUVType="IBW")
    assert refusal(tmp_path).code == "mixed-units"


# Padding


@pytest.mark.parametrize(
    ("dtype", "n_bits", "value", "padding"),
    [
        (np.uint16, 12, 63_536, 2096),
        (np.uint16, 16, 63_536, 63_536),
        (np.int16, 12, -2000, -2000),
        (np.int16, 12, 63_536, -2000),
        (np.int16, 16, 63_536, -2000),
    ],
)
def test_padding_loses_the_bits_that_are_not_stored(tmp_path, dtype, n_bits, value, padding):
    stored = np.full((4, 5, 6), 1000, dtype)
    stored[:, 0, 0] = np.array([value]).astype(dtype)
    write_series(tmp_path, stored=stored, BitsStored=n_bits, **CT)
    for file in tmp_path.iterdir():
        dataset = dcmread(file)
        dataset.add_new("PixelPaddingValue", "US" if value > 0 else "SS", value)
        dataset.save_as(file)
    volume = read_dicom(tmp_path)
    assert volume.about.padding == (padding - 1024, padding - 1024)
    assert volume.data[0, :, 0, 0].unique().tolist() == [padding - 1024]


def test_padding_that_differs_between_slices_is_said(tmp_path):
    write_series(tmp_path, **CT, PixelPaddingValue=5)
    assert codes(read_dicom(tmp_path).about) == []
    dataset = dcmread(tmp_path / "2.dcm")
    del dataset.PixelPaddingValue
    dataset.save_as(tmp_path / "2.dcm")
    about = read_dicom(tmp_path).about
    assert (about.padding, codes(about)) == (None, [("padding-varies", "warning")])


# Rescaling and loss


def test_one_ct_slice_rescaled_otherwise_is_said(tmp_path):
    write_series(tmp_path, **CT)
    edit(tmp_path, 1, RescaleSlope=2)
    about = read_dicom(tmp_path).about
    assert codes(about) == [("rescale-varies", "warning")]
    assert "1 of 4 slices" in about.findings[0].reason


def test_slopes_of_pet_differ_as_they_should(tmp_path):
    write_series(tmp_path, **pet_tags())
    edit(tmp_path, 1, RescaleSlope=2)
    assert codes(read_dicom(tmp_path).about) == []


def test_near_lossless_compression_is_lossy_though_no_tag_says_so(tmp_path):
    stored = np.random.default_rng(0).integers(0, 4000, (4, 32, 32)).astype(np.uint16)
    write_series(tmp_path, stored=stored)
    for file in tmp_path.iterdir():
        dataset = dcmread(file)
        stream = bytes(imagecodecs.jpegls_encode(dataset.pixel_array, level=5))
        dataset.PixelData = encapsulate([stream])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.81"
        dataset.save_as(file)
    assert codes(read_dicom(tmp_path).about) == [("lossy", "note")]


# Numbers that prove nothing


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize("keyword", ["SliceThickness", "SpacingBetweenSlices"])
@pytest.mark.parametrize("malformed", [b"abc ", b"2\\3 "])
def test_a_malformed_spacing_counts_as_not_stated(tmp_path, keyword, malformed):
    stored = write_series(tmp_path, **{keyword: "7.25"})
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        assert content.count(b"7.25") == 1
        file.write_bytes(content.replace(b"7.25", malformed))
    np.testing.assert_array_equal(read_dicom(tmp_path).data[0].numpy(), stored)
