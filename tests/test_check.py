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

from pipeline.check import check, list_codes, sort_findings, to_json, to_text
from pipeline.config import RunConfig
from pipeline.files import read_json
from pipeline.prepare import prepare
from pipeline.run import create_run
from tests.conftest import quick_config, save
from volumetric import Finding, Volume, check_path, write_volume
from volumetric.cases import Case, write_cases
from volumetric.check import check_case, read_case
from volumetric.check.codes import CODES
from volumetric.check.mask import compare_grids, reorder
from volumetric.check.traits import hash_voxels, traits_from
from volumetric.errors import ManifestError, UnreadableFileError, VolumetricError
from volumetric.preprocess import orient

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
    "extreme-anisotropy": ("warning", tissue(), np.diag([0.5, 0.5, 12, 1])),
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
    "mixed-spacing": lambda row: row.update(affine=np.diag([1.0, 1.5, 20.0, 1.0])),
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
    assert re.search(r"differ: 1 (CT|MR), 1 (CT|MR) \(.*/(CT|MR)\)$", told.reason)


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
    assert {one.case for one in report.findings if one.severity == "error"} == {
        str(tmp_path / "deep/b.mha")
    }
    # As DICOM and as NIfTI, compressed, it is one scan.
    write_volume(
        orient(read_case(Case("a", "a", None, ct_series), classes={})[0]), tmp_path / "c.nii.gz"
    )
    assert ("duplicate-image", "warning") in described(check_path(tmp_path))


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
        rows[0]["image"] = SQUARE * np.nan

    report = check([write_set(tmp_path, edit)])
    lines = to_text(replace(report, findings=report.findings), styled=plain).splitlines()
    assert lines[0] == "error not-finite"
    assert lines[1].startswith("  case_0 (images/case_0.nii.gz): has ")
    assert "warning empty-mask, 12 times" not in lines  # case_0's is not told: it cannot be used
    assert "warning empty-mask, 11 times" in lines
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


def test_every_code_that_is_raised_is_listed() -> None:
    """Collected from the source, so that a new one cannot be forgotten."""
    library = ROOT / "volumetric"
    files = [library / f"{name}.py" for name in ("cases", "volume")]
    files += [path for path in (library / "check").glob("*.py") if path.name != "codes.py"]
    files += [path for path in (library / "io").rglob("*.py") if path.name != "prepared.py"]
    files += [ROOT / f"pipeline/{name}.py" for name in ("check", "manifest", "progress")]
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
