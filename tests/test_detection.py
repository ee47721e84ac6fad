"""A run that finds objects, from raw files to its page, and what it does with bad input."""

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

from pipeline.compare import compare
from pipeline.config import RunConfig, parse_config
from pipeline.detection.detect import detect
from pipeline.detection.evaluate import evaluate, judge_case
from pipeline.detection.found import read_objects
from pipeline.detection.predict import predict, prediction_path
from pipeline.detection.prepare import prepare
from pipeline.detection.train import train
from pipeline.report.detection import write_detection_report
from pipeline.report.found import read_curve
from pipeline.report.objects import draw_objects
from pipeline.run import Run, create_run
from pipeline.segmentation.segment import segment
from volumetric import read_volume, write_volume
from volumetric.boxes import Objects
from volumetric.cases import Case, read_cases, write_cases
from volumetric.errors import ConfigError, ManifestError, OutputError
from volumetric.inference.detect import detect_objects, find_in_windows, join_objects, read_cells
from volumetric.io.boxes import write_boxes
from volumetric.metrics.detection import FALSE_POSITIVES
from volumetric.model import Model, load_detector, load_detector_spec
from volumetric.models.detector import Cells
from volumetric.models.sliding import SlidingClassifier
from volumetric.objects import find_objects
from volumetric.volume import Volume

CLASSES = ["dim", "bright"]


def detect_config(manifest: Path, **train: object) -> RunConfig:
    values = {
        "name": "blobs",
        "task": "detect",
        "device": "cpu",
        "data": {"manifest": str(manifest), "fold": 0},
        "model": {
            "patch_size": [16, 24, 24],
            "base_features": 16,
            "max_stages": 3,
            "n_levels": 2,
            "head_features": 16,
        },
        "train": {
            "batch_size": 4,
            "epochs": 4,
            "steps_per_epoch": 30,
            "learning_rate": 0.004,
            "warmup_steps": 5,
            "compile": False,
            "ema": 0.9,
            "validation_patches": 6,
            **train,
        },
        "evaluate": {"resamples": 500},
    }
    return parse_config(values, path="detect_config")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    from tests.conftest import write_blobs

    folder = tmp_path_factory.mktemp("detect")
    run = create_run(detect_config(write_blobs(folder / "blobs")), folder / "run")
    prepare(run)
    train(run, 0)
    predict(run, 0)
    evaluate(run)
    return run


@pytest.fixture
def copied(done: Run, tmp_path: Path) -> Run:
    shutil.copytree(done.folder, tmp_path / "run")
    return Run(tmp_path / "run", done.config)


def _results(run: Run) -> dict:
    return json.loads((run.folder / "results.json").read_text())


def test_balls_are_found_and_told_apart(done: Run) -> None:
    results = _results(done)
    assert results["n_cases"] == 4
    assert set(results["metrics"]["froc"]) == {*CLASSES, "all"}
    assert results["metrics"]["ap@0.1"]["all"]["mean"] > 0.8
    assert sum(case["n_objects"] for case in results["cases"]) == 8
    # Boxes lie on the balls, not only near them.
    found = [one for case in results["cases"] for one in case["objects"] if one["kind"] == "found"]
    assert len(found) > 4
    assert np.mean([one["overlap"] for one in found]) > 0.5


def test_what_is_told_of_cases_adds_up_to_the_metrics(done: Run) -> None:
    results = _results(done)
    cases = results["cases"]
    off = [
        abs(
            sum(one["class"] == name and one["kind"] != "false" for one in case["objects"])
            - sum(
                one["class"] == name and (one["kind"] == "false" or (one["score"] or 0) >= 0.5)
                for one in case["objects"]
            )
        )
        for case in cases
        for name in CLASSES
    ]
    assert results["metrics"]["count_error"]["all"]["mean"] == pytest.approx(np.mean(off))
    for name in CLASSES:
        curve = results["curves"][name]["froc"]
        for at in FALSE_POSITIVES:
            assert read_curve(curve, at) == pytest.approx(
                results["metrics"][f"froc@{at:g}"][name]["mean"], abs=1e-5
            )
    with (done.folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(case["objects"]) for case in cases)


