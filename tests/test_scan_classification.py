"""Whole scans take the same way as clips: from files to a report."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from pipeline.check import check
from pipeline.classification.augmentation import choose_scan_augmentation
from pipeline.classification.classify import classify
from pipeline.classification.explain import explanation_path, read_explained
from pipeline.classification.keys import training_key
from pipeline.classification.scans import make_spec
from pipeline.classification.train import split_cases
from pipeline.compare import compare
from pipeline.config import parse_config
from pipeline.files import read_json, write_json
from pipeline.run import Run, create_run, open_run
from pipeline.stages import find_stages
from tests.conftest import save
from tests.runs import go, with_sections
from tests.strategies import volumes, world
from volumetric.cases import Case, write_cases
from volumetric.errors import ConfigError, ManifestError
from volumetric.inference.scans import classify_scan, show_scans
from volumetric.intensity import unit_range
from volumetric.io import read_volume
from volumetric.io.prepared import open_prepared
from volumetric.labelled import LabelledCase, draw_whole
from volumetric.model import load_classifier, load_scan_classifier
from volumetric.plan import choose_box, choose_strides
from volumetric.preprocess import fit_box, prepare_whole
from volumetric.volume import Volume

LABELS = ("small", "large")


def write_scans(folder: Path, *, each: int = 8, symmetric: bool = True) -> Path:
    """Manifest of small scans of a ball that is small or large, in two folds; one is broken."""
    rng = np.random.default_rng(0)
    cases = []
    for number in range(2 * each):
        label = LABELS[number % 2]
        shape = rng.integers(18, 24, 3)
        grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
        centre = shape / 2 + rng.normal(0, 1, 3)
        radius = 3 if label == "small" else 6
        inside = ((grid - centre) ** 2).sum(-1) < radius**2
        image = (100 * inside + rng.normal(0, 10, shape)).astype(np.float32)
        path = save(folder / f"images/{label}_{number}.nii.gz", image)
        name = f"{label}_{number}"
        cases.append(Case(name, f"person_{number}", number // 2 % 2, path, label=label))
    broken = folder / "images/broken.nii.gz"
    broken.write_bytes(cases[0].image.read_bytes()[:200])
    cases.append(Case("broken", "broken", 0, broken, label="small"))
    write_cases(folder / "balls.csv", cases, root=folder)
    about = {"name": "balls", "modality": "MR", "labels": list(LABELS), "symmetric": symmetric}
    (folder / "balls.yaml").write_text(yaml.safe_dump({**about, "cases": "balls.csv"}))
    return folder / "balls.yaml"


def quick_config(manifest: Path, **sections: dict[str, Any]) -> Any:
    values: dict[str, Any] = {
        "name": "balls",
        "task": "classify_scans",
        "device": "cpu",
        "data": {"manifest": str(manifest), "fold": 0},
        "train": {
            "epochs": 2,
            "steps_per_epoch": 12,
            "batch_size": 6,
            "learning_rate": 0.005,
            "warmup_steps": 2,
            "compile": False,
            "ema": 0.8,
        },
        "evaluate": {"resamples": 200},
    }
    return parse_config(with_sections(values, sections), path="test")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scans(tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="module")
def once(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Run[Any]:
    """A run taken through all stages, made once; tests that change it take a copy."""
    config = quick_config(scans, predict={"mirror_axes": [1, 2]})
    run = create_run(config, tmp_path_factory.mktemp("once") / "run")
    go(run)
    return run


@pytest.fixture
def finished(once: Run[Any], tmp_path: Path) -> Run[Any]:
    shutil.copytree(once.folder, tmp_path / "copy")
    return open_run(tmp_path / "copy")


def test_from_files_to_results(once: Run[Any]) -> None:
    results = read_json(once.folder / "results.json")
    held_out = [case for case in once.cases if case.fold == 0 and case.id != "broken"]
    assert results["task"] == "classify_scans"
    assert [case["id"] for case in results["cases"]] == [case.id for case in held_out]
    assert results["protocol"]["mirrored"] == 4
    assert results["metrics"]["top1"]["all"]["mean"] == 1
    assert [entry["id"] for entry in read_json(once.folder / "quarantine.json")] == ["broken"]
    for one in results["cases"]:
        assert len(one["views"]) == 4
        mean = np.mean(one["views"], axis=0)
        assert list(one["probabilities"].values()) == pytest.approx(mean.tolist(), abs=1e-6)


def test_the_report_pictures_slices(once: Run[Any]) -> None:
    page = find_stages(once).report(once).read_text()
    assert "Each scan is seen whole, as 2" in page
    assert "The probabilities of 4 mirror images are averaged." in page
    assert "Slices are evenly spaced" in page
    assert page.count("<img") == 8 * 8
    assert page.count("What spoke for <strong>") == 8
    found = read_explained(explanation_path(once.folder, "large_1"))
    assert found is not None
    assert found.facts["class"] == "large"
    assert found.seen.shape == tuple(found.heat.shape)
    assert found.heat.max() == pytest.approx(1, abs=1e-3)


def test_a_new_scan_is_answered_as_in_the_run(once: Run[Any]) -> None:
    """The model folder holds all that is needed, and the file goes the way the case went."""
    model = load_scan_classifier(once.model)
    spec = model.spec
    how = {"spacing": spec.spacing_mm, "intensity": spec.intensity, "shape": spec.shape}
    for one in read_json(once.folder / "results.json")["cases"]:
        case = next(case for case in once.cases if case.id == one["id"])
        image = prepare_whole(read_volume(case.image), **how).data
        found = classify_scan(model, image).probabilities
        assert found.tolist() == pytest.approx(list(one["probabilities"].values()), abs=1e-6)
    with pytest.raises(ConfigError, match="labels scans"):
        load_classifier(once.model)


def test_prepared_scans_hold_every_case_whole(once: Run[Any]) -> None:
    """Nothing above the background is cut off: as much of it as in the source, within a voxel."""
    plan = read_json(once.folder / "plan.json")["values"]
    for case in once.usable_cases("prepare"):
        prepared = open_prepared(once.prepared / f"{case.id}.safetensors")
        assert list(prepared.shape) == plan["shape"]
        source = read_volume(case.image)
        ml = [
            float((one.data > level).sum()) * abs(np.linalg.det(one.affine[:3, :3]))
            for one, level in ((source, 50), (prepared.read_volume(), _middle(prepared)))
        ]
        assert ml[1] == pytest.approx(ml[0], rel=0.1)


def _middle(prepared: Any) -> float:
    image = prepared.read_image().float()
    return float((image.quantile(0.02) + image.quantile(0.999)) / 2)


def test_another_box_or_spacing_is_prepared_anew(finished: Run[Any]) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.prepared.glob("*.safetensors")}
    find_stages(finished).prepare(finished)
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    values = finished.config.model_dump(mode="json")
    values["prepare"]["spacing_mm"] = [2.0, 2.0, 2.0]
    other = Run(finished.folder, parse_config(values, path="test"))
    find_stages(other).prepare(other)
    assert all(path.stat().st_mtime_ns > at for path, at in before.items())


def test_sides_are_exchanged_only_where_the_manifest_says_so(tmp_path: Path) -> None:
    one_sided = write_scans(tmp_path / "scans", each=2, symmetric=False)
    asked = {"augment": {"flip_axes": [1, 2]}}
    run = create_run(quick_config(one_sided, train=asked), tmp_path / "run")
    assert choose_scan_augmentation(run).flip_axes == (1,)
    config = quick_config(one_sided, train=asked, predict={"mirror_axes": [2]})
    refused = create_run(config, tmp_path / "other")
    find_stages(refused).prepare(refused)
    with pytest.raises(ConfigError, match="left for right"):
        find_stages(refused).train(refused, 0)


def test_whole_cases_too_large_are_made_coarser_or_refused(scans: Path, tmp_path: Path) -> None:
    run = create_run(quick_config(scans, prepare={"budget_voxels": 1000}), tmp_path / "run")
    find_stages(run).prepare(run)
    plan = read_json(run.folder / "plan.json")
    assert 500 < np.prod(plan["values"]["shape"]) <= 1000
    assert "times coarser" in plan["why"]["spacing_mm"]
    fixed = {"budget_voxels": 1000, "spacing_mm": [1, 1, 1]}
    strict = create_run(quick_config(scans, prepare=fixed), tmp_path / "strict")
    with pytest.raises(ConfigError, match="more voxels than"):
        find_stages(strict).prepare(strict)


def test_the_doctor_knows_labels_of_scans(scans: Path, tmp_path: Path) -> None:
    assert {one.code for one in check([scans]).findings if one.severity == "error"} == {
        "truncated-file"
    }
    table = scans.with_name("wrong.csv")
    table.write_text(scans.with_suffix(".csv").read_text().replace(",large\n", ",huge\n", 1))
    wrong = scans.with_name("wrong.yaml")
    wrong.write_text(scans.read_text().replace("balls.csv", "wrong.csv"))
    assert "unknown-label" in {one.code for one in check([wrong]).findings}


@given(volumes(oblique=True), st.tuples(*[st.integers(1, 12)] * 3))
def test_fit_box_keeps_places_and_fills_with_the_lowest(
    volume: Volume, size: tuple[int, int, int]
) -> None:
    boxed = fit_box(volume, size)
    assert boxed.shape == size
    for index in np.argwhere(boxed.data[0].numpy() > 1):
        value = boxed.data[0][tuple(index)]
        source = (volume.data[0] == value).nonzero().numpy()
        np.testing.assert_allclose(
            world(boxed, index[None]), world(volume, source), atol=1e-6 * 500
        )
    lost = [max(0, have - want) for have, want in zip(volume.shape, size, strict=True)]
    kept = np.prod([n - gone for n, gone in zip(volume.shape, lost, strict=True)])
    n_left = int((boxed.data > 1).sum())
    assert n_left in (kept, kept - 1)  # the lowest value is told from the filling by nothing


def test_unit_range_spans_what_was_measured() -> None:
    volume = Volume(torch.tensor([3, 5, 11]).reshape(1, 1, 1, 3), np.eye(4))
    assert unit_range(volume).data.flatten().tolist() == [0, 0.25, 1]
    flat = unit_range(Volume(torch.ones(1, 2, 2, 2), np.eye(4)))
    assert not flat.data.any()


@given(
    st.lists(st.tuples(*[st.floats(1, 300)] * 3), min_size=1, max_size=4),
    st.tuples(*[st.floats(0.3, 4)] * 3),
    st.integers(1000, 100_000),
)
def test_the_box_holds_all_within_its_budget(
    extents: Sequence[tuple[float, float, float]], spacing: tuple[float, float, float], budget: int
) -> None:
    shape, coarser = choose_box([np.array(one) for one in extents], spacing, budget_voxels=budget)
    assert np.prod(shape) <= budget
    assert coarser >= 1
    room = np.array(shape) * np.array(spacing) * coarser
    assert (room >= np.max(extents, axis=0) - 0.02 * np.array(spacing) * coarser).all()
    if coarser == 1:
        assert (room - np.max(extents, axis=0) <= 1.01 * np.array(spacing)).all()


def test_slices_are_scaled_for_2d_networks(once: Run[Any]) -> None:
    from dataclasses import replace

    spec = load_scan_classifier(once.model).spec
    images = torch.rand(2, 1, 3, 20, 30)
    assert torch.equal(show_scans(images, spec), images)
    shown = show_scans(images, replace(spec, slice_size=64, mean=0.5, std=0.25))
    assert shown.shape == (2, 1, 3, 64, 64)
    assert shown.mean() == pytest.approx(4 * (float(images.mean()) - 0.5), abs=0.05)


def test_drawn_scans_come_with_their_own_labels() -> None:
    targets = torch.eye(3)
    cases: Any = [
        LabelledCase(None, target, torch.full((1, 2, 2, 2), float(n), dtype=torch.float16))  # type: ignore[arg-type]
        for n, target in enumerate(targets)
    ]
    chances = np.array([0.5, 0.5, 0.0])
    images, drawn = draw_whole(cases, np.random.default_rng(0), batch_size=64, chances=chances)
    assert images.dtype == torch.float32
    assert torch.equal(drawn, targets[images[:, 0, 0, 0, 0].long()])
    assert drawn.sum(0).tolist()[2] == 0
    assert drawn.sum(0).min() == 0
    assert (drawn.sum(0)[:2] > 16).all()


def test_new_scans_are_labelled_and_scored_where_known(
    once: Run[Any], scans: Path, tmp_path: Path
) -> None:
    refused, n_done = classify(once.model, [scans], out=tmp_path / "out", device="cpu")
    assert [entry["id"] for entry in refused] == ["broken"]
    assert n_done == 16
    found = read_json(tmp_path / "out/results.json")
    own = {case["id"]: case for case in read_json(once.folder / "results.json")["cases"]}
    for one in found["cases"]:
        if one["id"] in own:
            assert one["probabilities"] == pytest.approx(own[one["id"]]["probabilities"], abs=1e-6)
    assert found["metrics"]["top1"]["all"]["n"] == 16
    assert "0 quarantined" not in (tmp_path / "out/report/index.html").read_text()

    folder = scans.parent / "images"
    broken = folder / "broken.nii.gz"
    refused, n_done = classify(once.model, [folder], out=tmp_path / "bare", device="cpu")
    assert [entry["path"] for entry in refused] == [str(broken)]
    bare = read_json(tmp_path / "bare/results.json")
    assert bare["metrics"] == {}
    assert all(one["truth"] == [] for one in bare["cases"])


def test_labels_the_model_does_not_know_are_refused(
    once: Run[Any], scans: Path, tmp_path: Path
) -> None:
    other = scans.with_name("other.yaml")
    other.write_text(scans.read_text().replace("- large", "- huge"))
    with pytest.raises(ManifestError, match="does not know 'huge'"):
        classify(once.model, [other], out=tmp_path / "out", device="cpu")


def test_two_runs_are_compared(once: Run[Any], finished: Run[Any]) -> None:
    results = read_json(finished.folder / "results.json")
    (finished.folder / "results.json").unlink()
    results["cases"][0]["probabilities"] = {"small": 0.5, "large": 0.5}
    write_json(finished.folder / "results.json", results)
    page, found = compare(once.folder, finished.folder, out=finished.folder / "beside")
    assert page.exists()
    assert found["n_cases"] == 8
    assert found["metrics"]["auroc"]["all"]["difference"] <= 0


@pytest.mark.parametrize(
    "model",
    [
        {"kind": "resnet3d_10"},
        {"kind": "mobilenet_v3_small", "aggregate": "lstm", "planes": 3, "checkpoint": True},
        {"kind": "resnet18", "aggregate": "attention", "neighbours": 1, "slice_size": 32},
    ],
)
def test_networks_of_the_shelf_go_all_the_way(
    model: dict[str, Any], scans: Path, tmp_path: Path
) -> None:
    train = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2}
    run = create_run(quick_config(scans, model=model, train=train), tmp_path / "run")
    go(run)
    assert read_json(run.folder / "results.json")["n_cases"] == 8


@pytest.mark.parametrize(
    ("kind", "weights", "scheme", "mean"),
    [
        ("resnet18", "none", "range", 0.0),
        ("resnet18", "imagenet", "range", 0.449),
        ("r3d_18", "kinetics", "range", 0.401),
        ("resnet18", "imagenet", "zscore", 0.0),
        ("resnet3d_10", "medical.pth", "zscore", 0.0),
        ("resnet3d_10", "medical.pth", "range", None),
    ],
)
def test_input_is_normalised_as_the_weights_learned(
    kind: str, weights: str, scheme: str, mean: float | None, scans: Path, tmp_path: Path
) -> None:
    sections = {"model": {"kind": kind, "weights": weights}, "prepare": {"intensity": scheme}}
    run = create_run(quick_config(scans, **sections), tmp_path / "run")
    find_stages(run).prepare(run)
    if mean is None:
        with pytest.raises(ConfigError, match="other-intensities"):
            make_spec(run)
    else:
        assert make_spec(run).mean == pytest.approx(mean, abs=1e-3)


def test_a_share_of_the_cases_is_learned_from(scans: Path, tmp_path: Path) -> None:
    run = create_run(quick_config(scans, train={"share": 0.5}), tmp_path / "run")
    find_stages(run).prepare(run)
    whole = replace(run, config=quick_config(scans))
    learned, held_out = split_cases(run, 0)
    everything, same = split_cases(whole, 0)
    assert len(everything) == 2 * len(learned) == 8
    assert {case.label for case in learned} == {"small", "large"}
    assert set(learned) < set(everything)
    assert held_out == same
    assert training_key(run, 0) != training_key(whole, 0)


def test_a_frozen_trunk_sees_slices_once(scans: Path, tmp_path: Path) -> None:
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(0)
    weights = tmp_path / "weights.safetensors"
    save_file(mobilenet_v3_small().state_dict(), weights)
    model = {"kind": "mobilenet_v3_small", "weights": str(weights), "trunk": "frozen"}
    sections = {"model": {**model, "slice_size": 48}, "prepare": {"intensity": "range"}}
    run = create_run(quick_config(scans, **sections), tmp_path / "run")
    go(run)
    spec = load_scan_classifier(run.model).spec
    assert spec.mean == pytest.approx(0.449, abs=1e-3)
    seen = sorted((run.folder / "features").iterdir())
    assert len(seen) == 16
    before = [path.stat().st_mtime_ns for path in seen]
    (run.fold(0) / "last.ckpt").unlink()
    find_stages(run).train(run, 0)
    assert [path.stat().st_mtime_ns for path in seen] == before
    with pytest.raises(ConfigError, match="planes 1"):
        quick_config(scans, model={**model, "planes": 3})


def test_strides_make_voxels_cubes() -> None:
    assert choose_strides((33, 41, 43), (1, 1, 1), n_strides=3) == [(2, 2, 2)] * 3
    thick = choose_strides((12, 256, 256), (5, 1, 1), n_strides=5)
    assert thick == [(1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2)]
    assert choose_strides((1, 2, 9), (1, 1, 1), n_strides=4) == [
        (1, 2, 2),
        (1, 1, 2),
        (1, 1, 2),
        (1, 1, 2),
    ]
