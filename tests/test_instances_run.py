"""Objects that touch, told apart: in voxels, by a network, and through a whole run."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import ndimage

from pipeline.check import check
from pipeline.compare import compare
from pipeline.config import RunConfig, parse_config
from pipeline.detection.prepare import prepare
from pipeline.instances.evaluate import evaluate
from pipeline.instances.predict import predict, prediction_path
from pipeline.instances.train import train
from pipeline.manifest import load_data_set
from pipeline.report.detection import write_detection_report
from pipeline.run import Run, create_run, open_run
from pipeline.segmentation.segment import segment
from tests.conftest import save
from volumetric import read_volume
from volumetric.cases import Case, write_cases
from volumetric.errors import ConfigError, ManifestError
from volumetric.inference.segment import segment_volume, split_volume
from volumetric.metrics.instances import match_instances, score_instances
from volumetric.model import Model, load_model
from volumetric.preprocess import resample_like
from volumetric.splitting import find_middles, group_voxels, number_on_grid, splitting_loss
from volumetric.volume import Volume


def _touching(rng: np.random.Generator, shape: tuple[int, ...], n: int) -> np.ndarray:
    """Numbers of balls that touch, most of them."""
    numbers = np.zeros(shape, np.uint8)
    grid = np.stack(np.meshgrid(*(np.arange(s) for s in shape), indexing="ij"), -1)
    flat = np.array([s > 1 for s in shape])
    placed: list[tuple[np.ndarray, float]] = []
    for _ in range(500):
        if len(placed) == n:
            break
        radius = rng.uniform(4, 6)
        if placed:
            beside, other = placed[rng.integers(len(placed))]
            way = rng.normal(size=len(shape)) * flat
            centre = beside + way / np.linalg.norm(way) * (radius + other) * 0.97
        else:
            centre = np.array(shape) / 2
        inside = all(
            radius <= c <= s - 1 - radius or s == 1 for c, s in zip(centre, shape, strict=True)
        )
        apart = all(np.linalg.norm(centre - c) > 0.9 * (radius + r) for c, r in placed)
        if inside and apart:
            ball = (((grid - centre) * flat) ** 2).sum(-1) < radius**2
            placed.append((centre, radius))
            numbers[ball & (numbers == 0)] = len(placed)
    return numbers


def _picture(rng: np.random.Generator, numbers: np.ndarray) -> np.ndarray:
    bright = rng.uniform(80, 120, 256) * (np.arange(256) > 0)
    return (bright[numbers] + rng.normal(0, 10, numbers.shape)).astype(np.float32)


def _perfect(numbers: torch.Tensor, spacing: tuple[float, float, float]) -> torch.Tensor:
    """What a network that knows would answer."""
    middles = find_middles(numbers[None], spacing=spacing)
    inside = (numbers > 0).float() * 20 - 10
    return torch.cat([-inside[None], inside[None], middles.heat, middles.offsets[0]])


@pytest.mark.parametrize("shape", [(24, 40, 40), (1, 64, 64)], ids=["volume", "slice"])
def test_known_middles_split_what_touches(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    spacing = (1.0, 1.0, 1.0)
    for _ in range(4):
        numbers = _touching(rng, shape, 6)
        assert ndimage.label(numbers > 0)[1] < numbers.max()
        outputs = _perfect(torch.from_numpy(numbers), spacing)
        found, scores = group_voxels(outputs, spacing=spacing, apart_mm=3.0, least_voxels=5)
        matched = match_instances(found, numbers)
        assert (matched.n_pairs, matched.n_found) == (numbers.max(), numbers.max())
        assert matched.overlap / matched.n_pairs > 0.97
        assert (scores > 0.99).all()


def test_middles_are_in_mm_and_of_each_image() -> None:
    numbers = torch.zeros(2, 4, 6, 8, dtype=torch.uint8)
    numbers[0, 1:3, 2:4, 1:4] = 7
    numbers[1, 0, 0, 0] = 7
    numbers[1, 2:4, 4:6, 6:8] = 2
    middles = find_middles(numbers, spacing=(3.0, 1.0, 2.0))
    # Of the first object's low corner: half a step along D and H, a whole one along W.
    assert middles.offsets[0, :, 1, 2, 1].tolist() == [1.5, 0.5, 2.0]
    assert middles.offsets[1, :, 0, 0, 0].tolist() == [0, 0, 0]
    assert middles.reach[1, 0, 0, 0] == 0.5
    expected = np.sqrt(1.5**2 + 0.5**2 + (2 * 2.0**2) / 3)
    assert float(middles.reach[0, 1, 2, 2]) == pytest.approx(expected)
    assert middles.heat[0, 1, 2, 2] > middles.heat[0, 1, 2, 1]
    outside = numbers == 0
    for one in (middles.heat, middles.reach, middles.offsets.abs().sum(1)):
        assert (one[outside] == 0).all()


def test_a_part_without_a_middle_is_one_object() -> None:
    numbers = torch.zeros(1, 20, 40, dtype=torch.uint8)
    numbers[0, 5:15, 5:15], numbers[0, 5:15, 25:35] = 1, 2
    outputs = _perfect(numbers, (1, 1, 1))
    outputs[2][numbers == 2] = 0
    outputs[:2, numbers == 2] *= 0.05
    found, scores = group_voxels(outputs, spacing=(1, 1, 1), apart_mm=4)
    assert sorted(np.unique(found)) == [0, 1, 2]
    assert match_instances(found, numbers.numpy()).n_pairs == 2
    assert scores[0] > scores[1]
    assert (found[0, 5:15, 5:15] == 1).all()  # the surest first


def test_nothing_is_split_into_nothing() -> None:
    outputs = torch.zeros(6, 4, 8, 8)
    outputs[0] = 5
    found, scores = group_voxels(outputs, spacing=(1, 1, 1), apart_mm=2)
    assert not found.any()
    assert len(scores) == 0
    loss = splitting_loss(
        outputs[None], torch.zeros(1, 4, 8, 8, dtype=torch.uint8), spacing=(1,) * 3
    )
    assert torch.isfinite(loss)


def test_small_objects_are_dropped() -> None:
    numbers = torch.zeros(1, 20, 40, dtype=torch.uint8)
    numbers[0, 5:15, 5:15], numbers[0, 5:7, 25:27] = 1, 2
    outputs = _perfect(numbers, (1, 1, 1))
    found, scores = group_voxels(outputs, spacing=(1, 1, 1), apart_mm=2, least_voxels=5)
    assert found.max() == len(scores) == 1


def _write_set(folder: Path) -> Path:
    rng = np.random.default_rng(1)
    cases = []
    for number in range(10):
        numbers = _touching(rng, (20, 28, 28), 5)
        name = f"case_{number}"
        paths = folder / f"images/{name}.nii.gz", folder / f"masks/{name}.nii.gz"
        save(paths[0], _picture(rng, numbers))
        save(paths[1], numbers)
        cases.append(Case(name, name, 0 if number < 3 else 1, *paths))
    write_cases(folder / "cells.csv", cases, root=folder)
    about = {"name": "cells", "modality": "other", "classes": {1: "cell"}, "instances": True}
    manifest = folder / "cells.yaml"
    manifest.write_text(yaml.safe_dump({**about, "cases": "cells.csv"}))
    return manifest


def _config(manifest: Path, **train: object) -> RunConfig:
    values = {
        "name": "cells",
        "task": "instances",
        "device": "cpu",
        "data": {"manifest": str(manifest), "fold": 0},
        "model": {"patch_size": [16, 24, 24], "base_features": 8, "max_stages": 3},
        "train": {
            "batch_size": 2,
            "epochs": 3,
            "steps_per_epoch": 40,
            "learning_rate": 0.005,
            "warmup_steps": 5,
            "compile": False,
            "ema": 0.9,
            "validation_cases": 2,
            **train,
        },
        "evaluate": {"resamples": 200},
    }
    return parse_config(values, path="_config")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("instances")
    run = create_run(_config(_write_set(folder / "data")), folder / "run")
    prepare(run)
    train(run, 0)
    predict(run, 0)
    evaluate(run)
    return run


def test_touching_balls_are_outlined_one_by_one(done: Run) -> None:
    results = json.loads((done.folder / "results.json").read_text())
    assert results["metrics"]["panoptic_quality"]["all"]["mean"] > 0.6
    assert results["metrics"]["ap@0.5"]["all"]["mean"] > 0.8
    # What components of the same masks make of them.
    parts, outlined = [], []
    for case in [case for case in done.cases if case.fold == 0]:
        found, truth = (
            read_volume(p).data[0].numpy() for p in (prediction_path(done, case), case.mask)
        )
        outlined.append(match_instances(found, truth))
        parts.append(match_instances(ndimage.label(found > 0)[0], truth))
    scores = score_instances(outlined)
    for metric in ("panoptic_quality", "recognition_quality", "count_error"):
        assert results["metrics"][metric]["all"]["mean"] == pytest.approx(scores[metric].mean)
    assert score_instances(parts)["recognition_quality"].mean < 0.6
    totals = [sum(case[f"n_{kind}"] for case in results["cases"]) for kind in ("found", "objects")]
    assert totals[0] == sum(one.n_pairs for one in outlined)
    assert totals[1] == sum(one.n_true for one in outlined)


def test_its_page_is_made(done: Run) -> None:
    cases = done.usable_cases()
    text = write_detection_report(done.folder, cases, classes=done.data_set.classes).read_text()
    assert "Instances report" in text
    results = json.loads((done.folder / "results.json").read_text())
    assert repr(results["metrics"]["panoptic_quality"]["all"]["mean"]) in text


def test_new_scans_are_split_and_measured(done: Run, tmp_path: Path) -> None:
    case = next(case for case in done.cases if case.fold == 0)
    refused, n_done = segment(done.model, [case.image], out=tmp_path, device="cpu")
    assert (refused, n_done) == ([], 1)
    numbers = read_volume(tmp_path / f"{case.id}.nii.gz")
    np.testing.assert_array_equal(numbers.data, read_volume(prediction_path(done, case)).data)
    with (tmp_path / "objects.csv").open() as file:
        rows = list(csv.DictReader(file))
    counts = np.bincount(numbers.data[0].numpy().astype(int).ravel())[1:]
    voxel = np.abs(np.linalg.det(numbers.affine[:3, :3]))
    assert [float(row["volume_mm3"]) for row in rows] == pytest.approx(counts * voxel)


def test_its_classes_alone_can_be_had_too(done: Run) -> None:
    model = load_model(done.model)
    case = next(case for case in done.cases if case.fold == 0)
    image = read_volume(case.image)
    labels = segment_volume(model, image).data
    numbers, scores = split_volume(model, image)
    assert labels.max() == 1
    shared = (labels > 0) & (numbers.data > 0)
    assert shared.sum() > 0.95 * (labels > 0).sum()
    assert numbers.data.max() == len(scores)


def test_what_does_not_split_is_told(done: Run) -> None:
    model = load_model(done.model)
    plain = Model(replace(model.spec, splits=False), model.networks)
    case = next(case for case in done.cases if case.fold == 0)
    with pytest.raises(ConfigError, match="does not tell objects apart"):
        split_volume(plain, read_volume(case.image))


def test_bad_choices_are_refused(done: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="attention_unet cannot tell objects apart"):
        parse_config(
            {**_config(done.manifest).model_dump(), "model": {"kind": "attention_unet"}}, path="x"
        )
    about = yaml.safe_load(done.manifest.read_text()) | {"classes": {1: "cell", 2: "other"}}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(about))
    with pytest.raises(ManifestError, match="has one class, numbered 1"):
        load_data_set(tmp_path / "two.yaml")


def test_two_runs_are_compared_on_what_they_outlined(done: Run, tmp_path: Path) -> None:
    """The second has the first's weights, and takes neighbours for one object."""
    shutil.copytree(done.folder, tmp_path / "joined")
    config = yaml.safe_load((tmp_path / "joined" / "config.yaml").read_text())
    config |= {"name": "joined", "predict": {**config["predict"], "apart_mm": 40.0}}
    (tmp_path / "joined" / "config.yaml").write_text(yaml.safe_dump(config))
    other = open_run(tmp_path / "joined")
    prepare(other)  # plans anew
    predict(other, 0)
    evaluate(other)
    page, found = compare(done.folder, other.folder, out=tmp_path / "both", n_resamples=200)
    assert "better than" in found["sentence"]
    assert "panoptic quality" in found["sentence"].lower()
    for side, run in (("a", done), ("b", other)):
        told = json.loads((run.folder / "results.json").read_text())["metrics"]
        assert found["metrics"].keys() == told.keys()
        for metric, by_class in told.items():
            value = found["metrics"][metric]["all"][side]
            assert value == pytest.approx(by_class["all"]["mean"], abs=1e-4), (metric, side)
    quality = found["metrics"]["panoptic_quality"]["all"]
    assert quality["ci_high"] < 0
    worst = found["cases"][0]
    assert worst["b"] > worst["a"]  # mistakes
    assert "Mistakes" in page.read_text()


