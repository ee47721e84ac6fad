"""The stages in order, on small real files, and what they do when something is wrong."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from pipeline.config import RunConfig, parse_config
from pipeline.files import read_json
from pipeline.run import Run, create_run, open_run
from pipeline.segmentation.evaluate import evaluate
from pipeline.segmentation.postprocess import postprocess
from pipeline.segmentation.predict import predict
from pipeline.segmentation.prepare import prepare
from pipeline.segmentation.segment import segment
from pipeline.segmentation.train import train
from tests.conftest import quick_config, write_blobs
from volumetric import read_volume, write_volume
from volumetric.errors import (
    ConfigError,
    ManifestError,
    OutputError,
    UnreadableFileError,
    UnsupportedError,
)
from volumetric.io.prepared import open_prepared
from volumetric.model import load_model, load_spec

Save = Callable[..., Path]


@pytest.fixture
def run(blob_config: RunConfig, tmp_path: Path) -> Run:
    return create_run(blob_config, tmp_path / "run")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run taken through all stages, made once; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("once")
    run = create_run(quick_config(write_blobs(folder)), folder / "run")
    prepare(run)
    train(run, 0)
    predict(run, 0)
    postprocess(run)
    evaluate(run)
    return run


@pytest.fixture
def finished(once: Run, tmp_path: Path) -> Run:
    shutil.copytree(once.folder, tmp_path / "copy")
    return open_run(tmp_path / "copy")


def _with(config: RunConfig, **sections: dict[str, Any]) -> RunConfig:
    values = config.model_dump(mode="json")
    for name, fields in sections.items():
        values[name] |= fields
    return parse_config(values, path="test")


def test_from_files_to_results(finished: Run) -> None:
    results = read_json(finished.folder / "results.json")
    held_out = [case for case in finished.cases if case.fold == 0]
    assert results["n_cases"] == len(held_out) == 4
    assert [case["id"] for case in results["cases"]] == [case.id for case in held_out]
    dice = results["metrics"]["dice"]["mean"]
    assert dice["ci_low"] <= dice["mean"] <= dice["ci_high"]
    assert dice["mean"] > 0.5
    per_case = [case["scores"]["dice"]["mean"] for case in results["cases"]]
    assert dice["mean"] == pytest.approx(np.mean(per_case))
    with (finished.folder / "scores.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["class"] == "mean"]
    assert [float(row["dice"]) for row in rows] == per_case
    for case in held_out:
        prediction = nib.load(finished.predictions / f"{case.id}.nii.gz")
        image = nib.load(case.image)
        assert prediction.shape == image.shape
        assert np.array_equal(prediction.affine, image.affine)
        assert set(np.unique(prediction.dataobj)) <= {0, 1, 2}


def test_the_plan_gives_its_reasons(finished: Run) -> None:
    plan = read_json(finished.folder / "plan.json")
    assert plan["values"].keys() == plan["why"].keys()
    assert plan["values"]["spacing_mm"] == [2.0, 1.5, 1.0]
    assert all(plan["why"].values())
    fingerprint = read_json(finished.folder / "fingerprint.json")
    assert fingerprint["n_cases"] == 8
    assert fingerprint["class_volume_ml"]["dim"]["n_cases"] == 8


def test_a_setting_goes_before_the_plan(blob_config: RunConfig, tmp_path: Path) -> None:
    config = _with(
        blob_config,
        prepare={"spacing_mm": [3.0, 3.0, 3.0], "intensity": "window"},
        model={"patch_size": [8, 12, 8]},
        train={"batch_size": 5},
    )
    run = create_run(config, tmp_path / "own")
    prepare(run)
    plan = read_json(run.folder / "plan.json")
    values = plan["values"]
    assert values["spacing_mm"] == [3, 3, 3]
    assert values["intensity"]["kind"] == "window"
    assert (values["patch_size"], values["batch_size"]) == ([8, 12, 8], 5)
    for name in ("spacing_mm", "intensity", "patch_size", "batch_size"):
        assert plan["why"][name] == "set in the configuration"
    case = open_prepared(run.prepared / "blob_0.safetensors")
    assert case.read_volume().spacing == pytest.approx((3, 3, 3))
    odd = create_run(_with(config, model={"patch_size": [9, 12, 8]}), tmp_path / "odd")
    with pytest.raises(ConfigError, match="bad-patch-size"):
        prepare(odd)


def test_nothing_is_done_twice(run: Run) -> None:
    prepare(run)
    files = {path: path.stat().st_mtime_ns for path in run.prepared.iterdir()}
    prepare(run)
    assert files == {path: path.stat().st_mtime_ns for path in run.prepared.iterdir()}
    source = run.cases[0].image
    image = nib.load(source)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) * 2, image.affine, image.header), source)
    prepare(run)
    changed = [p.stem for p, at in files.items() if p.stat().st_mtime_ns != at]
    assert set(changed) == {"blob_0"}


def test_training_again_goes_on_and_other_settings_start_anew(finished: Run) -> None:
    weights = (finished.model / "fold_0.safetensors").read_bytes()
    history = (finished.fold(0) / "history.csv").read_text()
    train(finished, 0)
    assert (finished.model / "fold_0.safetensors").read_bytes() == weights
    assert (finished.fold(0) / "history.csv").read_text() == history
    train(Run(finished.folder, _with(finished.config, train={"learning_rate": 0.005})), 0)
    assert (finished.fold(0) / "history.csv").read_text() != history


def _spoil(run: Run, save_nifti: Save) -> dict[str, str]:
    """Break six of the eight cases; return the code each must be refused with."""
    cases = {case.id: case for case in run.cases}
    image = nib.load(cases["blob_1"].image)
    array, affine = np.asarray(image.dataobj).copy(), image.affine
    cases["blob_0"].image.unlink()
    broken = array.copy()
    broken[3, 3, 3] = np.nan
    save_nifti(cases["blob_1"].image, broken, affine)
    mask = np.asarray(nib.load(cases["blob_2"].mask).dataobj).copy()
    save_nifti(cases["blob_2"].mask, mask[:-1], affine)
    moved = affine.copy()
    moved[0, 3] += 0.5
    mask = np.asarray(nib.load(cases["blob_3"].mask).dataobj).copy()
    save_nifti(cases["blob_3"].mask, mask, moved)
    mask = np.asarray(nib.load(cases["blob_4"].mask).dataobj).copy()
    mask[0, 0, 0] = 7
    save_nifti(cases["blob_4"].mask, mask, affine)
    save_nifti(cases["blob_5"].image, np.stack([array] * 3, -1), affine)
    return {
        "blob_0": "missing-file",
        "blob_1": "not-finite",
        "blob_2": "shape-mismatch",
        "blob_3": "origin-mismatch",
        "blob_4": "unknown-labels",
        "blob_5": "four-dimensional",
    }


def test_bad_cases_are_set_apart_and_the_rest_go_on(run: Run, save_nifti: Save) -> None:
    expected = _spoil(run, save_nifti)
    prepare(run)
    entries = read_json(run.folder / "quarantine.json")
    assert {entry["id"]: entry["code"] for entry in entries} == expected
    assert all(entry["path"] and entry["reason"] and entry["remedy"] for entry in entries)
    assert [case.id for case in run.usable_cases()] == ["blob_6", "blob_7"]
    assert {path.stem for path in run.prepared.glob("*.safetensors")} == {"blob_6", "blob_7"}
    train(run, 0)
    with pytest.raises(OutputError, match="stage-missing"):
        evaluate(run)


def test_fractions_are_no_labels(run: Run, save_nifti: Save) -> None:
    case = run.cases[0]
    assert case.mask is not None
    image = nib.load(case.mask)
    save_nifti(case.mask, np.asarray(image.dataobj) * 0.5, image.affine)
    prepare(run)
    assert read_json(run.folder / "quarantine.json")[0]["code"] == "fractional-labels"


def test_a_run_with_no_usable_case_says_so(run: Run) -> None:
    for case in run.cases:
        case.image.unlink()
    with pytest.raises(ManifestError, match="no-usable-case"):
        prepare(run)
    assert len(read_json(run.folder / "quarantine.json")) == 8


def test_stages_out_of_order_name_what_is_missing(run: Run) -> None:
    with pytest.raises(OutputError, match="Run the earlier stages first"):
        train(run, 0)
    with pytest.raises(UnreadableFileError, match="unreadable-model"):
        predict(run, 0)


def test_a_folder_holds_one_run(run: Run, blob_config: RunConfig) -> None:
    create_run(_with(blob_config, data={"fold": 1}), run.folder)
    with pytest.raises(OutputError, match="differs in train"):
        create_run(_with(blob_config, train={"epochs": 3}), run.folder)
    with pytest.raises(OutputError, match="no-run"):
        open_run(run.folder / "prepared")
    with pytest.raises(ConfigError, match="no-such-fold"):
        create_run(_with(blob_config, data={"fold": 9}), run.folder)


def _add_specks(run: Run) -> None:
    """Make every prediction perfect but for specks of the second class."""
    for case in run.cases:
        if case.fold == 0:
            truth = read_volume(case.mask)
            specks = truth.data.clone()
            specks[0, 0, 0, :6] = 2
            write_volume(truth.with_data(specks), run.predictions / f"raw/{case.id}.nii.gz")


def test_keep_largest_is_chosen_on_evidence_and_again(finished: Run) -> None:
    _add_specks(finished)
    for _ in range(2):
        postprocess(finished)
        assert load_spec(finished.model).keep_largest == [2]
        plan = read_json(finished.folder / "plan.json")
        assert plan["values"]["keep_largest"] == ["bright"]
        assert "bright: applied, +0." in plan["why"]["keep_largest"]
        evaluate(finished)
        results = read_json(finished.folder / "results.json")
        assert results["metrics"]["dice"]["mean"]["mean"] == 1.0


def test_standing_predictions_are_left_and_stale_ones_made_again(finished: Run) -> None:
    raw = finished.predictions / "raw"
    before = {path: path.stat().st_mtime_ns for path in raw.glob("*.nii.gz")}
    predict(finished, 0)
    assert before == {path: path.stat().st_mtime_ns for path in raw.glob("*.nii.gz")}
    other = Run(finished.folder, _with(finished.config, train={"epochs": 1}))
    with pytest.raises(OutputError, match="stale-model"):
        predict(other, 0)
    train(other, 0)
    with pytest.raises(OutputError, match="stage-missing"):
        evaluate(other)  # those that stand are of weights that are gone
    predict(other, 0)
    with pytest.raises(OutputError, match="stage-missing"):
        evaluate(other)  # the old masks are not taken for the new
    assert all(path.stat().st_mtime_ns > at for path, at in before.items())
    postprocess(other)
    evaluate(other)


def test_changed_folds_make_a_network_stale(finished: Run) -> None:
    """Whoever it learned from must never become held out."""
    text = (finished.manifest.parent / "blobs.csv").read_text()
    swapped = text.replace(",0,", ",x,").replace(",1,", ",0,").replace(",x,", ",1,")
    (finished.folder / "blobs.csv").write_text(swapped)
    (finished.folder / "blobs.yaml").write_text(finished.manifest.read_text())
    values = {"manifest": str(finished.folder / "blobs.yaml")}
    root = {"root": str(finished.manifest.parent)}
    changed = Run(finished.folder, _with(finished.config, data=values | root))
    with pytest.raises(OutputError, match="stale-model"):
        predict(changed, 0)


def test_training_refuses_what_was_prepared_for_another_plan(finished: Run) -> None:
    path = finished.folder / "plan.json"
    plan = read_json(path)
    plan["values"]["spacing_mm"] = [3.0, 3.0, 3.0]
    path.write_text(json.dumps(plan))
    with pytest.raises(OutputError, match="stale-prepared"):
        train(finished, 0)


def test_a_fold_trained_on_older_data_is_not_mixed_in(run: Run) -> None:
    both = run.with_fold("all")
    prepare(both)
    for fold in both.folds():
        train(both, fold)
        predict(both, fold)
    postprocess(both)
    evaluate(both)
    assert read_json(run.folder / "results.json")["n_cases"] == 8
    held_out = next(case for case in run.cases if case.fold == 0)
    image = nib.load(held_out.image)
    louder = np.asarray(image.dataobj) * 2
    nib.save(nib.Nifti1Image(louder, image.affine, image.header), held_out.image)
    prepare(run)
    train(run, 0)  # fold 0 never saw the case and stands; fold 1 learned from it
    predict(run, 0)
    postprocess(run)
    evaluate(run)
    assert read_json(run.folder / "results.json")["n_cases"] == 4


def test_a_case_mended_after_evaluation_is_scored_again(finished: Run) -> None:
    path = finished.predictions / "blob_0.nii.gz"
    good = path.read_bytes()
    path.write_bytes(b"broken")
    evaluate(finished)
    assert read_json(finished.folder / "results.json")["n_cases"] == 3
    assert read_json(finished.folder / "quarantine.json")[0]["stage"] == "evaluate"
    path.write_bytes(good)
    evaluate(finished)
    assert read_json(finished.folder / "results.json")["n_cases"] == 4
    assert read_json(finished.folder / "quarantine.json") == []


def test_what_was_decided_outlives_repeated_stages(finished: Run) -> None:
    _add_specks(finished)
    postprocess(finished)
    prepare(finished)
    train(finished, 0)
    assert load_spec(finished.model).keep_largest == [2]
    assert read_json(finished.folder / "plan.json")["values"]["keep_largest"] == ["bright"]


def test_a_larger_batch_is_another_training(finished: Run) -> None:
    history = (finished.fold(0) / "history.csv").read_text()
    for change, stands in (({"cache_gb": 1.0}, True), ({"batch_size": 3}, False)):
        other = Run(finished.folder, _with(finished.config, train=change))
        prepare(other)
        train(other, 0)
        assert ((finished.fold(0) / "history.csv").read_text() == history) == stands


def test_one_subject_makes_no_folds(tmp_path: Path) -> None:
    manifest = write_blobs(tmp_path / "one")
    rows = [f"blob_{n},person,images/blob_{n}.nii.gz,masks/blob_{n}.nii.gz" for n in range(2)]
    (manifest.parent / "blobs.csv").write_text("\n".join(["id,subject,image,mask", *rows]))
    with pytest.raises(ManifestError, match="too-few-subjects"):
        create_run(quick_config(manifest), tmp_path / "run")


def test_networks_of_two_plans_are_no_ensemble(finished: Run) -> None:
    config = _with(finished.config, data={"fold": 1}, model={"base_features": 4})
    other = Run(finished.folder, config)
    prepare(other)
    train(other, 1)
    assert list(load_spec(finished.model).folds) == ["1"]
    assert len(load_model(finished.model).networks) == 1


def test_what_describes_a_run_does_not_retrain_it(finished: Run) -> None:
    history = (finished.fold(0) / "history.csv").read_text()
    path = finished.folder / "provenance.json"
    path.write_text(json.dumps({**read_json(path), "commit": "another"}))
    other = Run(finished.folder, _with(finished.config, predict={"mirror_axes": [2]}))
    train(other, 0)
    assert (finished.fold(0) / "history.csv").read_text() == history


def test_a_mended_case_leaves_quarantine(run: Run) -> None:
    good = run.cases[0].image.read_bytes()
    run.cases[0].image.write_bytes(b"broken")
    prepare(run)
    assert [e["id"] for e in read_json(run.folder / "quarantine.json")] == ["blob_0"]
    run.cases[0].image.write_bytes(good)
    prepare(run)
    assert read_json(run.folder / "quarantine.json") == []


@pytest.mark.parametrize("name", ["blob_0.json", "blob_0.safetensors"])
def test_what_a_crash_left_half_written_is_made_again(run: Run, name: str) -> None:
    prepare(run)
    path = run.prepared / name
    path.write_bytes(path.read_bytes()[:50])
    prepare(run)
    assert read_json(run.folder / "quarantine.json") == []
    assert open_prepared(run.prepared / "blob_0.safetensors").labels == (1, 2)


def test_folds_are_made_where_the_manifest_has_none(blob_set: Path, tmp_path: Path) -> None:
    lines = (blob_set.parent / "blobs.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines]
    kept = [",".join(cell for n, cell in enumerate(row) if n != 2) for row in rows]
    (blob_set.parent / "blobs.csv").write_text("\n".join(kept))
    run = create_run(quick_config(blob_set), tmp_path / "run")
    fold_of = {case.subject: case.fold for case in run.cases}
    assert sorted(fold_of.values()) == [0, 1, 2, 3]
    assert all(case.fold == fold_of[case.subject] for case in run.cases)


def test_inputs_are_never_overwritten(finished: Run) -> None:
    image = finished.cases[0].image
    before = image.read_bytes()
    with pytest.raises(OutputError, match="would-overwrite"):
        segment(finished.model, [image], out=image.parent, device="cpu")
    assert image.read_bytes() == before


def test_a_folder_of_scans_is_all_of_them(finished: Run, tmp_path: Path) -> None:
    images = finished.cases[0].image.parent
    _, n_done = segment(finished.model, [images], out=tmp_path / "out", device="cpu")
    assert n_done == len(list(images.iterdir())) == 8
    with pytest.raises(UnsupportedError, match="nested-scans"):
        segment(finished.model, [images.parent], out=tmp_path / "out", device="cpu")


def test_a_run_remembers_where_its_data_lies(blob_config: RunConfig, tmp_path: Path) -> None:
    root = Path(blob_config.data.manifest).parent
    first = create_run(_with(blob_config, data={"root": str(root)}), tmp_path / "run")
    again = create_run(blob_config, tmp_path / "run")
    assert again.config.data.root == first.config.data.root == root


def test_few_subjects_are_noted(finished: Run) -> None:
    results = read_json(finished.folder / "results.json")
    assert "4 cases of 2 subjects" in results["notes"][0]


def test_what_cannot_be_segmented_gets_no_volume(
    finished: Run, tmp_path: Path, save_nifti: Save
) -> None:
    holes = np.random.default_rng(0).normal(size=(9, 9, 9))
    holes[4, 4, 4] = np.nan
    inputs = [
        save_nifti(tmp_path / "holes.nii.gz", holes),
        save_nifti(tmp_path / "flat.nii.gz", np.ones((9, 9, 9))),
    ]
    refused, n_done = segment(finished.model, inputs, out=tmp_path / "out", device="cpu")
    assert (len(refused), n_done) == (2, 0)
    codes = [entry["code"] for entry in read_json(tmp_path / "out/quarantine.json")]
    assert codes == ["not-finite", "constant-image"]
    assert (tmp_path / "out/volumes.csv").read_text().count("\n") == 1


def test_a_model_folder_segments_new_scans(finished: Run, tmp_path: Path, save_nifti: Save) -> None:
    case = finished.cases[0]
    (tmp_path / "words.nii.gz").write_text("no scan")
    out = tmp_path / "out"
    inputs = [case.image, tmp_path / "words.nii.gz"]
    refused, n_done = segment(finished.model, inputs, out=out, device="cpu")
    assert (len(refused), n_done) == (1, 1)
    assert read_json(out / "quarantine.json")[0]["code"] == "unreadable-nifti"
    found = read_volume(out / f"{case.id}.nii.gz")
    assert torch.equal(found.data, read_volume(finished.predictions / f"{case.id}.nii.gz").data)
    with (out / "volumes.csv").open() as file:
        row = next(csv.DictReader(file))
    voxel_ml = 3.0 / 1000
    assert float(row["dim_ml"]) == pytest.approx(int((found.data == 1).sum()) * voxel_ml)
    with pytest.raises(ManifestError, match="duplicate-id"):
        segment(finished.model, [case.image, case.image], out=out, device="cpu")


def test_a_changed_model_is_refused(finished: Run) -> None:
    path = finished.model / "fold_0.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UnreadableFileError, match="differ from those exported"):
        load_model(finished.model)
    with pytest.raises(ConfigError, match="no-such-fold"):
        load_model(finished.model, folds=[3])
    spec = json.loads((finished.model / "model.json").read_text())
    (finished.model / "model.json").write_text(json.dumps({**spec, "format": 99}))
    with pytest.raises(UnreadableFileError, match="another version"):
        load_spec(finished.model)


def test_the_ensemble_of_folds(finished: Run, blob_config: RunConfig) -> None:
    both = finished.with_fold("all")
    assert both.folds() == [0, 1]
    train(both, 1)
    predict(both, 1)
    postprocess(both)
    evaluate(both)
    assert len(load_model(finished.model).networks) == 2
    assert read_json(finished.folder / "results.json")["n_cases"] == 8


def test_provenance_says_what_was_run(finished: Run) -> None:
    provenance = read_json(finished.folder / "provenance.json")
    assert {"prepare", "train fold 0", "predict fold 0", "evaluate"} <= set(provenance["seconds"])
    assert provenance["versions"]["torch"] == torch.__version__.split("+")[0]
    assert len(provenance["manifest"]["sha256"]) == 64
    assert provenance["started"] <= provenance["finished"]


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_takes_the_same_way(blob_config: RunConfig, tmp_path: Path, compiled: bool) -> None:
    fast = {"precision": "bf16-mixed", "compile": compiled, "epochs": 4}
    values = {**_with(blob_config, train=fast).model_dump(mode="json"), "device": "cuda"}
    run = create_run(parse_config(values, path="gpu"), tmp_path / "gpu")
    prepare(run)
    train(run, 0)
    train(run, 0)  # resumes a finished run, compiled or not
    predict(run, 0)
    postprocess(run)
    evaluate(run)
    results = read_json(run.folder / "results.json")
    assert results["metrics"]["dice"]["mean"]["mean"] > 0.5
    assert read_json(run.folder / "provenance.json")["device"].startswith("cuda")
