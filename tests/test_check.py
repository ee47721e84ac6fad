"""The data doctor: every finding provoked by small real files, and none where nothing is wrong."""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from scipy import ndimage

from pipeline.check import check
from pipeline.config import RunConfig
from pipeline.files import read_json
from pipeline.findings import list_codes, sort_findings, to_json, to_text
from pipeline.manifest import find_manifest
from pipeline.run import create_run
from pipeline.segmentation.prepare import prepare
from tests.conftest import quick_config, save
from volumetric import Finding, Volume, check_path, write_volume
from volumetric.cases import Case, write_cases
from volumetric.check import check_case, read_case
from volumetric.check.codes import CODES
from volumetric.check.cohort import check_cohort
from volumetric.check.drawing import check_drawing
from volumetric.check.image import measure_image
from volumetric.check.mask import compare_grids, reorder
from volumetric.check.outliers import list_ids
from volumetric.check.traits import Traits, hash_voxels, traits_from
from volumetric.errors import ManifestError, UnreadableFileError, VolumetricError
from volumetric.preprocess import orient
from volumetric.volume import About

CLASSES = {1: "head", 2: "tail"}
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])
SHAPE = (20, 22, 24)
ROOT = Path(__file__).parents[1]
MANIFESTS = ROOT / "data_manifests"
DATA = ROOT.parent / "shared" / "data"