def test_a_task_that_a_manifest_does_not_serve_is_refused(done: Run, tmp_path: Path) -> None:
    values = _config(done.manifest).model_dump(mode="json")
    plain = {name: values[name] for name in ("name", "device", "data")}
    with pytest.raises(ConfigError, match=r"number objects .* task segment cannot learn"):
        create_run(parse_config({**plain, "task": "segment"}, path="x"), tmp_path / "a")
    about = yaml.safe_load(done.manifest.read_text())
    classes = done.manifest.with_name("classes.yaml")
    classes.write_text(yaml.safe_dump({**about, "instances": False}))
    plain["data"]["manifest"] = str(classes)
    with pytest.raises(ConfigError, match="does not say that masks number objects"):
        create_run(parse_config({**plain, "task": "instances"}, path="x"), tmp_path / "b")
    labels = done.manifest.with_name("labels.yaml")
    about = {name: about[name] for name in ("name", "cases")} | {"labels": ["a", "b"]}
    labels.write_text(yaml.safe_dump(about))
    plain["data"]["manifest"] = str(labels)
    with pytest.raises(ConfigError, match="labels of whole cases, from which task detect"):
        create_run(parse_config({**plain, "task": "detect"}, path="x"), tmp_path / "c")
    assert not (tmp_path / "a").exists()


