"""How a volume is named and chosen, which paths are one scan, and what several threads share."""

from __future__ import annotations

import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import config, dcmread
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from tests.phantom import SeriesSpec
from tests.series import write_series as write_phantom
from tests.slices import along_z, edit, refusal, write_series, write_slice, write_stack
from volumetric import read_volume
from volumetric.errors import AmbiguousSeriesError, ConfigError, VolumetricError
from volumetric.io.dicom.groups import group_slices
from volumetric.io.dicom.headers import read_slices
from volumetric.io.dicom.scan import read_dicom


def write_cine(folder: Path, *, n_places=4, n_phases=5, lost: tuple[int, int] | None = None):
    """Each place with trigger times of its own: its heart beat a little slower."""
    for place in range(n_places):
        for phase in range(n_phases):
            if (place, phase) != lost:
                write_slice(
                    folder / f"{place}_{phase}.dcm",
                    np.full((5, 6), 10 * place + phase, np.int16),
                    position=(0, 0, 5 * place),
                    TriggerTime=phase * (40.0 + place) + 1.5 * place,
                )


# Contrasts


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("EchoTime", [5.0, 90.0, 200.0]),
        ("EchoNumbers", [1, 2, 3]),
        ("DiffusionBValue", [0.0, 500.0, 1000.0]),
        ("ImageType", [["ORIGINAL", "PRIMARY", word] for word in "MPR"]),
    ],
)
def test_few_slices_each_of_its_own_contrast_are_refused(tmp_path, depth, keyword, values):
    write_stack(tmp_path, along_z(0, 2, 4)[:depth], SliceThickness=2)
    for name in range(depth):
        edit(tmp_path, name, **{keyword: values[name]})
    error = refusal(tmp_path)
    assert (type(error), error.code) == (AmbiguousSeriesError, "mixed-contrast")


# Choices


def test_phases_of_a_cine_are_told_apart_by_their_rank(tmp_path):
    write_cine(tmp_path)
    error = refusal(tmp_path)
    assert error.code == "several-volumes"
    assert error.choices == tuple(f"1.2.3[TriggerTime#{rank}]" for rank in range(1, 6))
    for phase, choice in enumerate(error.choices):
        volume = read_dicom(tmp_path, series_uid=choice)
        assert volume.data[0, :, 0, 0].tolist() == [10 * place + phase for place in range(4)]


def test_phases_of_which_one_is_lost_are_not_ranked(tmp_path):
    write_cine(tmp_path, lost=(2, 1))
    assert refusal(tmp_path).code == "duplicate-position"
    assert refusal(tmp_path, series_uid="1.2.3[TriggerTime#2]").code == "series-not-found"


def test_a_rank_among_slices_without_places_is_not_there(tmp_path):
    write_series(tmp_path, ImagePositionPatient=None)
    assert refusal(tmp_path, series_uid="1.2.3[TriggerTime#2]").code == "series-not-found"


def write_echoes(folder: Path) -> None:
    for number, echo_time in enumerate((4.92, 9.84)):
        for index in range(4):
            write_slice(
                folder / f"{number}_{index}.dcm",
                np.full((5, 6), 10 * number + index, np.int16),
                position=(0, 0, 2 * index),
                EchoTime=echo_time,
            )


