"""DICOM series: voxels and their places against SimpleITK, the headers, and every refusal."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from tests.slices import (
    AXIAL,
    CORONAL,
    OBLIQUE,
    SAGITTAL,
    along_z,
    decimals,
    edit,
    refusal,
    write_series,
    write_slice,
    write_stack,
)
from volumetric.errors import (
    AmbiguousSeriesError,
    GeometryError,
    IntensityError,
    UnreadableFileError,
    UnsupportedError,
)
from volumetric.io.dicom.scan import read_dicom

DATA = Path(__file__).parents[2] / "shared" / "data"


def world(affine, index):
    return (affine @ [*index, 1])[:3]


def assert_equals_simpleitk(folder: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    image = sitk.ReadImage(files if len(files) > 1 else files[0])
    volume = read_dicom(folder)
    voxels = sitk.GetArrayFromImage(image)
    got = volume.data[0].numpy()
    d, h, w = np.array(volume.shape) - 1
    # Either may count slices from the other end: what must agree is the value at each place.
    backwards = np.dot(volume.affine[:2, 0] * [-1, -1], image.GetDirection()[2:6:3]) + (
        volume.affine[2, 0] * image.GetDirection()[8]
    )
    if backwards < 0:
        got = got[::-1]
    np.testing.assert_allclose(got, voxels, rtol=1e-6)
    for index in [(0, 0, 0), (d, 0, 0), (0, h, 0), (0, 0, w), (d, h, w)]:
        place = (d - index[0] if backwards < 0 else index[0], *index[1:])
        lps = image.TransformIndexToPhysicalPoint([int(i) for i in reversed(index)])
        np.testing.assert_allclose(
            world(volume.affine, place), np.array(lps) * [-1, -1, 1], atol=1e-3
        )


def assert_same_place(volume, truth_path: Path) -> None:
    """Every voxel's value equals the one that a NIfTI file holds at the same place."""
    nib = pytest.importorskip("nibabel")
    truth = nib.load(truth_path)
    index = np.indices(volume.shape).reshape(3, -1)
    to_truth = np.linalg.inv(truth.affine) @ volume.affine
    there = to_truth[:3, :3] @ index + to_truth[:3, 3:]
    assert np.abs(there - there.round()).max() < 0.01
    expected = np.asanyarray(truth.dataobj).reshape(truth.shape[:3])[
        tuple(there.round().astype(int))
    ]
    np.testing.assert_allclose(volume.data.numpy().reshape(-1), expected, rtol=1e-5)


# What is read


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL, OBLIQUE])
def test_series_equals_simpleitk_whatever_its_instance_numbers(tmp_path, orientation):
    stored = write_series(tmp_path, orientation=orientation)
    volume = read_dicom(tmp_path)
    assert volume.data.dtype == torch.int16
    np.testing.assert_array_equal(volume.data[0].numpy(), stored)
    np.testing.assert_allclose(volume.spacing, (2.0, 0.5, 0.75), atol=1e-9)
    assert_equals_simpleitk(tmp_path)


@pytest.mark.parametrize(
    ("orientation", "axes"), [(AXIAL, "SPL"), (SAGITTAL, "RIP"), (CORONAL, "PIL")]
)
def test_axes_point_where_the_standard_says(tmp_path, orientation, axes):
    write_series(tmp_path, orientation=orientation)
    assert read_dicom(tmp_path).orientation == axes