def test_predictions_are_in_the_scans_own_world(done: Run) -> None:
    case = next(case for case in done.cases if case.fold == 0)
    image = read_volume(case.image)
    found = json.loads(prediction_path(done, case).read_text())["objects"]
    assert len(found) > 1
    for one in found:
        low, high = np.array(one["box_voxels"]).reshape(2, 3)
        ends = image.affine @ np.stack([[*low, 1], [*high, 1]], axis=1)
        np.testing.assert_allclose(one["box_mm"][:3], ends[:3].min(axis=1), atol=2e-3)
        np.testing.assert_allclose(one["box_mm"][3:], ends[:3].max(axis=1), atol=2e-3)
        assert (low >= -0.5).all()
        assert (high <= np.array(image.shape) - 0.5).all()
    objects = read_objects(prediction_path(done, case), classes=CLASSES)
    assert (np.diff(objects.known_scores()) <= 0).all()


def test_a_turned_copy_of_a_scan_is_found_the_same(done: Run) -> None:
    model = load_detector(done.model)
    case = next(case for case in done.cases if case.fold == 0)
    image = read_volume(case.image)
    plain = detect_objects(model, image)
    # The same voxels in another order, whose affine says so.
    affine = image.affine[:, [2, 0, 1, 3]].copy()
    affine[:3, 3] += affine[:3, 1] * (image.shape[0] - 1)
    affine[:3, 1] *= -1
    turned = type(image)(image.data.permute(0, 3, 1, 2).flip(2).contiguous(), affine)
    again = detect_objects(model, turned)
    np.testing.assert_allclose(again.known_scores(), plain.known_scores(), atol=1e-5)
    low, high = plain.boxes[:, :3], plain.boxes[:, 3:]
    n = image.shape[0] - 1
    expected = np.stack(
        [low[:, 2], n - high[:, 0], low[:, 1], high[:, 2], n - low[:, 0], high[:, 1]], axis=1
    )
    np.testing.assert_allclose(again.boxes, expected, atol=1e-3)


def test_stages_leave_what_stands(copied: Run) -> None:
    run = copied
    predictions = sorted(run.predictions.iterdir())
    times = [path.stat().st_mtime_ns for path in predictions]
    prepare(run)
    train(run, 0)
    predict(run, 0)
    assert [path.stat().st_mtime_ns for path in predictions] == times
    first = _results(run)
    evaluate(run)
    assert _results(run)["metrics"] == first["metrics"]


def test_other_settings_of_prediction_predict_anew(copied: Run) -> None:
    values = copied.config.model_dump(mode="json")
    values["predict"] |= {"least_score": 0.6, "mirror_axes": [2]}
    run = create_run(parse_config(values, path="test"), copied.folder)
    with pytest.raises(OutputError, match="holds no prediction"):
        evaluate(run)
    predict(run, 0)
    evaluate(run)
    case = next(case for case in run.cases if case.fold == 0)
    assert (read_objects(prediction_path(run, case), classes=CLASSES).known_scores() >= 0.6).all()
    assert load_detector_spec(run.model).least_score == 0.05  # as it was exported


def test_boxes_teach_what_masks_teach(done: Run, tmp_path: Path) -> None:
    source = read_cases(done.manifest.with_suffix(".csv"), root=done.manifest.parent)
    cases = []
    for case in source:
        image, mask = read_volume(case.image), read_volume(case.mask)
        objects = find_objects(case, image, mask, classes={1: "dim", 2: "bright"})
        folder = done.manifest.parent / "boxes"
        folder.mkdir(exist_ok=True)
        write_boxes(folder / f"{case.id}.csv", objects, classes=CLASSES, image=image)
        boxes = folder / f"{case.id}.csv"
        cases.append(Case(case.id, case.subject, case.fold, case.image, boxes=boxes))
    write_cases(done.manifest.parent / "boxed.csv", cases, root=done.manifest.parent)
    about = yaml.safe_load(done.manifest.read_text()) | {"cases": "boxed.csv"}
    manifest = done.manifest.with_name("boxed.yaml")
    manifest.write_text(yaml.safe_dump(about))
    run = create_run(detect_config(manifest, epochs=1, steps_per_epoch=2), tmp_path / "boxed")
    prepare(run)
    for case in cases:
        facts, theirs = (json.loads(one.facts(case).read_text()) for one in (run, done))
        np.testing.assert_allclose(facts["boxes"], theirs["boxes"], atol=1e-3)
        assert facts["labels"] == theirs["labels"]
    train(run, 0)
    assert load_detector_spec(run.model).classes == CLASSES


