"""MGH, NRRD and MetaImage against nibabel and SimpleITK."""

from __future__ import annotations

import gzip
import pickle
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import SIGNED_ORDERS, affines, world
from volumetric import VolumetricError, read_volume
from volumetric.errors import printable
from volumetric.volume import Volume

LPS = np.diag([-1.0, -1, 1, 1])
ITK_TYPES = ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"]
WIDER = {"uint16": "int32", "uint32": "int64"}


def refused(path: Path) -> str:
    with pytest.raises(VolumetricError) as caught:
        read_volume(path)
    assert caught.value.path
    assert caught.value.remedy
    return caught.value.code


def texture(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Values over the whole range of the type, all different."""
    count = int(np.prod(shape))
    if dtype.startswith("f"):
        return np.linspace(-1e6, 1e6, count, dtype=dtype).reshape(shape)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return np.array([low + i * (high - low) // count for i in range(count)], dtype).reshape(shape)


def check_against_itk(path: Path, volume: Volume, dtype: str) -> None:
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    assert volume.data.dtype == getattr(torch, WIDER.get(dtype, dtype))
    assert np.array_equal(volume.data[0].numpy(), array.astype(volume.data[0].numpy().dtype))
    for index in [(0, 0, 0), tuple(n - 1 for n in volume.shape), (1, 0, 2)]:
        lps = np.array(image.TransformIndexToPhysicalPoint(index[::-1]))
        assert np.abs(world(volume, np.array([index]))[0] - lps * (-1, -1, 1)).max() < 1e-3


# MGH and MGZ


@settings(max_examples=30)
@given(affines(), st.sampled_from(["uint8", "int16", "int32", "float32"]), st.booleans())
def test_mgh_lies_where_nibabel_says(
    tmp_path_factory: pytest.TempPathFactory, affine: np.ndarray, dtype: str, zipped: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / f"a.{'mgz' if zipped else 'mgh'}"
    array = texture((5, 3, 4), dtype)
    nib.save(nib.MGHImage(array, affine), path)
    content = path.read_bytes()
    volume = read_volume(path)
    other = nib.MGHImage.from_bytes(gzip.decompress(content) if zipped else content)
    assert np.array_equal(volume.data[0].numpy().transpose(2, 1, 0), array)
    assert volume.data.dtype == getattr(torch, dtype)
    corners = np.array([(0, 0, 0), (3, 2, 4), (3, 0, 0), (0, 2, 0), (0, 0, 4)])
    there = nib.affines.apply_affine(other.affine, corners[:, ::-1])
    assert np.abs(world(volume, corners) - there).max() < 1e-3


def save_mgh(path: Path, **changes: object) -> Path:
    image = nib.MGHImage(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag([1.0, 2, 3, 1]))
    nib.save(image, path)
    content = bytearray(path.read_bytes())
    header = np.frombuffer(content, nib.freesurfer.mghformat.header_dtype, count=1)
    for name, value in changes.items():
        field, _, index = name.partition("__")
        header[field][(0, int(index)) if index else 0] = value
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, None),
        ({"version": 2}, "bad-magic"),
        ({"goodRASFlag": 0}, "no-orientation"),
        ({"goodRASFlag": -1}, "no-orientation"),
        ({"dims__3": 2}, "four-dimensional"),
        ({"dims__3": 0}, "bad-dimensions"),
        ({"dims__1": -3}, "bad-dimensions"),
        ({"dims__1": 200_000}, "truncated-file"),
        ({"type": 7}, "voxel-type"),
        ({"type": 99}, "bad-datatype"),
        ({"dims__1": 2_000_000_000}, "bad-affine"),  # its centre is known, so its corner is far
        ({"type": 3}, "truncated-file"),
        ({"delta__0": 0}, "bad-direction"),
        ({"delta__0": np.nan}, "bad-direction"),
        ({"Mdc__0": 0}, "bad-direction"),
        ({"Mdc__0": (0, 1, 0)}, "singular-affine"),
        ({"Pxyz_c__0": np.inf}, "bad-affine"),
    ],
)
def test_an_mgh_header_is_believed_or_refused(
    tmp_path: Path, changes: dict[str, object], code: str | None
) -> None:
    path = save_mgh(tmp_path / "a.mgh", **changes)
    if code is None:
        assert read_volume(path).spacing == (3, 2, 1)
    else:
        assert refused(path) == code


def test_what_stands_behind_the_voxels_of_an_mgh_is_bounded(tmp_path: Path) -> None:
    content = save_mgh(tmp_path / "a.mgh").read_bytes()
    bare = tmp_path / "bare.mgz"
    bare.write_bytes(gzip.compress(content[: 284 + 48]))
    assert read_volume(bare).shape == (4, 3, 2)
    for n_bytes, code in [(90_000, None), (2**21, "trailing-bytes")]:
        (tmp_path / "b.mgz").write_bytes(gzip.compress(content + bytes(n_bytes)))
        if code:
            assert refused(tmp_path / "b.mgz") == code
        else:
            assert read_volume(tmp_path / "b.mgz").shape == (4, 3, 2)


# NRRD and MetaImage as ITK writes them


@settings(max_examples=80)
@given(
    affines(),
    st.sampled_from(ITK_TYPES),
    st.sampled_from(["a.nrrd", "a.nhdr", "a.mha", "a.mhd"]),
    st.booleans(),
)
def test_itk_places_the_same_voxels_alike(
    tmp_path_factory: pytest.TempPathFactory,
    affine: np.ndarray,
    dtype: str,
    name: str,
    compress: bool,
) -> None:
    folder = tmp_path_factory.mktemp("itk")
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(texture((4, 3, 5), dtype))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(folder / name), useCompression=compress)
    volume = read_volume(folder / name)
    check_against_itk(folder / name, volume, dtype)
    assert np.abs(volume.affine[:, [2, 1, 0, 3]] - affine).max() < 1e-9
    assert volume.about.findings == ()


def nrrd(path: Path, changes: Mapping[str, str | None], *, data: bytes | None = None) -> Path:
    """A sound NRRD of 2 x 3 x 4 int16 voxels 0, 1, …, with lines changed or (None) left out."""
    lines: dict[str, str | None] = {
        "type": "int16",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": "2 3 4",
        "space directions": "(1.5,0,0) (0,2,0) (0,0,3)",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(10,20,30)",
        **changes,
    }
    head = "".join(f"{name}: {value}\n" for name, value in lines.items() if value is not None)
    data = np.arange(24, dtype="<i2").tobytes() if data is None else data
    path.write_bytes(b"NRRD0004\n# made by hand\n" + head.encode() + b"\n" + data)
    return path


PLACED = np.array([[0, 0, -1.5, -10], [0, -2, 0, -20], [3, 0, 0, 30], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("changes", "signs"),
    [
        ({}, (1, 1, 1)),
        ({"space": "LPS"}, (1, 1, 1)),
        ({"space": "right-anterior-superior"}, (-1, -1, 1)),
        ({"space": "ras"}, (-1, -1, 1)),
        ({"space": "LAS"}, (1, -1, 1)),
        ({"kinds": None}, (1, 1, 1)),
        ({"kinds": "space space space", "space units": '"mm" "mm" "mm"'}, (1, 1, 1)),
        ({"type": "signed short int", "content": "a: b", "modality:=CT": "x"}, (1, 1, 1)),
        ({"byte skip": "0"}, (1, 1, 1)),
        ({"byte skip": "-1"}, (1, 1, 1)),
        ({"measurement frame": "(1,0,0) (0,1,0) (0,0,1)"}, (1, 1, 1)),
        ({"spacings": "nan NaN NAN", "units": '"" "" ""'}, (1, 1, 1)),
        ({"thicknesses": "3 3 3", "axis mins": "nan nan nan"}, (1, 1, 1)),
        (
            {
                "dimension": "4",
                "sizes": "1 2 3 4",
                "space directions": "none (1.5,0,0) (0,2,0) (0,0,3)",
                "kinds": "vector domain domain domain",
            },
            (1, 1, 1),
        ),
    ],
)
def test_spaces_of_nrrd(
    tmp_path: Path, changes: dict[str, str | None], signs: tuple[int, int, int]
) -> None:
    volume = read_volume(nrrd(tmp_path / "a.nrrd", changes))
    assert volume.data.flatten().tolist() == list(range(24))
    assert volume.shape == (4, 3, 2)
    assert np.array_equal(volume.affine, np.diag([*signs, 1]) @ PLACED)
    if "dimension" not in changes:
        check_against_itk(tmp_path / "a.nrrd", volume, "int16")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"type": None}, "bad-header"),
        ({"type": "int24"}, "bad-header"),
        ({"type": "block"}, "voxel-type"),
        ({"endian": None}, "bad-header"),
        ({"endian": "middle"}, "bad-header"),
        ({"dimension": "4"}, "bad-header"),
        ({"dimension": "3.0"}, "bad-header"),
        ({"sizes": "2 3 0"}, "bad-dimensions"),
        ({"sizes": "2 3 -4"}, "bad-dimensions"),
        ({"sizes": "2 3 4_0"}, "bad-header"),
        ({"sizes": "2 3 99999999999999999999"}, "bad-header"),
        ({"sizes": "2 3 999999999999999999"}, "truncated-file"),
        ({"sizes": "2 3 3"}, "trailing-bytes"),
        ({"space": None}, "no-orientation"),
        ({"space": "scanner-xyz"}, "no-orientation"),
        ({"space": "3D-right-handed"}, "no-orientation"),
        ({"space": "right-anterior-superior-time"}, "no-orientation"),
        ({"space": None, "space dimension": "3"}, "no-orientation"),
        ({"space directions": None}, "no-orientation"),
        ({"space directions": None, "spacings": "1 1 1"}, "no-orientation"),
        ({"space directions": "(1,0,0) (0,1,0)"}, "no-orientation"),
        ({"space directions": "(1,0,0) (0,1,0) none"}, "no-orientation"),
        ({"space directions": "(1,0,0) (0,1,0) (0,0,1) (0,0,1)"}, "no-orientation"),
        ({"space directions": "(1,0,0) (0,1,0) (0,0,nan)"}, "bad-affine"),
        ({"space directions": "(1,0,0) (0,1,0) (0,0,1e400)"}, "bad-affine"),
        ({"space directions": "(1,0,0) (0,1,0) (1,1,0)"}, "singular-affine"),
        ({"space origin": None}, "no-orientation"),
        ({"space origin": "none"}, "no-orientation"),
        ({"space origin": "(1,2)"}, "no-orientation"),
        ({"space units": '"um" "um" "um"'}, "odd-units"),
        ({"space units": "um um um"}, "bad-header"),
        ({"space units": '"mm" "mm"'}, "bad-header"),
        ({"units": '"um" "um" "um"'}, "odd-units"),
        ({"units": '"mm" "mm" "cm"'}, "odd-units"),
        ({"units": "mm mm mm"}, "bad-header"),
        ({"spacings": "9 9 9"}, "spacings-conflict"),
        ({"spacings": "nan nan 3.1"}, "spacings-conflict"),
        ({"spacings": "1.5 2 -3"}, "spacings-conflict"),
        ({"spacings": "1.5 2"}, "bad-header"),
        ({"spacings": "1.5 2 x"}, "bad-affine"),
        ({"kinds": "domain domain time"}, "bad-header"),
        ({"kinds": "domain domain"}, "bad-header"),
        ({"encoding": "bzip2"}, "encoding"),
        ({"encoding": "ascii"}, "encoding"),
        ({"encoding": "hex"}, "encoding"),
        ({"encoding": "gzip"}, "damaged-compression"),
        ({"line skip": "1"}, "encoding"),
        ({"byte skip": "4"}, "encoding"),
        ({"bite skip": "4"}, "bad-header"),
        ({"Type": "uint8"}, "bad-header"),  # twice
        (
            {
                "dimension": "4",
                "sizes": "2 2 3 2",
                "space directions": "none (1,0,0) (0,1,0) (0,0,1)",
                "kinds": None,
            },
            "four-dimensional",
        ),
        # As other writers have them: directions of four numbers, or none at all.
        (
            {
                "dimension": "4",
                "space": "left-posterior-superior-time",
                "sizes": "2 3 2 2",
                "space directions": "(1,0,0,0) (0,1,0,0) (0,0,1,0) (0,0,0,1)",
                "space origin": "(0,0,0,0)",
                "kinds": None,
            },
            "four-dimensional",
        ),
        (
            {"dimension": "4", "sizes": "2 3 2 2", "space": None, "space directions": None},
            "four-dimensional",
        ),
        (
            {
                "dimension": "2",
                "sizes": "4 6",
                "space": None,
                "space dimension": "2",
                "space directions": "(1,0) (0,1)",
                "space origin": "(0,0)",
                "kinds": "domain domain",
            },
            "two-dimensional",
        ),
    ],
)
def test_an_nrrd_header_is_believed_or_refused(
    tmp_path: Path, changes: dict[str, str | None], code: str
) -> None:
    assert refused(nrrd(tmp_path / "a.nrrd", changes)) == code


def test_big_endian_gzip_and_shear_in_nrrd(tmp_path: Path) -> None:
    values = np.arange(-12, 12, dtype=">i2")
    path = nrrd(
        tmp_path / "a.nrrd",
        {
            "endian": "big",
            "encoding": "gzip",
            "space directions": "(1.5,0,0) (0,2,0) (0,0.5,3)",
        },
        data=gzip.compress(values.tobytes()),
    )
    volume = read_volume(path)
    assert np.array_equal(volume.data.flatten().numpy(), values)
    assert [finding.code for finding in volume.about.findings] == ["sheared-affine"]
    check_against_itk(path, volume, "int16")


def mha(path: Path, changes: Mapping[str, str | None], *, data: bytes | None = None) -> Path:
    """A sound MetaImage of 2 x 3 x 4 int16 voxels 0, 1, …, with lines changed or left out."""
    lines: dict[str, str | None] = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "10 20 30",
        "ElementSpacing": "1.5 2 3",
        "DimSize": "2 3 4",
        "ElementType": "MET_SHORT",
        **changes,
    }
    file = lines.pop("ElementDataFile", "LOCAL")
    head = "".join(f"{name} = {value}\n" for name, value in lines.items() if value is not None)
    head += "" if file is None else f"ElementDataFile = {file}\n"
    data = np.arange(24, dtype="<i2").tobytes() if data is None else data
    path.write_bytes(head.encode() + (data if file == "LOCAL" else b""))
    return path


@pytest.mark.parametrize(
    ("changes", "modality"),
    [
        ({}, None),
        ({"Modality": "MET_MOD_CT"}, "CT"),
        ({"Modality": "MET_MOD_MR"}, "MR"),
        ({"Modality": "MET_MOD_UNKNOWN"}, None),
        ({"Offset": None, "Position": "10 20 30"}, None),
        ({"Offset": None, "Origin": "10 20 30"}, None),
        ({"TransformMatrix": None, "Rotation": "1 0 0 0 1 0 0 0 1"}, None),
        ({"TransformMatrix": None, "Orientation": "1 0 0 0 1 0 0 0 1"}, None),
        ({"BinaryDataByteOrderMSB": None, "ElementByteOrderMSB": "False"}, None),
        ({"ElementNumberOfChannels": "1", "AnatomicalOrientation": "RAI"}, None),
        ({"DistanceUnits": "mm", "Name": "a = b \u00e9"}, None),
        ({"ElementByteOrderMSB": "False", "Position": "10 20 30"}, None),  # twice, and alike
        (
            {
                "NDims": "4",
                "DimSize": "2 3 4 1",
                "TransformMatrix": "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1",
                "Offset": "10 20 30 0",
                "ElementSpacing": "1.5 2 3 1",
            },
            None,
        ),
    ],
)
def test_spellings_of_metaimage(
    tmp_path: Path, changes: dict[str, str | None], modality: str | None
) -> None:
    volume = read_volume(mha(tmp_path / "a.mha", changes))
    assert volume.data.flatten().tolist() == list(range(24))
    assert np.array_equal(volume.affine, PLACED)
    assert volume.about.modality == modality
    if changes.get("NDims") == "4":
        return  # to SimpleITK it stays 4-D
    check_against_itk(tmp_path / "a.mha", volume, "int16")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"NDims": "2"}, "bad-header"),
        ({"NDims": "2", "DimSize": "4 6"}, "two-dimensional"),
        ({"NDims": "4", "DimSize": "2 3 2 2"}, "four-dimensional"),
        ({"NDims": None}, "bad-header"),
        ({"DimSize": "2 3 0"}, "bad-dimensions"),
        ({"DimSize": "2 3 x"}, "bad-header"),
        ({"DimSize": "2 3 99999999"}, "truncated-file"),
        ({"DimSize": "2 3 3"}, "trailing-bytes"),
        ({"ElementType": "MET_FLOAT"}, "truncated-file"),
        ({"ElementType": "MET_STRING"}, "voxel-type"),
        ({"ElementType": "MET_SHORT_ARRAY"}, "voxel-type"),
        ({"ElementNumberOfChannels": "3"}, "several-channels"),
        ({"ElementToIntensityFunctionSlope": "2"}, "voxel-type"),
        ({"BinaryDataByteOrderMSB": None}, "bad-header"),
        ({"BinaryDataByteOrderMSB": "Perhaps"}, "bad-header"),
        ({"BinaryData": "False"}, "encoding"),
        ({"CompressedData": "True"}, "damaged-compression"),
        ({"CompressedData": "True", "CompressedDataSize": "46"}, "bad-header"),
        ({"TransformMatrix": None}, "no-orientation"),
        ({"Offset": None}, "no-orientation"),
        ({"ElementSpacing": None}, "no-orientation"),
        ({"TransformMatrix": "1 0 0 0 1 0 0 0"}, "bad-affine"),
        ({"TransformMatrix": "1 0 0 0 1 0 0 0 nan"}, "bad-affine"),
        ({"TransformMatrix": "2 0 0 0 1 0 0 0 1"}, "bad-direction"),
        ({"TransformMatrix": "1 0 0 0 1 0 0 1 0"}, "singular-affine"),
        ({"ElementSpacing": "1 1 0"}, "bad-direction"),
        ({"ElementSpacing": "1 1 -1"}, "bad-direction"),
        ({"DistanceUnits": "um"}, "odd-units"),
        ({"ObjectType": "Mesh"}, "bad-header"),
        ({"Position": "0 0 0"}, "bad-header"),  # twice
        ({"ElementDataFile": None}, "bad-header"),
        ({"ElementDataFile": "LIST"}, "several-files"),
        ({"ElementDataFile": "slice%03d.raw 1 4 1"}, "several-files"),
        ({"ElementDataFile": "absent.raw"}, "missing-file"),
        ({"ElementDataFile": ""}, "several-files"),
    ],
)
def test_a_metaimage_header_is_believed_or_refused(
    tmp_path: Path, changes: dict[str, str | None], code: str
) -> None:
    assert refused(mha(tmp_path / "a.mha", changes)) == code


def test_big_endian_and_shear_in_metaimage(tmp_path: Path) -> None:
    values = np.arange(-12, 12, dtype=">i2")
    shear = {"BinaryDataByteOrderMSB": "True", "TransformMatrix": "1 0 0 0 1 0 0 0.6 0.8"}
    path = mha(tmp_path / "a.mha", shear, data=values.tobytes())
    volume = read_volume(path)
    assert np.array_equal(volume.data.flatten().numpy(), values)
    assert [finding.code for finding in volume.about.findings] == ["sheared-affine"]
    check_against_itk(path, volume, "int16")


def test_compressed_voxels_are_verified_to_their_end(tmp_path: Path) -> None:
    packed = bytearray(zlib.compress(np.arange(24, dtype="<i2").tobytes()))
    sound = {"CompressedData": "True", "CompressedDataSize": str(len(packed))}
    assert read_volume(mha(tmp_path / "a.mha", sound, data=bytes(packed))).shape == (4, 3, 2)
    packed[-1] ^= 1  # of the checksum
    assert refused(mha(tmp_path / "a.mha", sound, data=bytes(packed))) == "damaged-compression"


def test_zeros_behind_compressed_voxels_fill_up_a_block(tmp_path: Path) -> None:
    packed = zlib.compress(np.arange(24, dtype="<i2").tobytes())
    sound = {"CompressedData": "True", "CompressedDataSize": str(len(packed))}
    path = mha(tmp_path / "a.mha", sound, data=packed + bytes(9))
    check_against_itk(path, read_volume(path), "int16")
    for behind in (b"\0x", bytes(5000)):
        assert refused(mha(tmp_path / "b.mha", sound, data=packed + behind)) == "bad-header"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("header", "behind", "code"),
    [
        ("0", 0, None),
        ("-1", 0, None),
        ("end", 0, None),
        ("gap", 6, None),  # as ITK, counted from the start of the file
        ("inside", 0, "bad-header"),
        ("-2", 0, "bad-header"),
        ("1 2", 0, "bad-header"),
        ("gap", 0, "truncated-file"),
        ("999999999999", 0, "truncated-file"),
    ],
)
def test_voxels_begin_behind_their_own_header_where_it_says(
    tmp_path: Path, compressed: bool, header: str, behind: int, code: str | None
) -> None:
    data = np.arange(24, dtype="<i2").tobytes()
    data = zlib.compress(data) if compressed else data
    fields = {"CompressedData": str(compressed), "CompressedDataSize": str(len(data))}
    fields["HeaderSize"] = "000"
    end = len(mha(tmp_path / "a.mha", fields, data=b"").read_bytes())
    sizes = {"end": end, "gap": end + 6, "inside": end - 4}
    fields["HeaderSize"] = f"{sizes[header]:03}" if header in sizes else header
    path = mha(tmp_path / "a.mha", fields, data=b"unseen"[:behind] + data)
    if code:
        assert refused(path) == ("bad-header" if compressed else code)
    elif compressed and header == "-1":  # which ITK reads garbage of
        assert read_volume(path).data.flatten().tolist() == list(range(24))
    else:
        check_against_itk(path, read_volume(path), "int16")


@pytest.mark.parametrize(
    ("stated", "matrix", "is_told"),
    [
        ("RAI", "1 0 0 0 1 0 0 0 1", False),
        ("rai", "1 0 0 0 1 0 0 0 1", False),
        ("LAI", "1 0 0 0 1 0 0 0 1", True),
        ("LPS", "1 0 0 0 1 0 0 0 1", True),
        ("RAS", "1 0 0 0 1 0 0 0 1", True),
        ("ARI", "1 0 0 0 1 0 0 0 1", True),
        ("ARI", "0 1 0 1 0 0 0 0 1", False),
        ("RAI", "0.8 0.6 0 -0.6 0.8 0 0 0 1", False),
        ("PRI", "0.6 0.8 0 -0.8 0.6 0 0 0 1", True),
        ("???", "1 0 0 0 1 0 0 0 1", False),
        ("RR", "1 0 0 0 1 0 0 0 1", False),
    ],
)
def test_letters_of_metaimage_that_contradict_its_matrix_are_told(
    tmp_path: Path, stated: str, matrix: str, is_told: bool
) -> None:
    fields = {"AnatomicalOrientation": stated, "TransformMatrix": matrix}
    path = mha(tmp_path / "a.mha", fields)
    volume = read_volume(path)
    found = [(one.code, one.severity) for one in volume.about.findings]
    assert found == [("stated-orientation-differs", "warning")] * is_told
    check_against_itk(path, volume, "int16")


@pytest.mark.parametrize(("order", "signs"), SIGNED_ORDERS)
def test_letters_that_itk_writes_agree(
    tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    image = sitk.GetImageFromArray(np.zeros((2, 3, 4), np.uint8))
    image.SetDirection((np.eye(3)[:, order] * signs).ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    letters = image_letters(tmp_path / "a.mha")
    assert read_volume(tmp_path / "a.mha").about.findings == ()
    flipped = letters.translate(str.maketrans("LRPAIS", "RLAPSI"))
    content = (tmp_path / "a.mha").read_bytes().replace(letters.encode(), flipped.encode(), 1)
    (tmp_path / "a.mha").write_bytes(content)
    assert len(read_volume(tmp_path / "a.mha").about.findings) == 1


def image_letters(path: Path) -> str:
    (line,) = [one for one in path.read_bytes().split(b"\n") if one.startswith(b"Anatomical")]
    return line.decode().removeprefix("AnatomicalOrientation = ")


# Voxels in a second file


@pytest.mark.parametrize(
    ("skip", "expected"), [("0", "trailing-bytes"), ("6", None), ("-1", None), ("-2", "bad-header")]
)
@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_voxels_behind_another_header(
    tmp_path: Path, suffix: str, skip: str, expected: str | None
) -> None:
    (tmp_path / "b.raw").write_bytes(b"header" + np.arange(24, dtype="<i2").tobytes())
    if suffix == ".nhdr":
        path = nrrd(tmp_path / "a.nhdr", {"byte skip": skip, "data file": "b.raw"}, data=b"")
    else:
        path = mha(tmp_path / "a.mhd", {"HeaderSize": skip, "ElementDataFile": "b.raw"})
    if expected:
        assert refused(path) == expected
    else:
        assert read_volume(path).data.flatten().tolist() == list(range(24))


@pytest.mark.parametrize(
    "name",
    [
        *("../b.raw", "/b.raw", "sub/b.raw", "..", ".", "sub\\b.raw", "LIST", "b%d"),
        *("./../b.raw", ".//b.raw", "./", "././b.raw"),
    ],
)
@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_voxels_lie_in_one_file_in_the_same_folder(tmp_path: Path, suffix: str, name: str) -> None:
    folder = tmp_path / "data"
    for place in (tmp_path, folder, folder / "sub"):
        place.mkdir(exist_ok=True)
        (place / "b.raw").write_bytes(np.arange(24, dtype="<i2").tobytes())
    wrong = ("path-outside-folder", "several-files")
    for stated, code in [("b.raw", None), ("./b.raw", None), (name, wrong)]:
        if suffix == ".nhdr":
            path = nrrd(folder / "a.nhdr", {"data file": stated}, data=b"")
        else:
            path = mha(folder / "a.mhd", {"ElementDataFile": stated})
        if code:
            assert refused(path) in code
        else:
            check_against_itk(path, read_volume(path), "int16")


def test_a_header_without_end_is_not_read_on_and_on(tmp_path: Path) -> None:
    for name, start in [("a.nrrd", b"NRRD0004\n"), ("a.mha", b"ObjectType = Image\n")]:
        for filling in (b"# Comment = x\n", b"\n"[:0] + b"x" * 100, b"Key\n"):
            path = tmp_path / name
            path.write_bytes(start + filling * (3_000_000 // len(filling)))
            assert refused(path) == "bad-header"


def test_neither_nrrd_nor_metaimage_is_compressed_as_a_whole(tmp_path: Path) -> None:
    for path in (nrrd(tmp_path / "a.nrrd", {}), mha(tmp_path / "a.mha", {})):
        path.write_bytes(gzip.compress(path.read_bytes()))
        assert refused(path) == "encoding"


def test_a_header_with_a_thousand_axes_makes_no_page_of_an_error(tmp_path: Path) -> None:
    for path in (
        nrrd(tmp_path / "a.nrrd", {"sizes": "2 " * 1000}),
        mha(tmp_path / "a.mha", {"DimSize": "2 " * 1000, "NDims": "1000"}),
    ):
        with pytest.raises(VolumetricError) as caught:
            read_volume(path)
        assert len(str(caught.value)) < 500


def test_errors_can_be_shown_and_sent(tmp_path: Path) -> None:
    error = VolumetricError("code", "says\n 'a\udcffb'", "do \x1b this", path="line\nbreak\udce9")
    assert str(error) == r"line\nbreak\udce9: says 'a\udcffb'. do \x1b this. [code]"
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.path) == (str(error), error.path)
    assert printable("plain  \u00e9\u4e2d text") == "plain  \u00e9\u4e2d text"


def test_dicom_slices_may_be_called_img(tmp_path: Path) -> None:
    path = tmp_path / "slice.img"
    path.write_bytes(bytes(128) + b"DICM" + struct.pack("<HH", 2, 0) + b"UL\x04\0" + bytes(4))
    assert refused(path) != "missing-twin"
