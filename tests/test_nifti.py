from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import SIGNED_ORDERS, affines, world
from volumetric import read_volume, write_volume
from volumetric.errors import (
    GeometryError,
    OutputError,
    UnreadableFileError,
    UnsupportedError,
    VolumetricError,
)
from volumetric.volume import Volume

Save = Callable[..., Path]


def test_axes_are_reversed_with_the_affine(tmp_path: Path, save_nifti: Save) -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)  # (x, y, z)
    affine = np.array([[1, 0, 0, 5], [0, 2, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]], float)
    volume = read_volume(save_nifti(tmp_path / "a.nii.gz", array, affine))
    assert volume.shape == (4, 3, 2)
    assert volume.spacing == (3, 2, 1)
    assert volume.data[0, 3, 2, 1].item() == array[1, 2, 3]
    assert volume.affine @ [3, 2, 1, 1] == pytest.approx(affine @ [1, 2, 3, 1])


@settings(max_examples=40)
@given(affines(), st.sampled_from(["uint8", "int16", "int32", "float32", "float64", "int64"]))
def test_write_then_read_gives_it_back(
    tmp_path_factory: pytest.TempPathFactory, affine: np.ndarray, dtype: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"round-{dtype}.nii.gz"
    affine = affine.astype(np.float32).astype(np.float64)  # the header holds float32
    data = torch.arange(60).reshape(1, 3, 4, 5).to(getattr(torch, dtype))
    write_volume(Volume(data, affine), path)
    back = read_volume(path)
    assert torch.equal(back.data, data)
    assert back.data.dtype == data.dtype
    assert np.array_equal(back.affine, affine)


def test_simpleitk_places_our_files_alike(tmp_path: Path) -> None:
    angle = 0.3
    affine = np.diag([2.0, 1.0, 1.5, 1.0])
    affine[1:3, 1:3] = [
        [np.cos(angle), -1.5 * np.sin(angle)],
        [np.sin(angle), 1.5 * np.cos(angle)],
    ]
    affine[:3, 3] = (10, -20, 30)
    volume = Volume(torch.arange(60, dtype=torch.int16).reshape(1, 3, 4, 5), affine)
    write_volume(volume, tmp_path / "a.nii")
    image = sitk.ReadImage(str(tmp_path / "a.nii"))
    for index in np.ndindex(3, 4, 5):
        d, h, w = index
        lps = np.array(image.TransformIndexToPhysicalPoint((w, h, d)))
        assert np.abs(lps * [-1, -1, 1] - world(volume, np.array([index]))).max() < 1e-3
        assert image.GetPixel(w, h, d) == volume.data[(0, *index)].item()


def test_scaled_values_are_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4))
    image.set_sform(np.eye(4), 1)
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / "a.nii")
    raw = nib.load(tmp_path / "a.nii").dataobj.get_unscaled()
    found = read_volume(tmp_path / "a.nii").data
    assert found.dtype == torch.float32
    assert found.flatten().tolist() == pytest.approx((raw.transpose(2, 1, 0) * 0.5 + 10).flatten())


@pytest.mark.parametrize(("stored", "kept"), [(">i2", torch.int16), ("<u2", torch.int32)])
def test_foreign_types_keep_their_values(tmp_path: Path, stored: str, kept: torch.dtype) -> None:
    array = np.array([0, 1, 300, 32000], dtype=stored).reshape(2, 2, 1)
    endian = ">" if stored.startswith(">") else "<"
    header = nib.Nifti1Header(endianness=endian)
    header.set_data_dtype(array.dtype)
    image = nib.Nifti1Image(array, np.eye(4), header)
    image.set_sform(np.eye(4), 1)
    nib.save(image, tmp_path / "a.nii")
    found = read_volume(tmp_path / "a.nii").data
    assert found.dtype == kept
    assert sorted(found.flatten().tolist()) == [0, 1, 300, 32000]


SFORM = np.array([[0, 2, 0, -9], [-1.5, 0, 0, 8], [0, 0, 3, 7], [0, 0, 0, 1]], float)