@pytest.mark.parametrize("written", ["4.92", "4.920", "04.92", "492e-2"])
def test_a_number_is_chosen_however_it_is_written(tmp_path, written):
    write_echoes(tmp_path)
    volume = read_dicom(tmp_path, series_uid=f"1.2.3[EchoTime={written}]")
    assert volume.data[0, :, 0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("part", ["EchoTime=5", "EchoTiem=4.92", "Echo", "TriggerTime#1"])
def test_a_wrong_choice_lists_the_right_ones(tmp_path, part):
    write_echoes(tmp_path)
    if part == "Echo":
        part = "Echo=x"
    error = refusal(tmp_path, series_uid=f"1.2.3[{part}]")
    assert error.code == "series-not-found"
    assert error.choices == ("1.2.3[EchoTime=4.92]", "1.2.3[EchoTime=9.84]")
    assert "column `series`" in error.remedy
    assert "column `series`" in refusal(tmp_path).remedy


def test_a_wrong_choice_of_a_single_volume_says_so(tmp_path):
    write_series(tmp_path)
    error = refusal(tmp_path, series_uid="1.2.3[EchoTime=5]")
    assert (error.code, error.choices) == ("series-not-found", ("1.2.3",))


# What lies beside


def test_secondary_captures_alone_are_named_so(tmp_path):
    write_series(
        tmp_path,
        SOPClassUID=SecondaryCaptureImageStorage,
        Modality="OT",
        PhotometricInterpretation="RGB",
        SamplesPerPixel=3,
    )
    error = refusal(tmp_path)
    assert error.code == "no-image-series"
    assert "pictures of a screen" in error.remedy


@pytest.mark.parametrize(
    ("names", "reason", "remedy"),
    [
        (["notes.txt"], "1 not DICOM (notes.txt)", "copy it again"),
        (["a.txt", "b.txt", "c.txt", "d.txt"], "4 not DICOM (a.txt, b.txt, c.txt, …)", "copy it"),
        (["rest.zip"], "1 not DICOM (rest.zip)", "unpack it"),
    ],
)
def test_files_that_are_no_dicom_are_named(tmp_path, names, reason, remedy):
    write_series(tmp_path)
    for name in names:
        (tmp_path / name).write_bytes(b"PK" + bytes(200))
    (finding,) = read_dicom(tmp_path).about.findings
    assert (finding.code, finding.severity) == ("set-apart", "note")
    assert reason in finding.reason
    assert remedy in finding.remedy


# Paths


def test_a_list_of_dicom_files_is_one_scan(tmp_path):
    stored = write_series(tmp_path)
    files = sorted(tmp_path.iterdir())
    for paths in (files, [str(file) for file in files], tuple(files), [*files, files[0]]):
        np.testing.assert_array_equal(read_volume(paths).data[0].numpy(), stored)
    assert read_volume([tmp_path]).shape == (4, 5, 6)
    with pytest.raises(VolumetricError, match=r"\[unproven-spacing\]"):
        read_volume(files[:1])


@pytest.mark.parametrize(
    ("name", "content"), [("a.nii", b""), ("a.txt", b"text"), ("a.mp4", b""), ("folder", None)]
)
def test_a_list_with_anything_else_is_refused(tmp_path, name, content):
    write_series(tmp_path / "scan")
    other = tmp_path / name
    other.mkdir() if content is None else other.write_bytes(content)
    with pytest.raises(VolumetricError) as caught:
        read_volume([*(tmp_path / "scan").iterdir(), other])
    assert (caught.value.code, caught.value.path) == ("several-files", str(other))


@pytest.mark.parametrize("path", ["", [], [""]])
def test_no_path_is_not_the_folder_one_is_in(tmp_path, monkeypatch, path):
    write_series(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VolumetricError) as caught:
        read_volume(path)
    assert caught.value.code == "missing-file"


@pytest.mark.parametrize("name", ["a.nii", "a.mha", "a.mp4"])
def test_a_series_of_what_is_no_dicom_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ConfigError) as caught:
        read_volume(tmp_path / name, series_uid="1.2.3")
    assert caught.value.code == "series-of-no-dicom"


# Enhanced objects


def test_a_dimension_that_does_not_say_what_it_counts_costs_nothing(tmp_path):
    write_phantom(tmp_path, SeriesSpec(layout="enhanced"))
    (file,) = tmp_path.iterdir()
    dataset = dcmread(file)
    dataset.DimensionIndexSequence = [Dataset() for _ in dataset.DimensionIndexSequence]
    dataset.save_as(file)
    assert read_dicom(tmp_path).shape == (6, 10, 12)


def test_thousands_of_orientations_are_told_apart_at_once(tmp_path):
    write_series(tmp_path, depth=1)
    ((one,), _) = read_slices(tmp_path / "0.dcm")
    angles = 0.0005 * np.arange(16_000)
    slices = [
        replace(one, orientation=(np.cos(a), np.sin(a), 0.0, -np.sin(a), np.cos(a), 0.0))
        for a in angles
    ]
    start = time.process_time()
    assert len(group_slices(slices, "ImageOrientationPatient")) > 256
    assert time.process_time() - start < 1


# Threads


def test_threads_leave_pydicom_and_the_warnings_as_they_were(tmp_path):
    for number in range(4):
        write_series(tmp_path / str(number), depth=12)

    def state():
        return (
            config.logger.disabled,
            config.settings._reading_validation_mode,
            config.settings._writing_validation_mode,
            list(warnings.filters),
            warnings.showwarning,
        )

    before = state()
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            shapes = pool.map(lambda n: read_dicom(tmp_path / str(n)).shape, range(4))
            assert set(shapes) == {(12, 5, 6)}
            assert state() == before


def test_a_refusal_leaves_pydicom_as_it_was(tmp_path):
    before = config.logger.disabled, config.settings._reading_validation_mode
    write_series(tmp_path, RescaleSlope="1.25")
    file = tmp_path / "1.dcm"
    file.write_bytes(file.read_bytes().replace(b"1.25", b"1,25"))
    assert refusal(tmp_path).code == "bad-header"
    assert (config.logger.disabled, config.settings._reading_validation_mode) == before