def test_stack_written_from_the_far_end_is_the_same_volume(tmp_path):
    stored = write_series(tmp_path / "up")
    positions = [(-10, 20, 30 + 2.0 * index) for index in range(4)]
    for number, index in enumerate(reversed(range(4))):
        write_slice(
            tmp_path / "down" / f"{number}.dcm",
            stored[index],
            position=positions[index],
            InstanceNumber=number,
        )
    up, down = read_dicom(tmp_path / "up"), read_dicom(tmp_path / "down")
    assert torch.equal(up.data, down.data)
    np.testing.assert_array_equal(up.affine, down.affine)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    gap=st.floats(0.3, 8),
    between_rows=st.floats(0.1, 4),
    between_columns=st.floats(0.1, 4),
)
def test_every_voxel_lies_where_its_header_says(seed, gap, between_rows, between_columns):
    random = np.random.default_rng(seed)
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    origin = random.uniform(-500, 500, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spacing = decimals([between_rows, between_columns])
        orientation = (*turn[0], *turn[1])
        write_series(
            folder,
            depth=3,
            orientation=orientation,
            spacing=gap,
            origin=origin,
            PixelSpacing=spacing,
        )
        volume = read_dicom(folder)
        for file in folder.iterdir():
            header = dcmread(file)
            position = np.array(header.ImagePositionPatient, float)
            row, column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
            values = header.pixel_array
            d = round((position - origin) @ np.cross(turn[0], turn[1]) / gap)
            np.testing.assert_array_equal(volume.data[0, d].numpy(), values)
            for h, w in np.ndindex(values.shape):
                lps = position + row * between_columns * w + column * between_rows * h
                np.testing.assert_allclose(
                    world(volume.affine, (d, h, w)), lps * [-1, -1, 1], atol=1e-3
                )


def test_positions_rounded_to_hundredths_are_regular(tmp_path):
    write_stack(tmp_path, along_z(*(round(0.625 * index, 2) for index in range(40))))
    assert read_dicom(tmp_path).spacing[0] == pytest.approx(0.625, abs=1e-3)


def test_cosines_rounded_to_four_decimals_are_accepted(tmp_path):
    write_series(tmp_path, depth=30, orientation=np.round(OBLIQUE, 4))
    affine = read_dicom(tmp_path).affine
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-3)


@pytest.mark.parametrize("tag", ["SpacingBetweenSlices", "SliceThickness"])
def test_single_file_takes_its_depth_from_its_header(tmp_path, tag):
    write_series(tmp_path, depth=1, **{tag: 3})
    volume = read_dicom(tmp_path / "0.dcm")
    assert volume.shape == (1, 5, 6)
    assert volume.spacing == pytest.approx((3, 0.5, 0.75))


def test_two_slices_are_read_where_a_header_confirms_their_distance(tmp_path):
    write_stack(tmp_path, along_z(0, 2), SpacingBetweenSlices=2)
    assert read_dicom(tmp_path).spacing[0] == 2


@pytest.mark.parametrize(
    ("slope", "intercept", "stored", "dtype"),
    [
        (1, -1024, np.uint16(4095), torch.int16),
        (1, -40000, np.uint16(50000), torch.int16),
        (1, 0, np.uint16(50000), torch.int32),
        (1, -1024, np.int16(-32768), torch.int32),
        (1, 2**31 - 1, np.int32(5), torch.int64),
        (1, 0.5, np.int16(7), torch.float32),
        (2, 0, np.int16(7), torch.float32),
        (-0.25, 3, np.int16(7), torch.float32),
    ],
)
def test_rescale(tmp_path, slope, intercept, stored, dtype):
    write_series(
        tmp_path, stored=np.full((3, 5, 6), stored), RescaleSlope=slope, RescaleIntercept=intercept
    )
    data = read_dicom(tmp_path).data
    assert data.dtype == dtype
    assert (data == int(stored) * slope + intercept).all()


def test_rescale_of_each_slice_is_its_own(tmp_path):
    write_stack(tmp_path, along_z(0, 2, 4), RescaleSlope=1, RescaleIntercept=0)
    edit(tmp_path, 2, RescaleSlope=0.5, RescaleIntercept=10)
    data = read_dicom(tmp_path).data
    assert data.dtype == torch.float32
    assert data[0, :, 0, 0].tolist() == [0, 1, 11]


@pytest.mark.parametrize("kind", [np.int16, np.uint16])
def test_unused_high_bits_are_cleared_or_sign_extended(tmp_path, kind):
    values = np.array([[-2048, -1, 0, 2047]] if kind is np.int16 else [[0, 1, 2048, 4095]])
    dirty = ((values & 0x0FFF) | 0x5000).astype(kind)
    write_series(tmp_path, stored=np.stack([dirty] * 3), BitsStored=12)
    np.testing.assert_array_equal(read_dicom(tmp_path).data[0, 1].numpy(), values)


@pytest.mark.parametrize(
    ("kind", "bits", "stored", "inverted"),
    [(np.uint16, 12, 4095, 0), (np.uint16, 16, 5, 65530), (np.int16, 12, -2048, 2047)],
)
def test_monochrome1_is_inverted_within_the_bits_stored(tmp_path, kind, bits, stored, inverted):
    write_series(
        tmp_path,
        stored=np.full((3, 4, 4), stored).astype(kind),
        BitsStored=bits,
        PhotometricInterpretation="MONOCHROME1",
    )
    assert (read_dicom(tmp_path).data == inverted).all()


