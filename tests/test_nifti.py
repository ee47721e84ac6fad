from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import affines, world
from volumetric import read_volume, write_volume
from volumetric.errors import GeometryError, OutputError, UnreadableFileError, UnsupportedError
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


def test_the_sform_goes_before_the_qform(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.set_sform(np.diag([2.0, 2, 2, 1]), 1)
    image.set_qform(np.eye(4), 1)
    nib.save(image, tmp_path / "both.nii")
    assert read_volume(tmp_path / "both.nii").spacing == (2, 2, 2)
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
        (tmp_path / "cut.nii.gz", UnreadableFileError, "unreadable-nifti"),
        (tmp_path / "cut.nii", UnreadableFileError, "unreadable-nifti"),
        (tmp_path / "empty.nii.gz", UnreadableFileError, "unreadable-nifti"),
        (tmp_path / "words.nii.gz", UnreadableFileError, "unreadable-nifti"),
        (tmp_path / "absent.nii.gz", UnreadableFileError, "missing-file"),
        (tmp_path / "notes.txt", UnsupportedError, "unknown-format"),
    ]:
        with pytest.raises(kind) as caught:
            read_volume(path)
        assert caught.value.code.startswith(code)
        assert caught.value.path == str(path)
        assert caught.value.remedy


@pytest.mark.parametrize(
    ("field", "value"), [("datatype", 9999), ("dim", [3, -5, 2, 2, 1, 1, 1, 1]), ("magic", b"x")]
)
def test_a_damaged_header_is_refused(tmp_path: Path, field: str, value: object) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.set_sform(np.eye(4), 1)
    header = image.header.structarr.copy()
    header[field] = value
    path = tmp_path / "a.nii"
    path.write_bytes(header.tobytes() + bytes(4) + bytes(8))
    with pytest.raises(UnreadableFileError):
        read_volume(path)


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