def tissue(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(300, 60, shape).astype(np.int16)


def hounsfield(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Half air, half water."""
    rng = np.random.default_rng(seed)
    return np.where(np.indices(shape)[0] < shape[0] / 2, -1000, 0) + rng.normal(0, 20, shape)


def outline(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Two boxes, not the same for any two seeds below 100."""
    mask = np.zeros(shape, np.uint8)
    mask[4:9, 4:12, 4:14] = 1
    mask[11:16, 4:12, 4:14] = 2
    mask[16, 10 + seed % 10, 10 + seed // 10] = 2
    return mask


def described(findings: Any) -> set[tuple[str, str]]:
    return {(one.code, one.severity) for one in findings}


# What is done to the image, or to the mask, and the one code that must come of it.
def _with(array: np.ndarray, index: Any, value: float) -> np.ndarray:
    changed = array.copy()
    changed[index] = value
    return changed


def _turned(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return turn @ AFFINE


def _moved(x: float) -> np.ndarray:
    return AFFINE + np.array([[0, 0, 0, x], [0] * 4, [0] * 4, [0] * 4])


SQUARE = tissue().astype(np.float32)
BAD_IMAGES: dict[str, tuple[str, np.ndarray, np.ndarray]] = {
    "not-finite": ("error", _with(SQUARE, (3, 3, 3), np.nan), AFFINE),
    "constant-image": ("error", np.full(SHAPE, 7, np.int16), AFFINE),
    "few-slices": ("warning", tissue(shape=(20, 22, 2)), AFFINE),
    "tiny-volume": ("warning", tissue(shape=(9, 9, 9)), AFFINE),
    "extreme-anisotropy": ("warning", tissue(), np.diag([0.3, 0.3, 15, 1])),
    "implausible-spacing": ("warning", tissue(), np.diag([30.0, 30, 30, 1])),
    "far-origin": ("warning", tissue(), _moved(9_000)),
    "label-map-as-image": ("warning", outline(), AFFINE),
    "clipped-intensities": ("warning", tissue().clip(max=350), AFFINE),
    "mostly-padding": ("warning", _with(tissue(), np.s_[:, 1:], 0), AFFINE),
    "blank-slices": ("warning", _with(tissue(), np.s_[:, :, 9:12], 0), AFFINE),
    "repeated-slices": ("warning", np.repeat(tissue(shape=(20, 22, 12)), 2, axis=2), AFFINE),
    "wrapped-intensities": (
        "warning",
        np.random.default_rng(0).integers(-32768, 32767, SHAPE).astype(np.int16),
        AFFINE,
    ),
    "hot-voxels": ("warning", _with(SQUARE, (3, 3, 3), 1e9), AFFINE),
}


@pytest.mark.parametrize("code", BAD_IMAGES)
def test_what_is_wrong_with_an_image(code: str, tmp_path: Path) -> None:
    severity, array, affine = BAD_IMAGES[code]
    case = Case("odd", "odd", None, save(tmp_path / "odd.nii.gz", array, affine))
    checked = check_case(case, classes=CLASSES, modality="MR")
    assert described(checked.findings) == {(code, severity)}
    (finding,) = checked.findings
    assert (finding.case, finding.path) == ("odd", str(case.image))
    assert finding.reason
    assert finding.remedy
    assert (checked.error is None) == (checked.image is not None) == (severity != "error")


BAD_CT: dict[str, tuple[str, np.ndarray]] = {
    "ct-not-hu": ("warning", (hounsfield() + 1024).astype(np.int16)),
    "ct-8-bit": ("warning", (hounsfield() / 10 + 120).clip(0, 255).astype(np.uint8)),
    "ct-not-hu, its offset twice": ("warning", (hounsfield() - 1024).astype(np.int16)),
    "ct-not-hu, offset twice and cut": (
        "warning",
        (hounsfield() - 1024).clip(min=-2024).astype(np.int16),
    ),
    "fill-value": ("note", _with(hounsfield().astype(np.int16), np.s_[:3], -2048)),
}


@pytest.mark.parametrize("code", BAD_CT)
def test_what_is_wrong_with_a_ct(code: str, tmp_path: Path) -> None:
    severity, array = BAD_CT[code]
    code = code.partition(",")[0]
    case = Case("odd", "odd", None, save(tmp_path / "odd.nii.gz", array))
    found = check_case(case, modality="CT").findings
    assert (code, severity) in described(found)
    assert "fill-value" not in {one.code for one in found} - {code}
    others = check_case(case, classes=CLASSES, modality="MR").findings
    assert code not in {one.code for one in others}


def test_a_sound_ct_raises_nothing(tmp_path: Path) -> None:
    case = Case("ct", "ct", None, save(tmp_path / "ct.nii.gz", hounsfield().astype(np.int16)))
    checked = check_case(case, classes=CLASSES, modality="CT")
    assert checked.findings == ()
    assert checked.traits is not None
    assert traits_from(json.loads(json.dumps(asdict(checked.traits)))) == checked.traits


BAD_MASKS: dict[str, tuple[str, np.ndarray, np.ndarray]] = {
    "shape-mismatch": ("error", outline()[:-1], AFFINE),
    "spacing-mismatch": ("error", outline(), np.diag([1.0, 1.5, 2.2, 1.0])),
    "origin-mismatch": ("error", outline(), _moved(0.5)),
    "direction-mismatch": ("error", outline(), _turned(3)),
    "fractional-labels": ("error", outline() * np.float32(0.5), AFFINE),
    "unknown-labels": ("error", _with(outline(), (0, 0, 0), 7), AFFINE),
    "empty-mask": ("warning", np.zeros(SHAPE, np.uint8), AFFINE),
    "full-mask": ("warning", np.ones(SHAPE, np.uint8), AFFINE),
    "label-absent": ("note", np.minimum(outline(), 1), AFFINE),
    "tiny-label": ("note", _with(np.minimum(outline(), 1), np.s_[18, 18, 18:20], 2), AFFINE),
    "mask-reordered": ("note", outline()[::-1], AFFINE @ np.diag([-1, 1, 1, 1]) + 0),
}
BAD_MASKS["mask-reordered"][2][0, 3] = SHAPE[0] - 1  # the same places, counted from the other end


@pytest.mark.parametrize("code", BAD_MASKS)
def test_what_is_wrong_with_a_mask(code: str, tmp_path: Path) -> None:
    severity, array, affine = BAD_MASKS[code]
    image = save(tmp_path / "image.nii.gz", tissue())
    case = Case("odd", "odd", None, image, save(tmp_path / "mask.nii.gz", array, affine))
    checked = check_case(case, classes=CLASSES, modality="MR")
    found = {pair for pair in described(checked.findings) if pair[0] != "label-absent"}
    assert found == {(code, severity)} - {("label-absent", "note")}
    assert [one.code for one in checked.findings].count(code) == 1
    assert {one.path for one in checked.findings if one.code == code} == {str(case.mask)}
    if severity == "error":
        with pytest.raises(VolumetricError, match=code):
            read_case(case, classes=CLASSES)
    else:
        _, mask = read_case(case, classes=CLASSES)
        assert mask is not None
        assert np.array_equal(mask.affine, checked.image.affine)


def test_a_mask_stored_in_another_order_is_the_same_mask(tmp_path: Path) -> None:
    """All 48 orders of axes, against nibabel's own reorientation."""
    image = save(tmp_path / "image.nii.gz", tissue())
    straight = nib.Nifti1Image(outline(), AFFINE)
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            turned = straight.as_reoriented(np.column_stack([order, flips]))
            path = save(tmp_path / "mask.nii.gz", np.asarray(turned.dataobj), turned.affine)
            found, mask = read_case(Case("a", "a", None, image, path), classes=CLASSES)
            assert mask is not None
            assert np.array_equal(mask.data[0].numpy().transpose(2, 1, 0), outline())
            assert np.array_equal(mask.affine, found.affine)


def test_the_commonest_causes_of_a_shift_are_named(tmp_path: Path) -> None:
    there = AFFINE.copy()
    there[:3, 3] = (-50, 30, 7)
    image = save(tmp_path / "image.nii.gz", tissue(), there)
    half = there.copy()
    half[:3, 3] += there[:3, :3] @ [0.5, 0.5, 0.5]
    negated = np.diag([-1, -1, 1, 1]) @ there
    for affine, said in [(half, "half a voxel on every axis"), (negated, "LPS read as RAS")]:
        mask = save(tmp_path / "mask.nii.gz", outline(), affine)
        (found,) = check_case(Case("a", "a", None, image, mask), classes=CLASSES).findings
        assert (found.code, found.severity) == ("origin-mismatch", "error")
        assert said in found.reason


def test_a_file_named_twice_is_checked_once(tmp_path: Path) -> None:
    image = save(tmp_path / "a.nii.gz", tissue())
    report = check(
        [image, tmp_path / "." / "a.nii.gz", tmp_path / ".." / tmp_path.name / image.name]
    )
    assert (report.n_cases, report.findings) == (1, ())


def test_a_mask_where_the_image_is_empty(tmp_path: Path) -> None:
    image = save(tmp_path / "image.nii.gz", _with(tissue(), np.s_[:, :, 4:], 0))
    mask = save(tmp_path / "mask.nii.gz", outline())
    found = check_case(Case("a", "a", None, image, mask), classes=CLASSES).findings
    assert described(found) == {("mask-off-image", "warning")}


def test_image_and_mask_that_are_one(tmp_path: Path) -> None:
    path = save(tmp_path / "one.nii.gz", outline())
    copy = save(tmp_path / "copy.nii", outline().astype(np.float32))
    same = check_case(Case("a", "a", None, path, path), classes=CLASSES)
    equal = check_case(Case("a", "a", None, path, copy), classes=CLASSES)
    label_like = ("label-map-as-image", "warning")
    assert described(same.findings) == {("image-is-mask", "error"), label_like}
    assert described(equal.findings) >= {("mask-equals-image", "error"), label_like}
    assert equal.image is None


@given(st.tuples(*[st.floats(-3, 3)] * 3))
def test_how_far_apart_is_said_in_mm_and_weighed(shift: tuple[float, float, float]) -> None:
    image = Volume(torch.zeros(1, 5, 6, 7), AFFINE)
    affine = AFFINE.copy()
    affine[:3, 3] += shift
    found = list(compare_grids(image, Volume(torch.zeros(1, 5, 6, 7), affine), Path("mask")))
    apart = float(np.linalg.norm(shift))
    if apart < 0.0099:
        assert found == []
    elif apart > 0.0101:
        (one,) = found
        assert one.code == "origin-mismatch"
        assert f"up to {apart:.3g} mm" in one.reason
        if apart < 0.0499:
            assert isinstance(one, Finding)
            assert one.severity == "warning"
        elif apart > 0.0501:
            assert isinstance(one, VolumetricError)


def test_a_file_that_is_missing_or_broken(tmp_path: Path) -> None:
    image = save(tmp_path / "image.nii.gz", tissue())
    gone = check_case(Case("a", "a", None, tmp_path / "x.nii.gz", tmp_path / "y.nii.gz"))
    assert [(one.code, one.path) for one in gone.findings] == [
        ("missing-file", str(tmp_path / "x.nii.gz")),
        ("missing-file", str(tmp_path / "y.nii.gz")),
    ]
    (tmp_path / "cut.nii.gz").write_bytes(image.read_bytes()[:900])
    (tmp_path / "empty.nii.gz").touch()
    for name in ("cut.nii.gz", "empty.nii.gz"):
        checked = check_case(Case("a", "a", None, image, tmp_path / name), classes=CLASSES)
        (finding,) = checked.findings
        assert (finding.severity, finding.case) == ("error", "a")
        assert checked.mask is None


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    image = save(tmp_path / "image.nii.gz", _with(SQUARE, 0, np.inf))
    mask = save(tmp_path / "mask.nii.gz", _with(outline(), 0, 9), _turned(4))
    checked = check_case(Case("a", "a", None, image, mask), classes=CLASSES)
    assert described(checked.findings) == {("not-finite", "error"), ("unknown-labels", "error")}
    image = save(tmp_path / "image.nii.gz", tissue())
    checked = check_case(Case("a", "a", None, image, mask), classes=CLASSES)
    assert {one.code for one in checked.findings} == {"direction-mismatch", "unknown-labels"}


def write_ct_slice(path: Path, number: int, uid: str, *, modality: str = "CT") -> None:
    slice_ = Dataset()
    slice_.file_meta = FileMetaDataset()
    slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    slice_.file_meta.MediaStorageSOPClassUID = slice_.SOPClassUID = CTImageStorage
    slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID = f"{uid}.{number}"
    slice_.SeriesInstanceUID, slice_.Modality = uid, modality
    slice_.Rows, slice_.Columns, slice_.SamplesPerPixel = 22, 24, 1
    slice_.BitsAllocated = slice_.BitsStored = 16
    slice_.HighBit, slice_.PixelRepresentation = 15, 1
    slice_.PhotometricInterpretation = "MONOCHROME2"
    slice_.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    slice_.ImagePositionPatient = [0, 0, 2 * number]
    slice_.PixelSpacing, slice_.SliceThickness = [1.5, 1], 2
    slice_.RescaleSlope, slice_.RescaleIntercept = 1, 0
    slice_.PixelData = hounsfield(number, (22, 24)).astype("<i2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    slice_.save_as(path, enforce_file_format=True)


@pytest.fixture
def ct_series(tmp_path: Path) -> Path:
    for number in range(18):
        write_ct_slice(tmp_path / f"ct/{number}.dcm", number, "1.2.3")
    return tmp_path / "ct"


def test_a_header_that_contradicts_the_manifest(ct_series: Path) -> None:
    case = Case("a", "a", None, ct_series)
    assert described(check_case(case, classes=CLASSES, modality="CT").findings) == set()
    found = check_case(case, classes=CLASSES, modality="PET").findings
    assert described(found) == {("modality-mismatch", "warning")}
    assert "header says CT" in found[0].reason


def test_what_the_reader_noticed_is_passed_on(ct_series: Path) -> None:
    (ct_series / "again.dcm").write_bytes((ct_series / "3.dcm").read_bytes())
    checked = check_case(Case("a", "a", None, ct_series), modality="CT")
    noticed = checked.findings
    assert noticed
    assert {one.case for one in noticed} == {"a"}
    assert all(one.path for one in noticed)


# What is no fault, though it looks like one.


def _noisy_air(sd: float) -> np.ndarray:
    return hounsfield() + np.random.default_rng(1).normal(0, sd, SHAPE)


def _limb() -> np.ndarray:
    """Tissue in half a percent of the voxels, the rest is air."""
    limb = np.full((40, 40, 24), -1000.0)
    limb[18:21, 18:21] = 40
    return limb + np.random.default_rng(1).normal(0, 15, limb.shape)


def _circle(fill: float) -> np.ndarray:
    """Outside the scanner's circle a fill, as a spline leaves it where it is turned."""
    body = _with(hounsfield(shape=(40, 40, 24)), np.s_[:4], fill)
    return ndimage.rotate(body, 7, reshape=False, order=3, cval=fill)


def _lung(outside: float) -> np.ndarray:
    lung = np.full((40, 40, 24), outside)
    lung[10:30, 10:30] = np.random.default_rng(1).normal(-850, 40, (20, 20, 24))
    return lung


SOUND_CTS: dict[str, np.ndarray] = {
    "air with noise of 60 HU": _noisy_air(60),
    "air with noise of 100 HU": _noisy_air(100),
    "a limb in a wide field": _limb(),
    "a limb, -2048 around": _with(_limb(), np.s_[:6], -2048),
    "a turned scan with a fill": _circle(-3024),
    "a lung cut out": _lung(-2048),
    "a lung cut out, 0 around": _lung(0),
    "a body with some gas": _with(hounsfield() * 0 + 40 + _limb()[:20, :22] / 50, 5, -700),
}


@pytest.mark.parametrize("name", SOUND_CTS)
def test_no_false_alarm_on_units(name: str, tmp_path: Path) -> None:
    path = save(tmp_path / "ct.nii.gz", SOUND_CTS[name].round().astype(np.int16))
    found = check_case(Case("ct", "ct", None, path), classes=CLASSES, modality="CT").findings
    assert "ct-not-hu" not in {one.code for one in found}
    notes = {one.code for one in found} & {"fill-value"}
    assert notes == ({"fill-value"} if SOUND_CTS[name].min() < -1900 else set())


def _shifted_chest() -> np.ndarray:
    """Cropped to the body: tissue, a tenth of it gas, a little bone; the offset twice."""
    chest = np.full((30, 30, 24), 40.0)
    chest[:3] = -1000
    chest[10:12, 10:13] = 1500  # in less than a hundredth
    return chest + np.random.default_rng(1).normal(0, 20, chest.shape) - 1024


def test_an_offset_twice_is_found_though_there_is_bone(tmp_path: Path) -> None:
    for name, array in {
        "whole": _shifted_chest(),
        "mostly air": np.where(np.indices((30, 30, 24))[1] < 25, -2024, _shifted_chest()),
    }.items():
        path = save(tmp_path / f"{name}.nii.gz", array.round().astype(np.int16))
        found = check_case(Case("ct", "ct", None, path), classes=CLASSES, modality="CT").findings
        assert "ct-not-hu" in {one.code for one in found}, name
        assert "fill-value" not in {one.code for one in found}, name


def _ribbon() -> np.ndarray:
    """Seventy labels above 1000 in patches one voxel thick."""
    shape = (40, 40, 40)
    place = np.indices(shape)
    shell = np.abs(np.linalg.norm(place - 19.5, axis=0) - 15) < 0.6
    return np.where(shell, 1000 + (place[0] // 3 * 5 + place[1] // 3) % 70, 0).astype(np.int32)


def _specks() -> np.ndarray:
    rng = np.random.default_rng(0)
    return ((rng.random((30, 30, 30)) < 0.05) * rng.integers(1, 40, (30, 30, 30))).astype(np.uint8)


def _bright_around() -> np.ndarray:
    ball = np.linalg.norm(np.indices(SHAPE) - np.reshape(SHAPE, (3, 1, 1, 1)) / 2, axis=0)
    return np.where(ball > 13, 600, tissue().clip(max=590)).astype(np.int16)


def _certain() -> np.ndarray:
    """Probabilities: half of what is not 0 is 1."""
    smooth = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    return _with(_with(smooth, np.s_[2:-2, 2:-2, 2:-2], 1), np.s_[:, :2], 0)


UNCLIPPED = {
    "thin labels": _ribbon(),
    "specks of labels": _specks(),
    "a bright background": _bright_around(),
    "probabilities": _certain(),
}


@pytest.mark.parametrize("name", UNCLIPPED)
def test_no_false_alarm_of_clipping(name: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", UNCLIPPED[name])
    found = check_case(Case("a", "a", None, path), modality="MR").findings
    assert not {one.code for one in found if one.severity != "note"} & {"clipped-intensities"}


def test_voxels_of_cine_mr_are_no_alarm(tmp_path: Path) -> None:
    path = save(tmp_path / "cine.nii.gz", tissue(), np.diag([0.4, 0.4, 10, 1]))
    assert check_case(Case("a", "a", None, path), classes=CLASSES, modality="MR").findings == ()


def test_padding_that_float32_rounds_is_left_out() -> None:
    """A rescale slope that is no power of two: what the header says is float64."""
    pad = -31001 * 0.83
    data = torch.full((1, 8, 32, 32), np.float32(pad).item())
    data[:, :, 16:] = torch.rand(1, 8, 16, 32, generator=torch.Generator().manual_seed(0)) * 1000
    data[0, 0, 16, 0] = pad - 100  # so that the padding is not the lowest value
    assert float(data[0, 0, 0, 0]) != pad
    stats = measure_image(Volume(data, AFFINE, about=About(padding=(pad, pad))))
    assert stats.share_padding == pytest.approx(0.5, abs=0.01)
    assert (stats.values == float(data[0, 0, 0, 0])).sum() == 0


def test_an_empty_map_among_maps_is_a_note(tmp_path: Path) -> None:
    save(tmp_path / "empty.nii.gz", np.zeros(SHAPE, np.uint8))
    save(tmp_path / "mask.nii.gz", outline())
    assert described(check_path(tmp_path)) == {("label-map-as-image", "note")}
    for array in (np.full(SHAPE, 7, np.uint8), np.zeros(SHAPE, np.float32)):
        save(tmp_path / "empty.nii.gz", array)
        assert ("constant-image", "error") in described(check_path(tmp_path))
    case = Case("a", "a", None, save(tmp_path / "empty.nii.gz", np.zeros(SHAPE, np.uint8)))
    assert ("constant-image", "error") in described(check_case(case, classes=CLASSES).findings)


# Masks, once more.


@pytest.mark.parametrize("axis", range(3))
def test_a_mask_at_45_degrees_with_rounded_axes(axis: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(axis)
    turn = np.eye(4)
    one, other = [v for v in range(3) if v != axis]
    turn[[one, one, other, other], [one, other, one, other]] = np.sqrt(0.5) * np.array(
        [1, -1, 1, 1]
    )
    image = save(tmp_path / "image.nii.gz", tissue(), turn)
    for _ in range(6):
        near = turn.copy()
        near[:3, :3] += rng.normal(0, 1e-7, (3, 3))
        mask = save(tmp_path / "mask.nii.gz", outline(), near)
        found, read = read_case(Case("a", "a", None, image, mask), classes=CLASSES)
        assert read is not None
        assert np.array_equal(read.affine, found.affine)
        assert np.array_equal(read.data[0].numpy().transpose(2, 1, 0), outline())


@pytest.mark.parametrize("name", ["loop", "nul\0", "long" * 90])
def test_a_path_that_cannot_be_is_a_typed_error(name: str, tmp_path: Path) -> None:
    image = save(tmp_path / "image.nii.gz", tissue())
    (tmp_path / "loop").symlink_to("loop")
    odd = tmp_path / name
    for case in (Case("a", "a", None, image, odd), Case("a", "a", None, odd, image)):
        with pytest.raises(UnreadableFileError, match="unreadable-file"):
            read_case(case, classes=CLASSES)
        codes = {one.code for one in check_case(case, classes=CLASSES).findings}
        assert "unreadable-file" in codes
    for look in (check_path, lambda path: check([path])):
        with pytest.raises(UnreadableFileError, match="unreadable-file"):
            look(odd)


def test_check_and_run_agree_on_a_loop_of_links(tmp_path: Path) -> None:
    manifest = write_set(tmp_path / "set")
    mask = tmp_path / "set/masks/case_4.nii.gz"
    mask.unlink()
    mask.symlink_to(mask.name)
    found = {one.case for one in check([manifest]).findings if one.severity == "error"}
    run = create_run(quick_config(manifest), tmp_path / "run")
    prepare(run)
    entries = read_json(run.folder / "quarantine.json")
    assert {entry["id"] for entry in entries} == found == {"case_4"}
    assert "internal-error" not in {entry["code"] for entry in entries}


def test_labels_nearly_whole_are_whole(tmp_path: Path) -> None:
    image = save(tmp_path / "image.nii.gz", tissue())
    for off, fits in ((0.0005, True), (0.2, False)):
        mask = save(tmp_path / "mask.nii.gz", outline() + np.float32(off))
        found = check_case(Case("a", "a", None, image, mask), classes=CLASSES).findings
        assert described(found) == (set() if fits else {("fractional-labels", "error")})
    assert found[0].reason.endswith("e.g. 0.2, 1.2, 2.2")


def test_an_image_given_as_mask_is_called_that(tmp_path: Path) -> None:
    array = tissue().astype(np.float32) + 0.25
    image, copy = (save(tmp_path / f"{name}.nii.gz", array) for name in "ab")
    case = Case("a", "a", None, image, copy)
    assert described(check_case(case, classes=CLASSES).findings) == {("mask-equals-image", "error")}
    with pytest.raises(VolumetricError, match="mask-equals-image"):
        read_case(case, classes=CLASSES)


def drawn(image: np.ndarray, mask: np.ndarray, *, padding: Any = None, is_ct: bool = False) -> Any:
    volumes = [Volume(torch.from_numpy(one)[None], AFFINE) for one in (image, mask)]
    volumes[0] = replace(volumes[0], about=About(padding=padding))
    return described(check_drawing(*volumes, is_ct=is_ct))


def test_a_mask_in_what_the_header_calls_padding() -> None:
    image = _with(_with(tissue(), np.s_[:12], -500), (0, 0, 0), -600)
    mask = outline()
    mask[12:] = 0
    assert drawn(image, mask) == set()
    assert drawn(image, mask, padding=(-500, -500)) == {("mask-off-image", "warning")}


def test_a_mask_partly_on_background_is_no_alarm() -> None:
    image, mask = _with(tissue(), np.s_[:8], 0), outline()
    mask[11:16] = 0  # four slices of five lie on background
    assert (image[mask > 0] == 0).mean() == pytest.approx(0.8, abs=0.02)
    assert drawn(image, mask) == set()


def test_a_mask_in_the_air_of_a_ct() -> None:
    rng = np.random.default_rng(0)
    for level, noise, alarm in ((-1000, 15, True), (-850, 40, False), (-940, 10, False)):
        image = rng.normal(level, noise, SHAPE).astype(np.float32)
        found = drawn(image, outline(), is_ct=True)
        assert found == ({("mask-off-image", "warning")} if alarm else set()), level
        assert drawn(image, outline()) == set()
    # Of an airway the walls are outlined, too.
    image = rng.normal(-1000, 15, SHAPE).astype(np.float32)
    image[4:9, 4:12, 4] = -300
    assert drawn(image, outline(), is_ct=True) == set()


@pytest.mark.parametrize("axis", range(3))
def test_a_mask_drawn_on_some_slices_only(axis: int) -> None:
    slices: list[Any] = [np.s_[:]] * 3
    for step, alarm in ((1, False), (2, True), (3, True)):
        mask = np.zeros(SHAPE, np.uint8)
        slices[axis] = np.s_[3:19:step]
        mask[tuple(slices)] = 1
        assert drawn(tissue(), mask) == ({("skipped-slices", "warning")} if alarm else set())
    mask = np.zeros(SHAPE, np.uint8)
    slices[axis] = [2, 4, 6, 8, 11, 13]  # lesions here and there
    mask[tuple(slices)] = 1
    assert drawn(tissue(), mask) == set()
    slices[axis] = [2, 4, 6, 8]
    assert drawn(tissue(), _with(mask * 0, tuple(slices), 1)) == set()


# Sets, once more; of traits alone, so that many cases cost nothing.


def measured_case(number: int, **traits: Any) -> tuple[Case, Traits]:
    path = Path(f"c{number}.nii.gz")
    usual: dict[str, Any] = {
        "grid": (60, 256, 256),
        "spacing_mm": (5.0, 0.8, 0.8),
        "levels_hu": (-1000.0, -600.0, 300.0),
        "labels": {1: 1000},
    }
    rest: dict[str, Any] = {"orientation": "SAR", "label_like": False, "mask_hash": str(number)}
    case = Case(f"c{number}", f"s{number}", number % 3, path, path)
    return case, Traits(**(usual | rest | traits), image_hash=str(number))


def unlike(seen: list[tuple[Case, Traits]]) -> set[tuple[str, str | None]]:
    return {(one.code, one.case) for one in check_cohort(seen, classes={1: "organ"})}


def test_faults_within_the_minority_of_a_mixture_are_found() -> None:
    thin = {"grid": (300, 256, 256), "spacing_mm": (1.0, 0.8, 0.8), "labels": {1: 5000}}
    seen = [measured_case(n, **(thin if n >= 12 else {})) for n in range(20)]
    assert {code for code, _ in unlike(seen)} == {"mixed-spacing"}
    seen[17] = measured_case(17, **thin | {"levels_hu": (24.0, 424.0, 1324.0)})
    seen[18] = measured_case(18, **thin | {"labels": {1: 10}})
    seen[19] = measured_case(19, **thin | {"grid": (100, 256, 256)})
    assert unlike(seen) - {("mixed-spacing", None)} == {
        ("intensity-outlier", "c17"),
        ("label-volume-outlier", "c18"),
        ("size-outlier", "c19"),
    }


def test_a_case_of_odd_spacing_is_compared_no_further() -> None:
    seen = [measured_case(n) for n in range(12)]
    seen[3] = measured_case(3, spacing_mm=(50.0, 0.8, 0.8))
    assert unlike(seen) == {("spacing-outlier", "c3")}


@pytest.mark.parametrize(("sigmas", "odd"), [(5.5, False), (7.0, True), (11.0, True)])
def test_far_is_six_sigmas(sigmas: float, odd: bool) -> None:
    """Volumes spread by half a logarithm: the floor of five times is passed early."""
    normal = NormalDist()
    spread = [0.5 * normal.inv_cdf((n + 0.5) / 60) for n in range(60)]
    spread[-1] = 0.5 * sigmas
    seen = [
        measured_case(n, labels={1: int(100_000 * np.exp(far))}) for n, far in enumerate(spread)
    ]
    assert unlike(seen) == ({("label-volume-outlier", "c59")} if odd else set())


@pytest.mark.parametrize(("factor", "odd"), [(1.1, False), (1.5, False), (1.7, True)])
def test_an_extent_is_odd_beyond_a_floor(factor: float, odd: bool) -> None:
    seen = [measured_case(n) for n in range(12)]
    seen[3] = measured_case(3, grid=(round(60 * factor), 256, 256))
    assert unlike(seen) == ({("size-outlier", "c3")} if odd else set())


def test_values_spread_apart_are_not_shifted() -> None:
    seen = [measured_case(n) for n in range(12)]
    seen[3] = measured_case(3, levels_hu=(-1400.0, -200.0, 1300.0))
    assert unlike(seen) == set()
    seen[3] = measured_case(3, levels_hu=(-600.0, -200.0, 700.0))
    assert unlike(seen) == {("intensity-outlier", "c3")}


def test_few_and_short_ids_are_listed() -> None:
    ids = [f"{'folder/' * 20}case_{n}" for n in range(12)]
    said = list_ids(ids)
    assert said.endswith("/case_2 and 9 more")
    assert said.count("…") == 3
    assert len(said) < 170


@pytest.mark.parametrize("how", ["empty", "unnamed"])
def test_a_set_without_any_mask_says_so_once(how: str, tmp_path: Path) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["mask"] = np.zeros(SHAPE, np.uint8) if how == "empty" else None

    manifest = write_set(tmp_path / "set", edit)
    found = check([manifest]).findings
    (told,) = [one for one in found if one.severity == "error"]
    assert (told.code, told.case) == ("no-usable-mask", None)
    assert {one.code for one in found} <= {"no-usable-mask", "empty-mask"}
    run = create_run(quick_config(manifest), tmp_path / "run")
    if how == "empty":
        with pytest.raises(VolumetricError):
            prepare(run)
    else:  # whose training refuses
        prepare(run)
    assert "no-usable-mask" in {one["code"] for one in read_json(run.folder / "findings.json")}


def test_a_manifest_in_capitals(tmp_path: Path) -> None:
    manifest = write_set(tmp_path)
    manifest = manifest.rename(manifest.with_suffix(".YAML"))
    assert find_manifest(str(manifest)) == manifest.resolve()
    assert check([manifest]).n_cases == 12


def test_a_wrong_root_is_said_once(tmp_path: Path) -> None:
    manifest = write_set(tmp_path / "set")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="none of its 24 files lies under") as refusal:
        check([manifest], root=tmp_path / "empty")
    assert "--root" in refusal.value.remedy
    (tmp_path / "set/images/case_3.nii.gz").unlink()
    assert described(check([manifest]).findings) == {("missing-file", "error")}


def test_what_leaks_or_lies_elsewhere_comes_first() -> None:
    codes = ["bad-fold", "origin-mismatch", "not-finite", "duplicate-across-folds"]
    found = sort_findings([Finding(code, "error", "", "") for code in codes])
    assert [one.code for one in found] == [codes[3], codes[1], codes[0], codes[2]]


# The data set as a whole.


Edit = Callable[[list[dict[str, Any]]], None]


def write_set(folder: Path, edit: Edit | None = None, *, modality: str = "MR") -> Path:
    """Manifest of twelve cases of twelve subjects in two folds, edited row by row."""
    make = hounsfield if modality == "CT" else tissue
    rows = [
        {
            "subject": f"person_{n}",
            "fold": n % 2,
            "image": make(n).astype(np.int16),
            "mask": outline(n),
            "affine": AFFINE,
        }
        for n in range(12)
    ]
    if edit is not None:
        edit(rows)
    cases = []
    for number, row in enumerate(rows):
        name = f"case_{number}"
        mask = row["mask"]
        if mask is not None:
            mask = save(folder / f"masks/{name}.nii.gz", mask, row["affine"])
        image = save(folder / f"images/{name}.nii.gz", row["image"], row["affine"])
        cases.append(Case(row.get("id", name), row["subject"], row["fold"], image, mask))
    write_cases(folder / "set.csv", cases, root=folder)
    about = {"name": "set", "modality": modality, "classes": CLASSES, "cases": "set.csv"}
    (folder / "set.yaml").write_text(yaml.safe_dump(about))
    return folder / "set.yaml"


def found_in(folder: Path, edit: Callable[..., None] | None = None, **about: Any) -> list[Finding]:
    return list(check([write_set(folder, edit, **about)], workers=2).findings)


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_a_sound_data_set_raises_nothing(modality: str, tmp_path: Path) -> None:
    report = check([write_set(tmp_path, modality=modality)])
    assert (report.n_cases, report.n_volumes, report.findings) == (12, 24, ())


def _copy(source: int, target: int, *names: str) -> Edit:
    def edit(rows: list[dict[str, Any]]) -> None:
        for name in names:
            rows[target][name] = rows[source][name]

    return edit


def _put(target: int, **values: Any) -> Edit:
    return lambda rows: rows[target].update(values)


def _put_all(**values: Any) -> Edit:
    def edit(rows: list[dict[str, Any]]) -> None:
        for number, row in enumerate(rows):
            for name, value in values.items():
                row[name] = value(number) if callable(value) else value

    return edit


HALF = {"image": tissue(5, (20, 22, 10)), "mask": outline()[:, :, :10]}
BAD_SETS: dict[str, tuple[str, str, str | None, Edit]] = {
    "duplicate-across-folds": ("duplicate-across-folds", "error", "case_5", _copy(2, 5, "image")),
    "duplicate-image": ("duplicate-image", "warning", "case_4", _copy(2, 4, "image")),
    "duplicate-image of one subject": (
        "duplicate-image",
        "warning",
        "case_4",
        _copy(2, 4, "image", "subject"),
    ),
    "duplicate-mask": ("duplicate-mask", "warning", "case_5", _copy(2, 5, "mask")),
    "duplicate-mask of one subject": (
        "duplicate-mask",
        "note",
        "case_4",
        _copy(2, 4, "mask", "subject"),
    ),
    "subject-in-two-folds": ("subject-in-two-folds", "error", "case_5", _copy(2, 5, "subject")),
    "duplicate-id": ("duplicate-id", "error", "case_1", _put(5, id="case_1")),
    "class-absent": (
        "class-absent",
        "warning",
        None,
        _put_all(mask=lambda n: np.minimum(outline(n), 1)),
    ),
    "class-untrained": (
        "class-untrained",
        "error",
        None,
        _put_all(mask=lambda n: np.minimum(outline(n), 1 + n % 2)),
    ),
    "one-fold": ("one-fold", "error", None, _put_all(fold=0)),
    "no-fold": ("no-fold", "note", None, lambda rows: [r.update(fold=None) for r in rows[10:]]),
    "unbalanced-folds": ("unbalanced-folds", "warning", None, _put_all(fold=lambda n: n // 10)),
    "no-mask": ("no-mask", "warning", "case_5", _put(5, mask=None)),
    "spacing-outlier": (
        "spacing-outlier",
        "warning",
        "case_5",
        _put(5, affine=np.diag([1.0, 1.5, 20.0, 1.0])),
    ),
    "size-outlier": ("size-outlier", "warning", "case_5", _put(5, **HALF)),
    "mixed-orientation": (
        "mixed-orientation",
        "note",
        None,
        _put(5, affine=np.diag([-1, -1.5, 2, 1])),
    ),
}


@pytest.mark.parametrize("name", BAD_SETS)
def test_what_only_shows_across_cases(name: str, tmp_path: Path) -> None:
    code, severity, case, edit = BAD_SETS[name]
    found = found_in(tmp_path, edit)
    assert (code, severity, case) in {(one.code, one.severity, one.case) for one in found}
    others = {one.code for one in found if one.severity != "note"} - {code}
    assert not others
    assert all(one.path is None or Path(one.path).exists() for one in found)


def test_a_class_that_a_fold_cannot_score(tmp_path: Path) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        for number, row in enumerate(rows):
            row["fold"] = number % 3
            row["mask"] = np.minimum(row["mask"], 1) if number % 3 == 2 else row["mask"]

    found = [one for one in found_in(tmp_path, edit) if one.severity != "note"]
    assert described(found) == {("class-unscored", "warning")}
    assert "fold 2" in found[0].reason


def test_folds_with_few_subjects_are_noted(tmp_path: Path) -> None:
    found = found_in(tmp_path, _put_all(subject=lambda n: f"person_{n % 2}"))
    assert described(found) == {("few-subjects", "note")}


def test_a_ct_whose_offset_is_missing_is_unlike_the_others(tmp_path: Path) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        rows[5]["image"] = rows[5]["image"] + 1024

    found = found_in(tmp_path, edit, modality="CT")
    assert {(one.code, one.case) for one in found if one.severity == "warning"} == {
        ("ct-not-hu", "case_5"),
        ("intensity-outlier", "case_5"),
    }
    louder = _put_all(image=lambda n: tissue(n) * (30 if n == 5 else 1))
    assert found_in(tmp_path, louder) == []  # in MR the scale is the scanner's own


def test_a_label_far_larger_than_in_the_others(tmp_path: Path) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        rows[5]["mask"][1:19, 13:20, 1:22] = 1

    (found,) = found_in(tmp_path, edit)
    assert (found.code, found.case) == ("label-volume-outlier", "case_5")


SHORT = {"image": tissue(5, (20, 22, 10)), "mask": outline()[:, :, :10]}
MIXTURES: dict[str, Callable[[dict[str, Any]], None]] = {
    "mixed-spacing": lambda row: row.update(
        affine=np.diag([1.0, 0.25, 2.0, 1.0]),
        image=tissue(shape=(20, 132, 24)),
        mask=np.repeat(row["mask"], 6, axis=1),
    ),
    "mixed-extent": lambda row: row.update({k: v.copy() for k, v in SHORT.items()}),
    "mixed-label-volume": lambda row: row["mask"].__setitem__(np.s_[1:19, 13:20, 1:22], 1),
    "mixed-intensity": lambda row: row.update(image=row["image"] + 1024),
}


@pytest.mark.parametrize("code", MIXTURES)
def test_a_mixture_is_told_once_and_names_its_minority(code: str, tmp_path: Path) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        for number in (3, 7, 9):
            MIXTURES[code](rows[number])
            rows[number]["image"][0, 0, 0] += number  # no copies

    found = found_in(tmp_path, edit, modality="CT" if code == "mixed-intensity" else "MR")
    assert not [one for one in found if "outlier" in one.code]
    (told,) = [one for one in found if one.code.startswith("mixed")]
    assert (told.code, told.severity, told.case) == (code, "warning", None)
    assert "9 cases " in told.reason
    assert "3 cases " in told.reason
    assert told.reason.endswith("case_3, case_7, case_9")


def test_many_cases_without_a_mask_are_noted(tmp_path: Path) -> None:
    found = found_in(tmp_path, lambda rows: [row.update(mask=None) for row in rows[:4]])
    assert described(found) == {("no-mask", "note")}


def test_mixed_modalities(tmp_path: Path) -> None:
    for modality in ("CT", "MR"):
        for number in range(18):
            path = tmp_path / modality / f"{number}.dcm"
            write_ct_slice(path, number, f"1.2.{ord(modality[0])}", modality=modality)
    found = check([tmp_path]).findings
    assert ("mixed-modality", "warning") in described(found)
    (told,) = [one for one in found if one.code == "mixed-modality"]
    assert re.search(r"differ: 1 (CT|MR), 1 (CT|MR) \((CT|MR)\)$", told.reason)


def test_bad_rows_hide_no_others(tmp_path: Path) -> None:
    manifest = write_set(tmp_path, lambda rows: rows[3].update(image=SQUARE * np.nan))
    with (tmp_path / "set.csv").open("a") as file:
        file.write("late,p,first,i.nii,m.nii\n../bad,q,0,i.nii,m.nii\n")
    found = check([manifest]).findings
    assert [(one.code, one.case) for one in found if one.severity == "error"] == [
        ("bad-fold", None),
        ("not-finite", "case_3"),
        ("unsafe-id", None),
    ]
    assert "set.csv:14" in str(found[0].path)


def test_check_and_run_agree_where_there_are_no_folds(tmp_path: Path) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["fold"] = None
        rows[5]["image"] = rows[2]["image"]
        rows[8]["image"] = rows[7]["image"]
        rows[7]["mask"] = _with(rows[7]["mask"], 0, 9)  # refused, so 8 stands alone

    manifest = write_set(tmp_path / "set", edit)
    run = create_run(quick_config(manifest), tmp_path / "run")
    prepare(run)
    checked = check([manifest]).findings
    named = [asdict(one) for one in checked]
    for one in named:  # of the whole set, check names the table
        one["path"] = None if one["case"] is None else one["path"]
    assert named == read_json(run.folder / "findings.json")
    apart = {entry["id"]: entry["code"] for entry in read_json(run.folder / "quarantine.json")}
    assert apart == {one.case: one.code for one in checked if one.severity == "error"}
    assert apart["case_7"] == "unknown-labels"
    assert "case_8" not in apart


def test_dicom_is_found_by_what_it_holds(ct_series: Path) -> None:
    """Without suffix and without preamble, as `read_volume` reads it."""
    for file in sorted(ct_series.iterdir()):
        (ct_series / file.stem).write_bytes(file.read_bytes()[132:])
        file.unlink()
    assert check_path(ct_series) == []


def test_links_to_nothing_and_pipes_are_told(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz", tissue())
    (tmp_path / "s.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    os.mkfifo(tmp_path / "p.nii")
    assert {(one.case, one.code) for one in check_path(tmp_path)} == {
        ("s.nii.gz", "missing-file"),
        ("p.nii", "not-a-file"),
    }


@given(st.permutations(range(3)), st.tuples(*[st.sampled_from((1, -1))] * 3), st.booleans())
def test_equal_voxels_have_equal_hashes(
    order: list[int], flips: tuple[int, int, int], wider: bool
) -> None:
    straight = nib.Nifti1Image(tissue(shape=(4, 5, 6)), AFFINE)
    turned = straight.as_reoriented(np.column_stack([order, flips]))

    def volume(image: nib.Nifti1Image, dtype: Any) -> Volume:
        array = np.asarray(image.dataobj).transpose(2, 1, 0).astype(dtype)
        return Volume(torch.from_numpy(array.copy())[None], image.affine[:, [2, 1, 0, 3]])

    first = hash_voxels(volume(straight, np.int16))
    assert hash_voxels(volume(turned, np.float64 if wider else np.int16)) == first
    other = volume(turned, np.int16)
    other.data[0, 0, 0, 0] += 1
    assert hash_voxels(other) != first
    assert torch.equal(reorder(other, volume(straight, np.int16)).data, orient(other).data)


# Folders, files, and the command line.


def test_what_lies_in_a_folder(ct_series: Path, tmp_path: Path) -> None:
    save(tmp_path / "deep/er/a.nii.gz", tissue())
    save(tmp_path / "deep/mask.nii", outline())
    (tmp_path / "deep/b.mha").write_bytes(b"broken")
    (tmp_path / "deep/notes.txt").write_text("no scan")
    (tmp_path / "deep/.hidden.nii").write_bytes(b"broken")
    (tmp_path / "deep/loop").symlink_to(tmp_path)
    found = check_path(tmp_path)
    assert {(one.case, one.severity) for one in found if one.case} == {
        ("deep/b.mha", "error"),
        ("deep/mask.nii", "note"),
    }
    (passed,) = [one for one in found if one.code == "not-looked-at"]
    assert passed.severity == "note"
    assert passed.reason == "1 file is of no kind that is read: deep/notes.txt"
    report = check([tmp_path])
    assert report.n_cases == report.n_volumes == 4
    assert described(report.findings) == described(found)
    assert {one.case for one in report.findings if one.severity == "error"} == {"deep/b.mha"}
    assert "  deep/b.mha: " in to_text(report, styled=plain)
    assert str(tmp_path) not in to_text(report, styled=plain).partition("note ")[0]
    beside = check([tmp_path, save(tmp_path / "other/x.nii.gz", tissue(7)).parent])
    assert str(tmp_path / "deep/b.mha") in {one.case for one in beside.findings}
    (tmp_path / "other/x.nii.gz").unlink()
    # As DICOM and as NIfTI, compressed, it is one scan.
    write_volume(
        orient(read_case(Case("a", "a", None, ct_series), classes={})[0]), tmp_path / "c.nii.gz"
    )
    assert ("duplicate-image", "warning") in described(check_path(tmp_path))


def test_what_is_passed_over_in_a_folder(ct_series: Path, tmp_path: Path) -> None:
    """Beside slices, too: other files, half of a pair, links to folders, folders of nothing."""
    (ct_series / "scans.zip").write_bytes(b"PK")
    (ct_series / "a_note.txt").write_text("no scan")
    (ct_series / "half.img").write_bytes(bytes(3000))
    (tmp_path / "elsewhere").mkdir()
    (ct_series / "linked").symlink_to(tmp_path / "elsewhere")
    found = {one.code: one for one in check_path(tmp_path)}
    assert set(found) - {"set-apart"} == {"not-looked-at", "links-not-followed", "empty-folder"}
    assert {one.severity for one in found.values()} == {"note"}
    assert found["not-looked-at"].reason == (
        "3 files are of no kind that is read: ct/scans.zip, ct/a_note.txt, ct/half.img"
    )
    assert "Unpack scans.zip" in found["not-looked-at"].remedy
    assert found["links-not-followed"].reason == "1 link to folders: ct/linked"
    assert found["empty-folder"].reason == "1 folder holds no file: elsewhere"


def test_a_pair_is_one_scan(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(tissue(), AFFINE), tmp_path / "pair.hdr")
    assert {one.code for one in check_path(tmp_path)} & {"not-looked-at"} == set()


def test_a_folder_with_an_archive_alone(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "in/scans.zip").write_bytes(b"PK")
    (tmp_path / "in/linked").symlink_to(tmp_path / "real")
    with pytest.raises(UnreadableFileError, match="nothing-to-check") as refusal:
        check_path(tmp_path / "in")
    assert "scans.zip" in refusal.value.reason
    assert "linked" in refusal.value.reason
    assert "Unpack" in refusal.value.remedy


def test_a_folder_of_images_and_masks_wants_a_manifest(tmp_path: Path) -> None:
    save(tmp_path / "set/imagesTr/a.nii.gz", tissue())
    save(tmp_path / "set/labelsTr/a.nii.gz", outline())
    told = {one.code: one for one in check_path(tmp_path)}
    assert set(told) == {"no-manifest", "label-map-as-image"}
    assert "labelsTr lies beside imagesTr" in told["no-manifest"].reason
    assert told["no-manifest"].path == str(tmp_path / "set")


def test_folders_a_thousand_deep(tmp_path: Path) -> None:
    here = tmp_path
    for _ in range(1200):
        here = here / "d"
    try:
        save(tmp_path / "a.nii.gz", tissue())
        step = os.open(tmp_path, os.O_RDONLY)
        for _ in range(1200):
            os.mkdir("d", dir_fd=step)
            below = os.open("d", os.O_RDONLY, dir_fd=step)
            os.close(step)
            step = below
        os.close(step)
        assert {one.code for one in check_path(tmp_path)} <= {"empty-folder", "unreadable-file"}
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)


def test_what_cannot_be_checked_at_all(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", tmp_path / "none.nii.gz"):
        with pytest.raises(UnreadableFileError):
            check_path(path)
        with pytest.raises(VolumetricError):
            check([path])
    (tmp_path / "set.csv").write_text("id,image\n")
    with pytest.raises(ManifestError, match="empty-manifest"):
        check([tmp_path / "set.csv"])
    image = save(tmp_path / "a.nii.gz", tissue())
    report = check([tmp_path / "none", image])
    assert [(one.code, one.severity) for one in report.findings] == [("missing-file", "error")]


def test_a_csv_alone_knows_no_classes(tmp_path: Path) -> None:
    manifest = write_set(tmp_path, lambda rows: rows[3]["mask"].__setitem__((0, 0, 0), 9))
    assert check([manifest.with_suffix(".csv")]).findings == ()
    (found,) = check([manifest]).findings
    assert (found.code, found.case) == ("unknown-labels", "case_3")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("set.csv", "set.yaml"):
        (tmp_path / name).rename(moved / name)
    assert len(check([moved / "set.yaml"], root=tmp_path).findings) == 1
    with pytest.raises(ManifestError, match="missing-root"):
        check([moved / "set.yaml"], root=tmp_path / "nowhere")


def plain(text: str, severity: str) -> str:
    return text


def test_the_text_is_grouped_cut_and_summed_up(tmp_path: Path) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["mask"] = np.zeros(SHAPE, np.uint8)
        for number in (10, 11):
            rows[number]["mask"] = outline(number)
        rows[0]["image"] = SQUARE * np.nan

    report = check([write_set(tmp_path, edit)])
    lines = to_text(replace(report, findings=report.findings), styled=plain).splitlines()
    assert lines[0] == "error not-finite"
    assert lines[1].startswith("  case_0 (images/case_0.nii.gz): has ")
    assert "warning empty-mask, 10 times" not in lines  # case_0's is not told: it cannot be used
    assert "warning empty-mask, 9 times" in lines
    assert lines[-1].startswith("12 cases, 24 volumes: 1 error, ")
    many = tuple(replace(report.findings[0], case=f"c{n}") for n in range(47))
    text = to_text(replace(report, findings=many), styled=plain)
    assert "  … and 37 more (--json lists all)" in text.splitlines()
    assert text.count("→") == 1
    assert len(json.loads(to_json(replace(report, findings=many)))["findings"]) == 47
    assert [one.severity for one in sort_findings(report.findings[::-1])] == [
        one.severity for one in report.findings
    ]


def volumetric(*words: str | Path, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=120,
        **how,
    )


def test_exit_codes_and_json(tmp_path: Path) -> None:
    good = write_set(tmp_path / "good")
    done = volumetric("check", good, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "n_cases": 12,
        "n_volumes": 24,
        "findings": [],
        "counts": {"error": 0, "warning": 0, "note": 0},
    }
    name = os.fsdecode(b"bad\xff\n\x1b[31m.nii.gz")
    save(tmp_path / name, SQUARE * np.nan)
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = volumetric("check", tmp_path / name, env=env)
    assert done.returncode == 1, done.stderr
    assert "not-finite" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert all(str(one).isprintable() for one in check_path(tmp_path / name))
    done = volumetric("check", tmp_path / "none")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    done = volumetric("check", tmp_path / "none", "--json")
    said = json.loads(done.stdout)
    assert (done.returncode, said["n_cases"], said["counts"]["error"]) == (2, 0, 1)
    assert said["findings"][0]["code"] == "missing-file"
    done = volumetric("check", "--list", "--json")
    assert {one["code"] for one in json.loads(done.stdout)} == set(CODES)


def test_what_a_reader_logs_is_said_once(ct_series: Path) -> None:
    (ct_series / "again.dcm").write_bytes((ct_series / "3.dcm").read_bytes())
    done = volumetric("check", ct_series)
    assert done.stdout.count("duplicate-slice") == 1
    assert "duplicate-slice" not in done.stderr


def test_every_code_that_is_raised_is_listed() -> None:
    """Collected from the source, so that a new one cannot be forgotten."""
    library = ROOT / "volumetric"
    files = [library / f"{name}.py" for name in ("cases", "volume")]
    files += [path for path in (library / "check").glob("*.py") if path.name != "codes.py"]
    files += [path for path in (library / "io").rglob("*.py") if path.name != "prepared.py"]
    files += [ROOT / f"pipeline/{name}.py" for name in ("check", "listing", "manifest", "progress")]
    raised = {code: path.name for path in files for code in _codes(path)} | {
        "nothing-to-check": "cli.py"
    }
    raised.pop("unwritable")  # of writing
    unlisted = {code: name for code, name in raised.items() if code not in CODES}
    assert not unlisted, f"add these to volumetric/check/codes.py: {unlisted}"
    stale = {code for code in CODES if "-" in code} - set(raised)
    assert not stale, f"nothing raises these of volumetric/check/codes.py any more: {stale}"
    assert len(CODES) >= 40
    assert {severity for severity, _ in CODES.values()} == {"error", "warning", "note"}
    assert all(code in list_codes() for code in CODES)


def _codes(path: Path) -> set[str]:
    """First arguments of calls with code, reason and remedy; of tuples; keys of tables."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and len(node.args) >= 3:
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if re.search(r"Error$|Finding$|^_", name):
                plain = name.endswith(("Error", "Finding"))
                found |= {text for text in _texts(node.args[:2]) if plain or "-" in text}
        elif isinstance(node, ast.Tuple) and len(node.elts) >= 2:
            found |= {text for text in _texts(node.elts[:1]) if "-" in text}
        elif isinstance(node, ast.Dict):
            found |= {text for text in _texts(node.keys) if "-" in text}
    severities = {"error", "warning", "note"}
    return {text for text in found - severities if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", text)}


def _texts(nodes: list[Any]) -> set[str]:
    branches = [(n.body, n.orelse) if isinstance(n, ast.IfExp) else (n,) for n in nodes]
    ends = [end for pair in branches for end in pair if isinstance(end, ast.Constant)]
    return {end.value for end in ends if isinstance(end.value, str)}


# In the run.


def test_the_run_calls_it_first(tmp_path: Path) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        rows[5]["image"] = rows[2]["image"]  # another subject, on the other side
        rows[4]["mask"] = np.zeros(SHAPE, np.uint8)
        rows[1]["image"] = SQUARE * np.nan

    run = create_run(quick_config(write_set(tmp_path / "set", edit)), tmp_path / "run")
    prepare(run)
    entries = {entry["id"]: entry for entry in read_json(run.folder / "quarantine.json")}
    assert {name: entry["code"] for name, entry in entries.items()} == {
        "case_1": "not-finite",
        "case_5": "duplicate-across-folds",
    }
    assert "case_2" in entries["case_5"]["reason"]
    assert not (run.prepared / "case_5.safetensors").exists()
    findings = read_json(run.folder / "findings.json")
    assert [(one["code"], one["case"]) for one in findings] == [
        ("duplicate-across-folds", "case_5"),
        ("not-finite", "case_1"),
        ("empty-mask", "case_4"),
    ]
    again = {path: path.stat().st_mtime_ns for path in run.prepared.iterdir()}
    prepare(run)  # from the facts it kept
    assert {path: path.stat().st_mtime_ns for path in run.prepared.iterdir()} == again
    assert read_json(run.folder / "findings.json") == findings
    assert [entry["id"] for entry in read_json(run.folder / "quarantine.json")] == [
        "case_1",
        "case_5",
    ]


def test_warnings_are_a_line_a_code(
    blob_config: RunConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = create_run(blob_config, tmp_path / "run")
    for case in run.cases[:3]:
        assert case.mask is not None
        mask = nib.load(case.mask)
        save(case.mask, np.zeros(mask.shape, np.uint8), mask.affine)
    with caplog.at_level("WARNING", logger="volumetric"):
        prepare(run)
    (said,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert "[empty-mask] (and 2 more: see findings.json)" in said


# Real data: no false alarm.


def test_no_false_alarm_on_the_hippocampus_set(hippocampus: Path) -> None:
    report = check([MANIFESTS / "hippocampus.yaml"], root=hippocampus)
    assert (report.n_cases, report.n_volumes) == (260, 520)
    assert [one for one in report.findings if one.severity != "note"] == []


@pytest.mark.parametrize("name", ["lidc", "totalsegmentator"])
def test_no_false_alarm_on_a_ct(name: str) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not beside this checkout")
    report = check([DATA / name])
    assert [one for one in report.findings if one.severity != "note"] == []