def test_eight_bits_and_rle(tmp_path):
    stored = np.random.default_rng(0).integers(0, 255, (3, 5, 7), dtype=np.uint8)
    write_series(tmp_path, stored=stored)
    for file in tmp_path.iterdir():
        dataset = dcmread(file)
        dataset.compress(RLELossless)
        dataset.save_as(file)
    np.testing.assert_array_equal(read_dicom(tmp_path).data[0].numpy(), stored)


def test_what_is_no_slice_is_set_apart(tmp_path):
    stored = write_series(tmp_path / "scan" / "deeper", SOPClassUID=CTImageStorage, Modality="CT")
    picture = np.zeros((9, 9), np.int16)
    (tmp_path / "notes.txt").write_text("no DICOM")
    (tmp_path / "._0.dcm").write_bytes(b"macOS")
    for name, tags in {
        "localizer": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        "capture": {"SOPClassUID": SecondaryCaptureImageStorage, "SeriesInstanceUID": "1.9"},
        "mask": {"SOPClassUID": SegmentationStorage, "SeriesInstanceUID": "1.8"},
    }.items():
        write_slice(tmp_path / f"{name}.dcm", picture, position=(0, 0, 0), **tags)
    np.testing.assert_array_equal(read_dicom(tmp_path).data[0].numpy(), stored)


def test_links_are_not_followed(tmp_path):
    stored = write_series(tmp_path / "scan")
    write_series(tmp_path / "other", SeriesInstanceUID="1.2.4")
    (tmp_path / "scan" / "loop").symlink_to(tmp_path / "scan")
    (tmp_path / "scan" / "out").symlink_to(tmp_path / "other")
    (tmp_path / "scan" / "again.dcm").symlink_to(tmp_path / "scan" / "0.dcm")
    assert read_dicom(tmp_path / "scan").shape[0] == len(stored)


def test_blanked_uids_are_one_series(tmp_path):
    stored = write_series(tmp_path)
    for name in range(4):
        edit(tmp_path, name, SeriesInstanceUID="", SOPClassUID="")
    np.testing.assert_array_equal(read_dicom(tmp_path).data[0].numpy(), stored)


def test_one_of_several_series_is_chosen_by_its_uid(tmp_path):
    write_series(tmp_path / "a", depth=3, SeriesDescription="T1 axial")
    write_series(tmp_path / "b", depth=5, SeriesInstanceUID="1.2.4", SeriesDescription="T2")
    error = refusal(tmp_path)
    assert isinstance(error, AmbiguousSeriesError)
    assert error.code == "several-series"
    for part in ("1.2.3 'T1 axial', 3 images of 6x5", "1.2.4 'T2', 5 images of 6x5", "series_uid="):
        assert part in str(error)
    assert read_dicom(tmp_path, series_uid="1.2.4").shape == (5, 5, 6)
    assert refusal(tmp_path, series_uid="1.2.5").code == "series-not-found"


# What is refused: geometry


@pytest.mark.parametrize(
    ("positions", "code"),
    [
        (along_z(0, 2, 4, 8, 10), "missing-slice"),
        (along_z(0, 2, 8), "missing-slice"),
        (along_z(0, 2, 4, 7, 9), "irregular-spacing"),
        (along_z(0, 2, 4, 6, 8.2), "irregular-spacing"),
        (along_z(0, 2, 3, 4, 6), "missing-slice"),
        (along_z(0, 2, 4.06, 6, 8), "irregular-spacing"),
        (along_z(0, 0.02, 0.045, 0.06), "irregular-spacing"),  # micro-CT
        (along_z(0, 2, 2, 4), "duplicate-position"),
        (along_z(0, 0, 2, 2, 4, 4), "duplicate-position"),
        (along_z(1, 1), "duplicate-position"),
        ([(0, 0.5 * index, 2 * index) for index in range(5)], "gantry-tilt"),
        ([(0, 0.5 * (index == 2), 2 * index) for index in range(5)], "gantry-tilt"),
        # Tilt and a lost slice: to fetch the slice would end in the refusal of the tilt.
        ([(0, 0.5 * index, 2 * index) for index in (0, 1, 3)], "gantry-tilt"),
        (along_z(0, 2), "unproven-spacing"),
        (along_z(0), "unproven-spacing"),
    ],
)
def test_stack_that_is_not_regular_and_whole_is_refused(tmp_path, positions, code):
    write_stack(tmp_path, positions)
    error = refusal(tmp_path)
    assert isinstance(error, GeometryError)
    assert error.code == code