def test_a_bad_box_sets_its_case_apart_and_a_negative_is_legal(
    blob_set: Path, tmp_path: Path
) -> None:
    table = blob_set.with_suffix(".csv")
    cases = read_cases(table, root=blob_set.parent)
    header = "label,x_min,y_min,z_min,x_max,y_max,z_max\n"
    bad, empty = blob_set.parent / "bad.csv", blob_set.parent / "empty.csv"
    bad.write_text(header + "dim,900,1,1,910,4,4\n")
    empty.write_text(header)
    extra = {cases[4].id: bad, cases[5].id: empty}
    cases = [
        Case(
            c.id,
            c.subject,
            c.fold,
            c.image,
            None if c.id in extra else c.mask,
            boxes=extra.get(c.id),
        )
        for c in cases
    ]
    write_cases(table, cases, root=blob_set.parent)
    run = create_run(detect_config(blob_set, epochs=1, steps_per_epoch=2), tmp_path / "run")
    prepare(run)
    (entry,) = json.loads((run.folder / "quarantine.json").read_text())
    assert entry["id"] == cases[4].id
    assert entry["code"] == "box-outside"
    fingerprint = json.loads((run.folder / "fingerprint.json").read_text())
    assert fingerprint["objects"]["n_cases_without"] == 1
    assert fingerprint["objects"]["n"] == {"dim": 6, "bright": 6}
    train(run, 0)


def test_without_an_object_there_is_nothing_to_learn(blob_set: Path, tmp_path: Path) -> None:
    table = blob_set.with_suffix(".csv")
    cases = read_cases(table, root=blob_set.parent)
    empty = blob_set.parent / "empty.csv"
    empty.write_text("label,x_min,y_min,z_min,x_max,y_max,z_max\n")
    cases = [replace(case, mask=None, boxes=empty) if case.fold == 1 else case for case in cases]
    write_cases(table, cases, root=blob_set.parent)
    run = create_run(detect_config(blob_set), tmp_path / "run")
    prepare(run)
    with pytest.raises(ManifestError, match="no usable case outside fold 0 holds an object"):
        train(run, 0)


def test_the_page_shows_what_was_missed_first(copied: Run) -> None:
    results = _results(copied)
    # One object as if it had been missed, and a box as if it had been on nothing.
    case = results["cases"][2]
    case["objects"][0] |= {"kind": "missed", "score": None, "overlap": None, "found_voxels": None}
    case["n_missed"], case["n_found"] = case["n_missed"] + 1, case["n_found"] - 1
    other = results["cases"][1]
    box = other["objects"][0]
    other["objects"].append({**box, "kind": "false", "score": 0.9, "found_voxels": None})
    other["n_false"] += 1
    case["n_missed"] += 10
    results["cases"] = results["cases"][::-1]
    (copied.folder / "results.json").write_text(json.dumps(results))
    cases = copied.usable_cases()
    page = write_detection_report(copied.folder, cases, classes=copied.data_set.classes)
    text = page.read_text()
    assert text.index(f'id="case-{case["id"]}"') < text.index(f'id="case-{other["id"]}"')
    assert f">Missed {case['objects'][0]['class']} <" in text
    assert f">False {box['class']} <" in text
    for metric in ("froc", "ap@0.1", "count_error"):
        assert repr(results["metrics"][metric]["all"]["mean"]) in text
    assert "http" not in text.replace("http-equiv", "")


def test_a_case_that_names_markup_is_harmless(copied: Run) -> None:
    results = _results(copied)
    results["cases"][0]["id"] = "<script>alert(1)</script>"
    (copied.folder / "results.json").write_text(json.dumps(results))
    page = write_detection_report(
        copied.folder, copied.usable_cases(), classes=copied.data_set.classes
    )
    assert "<script" not in page.read_text()