def test_the_doctor_knows_numbered_objects(done: Run) -> None:
    found = check([done.manifest])
    assert {one.severity for one in found.findings} <= {"note", "warning"}
    assert not {"class-absent", "label-absent"} & {one.code for one in found.findings}


def test_detection_learns_from_numbered_objects(done: Run, tmp_path: Path) -> None:
    values = _config(done.manifest).model_dump(mode="json")
    plain = {name: values[name] for name in ("name", "device", "data")}
    run = create_run(parse_config({**plain, "task": "detect"}, path="x"), tmp_path / "run")
    prepare(run)
    fingerprint = json.loads((run.folder / "fingerprint.json").read_text())
    assert fingerprint["objects"]["n"] == {"cell": 50}


def test_objects_go_on_touching_on_another_grid() -> None:
    rng = np.random.default_rng(3)
    numbers = _touching(rng, (24, 40, 40), 6).astype(np.int32)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    source = Volume(torch.from_numpy(numbers)[None], affine)
    # A coarser grid with its axes in another order, one of them backwards.
    turn = np.array([[0, 0, 1.7, 0], [1.3, 0, 0, 0], [0, -1.5, 0, 0], [0, 0, 0, 1]])
    turn[:3, 3] = [0.3, 0.2, 38.0]
    inside = resample_like(
        source.with_data((source.data > 0).to(torch.uint8)),
        Volume(torch.zeros(1, 30, 26, 14), turn),
        labels=True,
    )
    placed = number_on_grid(source, inside)
    assert torch.equal(placed.data > 0, inside.data > 0)
    assert np.array_equal(placed.affine, turn)
    back = np.linalg.inv(affine) @ turn
    for index in np.argwhere(placed.data[0].numpy())[::7]:
        place = back[:3, :3] @ index + back[:3, 3]
        low = np.floor(place).astype(int).clip(0, np.array(numbers.shape) - 2)
        around = numbers[tuple(slice(a - 1 if a else 0, a + 3) for a in low)]
        assert placed.data[(0, *index)] in around
    counts = np.bincount(placed.data.flatten().numpy(), minlength=7)[1:]
    expected = np.bincount(numbers.ravel(), minlength=7)[1:] / (1.7 * 1.3 * 1.5)
    np.testing.assert_allclose(counts, expected, rtol=0.25)


def test_splitting_at_another_spacing_comes_back_to_the_scans_grid(done: Run) -> None:
    model = load_model(done.model)
    case = next(case for case in done.cases if case.fold == 0)
    image = read_volume(case.image)
    coarse = Model(replace(model.spec, spacing_mm=(1.4, 1.4, 1.4), least_voxels=1), model.networks)
    numbers, scores = split_volume(coarse, image)
    assert numbers.shape == image.shape
    assert np.array_equal(numbers.affine, image.affine)
    labels = segment_volume(coarse, image).data
    assert torch.equal(labels > 0, numbers.data > 0)
    assert sorted(np.unique(numbers.data)) == list(range(len(scores) + 1))


def test_what_it_does_not_take_is_refused(done: Run) -> None:
    values = _config(done.manifest).model_dump(mode="json")
    values["model"]["weights"] = "somewhere"
    with pytest.raises(ConfigError, match="starts from none"):
        parse_config(values, path="x")