def test_drift_too_small_for_any_one_gap_is_refused(tmp_path):
    heights = np.cumsum([0.0] + [1.0] * 20 + [1.009] * 20)
    write_stack(tmp_path, along_z(*heights))
    assert refusal(tmp_path).code == "irregular-spacing"


def test_two_slices_further_apart_than_the_header_says_are_refused(tmp_path):
    write_stack(tmp_path, along_z(0, 4), SpacingBetweenSlices=2, SliceThickness=4)
    assert refusal(tmp_path).code == "unproven-spacing"


def test_duplicate_names_4d_as_a_cause(tmp_path):
    write_stack(tmp_path, along_z(0, 0, 2, 2))
    assert "4-D" in refusal(tmp_path).remedy


def test_missing_slice_is_counted_and_placed(tmp_path):
    write_stack(tmp_path, along_z(0, 2, 4, 10, 12))
    assert "2 missing: slices 3 and 4 of the stack lie 6.000 mm apart" in str(refusal(tmp_path))


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"ImageOrientationPatient": decimals(SAGITTAL)}, "mixed-orientation"),
        ({"ImageOrientationPatient": decimals([1, 0, 0, 0, 0.99, 0.14])}, "mixed-orientation"),
        ({"PixelSpacing": [0.5, 0.76]}, "mixed-pixel-spacing"),
        ({"ImagePositionPatient": None}, "no-geometry"),
        ({"ImageOrientationPatient": None}, "no-geometry"),
        ({"PixelSpacing": None}, "no-geometry"),
        ({"PixelSpacing": [0, 0.5]}, "no-geometry"),
        ({"ImagePositionPatient": ["0", "0"]}, "no-geometry"),
    ],
)
def test_one_slice_unlike_the_others_is_refused(tmp_path, tags, code):
    write_series(tmp_path)
    edit(tmp_path, 2, **tags)
    assert refusal(tmp_path).code == code


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")  # pydicom's word on a "nan"
def test_position_that_is_no_number_is_refused(tmp_path):
    write_series(tmp_path, origin=(-1.25, 0, 0))
    file = tmp_path / "2.dcm"
    file.write_bytes(file.read_bytes().replace(b"-1.25", b"nan  "))
    assert refusal(tmp_path).code == "no-geometry"


def test_slices_of_two_sizes_are_refused(tmp_path):
    write_series(tmp_path, depth=3)
    write_slice(tmp_path / "x.dcm", np.zeros((5, 7), np.int16), position=(-10, 20, 36))
    assert refusal(tmp_path).code == "mixed-size"


@pytest.mark.parametrize("second", [(0, 1.01, 0), (0.05, 1, 0), (1, 0, 0), (0, 0, 0)])
def test_orientation_that_is_no_rotation_is_refused(tmp_path, second):
    write_series(tmp_path)
    for name in range(4):
        edit(tmp_path, name, ImageOrientationPatient=decimals([1, 0, 0, *second]))
    assert refusal(tmp_path).code == "non-orthonormal-orientation"


# What is refused: kinds and damage


def lookup_table() -> Sequence:
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [2, 0, 16], "US"
    table.add_new("LUTData", "OW", b"\0\0\1\0")
    return Sequence([table])


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"NumberOfFrames": 2}, "multi-frame"),
        ({"SOPClassUID": EnhancedMRImageStorage}, "multi-frame"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "color"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "color"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}, "mosaic"),
        ({"ModalityLUTSequence": lookup_table()}, "modality-lut"),
        ({"HighBit": 15, "BitsStored": 12}, "pixel-layout"),
        ({"PhotometricInterpretation": "MONOCHROME1", "RescaleType": "HU"}, "inverted-units"),
        ({"PhotometricInterpretation": "MONOCHROME1", "Modality": "PT"}, "inverted-units"),
    ],
)
def test_kinds_that_are_not_read(tmp_path, tags, code):
    write_series(tmp_path, **tags)
    error = refusal(tmp_path)
    assert isinstance(error, UnsupportedError)
    assert error.code == code


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.100", "1.2.3.4", JPEGLSLossless])
def test_encoding_without_decoder_is_refused(tmp_path, syntax):
    write_series(tmp_path)
    for file in tmp_path.iterdir():
        dataset = dcmread(file)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0" + b"\xfe\xff\x00\xe0\4\0\0\0\0\0\0\0"
        dataset.save_as(file, implicit_vr=False, little_endian=True)
    # A decoder of JPEG-LS may be installed here: then the stream, which is none, is refused.
    assert refusal(tmp_path).code in (
        ("no-decoder", "bad-pixels") if syntax == JPEGLSLossless else ("no-decoder",)
    )


