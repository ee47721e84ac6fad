"""The command that follows objects from one date to another, from masks on disk to its table."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.growth import follow_objects
from tests.test_growth import AFFINE, _balls
from volumetric.errors import GeometryError, LabelError
from volumetric.growth import compare_dates
from volumetric.io import write_volume
from volumetric.preprocess import resample
from volumetric.volume import Volume

BEFORE = (((5, 10, 10), 4.0), ((10, 30, 10), 6.0), ((15, 10, 30), 3.0))
AFTER = (((10, 31, 10), 4.0), ((5, 11, 10), 6.0), ((15, 30, 30), 5.0))


@pytest.fixture
def masks(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "before.nii.gz", tmp_path / "after.nii.gz"
    for path, balls in zip(paths, (BEFORE, AFTER), strict=True):
        write_volume(_balls(*balls), path)
    return paths


def test_a_table_tells_what_grew_what_is_gone_and_what_is_new(
    masks: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "new" / "growth.csv"
    said = CliRunner().invoke(app, ["growth", *map(str, masks), "--days", "90", "--out", str(out)])
    assert said.exit_code == 0, said.output
    first, _, *rows, _ = said.output.splitlines()
    assert first == "2 at both dates, 1 gone, 1 new"
    assert [row.split()[:3] for row in rows] == [
        ["1", "→", "2"],
        ["2", "→", "1"],
        ["3", "→", "-"],
        ["-", "→", "3"],
    ]
    assert "shrinks" in rows[1]
    with out.open() as file:
        table = list(csv.DictReader(file))
    expected = compare_dates(_balls(*BEFORE), _balls(*AFTER), days=90)
    assert [one["fate"] for one in table] == ["same", "same", "gone", "new"]
    grown = expected[0]
    assert grown.before is not None
    assert float(table[0]["volume_ratio"]) == pytest.approx(grown.volume_ratio, abs=1e-4)
    assert float(table[0]["doubling_days"]) == pytest.approx(grown.doubling_days, abs=1e-4)
    assert float(table[0]["longest_before_mm"]) == pytest.approx(grown.before.longest_mm, abs=1e-4)
    assert table[2]["volume_after_mm3"] == table[3]["volume_before_mm3"] == ""


def test_parts_of_a_class_are_objects_where_a_label_is_named(tmp_path: Path) -> None:
    paths = []
    for name, balls in (("before", BEFORE), ("after", AFTER)):
        numbers = _balls(*balls)
        classes = (numbers.data > 0).to(torch.uint8) * 2
        classes[0, 0, 0, 0] = 1  # of another class
        paths.append(tmp_path / f"{name}.nii.gz")
        write_volume(numbers.with_data(classes), paths[-1])
    changes = follow_objects(*paths, days=90, label=2)
    assert sum(one.before is not None for one in changes) == 3
    assert sum(bool(one.before and one.after) for one in changes) == 2


def test_another_grid_is_measured_on_itself_if_the_body_lies_alike(tmp_path: Path) -> None:
    before, after = _balls(*BEFORE), _balls(*AFTER)
    finer = resample(after, (1.0, 0.5, 0.5), labels=True)
    with pytest.raises(GeometryError, match="registered"):
        compare_dates(before, finer, days=90)
    same, other = (
        compare_dates(before, one, days=90, registered=registered)
        for one, registered in ((after, False), (finer, True))
    )
    for one, two in zip(same, other, strict=True):
        numbers = [(side and side.number) for side in (one.before, one.after)]
        assert numbers == [(side and side.number) for side in (two.before, two.after)]
        if one.after and two.after:
            assert two.after.n_voxels > 5 * one.after.n_voxels  # eight times as many, in their mm
            assert two.after.volume_mm3 == pytest.approx(one.after.volume_mm3, rel=0.15)


def test_an_object_smaller_than_the_other_grids_voxels_is_told_of() -> None:
    """It has no voxel left there, and is paired by how far it lies."""
    fine = np.zeros((40, 40, 40), np.int32)
    fine[20, 20, 21] = 7
    after = Volume(torch.from_numpy(fine)[None], np.diag([0.5, 0.5, 0.5, 1])[[2, 1, 0, 3]])
    coarse = np.zeros((4, 4, 4), np.int32)
    coarse[2, 2, 2] = 1
    before = Volume(torch.from_numpy(coarse)[None], np.diag([5.0, 5, 5, 1])[[2, 1, 0, 3]])
    (pair,) = compare_dates(before, after, days=1, registered=True)
    assert (pair.before.number, pair.after.number) == (1, 7)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0.0, 0.5), "fractional-labels"),
        ((-1000.0, 40.0), "bad-number"),
        ((0.0, 2.0**32), "bad-number"),
    ],
)
def test_an_image_is_no_mask(values: tuple[float, float], said: str, tmp_path: Path) -> None:
    path = tmp_path / "image.nii.gz"
    data = torch.tensor(values)[(torch.arange(27) % 2)].reshape(1, 3, 3, 3)
    write_volume(Volume(data, AFFINE), path)
    with pytest.raises(LabelError, match=said):
        follow_objects(path, path, days=1)


@pytest.mark.parametrize(("label", "said"), [(0, "bad-label"), (-3, "bad-label"), (5, "no-such")])
def test_a_label_that_is_none_is_refused(label: int, said: str, masks: tuple[Path, Path]) -> None:
    with pytest.raises(LabelError, match=said):
        follow_objects(*masks, days=1, label=label)