def test_new_scans_are_looked_through(done: Run, tmp_path: Path) -> None:
    inputs = [case.image for case in done.cases if case.fold == 0][:2]
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no scan")
    out = tmp_path / "out"
    refused, n_done = detect(done.model, [*inputs, broken], out=out, device="cpu", threshold=0.3)
    assert n_done == 2
    assert [entry["id"] for entry in refused] == ["broken"]
    with (out / "objects.csv").open() as file:
        rows = list(csv.DictReader(file))
    name = rows[0]["id"]
    told = json.loads((out / f"{name}.json").read_text())["objects"]
    assert [row["id"] for row in rows].count(name) == len(told)
    assert all(one["score"] >= 0.3 for one in told)
    assert len((out / f"{name}.csv").read_text().splitlines()) == 1 + len(told)


def test_a_detector_does_not_segment(done: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="finds objects") as caught:
        segment(done.model, [done.cases[0].image], out=tmp_path, device="cpu")
    assert "volumetric detect" in caught.value.remedy


def test_windows_answer_each_for_its_own_part(done: Run) -> None:
    """A network that sees a bright voxel as a box finds each once, wherever windows meet."""

    class Spots(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> Cells:
            shape = x.shape[2:]
            axes = [torch.arange(n, dtype=torch.float32) for n in shape]
            points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
            sure = x.flatten(1) * 20 - 10
            boxes = torch.cat([points - 1.5, points + 1.5], 1)[None]
            return Cells(sure[..., None], sure, boxes, points, torch.ones_like(points))

    rng = np.random.default_rng(0)
    image = torch.zeros(1, 37, 50, 61)
    places = {tuple(int(rng.integers(n)) for n in image.shape[1:]) for _ in range(40)}
    places = {p for p in places if all(p == q or max(abs(np.subtract(p, q))) > 4 for q in places)}
    for place in places:
        image[(0, *place)] = 1
    spec = load_detector_spec(done.model)
    for overlap, mirror_axes in ((0.5, ()), (0.25, (0, 2))):
        found = find_in_windows(
            [Spots().eval()], image, spec=spec, overlap=overlap, mirror_axes=mirror_axes
        )
        middles = ((found.boxes[:, :3] + found.boxes[:, 3:]) / 2).round().astype(int)
        assert sorted(map(tuple, middles.tolist())) == sorted(places)
        np.testing.assert_allclose(found.known_scores(), 1, atol=1e-3)


def test_cells_are_read_by_class_and_being() -> None:
    boxes = torch.arange(18.0).reshape(1, 3, 6)
    logit = torch.logit
    cells = Cells(
        logit(torch.tensor([[[0.64, 0.1], [0.2, 0.81], [0.5, 0.5]]])),
        logit(torch.tensor([[1 - 1e-7, 0.25, 1e-6]])),
        boxes,
        torch.zeros(3, 3),
        torch.ones(3, 3),
    )
    found = read_cells(cells, 0, least=0.05)
    assert found.labels.tolist() == [0, 1]
    np.testing.assert_allclose(found.known_scores(), [0.8, 0.45], atol=1e-4)
    assert join_objects([found, found]).boxes.shape == (4, 6)


def test_cases_are_judged_object_by_object() -> None:
    truth = Objects(
        np.array([[0, 0, 0, 4, 4, 4], [10, 10, 10, 14, 14, 14], [20, 20, 20, 24, 24, 24.0]]),
        np.array([0, 0, 1]),
    )
    found = Objects(
        np.array(
            [
                [0, 0, 0, 4, 4, 4],
                [10, 10, 10, 14, 14, 13],
                [20, 20, 20, 24, 24, 24],
                [30, 30, 30, 32, 32, 32.0],
            ]
        ),
        np.array([0, 0, 0, 0]),
        np.array([0.9, 0.3, 0.8, 0.4]),
    )
    facts = {"affine": np.diag([2.0, 1, 1, 1]).tolist()}
    judged = judge_case(found, truth, facts, classes=CLASSES)
    kinds = [(one["kind"], one["class"], one["score"]) for one in judged["objects"]]
    assert kinds == [
        ("found", "dim", 0.9),
        ("missed", "dim", 0.3),
        ("false", "dim", 0.8),  # it lies on an object of another class
        ("missed", "bright", None),
    ]
    assert judged["objects"][0]["size_mm"] == [8, 4, 4]
    assert (judged["n_found"], judged["n_missed"], judged["n_false"]) == (1, 2, 1)


def test_two_runs_are_compared_on_what_they_found(copied: Run, done: Run, tmp_path: Path) -> None:
    # B sees nothing in one case, and is half as sure of the others.
    for number, path in enumerate(sorted(copied.predictions.glob("*.json"))):
        content = json.loads(path.read_text())
        for one in content["objects"]:
            one["score"] *= 0.5
        content["objects"] = content["objects"] if number else []
        path.write_text(json.dumps(content))
    results = _results(copied)
    results["cases"][0]["prediction"] = "another"
    (copied.folder / "results.json").write_text(json.dumps(results))
    with pytest.raises(OutputError, match="was made after the run was scored"):
        compare(done.folder, copied.folder, out=tmp_path / "stale", n_resamples=200)
    evaluate(copied)
    _, found = compare(done.folder, copied.folder, out=tmp_path / "compared", n_resamples=200)
    row = found["metrics"]["froc"]["all"]
    assert row["a"] == pytest.approx(_results(done)["metrics"]["froc"]["all"]["mean"])
    assert row["b"] == pytest.approx(_results(copied)["metrics"]["froc"]["all"]["mean"])
    assert row["b"] < row["a"]
    assert f"n = {row['n']} objects in 4 cases" in found["sentence"]
    assert row["difference"] == pytest.approx(row["b"] - row["a"])
    assert found["main"] == {"metric": "froc", "class": "all"}
    assert found["classes"] == CLASSES
    page = (tmp_path / "compared" / "comparison.html").read_text()
    assert "Mistakes" in page


def test_a_sliding_classifier_says_what_its_windows_hold() -> None:
    torch.manual_seed(0)
    network = SlidingClassifier(
        1, 2, window=(6, 8, 8), step=(1, 2, 3), box=(4, 5, 6), spacing=(2, 1, 1)
    ).eval()
    image = torch.randn(1, 1, 7, 11, 13)
    cells = network(image)
    assert network.window == (7, 8, 9)
    assert cells.points.shape == (7 * 6 * 5, 3)
    sides = cells.boxes[0, :, 3:] - cells.boxes[0, :, :3]
    torch.testing.assert_close(sides, torch.tensor([4.0, 5, 6]).expand_as(sides))
    for row in (0, 17, 100, 209):
        # The window around a point, cut out of the image by itself.
        start = (cells.points[row] - (torch.tensor(network.window) - 1) / 2).int() + 10
        padded = torch.nn.functional.pad(image, (10,) * 6)
        window = padded[
            (..., *(slice(int(a), int(a) + n) for a, n in zip(start, network.window, strict=True)))
        ]
        logits = network.classifier(window)[0]
        torch.testing.assert_close(cells.logits[0, row], logits[1:], atol=1e-5, rtol=1e-4)
        being = 1 - logits.softmax(0)[0]
        torch.testing.assert_close(cells.centres[0, row].sigmoid(), being, atol=1e-5, rtol=1e-4)


def test_a_sliding_classifier_goes_the_same_way(done: Run, tmp_path: Path) -> None:
    values = detect_config(done.manifest, epochs=1, steps_per_epoch=2).model_dump(mode="json")
    values["model"] |= {"kind": "sliding_classifier", "patch_size": [8, 12, 12]}
    run = create_run(parse_config(values, path="test"), tmp_path / "run")
    prepare(run)
    plan = json.loads((run.folder / "plan.json").read_text())
    assert "median of the objects" in plan["why"]["box_size"]
    train(run, 0)
    predict(run, 0)
    evaluate(run)
    assert _results(run)["metrics"]["froc"]["all"]["n"] == 8


def test_what_lies_in_the_padding_is_not_told(done: Run) -> None:
    """A scan shorter than the patch: what a network sees beside it is nowhere."""

    class Everywhere(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> Cells:
            axes = [torch.arange(n, dtype=torch.float32) for n in x.shape[2:]]
            points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
            boxes = torch.cat([points - 0.9, points + 0.9], 1)[None]
            sure = torch.full((1, len(points)), 3.0)
            return Cells(sure[..., None], sure, boxes, points, torch.ones_like(points))

    spec = replace(load_detector_spec(done.model), patch_size=(12, 12, 12), spacing_mm=(1, 1, 1))
    model = Model(spec, [Everywhere().eval()])
    generator = torch.Generator().manual_seed(0)
    image = Volume(torch.randn(1, 5, 9, 12, generator=generator), np.eye(4))
    found = detect_objects(model, image)
    low, high = found.boxes[:, :3], found.boxes[:, 3:]
    assert len(found.boxes) > 10
    assert (high > low).all()
    assert (low >= -0.5).all()
    assert (high <= np.array(image.shape) - 0.5).all()


def test_scores_that_fell_below_the_least_are_not_told(done: Run) -> None:
    model = load_detector(done.model)
    case = next(case for case in done.cases if case.fold == 0)
    found = detect_objects(model, read_volume(case.image), mirror_axes=(0, 1, 2))
    assert (found.known_scores() >= model.spec.least_score).all()


@pytest.mark.parametrize("threshold", [1.5, -1.0, float("nan"), 0.01])
def test_a_threshold_that_means_nothing_is_refused(
    done: Run, tmp_path: Path, threshold: float
) -> None:
    with pytest.raises(ConfigError, match="the model tells nothing below"):
        detect(done.model, [done.cases[0].image], out=tmp_path, device="cpu", threshold=threshold)


def test_boxes_that_somebody_drew_are_not_overwritten(done: Run, tmp_path: Path) -> None:
    case = done.cases[0]
    drawn = tmp_path / f"{case.id}.csv"
    drawn.write_text("mine")
    with pytest.raises(OutputError, match="is there already"):
        detect(done.model, [case.image], out=tmp_path, device="cpu")
    assert drawn.read_text() == "mine"
    named = tmp_path / "objects.nii.gz"
    shutil.copy(case.image, named)
    with pytest.raises(OutputError, match="is a name that is needed"):
        detect(done.model, [named], out=tmp_path / "out", device="cpu")


def test_boxes_beside_a_mask_are_refused(blob_set: Path, tmp_path: Path) -> None:
    table = blob_set.with_suffix(".csv")
    cases = read_cases(table, root=blob_set.parent)
    empty = blob_set.parent / "empty.csv"
    empty.write_text("label,x_min,y_min,z_min,x_max,y_max,z_max\n")
    write_cases(table, [replace(cases[0], boxes=empty), *cases[1:]], root=blob_set.parent)
    run = create_run(detect_config(blob_set), tmp_path / "run")
    prepare(run)
    (entry,) = json.loads((run.folder / "quarantine.json").read_text())
    assert entry["code"] == "boxes-and-mask"


def test_the_page_of_cases_that_nobody_knows_says_so(copied: Run) -> None:
    results = _results(copied)
    results |= {"cases": [], "metrics": {}, "curves": {}, "n_cases": 0, "n_unlabelled": 4}
    (copied.folder / "results.json").write_text(json.dumps(results))
    page = write_detection_report(
        copied.folder, copied.usable_cases(), classes=copied.data_set.classes
    )
    assert "4 predicted; nobody says what is in them" in page.read_text()


def test_sizes_are_told_along_the_body_whatever_the_files_axes(tmp_path: Path) -> None:
    # A sagittal file: D to the right, H to the head, W to the front.
    affine = np.array([[2.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    rng = np.random.default_rng(0)
    path = tmp_path / "a.nii.gz"
    write_volume(Volume(torch.from_numpy(rng.normal(size=(1, 20, 40, 50))), affine), path)
    box = [4.5, 9.5, 14.5, 9.5, 29.5, 44.5]  # 10 mm wide, 20 high, 30 deep
    one = {"kind": "missed", "class": "ball", "score": None, "overlap": None, "box_voxels": box}
    pictures = draw_objects(
        Case("a", "a", 0, path), [one], classes={1: "ball"}, modality="MR", key="k"
    )
    assert "10 \N{MULTIPLICATION SIGN} 30 \N{MULTIPLICATION SIGN} 20 mm" in pictures.shown[0].detail