@pytest.mark.parametrize(("slope", "intercept"), [(0, 0), (1e20, 0), (1, 1e20)])
def test_rescale_no_scanner_writes_is_refused(tmp_path, slope, intercept):
    write_series(tmp_path, RescaleSlope=slope, RescaleIntercept=intercept)
    error = refusal(tmp_path)
    assert isinstance(error, IntensityError)
    assert error.code == "bad-rescale"


def test_scan_cut_anywhere_is_refused(tmp_path):
    write_series(tmp_path)
    whole = (tmp_path / "0.dcm").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "0.dcm").write_bytes(whole[:length])
        assert isinstance(refusal(tmp_path), UnreadableFileError | GeometryError)


def test_malformed_number_is_refused(tmp_path):
    write_series(tmp_path, RescaleSlope="1.25")
    file = tmp_path / "1.dcm"
    file.write_bytes(file.read_bytes().replace(b"1.25", b"1,25"))
    error = refusal(tmp_path)
    assert (error.code, error.path) == ("bad-header", str(file))


def test_file_that_is_dicom_only_by_its_name_is_refused(tmp_path):
    write_series(tmp_path)
    (tmp_path / "4.dcm").write_bytes(b"")
    assert refusal(tmp_path).code == "empty-file"
    (tmp_path / "4.dcm").write_bytes(b"text")
    assert refusal(tmp_path).code == "not-dicom"
    (tmp_path / "plain").write_bytes(b"text")
    assert refusal(tmp_path / "plain").code == "not-dicom"


def test_folder_without_images_says_what_it_holds(tmp_path):
    assert refusal(tmp_path).code == "no-image-series"
    write_slice(
        tmp_path / "0.dcm",
        np.zeros((4, 4), np.int16),
        position=(0, 0, 0),
        SOPClassUID=SecondaryCaptureImageStorage,
    )
    error = refusal(tmp_path)
    assert isinstance(error, UnreadableFileError)
    assert "1 Secondary Capture Image Storage" in error.reason
    assert refusal(tmp_path / "nowhere").code == "missing-file"


# Real series


def real(*parts: str) -> Path:
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip("real data is not beside this checkout")
    return path


@pytest.mark.parametrize(
    "name",
    [
        "generic/anatomical/001",
        "generic/anatomical/001_implicit",
        "generic/anatomical/002_non_isotropic",
        "siemens_anatomical/001",
        "siemens_anatomical/001_implicit",
        "philips_enhanced_anatomical/001",
        "philips_enhanced_anatomical/001_implicit",
    ],
)
def test_real_series_equals_its_ground_truth_and_simpleitk(name):
    folder = real("dicom_series", *name.split("/"))
    assert_same_place(read_dicom(folder), folder.with_name(f"{folder.name}_ground_truth.nii.gz"))
    assert_equals_simpleitk(folder)


@pytest.mark.parametrize("kind", ["", "_rle", "_j2k", "_jpeg", "_jpegls"])
def test_real_compressed_series_equals_its_ground_truth(kind):
    folder = real("dicom_series", "generic", f"compressed{kind}", "001")
    assert_same_place(read_dicom(folder), folder.with_name("001_ground_truth.nii.gz"))
    assert_equals_simpleitk(folder)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("failing/gantrytilting/001", "gantry-tilt"),
        ("failing/sliceincrement/001", "missing-slice"),  # 5, 5 and 10 mm: a slice is lost
        # Tilted by 15 degrees and a slice lost too: tilt, since fetching it would not help.
        ("failing/sliceincrement/002", "gantry-tilt"),
        # Two slices whose headers state no spacing: one gap cannot prove itself.
        ("failing/slicecount/001", "unproven-spacing"),
        ("generic/rgb/001", "no-image-series"),  # secondary captures: set apart before colour
    ],
)
def test_real_series_that_must_be_refused(name, code):
    assert refusal(real("dicom_series", *name.split("/"))).code == code


def test_real_chest_ct_equals_simpleitk():
    folder = real("lidc", "LIDC-IDRI-0001")
    volume = read_dicom(folder)
    assert volume.shape == (133, 512, 512)
    assert volume.data.dtype == torch.int16
    assert_equals_simpleitk(next(folder.rglob("*.dcm")).parent)


def test_real_ct_with_blanked_uids_and_jpeg_2000_equals_simpleitk():
    folder = real("totalsegmentator", "example_ct_dicom")
    assert read_dicom(folder).shape == (20, 512, 512)
    assert_equals_simpleitk(folder)