def fields(**changes: object) -> nib.Nifti1Header:
    """A sound header of 2 x 3 x 4 int16 voxels, sform and qform alike, with fields changed."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((2, 3, 4))
    header.set_zooms((1.5, 2, 3))
    header.set_sform(SFORM, 1)
    header.set_qform(SFORM, 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    for name, value in changes.items():
        field, _, index = name.partition("__")
        header[field][int(index) if index else ...] = value
    return header


def save_raw(path: Path, header: nib.Nifti1Header, n_bytes: int = 48) -> Path:
    """The header exactly as it is, and voxels 0, 1, …"""
    voxels = np.arange(n_bytes // 2, dtype=header.endianness + "i2").tobytes()
    path.write_bytes(header.binaryblock + bytes(4) + voxels + bytes(n_bytes % 2))
    return path


def refused(path: Path) -> str:
    with pytest.raises(VolumetricError) as caught:
        read_volume(path)
    assert caught.value.path == str(path)
    return caught.value.code


def codes(volume: Volume) -> list[tuple[str, str]]:
    return [(finding.code, finding.severity) for finding in volume.about.findings]


QFORM = {"sform_code": 0}
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"sizeof_hdr": 347}, "unreadable-nifti"),
        ({"magic": b"ni1"}, "bad-magic"),
        ({"magic": b"n+2"}, "bad-magic"),
        ({"magic": b""}, "bad-magic"),
        ({"magic": b"n+1x"}, "bad-magic"),
        ({"dim__0": 0}, "bad-dimensions"),
        ({"dim__0": 8}, "bad-dimensions"),
        ({"dim__0": -3}, "bad-dimensions"),
        ({"dim__2": 0}, "bad-dimensions"),
        ({"dim__2": -3}, "bad-dimensions"),
        ({"dim__2": 4}, "truncated-file"),
        ({"dim__2": 2}, "trailing-bytes"),
        ({"datatype": 9999}, "bad-datatype"),
        ({"datatype": 0}, "bad-datatype"),
        ({"datatype": 255}, "bad-datatype"),
        ({"datatype": 1, "bitpix": 1}, "voxel-type"),
        ({"datatype": 1536, "bitpix": 128}, "voxel-type"),
        ({"datatype": 2048, "bitpix": 256}, "voxel-type"),
        ({"datatype": 2304, "bitpix": 32}, "voxel-type"),
        ({"datatype": 4, "bitpix": 8}, "bad-bitpix"),
        ({"datatype": 2, "bitpix": 8}, "trailing-bytes"),
        ({"vox_offset": 0}, "bad-vox-offset"),
        ({"vox_offset": 351}, "bad-vox-offset"),
        ({"vox_offset": 352.5}, "bad-vox-offset"),
        ({"vox_offset": -352}, "bad-vox-offset"),
        ({"vox_offset": 4e9}, "bad-vox-offset"),
        ({"vox_offset": NAN}, "bad-vox-offset"),
        ({"vox_offset": INF}, "bad-vox-offset"),
        ({"vox_offset": 368}, "truncated-file"),
        ({"scl_slope": INF}, "bad-rescale"),
        ({"scl_slope": 2, "scl_inter": NAN}, "bad-rescale"),
        ({"scl_slope": 1, "scl_inter": -INF}, "bad-rescale"),
        ({"xyzt_units": 3}, "odd-units"),
        ({"srow_x__1": NAN}, "bad-affine"),
        ({"srow_x__3": INF}, "bad-affine"),
        ({"srow_x__1": 1e30}, "bad-affine"),
        ({"srow_x": 0}, "singular-affine"),
        ({"sform_code": -1}, "bad-orientation-code"),
        ({"sform_code": 300}, "bad-orientation-code"),
        ({"sform_code": 0, "qform_code": 6}, "bad-orientation-code"),
        ({"sform_code": 0, "qform_code": 0}, "no-orientation"),
        ({**QFORM, "pixdim__2": 0}, "bad-pixdim"),
        ({**QFORM, "pixdim__2": -2}, "bad-pixdim"),
        ({**QFORM, "pixdim__2": NAN}, "bad-pixdim"),
        ({**QFORM, "pixdim__3": INF}, "bad-affine"),
        ({**QFORM, "pixdim__0": 0.5}, "bad-qfac"),
        ({**QFORM, "pixdim__0": NAN}, "bad-qfac"),
        ({**QFORM, "quatern_b": 1.1}, "bad-quaternion"),
        ({**QFORM, "quatern_b": NAN}, "bad-quaternion"),
        ({**QFORM, "qoffset_x": NAN}, "bad-affine"),
    ],
)
def test_a_header_that_cannot_be_right_is_refused(
    tmp_path: Path, changes: dict[str, object], code: str
) -> None:
    assert refused(save_raw(tmp_path / "a.nii", fields(**changes))) == code


@pytest.mark.parametrize(
    "changes",
    [
        {"scl_slope": 0, "scl_inter": 5},  # the standard: a slope of 0 scales nothing
        {"scl_slope": NAN, "scl_inter": NAN},  # nifti1_io.c, and nibabel's own headers
        {"scl_slope": 1, "scl_inter": 0},
        {"pixdim__0": 0, "qform_code": 0, "pixdim__1": -1.5},  # signs mean nothing
        {"dim__4": -7, "dim__5": 99},  # behind dim[0]: ignored
        {"sform_code": 4, "qform_code": 1},
        {"cal_max": NAN, "slice_end": -9, "intent_code": 1002, "extents": 16384},
    ],
)
def test_what_the_standard_allows_is_read(tmp_path: Path, changes: dict[str, object]) -> None:
    volume = read_volume(save_raw(tmp_path / "a.nii", fields(**changes)))
    assert volume.data.flatten().tolist() == list(range(24))
    assert volume.data.dtype == torch.int16
    assert volume.shape == (4, 3, 2)
    assert np.array_equal(volume.affine, SFORM[:, [2, 1, 0, 3]])
    assert volume.about.findings == ()


def test_a_qfac_that_was_not_filled_in_means_one(tmp_path: Path) -> None:
    plain = read_volume(save_raw(tmp_path / "a.nii", fields(**QFORM, pixdim__0=1)))
    empty = read_volume(save_raw(tmp_path / "b.nii", fields(**QFORM, pixdim__0=0)))
    assert np.array_equal(plain.affine, empty.affine)
    flipped = read_volume(save_raw(tmp_path / "c.nii", fields(**QFORM, pixdim__0=-1)))
    assert np.allclose(flipped.affine, plain.affine * [-1, 1, 1, 1])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"qoffset_x": -9 + 0.4}, "sform-qform-conflict"),
        ({"quatern_b": 0.1, "quatern_c": 0}, "sform-qform-conflict"),
        ({"pixdim__3": 3.2}, "sform-qform-conflict"),
        ({"pixdim__0": -1}, "sform-qform-conflict"),
        ({"pixdim__3": 0}, "bad-pixdim"),
        ({"pixdim__0": 7}, "bad-qfac"),
        ({"quatern_c": 1.5}, "bad-quaternion"),
        ({"qoffset_x": NAN}, "bad-affine"),
    ],
)
def test_a_qform_that_disagrees_is_told(
    tmp_path: Path, changes: dict[str, object], code: str
) -> None:
    volume = read_volume(save_raw(tmp_path / "a.nii", fields(**changes)))
    assert np.array_equal(volume.affine, SFORM[:, [2, 1, 0, 3]])
    assert codes(volume) == [(code, "warning")]


@pytest.mark.parametrize(
    ("pixdim", "told"),
    [
        ({"pixdim__1": 0.5, "pixdim__2": 0.5}, "1.5 mm apart (d, h, w), its pixdim says 3 x 0.5"),
        ({"pixdim__1": 0}, "x 0"),
        ({"pixdim__3": NAN}, "nan x"),
        ({"pixdim__1": 1.4}, None),
    ],
)
def test_an_sform_that_contradicts_pixdim_is_told(
    tmp_path: Path, pixdim: dict[str, object], told: str | None
) -> None:
    """SimpleITK takes the spacing from pixdim, and so measures another volume."""
    volume = read_volume(save_raw(tmp_path / "a.nii", fields(qform_code=0, **pixdim)))
    assert np.array_equal(volume.affine, SFORM[:, [2, 1, 0, 3]])
    if told is None:
        assert codes(volume) == []
    else:
        assert codes(volume) == [("sform-pixdim-conflict", "warning")]
        assert told in volume.about.findings[0].reason


@pytest.mark.parametrize(
    ("padding", "code"),
    [
        (bytes(512), None),
        (bytes(511) + b"\1", "trailing-bytes"),
        (bytes(8192), "trailing-bytes"),
    ],
)
def test_zeros_that_fill_up_a_block_may_follow(
    tmp_path: Path, padding: bytes, code: str | None
) -> None:
    """Fewer than a slice of them, or the header might leave out a black one."""
    array = np.ones((20, 20, 2), np.int16)
    image = nib.Nifti1Image(array, np.eye(4))
    image.set_sform(np.eye(4), 1)
    nib.save(image, tmp_path / "a.nii")
    content = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii").write_bytes(content + padding)
    if code:
        assert refused(tmp_path / "a.nii") == code
    else:
        assert read_volume(tmp_path / "a.nii").data.sum() == array.sum()
    (tmp_path / "a.nii").write_bytes(content + bytes(800))  # a slice
    assert refused(tmp_path / "a.nii") == "trailing-bytes"


def test_the_conflict_is_measured_at_the_worst_voxel(tmp_path: Path) -> None:
    header = fields(pixdim__3=3.2, sform_code=4)  # 0.2 mm a slice, 3 slices away
    (finding,) = read_volume(save_raw(tmp_path / "a.nii", header)).about.findings
    assert "(MNI) and qform (scanner)" in finding.reason
    assert "0.60 mm" in finding.reason
    assert "most at voxel (3, " in finding.reason
    close = fields(qoffset_x=-9 + 0.1)  # less than a tenth of the smallest spacing, 1.5 mm
    assert read_volume(save_raw(tmp_path / "b.nii", close)).about.findings == ()


def test_a_shear_is_kept_as_it_is(tmp_path: Path) -> None:
    sheared = SFORM.copy()
    sheared[0, 2] = 0.5
    header = fields(qform_code=0)
    header.set_sform(sheared, 2)
    volume = read_volume(save_raw(tmp_path / "a.nii", header))
    assert np.array_equal(volume.affine, sheared[:, [2, 1, 0, 3]])
    assert codes(volume) == [("sheared-affine", "note")]


@pytest.mark.parametrize("index", range(48))
def test_every_order_of_axes_lies_where_nibabel_and_simpleitk_say(
    tmp_path: Path, index: int
) -> None:
    rng = np.random.default_rng(index)
    order, signs = SIGNED_ORDERS[index]
    turn = np.linalg.qr(np.eye(3) + 0.2 * rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.diag(turn))
    affine = np.eye(4)
    affine[:3, :3] = turn[:, order] * np.array(signs) * rng.uniform(0.4, 5, 3)
    affine[:3, 3] = rng.uniform(-200, 200, 3)
    image = nib.Nifti1Image(rng.integers(0, 999, (5, 3, 4)).astype(np.int16), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nib.save(image, tmp_path / "both.nii.gz")
    image.set_sform(None, 0)
    nib.save(image, tmp_path / "qform.nii")
    for path in (tmp_path / "both.nii.gz", tmp_path / "qform.nii"):
        volume, other, third = read_volume(path), nib.load(path), sitk.ReadImage(str(path))
        assert volume.about.findings == ()
        for d, h, w in [(0, 0, 0), (3, 2, 4), *rng.integers(0, (4, 3, 5), (5, 3)).tolist()]:
            place = world(volume, np.array([[d, h, w]]))[0]
            assert np.abs(place - (other.affine @ (w, h, d, 1))[:3]).max() < 1e-3
            lps = np.array(third.TransformIndexToPhysicalPoint((w, h, d)))
            assert np.abs(place - lps * (-1, -1, 1)).max() < 1e-3
            value = volume.data[0, d, h, w].item()
            assert value == other.dataobj[w, h, d] == third.GetPixel(w, h, d)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image, nib.Nifti1Pair, nib.Nifti2Pair])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_either_version_and_byte_order_in_one_file_or_two(
    tmp_path: Path, kind: type, order: str, suffix: str
) -> None:
    array = np.arange(-30, 30, dtype=order + "i4").reshape(3, 4, 5)
    header = kind.header_class(endianness=order)
    header.set_data_dtype(array.dtype)
    image = kind(array, SFORM, header)
    image.set_sform(SFORM, 1)
    is_pair = "Pair" in kind.__name__
    name = f"a{'.img' if is_pair else '.nii'}{suffix}"
    nib.save(image, tmp_path / name)
    for path in tmp_path.iterdir():
        volume = read_volume(path)
        assert np.array_equal(volume.data[0].numpy().transpose(2, 1, 0), array)
        assert np.array_equal(volume.affine, SFORM[:, [2, 1, 0, 3]])
    assert len(list(tmp_path.iterdir())) == 1 + is_pair


def test_a_pair_needs_both_of_its_files_and_its_magic(tmp_path: Path) -> None:
    image = nib.Nifti1Pair(np.ones((2, 3, 4), np.int16), SFORM)
    nib.save(image, tmp_path / "a.img")
    (tmp_path / "a.img").rename(tmp_path / "b.img")
    assert refused(tmp_path / "a.hdr") == "missing-twin"
    assert refused(tmp_path / "b.img") == "missing-twin"
    save_raw(tmp_path / "b.hdr", fields())
    with pytest.raises(UnreadableFileError, match="bad-magic"):
        read_volume(tmp_path / "b.img")
    # The voxels of one half may be compressed and the other not, and names may shout.
    (tmp_path / "A.HDR").write_bytes((tmp_path / "a.hdr").read_bytes())
    (tmp_path / "A.IMG.gz").write_bytes(gzip.compress((tmp_path / "b.img").read_bytes()))
    assert read_volume(tmp_path / "A.HDR").shape == (4, 3, 2)
    nib.save(nib.Spm99AnalyzeImage(np.ones((2, 3, 4), np.int16), SFORM), tmp_path / "old.img")
    assert refused(tmp_path / "old.hdr") == "analyze"


@pytest.mark.parametrize("n_axes", [1, 2])
def test_a_third_axis_is_never_invented(tmp_path: Path, n_axes: int) -> None:
    n_bytes = 12 if n_axes == 2 else 4
    path = save_raw(tmp_path / "a.nii", fields(dim__0=n_axes), n_bytes)
    assert refused(path) == "two-dimensional"
    single = fields(dim__3=1)  # one slice whose thickness is stated is another thing
    volume = read_volume(save_raw(tmp_path / "b.nii", single, 12))
    assert (volume.shape, volume.spacing) == ((1, 3, 2), (3, 2, 1.5))
    # Without a thickness there is no third axis to place it by.
    flat = fields(dim__3=1, sform_code=0, pixdim__3=0)
    assert refused(save_raw(tmp_path / "c.nii", flat, 12)) == "bad-pixdim"


@pytest.mark.parametrize(
    ("stored", "slope", "kept"),
    [
        ("int16", 0.1, torch.float32),
        ("uint8", -3.0, torch.float32),
        ("uint16", 1 / 3, torch.float32),
        ("float32", 0.1, torch.float32),
        ("int32", 0.1, torch.float64),  # float32 tells 16 million values apart, not 4 billion
        ("uint32", 1e-3, torch.float64),
        ("int64", 2.0, torch.float64),
        ("float64", 0.1, torch.float64),
    ],
)
def test_scaling_loses_no_value(
    tmp_path: Path, stored: str, slope: float, kept: torch.dtype
) -> None:
    largest = 2.0**50 if stored == "int64" else np.iinfo(stored).max if "int" in stored else 1e9
    array = np.array([0, 1, 2, largest - 1, largest], dtype=stored).reshape(5, 1, 1)
    image = nib.Nifti2Image(array, SFORM, dtype=stored)
    image.header.set_slope_inter(slope, 7)
    nib.save(image, tmp_path / "a.nii")
    stored_as = nib.load(tmp_path / "a.nii").dataobj
    assert stored_as.slope == slope
    found = read_volume(tmp_path / "a.nii").data
    assert found.dtype == kept
    raw = stored_as.get_unscaled().ravel().astype(np.longdouble)
    expected = raw * slope + 7
    assert np.allclose(found.flatten().numpy(), expected.astype(float), rtol=1e-7, atol=0)
    if "int" in stored:
        assert len(set(found.flatten().tolist())) == len(set(raw.tolist()))


def test_a_far_intercept_asks_for_float64(tmp_path: Path) -> None:
    near = read_volume(save_raw(tmp_path / "a.nii", fields(scl_slope=0.001, scl_inter=10)))
    far = read_volume(save_raw(tmp_path / "b.nii", fields(scl_slope=0.001, scl_inter=1e6)))
    assert (near.data.dtype, far.data.dtype) == (torch.float32, torch.float64)
    assert len(far.data.unique()) == 24
    huge = nib.Nifti1Image(np.full((2, 2, 2), 1e30, np.float32), SFORM)
    huge.header.set_slope_inter(1e30, 0)
    block = huge.header.copy()
    block["vox_offset"], block["magic"] = 352, b"n+1"
    block["scl_slope"], block["scl_inter"] = 1e30, 0
    path = tmp_path / "c.nii"
    path.write_bytes(block.binaryblock + bytes(4) + np.full(8, 1e30, "<f4").tobytes())
    assert refused(path) == "bad-rescale"


def test_unsigned_64_bits_are_kept_where_they_fit(tmp_path: Path) -> None:
    for number, (largest, code) in enumerate([(2**63 - 1, None), (2**63, "voxel-type")]):
        array = np.array([0, largest], np.uint64).reshape(2, 1, 1)
        nib.save(nib.Nifti1Image(array, SFORM, dtype=np.uint64), tmp_path / f"{number}.nii")
        if code:
            assert refused(tmp_path / f"{number}.nii") == code
        else:
            found = read_volume(tmp_path / f"{number}.nii").data
            assert found.flatten().tolist() == [0, largest]


def test_what_a_file_holds_tells_whether_it_is_compressed(tmp_path: Path, save_nifti: Save) -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    plain, zipped = (save_nifti(tmp_path / name, array) for name in ("a.nii", "a.nii.gz"))
    plain.rename(tmp_path / "b.nii.gz")
    zipped.rename(tmp_path / "b.nii")
    for name in ("b.nii", "b.nii.gz"):
        found = read_volume(tmp_path / name).data[0].numpy()
        assert np.array_equal(found.transpose(2, 1, 0), array)


def test_a_flipped_bit_in_compressed_voxels_is_noticed(tmp_path: Path, save_nifti: Save) -> None:
    rng = np.random.default_rng(3)
    array = rng.integers(-500, 500, (9, 10, 11)).astype(np.int16)
    content = save_nifti(tmp_path / "whole.nii.gz", array).read_bytes()
    wrong_elsewhere = 0
    for at in rng.integers(300, len(content) - 8, 60):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        path = tmp_path / "damaged.nii.gz"
        path.write_bytes(damaged)
        assert refused(path) in ("damaged-compression", "truncated-file", "trailing-bytes")
        try:
            other = np.asarray(nib.load(path).dataobj)
        except (OSError, EOFError, zlib.error):
            continue
        wrong_elsewhere += not np.array_equal(other, array)
    assert wrong_elsewhere > 0  # nibabel does not read on to the checksum


def test_bytes_behind_the_voxels(tmp_path: Path, save_nifti: Save) -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    plain = save_nifti(tmp_path / "a.nii", array).read_bytes()
    path = tmp_path / "b.nii.gz"
    for content, code in [
        (gzip.compress(plain[:300]) + gzip.compress(plain[300:]), None),  # members
        (gzip.compress(plain) + bytes(700), None),  # padding of a tape's blocks
        (gzip.compress(plain) + gzip.compress(b""), None),
        (gzip.compress(plain) + gzip.compress(b"x"), "trailing-bytes"),
        (gzip.compress(plain + b"\0"), "trailing-bytes"),
        (gzip.compress(plain) + b"no gzip", "damaged-compression"),
        (gzip.compress(plain[:-1]), "truncated-file"),
        (gzip.compress(plain)[:-1], "truncated-file"),
        (plain + b"\1", "trailing-bytes"),
        (plain[:-1], "truncated-file"),
    ]:
        path.write_bytes(content)
        if code:
            assert refused(path) == code
        else:
            assert np.array_equal(read_volume(path).data[0].numpy().transpose(2, 1, 0), array)


def test_extensions_are_passed_over(tmp_path: Path, save_nifti: Save) -> None:
    image = nib.Nifti1Image(np.arange(8, dtype=np.uint8).reshape(2, 2, 2), SFORM)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 5000))
    nib.save(image, tmp_path / "a.nii.gz")
    expected = np.arange(8).reshape(2, 2, 2).transpose(2, 1, 0)
    assert np.array_equal(read_volume(tmp_path / "a.nii.gz").data[0].numpy(), expected)
    content = bytearray(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    content[352:356] = (2**31 - 1).to_bytes(4, "little")  # one that claims two gigabytes
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(bytes(content)))
    assert np.array_equal(read_volume(tmp_path / "b.nii.gz").data[0].numpy(), expected)


def test_the_sform_goes_before_the_qform(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.set_sform(np.diag([2.0, 2, 2, 1]), 1)
    image.set_qform(np.eye(4), 1)
    nib.save(image, tmp_path / "both.nii")
    both = read_volume(tmp_path / "both.nii")
    assert both.spacing == (2, 2, 2)
    assert codes(both) == [("sform-qform-conflict", "warning")]
    image.set_sform(None, 0)
    nib.save(image, tmp_path / "q.nii")
    assert read_volume(tmp_path / "q.nii").spacing == (1, 1, 1)


def test_a_trailing_axis_of_one_is_no_time(tmp_path: Path, save_nifti: Save) -> None:
    path = save_nifti(tmp_path / "a.nii", np.zeros((2, 3, 4, 1), np.uint8))
    assert read_volume(path).shape == (4, 3, 2)


def test_refuses_what_it_cannot_prove(tmp_path: Path, save_nifti: Save) -> None:
    rgb = np.zeros((2, 2, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    flat = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    flat.header["srow_z"], flat.header["sform_code"] = (0, 0, 0, 5), 1
    flat.header["vox_offset"], flat.header["magic"] = 352, b"n+1"
    flat_path = tmp_path / "flat.nii"
    flat_path.write_bytes(flat.header.binaryblock + bytes(4) + bytes(8))
    lost = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), None)
    nib.save(lost, tmp_path / "lost.nii")
    whole = save_nifti(tmp_path / "whole.nii.gz", np.random.default_rng(0).normal(size=(9, 9, 9)))
    (tmp_path / "cut.nii.gz").write_bytes(whole.read_bytes()[:2000])
    plain = save_nifti(tmp_path / "plain.nii", np.zeros((9, 9, 9)))
    (tmp_path / "cut.nii").write_bytes(plain.read_bytes()[:2000])
    (tmp_path / "empty.nii.gz").touch()
    (tmp_path / "words.nii.gz").write_text("no scan at all")
    (tmp_path / "notes.txt").write_text("no scan either, but long enough to be looked at" * 9)
    for path, kind, code in [
        (save_nifti(tmp_path / "t.nii", np.zeros((2, 2, 2, 5))), UnsupportedError, "four-dim"),
        (save_nifti(tmp_path / "rgb.nii", rgb), UnsupportedError, "voxel-type"),
        (save_nifti(tmp_path / "c.nii", np.zeros((2, 2, 2), "c8")), UnsupportedError, "voxel-type"),
        (flat_path, GeometryError, "singular"),
        (tmp_path / "lost.nii", GeometryError, "no-orientation"),
        (tmp_path / "cut.nii.gz", UnreadableFileError, "truncated-file"),
        (tmp_path / "cut.nii", UnreadableFileError, "truncated-file"),
        (tmp_path / "empty.nii.gz", UnreadableFileError, "empty-file"),
        (tmp_path / "words.nii.gz", UnreadableFileError, "unreadable-nifti"),
        (tmp_path / "absent.nii.gz", UnreadableFileError, "missing-file"),
        (tmp_path / "notes.txt", UnsupportedError, "unknown-format"),
    ]:
        with pytest.raises(kind) as caught:
            read_volume(path)
        assert caught.value.code.startswith(code)
        assert caught.value.path == str(path)
        assert caught.value.remedy


def test_metres_are_no_millimetres(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.set_sform(np.eye(4), 1)
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(UnsupportedError, match="odd-units"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("code", [0, 2, 4, 7, 64, 130])
def test_an_odd_time_unit_is_no_fault(tmp_path: Path, code: int) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.set_sform(np.eye(4), 1)
    image.header["xyzt_units"] = code
    nib.save(image, tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").spacing == (1, 1, 1)


def test_writing_where_one_cannot(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    volume = Volume(torch.zeros(1, 2, 2, 2), np.eye(4))
    with pytest.raises(OutputError):
        write_volume(volume, tmp_path / "file" / "a.nii.gz")
    with pytest.raises(UnsupportedError):
        write_volume(Volume(torch.zeros(2, 2, 2, 2), np.eye(4)), tmp_path / "a.nii.gz")
    assert not (tmp_path / "a.nii.gz").exists()


@pytest.mark.parametrize(
    "name", ["a.hdr", "a.img", "a.nrrd", "a.mha", "a.dcm", "a", "a.mgz", "a.nii.bz2", "nii.gz"]
)
def test_only_nifti_is_written_and_nothing_else_touched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("kept")
    with pytest.raises(UnsupportedError, match="unknown-format"):
        write_volume(Volume(torch.zeros(1, 2, 2, 2), np.eye(4)), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "kept"
    with pytest.raises(UnsupportedError, match="unknown-format"):
        write_volume(Volume(torch.zeros(1, 2, 2, 2), np.eye(4)), tmp_path / "new" / name)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII", "A.NII.GZ", "a.b.nii.gz"])
def test_every_spelling_that_is_written_is_read(tmp_path: Path, name: str) -> None:
    volume = Volume(torch.arange(24, dtype=torch.int16).reshape(1, 2, 3, 4), np.eye(4))
    write_volume(volume, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert torch.equal(read_volume(tmp_path / name).data, volume.data)


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").mkdir()  # in the way of the last step
    with pytest.raises(OutputError, match="unwritable"):
        write_volume(Volume(torch.zeros(1, 2, 2, 2), np.eye(4)), tmp_path / "a.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]
    with pytest.raises(UnsupportedError, match="voxel-type"):
        write_volume(Volume(torch.zeros(1, 2, 2, 2) + 1j, np.eye(4)), tmp_path / "b.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_written_wider(tmp_path: Path, dtype: torch.dtype) -> None:
    volume = Volume(torch.arange(8).reshape(1, 2, 2, 2).to(dtype) / 4, np.eye(4))
    write_volume(volume, tmp_path / "a.nii")
    assert torch.equal(read_volume(tmp_path / "a.nii").data, volume.data.to(torch.float32))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04" + bytes(800), "is a zip archive, .*Unpack it"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(800), "is a 7z archive, .*Unpack it"),
        (b"%PDF-1.7\n" + bytes(800), "is a PDF"),
        (b"\n <!DOCTYPE html>\n<html>" + b" " * 800, "is a web page.*Download it again"),
        (b"<html><head>", "is a web page"),
    ],
)
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.mha", "a.nrrd", "a.mgz"])
def test_says_what_came_in_place_of_a_volume(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    for stored in (content, gzip.compress(content)):
        if name.endswith(("mha", "nrrd")) and stored is not content:
            continue
        (tmp_path / name).write_bytes(stored)
        with pytest.raises(UnreadableFileError, match=said) as caught:
            read_volume(tmp_path / name)
        assert caught.value.code == "other-format"
